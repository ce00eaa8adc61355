"""KPL's aggregation format: many user records in one record of Kinesis, written and read. Pure.

    magic F3 89 9A C2 | AggregatedRecord in Protocol Buffers | MD5 of the latter

https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md; the wire types are those of
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

MAGIC: Final = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES: Final = 16

RECORD_OVERHEAD: Final = 48
"""Bytes for each user record, beyond its data and its partition key, that a record with two of them or more takes at
most: magic and digest (20), the tables of keys (partition key 3 and the key once more, hash key 41), and 14 for each
record's tags and lengths.
"""

USER_RECORD_LIMIT: Final = 100_000
"""User records in one record that are read at most: 1 MiB of the smallest ones has fewer."""

# Fields of AggregatedRecord.
_PARTITION_KEYS: Final = 1
_HASH_KEYS: Final = 2
_RECORDS: Final = 3
# Fields of Record.
_PARTITION_KEY_INDEX: Final = 1
_HASH_KEY_INDEX: Final = 2
_DATA: Final = 3

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5

_MAX_VARINT_BYTES: Final = 10


class UserRecord(NamedTuple):
    """One record as a producer made it. `explicit_hash_key` is empty where there is none."""

    partition_key: str
    data: bytes
    explicit_hash_key: str = ""


class AggregationBroken(ValueError):
    """It begins and ends as an aggregated record does, and is none inside."""


def aggregate(partition_key: str, payloads: Sequence[bytes], explicit_hash_key: str = "") -> bytes:
    """One record for messages that share their keys, in their order. The same input gives the same bytes."""
    parts = [_field(_PARTITION_KEYS, partition_key.encode())]
    head = _varint(_PARTITION_KEY_INDEX << 3 | _VARINT) + b"\0"
    if explicit_hash_key:
        parts.append(_field(_HASH_KEYS, explicit_hash_key.encode()))
        head += _varint(_HASH_KEY_INDEX << 3 | _VARINT) + b"\0"
    parts += [_field(_RECORDS, head + _field(_DATA, payload)) for payload in payloads]
    message = b"".join(parts)
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def deaggregate(partition_key: str, data: bytes, explicit_hash_key: str = "") -> list[UserRecord]:
    """The user records in a record: itself, as it came, when it is not in this format.

    Raises `AggregationBroken`.
    """
    message = data[len(MAGIC) : -DIGEST_BYTES]
    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + DIGEST_BYTES:
        return [UserRecord(partition_key, data, explicit_hash_key)]
    if hashlib.md5(message, usedforsecurity=False).digest() != data[-DIGEST_BYTES:]:
        # "the record should be considered not aggregated" (aggregation-format.md)
        return [UserRecord(partition_key, data, explicit_hash_key)]
    try:
        return _read_records(message)
    except (IndexError, UnicodeDecodeError) as error:
        raise AggregationBroken(f"not an aggregated record: {error}") from None


def _read_records(message: bytes) -> list[UserRecord]:
    partition_keys: list[str] = []
    hash_keys: list[str] = []
    records: list[bytes] = []
    for number, value in _fields(message):
        if not isinstance(value, bytes):
            continue  # a field of a later version
        if number == _PARTITION_KEYS:
            partition_keys.append(value.decode())
        elif number == _HASH_KEYS:
            hash_keys.append(value.decode())
        elif number == _RECORDS:
            records.append(value)
            if len(records) > USER_RECORD_LIMIT:
                raise AggregationBroken(f"more than {USER_RECORD_LIMIT} user records in one record")
    return [_read_record(record, partition_keys, hash_keys) for record in records]


def _read_record(record: bytes, partition_keys: Sequence[str], hash_keys: Sequence[str]) -> UserRecord:
    partition_key: str | None = None
    hash_key = ""
    data: bytes | None = None
    for number, value in _fields(record):
        if number == _PARTITION_KEY_INDEX and isinstance(value, int):
            partition_key = partition_keys[value]
        elif number == _HASH_KEY_INDEX and isinstance(value, int):
            hash_key = hash_keys[value]
        elif number == _DATA and isinstance(value, bytes):
            data = value
    if partition_key is None or data is None:
        raise AggregationBroken("a user record without partition key or data")
    return UserRecord(partition_key, data, hash_key)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that there are more."""
    if value < 0x80:
        return bytes((value,))
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message by number: integers, or bytes. Raises `AggregationBroken`, `IndexError` at its end."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, position = _read_varint(message, position)
            yield tag >> 3, value
            continue
        if wire_type == _LENGTH:
            length, position = _read_varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise AggregationBroken(f"a field of wire type {wire_type}")
        end = position + length
        if end > len(message):
            raise AggregationBroken("a field goes beyond the end")
        yield tag >> 3, message[position:end]
        position = end


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """The value, and the position behind it. Raises `IndexError` at the end of the message."""
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        digit = message[position + count]
        value |= (digit & 0x7F) << (7 * count)
        if digit < 0x80:
            return value, position + count + 1
    raise AggregationBroken("a number that does not end")
