# ruff: noqa: N803 - botocore's names of parameters
import asyncio

import pytest
from botocore.exceptions import ClientError

from adapters.aws.objects import GetObjectAnswer, S3Client, S3Objects
from gateway.core.errors import AccessDenied, BackendError, NotFound, Throttled, TooLarge, Unavailable


class Content:
    """The body of an answer."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.closed = False

    async def read(self) -> bytes:
        return self.content

    def close(self) -> None:
        self.closed = True


class ScriptedS3:
    """Keeps objects; `failure` is raised, or with None waited for, whatever is asked."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}
        self.answered: list[Content] = []
        self.failure: Exception | bool | None = False

    async def _fail(self) -> None:
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure is None:
            await asyncio.Event().wait()

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> object:
        await self._fail()
        self.kept[Bucket, Key] = Body
        return {}

    async def get_object(self, *, Bucket: str, Key: str) -> GetObjectAnswer:
        await self._fail()
        content = Content(self.kept[Bucket, Key])
        self.answered.append(content)
        return {"ContentLength": len(content.content), "Body": content}

    async def delete_object(self, *, Bucket: str, Key: str) -> object:
        await self._fail()
        self.kept.pop((Bucket, Key), None)
        return {}


class Rig:
    def __init__(self, read_timeout: float = 5.0) -> None:
        self.s3 = ScriptedS3()
        self.calls: list[tuple[str, str, str]] = []
        self.objects = S3Objects(self._client, read_timeout, lambda *call: self.calls.append(call[:3]))

    async def _client(self) -> S3Client:
        return self.s3


async def test_objects_are_kept_read_and_removed() -> None:
    rig = Rig()
    await rig.objects.put("payloads", "k", b"body")
    assert await rig.objects.get("payloads", "k", 4) == b"body"
    await rig.objects.delete("payloads", "k")
    await rig.objects.delete("payloads", "k")
    assert not rig.s3.kept
    assert rig.calls[:2] == [("s3", "PutObject", "accepted"), ("s3", "GetObject", "accepted")]


async def test_what_is_too_large_is_not_read() -> None:
    rig = Rig()
    await rig.objects.put("payloads", "k", b"body")
    with pytest.raises(TooLarge, match=r"s3 bucket payloads .*more than 3"):
        await rig.objects.get("payloads", "k", 3)
    assert rig.s3.answered[0].closed


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchKey", 404, NotFound),
        ("NoSuchBucket", 404, NotFound),
        ("AccessDenied", 403, AccessDenied),
        ("SlowDown", 503, Throttled),
        ("InternalError", 500, Unavailable),
    ],
)
async def test_refusals(code: str, status: int, expected: type[BackendError]) -> None:
    rig = Rig()
    answer = {"Error": {"Code": code, "Message": "told"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    rig.s3.failure = ClientError(answer, "any")
    for call in (rig.objects.put("payloads", "k", b""), rig.objects.get("payloads", "k", 1)):
        with pytest.raises(expected, match=f"s3 bucket payloads .*{code}: told"):
            await call


async def test_s3_is_not_waited_for_without_end() -> None:
    rig = Rig(read_timeout=0.01)
    rig.s3.failure = None
    for call in (rig.objects.put("payloads", "k", b""), rig.objects.get("payloads", "k", 1)):
        with pytest.raises(Unavailable, match="no answer in time"):
            await call
    assert [outcome for _, _, outcome in rig.calls] == ["unavailable", "unavailable"]
