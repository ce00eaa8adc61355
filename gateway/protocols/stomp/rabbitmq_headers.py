"""Hub messages from and to the headers of SEND and MESSAGE frames, as RabbitMQ's STOMP plugin has them. Pure.

https://www.rabbitmq.com/docs/stomp. A header that stands for no property becomes a header of the message, as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter

from gateway.core.message import NO_HEADERS, NO_PROPERTIES, Address, Message, Origin, Properties
from gateway.protocols.stomp.convert import (
    MAX_EXPIRATION,
    PERSISTENT,
    SHARED_PROPERTIES,
    as_text,
    optional_number,
    user_lines,
)
from gateway.protocols.stomp.versions import Version

_FIELDS = {
    "content-type": "content_type",
    "content-encoding": "content_encoding",
    "persistent": "delivery_mode",
    "priority": "priority",
    "correlation-id": "correlation_id",
    "reply-to": "reply_to",
    "expiration": "expiration",
    "amqp-message-id": "message_id",
    "timestamp": "timestamp",
    "type": "type",
    "user-id": "user_id",
    "app-id": "app_id",
}
"""Headers of a frame that are properties of the message."""

_PROPERTY_HEADERS = frozenset(_FIELDS)
_OF_THE_FRAME = frozenset({"destination", "receipt", "transaction", "content-length"})
_OF_ONE_MESSAGE = frozenset({"correlation-id", "amqp-message-id", "expiration", "timestamp"})
_NOT_USER_HEADERS = _PROPERTY_HEADERS | _OF_THE_FRAME
_OF_MESSAGE_FRAMES = frozenset(
    {"subscription", "destination", "message-id", "ack", "redelivered", "content-length", "receipt", "transaction"}
)

_WRITTEN_SIMPLY = tuple((name, field) for name, field in _FIELDS.items() if name not in ("persistent", "reply-to"))
_WRITTEN_NAMES = tuple(name for name, _ in _WRITTEN_SIMPLY)
_written_values: Callable[[Properties], tuple[str | bytes | int | None, ...]] = attrgetter(
    *(field for _, field in _WRITTEN_SIMPLY)
)

_MAX_PRIORITY = 255  # AMQP's octet
_MAX_TIMESTAMP = 2**63 - 1  # seconds; AMQP's timestamp, signed as everybody reads it


def to_message(headers: Mapping[str, str], address: Address, body: bytes, origin: Origin) -> Message:
    """What a SEND publishes. Raises `BadHeader`.

    `persistent:true` is delivery mode 2; anything else leaves the delivery mode unsaid, as the plugin does.
    """
    properties = NO_PROPERTIES if _PROPERTY_HEADERS.isdisjoint(headers) else _read_properties(headers)
    user = {name: value for name, value in headers.items() if name not in _NOT_USER_HEADERS}
    return Message(address, body, properties, user or NO_HEADERS, origin)


def _read_properties(headers: Mapping[str, str]) -> Properties:
    values = tuple(map(headers.get, _FIELDS))
    # A set of properties that names one message is not worth keeping.
    return _shared_properties(values) if _OF_ONE_MESSAGE.isdisjoint(headers) else _properties(values)


def _properties(values: tuple[str | None, ...]) -> Properties:
    """From the values of `_FIELDS`, in that order."""
    (
        content_type,
        content_encoding,
        persistent,
        priority,
        correlation_id,
        reply_to,
        expiration,
        message_id,
        timestamp,
        type_,
        user_id,
        app_id,
    ) = values
    return Properties(
        content_type=content_type,
        content_encoding=content_encoding,
        delivery_mode=PERSISTENT if persistent == "true" else None,
        priority=optional_number("priority", priority, _MAX_PRIORITY),
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=optional_number("expiration", expiration, MAX_EXPIRATION),
        message_id=message_id,
        timestamp=optional_number("timestamp", timestamp, _MAX_TIMESTAMP),
        type=type_,
        user_id=user_id,
        app_id=app_id,
    )


_shared_properties = lru_cache(SHARED_PROPERTIES)(_properties)


def message_headers(message: Message, reply_to: Callable[[str], str], version: Version) -> str:
    """The header lines of a MESSAGE that come from the message itself, but its destination and length.

    `reply_to` makes of the message's own one that an answer can be sent to.
    """
    properties = message.properties
    lines = "" if properties is NO_PROPERTIES else _property_lines(properties, reply_to, version)
    if message.headers:
        lines += user_lines(message.headers, properties, _FIELDS, _OF_MESSAGE_FRAMES, version)
    return lines


def _property_lines(properties: Properties, reply_to: Callable[[str], str], version: Version) -> str:
    lines = "persistent:true\n" if properties.delivery_mode == PERSISTENT else ""
    for name, value in zip(_WRITTEN_NAMES, _written_values(properties), strict=True):
        if value is not None:
            lines += f"{name}:{version.escape(as_text(value))}\n"
    if properties.reply_to is not None:
        lines += f"reply-to:{version.escape(reply_to(properties.reply_to))}\n"
    return lines
