"""Threads for checks that take long: a password hash, a directory that has to be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gateway.core.errors import Refused

T = TypeVar("T")


class CheckPool:
    """A few threads, and a bounded queue of what waits for them."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        """`waiting`: checks that wait for a thread, beside those that have one."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + waiting
        self._pending = 0

    async def run(self, check: Callable[[], T]) -> T:
        """The result of a check. Raises `Refused` when too many wait already.

        A caller that is cancelled leaves its check behind, which still counts until it has ended.
        """
        if self._pending >= self._limit:
            raise Refused("too many logins at once; try again")
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, check)
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[T]) -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # told to the caller, unless that has gone

    def retire(self) -> None:
        """Take no more; what waits is still checked."""
        self._executor.shutdown(wait=False)

    def close(self) -> None:
        """Take no more, and forget what waits."""
        self._executor.shutdown(wait=False, cancel_futures=True)
