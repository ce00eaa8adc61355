"""Hub messages from and to the headers of SEND and MESSAGE frames. Pure.

The names are those of RabbitMQ's STOMP plugin (https://www.rabbitmq.com/docs/stomp). A header that stands for no
property becomes a header of the message, as text.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from operator import attrgetter

from gateway.core.message import NO_HEADERS, NO_PROPERTIES, Address, HeaderValue, Message, Origin, Properties
from gateway.protocols.stomp.dialects import Dialect
from gateway.protocols.stomp.headers import parse_number
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

_PERSISTENT = 2
_MAX_PRIORITY = 255  # AMQP's octet
_MAX_EXPIRATION = 2**32 - 1  # milliseconds; RabbitMQ's own limit
_MAX_TIMESTAMP = 2**63 - 1  # seconds; AMQP's timestamp, signed as everybody reads it

_SHARED_PROPERTIES = 256
"""Sets of properties that are kept and shared: a publisher repeats its own in each message."""


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
        delivery_mode=_PERSISTENT if persistent == "true" else None,
        priority=_number("priority", priority, _MAX_PRIORITY),
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=_number("expiration", expiration, _MAX_EXPIRATION),
        message_id=message_id,
        timestamp=_number("timestamp", timestamp, _MAX_TIMESTAMP),
        type=type_,
        user_id=user_id,
        app_id=app_id,
    )


_shared_properties = lru_cache(_SHARED_PROPERTIES)(_properties)


def _number(name: str, text: str | None, most: int) -> int | None:
    return None if text is None else parse_number(name, text, most)


def message_headers(message: Message, dialect: Dialect, version: Version) -> str:
    """The header lines of a MESSAGE that come from the message itself, but its destination and length."""
    properties = message.properties
    lines = "" if properties is NO_PROPERTIES else _property_lines(properties, dialect, version)
    if message.headers:
        lines += _user_lines(message, version)
    return lines


def _property_lines(properties: Properties, dialect: Dialect, version: Version) -> str:
    lines = "persistent:true\n" if properties.delivery_mode == _PERSISTENT else ""
    for name, value in zip(_WRITTEN_NAMES, _written_values(properties), strict=True):
        if value is not None:
            lines += f"{name}:{version.escape(_text(value))}\n"
    if properties.reply_to is not None:
        lines += f"reply-to:{version.escape(dialect.reply_to(properties.reply_to))}\n"
    return lines


def _user_lines(message: Message, version: Version) -> str:
    escape = version.escape
    lines = ""
    for name, value in message.headers.items():
        if name in _OF_MESSAGE_FRAMES or not name:
            continue  # it would contradict the frame, or be no header
        field = _FIELDS.get(name)
        if field is not None and getattr(message.properties, field) is not None:
            continue  # said already, and the first of repeated headers counts
        lines += f"{escape(name)}:{escape(value if type(value) is str else _text(value))}\n"
    return lines


def _text(value: HeaderValue) -> str:
    """A value as text. Only what has no other text becomes base64 (bytes) or JSON (lists and tables)."""
    write = _TEXTS.get(type(value))
    return str(value) if write is None else write(value)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64encode(value).decode()


def _json_text(value: list[HeaderValue] | dict[str, HeaderValue]) -> str:
    return json.dumps(value, default=_text, ensure_ascii=False, separators=(",", ":"))


_TEXTS: dict[type, Callable[..., str]] = {
    bool: lambda value: "true" if value else "false",
    bytes: _bytes_text,
    datetime: lambda value: str(int(value.timestamp())),  # as the header `timestamp` has it
    dict: _json_text,
    list: _json_text,
    type(None): lambda _: "",
}
