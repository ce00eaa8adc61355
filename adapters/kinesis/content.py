"""The messages in records: as they were published through mqlift, or as native producers wrote them. Pure."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import orjson
import zstandard

from adapters.kinesis.settings import TAIL_KEY
from gateway.core.backend import Target
from gateway.core.message import DEFAULT_EXCHANGE, NO_HEADERS, TOPIC_EXCHANGE, Address, Message, Origin, Properties
from gateway.core.transform import ENVELOPE_VERSION, Compression, Transform
from gateway.core.trie import swap_separators

PARTITION_KEY: Final = "x-partition-key"
"""Header of what a native producer wrote: the record's key."""

CONTENT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes that a compressed record may grow to; a larger one is delivered compressed."""

_GZIP: Final = 31
"""zlib's window of 32 KiB, in gzip's format (zlib manual, inflateInit2)."""

_NOT_IN_A_LEVEL: Final = re.compile(r"[/+#*\0]")

_ENVELOPED: Final = b'{"v":%d,' % ENVELOPE_VERSION
_PROPERTIES: Final = {spec.name: spec.type for spec in fields(Properties)}
_NUMBERS: Final = frozenset({"delivery_mode", "priority", "expiration", "timestamp"})


def message_of(target: Target, key: str, data: bytes) -> Message:
    """What a record says. What is not in the form that the rule writes is a native producer's, and delivered as is."""
    content = data
    transform = target.transform
    if transform is not None:
        content = _decompressed(transform, data)
        if transform.envelope and content.startswith(_ENVELOPED):
            try:
                return _unwrapped(orjson.loads(content))
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
                pass  # somebody else's JSON
    headers = {PARTITION_KEY: key} if key else NO_HEADERS
    return Message(_address(target, key), content, headers=headers)


def _address(target: Target, key: str) -> Address:
    """Where a record that does not say so itself was published. A key has no say in a topic's levels and wildcards."""
    if not target.tail:
        return Address(DEFAULT_EXCHANGE, target.queue)
    return Address(TOPIC_EXCHANGE, swap_separators(target.tail.replace(TAIL_KEY, _NOT_IN_A_LEVEL.sub("_", key))))


def _decompressed(transform: Transform, data: bytes) -> bytes:
    """Raises nothing: what is not compressed in the rule's way stays as it is."""
    try:
        if transform.compression is Compression.GZIP:
            inflate = zlib.decompressobj(_GZIP)
            content = inflate.decompress(data, CONTENT_LIMIT)
            return content if inflate.eof else data
        if transform.compression is Compression.ZSTD:
            # The limit is for frames that do not say their size: who says it is believed, and allocated for.
            if zstandard.frame_content_size(data) > CONTENT_LIMIT:
                return data
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=CONTENT_LIMIT)
    except (zlib.error, zstandard.ZstdError):
        return data
    return data


def _unwrapped(document: dict[str, Any]) -> Message:
    """The message in an envelope. Raises `KeyError`, `TypeError`, `ValueError` and the like for any other JSON."""
    exchange, key = document["exchange"], document["topic"]
    if not isinstance(exchange, str) or not isinstance(key, str):
        raise TypeError("an address is text")
    if exchange == TOPIC_EXCHANGE:
        key = swap_separators(key)
    body = document.get("body")
    content = base64.b64decode(document["body_base64"], validate=True) if body is None else body.encode()
    headers = document.get("headers", NO_HEADERS)
    if not hasattr(headers, "items"):
        raise TypeError("headers are a table")
    return Message(Address(exchange, key), content, _properties(document), headers, Origin("aws", document["client"]))


def _properties(document: dict[str, Any]) -> Properties:
    values: dict[str, Any] = {"timestamp": int(datetime.fromisoformat(document["time"]).timestamp())}
    for name, value in document.get("properties", {}).items():
        if name not in _PROPERTIES or not isinstance(value, int if name in _NUMBERS else str):
            raise ValueError(f"no property {name}")
        values[name] = value
    return Properties(**values)
