"""A consumer without a name reads all shards of its stream, from where it asked to; nothing of that is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from gateway.core.errors import BackendError
from gateway.core.retrying import retried
from gateway.core.streams.consumer import OwnShard, StreamConsumer
from gateway.core.streams.offset import Start, position_text
from gateway.core.streams.port import END, Position, Shard, Whence
from gateway.core.streams.reader import BACKOFF, Reader
from gateway.core.streams.shards import Course

log = structlog.get_logger("mqlift.stream")

START_SECONDS: Final = 10.0
"""How long a consumer that begins is kept waiting when the service fails in a way that may pass."""

RELOOK_SECONDS: Final = 2.0
"""Between two looks for the children of a shard that has ended, which are not known everywhere at once."""


class ShardSource(Protocol):
    """The stream, as those see it who decide about its shards."""

    @property
    def name(self) -> str: ...

    async def list_shards(self) -> Sequence[Shard]:
        """Raises `BackendError`."""

    def reader(self, shard: str) -> Reader:
        """What reads a shard for a consumer that begins it."""


class WholeStream:
    """See `consumer.Guide`."""

    def __init__(self, source: ShardSource, start: Start, wall: Callable[[], float] = time.time) -> None:
        self._source = source
        self._course = Course(start)
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    async def begin(self, consumer: StreamConsumer) -> None:
        """As `Guide.begin`; tries again while that may help."""
        deadline = self._loop.time() + START_SECONDS
        self._course.listed(await retried(self._source.list_shards, deadline, BACKOFF))
        opened = self._open(consumer)
        await asyncio.gather(*(self._place(shard, deadline) for shard in opened))
        for shard in opened:
            shard.reader.join(shard.cursor)

    async def _place(self, shard: OwnShard, deadline: float) -> None:
        """What is written from now on has to be fixed before anybody is told that it will come."""
        if shard.cursor.position.whence is Whence.NEXT:
            await retried(lambda: shard.reader.place(shard.cursor), deadline, BACKOFF)

    def _open(self, consumer: StreamConsumer) -> list[OwnShard]:
        now = Position(Whence.TIME, time=self._wall())
        opened = []
        for shard, position in self._course.begin():
            reached = position_text(now if position.whence is Whence.NEXT else position)
            opened.append(consumer.open(shard, position, self._source.reader(shard), reached))
        for shard in self._course.done - consumer.shards.keys():
            consumer.reached.setdefault(shard, position_text(END))
        self._tidy(consumer)
        return opened

    def _tidy(self, consumer: StreamConsumer) -> None:
        """Of closed shards, offsets speak only until they speak of a child."""
        named = {shard for shard, text in consumer.reached.items() if text}
        for shard, text in list(consumer.reached.items()):
            gone = text == position_text(END) and shard not in self._course.done
            if gone or (shard in self._course.done and self._course.superseded(shard, named)):
                consumer.forget_reached(shard)

    async def run(self, consumer: StreamConsumer) -> None:
        """Go on in the children of shards that were read to the end."""
        failures = 0
        while True:
            await self._wait()
            try:
                shards = await self._source.list_shards()
            except BackendError as error:
                failures += 1
                log.warning("shards_unknown", stream=self._source.name, problem=str(error))
                await asyncio.sleep(BACKOFF.backoff(failures))
                self._changed.set()
                continue
            failures = 0
            for shard in [own for own in consumer.shards.values() if own.exhausted]:
                consumer.finish(shard.id)
                consumer.reached[shard.id] = position_text(END)
                self._course.finish(shard.id)
            self._course.listed(shards)
            for shard in self._open(consumer):
                shard.reader.join(shard.cursor)

    async def _wait(self) -> None:
        """Until a shard was read to its end, or the children of one should be known by now."""
        try:
            async with asyncio.timeout(RELOOK_SECONDS if self._course.childless else None):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    def exhausted(self, shard: OwnShard) -> None:  # noqa: ARG002 - `run` sees which
        self._changed.set()

    def reached(self, shard: OwnShard, text: str) -> None:
        """Nothing is kept."""

    def finished(self) -> bool:
        return True
