"""Trying again what may pass by itself, for somebody who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.core.batcher import BatchPolicy
from gateway.core.errors import BackendError

T = TypeVar("T")


async def retried(attempt: Callable[[], Awaitable[T]], deadline: float, policy: BatchPolicy) -> T:
    """Make attempts until one succeeds, with the policy's pauses. Raises what the last `BackendError` was: one that is
    not retriable, or too late.

    `deadline` is on the event loop's clock, and cuts off nothing that is under way.
    """
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        try:
            return await attempt()
        except BackendError as error:
            failures += 1
            delay = policy.backoff(failures)
            if not error.retriable or loop.time() + delay >= deadline:
                raise
        await asyncio.sleep(delay)
