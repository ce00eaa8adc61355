"""What the backend asks of Firehose, and what it makes of the answers that no emulator gives."""

from __future__ import annotations

import base64
import gzip
from dataclasses import replace

import pytest

from adapters.firehose.backend import RECORD_BYTES, FirehoseBackend, open_backend
from adapters.firehose.settings import parse_target
from gateway.core.backend import Entry, QueueSpec, Target
from gateway.core.errors import BackendError, NotFound, Throttled, TooLarge, Unavailable
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.core.transform import Compression, Transform
from tests.rig.scripted_aws import ScriptedAws

TAKEN = {"RecordId": "r"}


def description(status: str) -> dict[str, object]:
    return {"DeliveryStreamDescription": {"DeliveryStreamName": "archive", "DeliveryStreamStatus": status}}


@pytest.fixture
def aws() -> ScriptedAws:
    scripted = ScriptedAws("firehose")
    scripted.answers = {"DescribeDeliveryStream": description("ACTIVE")}
    return scripted


@pytest.fixture
def backend(aws: ScriptedAws) -> FirehoseBackend:
    return open_backend(aws, prefix="", provision="auto")


def archive(**options: object) -> Target:
    return parse_target("archive", options, frozenset())


def entries(backend: FirehoseBackend, target: Target, *bodies: bytes) -> list[Entry]:
    return [backend.encode(target, Message(Address("", "q"), body)) for body in bodies]


async def test_one_call_for_a_batch(backend: FirehoseBackend, aws: ScriptedAws) -> None:
    aws.answers["PutRecordBatch"] = {"FailedPutCount": 0, "RequestResponses": [TAKEN, TAKEN]}
    target = archive(delimiter="\n")
    assert list(await backend.send(target, entries(backend, target, b"a", b"b"))) == [ACCEPTED, ACCEPTED]
    (call,) = aws.calls
    assert (call.action, call.resource) == ("PutRecordBatch", "firehose delivery stream archive")
    assert call.request == {"DeliveryStreamName": "archive", "Records": [{"Data": "YQo="}, {"Data": "Ygo="}]}


def test_records_have_no_order(backend: FirehoseBackend) -> None:
    target = archive(delimiter="--")
    (entry,) = entries(backend, target, b"abc")
    assert (entry.key, entry.size) == (None, 5)


def test_the_delimiter_is_inside_the_compression(backend: FirehoseBackend) -> None:
    target = replace(archive(delimiter="\n"), transform=Transform(compression=Compression.GZIP))
    (entry,) = entries(backend, target, b"abc")
    assert isinstance(entry.payload, bytes)
    assert gzip.decompress(base64.b64decode(entry.payload[9:-2])) == b"abc\n"


def test_the_delimiter_counts(backend: FirehoseBackend) -> None:
    target = archive(delimiter="\n")
    assert entries(backend, target, b"x" * (RECORD_BYTES - 1))[0].size == RECORD_BYTES
    with pytest.raises(TooLarge, match="has 1024001 bytes as it is sent; Firehose takes 1024000"):
        entries(backend, target, b"x" * RECORD_BYTES)


async def test_one_bad_record_fails_alone(backend: FirehoseBackend, aws: ScriptedAws) -> None:
    slow = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
    broken = {"ErrorCode": "InternalFailure", "ErrorMessage": "oops"}
    aws.answers["PutRecordBatch"] = {"FailedPutCount": 2, "RequestResponses": [slow, TAKEN, broken]}
    target = archive()
    first, second, third = await backend.send(target, entries(backend, target, b"a", b"b", b"c"))
    assert second is ACCEPTED
    assert (first.outcome, type(first.error)) == (Outcome.RELEASED, Throttled)
    assert (third.outcome, type(third.error)) == (Outcome.RELEASED, Unavailable)


async def test_a_whole_call_that_is_throttled(backend: FirehoseBackend, aws: ScriptedAws) -> None:
    aws.answers["PutRecordBatch"] = Unavailable("ServiceUnavailableException: Slow down.")
    target = archive()
    with pytest.raises(Throttled, match="Slow down"):
        await backend.send(target, entries(backend, target, b"a"))
    aws.answers["PutRecordBatch"] = Unavailable("connection reset")
    with pytest.raises(Unavailable, match="connection reset"):
        await backend.send(target, entries(backend, target, b"a"))


async def test_one_that_is_missing_is_never_made(backend: FirehoseBackend, aws: ScriptedAws) -> None:
    aws.answers["DescribeDeliveryStream"] = NotFound("ResourceNotFoundException")
    with pytest.raises(NotFound, match=r"firehose delivery stream archive.*does not exist in us-east-1; create it"):
        await backend.ensure(archive(), QueueSpec())
    assert aws.actions() == ["DescribeDeliveryStream"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (description("CREATING"), Unavailable),
        (description("DELETING"), BackendError),
        (description("CREATING_FAILED"), BackendError),
        ({}, Unavailable),
        (b"null", Unavailable),
    ],
)
async def test_one_that_cannot_be_written_to(
    backend: FirehoseBackend, aws: ScriptedAws, answer: object, error: type[BackendError]
) -> None:
    aws.answers["DescribeDeliveryStream"] = answer
    with pytest.raises(BackendError) as caught:
        await backend.probe(archive())
    assert type(caught.value) is error
