"""A stream in memory, with shards that can be split and merged, that fails when it is told to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.backend import QueueSpec, Target
from gateway.core.message import Address, Message
from gateway.core.stream import Page, Position, PositionLost, ReadLimits, Shard, StreamRecord, Whence
from tests.rig.scripted import ScriptedBackend

LIMITS: Final = ReadLimits(reads_per_second=4.0, bytes_per_second=1_000_000, page_records=100)


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

    def close(self, shard: str) -> None:
        log = self.logs[shard]
        log.shard = log.shard._replace(open=False)

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

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
