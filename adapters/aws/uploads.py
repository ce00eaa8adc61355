"""Sending an object to S3 in parts (S3 user guide, "Uploading and copying objects using multipart upload").

The object is there with the last request, or never: what a failure leaves behind is no object. But S3 keeps its parts,
and charges for them, until somebody says that they are not wanted.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from adapters.aws.content import Content
from adapters.aws.parts import AGAIN, all_parts
from adapters.aws.s3client import CompletedPart
from gateway.core.errors import BackendError, NotFound
from gateway.core.retrying import retried

ABORT_PATIENCE: Final = 5.0
"""Seconds for telling S3 that an upload is not wanted any more: somebody may wait for the gateway to stop."""

_log = structlog.get_logger("mqlift.payloads")


class UploadRequests(Protocol):
    """One attempt of each request. Raises `BackendError`."""

    async def create_upload(self, bucket: str, key: str) -> str: ...

    async def upload_part(
        self, bucket: str, key: str, upload_id: str, content: Content, number: int
    ) -> CompletedPart: ...

    async def complete_upload(self, bucket: str, key: str, upload_id: str, parts: list[CompletedPart]) -> None: ...

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None: ...


class Upload:
    """One object on its way."""

    def __init__(self, requests: UploadRequests, bucket: str, key: str, content: Content, deadline: float) -> None:
        """`deadline`: until when what fails is tried again, on the event loop's clock."""
        self._requests = requests
        self._bucket = bucket
        self._key = key
        self._content = content
        self._deadline = deadline

    async def run(self) -> None:
        """Send it. Raises `BackendError`, and then there is no object."""
        requests, bucket, key = self._requests, self._bucket, self._key
        upload_id = await retried(lambda: requests.create_upload(bucket, key), self._deadline, AGAIN)
        try:
            parts = await self._send(upload_id)
            await retried(lambda: requests.complete_upload(bucket, key, upload_id, parts), self._deadline, AGAIN)
        except BaseException:
            await self._abort(upload_id)
            raise

    async def _send(self, upload_id: str) -> list[CompletedPart]:
        completed: dict[int, CompletedPart] = {}

        async def send(number: int) -> None:
            completed[number] = await retried(
                lambda: self._requests.upload_part(self._bucket, self._key, upload_id, self._content, number),
                self._deadline,
                AGAIN,
            )

        await all_parts(self._content.parts, send)
        return [completed[number] for number in sorted(completed)]

    async def _abort(self, upload_id: str) -> None:
        try:
            async with asyncio.timeout(ABORT_PATIENCE):
                await self._requests.abort_upload(self._bucket, self._key, upload_id)
        except NotFound:
            return  # there is none any more
        except (BackendError, TimeoutError) as error:
            # A lifecycle rule of the bucket has to remove it.
            _log.warning("upload_not_aborted", key=self._key, upload=upload_id, problem=str(error) or "no answer")
