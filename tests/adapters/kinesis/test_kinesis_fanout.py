"""Enhanced fan-out: the consumer that is found or registered, what is asked, and the pages in events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from adapters.kinesis.backend import SILENCE_SECONDS, KinesisBackend
from adapters.kinesis.settings import KIND
from adapters.kinesis.streams import NEGATIVE_SECONDS
from gateway.core.backend import Target
from gateway.core.errors import AccessDenied, BackendError, Contended, Invalid, NotFound, Throttled, Unavailable
from gateway.core.streams.port import FIRST, NEXT, Page, Position, Whence
from tests.rig.clock import on_clock
from tests.rig.scripted_aws import ScriptedAws

STREAM = "arn:aws:kinesis:us-east-1:111122223333:stream/trucks"
CONSUMER = f"{STREAM}/consumer/billing:1700000000"
THEIRS = "arn:aws:kinesis:eu-west-1:111122223333:stream/theirs"
TARGET = Target(kind=KIND, name="trucks", queue="fleet", pushed=("billing",))
MISSING = NotFound("ResourceNotFoundException: not found")
IN_THE_FUTURE = Invalid(
    "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "
    "timestampInMillis: 1593030726246, currentTimestampInMillis: 1593030724560"
)
EVENT: Mapping[str, object] = {"Records": [], "ContinuationSequenceNumber": "17", "MillisBehindLatest": 0}


def described(status: str = "ACTIVE", arn: str = CONSUMER) -> dict[str, object]:
    return {"ConsumerDescription": {"ConsumerName": "billing", "ConsumerARN": arn, "ConsumerStatus": status}}


def one_after_the_other(*answers: object) -> Callable[[dict[str, object]], object]:
    left = list(answers)
    return lambda _: left.pop(0)


def scripted() -> ScriptedAws:
    """All is well."""
    aws = ScriptedAws("kinesis")
    aws.answers = {
        "DescribeStreamSummary": {"StreamDescriptionSummary": {"StreamARN": STREAM, "StreamStatus": "ACTIVE"}},
        "DescribeStreamConsumer": described(),
        "RegisterStreamConsumer": {"Consumer": {}},
        "SubscribeToShard": [EVENT],
    }
    return aws


@pytest.fixture
def aws() -> ScriptedAws:
    return scripted()


async def pages(backend: KinesisBackend, target: Target = TARGET, position: Position = FIRST) -> list[Page]:
    async with backend.subscribe(target, "billing", "3", position) as subscription:
        return [page async for page in subscription]


async def test_a_registered_consumer_is_found_once(aws: ScriptedAws) -> None:
    backend = KinesisBackend(aws)
    await asyncio.gather(*(backend.enroll(TARGET, "billing") for _ in range(5)))
    assert aws.actions() == ["DescribeStreamSummary", "DescribeStreamConsumer"]
    assert aws.calls[1].request == {"StreamARN": STREAM, "ConsumerName": "billing"}


async def test_one_that_is_missing_is_registered(aws: ScriptedAws) -> None:
    aws.answers["DescribeStreamConsumer"] = one_after_the_other(MISSING, described())
    await KinesisBackend(aws).enroll(TARGET, "billing")
    assert aws.actions()[1:] == ["DescribeStreamConsumer", "RegisterStreamConsumer", "DescribeStreamConsumer"]
    assert aws.calls[2].request == {"StreamARN": STREAM, "ConsumerName": "billing"}


async def test_each_host_has_its_own(aws: ScriptedAws) -> None:
    tail = Target(kind=KIND, name="trucks", tail="t", pushed=("live-{hostname}",))
    await KinesisBackend(aws, hostname="gateway-0").enroll(tail, "live-{hostname}")
    assert aws.calls[1].request["ConsumerName"] == "live-gateway-0"


@on_clock
async def test_it_is_waited_for_until_it_is_active() -> None:
    aws = scripted()
    aws.answers["DescribeStreamConsumer"] = one_after_the_other(MISSING, described("CREATING"), described())
    backend = KinesisBackend(aws)
    with pytest.raises(Unavailable, match="billing is creating"):
        await backend.enroll(TARGET, "billing")
    await asyncio.sleep(NEGATIVE_SECONDS)
    await backend.enroll(TARGET, "billing")
    assert aws.actions().count("RegisterStreamConsumer") == 1


@on_clock
async def test_what_is_missing_is_not_asked_for_again_and_again() -> None:
    """Each shard of a stream misses its consumer at the same time."""
    aws = scripted()
    aws.answers["DescribeStreamConsumer"] = MISSING
    backend = KinesisBackend(aws, provision="never")
    for _ in range(3):
        refused = await asyncio.gather(*(pages(backend) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(each, NotFound) for each in refused)
    assert aws.actions() == ["DescribeStreamSummary", "DescribeStreamConsumer"]
    await asyncio.sleep(NEGATIVE_SECONDS)
    with pytest.raises(NotFound):
        await pages(backend)
    assert aws.actions()[2:] == ["DescribeStreamConsumer"]


async def test_somebody_else_registers_it_at_the_same_time(aws: ScriptedAws) -> None:
    aws.answers["DescribeStreamConsumer"] = one_after_the_other(MISSING, described())
    aws.answers["RegisterStreamConsumer"] = Contended("ResourceInUseException: it exists")
    await KinesisBackend(aws).enroll(TARGET, "billing")


@pytest.mark.parametrize("error", [Throttled("LimitExceededException: 20 consumers"), AccessDenied("you may not")])
async def test_one_that_cannot_be_registered(aws: ScriptedAws, error: BackendError) -> None:
    aws.answers["DescribeStreamConsumer"] = MISSING
    aws.answers["RegisterStreamConsumer"] = error
    with pytest.raises(type(error)):
        await KinesisBackend(aws).enroll(TARGET, "billing")


async def test_nothing_is_registered_where_that_is_not_allowed(aws: ScriptedAws) -> None:
    aws.answers["DescribeStreamConsumer"] = MISSING
    with pytest.raises(
        NotFound, match=r"no enhanced fan-out consumer billing.*kinesis:RegisterStreamConsumer"
    ) as raised:
        await KinesisBackend(aws, provision="never").enroll(TARGET, "billing")
    assert raised.value.resource == "kinesis stream trucks"
    assert "RegisterStreamConsumer" not in aws.actions()


async def test_nothing_is_registered_for_a_stream_that_is_named_by_its_arn(aws: ScriptedAws) -> None:
    aws.answers["DescribeStreamConsumer"] = MISSING
    with pytest.raises(NotFound, match=r"register it$"):
        await KinesisBackend(aws).enroll(Target(kind=KIND, name=THEIRS), "billing")
    (call,) = aws.calls
    assert (call.action, call.region, call.request["StreamARN"]) == ("DescribeStreamConsumer", "eu-west-1", THEIRS)


async def test_a_stream_that_is_missing(aws: ScriptedAws) -> None:
    aws.answers["DescribeStreamSummary"] = MISSING
    with pytest.raises(NotFound, match="the stream does not exist"):
        await KinesisBackend(aws).enroll(TARGET, "billing")


@pytest.mark.parametrize("answer", [b"<html>", {}, {"ConsumerDescription": {}}, {"ConsumerDescription": []}])
async def test_an_answer_that_is_not_kinesis_s(aws: ScriptedAws, answer: object) -> None:
    aws.answers["DescribeStreamConsumer"] = answer
    with pytest.raises(Unavailable, match="not Kinesis's"):
        await KinesisBackend(aws).enroll(TARGET, "billing")


@pytest.mark.parametrize(
    ("position", "asked"),
    [
        (FIRST, {"Type": "TRIM_HORIZON"}),
        (NEXT, {"Type": "LATEST"}),
        (Position(Whence.TIME, time=12.5), {"Type": "AT_TIMESTAMP", "Timestamp": 12.5}),
        (Position(Whence.AT, "49", 3), {"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": "49"}),
        (Position(Whence.AFTER, "49"), {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": "49"}),
    ],
)
async def test_what_is_asked(aws: ScriptedAws, position: Position, asked: dict[str, object]) -> None:
    await pages(KinesisBackend(aws), position=position)
    call = aws.calls[-1]
    assert call.request == {"ConsumerARN": CONSUMER, "ShardId": "shardId-000000000003", "StartingPosition": asked}
    assert (call.resource, call.read_timeout) == ("kinesis stream trucks", SILENCE_SECONDS)


async def test_pages_of_events(aws: ScriptedAws) -> None:
    record = {
        "Data": "aGVsbG8=",
        "PartitionKey": "7",
        "SequenceNumber": "18",
        "ApproximateArrivalTimestamp": 1_700_000_000.5,
    }
    last = {"Records": [], "MillisBehindLatest": 0, "ChildShards": [{"ShardId": "shardId-000000000004"}]}
    aws.answers["SubscribeToShard"] = [
        EVENT,
        {"Records": [record], "ContinuationSequenceNumber": "18", "MillisBehindLatest": 250},
        last,
        last | {"ContinuationSequenceNumber": "18"},
        last | {"ContinuationSequenceNumber": None, "ChildShards": []},
    ]
    empty, full, *ends = await pages(KinesisBackend(aws))
    assert empty == Page([], "17", False)
    assert (full.iterator, full.behind) == ("18", True)
    (found,) = full.records
    assert (found.sequence, found.arrived, found.size) == ("18", 1_700_000_000.5, 6)
    assert [message.body for message in found.messages] == [b"hello"]
    assert ends == [Page([], None, False)] * 3


async def test_a_consumer_that_is_gone_is_looked_for_again(aws: ScriptedAws) -> None:
    backend = KinesisBackend(aws)
    again = f"{STREAM}/consumer/billing:1800000000"
    aws.answers["SubscribeToShard"] = MISSING
    with pytest.raises(NotFound):
        await pages(backend)
    aws.answers["DescribeStreamConsumer"] = one_after_the_other(MISSING, described(arn=again))
    aws.answers["SubscribeToShard"] = [EVENT]
    await pages(backend)
    assert aws.calls[-1].request["ConsumerARN"] == again


async def test_a_time_that_kinesis_takes_for_the_future_is_the_end(aws: ScriptedAws) -> None:
    """As it is when the gateway's clock is ahead."""
    ahead = Position(Whence.TIME, time=1_593_030_726.246)
    backend = KinesisBackend(aws)
    aws.answers["SubscribeToShard"] = lambda asked: (
        IN_THE_FUTURE if "Timestamp" in asked["StartingPosition"] else [EVENT]
    )
    assert await pages(backend, position=ahead) == [Page([], "17", False)]
    assert aws.calls[-1].request["StartingPosition"] == {"Type": "LATEST"}
    aws.answers["SubscribeToShard"] = IN_THE_FUTURE
    with pytest.raises(Invalid, match="timestampInMillis"):
        await pages(backend, position=ahead)
    aws.answers["SubscribeToShard"] = Invalid("no such shard")
    with pytest.raises(Invalid, match="no such shard"):
        await pages(backend, position=ahead)
    assert aws.actions().count("SubscribeToShard") == 5


async def test_what_ends_a_subscription_is_passed_on(aws: ScriptedAws) -> None:
    aws.answers["SubscribeToShard"] = [EVENT, Contended("ResourceInUseException: taken over")]
    async with KinesisBackend(aws).subscribe(TARGET, "billing", "3", FIRST) as subscription:
        assert await anext(subscription) == Page([], "17", False)
        with pytest.raises(Contended):
            await anext(subscription)


async def test_an_event_that_is_not_kinesis_s(aws: ScriptedAws) -> None:
    aws.answers["SubscribeToShard"] = [{"Records": "none"}]
    with pytest.raises(Unavailable, match="not Kinesis's"):
        await pages(KinesisBackend(aws))
