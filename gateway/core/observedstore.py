"""A state store whose calls are counted and timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from gateway.core.metrics import Metrics
from gateway.core.store import Conflict, Record, StateStore

_T = TypeVar("_T")


class ObservedStore:
    """Passes everything on."""

    def __init__(self, store: StateStore, metrics: Metrics) -> None:
        self._store = store
        self._calls = metrics.state_calls
        self._seconds = metrics.state_seconds
        self.key_bytes = store.key_bytes
        self.value_bytes = store.value_bytes
        self.shared = store.shared

    async def get(self, kind: str, key: str) -> Record | None:
        return await self._observed("get", self._store.get(kind, key))

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        return await self._observed("put", self._store.put(kind, key, value, expected=expected, expires_at=expires_at))

    async def delete(self, kind: str, key: str, *, expected: int | None = None) -> bool:
        return await self._observed("delete", self._store.delete(kind, key, expected=expected))

    async def scan(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1_000) -> Sequence[Record]:
        return await self._observed("scan", self._store.scan(kind, prefix=prefix, after=after, limit=limit))

    async def expired(self, kind: str, now: float, *, limit: int = 1_000) -> Sequence[Record]:
        return await self._observed("expired", self._store.expired(kind, now, limit=limit))

    async def aclose(self) -> None:
        await self._store.aclose()

    async def _observed(self, action: str, call: Awaitable[_T]) -> _T:
        started = time.perf_counter()
        outcome = "failed"
        try:
            result = await call
            outcome = "done"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Conflict:
            outcome = "conflict"
            raise
        finally:
            self._seconds.labels(action).observe(time.perf_counter() - started)
            self._calls.labels(action, outcome).inc()
        return result
