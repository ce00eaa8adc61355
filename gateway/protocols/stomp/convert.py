"""What both dialects share in turning headers of messages into header lines. Pure."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime

from gateway.core.message import Headers, HeaderValue, LongString, Properties
from gateway.protocols.stomp.headers import parse_number
from gateway.protocols.stomp.versions import Version

PERSISTENT = 2
"""The delivery mode."""

MAX_EXPIRATION = 2**32 - 1
"""Milliseconds; RabbitMQ's own limit."""

SHARED_PROPERTIES = 256
"""Sets of properties that are kept and shared: a publisher repeats its own in each message."""


def optional_number(name: str, text: str | None, most: int) -> int | None:
    """Raises `BadHeader` unless it is 0 to `most`, or None."""
    return None if text is None else parse_number(name, text, most)


def user_lines(
    headers: Headers, properties: Properties, fields: Mapping[str, str], hidden: AbstractSet[str], version: Version
) -> str:
    """Lines of a message's own headers: none of those that a dialect writes from `fields`, or that are `hidden`."""
    escape = version.escape
    lines = ""
    for name, value in headers.items():
        if name in hidden or not name:
            continue  # it would contradict the frame, or be no header
        field = fields.get(name)
        if field is not None and getattr(properties, field) is not None:
            continue  # said already, and the first of repeated headers counts
        lines += f"{escape(name)}:{escape(value if type(value) is str else as_text(value))}\n"
    return lines


def as_text(value: HeaderValue) -> str:
    """A value as text. Only what has no other text becomes base64 (bytes) or JSON (lists and tables)."""
    write = _TEXTS.get(type(value))
    return str(value) if write is None else write(value)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64encode(value).decode()


def _json_text(value: list[HeaderValue] | dict[str, HeaderValue]) -> str:
    return json.dumps(value, default=as_text, ensure_ascii=False, separators=(",", ":"))


_TEXTS: dict[type, Callable[..., str]] = {
    bool: lambda value: "true" if value else "false",
    bytes: _bytes_text,
    datetime: lambda value: str(int(value.timestamp())),  # as the header `timestamp` has it
    dict: _json_text,
    list: _json_text,
    LongString: _bytes_text,
    type(None): lambda _: "",
}
