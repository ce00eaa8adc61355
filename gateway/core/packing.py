"""A message without its body as one line of JSON: address, properties, headers and origin, with their types. Pure.

JSON's own types stand for themselves; what JSON has no type for is an object with one member, whose name tells the
type. The format is a public contract: `docs/wire-format.md`.
"""

from __future__ import annotations

import base64
import math
from datetime import datetime
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from typing import Any, Final, NamedTuple

import orjson

from gateway.core.message import (
    NO_HEADERS,
    NO_PROPERTIES,
    Address,
    Headers,
    HeaderValue,
    LongString,
    Message,
    Origin,
    Properties,
)

VERSION: Final = 1

NESTING_LIMIT: Final = 64
"""Levels of lists and tables; orjson's own limit is 254 levels of JSON, and a table takes two."""

SAFE_INTEGER: Final = 2**53 - 1
"""Integers that every JSON reader keeps exact (RFC 8259 §6)."""

PROPERTY_KEYS: Final = {
    "content_type": "ct",
    "content_encoding": "ce",
    "delivery_mode": "dm",
    "priority": "pr",
    "correlation_id": "ci",
    "reply_to": "rt",
    "expiration": "ex",
    "message_id": "mi",
    "timestamp": "ts",
    "type": "ty",
    "user_id": "ui",
    "app_id": "ai",
}

_PROPERTIES = {key: name for name, key in PROPERTY_KEYS.items()}
_property_values = attrgetter(*PROPERTY_KEYS)
_NUMERIC = frozenset({"delivery_mode", "priority", "expiration", "timestamp"})

# SQS takes every character of JSON text but these two (orjson escapes the controls).
_NONCHARACTERS = ((b"\xef\xbf\xbe", b"\\ufffe"), (b"\xef\xbf\xbf", b"\\uffff"))


class MetaUnreadable(ValueError):
    """The attribute is broken, or was written by a later version."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"mqlift.meta: {problem}")


class Meta(NamedTuple):
    """What `mqlift.meta` says of a message."""

    address: Address
    properties: Properties
    headers: Headers
    origin: Origin
    not_before: float = 0.0


def pack_meta(message: Message) -> str:
    """Raises `ValueError` for a header that is no `HeaderValue`, is nested too deeply, or is not Unicode."""
    address, origin = message.address, message.origin
    packed: dict[str, object] = {"v": VERSION, "x": address.exchange, "k": address.routing_key}
    if properties := _pack_properties(message.properties):
        packed["p"] = properties
    if message.headers:
        packed["h"] = {name: pack_value(value) for name, value in message.headers.items()}
    if message.not_before:
        packed["nb"] = message.not_before
    packed["o"] = [origin.protocol, origin.client_id, origin.user]
    try:
        text = orjson.dumps(packed)
    except TypeError as error:
        raise ValueError(f"a property or header cannot be kept: {error}") from None
    if not text.isascii():
        for raw, escaped in _NONCHARACTERS:
            text = text.replace(raw, escaped)
    return text.decode()


def pack_message(message: Message) -> bytes:
    """A whole message, body included, for the state store. Raises `ValueError` like `pack_meta`."""
    return orjson.dumps([pack_meta(message), base64.b64encode(message.body).decode()])


def unpack_message(data: bytes) -> Message:
    """The reverse of `pack_message`. Raises `MetaUnreadable`."""
    try:
        text, body = orjson.loads(data)
        meta = unpack_meta(text)
        return Message(
            meta.address,
            base64.b64decode(body, validate=True),
            meta.properties,
            meta.headers,
            meta.origin,
            meta.not_before,
        )
    except (TypeError, ValueError) as error:
        raise MetaUnreadable(f"not a packed message: {error}") from None


def _pack_properties(properties: Properties) -> dict[str, object]:
    values: tuple[HeaderValue, ...] = _property_values(properties)
    return {key: pack_value(value) for key, value in zip(_PROPERTIES, values, strict=True) if value is not None}


def pack_value(value: HeaderValue, depth: int = 0) -> object:
    """A header's value in JSON's types. Raises `ValueError`."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if -SAFE_INTEGER <= value <= SAFE_INTEGER else {"i": str(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"f": str(value)}
    if isinstance(value, LongString):
        return {"s": base64.b64encode(value).decode()}
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, Decimal):
        return {"d": str(value)}
    if isinstance(value, datetime):
        return {"t": value.isoformat()}
    return _pack_nested(value, depth + 1)


def _pack_nested(value: list[HeaderValue] | dict[str, HeaderValue], depth: int) -> object:
    if depth > NESTING_LIMIT:
        raise ValueError(f"headers are nested more than {NESTING_LIMIT} levels deep")
    if isinstance(value, list):
        return [pack_value(item, depth) for item in value]
    if isinstance(value, dict):
        return {"m": {name: pack_value(item, depth) for name, item in value.items()}}
    raise ValueError(f"a header cannot be of type {type(value).__name__}")


def unpack_meta(text: str) -> Meta:
    """Raises `MetaUnreadable`."""
    try:
        packed: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MetaUnreadable(f"it is not JSON: {error}") from None
    if not isinstance(packed, dict):
        raise MetaUnreadable("it is not a JSON object")
    version = packed.get("v")
    if version != VERSION:
        raise MetaUnreadable(f"it has version {version!r:.20}, known is {VERSION}")
    address = Address(_text(packed, "x"), _text(packed, "k"))
    properties = _unpack_properties(_table(packed, "p"))
    headers = {name: unpack_value(value) for name, value in _table(packed, "h").items()}
    origin = _unpack_origin(packed.get("o"))
    return Meta(address, properties, headers or NO_HEADERS, origin, _unpack_time(packed.get("nb", 0.0)))


def _unpack_time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MetaUnreadable("nb is not a time")
    return float(value)


def _text(packed: dict[str, object], key: str) -> str:
    value = packed.get(key)
    if not isinstance(value, str):
        raise MetaUnreadable(f"{key} is not a string")
    return value


def _table(packed: dict[str, object], key: str) -> dict[str, object]:
    value = packed.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MetaUnreadable(f"{key} is not an object")
    return value


def _unpack_origin(value: object) -> Origin:
    if isinstance(value, list) and len(value) == 3:
        protocol, client_id, user = value
        if isinstance(protocol, str) and isinstance(client_id, str) and isinstance(user, str):
            return Origin(protocol, client_id, user)
    raise MetaUnreadable("o is not a list of three strings")


def _unpack_properties(packed: dict[str, object]) -> Properties:
    if not packed:
        return NO_PROPERTIES
    # A key that is not known here was added by a later version that did not change what the others mean.
    values = {_PROPERTIES[key]: unpack_value(value) for key, value in packed.items() if key in _PROPERTIES}
    for name, value in values.items():
        if not _fits(name, value):
            raise MetaUnreadable(f"property {name} is of the wrong type")
    typed: dict[str, Any] = dict(values)
    return Properties(**typed)


def _fits(name: str, value: HeaderValue) -> bool:
    if name in _NUMERIC:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) or (name == "correlation_id" and isinstance(value, bytes))


def unpack_value(value: object, depth: int = 0) -> HeaderValue:
    """The reverse of `pack_value`. Raises `MetaUnreadable`."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if depth > NESTING_LIMIT:
        raise MetaUnreadable(f"nested more than {NESTING_LIMIT} levels deep")
    if isinstance(value, list):
        return [unpack_value(item, depth + 1) for item in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise MetaUnreadable("an object that is not one tagged value")
    ((tag, content),) = value.items()
    if tag == "m" and isinstance(content, dict):
        return {name: unpack_value(item, depth + 1) for name, item in content.items()}
    return _unpack_tagged(tag, content)


def _unpack_tagged(tag: str, content: object) -> HeaderValue:
    try:
        match tag, content:
            case "b", str(text):
                return base64.b64decode(text, validate=True)
            case "s", str(text):
                return LongString(base64.b64decode(text, validate=True))
            case "d", str(text):
                return Decimal(text)
            case "t", str(text):
                return datetime.fromisoformat(text)
            case "f", "nan" | "inf" | "-inf" as text:
                return float(text)
            case "i", str(text):
                return int(text)
    except (ValueError, InvalidOperation):
        raise MetaUnreadable(f"what is tagged {tag!r} cannot be read") from None
    raise MetaUnreadable(f"unknown tag {tag!r:.20}")
