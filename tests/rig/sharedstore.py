"""One state store for several gateways of a test, which may fail, wait, or lose answers for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from adapters.memory.store import MemoryStore
from gateway.core.store import Record, StoreError

T = TypeVar("T")


def never_fails() -> None:
    """What a healthy store says before and after each call."""


class SharedStore:
    """A gateway's own way to a store that it has in common with others. `before` and `after` each call may raise."""

    shared = True

    def __init__(self, common: MemoryStore) -> None:
        self.common = common
        self.key_bytes = common.key_bytes
        self.value_bytes = common.value_bytes
        self.before: Callable[[], None] = never_fails
        self.after: Callable[[], None] = never_fails
        self.delay: Callable[[], float] | None = None
        """Seconds that a call is on its way, and its answer again."""
        self.open = asyncio.Event()
        self.open.set()
        self.calls: list[tuple[str, str]] = []
        """What was asked, and of which kind."""
        self.closed = False

    def fail(self) -> None:
        """From now on nothing reaches the store."""

        def refuse() -> None:
            raise StoreError("out of reach")

        self.before = refuse

    def heal(self) -> None:
        self.before = self.after = never_fails

    async def get(self, kind: str, key: str) -> Record | None:
        return await self._call("get", kind, lambda: self.common.get(kind, key))

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        return await self._call(
            "put", kind, lambda: self.common.put(kind, key, value, expected=expected, expires_at=expires_at)
        )

    async def delete(self, kind: str, key: str, *, expected: int | None = None) -> bool:
        return await self._call("delete", kind, lambda: self.common.delete(kind, key, expected=expected))

    async def scan(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1_000) -> Sequence[Record]:
        return await self._call("scan", kind, lambda: self.common.scan(kind, prefix=prefix, after=after, limit=limit))

    async def expired(self, kind: str, now: float, *, limit: int = 1_000) -> Sequence[Record]:
        return await self._call("expired", kind, lambda: self.common.expired(kind, now, limit=limit))

    async def aclose(self) -> None:
        self.closed = True

    async def _call(self, action: str, kind: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.closed:
            raise StoreError("the state store is closed")
        self.calls.append((action, kind))
        await self._wait()
        await self.open.wait()
        self.before()
        result = await call()
        await self._wait()
        self.after()
        return result

    async def _wait(self) -> None:
        if self.delay is not None:
            await asyncio.sleep(self.delay())
