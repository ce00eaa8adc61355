"""Reading one shard for everybody here who consumes its stream, within what the service allows of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import structlog

from gateway.core.backend import Target
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import BackendError, NotFound, Unavailable
from gateway.core.health import FAILURES_TO_REPORT, Health
from gateway.core.streams.port import Page, Position, PositionLost, StreamBackend, StreamRecord, Whence

log = structlog.get_logger("mqlift.stream")

IDLE_SECONDS: Final = 0.5
"""Between two looks at a shard that had nothing: two of the five requests a second that AWS allows each shard."""

PAGE_BYTES: Final = 1024 * 1024
"""What one read should bring; how many records that is, is told by those that were read before."""

FIRST_GUESS: Final = 4_096
"""Bytes of a record, before any was read."""

UNKNOWN: Final = 3
"""Answers in a row that a stream is not there, before its consumers are told."""

BACKOFF: Final = BatchPolicy(backoff_base=0.5, backoff_cap=15.0)


class Wants(Protocol):
    """Who reads a shard."""

    def has_room(self) -> bool:
        """Whether more records are welcome."""

    def arrived(self, cursor: Cursor) -> None:
        """Records have come, or the end of the shard."""

    def gone(self) -> None:
        """What it reads is not there any more."""


class Reader(Protocol):
    """Fills cursors with what a shard has; `ShardReader`, or `push.ShardSubscriber`."""

    async def place(self, cursor: Cursor) -> None:
        """Fix where a cursor begins: what is written from now on is not missed. Raises `BackendError`."""

    def join(self, cursor: Cursor) -> None:
        """Begin to fill it. It may have joined before."""

    def leave(self, cursor: Cursor) -> None:
        """Fill it no more."""

    def wake(self) -> None:
        """Somebody has room again."""


class Waiting(NamedTuple):
    """One message of a record that was read and not handed out yet. `last`: of its record."""

    record: StreamRecord
    number: int
    last: bool


class Cursor:
    """How far one consumer has read one shard; `waiting` is what it has not been given yet."""

    __slots__ = ("ended", "iterator", "owner", "position", "size", "waiting")

    def __init__(self, owner: Wants, position: Position) -> None:
        self.owner = owner
        self.position = position
        self.iterator: str | None = None
        """For the next read; None to seek `position`."""
        self.waiting: deque[Waiting] = deque()
        self.size = 0
        """Bytes of what waits."""
        self.ended = False
        """Nothing comes any more: the shard is closed and was read to its end."""

    def take(self, page: Page) -> None:
        """Go on behind a page that was read from `position`."""
        for record in page.records:
            self._take(record)
        if page.records:
            self.position = Position(Whence.AFTER, page.records[-1].sequence)
        self.iterator = page.iterator
        self.ended = page.iterator is None
        if page.records or self.ended:
            self.owner.arrived(self)

    def _take(self, record: StreamRecord) -> None:
        begin = 0
        if self.position.whence is Whence.AT and record.sequence == self.position.sequence:
            begin = self.position.index
        count = len(record.messages)
        for index in range(begin, count):
            self.waiting.append(Waiting(record, index, index == count - 1))
        if begin < count:
            self.size += record.size

    def pop(self) -> Waiting:
        waiting = self.waiting.popleft()
        if waiting.last:
            self.size -= waiting.record.size
        return waiting


class Trouble:
    """What keeps going wrong with one shard: how long to wait for it, and who is told."""

    def __init__(self, resource: str, health: Health, gone: Callable[[], None]) -> None:
        """`gone`: called when the stream is not there any more."""
        self._resource = resource
        self._health = health
        self._gone = gone
        self._failures = 0
        self._unknown = 0

    def over(self) -> None:
        """It works, or nobody wants to know."""
        self._unknown = 0
        if self._failures:
            self._failures = 0
            self._health.clear(self._resource)

    def met(self, error: BackendError) -> float:
        """It has failed once more: seconds to wait."""
        self._failures += 1
        if (not error.retriable or self._failures >= FAILURES_TO_REPORT) and not error.throttled:
            self._health.report(self._resource, error)
        self._unknown = self._unknown + 1 if isinstance(error, NotFound) else 0
        if self._unknown >= UNKNOWN:
            self._unknown = 0
            self._gone()
        return BACKOFF.backoff(self._failures)

    def bug(self) -> BackendError:
        """The error of a backend that raised what it should not: that must not stop the stream for good."""
        return Unavailable("internal error, see the gateway's log", resource=self._resource)


class ShardReader:
    """The one reader of a shard in this gateway: each page goes to all who have come equally far, and have room.

    Whoever is behind the others has its turn, so that one who replays the shard and one who waits at its end share what
    may be read.
    """

    def __init__(
        self,
        backend: StreamBackend,
        target: Target,
        shard: str,
        *,
        health: Health,
        gone: Callable[[], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`gone`: called when the stream is not there any more."""
        self._backend = backend
        self._target = target
        self._shard = shard
        self._trouble = Trouble(f"{target.kind} {target.name} (read shard {shard})", health, gone)
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._cursors: deque[Cursor] = deque()
        self._wanted = asyncio.Event()
        self._not_before = 0.0
        self._record_bytes = FIRST_GUESS
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._cursors)

    async def place(self, cursor: Cursor) -> None:
        """As `Reader.place`."""
        cursor.iterator = await self._backend.seek(self._target, self._shard, cursor.position)
        self._fixed(cursor)

    def _fixed(self, cursor: Cursor) -> None:
        """Should its iterator be lost, the end of the shard is somewhere else by then: so remember when this was."""
        if cursor.position.whence is Whence.NEXT:
            cursor.position = Position(Whence.TIME, time=self._wall())

    def join(self, cursor: Cursor) -> None:
        self._cursors.append(cursor)
        self._wanted.set()
        if self._task is None:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._ended)

    def leave(self, cursor: Cursor) -> None:
        if cursor in self._cursors:
            self._cursors.remove(cursor)
        if not self._cursors:
            self._trouble.over()  # nobody would find out

    def wake(self) -> None:
        """Somebody has room again."""
        self._wanted.set()

    def stop(self) -> None:
        """No more reads. Nothing is lost by that: what was read stays in the stream."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Wait for the end of the reads."""
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reader_failed_unexpectedly", stream=self._target.name, shard=self._shard, exc_info=error)

    async def _run(self) -> None:
        while True:
            cursor = self._next()
            if cursor is None:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            await asyncio.sleep(max(0.0, self._not_before - self._loop.time()))
            if cursor in self._cursors and cursor.owner.has_room():
                await self._read_for(cursor)

    def _next(self) -> Cursor | None:
        """Whose turn it is, among those that have room."""
        for _ in range(len(self._cursors)):
            cursor = self._cursors[0]
            self._cursors.rotate(-1)
            if not cursor.ended and cursor.owner.has_room():
                return cursor
        return None

    async def _read_for(self, cursor: Cursor) -> None:
        limits = self._backend.read_limits
        self._not_before = self._loop.time() + 1.0 / limits.reads_per_second
        position = cursor.position
        try:
            if cursor.iterator is None:
                cursor.iterator = await self._backend.seek(self._target, self._shard, position)
            iterator = cursor.iterator
            limit = max(1, min(limits.page_records, PAGE_BYTES // self._record_bytes))
            page = await self._backend.read(self._target, self._shard, iterator, limit)
        except PositionLost:
            cursor.iterator = None
            return
        except BackendError as error:
            self._wait(self._trouble.met(error))
            return
        except Exception:
            log.exception("read_failed_unexpectedly", stream=self._target.name, shard=self._shard)
            self._wait(self._trouble.met(self._trouble.bug()))
            return
        self._trouble.over()
        self._pace(page)
        self._hand_out(page, position, iterator)

    def _pace(self, page: Page) -> None:
        """Wait as long as what was read takes at the rate that is allowed, and for a while at the shard's end."""
        limits = self._backend.read_limits
        now = self._loop.time()
        size = sum(record.size for record in page.records)
        if page.records:
            self._record_bytes = max(1, size // len(page.records))
        self._not_before = max(self._not_before, now + size / limits.bytes_per_second)
        if not page.records and not page.behind:
            self._not_before = max(self._not_before, now + IDLE_SECONDS)

    def _hand_out(self, page: Page, position: Position, iterator: str) -> None:
        for cursor in list(self._cursors):
            # A time is no place: two who begin at the same one may stand apart.
            equal = cursor.position == position and position.whence is not Whence.TIME
            if (equal or cursor.iterator == iterator) and not cursor.ended and cursor.owner.has_room():
                cursor.take(page)

    def _wait(self, seconds: float) -> None:
        self._not_before = self._loop.time() + max(1.0 / self._backend.read_limits.reads_per_second, seconds)
