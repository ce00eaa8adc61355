"""Objects in S3, through aiobotocore: they are few, and large. In parts where they are larger than one
(`docs/adr/0021-large-bodies-in-parts.md`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from adapters.aws.api import Changed, Observer, Version
from adapters.aws.content import PART_BYTES, Content, Payload, parts_of
from adapters.aws.observed import observed
from adapters.aws.parts import AGAIN, FETCH_PATIENCE, all_parts
from adapters.aws.s3client import CompletedPart, GetObjectAnswer, S3Client
from adapters.aws.translated import translated
from adapters.aws.uploads import Upload
from gateway.core.budget import ByteBudget
from gateway.core.errors import BackendError, Unavailable
from gateway.core.retrying import retried

SLOWEST: Final = 1_048_576
"""Bytes in a second of a transfer that is still worth waiting for."""

PARTS_AT_ONCE: Final = 4
"""Parts that are sent or read together, of all objects: each takes some three times its bytes in buffers."""

READ_BYTES: Final = 256 * 1024
"""Of an answer that are taken together."""

T = TypeVar("T")


CHECKSUM: Final = "CRC32"
"""Of each part, made by botocore and compared by S3. It has to be asked for where an upload begins: botocore's default
adds it to the parts alone, which S3 then refuses."""


class S3Objects:
    """Implements `adapters.aws.api.ObjectStore`."""

    def __init__(
        self,
        client: Callable[[], Awaitable[S3Client]],
        read_timeout: float,
        observe: Observer,
        budget: ByteBudget | None = None,
    ) -> None:
        """`client` opens the client when it is first needed; `read_timeout`: seconds for an answer without a body."""
        self.budget = budget or ByteBudget()
        self._client = client
        self._read_timeout = read_timeout
        self._observe = observe
        self._gate = asyncio.Semaphore(PARTS_AT_ONCE)

    async def put(self, bucket: str, key: str, content: Content, deadline: float) -> None:
        """As `ObjectStore.put`."""
        if content.parts > 1:
            await Upload(self, bucket, key, content, deadline).run()
            return

        async def put() -> None:
            async with self._gate:
                part = content.part(0)
                await self._call("PutObject", bucket, len(part), lambda s3: _put(s3, bucket, key, part))

        await retried(put, deadline, AGAIN)

    async def look(self, bucket: str, key: str) -> Version:
        """As `ObjectStore.look`."""

        async def look(s3: S3Client) -> Version:
            answer = await s3.head_object(Bucket=bucket, Key=key)
            return Version(answer["ContentLength"], answer["ETag"])

        return await self._call("HeadObject", bucket, 0, look)

    async def get(self, bucket: str, key: str, version: Version, *, base64: bool) -> bytes:
        """As `ObjectStore.get`."""
        payload = Payload(version.size, base64=base64)
        deadline = asyncio.get_running_loop().time() + FETCH_PATIENCE

        async def get(number: int) -> None:
            async with self._gate:
                payload.add(number, await self._part(bucket, key, version, number))

        if version.size:  # a range of nothing is an error
            await all_parts(parts_of(version.size), lambda number: retried(lambda: get(number), deadline, AGAIN))
        return payload.body()

    async def _part(self, bucket: str, key: str, version: Version, number: int) -> bytearray:
        start = number * PART_BYTES
        stop = min(start + PART_BYTES, version.size)

        async def get(s3: S3Client) -> bytearray:
            answer = await s3.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=version.etag
            )
            return await _read(answer, stop - start)

        try:
            return await self._call("GetObject", bucket, stop - start, get)
        except BackendError as error:
            if error.problem.startswith(("PreconditionFailed", "412")):
                # Not another attempt of this part: the others are of the version that is gone.
                raise Changed(f"the object {key} was written again while it was read") from error
            raise

    async def delete(self, bucket: str, key: str) -> None:
        """As `ObjectStore.delete`."""
        await self._call("DeleteObject", bucket, 0, lambda s3: s3.delete_object(Bucket=bucket, Key=key))

    # What an upload asks for

    async def create_upload(self, bucket: str, key: str) -> str:
        """Begin an upload; gives its id."""

        async def create(s3: S3Client) -> str:
            answer = await s3.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm=CHECKSUM)
            return answer["UploadId"]

        return await self._call("CreateMultipartUpload", bucket, 0, create)

    async def upload_part(self, bucket: str, key: str, upload_id: str, content: Content, number: int) -> CompletedPart:
        """Send one part, from 0; gives what has to be said of it at the end."""
        async with self._gate:
            part = content.part(number)

            async def upload(s3: S3Client) -> CompletedPart:
                answer = await s3.upload_part(
                    Bucket=bucket,
                    Key=key,
                    UploadId=upload_id,
                    PartNumber=number + 1,
                    Body=part,
                    ChecksumAlgorithm=CHECKSUM,
                )
                completed = CompletedPart(PartNumber=number + 1, ETag=answer["ETag"])
                if "ChecksumCRC32" in answer:  # stores that are like S3 may have none
                    completed["ChecksumCRC32"] = answer["ChecksumCRC32"]
                return completed

            return await self._call("UploadPart", bucket, len(part), upload)

    async def complete_upload(self, bucket: str, key: str, upload_id: str, parts: list[CompletedPart]) -> None:
        """Have the parts become an object."""
        await self._call(
            "CompleteMultipartUpload",
            bucket,
            0,
            lambda s3: s3.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            ),
        )

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Have the parts forgotten."""
        await self._call(
            "AbortMultipartUpload",
            bucket,
            0,
            lambda s3: s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id),
        )

    async def _call(self, action: str, bucket: str, size: int, call: Callable[[S3Client], Awaitable[T]]) -> T:
        return await observed(self._observe, "s3", action, self._attempt(action, bucket, size, call))

    async def _attempt(self, action: str, bucket: str, size: int, call: Callable[[S3Client], Awaitable[T]]) -> T:
        with translated("s3", action, f"s3 bucket {bucket}"):
            async with asyncio.timeout(self._read_timeout + size / SLOWEST):
                return await call(await self._client())


async def _put(s3: S3Client, bucket: str, key: str, body: bytes) -> None:
    await s3.put_object(Bucket=bucket, Key=key, Body=body)


async def _read(answer: GetObjectAnswer, size: int) -> bytearray:
    """The bytes of an answer. Raises `Unavailable` when they are not as many as were asked for."""
    body = answer["Body"]
    part = bytearray()
    try:
        while len(part) <= size and (piece := await body.read(READ_BYTES)):
            part += piece
    finally:
        body.close()
    if len(part) != size:
        raise Unavailable(f"{len(part)} bytes came, not {size}")
    return part
