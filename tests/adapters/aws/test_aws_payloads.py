import asyncio
import base64

import orjson
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from adapters.aws.api import Changed
from adapters.aws.payloads import LargePayload, LargePayloads, LargePayloadSettings, Pointer, parse_pointer
from gateway.core.budget import AwaitedShare, ByteBudget
from gateway.core.errors import NotFound, TooLarge, Unavailable
from tests.adapters.sns.scripted_sns import ScriptedSns
from tests.rig.clock import on_clock, settle_down

PLACE = {"s3BucketName": "b-1", "s3Key": "k"}
PRESENT = "software.amazon.payloadoffloading.PayloadS3Pointer"
FORMER = "com.amazon.sqs.javamessaging.MessageS3Pointer"


def test_a_pointer_is_what_the_extended_clients_write() -> None:
    assert Pointer("b-1", "k").text == f'["{PRESENT}",{{"s3BucketName":"b-1","s3Key":"k"}}]'
    assert parse_pointer(Pointer("b-1", "k").text) == Pointer("b-1", "k")


@pytest.mark.parametrize("name", [PRESENT, FORMER])
def test_both_names_are_read(name: str) -> None:
    assert parse_pointer(orjson.dumps([name, PLACE])) == Pointer("b-1", "k")


@pytest.mark.parametrize(
    "parsed",
    [
        {},
        [],
        [PRESENT],
        [PRESENT, PLACE, 1],
        ["java.lang.Runtime", PLACE],
        [[PRESENT], PLACE],
        [PRESENT, {"s3BucketName": "b"}],
        [PRESENT, {"s3BucketName": 1, "s3Key": "k"}],
        [PRESENT, {"s3BucketName": "b", "s3Key": ""}],
        [PRESENT, "text"],
        None,
    ],
)
def test_what_is_no_pointer(parsed: object) -> None:
    assert parse_pointer(orjson.dumps(parsed)) is None


@pytest.mark.parametrize("text", [Pointer("b-1", "k").text[:end] for end in range(0, 90, 7)])
def test_a_cut_pointer_is_none(text: str) -> None:
    assert parse_pointer(text) is None


@pytest.mark.parametrize(
    ("body", "content", "encoding"),
    [(b"text", b"text", ""), ("größer".encode(), "größer".encode(), ""), (b"\x00\xff", b"AP8=", "base64")],
)
def test_the_object_is_what_the_body_would_be(body: bytes, content: bytes, encoding: str) -> None:
    payload = LargePayload(Pointer("b-1", "k"), body)
    assert (payload.content.part(0), payload.encoding) == (content, encoding)
    assert payload.size_attribute == ("ExtendedPayloadSize", "Number", str(len(content)))


class Body:
    """A body in a scripted S3."""

    def __init__(self, content: bytes, encoding: str = "", room: int = 1000) -> None:
        self.aws = ScriptedSns()
        self.objects = self.aws.objects
        self.objects.budget = ByteBudget(room)
        self.objects.kept["b-1", "k"] = content
        payloads = LargePayloads(self.aws, LargePayloadSettings(bucket="b-1"), 1000)
        self.body = payloads.body(Pointer("b-1", "k"), encoding, ordered=False)


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        (b"text", "", b"text"),
        (b"AP8=", "base64", b"\x00\xff"),
        (b"AP8=", "", b"AP8="),
        (b"not base64", "base64", b"not base64"),
        (b"-", "rot13", b"-"),
    ],
)
async def test_a_body_is_fetched_into_memory_that_it_shares(content: bytes, encoding: str, expected: bytes) -> None:
    rig = Body(content, encoding)
    assert await rig.body.fetch() == expected
    assert len(expected) <= rig.objects.budget.used <= len(content)
    rig.body.forget()
    rig.body.forget()
    assert rig.objects.budget.used == 0
    assert await rig.body.fetch() == expected, "as often as it is needed"


@on_clock
async def test_a_body_waits_for_room_before_it_is_read() -> None:
    rig = Body(b"x" * 60, room=100)
    other = AwaitedShare(rig.objects.budget)
    await other.take(50)
    task = asyncio.create_task(rig.body.fetch())
    await settle_down()
    assert rig.objects.budget.waiting == 1
    other.drop()
    assert await task == b"x" * 60


async def test_a_body_that_has_no_room_alone_is_not_read() -> None:
    rig = Body(b"x" * 101, room=100)
    with pytest.raises(TooLarge, match="101 bytes, more than 100"):
        await rig.body.fetch()
    assert rig.objects.budget.used == 0


async def test_base64_may_be_larger_than_the_room_for_its_payload() -> None:
    rig = Body(base64.b64encode(b"x" * 100), "base64", room=100)
    assert await rig.body.fetch() == b"x" * 100


@pytest.mark.parametrize("changes", [1, 2, 3])
async def test_a_body_that_changes_is_read_from_its_beginning(changes: int) -> None:
    rig = Body(b"text")
    rig.objects.changes = [Changed("changed")] * changes
    if changes < 3:
        assert await rig.body.fetch() == b"text"
        return
    with pytest.raises(Unavailable, match="again and again"):
        await rig.body.fetch()
    assert rig.objects.budget.used == 0


async def test_a_body_that_is_not_there_takes_no_memory() -> None:
    rig = Body(b"")
    del rig.objects.kept["b-1", "k"]
    with capture_logs() as lines, pytest.raises(NotFound):
        await rig.body.fetch()
    assert [line["event"] for line in lines] == ["large_payload_not_fetched"]
    assert rig.objects.budget.used == 0


def test_only_buckets_of_the_settings_are_read() -> None:
    payloads = LargePayloads(ScriptedSns(), LargePayloadSettings(bucket="b-1", also_read=("b-2",)), 1000)
    sized = {"ExtendedPayloadSize": {}}
    for bucket, read in (("b-1", True), ("b-2", True), ("b-3", False)):
        assert (payloads.pointer(Pointer(bucket, "k").text, sized) is not None) is read
    assert payloads.pointer(Pointer("b-1", "k").text, {"SQSLargePayloadSize": {}}) is not None
    assert payloads.pointer(Pointer("b-1", "k").text, {}) is None


def test_the_threshold_is_never_over_the_limit() -> None:
    for threshold, expected in ((None, 1000), (500, 500), (5000, 1000)):
        settings = LargePayloadSettings(bucket="b-1", threshold=threshold)
        assert LargePayloads(ScriptedSns(), settings, 1000).threshold == expected


@pytest.mark.parametrize("bucket", ["", "ab", "UPPER", "a/b", "a b", "x" * 64])
def test_a_bucket_has_a_legal_name(bucket: str) -> None:
    with pytest.raises(ValidationError):
        LargePayloadSettings(bucket=bucket)
