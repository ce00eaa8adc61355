"""One consumer of a stream: what it is given of each shard, what it has acknowledged, and how far it has come."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from gateway.core.backend import Received
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError, Unavailable
from gateway.core.message import Message
from gateway.core.metrics import Tally
from gateway.core.outcome import Outcome
from gateway.core.streams.offset import STREAM_OFFSET, format_offset, position_text
from gateway.core.streams.port import Position
from gateway.core.streams.reader import Cursor, Reader, Waiting
from gateway.core.subscription import Consumer, Subscription

BUFFER_BYTES: Final = 4 * 1024 * 1024
"""What waits for one consumer before nothing more is read for it; each shard may bring one page on top."""

BUFFER_MESSAGES: Final = 10_000
"""The same in messages: an aggregated record has many small ones."""


class Mark:
    """One message that a consumer holds, or has done with before an older one. `text`: where to go on behind it."""

    __slots__ = ("done", "text")

    def __init__(self, text: str) -> None:
        self.done = False
        self.text = text


class OwnShard:
    """One shard, as one consumer reads it."""

    __slots__ = ("cursor", "dropped", "id", "in_turn", "marks", "reached", "reader")

    def __init__(self, shard: str, cursor: Cursor, reader: Reader, reached: str) -> None:
        self.id = shard
        self.cursor = cursor
        self.reader = reader
        self.reached = reached
        """Where it has come with what was given to it, as a part of offsets."""
        self.marks: deque[Mark] = deque()
        self.in_turn = False
        self.dropped = False

    @property
    def exhausted(self) -> bool:
        """Whether the shard is closed, and all of it was handed out."""
        return self.cursor.ended and not self.cursor.waiting


class StreamDelivery(Delivery):
    """A message of a stream on its way to a consumer."""

    __slots__ = ("mark", "shard")

    def __init__(self, received: Received, source: StreamConsumer, shard: OwnShard, mark: Mark) -> None:
        super().__init__(received, source)
        self.shard = shard
        self.mark = mark


class Guide(Protocol):
    """Decides which shards a consumer reads, and from where: all of them, or its share of a group's."""

    async def begin(self, consumer: StreamConsumer) -> None:
        """Open the first shards. Raises `BackendError`, `StoreError`."""

    async def run(self, consumer: StreamConsumer) -> None:
        """Go on until cancelled, or until the consumer has left and there is nothing more to do."""

    def exhausted(self, shard: OwnShard) -> None:
        """All of a shard was handed out."""

    def reached(self, shard: OwnShard, text: str) -> None:
        """Everything up to here was acknowledged."""

    def finished(self) -> bool:
        """Said when the consumer has left, and once more when it holds nothing: True when `run` may be cancelled."""


class StreamConsumer:
    """Both sides of one subscription: the queue that it consumes, and the source of its deliveries.

    A consumer of a stream takes nothing away from others: each has its own way through the shards.
    """

    def __init__(self, name: str, command: Consume, consumer: Consumer, guide: Guide, deliveries: Tally) -> None:
        self.name = name
        self.subscription = Subscription(command, self, consumer)
        self.unsettled = 0
        self._guide = guide
        self._deliveries = deliveries
        self._loop = asyncio.get_running_loop()
        self._shards: dict[str, OwnShard] = {}
        self._reached: dict[str, str] = {}
        """Parts of the next offset: of shards that are read, and of closed ones whose children were not begun."""
        self._ready: deque[OwnShard] = deque()
        self._again: deque[StreamDelivery] = deque()
        self._wake: asyncio.Handle | None = None
        self._full = False
        self._task: asyncio.Task[None] | None = None
        self.begun: asyncio.Future[None] = self._loop.create_future()
        """Done when everything that is written from now on will be delivered, where that was asked for."""

    # Its life

    def start(self) -> asyncio.Task[None]:
        """Begin to read. The caller keeps the task."""
        self._task = self._loop.create_task(self._run())
        return self._task

    async def _run(self) -> None:
        try:
            await self._guide.begin(self)
        except MqliftError as error:
            self._fail(error)
            self.subscription.cancel()
            self.close()
            return
        if not self.begun.done():
            self.begun.set_result(None)
        try:
            await self._guide.run(self)
        finally:
            self.close()

    def _fail(self, error: MqliftError) -> None:
        if not self.begun.done():
            self.begun.set_exception(error)
            self.begun.exception()  # whether or not anybody waits for it

    @property
    def left(self) -> bool:
        """Whether it wants nothing more."""
        return self.subscription.cancelled

    def unsubscribe(self, subscription: Subscription) -> None:  # noqa: ARG002 - there is one
        """As `ConsumedQueue.unsubscribe`. What it holds can still be acknowledged."""
        for shard in self._shards.values():
            shard.reader.leave(shard.cursor)
        self._finish()

    def _finish(self) -> None:
        if self._guide.finished() and self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Read nothing more. Idempotent."""
        for shard in list(self._shards):
            self.drop(shard)
        self._fail(Unavailable("the consumer has ended", resource=f"stream {self.name}"))

    # Its shards

    def open(self, shard: str, position: Position, reader: Reader, reached: str = "") -> OwnShard:
        """Read a shard from a position on; `join` the reader then. `reached`: where that is, in offsets."""
        cursor = Cursor(self, position)
        own = self._shards[shard] = OwnShard(shard, cursor, reader, reached or position_text(position))
        self._reached[shard] = own.reached
        return own

    def drop(self, shard: str) -> None:
        """Read a shard no more, for somebody else does. What it holds of it may still be settled, and means nothing."""
        own = self._shards.pop(shard, None)
        if own is None:
            return
        own.dropped = True
        own.reader.leave(own.cursor)
        self._reached.pop(shard, None)

    def finish(self, shard: str) -> None:
        """A shard was read to its end. What it holds of it may still come again."""
        own = self._shards.pop(shard, None)
        if own is not None:
            own.reader.leave(own.cursor)
            self._reached.pop(shard, None)

    def forget_reached(self, shard: str) -> None:
        """Offsets need not speak of a shard any more: they speak of its children."""
        self._reached.pop(shard, None)

    @property
    def shards(self) -> dict[str, OwnShard]:
        """Those that it reads, or has read to the end and not been told to drop."""
        return self._shards

    @property
    def reached(self) -> dict[str, str]:
        """How far it has come, by shard."""
        return self._reached

    # As the readers see it

    def has_room(self) -> bool:
        if self.subscription.cancelled:
            return False
        shards = self._shards.values()
        room = (
            sum(shard.cursor.size for shard in shards) < BUFFER_BYTES
            and sum(len(shard.cursor.waiting) for shard in shards) < BUFFER_MESSAGES
        )
        self._full = not room
        return room

    def arrived(self, cursor: Cursor) -> None:
        for shard in self._shards.values():
            if shard.cursor is cursor:
                if cursor.waiting and not shard.in_turn:
                    shard.in_turn = True
                    self._ready.append(shard)
                if shard.exhausted:
                    self._guide.exhausted(shard)
                break
        self._wake_up()

    def gone(self) -> None:
        """Tell who consumes, where it can be told."""
        subscription = self.subscription
        if subscription.cancelled or not subscription.cancellable:
            return
        subscription.cancel()
        subscription.consumer.cancelled(subscription)

    # Handing out

    def credited(self, subscription: Subscription) -> None:  # noqa: ARG002 - there is one
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is None and (self._ready or self._again):
            self._wake = self._loop.call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._wake = None
        subscription = self.subscription
        while subscription.credit > 0 and (delivery := self._next()) is not None:
            subscription.taken()
            self.unsettled += 1
            self._deliveries.count += 1
            delivery.subscription = subscription
            subscription.consumer.deliver(subscription, delivery)
        if self._full and self.has_room():
            for shard in self._shards.values():
                shard.reader.wake()

    def _next(self) -> StreamDelivery | None:
        while self._again:
            again = self._again.popleft()
            if not again.shard.dropped:
                return again
        while self._ready:
            shard = self._ready.popleft()
            shard.in_turn = False
            if shard.dropped:
                continue
            waiting = shard.cursor.pop()
            if shard.cursor.waiting:
                shard.in_turn = True
                self._ready.append(shard)
            delivery = self._delivery(shard, waiting)
            if shard.exhausted:
                self._guide.exhausted(shard)
            return delivery
        return None

    def _delivery(self, shard: OwnShard, waiting: Waiting) -> StreamDelivery:
        record, number, last = waiting
        message = record.messages[number]
        own = f"{shard.id}@{record.sequence}.{number}"
        offset = format_offset(own, self._reached.items(), len(self._reached))
        reached = record.sequence if last else f"{record.sequence}.{number + 1}"
        shard.reached = self._reached[shard.id] = reached
        mark = Mark(reached)
        shard.marks.append(mark)
        offered = Message(
            message.address,
            message.body,
            message.properties,
            {**message.headers, STREAM_OFFSET: offset},
            message.origin,
        )
        return StreamDelivery(Received(offered, own, 1, own, record.arrived), self, shard, mark)

    # Settling

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """End a delivery, once. A released one comes again, ahead of the others, unless its consumer has left."""
        if delivery.settled or not isinstance(delivery, StreamDelivery):
            return
        delivery.settled = True
        self.unsettled -= 1
        shard, mark = delivery.shard, delivery.mark
        if outcome is not Outcome.RELEASED:
            mark.done = True
            self._advance(shard)
        elif not self.subscription.cancelled and not shard.dropped:
            received = Received(
                delivery.message, delivery.receipt, delivery.attempt + 1, delivery.uid, delivery.stored_at
            )
            self._again.append(StreamDelivery(received, self, shard, mark))
        self.subscription.settled()
        if self.left and not self.unsettled:
            self._finish()

    def _advance(self, shard: OwnShard) -> None:
        """What was acknowledged without a gap is never needed again."""
        marks = shard.marks
        text = ""
        while marks and marks[0].done:
            text = marks.popleft().text
        if text and not shard.dropped:
            self._guide.reached(shard, text)
