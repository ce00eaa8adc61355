"""Fan-out by the service: queues that a topic hands messages to itself, so that one publish costs one call.

The gateway routes as ever. A message that goes to a topic whose rule asks for fan-out names the queues that the service
is to hand it to; each of them has a subscription which takes what names it and nothing else. So whatever a binding can
say is kept exactly, and its changes take effect at once: they change the names, never a subscription. Until a new
subscription is known to work, the gateway does not name the queue and sends to it itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol, cast

import orjson
import structlog

from gateway.core.arguments import SELECTOR
from gateway.core.backend import Answerable, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import MqliftError, NotFound
from gateway.core.exchanges import Destination, ToExchange
from gateway.core.fleet.membership import Fleet
from gateway.core.fleet.recordfollower import RecordFollower
from gateway.core.merge import Merge
from gateway.core.message import DEFAULT_EXCHANGE, Message
from gateway.core.outcome import Result
from gateway.core.queues import BackendQueue
from gateway.core.sender import Publisher, Sender
from gateway.core.shared import SESSION, SHARED
from gateway.core.statewriter import StateWriter
from gateway.core.store import Record, StateStore, StoreError, every_record
from gateway.core.topology import Topology

log = structlog.get_logger("mqlift.fanout")

KIND: Final = "fanout"
"""Of the records in the state store."""

LOST: Final = "lost-topic"
"""Announced, and never written: what it changes is written with each pair."""

TOLD: Final = 3.0
"""Seconds after which every gateway of a fleet knows of a loss. What is made again sooner would be relied on by others
as it was before."""

SWEEP: Final = 2.0
"""Seconds between two looks at what is due."""

VERIFY: Final = 300.0
"""Seconds between two looks at a subscription that works: somebody may have removed it."""

LEAVING: Final = 900.0
"""Seconds that a subscription stays after nothing more is sent through it: entries that name the queue may still be
retried, and the service itself may still have messages on their way."""

AGAIN: Final = BatchPolicy(backoff_base=1.0, backoff_cap=300.0)
"""How long to wait after a subscription could not be made, looked at or removed."""


class Subscriber(Protocol):
    """The side of an adapter: a service whose topics hand messages to queues."""

    wait: float
    """Seconds until a subscription can be relied on after it was made."""
    limit: int
    """Subscriptions of one topic at most."""

    def objection(self, topic: Target, queue: Target) -> str:
        """Why a queue cannot get a topic's messages from the service as it would from the gateway; empty if it can."""

    async def subscribe(self, topic: Target, queue: Target) -> str:
        """Have the service hand the messages that name `queue.name` to it. Idempotent; raises `BackendError`.

        The result is the service's name of the subscription.
        """

    async def holds(self, topic: Target, queue: Target, subscription: str) -> bool:
        """Whether it is still there, and the queue still takes what it brings. Raises `BackendError`."""

    async def unsubscribe(self, topic: Target, queue: Target, subscription: str) -> None:
        """Undo `subscribe`, also where a part of it is gone. Raises `BackendError`."""


def objection(queue: QueueSpec, *, bounded: bool, priorities: bool) -> str:
    """Why the gateway has to send to a queue itself, whatever the service can; empty if it need not."""
    if priorities:
        return "a queue with priorities, which is several queues in AWS"
    if SELECTOR in queue.arguments:
        return "a queue with a selector, which the gateway evaluates"
    if bounded:
        return "a queue with x-max-length, whose publishers may have to be refused"
    if queue.arguments.get(SESSION) or queue.arguments.get(SHARED):
        return "the queue of an MQTT session or a shared subscription: there may be thousands"
    return ""


class FannedOut:
    """A sink for a topic and the queues that it hands a message to."""

    __slots__ = ("_fanout", "_plain", "_queues", "_sender", "_target")

    def __init__(self, fanout: FanOut, sender: Sender, target: Target, queues: Sequence[BackendQueue]) -> None:
        self._fanout = fanout
        self._sender = sender
        self._plain = target
        self._target = replace(target, fanout=tuple(queue.target.name for queue in queues))
        self._queues = queues

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        if message.origin.protocol == self._plain.kind:
            self._put_apart(message, publisher, Merge(1 + len(self._queues), waiter, token))
            return
        for queue in self._queues:
            queue.expect(message)
        self._sender.put(self._target, message, publisher, self, (waiter, token))

    def answer(self, token: object, result: Result) -> None:
        """The sender's result. A topic that is gone has taken its subscriptions with it."""
        if isinstance(result.error, NotFound):
            self._fanout.lose(self._plain)
        waiter, own = cast("tuple[Answerable, object]", token)
        waiter.answer(own, result)

    def _put_apart(self, message: Message, publisher: Publisher, merge: Merge) -> None:
        """What came from a topic is not published to that topic again, so nobody else would bring it to the queues."""
        self._sender.put(self._plain, message, publisher, merge, None)
        for queue in self._queues:
            queue.put(message, publisher, merge, None)


class _Pair:
    """A topic and a queue, and how far they have come. Times in seconds since 1970-01-01 UTC; 0 for not yet."""

    __slots__ = (
        "due",
        "ended_at",
        "failures",
        "kept",
        "object",
        "queue",
        "ready",
        "sources",
        "subscribed_at",
        "subscription",
        "topic",
        "unwritten",
    )

    def __init__(self, topic: Target, queue: Target) -> None:
        self.topic = topic
        self.queue = queue
        self.sources: set[str] = set()
        """Exchanges that messages came from, of those that the rule is about."""
        self.subscription = ""
        self.subscribed_at = 0.0
        self.ended_at = 0.0
        self.ready = False
        """Whether the service brings everything that names the queue."""
        self.object: BackendQueue | None = None
        """The queue as it was when it was subscribed: one that was deleted and made anew is another."""
        self.due = 0.0
        self.failures = 0
        self.kept = False
        """Whether there may be a record of it."""
        self.unwritten = False

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.topic.kind, self.topic.name, self.queue.queue)

    @property
    def made(self) -> tuple[str, float]:
        """Which subscription it is, and since when."""
        return (self.subscription, self.subscribed_at)

    def take(self, kept: _Pair) -> None:
        """Have the subscription of another gateway."""
        self.subscription, self.subscribed_at = kept.made
        self.ready = False
        self.kept = True

    def start_over(self) -> None:
        self.subscription = ""
        self.subscribed_at = 0.0
        self.ready = False
        self.unwritten = True


class FanOut:
    """All pairs of topics and queues, of this gateway and, through the state store, of its replicas."""

    def __init__(
        self,
        subscribers: Mapping[str, Subscriber],
        *,
        topology: Topology,
        store: StateStore,
        find: Callable[[str], BackendQueue | None],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`subscribers` by the kind of their targets; `find` gives a durable queue; `changed` forgets every plan."""
        self._fleet: Fleet | None = None
        self._subscribers = subscribers
        self._topology = topology
        self._store = store
        self._find = find
        self._changed = changed
        self._clock = clock
        self._pairs: dict[tuple[str, str, str], _Pair] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._version = -1

    def brought(self, topic: Target, source: str, queues: Iterable[BackendQueue]) -> list[BackendQueue]:
        """Those of the queues that the service brings a message on exchange `source` to; others are taken note of."""
        return [queue for queue in queues if self._brings(topic, source, queue)]

    def _brings(self, topic: Target, source: str, queue: BackendQueue) -> bool:
        pair = self._pairs.get((topic.kind, topic.name, queue.name))
        if queue.policy.accepts is not None:
            if pair is not None and not pair.ended_at:
                self._end(pair)  # it has been given a selector since
            return False
        if pair is None:
            if self._may_begin(topic, queue):
                pair = self._add(_Pair(_bare(topic), _bare(queue.target)))
                pair.object = queue
                pair.sources.add(source)
            return False
        if pair.ended_at:
            return False
        if pair.object is not queue and not self._take_up(pair, queue):
            return False
        if source not in pair.sources:
            pair.sources.add(source)
            pair.unwritten = True
        return pair.ready

    def lose(self, topic: Target) -> None:
        """The subscriptions of a topic are gone: all gateways send to its queues until they are made again."""
        if self.lose_here(topic.kind, topic.name) and self._fleet is not None:
            self._fleet.note(LOST, orjson.dumps([topic.kind, topic.name]).decode())

    def lose_here(self, kind: str, name: str) -> bool:
        """As `lose`, of this gateway alone. Whether there were any."""
        place = (kind, name)
        lost = [
            pair for pair in self._pairs.values() if pair.subscription and place == (pair.topic.kind, pair.topic.name)
        ]
        for pair in lost:
            self._start_over(pair)
        if lost:
            log.warning("fanout_topic_lost", topic=name, queues=len(lost))
            self._changed()
        return bool(lost)

    def _start_over(self, pair: _Pair) -> None:
        """It is to be subscribed again, once nobody relies on the subscription that is gone."""
        pair.start_over()
        pair.due = 0.0 if self._fleet is None else self._clock() + TOLD

    def _may_begin(self, topic: Target, queue: BackendQueue) -> bool:
        subscriber = self._subscribers.get(topic.kind)
        if subscriber is None or self._counts.get((topic.kind, topic.name), 0) >= subscriber.limit:
            return False
        return not self.objection(topic, queue)

    def objection(self, topic: Target, queue: BackendQueue) -> str:
        """Why the gateway sends to a queue itself; empty if it need not."""
        if not queue.declared:
            return "a queue that nobody has declared yet: how it is to be may change"
        policy = queue.policy
        ours = objection(queue.spec, bounded=policy.bounded, priorities=bool(policy.max_priority))
        return ours or self._subscribers[topic.kind].objection(topic, queue.target)

    def _add(self, pair: _Pair) -> _Pair:
        place = (pair.topic.kind, pair.topic.name)
        self._counts[place] = self._counts.get(place, 0) + 1
        self._pairs[pair.key] = pair
        return pair

    def _take_up(self, pair: _Pair, queue: BackendQueue) -> bool:
        """After a start, a queue is known again; at any other time it is a new one under an old name."""
        if pair.object is None and not self.objection(pair.topic, queue) and pair.queue.name == queue.target.name:
            pair.object = queue
            return True
        self._end(pair)
        return False

    async def restore(self) -> None:
        """Take up the subscriptions that were made; they are looked at before anything relies on them.

        Raises `StoreError`.
        """
        async for record in every_record(self._store, KIND):
            self._take(record)

    def follow(self, fleet: Fleet, writer: StateWriter) -> None:
        """Share the pairs with other gateways: what one of them needs, none of them ends."""
        self._fleet = fleet
        fleet.followers.append(RecordFollower(self._store, writer, KIND, apply=self._apply, here=tuple))
        fleet.followers.append(_LossFollower(self.lose_here))

    def _apply(self, key: str, record: Record | None) -> None:  # noqa: ARG002 - each finds for itself what has ended
        if record is not None:
            self._take(record)

    def _take(self, record: Record) -> None:
        """Know a pair that is kept."""
        try:
            kept = _unpack(record.key, record.value)
        except (KeyError, TypeError, ValueError) as error:
            log.error("fanout_unreadable", record=record.key, problem=str(error))  # noqa: TRY400 - in one line
            return
        pair = self._pairs.get(kept.key)
        if pair is not None:
            self._agree(pair, kept)
        elif kept.topic.kind in self._subscribers:
            self._add(kept)

    def _agree(self, pair: _Pair, kept: _Pair) -> None:
        """Take what another gateway has found out, or done. Nothing is relied on that this one has not looked at."""
        pair.sources |= kept.sources  # it may publish where this one does not
        if pair.ended_at:
            return
        if kept.ended_at:
            self._end(pair)
        elif not pair.unwritten and pair.made != kept.made:
            was_ready = pair.ready
            pair.take(kept)
            pair.due = self._clock() + (0.0 if kept.subscription else TOLD)
            if was_ready:
                self._changed()

    async def run(self) -> None:
        """Subscribe, look, and clean up, as it falls due. Never ends, but where nothing can be subscribed."""
        while self._subscribers:
            await self.sweep()
            await asyncio.sleep(SWEEP)

    async def sweep(self) -> None:
        """Do what is due by now."""
        now = self._clock()
        if self._version != self._topology.version:
            self._version = self._topology.version
            for pair in self._pairs.values():
                if not pair.ended_at and not self._is_wanted(pair):
                    self._end(pair)
        for pair in list(self._pairs.values()):
            if pair.due <= now or (pair.unwritten and not pair.failures):
                await self._try(pair, now)

    def _is_wanted(self, pair: _Pair) -> bool:
        """Whether the queue is still there, and one of the exchanges still leads to it."""
        queue = self._find(pair.queue.queue)
        if queue is None or (pair.object is not queue and not self._take_up(pair, queue)):
            return False
        return not pair.sources.isdisjoint(_leading_to(self._topology, queue.name))

    def _end(self, pair: _Pair) -> None:
        pair.ready = False
        pair.ended_at = self._clock()
        pair.due = 0.0
        pair.unwritten = True
        self._changed()

    async def _try(self, pair: _Pair, now: float) -> None:
        try:
            if pair.unwritten and (pair.subscription or pair.kept):
                await self._write(pair)
            if pair.due <= now:
                await self._advance(pair, now)
            pair.failures = 0
        except MqliftError as error:
            pair.failures += 1
            pair.due = now + AGAIN.backoff(pair.failures)
            if pair.failures == 1:
                log.warning("fanout_by_gateway", topic=pair.topic.name, queue=pair.queue.queue, problem=str(error))

    async def _advance(self, pair: _Pair, now: float) -> None:
        subscriber = self._subscribers[pair.topic.kind]
        if pair.ended_at:
            await self._leave(pair, subscriber, now)
        elif not pair.subscription:
            pair.subscription = await subscriber.subscribe(pair.topic, pair.queue)
            pair.subscribed_at = self._clock()  # after the answer: that is when it began
            pair.due = pair.subscribed_at + subscriber.wait
            await self._write(pair)
            log.info("fanout_subscribed", topic=pair.topic.name, queue=pair.queue.queue)
        elif now < pair.subscribed_at + subscriber.wait:
            pair.due = pair.subscribed_at + subscriber.wait
        else:
            await self._look(pair, subscriber, now)

    async def _look(self, pair: _Pair, subscriber: Subscriber, now: float) -> None:
        was_ready, subscription = pair.ready, pair.subscription
        holds = await subscriber.holds(pair.topic, pair.queue, subscription)
        if pair.subscription != subscription:
            return  # lost meanwhile, and due at once
        if holds:
            pair.ready = not pair.ended_at
            pair.due = now + VERIFY
        else:
            log.warning("fanout_lost", topic=pair.topic.name, queue=pair.queue.queue, subscription=pair.subscription)
            self._start_over(pair)
        if pair.ready is not was_ready:
            self._changed()
        if pair.ready and not was_ready:
            log.info("fanout_by_service", topic=pair.topic.name, queue=pair.queue.queue)

    async def _leave(self, pair: _Pair, subscriber: Subscriber, now: float) -> None:
        if pair.subscription and now < pair.ended_at + LEAVING:
            pair.due = pair.ended_at + LEAVING
            return
        if pair.kept and (self._fleet is None or self._fleet.is_mine(_record_key(pair))):
            if pair.subscription:
                await subscriber.unsubscribe(pair.topic, pair.queue, pair.subscription)
            await self._store.delete(KIND, _record_key(pair))
            log.info("fanout_unsubscribed", topic=pair.topic.name, queue=pair.queue.queue)
        del self._pairs[pair.key]
        self._counts[pair.topic.kind, pair.topic.name] -= 1
        self._changed()  # it may be wanted again by now

    async def _write(self, pair: _Pair) -> None:
        pair.kept = True
        pair.unwritten = False  # before it is, for it may change meanwhile
        value = {
            "subscription": pair.subscription,
            "subscribed_at": pair.subscribed_at,
            "ended_at": pair.ended_at,
            "sources": sorted(pair.sources),
        }
        try:
            await self._store.put(KIND, _record_key(pair), orjson.dumps(value))
            if self._fleet is not None:
                self._fleet.note(KIND, _record_key(pair))
        except StoreError:
            pair.unwritten = True
            raise


class _LossFollower:
    """See `membership.Follower`. Another gateway has found a topic gone, before it or anybody else makes it again."""

    kinds = (LOST,)

    def __init__(self, lose: Callable[[str, str], object]) -> None:
        self._lose = lose

    async def follow(self, changes: Mapping[str, Collection[str]]) -> None:
        """As `Follower.follow`."""
        for key in changes.get(LOST, ()):
            try:
                kind, name = map(str, orjson.loads(key))
            except (TypeError, ValueError) as error:
                log.error("lost_topic_unreadable", problem=str(error))  # noqa: TRY400 - told in one line
                continue
            self._lose(kind, name)

    async def rescan(self) -> None:
        """There is nothing to be read: who has missed it takes the records, as soon as they say so."""


def _bare(target: Target) -> Target:
    """What is remembered of a target: which resource it is."""
    return Target(kind=target.kind, name=target.name, queue=target.queue)


def _leading_to(topology: Topology, queue: str) -> set[str]:
    """The exchanges that may lead to a queue: by bindings, through others, and as those others' alternate."""
    found = {DEFAULT_EXCHANGE}
    ahead: list[Destination] = [queue]
    alternates = [(name, spec.alternate) for name, spec in topology.exchanges() if spec.alternate is not None]
    while ahead:
        sources = {binding.source for binding in topology.bindings(ahead.pop())}
        sources.update(name for name, alternate in alternates if alternate in found | sources)
        ahead += [ToExchange(source) for source in sources - found]
        found |= sources
    return found


def _record_key(pair: _Pair) -> str:
    return orjson.dumps([pair.topic.kind, pair.topic.name, pair.queue.kind, pair.queue.name, pair.queue.queue]).decode()


def _unpack(key: str, value: bytes) -> _Pair:
    """Raises `KeyError`, `TypeError` and `ValueError` for what is no record."""
    topic_kind, topic, kind, name, queue = orjson.loads(key)
    pair = _Pair(Target(kind=topic_kind, name=topic), Target(kind=kind, name=name, queue=queue))
    said = orjson.loads(value)
    pair.subscription = str(said["subscription"])
    pair.subscribed_at = float(said["subscribed_at"])
    pair.ended_at = float(said["ended_at"])
    pair.sources.update(said["sources"])
    pair.kept = True
    return pair
