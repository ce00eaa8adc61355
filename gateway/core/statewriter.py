"""Writes to the state store that come faster than it can take them: in order, and for each record the latest wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import structlog

from gateway.core.errors import MqliftError
from gateway.core.fleet.membership import Fleet
from gateway.core.store import Conflict, StateStore, StoreError

log = structlog.get_logger("mqlift.state")

PENDING_RECORDS: Final = 100_000
"""Records with a write under way or waiting; more are refused: the store has stopped, or is far too slow."""

Done: TypeAlias = Callable[[MqliftError | None], None]
"""Told once: None when what was asked for, or something later for the same record, is durable."""


class _Pending:
    """What is to be written to one record next, and who waits for it. `value` None removes the record."""

    __slots__ = ("anew", "changed", "conditional", "expires_at", "value", "waiting")

    def __init__(self) -> None:
        self.changed = False
        self.conditional = False
        self.anew = False
        """It is to be removed first: a condition for what was there before would be in vain."""
        self.value: bytes | None = None
        self.expires_at: float | None = None
        self.waiting: list[Done] = []


class StateWriter:
    """At most one write under way for each record; what comes meanwhile is written once, when that one has returned.

    With a `fleet`, what is written is announced, and counts as done when the other gateways can know of it.
    """

    def __init__(self, store: StateStore, fleet: Fleet | None = None) -> None:
        self._store = store
        self.fleet = fleet
        self._pending: dict[tuple[str, str], _Pending | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._versions: dict[tuple[str, str], int] = {}
        """Of the records that are written on condition, as they are known to be in the store."""
        self._watchers: list[set[tuple[str, str]]] = []

    @property
    def shared(self) -> bool:
        """Whether others write too."""
        return self.fleet is not None

    def write(
        self,
        kind: str,
        key: str,
        value: bytes | None,
        done: Done | None = None,
        *,
        expires_at: float | None = None,
        conditional: bool = False,
    ) -> None:
        """Write a record, or remove it for a value of None. Returns at once; `done` follows, from the event loop.

        Without `done` nobody waits: a failure is logged. `conditional`: only if the record is as this writer has left
        it, or as `known` has said, or not there; otherwise `done` is told `Conflict`.
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
        for watcher in self._watchers:
            watcher.add(record)
        pending = self._pending.get(record)
        if pending is None:
            pending = self._pending[record] = _Pending()
        removed = pending.anew or (pending.changed and pending.value is None)
        pending.anew = conditional and removed and value is not None
        pending.changed = True
        pending.value = value
        pending.expires_at = expires_at
        pending.conditional = conditional
        if done is not None:
            pending.waiting.append(done)
        if not writing:
            task = asyncio.get_running_loop().create_task(self._write(record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def known(self, kind: str, key: str, version: int) -> None:
        """What is there now, for writes on condition; 0 for nothing."""
        if version:
            self._versions[kind, key] = version
        else:
            self._versions.pop((kind, key), None)

    def version(self, kind: str, key: str) -> int:
        """What writes on condition go by."""
        return self._versions.get((kind, key), 0)

    def is_pending(self, kind: str, key: str) -> bool:
        """Whether a record is being written, or is about to be."""
        return (kind, key) in self._pending

    @contextmanager
    def watching(self) -> Iterator[set[tuple[str, str]]]:
        """The records that are written by this writer meanwhile: what is read of them meanwhile may be out of date."""
        watcher = set(self._pending)
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers = [each for each in self._watchers if each is not watcher]

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
            await self._store_once(kind, key, pending)
            if self.fleet is not None and self.fleet.follows(kind):
                await self.fleet.announce(kind, key)
        except Conflict as error:
            if self.fleet is not None and self.fleet.follows(kind):
                self.fleet.recheck(kind, key)
            log.info("state_changed_elsewhere", kind=kind, key=key)
            return error
        except StoreError as error:
            if self.fleet is not None and self.fleet.follows(kind):
                self.fleet.doubt(kind, key)
            log.error("state_not_written", kind=kind, problem=str(error))  # noqa: TRY400 - told in one line
            return error
        return None

    async def _store_once(self, kind: str, key: str, pending: _Pending) -> None:
        """Raises `StoreError`."""
        if pending.anew:
            await self._remove(kind, key, None)
        expected = self.version(kind, key) if pending.conditional else None
        if pending.value is None:
            await self._remove(kind, key, expected)
            return
        value, expires_at = pending.value, pending.expires_at
        record = await self._store.put(kind, key, value, expected=expected, expires_at=expires_at)
        if pending.conditional:
            self._versions[kind, key] = record.version

    async def _remove(self, kind: str, key: str, expected: int | None) -> None:
        await self._store.delete(kind, key, expected=expected)
        self._versions.pop((kind, key), None)
