"""How a stream is read: requests, answers, and the messages in records."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping

import orjson
import pytest
import zstandard

from adapters.kinesis.aggregation import aggregate
from adapters.kinesis.backend import KinesisBackend
from adapters.kinesis.content import message_of
from adapters.kinesis.naming import stream_name
from adapters.kinesis.reading import AnswerBroken, full_shard, read_iterator, read_page, read_shards, short_shard
from adapters.kinesis.settings import KIND, OWN_OPTIONS
from gateway.core.backend import QueueSpec, Target
from gateway.core.errors import BackendError, Invalid, NotFound, Throttled
from gateway.core.message import TOPIC_EXCHANGE, Address, Message, Origin, Properties
from gateway.core.streams.port import FIRST, NEXT, Position, PositionLost, Shard, StreamBackend, Whence
from gateway.core.transform import Compression, Transform
from tests.rig.scripted_aws import Answer, ScriptedAws

ARN = "arn:aws:kinesis:eu-west-1:111122223333:stream/theirs"
TARGET = Target(kind=KIND, name="trucks", queue="fleet")
IN_THE_FUTURE = Invalid(
    "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "
    "timestampInMillis: 1593030726246, currentTimestampInMillis: 1593030724560"
)


def record(data: bytes, key: str = "7", sequence: str = "49") -> dict[str, object]:
    return {
        "Data": base64.b64encode(data).decode(),
        "PartitionKey": key,
        "SequenceNumber": sequence,
        "ApproximateArrivalTimestamp": 1_700_000_000.5,
    }


def page(*records: dict[str, object], **others: object) -> bytes:
    return orjson.dumps({"Records": records, "NextShardIterator": "next", "MillisBehindLatest": 0, **others})


def test_it_is_a_backend_of_streams() -> None:
    assert isinstance(KinesisBackend(ScriptedAws("kinesis")), StreamBackend)


@pytest.mark.parametrize(
    ("shard", "short"),
    [("shardId-000000000000", "0"), ("shardId-000000000123", "123"), ("shardId-1", "shardId-1"), ("other", "other")],
)
def test_shards_are_called_by_their_number(shard: str, short: str) -> None:
    assert short_shard(shard) == short
    assert full_shard(short) == shard


@pytest.mark.parametrize(
    ("position", "asked"),
    [
        (FIRST, {"ShardIteratorType": "TRIM_HORIZON"}),
        (NEXT, {"ShardIteratorType": "LATEST"}),
        (Position(Whence.TIME, time=5.5), {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": 5.5}),
        (
            Position(Whence.AT, "49", 3),
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "49"},
        ),
        (
            Position(Whence.AFTER, "49"),
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": "49"},
        ),
    ],
)
@pytest.mark.parametrize(("name", "member"), [("trucks", "StreamName"), (ARN, "StreamARN")])
async def test_seeking(position: Position, asked: Mapping[str, object], name: str, member: str) -> None:
    aws = ScriptedAws("kinesis")
    aws.answers["GetShardIterator"] = {"ShardIterator": "it"}
    target = Target(kind=KIND, name=name, queue="fleet")
    assert await KinesisBackend(aws).seek(target, "3", position) == "it"
    assert aws.calls[0].request == {member: name, "ShardId": "shardId-000000000003", **asked}
    assert aws.calls[0].region == ("eu-west-1" if name == ARN else None)


async def test_a_time_that_kinesis_takes_for_the_future_is_the_end() -> None:
    """As it is when the gateway's clock is ahead."""
    aws = ScriptedAws("kinesis")
    aws.answers["GetShardIterator"] = lambda asked: IN_THE_FUTURE if "Timestamp" in asked else {"ShardIterator": "it"}
    backend = KinesisBackend(aws)
    assert await backend.seek(TARGET, "3", Position(Whence.TIME, time=1_593_030_726.246)) == "it"
    assert aws.calls[1].request["ShardIteratorType"] == "LATEST"
    aws.answers["GetShardIterator"] = Invalid("no such shard")
    with pytest.raises(Invalid, match="no such shard"):
        await backend.seek(TARGET, "3", Position(Whence.TIME, time=5.0))


async def test_shards_come_in_pages() -> None:
    aws = ScriptedAws("kinesis")
    parent = {"ShardId": "shardId-000000000000", "SequenceNumberRange": {"EndingSequenceNumber": "5"}}
    child = {
        "ShardId": "shardId-000000000002",
        "ParentShardId": "shardId-000000000000",
        "AdjacentParentShardId": "shardId-000000000001",
        "SequenceNumberRange": {"StartingSequenceNumber": "6"},
    }

    def answer(request: dict[str, object]) -> Answer:
        if "NextToken" in request:
            assert request == {"NextToken": "more"}
            return {"Shards": [child]}
        assert request == {"StreamName": "trucks"}
        return {"Shards": [parent], "NextToken": "more"}

    aws.answers["ListShards"] = answer
    assert await KinesisBackend(aws).shards(TARGET) == [Shard("0", (), open=False), Shard("2", ("0", "1"))]


async def test_a_page_of_records() -> None:
    aws = ScriptedAws("kinesis")
    aws.answers["GetRecords"] = page(record(b"one"), record(b"\xff", "k", "50"), MillisBehindLatest=7)
    found = await KinesisBackend(aws).read(TARGET, "0", "it", 25)
    assert aws.calls[0].request == {"ShardIterator": "it", "Limit": 25}
    assert (found.iterator, found.behind) == ("next", True)
    assert [(each.sequence, each.arrived, each.size) for each in found.records] == [
        ("49", 1_700_000_000.5, 4),
        ("50", 1_700_000_000.5, 2),
    ]
    (message,) = found.records[0].messages
    assert message == Message(Address("", "fleet"), b"one", headers={"x-partition-key": "7"})


async def test_the_end_of_a_closed_shard() -> None:
    aws = ScriptedAws("kinesis")
    aws.answers["GetRecords"] = {"Records": [], "MillisBehindLatest": 0, "ChildShards": []}
    assert (await KinesisBackend(aws).read(TARGET, "0", "it", 1)).iterator is None


async def test_streams_of_others_are_read_by_their_arn() -> None:
    aws = ScriptedAws("kinesis")
    aws.answers["GetRecords"] = page()
    await KinesisBackend(aws).read(Target(kind=KIND, name=ARN, queue="q"), "0", "it", 1)
    assert aws.calls[0].request["StreamARN"] == ARN


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BackendError("ExpiredIteratorException: it has expired"), PositionLost),
        (Throttled("ProvisionedThroughputExceededException: slow"), Throttled),
        (NotFound("ResourceNotFoundException: gone"), NotFound),
    ],
)
async def test_what_fails_while_reading(error: BackendError, raised: type[BackendError]) -> None:
    aws = ScriptedAws("kinesis")
    aws.answers["GetRecords"] = error
    with pytest.raises(BackendError) as caught:
        await KinesisBackend(aws).read(TARGET, "0", "it", 1)
    assert type(caught.value) is raised


def test_user_records_come_apart() -> None:
    (found,) = read_page(page(record(aggregate("k", [b"a", b"b"]))), TARGET).records
    assert [(each.body, each.headers["x-partition-key"]) for each in found.messages] == [(b"a", "k"), (b"b", "k")]


def test_what_only_looks_aggregated_is_a_message() -> None:
    broken = aggregate("k", [b"a"])[:-1] + b"\0"
    (found,) = read_page(page(record(broken)), TARGET).records
    assert [each.body for each in found.messages] == [broken]


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]", b'{"Records": [{}]}', b'{"Records": [{"Data": "?"}]}', b'{"Records": 7}']
)
def test_answers_that_are_not_kinesis(answer: bytes) -> None:
    for read in (lambda: read_page(answer, TARGET), lambda: read_shards(answer), lambda: read_iterator(answer)):
        with pytest.raises(AnswerBroken):
            read()


MESSAGE = Message(
    Address(TOPIC_EXCHANGE, "trucks.7"),
    b"21.5",
    Properties(content_type="text/plain", message_id="m1", priority=3, timestamp=1_700_000_000),
    {"tenant": "a", "n": 7},
    Origin("mqtt", "truck-7"),
)


@pytest.mark.parametrize("compression", [None, *Compression])
@pytest.mark.parametrize("body", [b"21.5", b"\xff\x00", b"", "grün".encode()])
def test_envelopes_are_opened(compression: Compression | None, body: bytes) -> None:
    transform = Transform(envelope=True, compression=compression)
    target = Target(kind=KIND, name="trucks", queue="fleet", transform=transform)
    sent = Message(MESSAGE.address, body, MESSAGE.properties, MESSAGE.headers, MESSAGE.origin)
    assert message_of(target, "7", transform.body(sent)) == Message(
        sent.address, body, sent.properties, sent.headers, Origin("aws", "truck-7")
    )


@pytest.mark.parametrize(("key", "level"), [("7", "7"), ("a/b", "a_b"), ("+", "_"), ("#*", "__"), ("a.b", "a/b")])
def test_records_that_do_not_say_their_topic(key: str, level: str) -> None:
    target = Target(kind=KIND, name="trucks", transform=Transform(envelope=True), tail="fleet/{partition_key}/at")
    assert message_of(target, key, b"x").address == Address(TOPIC_EXCHANGE, f"fleet.{level}.at")
    assert message_of(target, key, target.transform.body(MESSAGE)).address == MESSAGE.address  # type: ignore[union-attr]


NATIVE = (
    b"21.5",
    b"",
    b"\x1f\x8b broken",
    b'{"v":1,"exchange":7}',
    b'{"v":1,"exchange":"","topic":"q","client":"","time":"never","body":"x"}',
    b'{"v":1,"exchange":"","topic":"q","client":"","time":"2026-01-01T00:00:00Z","body":7}',
    b'{"v":1,"exchange":"","topic":"q","client":"","time":"2026-01-01T00:00:00Z","body":"x","headers":7}',
    b'{"v":1,"exchange":"","topic":"q","client":"","time":"2026-01-01T00:00:00Z","body":"x","properties":{"a":1}}',
    b'{"v":2,"exchange":"","topic":"q"}',
    b'{"v":1,[',
)


@pytest.mark.parametrize("data", NATIVE)
@pytest.mark.parametrize("compression", [None, *Compression])
def test_what_others_wrote_is_delivered_as_it_is(data: bytes, compression: Compression | None) -> None:
    transform = Transform(envelope=True, compression=compression)
    target = Target(kind=KIND, name="trucks", queue="fleet", transform=transform)
    assert message_of(target, "7", data) == Message(Address("", "fleet"), data, headers={"x-partition-key": "7"})


@pytest.mark.parametrize(
    ("compression", "data"),
    [(Compression.GZIP, gzip.compress(b"x" * 70_000_000)), (Compression.ZSTD, zstandard.compress(b"x" * 70_000_000))],
)
def test_what_would_grow_too_large_stays_compressed(compression: Compression, data: bytes) -> None:
    target = Target(kind=KIND, name="trucks", queue="fleet", transform=Transform(compression=compression))
    assert message_of(target, "7", data).body == data


def test_where_a_declared_stream_lives() -> None:
    target = KinesisBackend(ScriptedAws("kinesis"), prefix="p-").home("orders", QueueSpec())
    assert (target.kind, target.name, target.queue) == (KIND, "p-orders", "orders")
    assert target.transform == Transform(envelope=True)


@pytest.mark.parametrize("name", ["a b", "x" * 129, "café", ""])
def test_names_that_kinesis_does_not_allow(name: str) -> None:
    made = stream_name(name)
    assert made != name
    assert stream_name(made) == made


async def test_a_declared_stream_is_deleted_and_no_other() -> None:
    aws = ScriptedAws("kinesis")
    aws.answers["DeleteStream"] = {}
    backend = KinesisBackend(aws)
    home = backend.home("orders", QueueSpec())
    assert home.options is OWN_OPTIONS
    await backend.remove(home)
    assert aws.calls[0].request == {"StreamName": "orders"}
    aws.answers["DeleteStream"] = NotFound("ResourceNotFoundException: gone")
    await backend.remove(home)
    with pytest.raises(BackendError, match="delete it in AWS"):
        await backend.remove(TARGET)
    assert aws.actions() == ["DeleteStream"] * 2
