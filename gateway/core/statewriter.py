"""Writes to the state store that come faster than it can take them: in order, and for each record the latest wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

import structlog

from gateway.core.errors import MqliftError
from gateway.core.store import StateStore, StoreError

log = structlog.get_logger("mqlift.state")

PENDING_RECORDS: Final = 100_000
"""Records with a write under way or waiting; more are refused: the store has stopped, or is far too slow."""

Done: TypeAlias = Callable[[MqliftError | None], None]
"""Told once: None when what was asked for, or something later for the same record, is durable."""


class _Pending:
    """What is to be written to one record next, and who waits for it. `value` None removes the record."""

    __slots__ = ("changed", "expires_at", "value", "waiting")

    def __init__(self) -> None:
        self.changed = False
        self.value: bytes | None = None
        self.expires_at: float | None = None
        self.waiting: list[Done] = []


class StateWriter:
    """At most one write under way for each record; what comes meanwhile is written once, when that one has returned."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._pending: dict[tuple[str, str], _Pending | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def write(
        self, kind: str, key: str, value: bytes | None, done: Done | None = None, *, expires_at: float | None = None
    ) -> None:
        """Write a record, or remove it for a value of None. Returns at once; `done` follows, from the event loop.

        Without `done` nobody waits: a failure is logged.
        """
        record = (kind, key)
        writing = record in self._pending
        if not writing and len(self._pending) >= PENDING_RECORDS:
            error = StoreError("the state store does not keep up")
            if done is None:
                log.error("state_not_written", kind=kind, problem=str(error))
            else:
                done(error)
            return
        pending = self._pending.get(record)
        if pending is None:
            pending = self._pending[record] = _Pending()
        pending.changed = True
        pending.value = value
        pending.expires_at = expires_at
        if done is not None:
            pending.waiting.append(done)
        if not writing:
            task = asyncio.get_running_loop().create_task(self._write(record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def settled(self, kind: str, key: str) -> None:
        """Wait until what was written to a record before this call is durable, or has failed."""
        record = (kind, key)
        if record not in self._pending:
            return
        pending = self._pending[record]
        if pending is None:
            pending = self._pending[record] = _Pending()
        written = asyncio.Event()
        pending.waiting.append(lambda _: written.set())
        await written.wait()

    async def drain(self) -> None:
        """Wait until everything is written."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _write(self, record: tuple[str, str]) -> None:
        while (pending := self._pending[record]) is not None:
            self._pending[record] = None
            error = await self._write_once(record, pending)
            for done in pending.waiting:
                done(error)
        del self._pending[record]

    async def _write_once(self, record: tuple[str, str], pending: _Pending) -> MqliftError | None:
        if not pending.changed:
            return None
        kind, key = record
        try:
            if pending.value is None:
                await self._store.delete(kind, key)
            else:
                await self._store.put(kind, key, pending.value, expires_at=pending.expires_at)
        except StoreError as error:
            log.error("state_not_written", kind=kind, problem=str(error))  # noqa: TRY400 - told in one line
            return error
        return None
