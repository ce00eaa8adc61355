"""Calls of DynamoDB: a few at once, each tried again while that may help."""

from __future__ import annotations

import asyncio
from typing import Final

from adapters.aws.api import AwsClient
from adapters.aws.errors import code_of
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import BackendError, Unavailable
from gateway.core.retrying import retried
from gateway.core.store import StoreError

PATIENCE: Final = 10.0
"""Seconds after which a call that fails is not tried again: who asked is to learn that the store does not answer."""

ATTEMPT_SECONDS: Final = 3.0
"""For one answer: DynamoDB needs a few milliseconds, so what takes longer is lost."""

AGAIN: Final = BatchPolicy(backoff_base=0.05, backoff_cap=1.0)
"""The pauses before a call is tried again."""

PARALLEL: Final = 64
"""Requests under way at once. At 5 ms each they make 12,000 writes a second, more than a new table takes."""

QUEUED: Final = 10_000
"""Calls that have begun, at most; more of them are refused rather than kept in memory."""


class ConditionFailed(Exception):
    """The item was not what the request said that it must be.

    `unsure`: there was an attempt before this one whose answer did not come, and which may have changed the item.
    """

    def __init__(self, *, unsure: bool) -> None:
        super().__init__("the item has changed")
        self.unsure = unsure


class Calls:
    """Calls of one table."""

    def __init__(self, aws: AwsClient, table: str, read_timeout: float) -> None:
        """`read_timeout`: seconds that the client waits for an answer of any service."""
        self.region = aws.region
        self.table = table
        self._aws = aws
        self._attempt_seconds = min(ATTEMPT_SECONDS, read_timeout)
        self._turns = asyncio.Semaphore(PARALLEL)
        self._begun = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def call(self, action: str, request: bytes) -> bytes:
        """The answer. Raises `ConditionFailed`, and `StoreError` when retries are useless, or their time is over."""
        try:
            return await self.call_aws(action, request)
        except BackendError as error:
            raise StoreError(str(error)) from error

    async def call_aws(self, action: str, request: bytes) -> bytes:
        """As `call`, with the errors of AWS as they are (`BackendError`)."""
        if self._closed:
            raise StoreError("the state store is closed")
        if self._begun >= QUEUED:
            raise StoreError(f"the state store does not keep up: {QUEUED} calls wait for it")
        self._begun += 1
        self._idle.clear()
        try:
            return await self._retried(action, request)
        finally:
            self._begun -= 1
            if not self._begun:
                self._idle.set()

    async def aclose(self) -> None:
        """Take no more calls, and wait for those that have begun."""
        self._closed = True
        await self._idle.wait()

    async def _retried(self, action: str, request: bytes) -> bytes:
        unsure = False

        async def attempt() -> bytes:
            nonlocal unsure
            try:
                return await self._once(action, request)
            except BackendError as error:
                if code_of(error) == "ConditionalCheckFailedException":
                    raise ConditionFailed(unsure=unsure) from None
                unsure |= isinstance(error, Unavailable)
                raise

        return await retried(attempt, asyncio.get_running_loop().time() + PATIENCE, AGAIN)

    async def _once(self, action: str, request: bytes) -> bytes:
        resource = f"dynamodb table {self.table}"
        async with self._turns:
            return await self._aws.call(
                "dynamodb", action, request, resource=resource, read_timeout=self._attempt_seconds
            )
