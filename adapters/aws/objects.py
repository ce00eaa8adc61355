"""Objects in S3, through aiobotocore: they are few, and large.

One PutObject is enough for each (it takes 5 GB; S3 user guide, "Uploading objects"): a body is in memory as a whole
before it comes here, as the frame of a protocol, and counts there towards `inflight_bytes`. Parts of a multipart upload
would take the same memory, cost a request each, and have to be cleaned up when one fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypedDict, TypeVar

from adapters.aws.api import Observer
from adapters.aws.observed import observed
from adapters.aws.translated import translated
from gateway.core.errors import TooLarge

SLOWEST: Final = 1_048_576
"""Bytes in a second of a transfer that is still worth waiting for."""


T = TypeVar("T")


class Body(Protocol):
    async def read(self) -> bytes: ...

    def close(self) -> None: ...


class GetObjectAnswer(TypedDict):
    ContentLength: int
    Body: Body


class S3Client(Protocol):
    """What is used of aiobotocore's client."""

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> object: ...  # noqa: N803 - botocore's names

    async def get_object(self, *, Bucket: str, Key: str) -> GetObjectAnswer: ...  # noqa: N803 - botocore's names

    async def delete_object(self, *, Bucket: str, Key: str) -> object: ...  # noqa: N803 - botocore's names


class S3Objects:
    """Implements `adapters.aws.api.ObjectStore`."""

    def __init__(self, client: Callable[[], Awaitable[S3Client]], read_timeout: float, observe: Observer) -> None:
        """`client` opens the client when it is first needed; `read_timeout`: seconds for an answer without a body."""
        self._client = client
        self._read_timeout = read_timeout
        self._observe = observe

    async def put(self, bucket: str, key: str, body: bytes) -> None:
        async def put() -> None:
            client = await self._client()
            await client.put_object(Bucket=bucket, Key=key, Body=body)

        await self._call("PutObject", bucket, len(body), put())

    async def get(self, bucket: str, key: str, limit: int) -> bytes:
        async def get() -> bytes:
            client = await self._client()
            answer = await client.get_object(Bucket=bucket, Key=key)
            if answer["ContentLength"] > limit:
                answer["Body"].close()
                raise TooLarge(f"the object {key} has {answer['ContentLength']} bytes, more than {limit}")
            return await answer["Body"].read()

        return await self._call("GetObject", bucket, limit, get())

    async def delete(self, bucket: str, key: str) -> None:
        async def delete() -> None:
            client = await self._client()
            await client.delete_object(Bucket=bucket, Key=key)

        await self._call("DeleteObject", bucket, 0, delete())

    async def _call(self, action: str, bucket: str, size: int, call: Awaitable[T]) -> T:
        return await observed(self._observe, "s3", action, self._attempt(action, bucket, size, call))

    async def _attempt(self, action: str, bucket: str, size: int, call: Awaitable[T]) -> T:
        with translated("s3", action, f"s3 bucket {bucket}"):
            async with asyncio.timeout(self._read_timeout + size / SLOWEST):
                return await call
