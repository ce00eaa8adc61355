"""The one message model that every protocol and every backend converts to and from (AMQP's)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple, TypeAlias


class LongString(bytes):
    """A header's text that is not UTF-8: AMQP's long string (`S`), where plain bytes are a byte array (`x`)."""

    __slots__ = ()


HeaderValue: TypeAlias = (
    "bool | int | float | str | bytes | Decimal | datetime | list[HeaderValue] | dict[str, HeaderValue] | None"
)
Headers: TypeAlias = Mapping[str, HeaderValue]

NO_HEADERS: Headers = MappingProxyType({})

DEFAULT_EXCHANGE = ""
"""Routes a message to the queue whose name is the routing key (AMQP 0-9-1 §3.1.3.1)."""

RETAINED = "x-mqtt-retained"
"""Header, true: the message was kept as the last one of its address, and is sent to a new subscriber."""

RETAIN = "x-mqtt-retain"
"""Header, true: it was published with the wish to be retained (MQTT's RETAIN flag)."""

PUBLISH_QOS = "x-mqtt-publish-qos"
"""Header: MQTT's QoS of the publication, where `delivery_mode` does not say it: 2. As in RabbitMQ."""

DELAY = "x-delay"
"""Header: milliseconds that a message on a delayed-message exchange waits, as in RabbitMQ's plugin."""

TOPIC_EXCHANGE = "amq.topic"
"""Where MQTT topics and STOMP `/topic/…` destinations live, as in RabbitMQ."""


class Address(NamedTuple):
    """Where a message was published: an exchange and a routing key, words separated by `.`."""

    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The basic properties of AMQP 0-9-1 (spec §4.2.6.1), under the spec's names."""

    content_type: str | None = None
    content_encoding: str | None = None
    delivery_mode: int | None = None
    """1: transient (MQTT QoS 0), 2: persistent (MQTT QoS 1 and 2). None: the publisher did not say."""
    priority: int | None = None
    correlation_id: str | bytes | None = None
    reply_to: str | None = None
    expiration: int | None = None
    """Milliseconds that the message may wait, from the time it was published."""
    message_id: str | None = None
    timestamp: int | None = None
    """Seconds since 1970-01-01 UTC."""
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None

    def __hash__(self) -> int:
        # Of the properties that differ most. All twelve would cost more than what is looked up with them.
        return hash((self.delivery_mode, self.content_type, self.message_id, self.correlation_id))


NO_PROPERTIES = Properties()
TRANSIENT = Properties(delivery_mode=1)
PERSISTENT = Properties(delivery_mode=2)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who published: one object for each connection, shared by all its messages."""

    protocol: str
    client_id: str = ""
    user: str = ""


NATIVE = Origin("aws")
"""The origin of messages that did not come through a legacy connection."""


# `eq` stays by value, for tests; nothing on the hot path compares or hashes messages.
@dataclass(frozen=True, slots=True)
class Message:
    """One message, with nothing of any protocol in it. Never changed after it was made."""

    address: Address
    body: bytes
    properties: Properties = NO_PROPERTIES
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    origin: Origin = NATIVE
    not_before: float = 0.0
    """Seconds since 1970-01-01 UTC, before which no consumer gets it; 0 for at once."""
