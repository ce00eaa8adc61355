"""A fault that lasts until the test ends it."""

from __future__ import annotations

import asyncio

from tests.rig.faults import Answer, Call, Connection, Forward


class Hold:
    """Keeps the answers of calls back until `release`, or (`before`) the calls themselves.

    With a `queue`, calls that concern other queues pass.
    """

    def __init__(self, *, before: bool = False, queue: str = "") -> None:
        self._before = before
        self._queue = queue
        self._released = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False
        self.held = 0
        """Calls that are held now."""

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        if self._queue not in {"", call.queue}:
            return await forward(call)
        if self._before:
            await self._wait()
            return await forward(call)
        answer = await forward(call)
        await self._wait()
        return answer

    def release(self) -> None:
        """Let everything pass, from now on, also what has not come yet. For the test's thread."""
        self._open = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._released.set)

    async def _wait(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._open:
            return
        self.held += 1
        await self._released.wait()
        self.held -= 1
