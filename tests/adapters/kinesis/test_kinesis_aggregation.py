"""KPL's format: what others write is read, what is written others read, and damage is noticed."""

from __future__ import annotations

import base64
import hashlib

import pytest
from aws_kinesis_agg.aggregator import RecordAggregator  # type: ignore[import-untyped]
from aws_kinesis_agg.deaggregator import deaggregate_records  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from adapters.kinesis.aggregation import (
    MAGIC,
    RECORD_OVERHEAD,
    AggregationBroken,
    UserRecord,
    aggregate,
    deaggregate,
)

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)
payloads = st.lists(st.binary(max_size=300), min_size=1, max_size=20)
hash_keys = st.one_of(st.just(""), st.integers(0, 2**128 - 1).map(str))


def sealed(message: bytes) -> bytes:
    return MAGIC + message + hashlib.md5(message).digest()


def as_lambda_gives(data: bytes) -> dict[str, object]:
    kinesis = {
        "kinesisSchemaVersion": "1.0",
        "sequenceNumber": "1",
        "approximateArrivalTimestamp": 1.0,
        "partitionKey": "outer",
        "data": base64.b64encode(data),
    }
    return {"kinesis": kinesis}


def test_the_bytes_of_an_example() -> None:
    record = aggregate("d7", [b"one", b""])
    assert record[:4] == b"\xf3\x89\x9a\xc2"
    message = record[4:-16]
    # partition_key_table: "d7"; records: {partition_key_index: 0, data: "one"}, {partition_key_index: 0, data: ""}
    assert message.hex() == "0a026437" + "1a0708001a036f6e65" + "1a0408001a00"
    assert record[-16:] == hashlib.md5(message).digest()


@given(keys, payloads, hash_keys)
def test_round_trip(key: str, bodies: list[bytes], hash_key: str) -> None:
    record = aggregate(key, bodies, hash_key)
    assert deaggregate("outer", record) == [UserRecord(key, body, hash_key) for body in bodies]
    assert record == aggregate(key, bodies, hash_key)


@given(keys, payloads, hash_keys)
def test_it_is_no_longer_than_was_counted(key: str, bodies: list[bytes], hash_key: str) -> None:
    if len(bodies) > 1:
        counted = sum(len(body) + len(key.encode()) + RECORD_OVERHEAD for body in bodies)
        assert len(aggregate(key, bodies, hash_key)) + len(key.encode()) <= counted


@given(keys, payloads, hash_keys)
def test_others_read_it(key: str, bodies: list[bytes], hash_key: str) -> None:
    found = deaggregate_records([as_lambda_gives(aggregate(key, bodies, hash_key))])
    assert [base64.b64decode(each["kinesis"]["data"]) for each in found] == bodies
    assert {each["kinesis"]["partitionKey"] for each in found} == {key}
    assert {each["kinesis"]["explicitHashKey"] for each in found} == {hash_key or None}


def test_what_others_write() -> None:
    records = [UserRecord(f"key-{number % 3}", b"x" * number, str(number % 2)) for number in range(200)]
    aggregator = RecordAggregator()
    for each in records:
        aggregator.add_user_record(each.partition_key, each.data, each.explicit_hash_key)
    _, _, data = aggregator.clear_and_get().get_contents()
    assert deaggregate("outer", bytes(data)) == records


@pytest.mark.parametrize("data", [b"", b"plain", MAGIC, MAGIC + b"short", b"\xf3\x89\x9a\xc3" + b"\0" * 20])
def test_a_record_that_is_none(data: bytes) -> None:
    assert deaggregate("key", data, "7") == [UserRecord("key", data, "7")]


def test_a_digest_that_does_not_fit_makes_it_a_plain_record() -> None:
    data = bytearray(aggregate("k", [b"one", b"two"]))
    data[-1] ^= 1
    assert deaggregate("key", bytes(data)) == [UserRecord("key", bytes(data))]


def test_no_user_records() -> None:
    assert deaggregate("key", sealed(b"")) == []


def test_each_prefix_is_noticed() -> None:
    fields = [
        b"\x0a\x03key",
        b"\x12\x017",
        b"\x1a\x09\x08\x00\x10\x00\x1a\x03one",
        b"\x1a\x09\x08\x00\x10\x00\x1a\x03two",
    ]
    message = b"".join(fields)
    assert sealed(message) == aggregate("key", [b"one", b"two"], "7")
    ends = [len(b"".join(fields[:count])) for count in range(len(fields) + 1)]
    for length in range(len(message)):
        if length in ends:  # between two fields it is a record with fewer messages
            read = deaggregate("outer", sealed(message[:length]))
            assert [each.data for each in read] == [b"one"][: max(0, ends.index(length) - 2)]
        else:
            with pytest.raises(AggregationBroken):
                deaggregate("outer", sealed(message[:length]))


@pytest.mark.parametrize(
    "message",
    [
        b"\x1a\x02\x08\x00",  # no data
        b"\x0a\x01k\x1a\x02\x1a\x00",  # no partition key
        b"\x1a\x04\x08\x00\x1a\x00",  # a partition key that is not in the table
        b"\x0a\x01k\x1a\x06\x08\x00\x10\x05\x1a\x00",  # a hash key that is not in the table
        b"\x0a\x01\xff",  # not UTF-8
        b"\x0a\x05k",  # beyond the end
        b"\x0b",  # a group, which protobuf has not any more
        b"\xff" * 11,  # a number without end
        b"\x0a",  # nothing after the tag
    ],
)
def test_damage_is_noticed(message: bytes) -> None:
    with pytest.raises(AggregationBroken):
        deaggregate("key", sealed(message))


def test_fields_of_later_versions_are_read_over() -> None:
    later = b"\x20\x07" + b"\x29" + b"\0" * 8 + b"\x35" + b"\0" * 4 + b"\x3a\x01x"
    assert deaggregate("key", sealed(later + b"\x0a\x01k\x1a\x07\x08\x00\x1a\x01d" + b"\x20\x07")) == [
        UserRecord("k", b"d")
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_broken(message: bytes) -> None:
    try:
        records = deaggregate("key", sealed(message))
    except AggregationBroken:
        return
    assert all(isinstance(each, UserRecord) for each in records)
