"""What the backend asks of Kinesis, and what it makes of the answers that no emulator gives."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adapters.kinesis.backend import KinesisBackend, open_backend
from adapters.kinesis.settings import parse_target
from adapters.kinesis.streams import NEGATIVE_SECONDS
from gateway.core.backend import Entry, QueueSpec, Target
from gateway.core.errors import AccessDenied, BackendError, NotFound, Throttled, Unavailable
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome
from tests.rig.clock import on_clock
from tests.rig.scripted_aws import ScriptedAws

SPEC = QueueSpec()
MISSING = NotFound("ResourceNotFoundException: not found", action="kinesis:PutRecords")
ARN = "arn:aws:kinesis:eu-west-1:111122223333:stream/telemetry"
STORED = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}


def summary(status: str) -> dict[str, object]:
    return {"StreamDescriptionSummary": {"StreamName": "telemetry", "StreamARN": ARN, "StreamStatus": status}}


def all_stored(request: dict[str, object]) -> object:
    records = request["Records"]
    assert isinstance(records, list)
    return {"FailedRecordCount": 0, "Records": [STORED] * len(records)}


@pytest.fixture
def aws() -> ScriptedAws:
    scripted = ScriptedAws("kinesis")
    scripted.answers = {
        "PutRecords": all_stored,
        "DescribeStreamSummary": summary("ACTIVE"),
        "CreateStream": b"{}",
    }
    return scripted


@pytest.fixture
def backend(aws: ScriptedAws) -> KinesisBackend:
    return open_backend(aws, prefix="", provision="auto")


def stream(name: str = "telemetry", **options: object) -> Target:
    return parse_target(name, options, frozenset())


def entries(backend: KinesisBackend, target: Target, *bodies: bytes) -> list[Entry]:
    return [backend.encode(target, Message(Address("", "q"), body)) for body in bodies]


async def test_one_call_for_a_batch(backend: KinesisBackend, aws: ScriptedAws) -> None:
    target = stream(partition_key="k")
    assert list(await backend.send(target, entries(backend, target, b"a", b"b"))) == [ACCEPTED, ACCEPTED]
    (call,) = aws.calls
    assert (call.action, call.resource, call.region) == ("PutRecords", "kinesis stream telemetry", None)
    assert call.request == {
        "StreamName": "telemetry",
        "Records": [{"Data": "YQ==", "PartitionKey": "k"}, {"Data": "Yg==", "PartitionKey": "k"}],
    }


async def test_an_arn_says_which_stream_and_where(backend: KinesisBackend, aws: ScriptedAws) -> None:
    target = stream(ARN)
    await backend.send(target, entries(backend, target, b"a"))
    assert aws.calls[0].request["StreamARN"] == ARN
    assert "StreamName" not in aws.calls[0].request
    assert aws.calls[0].region == "eu-west-1"


async def test_one_bad_record_fails_alone(backend: KinesisBackend, aws: ScriptedAws) -> None:
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded for shard 1"}
    aws.answers["PutRecords"] = {"FailedRecordCount": 1, "Records": [STORED, throttled, STORED]}
    target = stream()
    first, second, third = await backend.send(target, entries(backend, target, b"a", b"b", b"c"))
    assert first is ACCEPTED
    assert third is ACCEPTED
    assert second.outcome is Outcome.RELEASED
    assert isinstance(second.error, Throttled)


async def test_the_same_bytes_each_time(backend: KinesisBackend, aws: ScriptedAws) -> None:
    target = stream(aggregate=True)
    head, other = entries(backend, target, b"a", b"b")
    assert head.join(other)
    for _ in range(2):
        assert list(await backend.send(target, [head])) == [ACCEPTED]
    assert aws.calls[0].request == aws.calls[1].request


async def test_an_answer_about_other_records_is_no_answer(backend: KinesisBackend, aws: ScriptedAws) -> None:
    aws.answers["PutRecords"] = {"FailedRecordCount": 0, "Records": [STORED]}
    target = stream()
    with pytest.raises(Unavailable):
        await backend.send(target, entries(backend, target, b"a", b"b"))


@on_clock
async def test_a_missing_stream_is_made_and_waited_for() -> None:
    aws = ScriptedAws("kinesis")
    backend = open_backend(aws, prefix="", provision="auto")
    there = False

    def describe(_request: object) -> object:
        return summary("CREATING") if there else NotFound("ResourceNotFoundException")

    def create(_request: object) -> object:
        nonlocal there
        there = True
        return b"{}"

    aws.answers = {"PutRecords": MISSING, "DescribeStreamSummary": describe, "CreateStream": create}
    target = stream()
    batch = entries(backend, target, b"a")
    with pytest.raises(Unavailable, match=r"kinesis stream telemetry .*: the stream is creating"):
        await backend.send(target, batch)
    assert aws.actions() == ["PutRecords", "DescribeStreamSummary", "CreateStream", "DescribeStreamSummary"]
    assert aws.calls[2].request == {"StreamName": "telemetry", "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
    with pytest.raises(Unavailable):
        await backend.send(target, batch)
    assert len(aws.calls) == 4, "nothing is asked again at once"
    await asyncio.sleep(NEGATIVE_SECONDS)
    aws.answers["PutRecords"] = all_stored
    assert list(await backend.send(target, batch)) == [ACCEPTED]


async def test_a_stream_for_large_records(backend: KinesisBackend, aws: ScriptedAws) -> None:
    found = [summary("ACTIVE"), NotFound("ResourceNotFoundException")]
    aws.answers["DescribeStreamSummary"] = lambda _request: found.pop()
    await backend.ensure(stream(max_record_bytes=3_000_000), SPEC)
    assert aws.calls[1].request["MaxRecordSizeInKiB"] == 2930


async def test_somebody_else_makes_it_at_the_same_time(backend: KinesisBackend, aws: ScriptedAws) -> None:
    found = [summary("ACTIVE"), NotFound("ResourceNotFoundException")]
    aws.answers["DescribeStreamSummary"] = lambda _request: found.pop()
    aws.answers["CreateStream"] = BackendError("ResourceInUseException: Stream telemetry already exists")
    await backend.ensure(stream(), SPEC)
    assert not found


async def test_callers_share_the_search(backend: KinesisBackend, aws: ScriptedAws) -> None:
    aws.answers["DescribeStreamSummary"] = NotFound("ResourceNotFoundException")
    aws.answers["CreateStream"] = AccessDenied("may not", action="kinesis:CreateStream")
    target = stream()
    found = await asyncio.gather(*(backend.ensure(target, SPEC) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in found] == [AccessDenied] * 5
    assert aws.actions() == ["DescribeStreamSummary", "CreateStream"]


@pytest.mark.parametrize(("name", "provision"), [("telemetry", "never"), (ARN, "auto")])
async def test_what_may_not_be_made_is_told(aws: ScriptedAws, name: str, provision: str) -> None:
    backend = KinesisBackend(aws, provision="never" if provision == "never" else "auto")
    aws.answers["PutRecords"] = MISSING
    aws.answers["DescribeStreamSummary"] = NotFound("ResourceNotFoundException")
    target = stream(name)
    with pytest.raises(NotFound, match=r"kinesis stream telemetry .* does not exist in .*; create it") as caught:
        await backend.send(target, entries(backend, target, b"a"))
    assert ("provision: auto" in str(caught.value)) is (provision == "never")
    assert "CreateStream" not in aws.actions()


async def test_a_key_that_is_gone_is_not_a_stream_that_is_gone(backend: KinesisBackend, aws: ScriptedAws) -> None:
    aws.answers["PutRecords"] = NotFound("KMSNotFoundException: the key", action="kinesis:PutRecords")
    target = stream()
    with pytest.raises(NotFound, match="KMSNotFoundException"):
        await backend.send(target, entries(backend, target, b"a"))
    assert aws.actions() == ["PutRecords"]


async def test_a_stream_that_is_there_after_all(backend: KinesisBackend, aws: ScriptedAws) -> None:
    aws.answers["PutRecords"] = MISSING
    target = stream()
    with pytest.raises(Unavailable, match="is there again"):
        await backend.send(target, entries(backend, target, b"a"))
    aws.answers["PutRecords"] = all_stored
    assert list(await backend.send(target, entries(backend, target, b"a"))) == [ACCEPTED]


@pytest.mark.parametrize("status", ["ACTIVE", "UPDATING"])
async def test_a_stream_that_can_be_written_to(backend: KinesisBackend, aws: ScriptedAws, status: str) -> None:
    aws.answers["DescribeStreamSummary"] = summary(status)
    await backend.probe(stream())


@pytest.mark.parametrize("answer", [summary("DELETING"), b"[]", {}])
async def test_one_that_cannot(backend: KinesisBackend, aws: ScriptedAws, answer: object) -> None:
    aws.answers["DescribeStreamSummary"] = answer
    with pytest.raises(Unavailable):
        await backend.probe(stream())


async def test_a_target_without_options(backend: KinesisBackend) -> None:
    target = replace(stream(), options=None)
    assert backend.encode(target, Message(Address("", "q"), b"x")).key == "q"
