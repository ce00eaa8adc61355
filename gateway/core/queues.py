"""Durable queues: their messages live in a backend, whoever publishes and consumes them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import structlog

from gateway.core.arguments import Overflow, QueuePolicy, read_policy
from gateway.core.backend import Answerable, Backend, Depth, QueueSpec, Target
from gateway.core.commands import Consume
from gateway.core.deadletter import Bury, Reason
from gateway.core.delivery import Delivery
from gateway.core.errors import BackendError, NotSupported, Refused
from gateway.core.later import Later
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.receiver import GET_WAIT, Keeper, Receiver
from gateway.core.selecting import Redrive, check_selectors
from gateway.core.sender import Publisher, Sender
from gateway.core.subscription import Consumer, Subscription

log = structlog.get_logger("mqlift.queues")

EXPIRING: Final = 1_000
"""Messages of one queue without consumers that are watched until they expire; the others follow as these go."""

DEPTH_SECONDS: Final = 1.0
"""How long a queue's counts are believed: they are approximate anyway, and each look costs a request."""

EARLY: Final = 0.5
"""Seconds before its time at which a delayed message may be delivered: SQS counts whole seconds."""

LET_GO: Final = 60.0
"""Seconds before the longest hold of the service at which a message is given back."""

PURGING_POLLS: Final = 8
"""Requests of a purge under way at once: some thousand messages a second."""

PURGING_VISIBILITY: Final = 30.0
"""Seconds that a message stays hidden which a purge has received and could not delete."""

CLOCKS_APART: Final = 1.0
"""Seconds by which the service's clock may be ahead of ours, before a purge spares what was sent before it."""

TRIMMED: Final = 1_000
"""Messages that one look at a queue over its length takes out, at most."""


class Sink(Protocol):
    """Somewhere that a routed message goes."""

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        """Take a message; exactly one `waiter.answer(token, …)` follows, at once or later."""


class Destination:
    """A rule's target: a resource of a backend, with the rule's options."""

    __slots__ = ("_sender", "_target")

    def __init__(self, sender: Sender, target: Target) -> None:
        self._sender = sender
        self._target = target

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        self._sender.put(self._target, message, publisher, waiter, token)


class BackendQueue:
    """One durable queue, with what AMQP asks of it and the backend does not do itself: expiry, length, dead letters.

    What it needs to send and to receive is made when it is first used: thousands of sessions may keep a queue each.
    """

    def __init__(
        self,
        target: Target,
        spec: QueueSpec,
        backend: Backend,
        *,
        open_sender: Callable[[Target], Sender],
        open_receiver: Callable[[Target, Keeper, QueuePolicy], Receiver],
        bury: Bury,
        nobody: Publisher,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises `InvalidArgument` and `NotSupported`."""
        self.name = target.queue
        self.target = target
        self.spec = spec
        self.policy = read_policy(spec)
        self.ensured = False
        """Whether the backend has said that it is there. One that only a rule names is found, or made, by sending."""
        self.declared = False
        """Whether a client has said how it is to be; of one that only a rule names, or that was found, nobody has."""
        self.used_at = asyncio.get_running_loop().time()
        """When it was last declared, consumed or read, on the event loop's clock."""
        self.full = False
        """Over its `x-max-length`, when that was last looked at; publishers are refused where they asked for that."""
        self.published = 0
        """Messages that were routed here by this gateway, and that its selector accepts, if it has one."""
        self._backend = backend
        self._redrive: Redrive | None = None
        self._open_sender = open_sender
        self._open_receiver = open_receiver
        self._bury = bury
        self._nobody = nobody
        self._wall = wall
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self._loading: set[asyncio.Task[None]] = set()
        """Bodies that are fetched once more, for dead letters and delays."""
        self._waiting: _Waiting | None = None
        self._alone = True
        self._expiring = self.policy.message_ttl is not None
        """Whether messages that expire may be in it."""
        self._depth: Depth | None = None
        self._depth_at = float("-inf")
        self._put_since = False
        """Messages were put into it since it was last counted."""

    # Publishing

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        accepts = self.policy.accepts
        if accepts is not None and not accepts(message):
            waiter.answer(token, ACCEPTED)
            return
        self.published += 1
        if self.full:
            if self.policy.overflow is Overflow.REJECT_PUBLISH_DLX:
                self._bury(self, message, Reason.MAXLEN, _ignore)
            waiter.answer(token, Result(Outcome.REJECTED, Refused(f"queue '{self.name}' is full")))
            return
        if self._sender is None:
            try:
                self._sender = self._open_sender(self.target)
            except Refused as error:
                waiter.answer(token, Result(Outcome.REJECTED, error))
                return
        self.expect(message)
        self._sender.put(self.target, message, publisher, waiter, token)

    def expect(self, message: Message) -> None:
        """Know of a message that is on its way into the queue, whoever brings it."""
        if message.properties.expiration is not None and not self._expiring:
            self._expiring = True
            self.watch_expiry()
        self._put_since = True

    # Consuming

    @property
    def consumers(self) -> int:
        if self._receiver is None:
            return 0
        return self._receiver.consumers - (self._waiting is not None)

    @property
    def unsettled(self) -> int:
        """Deliveries that clients of this gateway hold."""
        return 0 if self._receiver is None else self._receiver.unsettled

    @property
    def delivered(self) -> int:
        """Deliveries that consumers were given, ever."""
        return 0 if self._receiver is None else self._receiver.delivered

    def consume(self, command: Consume, consumer: Consumer) -> Subscription:
        """Raises `InUse`, `NotSupported` for a destination that nothing can be received from and for a selector that
        cannot be had here, `SelectorError`. With a selector, it consumes when `Subscription.begun` is done.
        """
        receiver = self._receiving()
        if self._waiting is None:
            receiver.check(exclusive=command.exclusive)
        if command.selector:
            check_selectors(self.target, self.policy)
        subscription = Subscription(command, receiver, consumer)
        if subscription.accepts is None:
            self._begin(subscription, receiver)
        else:
            subscription.begun = Later(lambda: self._begin_selecting(subscription, receiver))
        return subscription

    def _begin(self, subscription: Subscription, receiver: Receiver) -> None:
        receiver.subscribe(subscription)
        self._stop_waiting()

    async def _begin_selecting(self, subscription: Subscription, receiver: Receiver) -> None:
        """Raises as `consume`, and `BackendError`."""
        if self._redrive is None:
            self._redrive = Redrive(self._backend, self.target)
        await self._redrive.check()
        check_selectors(self.target, self.policy)  # a rule or a declaration may have come meanwhile
        if subscription.cancelled:
            return
        if self._waiting is None:
            receiver.check(exclusive=subscription.exclusive)
        assert self.target.pass_over is not None
        receiver.pass_over(self.target.pass_over)
        self._begin(subscription, receiver)

    async def get(self) -> Delivery | None:
        """Take one message, if there is one. Raises `BackendError`."""
        self.used_at = asyncio.get_running_loop().time()
        receiver = self._receiving()
        delivery = self._waiting.take() if self._waiting is not None else None
        if delivery is None:
            delivery = await receiver.get()
        if delivery is not None and delivery.absent:
            try:
                await delivery.load()
            except BaseException:
                receiver.withdraw(delivery)  # it comes back when its visibility ends
                raise
        return delivery

    def _receiving(self) -> Receiver:
        if self._receiver is None:
            if not self._backend.limits.receive_entries:
                raise NotSupported(f"queue '{self.name}': nothing can be consumed from {self.target.kind}")
            self._receiver = self._open_receiver(self.target, self, self.policy)
        return self._receiver

    # What the receiver asks

    def screen(self, delivery: Delivery) -> bool:
        reason = self._dead(delivery)
        if reason is not None:
            self._give_up(delivery, reason)
            return True
        if delivery.message.not_before > self._wall() + EARLY:
            self._put_off(delivery)
            return True
        return False

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        assert self._receiver is not None
        limit = self.policy.delivery_limit
        if outcome is Outcome.REJECTED and self.policy.dead_letter_exchange is not None:
            self._bury_and_settle(delivery, Reason.REJECTED)
        elif outcome is Outcome.RELEASED and limit is not None and delivery.attempt > limit:
            self._bury_and_settle(delivery, Reason.DELIVERY_LIMIT)
        else:
            self._receiver.settler.settle(delivery, outcome)

    def idle(self) -> None:
        self.used_at = asyncio.get_running_loop().time()
        self.watch_expiry()

    # Expiry, delays, dead letters

    def watch_expiry(self) -> None:
        """Dead letters of messages that expire are due even when nobody consumes the queue."""
        if self.expiring and self._alone and self._waiting is None and not self.consumers:
            self._waiting = _Waiting(self, self._receiving(), self._wall)

    @property
    def expiring(self) -> bool:
        """Whether messages may expire, and are dead letters then."""
        return self._expiring and self.policy.dead_letter_exchange is not None

    def be_alone(self, alone: bool) -> None:
        """Whether messages that expire are this gateway's to see to, as long as it has no consumers.

        Of several gateways one does, and only while none of them has consumers: they would wait for what it holds.
        """
        if alone is not self._alone:
            self._alone = alone
            if alone:
                self.watch_expiry()
            else:
                self._stop_waiting()

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.stop()

    def ends(self, delivery: Delivery) -> float | None:
        """When a message expires, in seconds since 1970-01-01 UTC; None for never."""
        ttl = self.policy.message_ttl
        own = delivery.message.properties.expiration
        if own is not None and (ttl is None or own < ttl):
            ttl = own
        if ttl is None or not delivery.stored_at:
            return None
        # A delayed message begins to wait when its delay is over, as behind RabbitMQ's delayed exchange.
        return max(delivery.stored_at, delivery.message.not_before) + ttl / 1000

    def expire(self, delivery: Delivery) -> None:
        self._give_up(delivery, Reason.EXPIRED)

    def _dead(self, delivery: Delivery) -> Reason | None:
        """Why a message is not delivered any more; None when it is."""
        ends = self.ends(delivery)
        if ends is not None and ends <= self._wall():
            return Reason.EXPIRED
        limit = self.policy.delivery_limit
        # A delivery whose consumer vanished was never given back: only its number tells.
        return Reason.DELIVERY_LIMIT if limit is not None and delivery.attempt > limit + 1 else None

    def _give_up(self, delivery: Delivery, reason: Reason) -> None:
        assert self._receiver is not None
        if self._receiver.withdraw(delivery):
            self._bury_and_settle(delivery, reason)

    def _bury_and_settle(self, delivery: Delivery, reason: Reason) -> None:
        def bury() -> None:
            self._bury(self, delivery.message, reason, self._settling(delivery))

        if self.policy.dead_letter_exchange is None:
            bury()  # which is to count it
        else:
            self._with_body(delivery, bury)

    def _with_body(self, delivery: Delivery, then: Callable[[], None]) -> None:
        """Do something that needs the body of a message, which may have to be fetched again."""
        if delivery.absent:
            task = asyncio.get_running_loop().create_task(self._load(delivery, then))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)
        else:
            then()

    async def _load(self, delivery: Delivery, then: Callable[[], None]) -> None:
        try:
            await delivery.load()
        except BackendError as error:
            self._settling(delivery)(Result(Outcome.RELEASED, error))
        else:
            then()

    def _settling(self, delivery: Delivery) -> Callable[[Result], None]:
        """What ends a delivery when its message is stored elsewhere.

        When it is not, the delivery is left alone: it comes back when its visibility ends, which is the pause before
        the next attempt. Given back at once, it would be tried as fast as the backend can answer.
        """
        assert self._receiver is not None
        settler = self._receiver.settler

        def done(result: Result) -> None:
            if result.outcome is Outcome.ACCEPTED:
                settler.settle(delivery, Outcome.ACCEPTED)
            else:
                delivery.unload()
                log.warning("message_not_moved", queue=self.name, problem=str(result.error))

        return done

    def _put_off(self, delivery: Delivery) -> None:
        """A message that is not due was delayed for as long as the backend can: send it on its next stretch."""
        assert self._receiver is not None
        if self._receiver.withdraw(delivery):
            if self._sender is None:
                try:
                    self._sender = self._open_sender(self.target)
                except Refused as error:
                    self._settling(delivery)(Result(Outcome.RELEASED, error))
                    return
            self._with_body(delivery, partial(self._send_on, self._sender, delivery))

    def _send_on(self, sender: Sender, delivery: Delivery) -> None:
        sender.put(self.target, delivery.message, self._nobody, _Done(self._settling(delivery)), None)

    # Counts

    async def depth(self, *, fresh: bool = False) -> Depth:
        """Approximate counts, not older than a second or the last publish. Raises `BackendError`."""
        now = asyncio.get_running_loop().time()
        if self._depth is None or fresh or self._put_since or now - self._depth_at > DEPTH_SECONDS:
            self._put_since = False
            self._depth = await self._backend.depth(self.target)
            self._depth_at = now
            self._see_whether_full(self._depth.ready)
        return self._depth

    def _see_whether_full(self, ready: int) -> None:
        most = self.policy.max_length
        if most is not None and self.policy.overflow is not Overflow.DROP_HEAD:
            self.full = ready >= most

    async def remaining(self) -> int:
        """Messages that are ready after one was taken with `get`, approximately. Raises `BackendError`."""
        depth = self._depth
        recent = asyncio.get_running_loop().time() - self._depth_at <= DEPTH_SECONDS
        if depth is not None and recent and not self._put_since:
            self._depth = replace(depth, ready=max(depth.ready - 1, 0))
            return self._depth.ready
        return (await self.depth()).ready

    async def purge(self) -> int:
        """Drop the messages that nobody holds; how many there were. Raises `BackendError`.

        They are received and deleted: SQS's own PurgeQueue also drops what is sent within the next minute.
        """
        count = 0
        while self._waiting is not None and (delivery := self._waiting.take()) is not None:
            delivery.source.settle(delivery, Outcome.ACCEPTED)
            count += 1
        began = self._wall()
        purges = [self._purge(began) for _ in range(PURGING_POLLS)]
        results = await asyncio.gather(*purges, return_exceptions=True)
        self._depth = None
        for result in results:
            if isinstance(result, BaseException):
                raise result
            count += result
        return count

    async def _purge(self, began: float) -> int:
        """Delete until nothing comes, or only what was sent later."""
        most = self._backend.limits.receive_entries
        count = 0
        while received := await self._backend.receive(self.target, most, GET_WAIT, PURGING_VISIBILITY):
            old = [each.receipt for each in received if each.stored_at <= began + CLOCKS_APART]
            young = [each.receipt for each in received if each.stored_at > began + CLOCKS_APART]
            if old:
                results = await self._backend.settle(self.target, old, Outcome.ACCEPTED)
                count += sum(result.outcome is Outcome.ACCEPTED for result in results)
            if young:
                await self._backend.settle(self.target, young, Outcome.RELEASED)
                break
        return count

    async def check_length(self) -> None:
        """Keep to `x-max-length`, as far as approximate counts go. Raises `BackendError`."""
        most = self.policy.max_length
        if most is None:
            return
        over = (await self.depth()).ready - most
        if self.policy.overflow is not Overflow.DROP_HEAD:
            return
        receiver = self._receiving()
        for _ in range(min(over, TRIMMED)):
            delivery = await receiver.get()
            self._depth = None
            if delivery is None:
                break
            self._give_up(delivery, Reason.MAXLEN)

    # Ending

    @property
    def unsent(self) -> int:
        """Messages that were published to it, and that the backend has not answered for."""
        return 0 if self._sender is None else self._sender.held

    def cancel_consumers(self) -> None:
        """It has been deleted: tell those who consume it."""
        self.stop_polling()
        if self._receiver is not None:
            self._receiver.cancel_consumers(deleted=True)

    def redefine(self, spec: QueueSpec) -> None:
        """Be as the first declaration asks for; until then nobody has. Raises `InvalidArgument`, `NotSupported`."""
        policy = read_policy(spec)
        if self._receiver is not None and self._receiver.selective:
            check_selectors(self.target, policy)
        self.policy = policy
        self.spec = spec
        self._expiring = self._expiring or self.policy.message_ttl is not None
        if self._receiver is not None:
            self._receiver.be_single(self.policy.single_active_consumer)

    def stop_polling(self) -> None:
        """No new polls; what consumers hold can still be settled."""
        if self._receiver is not None:
            self._receiver.stop()
        self._stop_waiting()

    async def drain(self) -> None:
        """Wait for the polls under way, and until the backend has answered for every settlement."""
        if self._receiver is not None:
            await self._receiver.finish()
            await asyncio.gather(*self._loading)
            await self._receiver.settler.drain()

    async def aclose(self) -> None:
        self.stop_polling()
        loading = list(self._loading)
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        if self._receiver is not None:
            await self._receiver.aclose()
            await self._receiver.settler.aclose()


class _Waiting:
    """Takes the messages of a queue that nobody consumes, and keeps them hidden until they expire."""

    def __init__(self, queue: BackendQueue, receiver: Receiver, wall: Callable[[], float]) -> None:
        self._queue = queue
        self._receiver = receiver
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._held: dict[Delivery, None] = {}
        self._due: list[tuple[float, int, Delivery]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._subscription = Subscription(Consume("", queue.name, EXPIRING, None), receiver, self)
        receiver.subscribe(self._subscription)

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:  # noqa: ARG002 - there is one
        self._held[delivery] = None
        delivery.unload()
        # Beyond the service's longest hold it comes back, and would be held twice: so it is given back before.
        due = self._wall() + delivery.held_until - self._loop.time() - LET_GO
        ends = self._queue.ends(delivery)
        heapq.heappush(self._due, (due if ends is None else min(ends, due), next(self._numbers), delivery))
        if self._due[0][2] is delivery:
            self._set_timer()
        if len(self._due) > 2 * EXPIRING:
            self._due = [entry for entry in self._due if entry[2] in self._held]  # others took them with `get`
            heapq.heapify(self._due)

    def cancelled(self, subscription: Subscription) -> None:
        """Never asked for."""

    def take(self) -> Delivery | None:
        """Give the oldest one to somebody who asks for it."""
        for delivery in self._held:
            del self._held[delivery]
            delivery.subscription = None
            self._subscription.settled()
            return delivery
        return None

    def stop(self) -> None:
        """Somebody wants the messages: they go back to where they came from."""
        self._subscription.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for delivery in list(self._held):
            self._receiver.release(delivery)
        self._held.clear()
        self._due.clear()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(self._due[0][0] - self._wall(), 0.0), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._wall()
        while self._due and self._due[0][0] <= now:
            _, _, delivery = heapq.heappop(self._due)
            if delivery not in self._held:
                continue
            del self._held[delivery]
            ends = self._queue.ends(delivery)
            if ends is not None and ends <= now:
                self._queue.expire(delivery)
            else:
                self._receiver.release(delivery)
        if self._due:
            self._set_timer()


class _Done:
    """Passes the one answer to a publish of the gateway's own on."""

    __slots__ = ("_done",)

    def __init__(self, done: Callable[[Result], None]) -> None:
        self._done = done

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - there is one
        self._done(result)


def _ignore(result: Result) -> None:
    """Its publisher has been told already."""
