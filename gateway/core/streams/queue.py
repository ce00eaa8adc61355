"""Queues that are streams: messages stay, and each consumer reads them from where it likes."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from gateway.core.arguments import read_stream_policy
from gateway.core.backend import Answerable, Depth, QueueSpec, Target
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.errors import InUse, NotSupported, Refused
from gateway.core.health import Health
from gateway.core.message import Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import Outcome, Result
from gateway.core.sender import Publisher, Sender
from gateway.core.store import StateStore
from gateway.core.streams.consumer import Guide, StreamConsumer
from gateway.core.streams.group import GroupMember
from gateway.core.streams.guide import ShardSource, WholeStream
from gateway.core.streams.lease import Leases, forget_stream
from gateway.core.streams.offset import read_name, read_start
from gateway.core.streams.port import Shard, StreamBackend
from gateway.core.streams.push import PushedShards, ShardSubscriber
from gateway.core.streams.reader import ShardReader
from gateway.core.subscription import Consumer, Subscription

log = structlog.get_logger("mqlift.stream")

_GATEWAY: Final = uuid.uuid4().hex[:12]
"""Begins the names of this process' consumers, among those of other gateways."""

_numbers = itertools.count(1)

_UNCOUNTED: Final = Depth(ready=0, unsettled=0, delayed=0)


class StreamQueue:
    """One stream, as a queue. Consuming takes nothing away, so that much of what queues have does not exist here."""

    def __init__(
        self,
        target: Target,
        spec: QueueSpec,
        backend: StreamBackend,
        *,
        open_sender: Callable[[Target], Sender],
        store: StateStore,
        metrics: Metrics,
        health: Health,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises `InvalidArgument`."""
        self.name = target.queue
        self.target = target
        self.spec = spec
        self.policy = read_stream_policy(spec)
        self.ensured = False
        """Whether the backend has said that it is there."""
        self.declared = False
        """Whether a client has said how it is to be; of one that only a rule names, or that was found, nobody has."""
        self.used_at = asyncio.get_running_loop().time()
        self.published = 0
        self._backend = backend
        self._open_sender = open_sender
        self._store = store
        self._health = health
        self._wall = wall
        self._sender: Sender | None = None
        self._readers: dict[str, ShardReader] = {}
        self._subscribers: set[ShardSubscriber] = set()
        self._consumers: dict[asyncio.Task[None], StreamConsumer] = {}
        label = target.label or target.queue
        self._deliveries = metrics.tally(metrics.deliveries.labels(label))
        metrics.count_queue(label, self)

    def redefine(self, spec: QueueSpec) -> None:
        """Be as the first declaration asks for; until then nobody has. Raises `InvalidArgument`."""
        self.policy = read_stream_policy(spec)
        self.spec = spec

    # Publishing

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        """As `Sink.put`."""
        self.published += 1
        if self._sender is None:
            try:
                self._sender = self._open_sender(self.target)
            except Refused as error:
                waiter.answer(token, Result(Outcome.REJECTED, error))
                return
        self._sender.put(self.target, message, publisher, waiter, token)

    # Consuming

    def consume(self, command: Consume, consumer: Consumer) -> Subscription:
        """Raises `InUse`, `InvalidArgument`, and `NotSupported` for what RabbitMQ's streams do not have either."""
        if command.selector:
            raise NotSupported(f"selector: queue '{self.name}' is a stream, which is not filtered")
        active = [other.subscription for other in self._consumers.values() if not other.left]
        if active and (command.exclusive or active[0].exclusive):
            raise InUse(f"queue '{self.name}' has an exclusive consumer, or would get one")
        if not command.acknowledges:
            raise NotSupported(
                f"queue '{self.name}' is a stream: automatic acknowledgement is not supported by streams"
            )
        if command.sole:
            raise NotSupported(f"queue '{self.name}' is a stream: each of its consumers gets everything")
        if command.unlimited:
            raise Refused(f"consumer prefetch count is not set for stream queue '{self.name}'")
        guide = self._guide(command)
        reading = StreamConsumer(self.name, command, consumer, guide, self._deliveries)
        reading.subscription.begun = reading.begun
        task = reading.start()
        self._consumers[task] = reading
        task.add_done_callback(self._ended)
        return reading.subscription

    def _guide(self, command: Consume) -> Guide:
        name = read_name(command.arguments)
        start = read_start(command.arguments, self._wall())
        source = self._source(name)
        if not name:
            return WholeStream(source, start, self._wall)
        owner = f"{_GATEWAY}-{next(_numbers)}"
        leases = Leases(self._store, self.name, name, asyncio.get_running_loop().time)
        return GroupMember(source, leases, owner, start, self._wall)

    def _source(self, name: str) -> ShardSource:
        """Where a consumer of this name gets its shards from."""
        pushed = self.target.pushed
        if self.target.tail and pushed:
            name = pushed[0]
        if name not in pushed:
            return self
        enroll = functools.partial(self._backend.enroll, self.target, name)
        return PushedShards(self, enroll, functools.partial(self._subscriber, name))

    def _subscriber(self, consumer: str, shard: str) -> ShardSubscriber:
        subscriber = ShardSubscriber(
            self._backend, self.target, consumer, shard, health=self._health, ended=self._subscribers.discard
        )
        self._subscribers.add(subscriber)
        return subscriber

    def _ended(self, task: asyncio.Task[None]) -> None:
        consumer = self._consumers.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("consumer_failed_unexpectedly", stream=self.name, exc_info=error)
            consumer.gone()
        self.used_at = asyncio.get_running_loop().time()

    async def get(self) -> Delivery | None:
        """There is no first message to take."""
        raise NotSupported(f"queue '{self.name}' is a stream: basic.get is not supported by streams")

    # The stream, as its consumers' guides see it

    async def list_shards(self) -> Sequence[Shard]:
        """As `ShardSource.list_shards`; readers of shards that are gone end."""
        shards = await self._backend.shards(self.target)
        for shard in self._readers.keys() - {shard.id for shard in shards}:
            if not len(self._readers[shard]):
                self._readers.pop(shard).stop()
        return shards

    def reader(self, shard: str) -> ShardReader:
        """As `ShardSource.reader`: the one that all share who read the shard here."""
        reader = self._readers.get(shard)
        if reader is None:
            reader = self._readers[shard] = ShardReader(
                self._backend, self.target, shard, health=self._health, gone=self.cancel_consumers, wall=self._wall
            )
        return reader

    def _reading(self) -> list[ShardReader | ShardSubscriber]:
        return [*self._readers.values(), *self._subscribers]

    # Counts

    @property
    def consumers(self) -> int:
        return sum(not consumer.left for consumer in self._consumers.values())

    @property
    def unsettled(self) -> int:
        return sum(consumer.unsettled for consumer in self._consumers.values())

    @property
    def polls(self) -> int:
        """Shards that are read, and subscriptions to shards."""
        return sum(bool(len(reader)) for reader in self._readers.values()) + len(self._subscribers)

    @property
    def delivered(self) -> int:
        """Messages given to consumers, each time that they were."""
        return self._deliveries.count

    async def depth(self, *, fresh: bool = False) -> Depth:  # noqa: ARG002 - as `BackendQueue.depth`
        """Nothing waits in a stream."""
        return _UNCOUNTED

    async def remaining(self) -> int:
        """Nothing can be taken with `get`."""
        return 0

    @property
    def unsent(self) -> int:
        """Messages that were published to it, and that the backend has not answered for."""
        return 0 if self._sender is None else self._sender.held

    async def purge(self) -> int:
        raise NotSupported(f"queue '{self.name}' is a stream: queue.purge is not supported by streams")

    async def check_length(self) -> None:
        """A stream keeps what it has for as long as AWS is told to."""

    expiring = False

    def watch_expiry(self) -> None:
        """Nothing expires for one consumer before another."""

    def be_alone(self, alone: bool) -> None:
        """As `watch_expiry`."""

    # Ending

    def cancel_consumers(self) -> None:
        """It has been deleted: tell those who consume it."""
        for consumer in list(self._consumers.values()):
            consumer.gone()

    def stop_polling(self) -> None:
        """No new reads; what consumers hold can still be acknowledged."""
        for reader in self._reading():
            reader.stop()

    async def drain(self) -> None:
        """Wait until consumers that have left have written how far they came."""
        leaving = [task for task, consumer in self._consumers.items() if consumer.left]
        if leaving:
            await asyncio.wait(leaving)

    async def forget(self) -> None:
        """It has been deleted, and closed: how far its named consumers had come means nothing. Raises `StoreError`."""
        await forget_stream(self._store, self.name)

    async def aclose(self) -> None:
        self.stop_polling()
        tasks = list(self._consumers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(reader.aclose() for reader in self._reading()))
