"""What a rule changes of a message before it is sent: envelope, compression, content type. Pure but for the time.

Templates see the message as it was published; what is sent is made from `transformed` or `transformed_body`.
"""

from __future__ import annotations

import base64
import gzip
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Final

import orjson
import zstandard

from gateway.core.errors import ConfigError
from gateway.core.message import TOPIC_EXCHANGE, HeaderValue, Message, Properties
from gateway.core.trie import swap_separators

ENVELOPE_VERSION: Final = 1
ENVELOPE_CONTENT_TYPE: Final = "application/json"

NESTING_LIMIT: Final = 64
"""Levels of lists and tables in a header, as in `core/packing.py`."""

OPTIONS: Final = frozenset({"envelope", "compression", "content_type"})
"""The keys of a rule's target that `Transform.parse` reads, whatever kind of target it is."""

_LEVEL: Final = 6
"""Of gzip: zlib's own compromise. More costs twice the time for a few percent."""

_ZSTD: Final = zstandard.ZstdCompressor()
"""Kept, for a new one costs seven times what it does with a small message. Used from one thread, the event loop's."""

# What JSON readers keep exact (RFC 8259 §6).
_SAFE_INTEGER: Final = 2**53 - 1

_ENVELOPES: Final = ("json",)
_PROPERTY_NAMES: Final = tuple(spec.name for spec in fields(Properties))


class Compression(Enum):
    """Named as in HTTP's Content-Encoding (RFC 1952; RFC 8878)."""

    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """The transformation of one target. Without any, a target has none of it and pays nothing."""

    envelope: bool = False
    compression: Compression | None = None
    content_type: str | None = None

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Transform | None:
        """Read the options of a target that are in `OPTIONS`; None when there are none of them.

        Raises `ConfigError` with a key relative to the target.
        """
        parsed = cls(
            envelope=_choice(options, "envelope", _ENVELOPES) is not None,
            compression=_compression(options),
            content_type=_content_type(options),
        )
        return None if parsed == _NONE else parsed

    def body(self, message: Message, ending: bytes = b"", clock: Callable[[], float] = time.time) -> bytes:
        """The body to send. `ending` follows the content, inside the compression, so that records which are joined and
        decompressed later are still apart. `clock` gives seconds since 1970, for a message that says no time.

        Raises `ValueError` for headers that JSON cannot hold.
        """
        content = (envelope(message, clock) if self.envelope else message.body) + ending
        return content if self.compression is None else compress(content, self.compression)

    def apply(self, message: Message, clock: Callable[[], float] = time.time) -> Message:
        """The message to send, for services that take more than a body. As `body`."""
        properties = message.properties
        if self.envelope:
            properties = replace(properties, content_type=ENVELOPE_CONTENT_TYPE, content_encoding=None)
        if self.content_type is not None:
            properties = replace(properties, content_type=self.content_type)
        if self.compression is not None:
            properties = replace(properties, content_encoding=_encodings(properties, self.compression))
        body = self.body(message, clock=clock)
        return replace(message, body=body, properties=properties)

    def __str__(self) -> str:
        """For people, such as `envelope = json, compression = gzip`."""
        shown = {
            "envelope": "json" if self.envelope else None,
            "compression": self.compression.value if self.compression else None,
            "content_type": self.content_type,
        }
        return ", ".join(f"{name} = {value}" for name, value in shown.items() if value)


_NONE: Final = Transform()


def transformed(transform: Transform | None, message: Message) -> Message:
    """What an adapter encodes in place of `message`. Raises `ValueError` like `Transform.apply`."""
    return message if transform is None else transform.apply(message)


def transformed_body(transform: Transform | None, message: Message, ending: bytes = b"") -> bytes:
    """The same for a service that takes nothing but bytes. Raises `ValueError` like `Transform.body`."""
    return message.body + ending if transform is None else transform.body(message, ending)


def envelope(message: Message, clock: Callable[[], float]) -> bytes:
    """A message as one line of JSON that needs no knowledge of mqlift (docs/wire-format.md). Raises `ValueError`."""
    exchange, key = message.address
    timestamp = message.properties.timestamp
    document: dict[str, object] = {
        "v": ENVELOPE_VERSION,
        "exchange": exchange,
        "topic": swap_separators(key) if exchange == TOPIC_EXCHANGE else key,
        "client": message.origin.client_id,
        "time": _time_text(clock() if timestamp is None else timestamp),
    }
    if properties := _properties(message.properties):
        document["properties"] = properties
    if message.headers:
        document["headers"] = {name: plain(value) for name, value in message.headers.items()}
    try:
        document["body"] = message.body.decode()
    except UnicodeDecodeError:
        document["body_base64"] = base64.b64encode(message.body).decode()
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise ValueError(f"a name or header cannot be written as JSON: {error}") from None


def _properties(properties: Properties) -> dict[str, object]:
    """The properties that are set, but for the time, which has its own place."""
    values = {name: getattr(properties, name) for name in _PROPERTY_NAMES if name != "timestamp"}
    return {name: plain(value) for name, value in values.items() if value is not None}


def plain(value: HeaderValue, depth: int = 0) -> object:
    """A header's value in JSON's own types. What JSON has no type for becomes text: bytes as base64, times as ISO 8601.

    Raises `ValueError` for what is nested too deeply.
    """
    if depth > NESTING_LIMIT:
        raise ValueError(f"headers are nested more than {NESTING_LIMIT} levels deep")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {name: plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, int) and not -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
        return str(value)
    return value  # NaN and infinities, which JSON does not have, are written as null


def compress(body: bytes, compression: Compression) -> bytes:
    """The same input gives the same bytes, whenever it is compressed."""
    if compression is Compression.GZIP:
        return gzip.compress(body, _LEVEL, mtime=0)
    return _ZSTD.compress(body)


def _encodings(properties: Properties, compression: Compression) -> str:
    """Encodings in the order in which they were applied (RFC 9110 §8.4)."""
    before = properties.content_encoding
    return f"{before}, {compression.value}" if before else compression.value


def _time_text(seconds: float) -> str:
    """ISO 8601 in UTC, with milliseconds. Times that no calendar has are shown as the number they are."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return str(seconds)


def _compression(options: Mapping[str, object]) -> Compression | None:
    chosen = _choice(options, "compression", tuple(each.value for each in Compression))
    return None if chosen is None else Compression(chosen)


def _choice(options: Mapping[str, object], key: str, known: tuple[str, ...]) -> str | None:
    value = options.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or value not in known:
        raise ConfigError(key, f"{value!r} is not one of the choices", f"write {' or '.join(known)}, or leave it out")
    return value


def _content_type(options: Mapping[str, object]) -> str | None:
    value = options.get("content_type")
    if value is None:
        return None
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise ConfigError("content_type", f"{value!r} is not a content type", "write one such as application/json")
    return value
