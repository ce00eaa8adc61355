"""A content header's properties as the hub's, and back (spec §4.2.6.1).

Both sides have the same ones, but for three:

- `headers` are kept beside the properties, as in the hub's messages;
- `expiration` is text on the wire. The hub's is set where RabbitMQ takes the text for milliseconds; the text is passed
  on, so that a channel can refuse what is not (`Content.expiration` is set, and its properties' is not);
- `cluster_id`, which is deprecated, is read and not kept.

What a property's field cannot hold, coming from another protocol (text over 255 bytes, a priority over 255), is
delivered as the header `x-<property>` instead, as RabbitMQ does with long message and correlation ids.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.core.message import NO_HEADERS, NO_PROPERTIES, Headers, HeaderValue, Properties
from gateway.protocols.amqp091.errors import syntax_error
from gateway.protocols.amqp091.fields import (
    MAX_LONG_LONG,
    MAX_SHORT_STRING,
    FieldReader,
    write_short_string,
    write_table,
)

MAX_EXPIRATION: Final = 2**32 - 1
"""Milliseconds; RabbitMQ's `MAX_EXPIRY_TIMER`."""

CACHED_CONTENT_BYTES: Final = 256
"""Properties up to this size are kept once read or written: publishers tend to send the same ones again."""

CACHED_CONTENTS: Final = 1024

_MAX_EXPIRATION_DIGITS = 10
_UNKNOWN_FLAGS: Final = 0x0003
"""The lowest bit would announce another 16 flags; basic has 14 properties in all."""


class Content(NamedTuple):
    """What a content header says besides the size of the body. Shared by messages: nobody changes it."""

    properties: Properties
    headers: Headers
    expiration: str | None
    """As it was sent, valid or not."""


def read_expiration(text: str) -> int | None:
    """Milliseconds; None for what RabbitMQ refuses: all but digits up to 2³² - 1."""
    if len(text) <= _MAX_EXPIRATION_DIGITS and text.isascii() and text.isdigit():
        milliseconds = int(text)
        return milliseconds if milliseconds <= MAX_EXPIRATION else None
    return None


def _read_correlation_id(reader: FieldReader) -> str | bytes:
    """The one property that may be any bytes in the hub; requesters put binary ids into it."""
    raw = reader.short_bytes()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _write_text(text: str | bytes) -> bytes | None:
    """As a field; None where it has no form, like the other writers of this table."""
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    return write_short_string(raw) if len(raw) <= MAX_SHORT_STRING else None


def _write_octet(value: int) -> bytes | None:
    return bytes((value,)) if 0 <= value <= 0xFF else None


def _write_long_long(value: int) -> bytes | None:
    return value.to_bytes(8, "big") if 0 <= value <= MAX_LONG_LONG else None


def _write_expiration(milliseconds: int) -> bytes | None:
    return _write_text(str(milliseconds))


class _Property(NamedTuple):
    name: str
    flag: int
    read: Callable[[FieldReader], HeaderValue]
    write: Callable[[Any], bytes | None]


_PROPERTIES: Final = (
    _Property("content_type", 1 << 15, FieldReader.short_string, _write_text),
    _Property("content_encoding", 1 << 14, FieldReader.short_string, _write_text),
    _Property("headers", 1 << 13, FieldReader.table, write_table),
    _Property("delivery_mode", 1 << 12, FieldReader.octet, _write_octet),
    _Property("priority", 1 << 11, FieldReader.octet, _write_octet),
    _Property("correlation_id", 1 << 10, _read_correlation_id, _write_text),
    _Property("reply_to", 1 << 9, FieldReader.short_string, _write_text),
    _Property("expiration", 1 << 8, FieldReader.short_string, _write_expiration),
    _Property("message_id", 1 << 7, FieldReader.short_string, _write_text),
    _Property("timestamp", 1 << 6, FieldReader.long_long, _write_long_long),
    _Property("type", 1 << 5, FieldReader.short_string, _write_text),
    _Property("user_id", 1 << 4, FieldReader.short_string, _write_text),
    _Property("app_id", 1 << 3, FieldReader.short_string, _write_text),
    _Property("cluster_id", 1 << 2, FieldReader.short_string, _write_text),
)
_WRITTEN = tuple((each.name, each.flag, each.write) for each in _PROPERTIES[:-1])
_values_before_headers = attrgetter(*(each.name for each in _PROPERTIES[:2]))
_values_after_headers = attrgetter(*(each.name for each in _PROPERTIES[3:-1]))

_FLAGS: Final = struct.Struct(">H")


@lru_cache(CACHED_CONTENTS)
def _present(flags: int) -> tuple[tuple[str, Callable[[FieldReader], HeaderValue]], ...]:
    if flags & _UNKNOWN_FLAGS:
        raise syntax_error("a content header with flags of unknown properties")
    return tuple((each.name, each.read) for each in _PROPERTIES if flags & each.flag)


def _read_content(data: bytes) -> Content:
    reader = FieldReader(data)
    values: dict[str, Any] = {name: read(reader) for name, read in _present(reader.short())}
    reader.finish()
    values.pop("cluster_id", None)
    headers = values.pop("headers", None)
    expiration = values.get("expiration")
    if expiration is not None:
        values["expiration"] = read_expiration(expiration)
    properties = Properties(**values) if values else NO_PROPERTIES
    return Content(properties, MappingProxyType(headers) if headers else NO_HEADERS, expiration)


_cached_content = lru_cache(CACHED_CONTENTS)(_read_content)


def read_content(data: bytes) -> Content:
    """From the flags and the properties of a content header. Raises `ConnectionException` (502)."""
    return _cached_content(data) if len(data) <= CACHED_CONTENT_BYTES else _read_content(data)


def _write_content(properties: Properties, headers: Headers) -> bytes:
    flags = 0
    parts = [b""]
    unfit: list[str] = []
    values = (*_values_before_headers(properties), headers or None, *_values_after_headers(properties))
    for (name, flag, write), value in zip(_WRITTEN, values, strict=True):
        if value is None:
            continue
        written = write(value)
        if written is None:
            unfit.append(name)
        else:
            flags |= flag
            parts.append(written)
    if unfit:
        return _with_unfit_in_headers(properties, headers, unfit)
    parts[0] = _FLAGS.pack(flags)
    return b"".join(parts)


def _with_unfit_in_headers(properties: Properties, headers: Headers, unfit: list[str]) -> bytes:
    moved: Mapping[str, HeaderValue] = {f"x-{name.replace('_', '-')}": getattr(properties, name) for name in unfit}
    cleared: dict[str, Any] = dict.fromkeys(unfit)
    return _write_content(replace(properties, **cleared), {**headers, **moved})


_written: Final[dict[Properties, bytes]] = {}
"""Small ones without headers. Not an `lru_cache`: how large properties are is known once they are written."""


def write_content(properties: Properties, headers: Headers) -> bytes:
    """The flags and the properties of a content header. Raises `ValueError` for a header that is no `HeaderValue`."""
    if headers:
        return _write_content(properties, headers)
    written = _written.get(properties)
    if written is None:
        written = _write_content(properties, NO_HEADERS)
        if len(written) <= CACHED_CONTENT_BYTES:
            if len(_written) >= CACHED_CONTENTS:
                _written.clear()
            _written[properties] = written
    return written
