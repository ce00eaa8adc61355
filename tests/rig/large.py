"""Bodies that are fetched when a test says so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.core.backend import Received
from gateway.core.budget import AwaitedShare, ByteBudget
from gateway.core.errors import BackendError
from gateway.core.message import NO_HEADERS, Headers
from tests.rig.scripted import message


class ScriptedBody:
    """A large body, for which there may have to be room. Implements `gateway.core.backend.LargeBody`."""

    def __init__(self, body: bytes, *, budget: ByteBudget | None = None, ordered: bool = False) -> None:
        self.body = body
        self.ordered = ordered
        self.fetches = 0
        self.failures: list[BackendError] = []
        self.arrived = asyncio.Event()
        """Set: fetches are answered at once, unless a test clears it."""
        self.arrived.set()
        self.share = AwaitedShare(budget or ByteBudget())

    async def fetch(self) -> bytes:
        self.fetches += 1
        try:
            await self.share.take(len(self.body))
            await self.arrived.wait()
            self._fail()
        except BaseException:
            self.share.drop()
            raise
        return self.body

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def forget(self) -> None:
        self.share.drop()

    @property
    def in_memory(self) -> bool:
        return self.share.held > 0

    def received(
        self, attempt: int = 1, stored_at: float = 0.0, not_before: float = 0.0, headers: Headers = NO_HEADERS
    ) -> Received:
        """The message that it is the body of, without it."""
        made = replace(message(b""), not_before=not_before, headers=headers)
        return Received(made, f"r-{self.body.decode()}", attempt, stored_at=stored_at, large=self)
