"""Virtual queues, in this gateway's memory and without a call to AWS: live subscriptions, replies, temporary queues."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.core.arguments import Overflow, QueuePolicy, read_policy
from gateway.core.backend import Answerable, QueueSpec, Received
from gateway.core.commands import Consume
from gateway.core.deadletter import Bury, Reason
from gateway.core.delivery import Delivery
from gateway.core.errors import NotSupported, Refused
from gateway.core.message import Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.sender import Publisher
from gateway.core.subscription import Consumer, Subscription, Turns

log = structlog.get_logger("mqlift.queues")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What waits in one virtual queue at most."""

    messages: int
    bytes: int


LIVE_ROOM: Final = Room(messages=1_000, bytes=16 * 1024 * 1024)
"""For a slow live subscriber; Mosquitto's `max_queued_messages` has the same default."""

QUEUE_ROOM: Final = Room(messages=100_000, bytes=64 * 1024 * 1024)
"""For a queue that somebody declared: publishers are told when it is full."""

_DAY: Final = 86_400.0


class VirtualQueue:
    """One queue in memory.

    A live subscription's (`spec.lossy`) drops what it has no room for, as brokers do for a subscriber that does not
    keep up: it must hold up neither its publishers nor the gateway's memory. Any other gives it back to its publisher.
    """

    def __init__(
        self,
        name: str,
        spec: QueueSpec,
        metrics: Metrics,
        *,
        bury: Bury,
        on_unused: Callable[[], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`on_unused`: called when the last consumer of an auto-delete queue leaves. Raises `InvalidArgument`."""
        self.name = name
        self.spec = spec
        self.policy: QueuePolicy = read_policy(spec)
        self.used_at = 0.0
        """When it was last declared, consumed or read, on the event loop's clock."""
        self.published = 0
        """Messages that were routed here, and that it wants."""
        self._conditions = [each for each in (spec.accepts, self.policy.accepts) if each is not None]
        self._room = LIVE_ROOM if spec.lossy else QUEUE_ROOM
        self._bury = bury
        self._on_unused = on_unused
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._turns = Turns(single=self.policy.single_active_consumer)
        self._ready = _Ready(self.policy.max_priority)
        self._delayed: list[tuple[float, int, Message]] = []
        self._numbers = itertools.count()
        self._bytes = 0
        """Of what is ready and what is delayed."""
        self._delayed_bytes = 0
        self._closed = False
        self._dropped = metrics.dropped
        self._dropping = False
        self._wake: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    # Publishing

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:  # noqa: ARG002 - Sink
        for accepts in self._conditions:
            if not accepts(message):
                waiter.answer(token, ACCEPTED)
                return
        self.published += 1
        if message.not_before and message.not_before > self._wall():
            waiter.answer(token, self._delay(message))
        else:
            waiter.answer(token, self._take(message))

    def put_retained(self, message: Message) -> None:
        """Take a message over the bounds: retained ones are in memory anyway, and are as many as the topics."""
        self._keep(Received(message, "", stored_at=self._wall()))
        self._wake_up()

    def _take(self, message: Message) -> Result:
        received = self._arrived(message)
        if not self._ready and self._turns.hand(Delivery(received, self)):
            return ACCEPTED
        refusal = self._make_room(message)
        if refusal is None:
            self._keep(received)
        return refusal or ACCEPTED

    def _arrived(self, message: Message) -> Received:
        timed = self.policy.message_ttl is not None or message.properties.expiration is not None
        return Received(message, "", stored_at=self._wall() if timed else 0.0)

    def _keep(self, received: Received) -> None:
        self._ready.append(Delivery(received, self))
        self._bytes += len(received.message.body)
        if received.stored_at:
            self._watch()

    def _make_room(self, message: Message) -> Result | None:
        """Room for one more, or why there is none: the result for its publisher."""
        size = len(message.body)
        if self.policy.overflow is Overflow.DROP_HEAD:
            if not self._drop_head(size):
                self._bury(self, message, Reason.MAXLEN, _ignore)  # larger than the whole queue may be
                return ACCEPTED
        elif self._over_policy(size):
            if self.policy.overflow is Overflow.REJECT_PUBLISH_DLX:
                self._bury(self, message, Reason.MAXLEN, _ignore)
            return Result(Outcome.REJECTED, Refused(f"queue '{self.name}' is full"))
        return self._refuse_at_limit(size)

    def _drop_head(self, size: int) -> bool:
        """Give up the oldest until there is room for one more; False when not even an empty queue has it."""
        while self._over_policy(size):
            if not self._ready:
                return False
            self._bury(self, self._pop_head().message, Reason.MAXLEN, _ignore)
        return True

    def _refuse_at_limit(self, size: int) -> Result | None:
        """What this gateway's memory has no room for; delayed messages take theirs."""
        if len(self._ready) + len(self._delayed) < self._room.messages and self._bytes + size <= self._room.bytes:
            return None
        if not self.spec.lossy:
            return Result(Outcome.RELEASED, Refused(f"queue '{self.name}' is full; it lives in the gateway's memory"))
        self._dropped.inc()
        if not self._dropping:
            self._dropping = True
            log.warning("slow_consumer", queue=self.name, waiting=len(self._ready), bytes=self._bytes)
        return ACCEPTED

    def _over_policy(self, size: int) -> bool:
        policy = self.policy
        return (policy.max_length is not None and len(self._ready) + 1 > policy.max_length) or (
            policy.max_length_bytes is not None and self._bytes - self._delayed_bytes + size > policy.max_length_bytes
        )

    def _delay(self, message: Message) -> Result:
        refusal = self._refuse_at_limit(len(message.body))
        if refusal is None:
            heapq.heappush(self._delayed, (message.not_before, next(self._numbers), message))
            self._bytes += len(message.body)
            self._delayed_bytes += len(message.body)
            self._watch()
        return refusal or ACCEPTED

    def _come_due(self, message: Message) -> None:
        """A delayed message was accepted long ago: it is kept, whatever else has come meanwhile."""
        self._bytes -= len(message.body)
        self._delayed_bytes -= len(message.body)
        received = self._arrived(message)
        if not self._ready and self._turns.hand(Delivery(received, self)):
            return
        if self.policy.overflow is Overflow.DROP_HEAD and not self._drop_head(len(message.body)):
            self._bury(self, message, Reason.MAXLEN, _ignore)
        else:
            self._keep(received)

    # Consuming

    @property
    def consumers(self) -> int:
        return len(self._turns)

    @property
    def ready(self) -> int:
        """Messages that nobody holds."""
        return len(self._ready)

    @property
    def unsettled(self) -> int:
        """Deliveries that consumers hold."""
        return sum(subscription.held for subscription in self._turns)

    @property
    def delivered(self) -> int:
        """Deliveries that consumers were given, ever."""
        return self._turns.handed

    def consume(self, command: Consume, consumer: Consumer) -> Subscription:
        """Raises `InUse`, and `NotSupported` for a selector: what it does not take would be in the others' way."""
        if command.selector:
            raise NotSupported(f"selector: queue '{self.name}' is in the gateway's memory, where consumers have none")
        self._turns.check(exclusive=command.exclusive)
        subscription = Subscription(command, self, consumer)
        self._turns.add(subscription)
        self._wake_up()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._turns.remove(subscription)
        self.used_at = self._loop.time()
        if self.spec.auto_delete and not self._turns and not self._closed:
            self._on_unused()
        else:
            self._wake_up()  # another consumer may be the active one now

    def credited(self, subscription: Subscription) -> None:
        self._turns.offer(subscription)
        self._wake_up()

    def get(self) -> Delivery | None:
        """Take the first message, if there is one."""
        self.used_at = self._loop.time()
        delivery = self._next()
        self._watch()
        return delivery

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """End a delivery, once: a released one is delivered again, ahead of the others, marked redelivered."""
        if delivery.settled:
            return
        delivery.settled = True
        if not self._closed:
            if outcome is Outcome.RELEASED:
                self._release(delivery)
            elif outcome is Outcome.REJECTED:
                self._bury(self, delivery.message, Reason.REJECTED, _ignore)
        subscription = delivery.subscription
        if isinstance(subscription, Subscription):
            subscription.settled()
        else:
            self._wake_up()

    def _release(self, delivery: Delivery) -> None:
        limit = self.policy.delivery_limit
        if limit is not None and delivery.attempt > limit:
            self._bury(self, delivery.message, Reason.DELIVERY_LIMIT, _ignore)
            return
        again = Received(delivery.message, "", delivery.attempt + 1, stored_at=delivery.stored_at)
        self._ready.put_back(Delivery(again, self))
        self._bytes += len(delivery.message.body)
        if delivery.stored_at:
            self._watch()

    def purge(self) -> int:
        """Drop what nobody holds; how many messages that were."""
        count = len(self._ready)
        self._ready.clear()
        self._bytes = self._delayed_bytes
        return count

    def close(self) -> None:
        """Drop what waits, and what will be released; consumers are told, if they want to be."""
        self._closed = True
        for handle in (self._wake, self._timer):
            if handle is not None:
                handle.cancel()
        self._delayed.clear()
        self._delayed_bytes = 0
        self.purge()
        for subscription in self._turns:
            subscription.cancel()
            if subscription.cancellable:
                subscription.consumer.cancelled(subscription)

    def _wake_up(self) -> None:
        if self._wake is None and self._ready and not self._closed:
            self._wake = self._loop.call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._wake = None
        while (delivery := self._next()) is not None:
            if not self._turns.hand(delivery):
                self._ready.put_first(delivery)
                self._bytes += len(delivery.message.body)
                break
        else:
            self._dropping = False
        self._watch()

    def _next(self) -> Delivery | None:
        """Take the first message whose time is not over."""
        self._expire()
        return self._pop_head() if self._ready else None

    def _pop_head(self) -> Delivery:
        delivery = self._ready.pop()
        self._bytes -= len(delivery.message.body)
        return delivery

    # Time

    def _expire(self) -> None:
        """Give up the messages at the head whose time is over. Those behind wait for their turn, as in RabbitMQ."""
        while self._ready and (ends := self._ends(self._ready.head())) is not None and ends <= self._wall():
            self._bury(self, self._pop_head().message, Reason.EXPIRED, _ignore)

    def _ends(self, delivery: Delivery) -> float | None:
        ttl = self.policy.message_ttl
        own = delivery.message.properties.expiration
        if own is not None and (ttl is None or own < ttl):
            ttl = own
        return None if ttl is None or not delivery.stored_at else delivery.stored_at + ttl / 1000

    def _watch(self) -> None:
        """See that the timer goes off when the next message is due: one that expires, or one that was delayed."""
        due = self._delayed[0][0] if self._delayed else None
        ends = self._ends(self._ready.head()) if self._ready else None
        if ends is not None and (due is None or ends < due):
            due = ends
        if due is None or self._closed:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return  # it goes off early, and looks again
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(min(max(due - self._wall(), 0.0), _DAY), self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        now = self._wall()
        while self._delayed and self._delayed[0][0] <= now:
            _, _, message = heapq.heappop(self._delayed)
            self._come_due(message)
        self._expire()
        self._watch()


class _Ready:
    """What waits, by priority where the queue has priorities; what was given back is ahead of its equals."""

    __slots__ = ("_count", "_lines", "_most")

    def __init__(self, max_priority: int | None) -> None:
        self._most = max_priority or 0
        self._lines = [_Line() for _ in range(self._most + 1)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, delivery: Delivery) -> None:
        self._line(delivery).waiting.append(delivery)
        self._count += 1

    def put_back(self, delivery: Delivery) -> None:
        self._line(delivery).released.append(delivery)
        self._count += 1

    def put_first(self, delivery: Delivery) -> None:
        """Undo a `pop`: what will be given back before the next one still is ahead of what nobody has had."""
        line = self._line(delivery)
        (line.released if delivery.redelivered else line.waiting).appendleft(delivery)
        self._count += 1

    def head(self) -> Delivery:
        for line in reversed(self._lines):
            for part in (line.released, line.waiting):
                if part:
                    return part[0]
        raise IndexError("nothing waits")

    def pop(self) -> Delivery:
        for line in reversed(self._lines):
            for part in (line.released, line.waiting):
                if part:
                    self._count -= 1
                    return part.popleft()
        raise IndexError("nothing waits")

    def clear(self) -> None:
        self._lines = [_Line() for _ in self._lines]
        self._count = 0

    def _line(self, delivery: Delivery) -> _Line:
        if not self._most:
            return self._lines[0]
        return self._lines[min(delivery.message.properties.priority or 0, self._most)]


class _Line:
    """Of one priority: what was given back, in that order, ahead of what has not been delivered yet."""

    __slots__ = ("released", "waiting")

    def __init__(self) -> None:
        self.released: deque[Delivery] = deque()
        self.waiting: deque[Delivery] = deque()


def _ignore(result: Result) -> None:
    """A virtual queue keeps nothing that could be given back to."""
