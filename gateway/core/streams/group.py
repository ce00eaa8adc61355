"""A consumer with a name reads its share of a stream's shards, and goes on where its group has acknowledged to.

All consumers of one name, on any gateway that has the same state store, are one group.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from gateway.core.errors import BackendError
from gateway.core.retrying import retried
from gateway.core.store import StoreError
from gateway.core.streams.consumer import OwnShard, StreamConsumer
from gateway.core.streams.guide import START_SECONDS, ShardSource
from gateway.core.streams.lease import RENEW_SECONDS, Lease, Leases, share
from gateway.core.streams.offset import Start, parse_position, position_text
from gateway.core.streams.port import END
from gateway.core.streams.reader import BACKOFF
from gateway.core.streams.shards import Course

log = structlog.get_logger("mqlift.stream")

CHECKPOINT_SECONDS: Final = 0.2
"""Between an acknowledgement and the next write of checkpoints: what a crash makes come again."""

LINGER_SECONDS: Final = 30.0
"""How long a consumer that has left keeps the shards of which it still holds messages."""


class GroupMember:
    """See `consumer.Guide`. `owner` is a text that no other consumer has, here or elsewhere."""

    def __init__(
        self,
        source: ShardSource,
        leases: Leases,
        owner: str,
        start: Start,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._leases = leases
        self._owner = owner
        self._start = start
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._look_at = 0.0
        self._save_at = float("inf")
        self._left_at = float("inf")
        self._at: dict[str, str] = {}
        """Of each shard that is this consumer's: where the next owner would go on."""
        self._unsaved: set[str] = set()

    async def begin(self, consumer: StreamConsumer) -> None:
        """As `Guide.begin`."""
        self._start = await self._leases.found(self._start, self._wall())
        await retried(lambda: self._look(consumer), self._loop.time() + START_SECONDS, BACKOFF)

    async def run(self, consumer: StreamConsumer) -> None:
        """Renew, save, take over and go on in children; when the consumer has left, give everything back."""
        while not self._may_end(consumer):
            await self._wait()
            try:
                await self._work(consumer)
            except (StoreError, BackendError) as error:
                log.warning("stream_lease_problem", stream=self._source.name, problem=str(error))
                self._look_at = self._loop.time() + RENEW_SECONDS
                self._save_at = self._look_at if self._unsaved else float("inf")
        await self._give_back(consumer)

    async def _work(self, consumer: StreamConsumer) -> None:
        now = self._loop.time()
        if now >= self._save_at:
            await self._save(consumer, self._unsaved)
        if now >= self._look_at:
            await self._save(consumer, self._at)
            try:
                async with asyncio.timeout(RENEW_SECONDS):  # what is held has to be renewed meanwhile
                    await self._look(consumer)
            except TimeoutError:
                raise StoreError(f"not looked through within {RENEW_SECONDS:g} s") from None

    async def _wait(self) -> None:
        """Until something is due."""
        try:
            async with asyncio.timeout_at(min(self._look_at, self._save_at)):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    # What the consumer tells

    def exhausted(self, shard: OwnShard) -> None:
        if not shard.marks:
            self._moved(shard.id, position_text(END))

    def reached(self, shard: OwnShard, text: str) -> None:
        self._moved(shard.id, position_text(END) if shard.exhausted and not shard.marks else text)

    def _moved(self, shard: str, at: str) -> None:
        if shard in self._at:
            self._at[shard] = at
            self._unsaved.add(shard)
            if self._save_at == float("inf"):
                self._save_at = self._loop.time() + CHECKPOINT_SECONDS
                self._changed.set()

    def finished(self) -> bool:
        self._left_at = min(self._left_at, self._loop.time())
        self._changed.set()
        return False

    def _may_end(self, consumer: StreamConsumer) -> bool:
        if not consumer.left:
            return False
        return not consumer.unsettled or self._loop.time() - self._left_at >= LINGER_SECONDS

    # Leases

    async def _look(self, consumer: StreamConsumer) -> None:
        """See who has what, and take what is this consumer's share."""
        shards = await self._source.list_shards()
        await self._leases.look()
        kept = {shard.id for shard in shards}
        for lease in self._leases:
            if lease.shard not in kept:
                await self._leases.forget(lease)
        for shard in [each for each in self._at if not self._is_mine(each)]:
            self._lose(consumer, shard)
        positions = {lease.shard: parse_position(lease.at) for lease in self._leases}
        course = Course(Start(self._start.default, {**self._start.positions, **positions}))
        course.listed(shards)
        for shard, position in course.begin():
            if self._leases.get(shard) is None:
                await self._leases.make(shard, position_text(position))
        if not consumer.left:
            for lease in share(self._leases, self._owner, self._is_free):
                await self._take(consumer, lease)
        self._look_at = self._loop.time() + RENEW_SECONDS

    def _is_free(self, lease: Lease) -> bool:
        if lease.owner == self._owner:
            return lease.shard not in self._at  # it was taken without an answer
        return self._leases.over(lease)

    def _is_mine(self, shard: str) -> bool:
        lease = self._leases.get(shard)
        return lease is not None and lease.owner == self._owner

    async def _take(self, consumer: StreamConsumer, lease: Lease) -> None:
        before = lease.owner
        if not await self._leases.write(lease, self._owner, lease.at):
            return
        log.info("shard_taken", stream=self._source.name, shard=lease.shard, owner=self._owner, before=before)
        self._at[lease.shard] = lease.at
        shard = consumer.open(lease.shard, parse_position(lease.at), self._source.reader(lease.shard))
        shard.reader.join(shard.cursor)

    def _lose(self, consumer: StreamConsumer, shard: str) -> None:
        log.info("shard_lost", stream=self._source.name, shard=shard, owner=self._owner)
        self._at.pop(shard, None)
        self._unsaved.discard(shard)
        consumer.drop(shard)

    async def _save(self, consumer: StreamConsumer, shards: Iterable[str]) -> None:
        """Write checkpoints, which renews the leases: all at once, as one that takes long is not to end the others.

        Raises the first `StoreError`.
        """
        saved = await asyncio.gather(
            *(self._save_one(consumer, shard) for shard in list(shards)), return_exceptions=True
        )
        self._save_at = self._loop.time() + CHECKPOINT_SECONDS if self._unsaved else float("inf")
        for problem in saved:
            if isinstance(problem, BaseException):
                raise problem

    async def _save_one(self, consumer: StreamConsumer, shard: str) -> None:
        lease = self._leases.get(shard)
        at = self._at[shard]
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                held = lease is not None and await self._leases.write(lease, self._owner, at, holds=True)
        except TimeoutError:
            raise StoreError(f"no answer for shard {shard} within {RENEW_SECONDS:g} s") from None
        if lease is None or not held:
            self._lose(consumer, shard)
            return
        if self._at[shard] == at:
            self._unsaved.discard(shard)
        if lease.ended:
            del self._at[shard]
            consumer.finish(shard)
            self._look_at = 0.0  # its children may be begun

    async def _give_back(self, consumer: StreamConsumer) -> None:
        for shard, at in list(self._at.items()):
            lease = self._leases.get(shard)
            try:
                if lease is not None:
                    await self._leases.write(lease, "", at, holds=True)
            except StoreError as error:
                # It is over by itself a little later.
                log.warning("stream_lease_problem", stream=self._source.name, problem=str(error))
            self._lose(consumer, shard)
