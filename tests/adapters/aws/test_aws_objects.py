# ruff: noqa: N803 - botocore's names of parameters
"""Objects in S3 over a scripted client: whole, in parts, and with every part failing."""

from __future__ import annotations

import asyncio
import base64
import random
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from botocore.exceptions import ClientError
from structlog.testing import capture_logs

from adapters.aws import content, objects
from adapters.aws.api import Changed, Version
from adapters.aws.content import Content
from adapters.aws.objects import PARTS_AT_ONCE, S3Objects
from adapters.aws.parts import PARTS_OF_ONE
from adapters.aws.s3client import (
    CompletedPart,
    CreatedUpload,
    GetObjectAnswer,
    HeadObjectAnswer,
    S3Client,
    UploadPartAnswer,
)
from gateway.core.errors import AccessDenied, BackendError, NotFound, Throttled, Unavailable
from tests.rig.clock import on_clock

PART = 1000
PLACE = ("payloads", "k")
FOR_EVER = float("inf")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "PART_BYTES", PART)
    monkeypatch.setattr(content, "_PAYLOAD_BYTES", PART // 4 * 3)
    monkeypatch.setattr(objects, "PART_BYTES", PART)


def refusal(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "told"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "")


class Stream:
    """The body of an answer; `cut` bytes of it never come."""

    def __init__(self, data: bytes, cut: int = 0) -> None:
        self.data = data[: len(data) - cut]
        self.closed = False

    async def read(self, amt: int) -> bytes:
        await asyncio.sleep(0)
        piece, self.data = self.data[:7], self.data[7:]
        return piece

    def close(self) -> None:
        self.closed = True


class ScriptedS3:
    """Keeps objects. `before` is called with the action and the number of the part, and may raise or wait."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.calls: Counter[str] = Counter()
        self.now = 0
        self.most = 0
        """Parts that were under way together."""
        self.streams: list[Stream] = []
        self.cut = 0
        self.checksums = True
        self.before: Callable[[str, int], Awaitable[None]] | None = None

    async def _begin(self, action: str, part: int = 0) -> None:
        self.calls[action] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if self.before is not None:
                await self.before(action, part)
        finally:
            self.now -= 1

    def etag(self, place: tuple[str, str]) -> str:
        return f'"{zlib.crc32(self.kept[place])}"'

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> object:
        await self._begin("PutObject")
        self.kept[Bucket, Key] = Body
        return {}

    async def head_object(self, *, Bucket: str, Key: str) -> HeadObjectAnswer:
        await self._begin("HeadObject")
        if (Bucket, Key) not in self.kept:
            raise refusal("404", 404)
        return {"ContentLength": len(self.kept[Bucket, Key]), "ETag": self.etag((Bucket, Key))}

    async def get_object(self, *, Bucket: str, Key: str, Range: str, IfMatch: str) -> GetObjectAnswer:
        start, stop = map(int, Range.removeprefix("bytes=").split("-"))
        await self._begin("GetObject", start // PART)
        if self.etag((Bucket, Key)) != IfMatch:
            raise refusal("PreconditionFailed", 412)
        data = self.kept[Bucket, Key][start : stop + 1]
        stream = Stream(data, self.cut)
        self.cut = 0
        self.streams.append(stream)
        return {"ContentLength": len(data), "Body": stream}

    async def delete_object(self, *, Bucket: str, Key: str) -> object:
        await self._begin("DeleteObject")
        self.kept.pop((Bucket, Key), None)
        return {}

    async def create_multipart_upload(self, *, Bucket: str, Key: str, ChecksumAlgorithm: str) -> CreatedUpload:
        assert ChecksumAlgorithm == "CRC32"
        await self._begin("CreateMultipartUpload")
        upload = f"u{len(self.uploads)}"
        self.uploads[upload] = {}
        return {"UploadId": upload}

    async def upload_part(
        self, *, Bucket: str, Key: str, UploadId: str, PartNumber: int, Body: bytes, ChecksumAlgorithm: str
    ) -> UploadPartAnswer:
        assert ChecksumAlgorithm == "CRC32"
        await self._begin("UploadPart", PartNumber)
        self.uploads[UploadId][PartNumber] = Body
        answer: UploadPartAnswer = {"ETag": f"e{PartNumber}"}
        if self.checksums:
            answer["ChecksumCRC32"] = f"c{PartNumber}"
        return answer

    async def complete_multipart_upload(
        self, *, Bucket: str, Key: str, UploadId: str, MultipartUpload: dict[str, list[CompletedPart]]
    ) -> object:
        await self._begin("CompleteMultipartUpload")
        parts = self.uploads[UploadId]
        expected = [
            {"PartNumber": number, "ETag": f"e{number}"} | ({"ChecksumCRC32": f"c{number}"} if self.checksums else {})
            for number in sorted(parts)
        ]
        assert MultipartUpload == {"Parts": expected}
        del self.uploads[UploadId]
        self.kept[Bucket, Key] = b"".join(parts[number] for number in sorted(parts))
        return {}

    async def abort_multipart_upload(self, *, Bucket: str, Key: str, UploadId: str) -> object:
        await self._begin("AbortMultipartUpload")
        if UploadId not in self.uploads:
            raise refusal("NoSuchUpload", 404)
        del self.uploads[UploadId]
        return {}


class Rig:
    def __init__(self, read_timeout: float = 5.0) -> None:
        self.s3 = ScriptedS3()
        self.calls: list[tuple[str, str, str]] = []
        self.objects = S3Objects(self._client, read_timeout, lambda *call: self.calls.append(call[:3]))

    async def _client(self) -> S3Client:
        return self.s3

    async def put(self, body: bytes, deadline: float = FOR_EVER) -> None:
        await self.objects.put(*PLACE, Content(body), deadline)

    async def get(self, *, base64: bool = False) -> bytes:
        return await self.objects.get(*PLACE, await self.objects.look(*PLACE), base64=base64)

    def fail(self, action: str, times: int, error: Exception, part: int | None = None) -> None:
        """The first `times` calls of an action fail, or those of one part."""
        left = times

        async def before(called: str, number: int) -> None:
            nonlocal left
            if called == action and left and part in (None, number):
                left -= 1
                raise error

        self.s3.before = before


def large(parts: int = 5) -> bytes:
    return random.Random(parts).randbytes(parts * PART // 2 - 100).hex().encode()


UNAVAILABLE = refusal("InternalError", 500)
NEVER_MIND = refusal("SlowDown", 503)


async def test_a_small_object_is_one_request_each_way() -> None:
    rig = Rig()
    await rig.put(b"body")
    assert await rig.objects.look(*PLACE) == Version(4, rig.s3.etag(PLACE))
    assert await rig.get() == b"body"
    await rig.objects.delete(*PLACE)
    await rig.objects.delete(*PLACE)
    assert not rig.s3.kept
    assert rig.s3.calls == {"PutObject": 1, "HeadObject": 2, "GetObject": 1, "DeleteObject": 2}
    assert rig.calls[:2] == [("s3", "PutObject", "accepted"), ("s3", "HeadObject", "accepted")]
    assert all(stream.closed for stream in rig.s3.streams)


@pytest.mark.parametrize("checksums", [True, False], ids=["S3", "one without checksums"])
async def test_a_large_object_goes_in_parts_each_way(checksums: bool) -> None:
    rig = Rig()
    rig.s3.checksums = checksums
    body = large(7)
    await rig.put(body)
    assert rig.s3.kept == {PLACE: body}
    assert not rig.s3.uploads
    assert await rig.get() == body
    assert rig.s3.calls == {
        "CreateMultipartUpload": 1,
        "UploadPart": 7,
        "CompleteMultipartUpload": 1,
        "HeadObject": 1,
        "GetObject": 7,
    }
    assert rig.s3.most == PARTS_OF_ONE


async def test_a_binary_body_is_base64_in_s3_as_if_it_had_been_encoded_as_a_whole() -> None:
    rig = Rig()
    body = random.Random(1).randbytes(5 * PART + 1)
    await rig.put(body)
    assert rig.s3.kept[PLACE] == base64.b64encode(body)
    assert await rig.get(base64=True) == body
    assert await rig.get() == base64.b64encode(body)


async def test_all_objects_together_have_few_parts_under_way() -> None:
    rig = Rig()
    await asyncio.gather(*(rig.objects.put("payloads", key, Content(large()), FOR_EVER) for key in "abcdef"))
    assert len(rig.s3.kept) == 6
    assert rig.s3.most <= PARTS_AT_ONCE + PARTS_OF_ONE, "parts, and what begins and ends uploads"


async def test_an_empty_object_is_read() -> None:
    rig = Rig()
    rig.s3.kept[PLACE] = b""
    assert await rig.get() == b""


@pytest.mark.parametrize("error", [UNAVAILABLE, NEVER_MIND])
@pytest.mark.parametrize("action", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@on_clock
async def test_what_fails_is_sent_again_and_nothing_else(action: str, error: ClientError) -> None:
    rig = Rig()
    rig.fail(action, 3, error)
    await rig.put(large())
    assert rig.s3.kept == {PLACE: large()}
    usual = {"CreateMultipartUpload": 1, "UploadPart": 5, "CompleteMultipartUpload": 1}
    assert rig.s3.calls == usual | {action: usual[action] + 3}


@on_clock
async def test_a_small_object_is_sent_again() -> None:
    rig = Rig()
    rig.fail("PutObject", 2, UNAVAILABLE)
    await rig.put(b"body")
    assert rig.s3.kept == {PLACE: b"body"}


@pytest.mark.parametrize(
    ("error", "expected"), [(UNAVAILABLE, Unavailable), (refusal("AccessDenied", 403), AccessDenied)]
)
@pytest.mark.parametrize("part", [1, 3, 5])
@on_clock
async def test_one_part_that_never_succeeds_ends_the_upload(
    part: int, error: ClientError, expected: type[BackendError]
) -> None:
    rig = Rig()
    rig.fail("UploadPart", 10**6, error, part)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(expected, match="s3 bucket payloads"):
        await rig.put(large(), began + 10.0)
    assert loop.time() - began <= 10.0
    assert (rig.s3.kept, rig.s3.uploads) == ({}, {})
    assert rig.s3.calls["AbortMultipartUpload"] == 1


@on_clock
async def test_an_upload_that_cannot_be_completed_leaves_nothing() -> None:
    rig = Rig()
    rig.fail("CompleteMultipartUpload", 10**6, UNAVAILABLE)
    with pytest.raises(Unavailable):
        await rig.put(large(), asyncio.get_running_loop().time() + 10.0)
    assert (rig.s3.kept, rig.s3.uploads) == ({}, {})


async def test_without_time_left_nothing_is_tried_twice() -> None:
    rig = Rig()
    rig.fail("UploadPart", 1, UNAVAILABLE)
    with pytest.raises(Unavailable):
        await rig.put(large(), 0.0)
    assert rig.s3.calls["AbortMultipartUpload"] == 1


async def test_an_upload_that_is_cancelled_is_aborted() -> None:
    rig = Rig()
    begun = asyncio.Event()

    async def before(action: str, part: int) -> None:
        if part == 2:
            begun.set()
            await asyncio.Event().wait()

    rig.s3.before = before
    task = asyncio.create_task(rig.put(large()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (rig.s3.kept, rig.s3.uploads) == ({}, {})
    assert rig.s3.now == 0


@pytest.mark.parametrize("error", [UNAVAILABLE, None], ids=["fails", "has no answer"])
@on_clock
async def test_an_abort_that_fails_is_told_and_hides_no_error(error: ClientError | None) -> None:
    rig = Rig()

    async def before(action: str, part: int) -> None:
        if part == 2:
            raise refusal("AccessDenied", 403)
        if action == "AbortMultipartUpload":
            if error is None:
                await asyncio.Event().wait()
            else:
                raise error

    rig.s3.before = before
    with capture_logs() as lines, pytest.raises(AccessDenied):
        await rig.put(large())
    (line,) = (line for line in lines if line["event"] == "upload_not_aborted")
    assert (line["key"], line["upload"]) == ("k", "u0")


async def test_an_upload_that_is_gone_needs_no_abort() -> None:
    rig = Rig()

    async def before(action: str, part: int) -> None:
        if part == 5:
            rig.s3.uploads.clear()
            raise refusal("NoSuchUpload", 404)

    rig.s3.before = before
    with capture_logs() as lines, pytest.raises(NotFound):
        await rig.put(large())
    assert "upload_not_aborted" not in [line["event"] for line in lines]


@on_clock
async def test_a_part_that_cannot_be_read_is_read_again_alone() -> None:
    rig = Rig()
    await rig.put(large())
    rig.fail("GetObject", 2, UNAVAILABLE, 3)
    assert await rig.get() == large()
    assert rig.s3.calls["GetObject"] == 5 + 2


@on_clock
async def test_a_part_that_is_cut_off_is_read_again() -> None:
    rig = Rig()
    await rig.put(large())
    rig.s3.cut = 1
    assert await rig.get() == large()
    assert rig.s3.calls["GetObject"] == 5 + 1


@on_clock
async def test_a_part_that_can_never_be_read_ends_the_reading() -> None:
    rig = Rig()
    await rig.put(large())
    rig.fail("GetObject", 10**6, UNAVAILABLE, 3)
    with pytest.raises(Unavailable, match="InternalError"):
        await rig.get()
    assert rig.s3.now == 0


@pytest.mark.parametrize("part", range(5))
async def test_no_two_versions_are_mixed(part: int) -> None:
    rig = Rig()
    await rig.put(large())

    async def before(action: str, number: int) -> None:
        if action == "GetObject" and number == part:
            rig.s3.kept[PLACE] = large()[::-1]

    rig.s3.before = before
    version = await rig.objects.look(*PLACE)
    with pytest.raises(Changed):
        await rig.objects.get(*PLACE, version, base64=False)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchKey", 404, NotFound),
        ("404", 404, NotFound),
        ("AccessDenied", 403, AccessDenied),
        ("SlowDown", 503, Throttled),
        ("InternalError", 500, Unavailable),
    ],
)
async def test_refusals(code: str, status: int, expected: type[BackendError]) -> None:
    rig = Rig()

    async def before(action: str, part: int) -> None:
        raise refusal(code, status)

    rig.s3.before = before
    for call in (rig.put(b"x", 0.0), rig.put(large(), 0.0), rig.objects.look(*PLACE), rig.objects.delete(*PLACE)):
        with pytest.raises(expected, match=f"s3 bucket payloads .*{code}: told"):
            await call


async def test_s3_is_not_waited_for_without_end() -> None:
    rig = Rig(read_timeout=0.01)

    async def before(action: str, part: int) -> None:
        await asyncio.Event().wait()

    rig.s3.before = before
    for call in (rig.put(b"x", 0.0), rig.put(large(), 0.0), rig.objects.look(*PLACE)):
        with pytest.raises(Unavailable, match="no answer in time"):
            await call
    assert {outcome for _, _, outcome in rig.calls} == {"unavailable"}
