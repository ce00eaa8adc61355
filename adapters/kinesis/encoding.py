"""Messages as records of `PutRecords`: the public contract of `docs/wire-format.md`. Pure."""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from typing import Final

import orjson

from adapters.kinesis.aggregation import RECORD_OVERHEAD, aggregate
from adapters.kinesis.settings import KinesisOptions
from gateway.core.backend import Entry, Target
from gateway.core.errors import Invalid, TooLarge
from gateway.core.message import Message
from gateway.core.transform import transformed_body

# Service model 2013-12-02, PartitionKey: 1 to 256 characters of Unicode.
PARTITION_KEY_LIMIT: Final = 256
_DIGEST_LENGTH: Final = 16

DEFAULT_KEY: Final = "mqlift"
"""The partition key of messages that have nothing to make one of, not even a routing key."""

# Service model 2013-12-02, HashKey; it is one of 2^128 values.
_HASH_KEY = re.compile(r"0|[1-9][0-9]{0,38}")
_HASH_KEYS: Final = 2**128


class AggregatedEntry(Entry):
    """An entry that may become a record of KPL's format, with several messages of one partition key in order.

    A record is stored whole or not at all, so they need not wait for one another.
    """

    __slots__ = ("_limit", "hash_key", "payloads")

    def __init__(self, body: bytes, size: int, key: str, hash_key: str, limit: int) -> None:
        super().__init__(None, size, key)
        self.hash_key = hash_key
        self._limit = limit
        self.payloads = [body]

    def join(self, later: Entry) -> bool:
        """As `Entry.join`: while both have the same hash key, and fit into one record."""
        if not isinstance(later, AggregatedEntry) or later.hash_key != self.hash_key:
            return False
        if self.size + later.size > self._limit:
            return False
        self.payloads += later.payloads
        self.size += later.size
        if self.joined is None:
            self.joined = []
        self.joined.append(later)
        return True

    def record(self) -> bytes:
        """The record as JSON; the same bytes for each attempt. One message alone needs no aggregation."""
        assert self.key is not None
        if len(self.payloads) == 1:
            return record(self.payloads[0], self.key, self.hash_key)
        return record(aggregate(self.key, self.payloads, self.hash_key), self.key, self.hash_key)


def encode(target: Target, options: KinesisOptions, message: Message) -> Entry:
    """Raises `Invalid` or `TooLarge`."""
    resource = f"kinesis stream {target.name}"
    try:
        body = transformed_body(target.transform, message)
        key = partition_key(options, message, target)
        size = len(body) + len(key.encode())
    except ValueError as error:
        raise Invalid(str(error), resource=resource) from None
    if size > options.max_record_bytes:
        problem = f"the message has {size} bytes with its partition key; the stream takes {options.max_record_bytes}"
        raise TooLarge(problem, resource=resource)
    hash_key = explicit_hash_key(options, message, target)
    if options.aggregate:
        return AggregatedEntry(body, size + RECORD_OVERHEAD, key, hash_key, options.max_record_bytes)
    return Entry(record(body, key, hash_key), size, key)


def record(data: bytes, key: str, hash_key: str) -> bytes:
    """One entry of `Records`."""
    encoded = b'{"Data":"%b","PartitionKey":%b' % (b2a_base64(data, newline=False), orjson.dumps(key))
    return encoded + b',"ExplicitHashKey":"%b"}' % hash_key.encode() if hash_key else encoded + b"}"


def partition_key(options: KinesisOptions, message: Message, target: Target) -> str:
    """What the template gives; for a message that has nothing of it, the routing key."""
    key = options.partition_key.render(message, target.captures) or message.address.routing_key or DEFAULT_KEY
    return key if len(key) <= PARTITION_KEY_LIMIT else _shortened(key)


def _shortened(key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{key[: PARTITION_KEY_LIMIT - _DIGEST_LENGTH - 1]}-{digest}"


def explicit_hash_key(options: KinesisOptions, message: Message, target: Target) -> str:
    """What the template gives, which may be nothing. Raises `Invalid` for what is no hash key."""
    template = options.explicit_hash_key
    text = template.render(message, target.captures) if template is not None else ""
    if text and (not _HASH_KEY.fullmatch(text) or int(text) >= _HASH_KEYS):
        problem = f"explicit_hash_key gave {text[:40]!r}, which is no whole number from 0 to 2^128 - 1"
        raise Invalid(problem, resource=f"kinesis stream {target.name}")
    return text
