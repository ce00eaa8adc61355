"""MQTT topics and packets as the hub's addresses and messages, and back. Pure.

`/` and `.` change places, as in RabbitMQ: topic `a/b.c` is the key `a.b/c` on `amq.topic`. In filters `+` is `*`, and
`#` is itself. On the way out the exchange does not matter: what was published to another exchange, or to a queue, is
delivered under its routing key. Two things have no counterpart:

- a routing key that is no topic name once converted (empty, with `+` or `#`, or over 65,535 bytes);
- a filter with a level that is exactly `*`, which the hub would take for a wildcard; within a longer level it is fine.

MQTT 5's properties are the hub's: content type, correlation data (`correlation_id`, bytes), message expiry
(`expiration`, counted from `timestamp`), user properties (headers; a repeated name has a list). A response topic is a
`reply_to` of the form `/topic/<key>`, which STOMP clients can send to as it is, as in RabbitMQ. What MQTT has no form
for stays with the hub: AMQP's other properties, and headers that are neither text nor a number nor a list of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from gateway.core.message import (
    NO_HEADERS,
    PERSISTENT,
    PUBLISH_QOS,
    RETAIN,
    TOPIC_EXCHANGE,
    TRANSIENT,
    Address,
    Headers,
    HeaderValue,
    Message,
    Origin,
)
from gateway.core.message import Properties as HubProperties
from gateway.core.trie import swap_separators
from gateway.protocols.mqtt.errors import PacketError
from gateway.protocols.mqtt.fields import MAX_FIELD_BYTES, UINT32_MAX, write_text
from gateway.protocols.mqtt.packets import Publish, Will
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Place, Properties, UserProperties, write_fields
from gateway.protocols.mqtt.topics import CACHED_TOPIC_LENGTH, CACHED_TOPICS, is_topic_name

PROTOCOL: Final = "mqtt"
"""The name of this protocol in the hub."""

INTERNAL: Final = "x-mqtt-"
"""Headers whose names begin so are the gateway's: no client sets them by a user property, and none sees them as one."""

PAYLOAD_FORMAT: Final = "x-mqtt-payload-format"
"""Header: MQTT 5's payload format indicator, where it is 1 (5.0 §3.3.2.3.2)."""

USER_PROPERTIES: Final = "x-mqtt-user-properties"
"""Header: names and values in turn, where the headers alone do not tell all of them, or not in their order."""

REPLY_PREFIXES: Final = ("/topic/", f"/exchange/{TOPIC_EXCHANGE}/")
"""What a `reply_to` begins with that a topic can be made of; the first one is given to response topics."""

_KEY_CHARACTERS: Final = " !\"#$&'()*+,:;<=>?@[\\]^`{|}"
"""What stays as it is in a destination, beside letters and digits."""

_FLAGS: Final[Mapping[tuple[bool, bool], Headers]] = {
    (False, False): NO_HEADERS,
    (False, True): MappingProxyType({PUBLISH_QOS: 2}),
    (True, False): MappingProxyType({RETAIN: True}),
    (True, True): MappingProxyType({RETAIN: True, PUBLISH_QOS: 2}),
}
"""The headers of a publish without properties, by RETAIN and QoS 2."""


class OutgoingTopic(NamedTuple):
    """A topic on its way to clients: as text, and as the field of a PUBLISH."""

    name: str
    field: bytes


def _address(topic: str) -> Address:
    return Address(TOPIC_EXCHANGE, swap_separators(topic))


_cached_address = lru_cache(CACHED_TOPICS)(_address)


def address_of(topic: str) -> Address:
    """Where a topic lives in the hub."""
    return _cached_address(topic) if len(topic) <= CACHED_TOPIC_LENGTH else _address(topic)


def _outgoing_topic(routing_key: str) -> OutgoingTopic | None:
    name = swap_separators(routing_key)
    if not is_topic_name(name):
        return None
    try:
        return OutgoingTopic(name, write_text(name))
    except PacketError:
        return None


_cached_outgoing_topic = lru_cache(CACHED_TOPICS)(_outgoing_topic)


def outgoing_topic(routing_key: str) -> OutgoingTopic | None:
    """The topic that a routing key stands for; None when it has none."""
    if len(routing_key) <= CACHED_TOPIC_LENGTH:
        return _cached_outgoing_topic(routing_key)
    return _outgoing_topic(routing_key)


def pattern_of(topic_filter: str) -> str | None:
    """The hub's pattern for a well-formed filter; None when it has none."""
    if "*" in topic_filter and "*" in topic_filter.split("/"):
        return None
    return swap_separators(topic_filter).replace("+", "*") if "+" in topic_filter else swap_separators(topic_filter)


def message_of(packet: Publish | Will, origin: Origin, clock: Callable[[], float]) -> Message:
    """What a client publishes, now or when it is gone. `clock` says the time, for what can expire."""
    said = packet.properties
    headers = _FLAGS[packet.retain, packet.qos == 2] if packet.retain or packet.qos == 2 else NO_HEADERS
    if said is NO_PROPERTIES:
        properties = PERSISTENT if packet.qos else TRANSIENT
        return Message(address_of(packet.topic), packet.payload, properties, headers, origin)
    expires = said.message_expiry_interval is not None
    properties = HubProperties(
        delivery_mode=2 if packet.qos else 1,
        content_type=said.content_type,
        correlation_id=said.correlation_data,
        reply_to=None if said.response_topic is None else _reply_to(said.response_topic),
        expiration=None if said.message_expiry_interval is None else said.message_expiry_interval * 1000,
        timestamp=round(clock()) if expires else None,
    )
    if said.user_property or said.payload_format_indicator:
        headers = {**_headers_of(said.user_property), **headers}
        if said.payload_format_indicator:
            headers[PAYLOAD_FORMAT] = 1
    return Message(address_of(packet.topic), packet.payload, properties, headers, origin)


def _headers_of(pairs: UserProperties) -> dict[str, HeaderValue]:
    """User properties as headers [MQTT-3.3.2-17]."""
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    headers: dict[str, HeaderValue] = {
        name: texts[0] if len(texts) == 1 else list[HeaderValue](texts)
        for name, texts in values.items()
        if not name.startswith(INTERNAL)
    }
    if tuple(_pairs_of(headers)) != pairs:  # the order is to be kept [MQTT-3.3.2-18], and every name
        headers[USER_PROPERTIES] = [text for pair in pairs for text in pair]
    return headers


def user_properties_of(headers: Headers) -> UserProperties:
    """Headers as user properties: those that have a form as text."""
    exact = headers.get(USER_PROPERTIES)
    if isinstance(exact, list):
        texts = [text for text in exact if isinstance(text, str)]
        return tuple(zip(texts[::2], texts[1::2], strict=False))
    return tuple(_pairs_of(headers))


def _pairs_of(headers: Headers) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        if name.startswith(INTERNAL) or not _has_form(name):
            continue
        for item in value if isinstance(value, list) else (value,):
            text = _text_of(item)
            if text is not None and _has_form(text):
                yield name, text


def _text_of(value: HeaderValue) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, str | int | float | Decimal) else None


def _has_form(text: str) -> bool:
    try:
        return "\0" not in text and len(text.encode()) <= MAX_FIELD_BYTES
    except UnicodeEncodeError:
        return False


def seconds_left(message: Message, clock: Callable[[], float]) -> int | None:
    """How long a message may still wait, 0 or less when it has expired, None for ever.

    The time that it has waited is taken off for messages that came by MQTT: what other publishers write into
    `timestamp` is their own affair.
    """
    properties = message.properties
    if properties.expiration is None:
        return None
    lifetime = math.ceil(properties.expiration / 1000)
    if properties.timestamp is None or message.origin.protocol != PROTOCOL:
        return lifetime
    return lifetime - max(0, int(clock() - properties.timestamp))  # [MQTT-3.3.2-6]


def publish_fields(message: Message, left: int | None) -> bytes:
    """The properties of a PUBLISH to an MQTT 5 client, without their length. Raises `PacketError`."""
    properties = message.properties
    headers = message.headers
    if not headers and left is None and _is_plain(properties):
        return b""
    said = Properties(
        payload_format_indicator=1 if headers.get(PAYLOAD_FORMAT) == 1 else None,  # [MQTT-3.3.2-4]
        message_expiry_interval=None if left is None else min(left, UINT32_MAX),
        content_type=_field(properties.content_type),  # [MQTT-3.3.2-20]
        response_topic=_response_topic(properties.reply_to),  # [MQTT-3.3.2-15]
        correlation_data=_correlation_data(properties.correlation_id),  # [MQTT-3.3.2-16]
        user_property=user_properties_of(headers) if headers else (),
    )
    return write_fields(said, Place.PUBLISH)


def _is_plain(properties: HubProperties) -> bool:
    return (
        properties is PERSISTENT
        or properties is TRANSIENT
        or (properties.content_type is None and properties.correlation_id is None and properties.reply_to is None)
    )


def _field(text: str | None) -> str | None:
    return text if text is not None and _has_form(text) else None


def _correlation_data(correlation_id: str | bytes | None) -> bytes | None:
    data = correlation_id.encode(errors="replace") if isinstance(correlation_id, str) else correlation_id
    return data if data is not None and len(data) <= MAX_FIELD_BYTES else None


def _reply_to(response_topic: str) -> str:
    """Where to answer, as STOMP clients write it: a `/` in the key is escaped, or it would end the key there."""
    key = swap_separators(response_topic)
    return REPLY_PREFIXES[0] + (quote(key, safe=_KEY_CHARACTERS) if "/" in key or "%" in key else key)


def _response_topic(reply_to: str | None) -> str | None:
    """The topic that an answer can be published to; None when it would have to go elsewhere."""
    for prefix in REPLY_PREFIXES:
        if reply_to is not None and reply_to.startswith(prefix):
            topic = swap_separators(unquote(reply_to.removeprefix(prefix)))
            return topic if is_topic_name(topic) and _has_form(topic) else None
    return None
