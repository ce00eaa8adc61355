"""A stream in memory, with shards that can be split and merged, that fails when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.backend import QueueSpec, Target
from gateway.core.errors import Contended
from gateway.core.message import Address, Message
from gateway.core.streams.port import Page, Position, PositionLost, ReadLimits, Shard, StreamRecord, Whence
from tests.rig.scripted import ScriptedBackend

LIMITS: Final = ReadLimits(reads_per_second=4.0, bytes_per_second=1_000_000, page_records=100, subscription_seconds=5.0)


IDLE_EVENT_SECONDS: Final = 5.0
"""Between two events of a subscription when nothing is written."""

SUBSCRIPTION_SECONDS: Final = 300.0
"""After so long a subscription ends."""

PAGE_BYTES: Final = 1_000_000
"""After so many bytes a page ends; in Kinesis after ten times as many."""


@dataclass
class Log:
    """One shard. `records` in order, each with the sequence numbers of the whole stream."""

    shard: Shard
    records: list[StreamRecord] = field(default_factory=list)


class StreamLog(ScriptedBackend):
    """Implements `StreamBackend`. Iterators are `shard/place`; `lose` makes those invalid that were given before."""

    def __init__(self, *shards: str, wall: float = 1_000_000.0) -> None:
        super().__init__()
        self.read_limits = LIMITS
        self.logs: dict[str, Log] = {shard: Log(Shard(shard)) for shard in shards}
        self.reads: list[tuple[float, str]] = []
        """When each read came, and of which shard."""
        self.seeks: list[tuple[str, Position]] = []
        self.failures: list[Exception] = []
        """What the next calls raise."""
        self.refusals: list[Exception] = []
        """What the next subscriptions raise."""
        self.enrolled: set[str] = set()
        self.subscriptions: list[tuple[float, str, str, Position]] = []
        """When each began that was agreed to, by whom, of which shard, and where."""
        self.live: dict[tuple[str, str], asyncio.Future[None]] = {}
        """Subscriptions that are read, by consumer and shard; `cut` ends one."""
        self.events = 0
        """Events that were taken."""
        self._written = asyncio.Event()
        self.now = wall
        self._sequences = itertools.count(1)
        self._lost_before = 0
        self._iterators = itertools.count()

    def home(self, queue: str, spec: QueueSpec) -> Target:
        return Target(kind="stream", name=queue, queue=queue)

    # What others write

    def write(self, shard: str, *bodies: str) -> None:
        """One record with one message for each body."""
        for body in bodies:
            self.aggregate(shard, body)

    def aggregate(self, shard: str, *bodies: str) -> None:
        """One record with all of them."""
        messages = [Message(Address("", "s"), body.encode()) for body in bodies]
        record = StreamRecord(str(next(self._sequences)), messages, self.now, sum(map(len, bodies)))
        self.logs[shard].records.append(record)
        self._something_new()

    def _something_new(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    def cut(self, consumer: str, shard: str, error: Exception | None = None) -> None:
        """End a subscription, with an error or as after its time."""
        ending = self.live[consumer, shard]
        if error is None:
            ending.set_result(None)
        else:
            ending.set_exception(error)

    def close(self, shard: str) -> None:
        log = self.logs[shard]
        log.shard = log.shard._replace(open=False)
        self._something_new()

    def split(self, shard: str, *children: str) -> None:
        self.close(shard)
        for child in children:
            self.logs[child] = Log(Shard(child, (shard,)))

    def merge(self, one: str, other: str, child: str) -> None:
        self.close(one)
        self.close(other)
        self.logs[child] = Log(Shard(child, (one, other)))

    def lose(self) -> None:
        """Iterators that were given out before are not valid any more."""
        self._lost_before = next(self._iterators)

    # StreamBackend

    async def shards(self, target: Target) -> Sequence[Shard]:
        self._fail()
        return [log.shard for log in self.logs.values()]

    async def seek(self, target: Target, shard: str, position: Position) -> str:
        self._fail()
        self.seeks.append((shard, position))
        return self._iterator(self._place(self.logs[shard].records, position))

    def _place(self, records: list[StreamRecord], position: Position) -> int:
        match position.whence:
            case Whence.FIRST:
                return 0
            case Whence.NEXT:
                return len(records)
            case Whence.TIME:
                return sum(record.arrived < position.time for record in records)
            case Whence.AT:
                return sum(int(record.sequence) < int(position.sequence) for record in records)
            case Whence.AFTER:
                return sum(int(record.sequence) <= int(position.sequence) for record in records)
        raise AssertionError(f"nobody seeks {position}")

    async def read(self, target: Target, shard: str, iterator: str, limit: int) -> Page:
        self.reads.append((asyncio.get_running_loop().time(), shard))
        self._fail()
        number, place = map(int, iterator.split("/"))
        if number < self._lost_before:
            raise PositionLost("the iterator has expired")
        log = self.logs[shard]
        end, size = place, 0
        while end < min(len(log.records), place + limit) and size < PAGE_BYTES:
            size += log.records[end].size
            end += 1
        behind = end < len(log.records)
        following = self._iterator(end) if behind or log.shard.open else None
        return Page(log.records[place:end], following, behind)

    def _iterator(self, place: int) -> str:
        return f"{next(self._iterators)}/{place}"

    async def enroll(self, target: Target, consumer: str) -> None:
        self._fail()
        self.enrolled.add(consumer)

    @contextlib.asynccontextmanager
    async def subscribe(
        self, target: Target, consumer: str, shard: str, position: Position
    ) -> AsyncIterator[AsyncIterator[Page]]:
        """One for each consumer and shard, as in Kinesis: the later one takes over."""
        self._fail()
        if self.refusals:
            raise self.refusals.pop(0)
        now = asyncio.get_running_loop().time()
        same = [at for at, *which, _ in self.subscriptions if which == [consumer, shard]]
        if same and now - same[-1] < LIMITS.subscription_seconds:
            raise Contended("there is another one")
        self.subscriptions.append((now, consumer, shard, position))
        before = self.live.get((consumer, shard))
        if before is not None and not before.done():
            before.set_exception(Contended("taken over"))
        ending = self.live[consumer, shard] = asyncio.get_running_loop().create_future()
        try:
            async with contextlib.aclosing(self._events(shard, position, ending)) as pages:
                yield pages
        finally:
            if not ending.done():
                ending.cancel()
            elif not ending.cancelled():
                ending.exception()  # whether or not it was met
            if self.live.get((consumer, shard)) is ending:
                del self.live[consumer, shard]

    async def _events(self, shard: str, position: Position, ending: asyncio.Future[None]) -> AsyncGenerator[Page, None]:
        loop = asyncio.get_running_loop()
        end = loop.time() + SUBSCRIPTION_SECONDS
        place = self._place(self.logs[shard].records, position)
        while not ending.done() and loop.time() < end:
            log, written = self.logs[shard], self._written
            records = log.records[place : place + LIMITS.page_records]
            place += len(records)
            behind = place < len(log.records)
            last = log.records[place - 1].sequence if place else "0"
            self.events += 1
            yield Page(records, last if behind or log.shard.open else None, behind)
            if not behind:
                waiting = asyncio.ensure_future(written.wait())
                await asyncio.wait({waiting, ending}, timeout=IDLE_EVENT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        if ending.done():
            ending.result()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
