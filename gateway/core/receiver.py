"""Polling one queue of a backend: as much as consumers have credit for, as often as there is something to get."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from gateway.core.backend import Backend, Received, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.delivery import Delivery
from gateway.core.errors import BackendError, NotFound, Unavailable
from gateway.core.fetching import Fetching
from gateway.core.health import FAILURES_TO_REPORT, Health
from gateway.core.metrics import Metrics
from gateway.core.outcome import Outcome
from gateway.core.passing import Passing
from gateway.core.renewer import Renewer
from gateway.core.settler import Settler
from gateway.core.subscription import Subscription, Turns

log = structlog.get_logger("mqlift.receiver")

GATHER_CREDIT: Final = 0.002
"""Seconds that a poll waits for more credit when there is not enough for a full one: acknowledgements come one by one,
and a request for one message costs as much as a request for ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivePolicy:
    """How queues are polled. Times in seconds."""

    visibility: float = 30.0
    """How long a received message stays hidden unless renewed; so after a crash it comes back within this time."""
    wait: float = 20.0
    """Long poll, and the most that AWS allows: an idle queue costs three requests a minute."""
    polls: int = 16
    """Requests for one queue under way at once, at most; an idle queue has one."""
    backoff: BatchPolicy = field(default_factory=lambda: BatchPolicy(backoff_base=0.5, backoff_cap=15.0))


OUT_OF_STEP: Final = 0.3
"""Seconds that polling rests at most, by chance, when a poll has brought nothing but what nobody here wants: a gateway
that has hidden a message must not be the first to see it again each time, and so keep it from the others."""

GET_WAIT: Final = 1.0
"""Seconds that a single `get` waits: without it SQS asks a part of its servers only, and may miss what is there."""

UNKNOWN: Final = 3
"""Answers in a row that a queue is not there, before its consumers are told: one that is new is not known at once."""


class Keeper(Protocol):
    """The queue whose messages a receiver gets: it has the first and the last word on each."""

    def screen(self, delivery: Delivery) -> bool:
        """Before a consumer gets it. True: the queue has taken care of it (it has expired, or is not due)."""

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        """A consumer is done with it: see that the backend is told."""

    def idle(self) -> None:
        """The last consumer has left."""


class Receiver:
    """The source of one queue's deliveries: polls, hands out in turn, keeps what is held hidden, takes settlements.

    A poll under way is never cancelled while the gateway runs: the service may already have taken messages for its
    answer, and they would stay hidden until their visibility ends. What a poll brings that nobody wants any more is
    released at once.
    """

    def __init__(
        self,
        backend: Backend,
        target: Target,
        settler: Settler,
        *,
        policy: ReceivePolicy,
        metrics: Metrics,
        health: Health,
        keeper: Keeper,
        single: bool = False,
    ) -> None:
        """`single`: only one consumer is active at a time."""
        self.name = target.queue
        self._backend = backend
        self._target = target
        self.settler = settler
        self._policy = policy
        self._health = health
        self._resource = f"{target.kind} {target.name} (receive)"
        self._loop = asyncio.get_running_loop()
        self._keeper = keeper
        self._turns = Turns(single=single)
        self._polls: set[asyncio.Task[None]] = set()
        self._wanted_polls = 1
        self._gathered = False
        self._reserved = 0
        self._failures = 0
        self._failed_at = float("-inf")
        self._unknown = 0
        self._blocked_until = 0.0
        self._wake: asyncio.Handle | None = None
        self._closed = False
        self._fetching = Fetching(
            wanted=self._wanted,
            left=self._left,
            hand_out=self._hand_fetched,
            give_back=self._unfetched,
            failed=self._not_fetched,
        )
        self._passing: Passing | None = None
        self._metrics = metrics
        self._renewer = Renewer(backend, target, visibility=policy.visibility, metrics=metrics)
        label = target.label or target.queue
        self._deliveries = metrics.deliveries.labels(label)
        self._redeliveries = metrics.redeliveries.labels(label)
        self.unsettled = 0
        metrics.count_queue(label, self)

    @property
    def polls(self) -> int:
        return len(self._polls)

    @property
    def consumers(self) -> int:
        return len(self._turns)

    @property
    def delivered(self) -> int:
        """Deliveries that consumers were given, ever."""
        return self._turns.handed

    def be_single(self, single: bool) -> None:
        """Whether only one consumer is active at a time."""
        self._turns.be_single(single)
        self.wake()

    def check(self, *, exclusive: bool) -> None:
        """Whether one more consumer may come. Raises `InUse`."""
        self._turns.check(exclusive=exclusive)

    @property
    def selective(self) -> bool:
        """Whether consumers have selectors."""
        return bool(self._turns.selective)

    def pass_over(self, seconds: float) -> None:
        """Consumers may have selectors from now on; what nobody takes is hidden for so long."""
        if self._passing is None:
            self._passing = Passing(
                self._backend,
                self._target,
                self._turns,
                self,
                self.settler,
                seconds=seconds,
                policy=BatchPolicy(timeout=self._policy.visibility * 2 / 3),  # while it is surely ours
                metrics=self._metrics,
            )
        self._passing.seconds = seconds

    def subscribe(self, subscription: Subscription) -> None:
        self._turns.add(subscription)
        if self._passing is not None:
            self._passing.came(subscription)
        self.wake()

    def unsubscribe(self, subscription: Subscription) -> None:
        self._turns.remove(subscription)
        if self._passing is not None:
            self._passing.left()
        if not self._turns and self._failures:
            # Nobody polls it any more, so nothing would tell that it works again.
            self._failures = 0
            self._health.clear(self._resource)
        if not self._turns:
            self._fetching.give_back_all()
        if not self._turns and not self._closed:
            self._keeper.idle()
        else:
            self.wake()  # another consumer may be the active one now

    def credited(self, subscription: Subscription) -> None:
        self._turns.offer(subscription)
        self._fetching.wake()
        if self._passing is not None:
            self._passing.credited()
        if self._wake is None:
            self.wake()

    def wake(self) -> None:
        """Poll if there is credit; at the end of this turn of the loop, once."""
        if self._wake is None and not self._closed:
            self._wake = self._loop.call_soon(self._start_polls)

    def look_again(self) -> None:
        """See anew whether to poll, at the end of this turn, whatever was waited for."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self.wake()

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """End a delivery, once; later calls for it do nothing, as after a disconnect."""
        if delivery.settled:
            return
        delivery.settled = True
        self.unsettled -= 1
        self._renewer.forget(delivery)
        self._keeper.end(delivery, outcome)
        subscription = delivery.subscription
        if isinstance(subscription, Subscription):
            subscription.settled()

    def withdraw(self, delivery: Delivery) -> bool:
        """Take a delivery back from whoever has it, without ending it; False when it has ended already."""
        if delivery.settled:
            return False
        delivery.settled = True
        self.unsettled -= 1
        self._renewer.forget(delivery)
        subscription = delivery.subscription
        if isinstance(subscription, Subscription):
            subscription.settled()
        return True

    def release(self, delivery: Delivery) -> None:
        """Give back what no consumer has had; its queue has nothing to say to that."""
        if self.withdraw(delivery):
            self.settler.settle(delivery, Outcome.RELEASED)

    async def get(self) -> Delivery | None:
        """Take one message for nobody's subscription, if there is one; a large body is not in it yet.

        Raises `BackendError`.
        """
        while True:
            received = await self._backend.receive(self._target, 1, GET_WAIT, self._policy.visibility)
            if not received:
                return None
            delivery = self._hold(received[0], self._loop.time())
            if self._closed:
                self.release(delivery)
                return None
            if not self._keeper.screen(delivery):
                self._deliveries.inc()
                return delivery

    def cancel_consumers(self, *, deleted: bool = False) -> None:
        """The queue is gone: end the subscriptions of those who want to be told, and tell them.

        The others wait until it is back, unless it was `deleted` for good.
        """
        for subscription in self._turns:
            if subscription.cancellable or deleted:
                subscription.cancel()
            if subscription.cancellable:
                subscription.consumer.cancelled(subscription)

    def stop(self) -> None:
        """No new polls. What those under way still bring is released when nobody takes it."""
        self._closed = True
        if self._wake is not None:
            self._wake.cancel()
        self._fetching.stop()
        if self._passing is not None:
            self._passing.stop()

    async def finish(self) -> None:
        """Wait for the polls under way, after `stop`."""
        if self._polls:
            await asyncio.wait(self._polls)
        await self._fetching.finish()
        if self._passing is not None:
            await self._passing.drain()

    async def aclose(self) -> None:
        """Abandon polls under way: what the service takes for their answers comes back after its visibility timeout."""
        self.stop()
        polls = list(self._polls)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await self._fetching.finish()
        if self._passing is not None:
            await self._passing.aclose()
        await self._renewer.aclose()

    def _start_polls(self) -> None:
        self._wake = None
        now = self._loop.time()
        blocked_until = self._blocked_until
        if self._passing is not None:
            blocked_until = max(blocked_until, self._passing.full_until(now))
        if now < blocked_until:
            self._wake = self._loop.call_at(blocked_until, self._start_polls)
            return
        full = self._backend.limits.receive_entries
        while len(self._polls) < self._wanted_polls:
            credit = self._turns.credit(self._reserved + full) - self._reserved
            if credit <= 0 or (credit < full and self._polls):
                return
            if credit < full and self._wanted_polls > 1 and not self._gathered:
                # Busy: the credit for a full poll is on its way, in the acknowledgements that follow.
                self._gathered = True
                self._wake = self._loop.call_later(GATHER_CREDIT, self._start_polls)
                return
            self._gathered = False
            self._poll(min(credit, full))

    def _poll(self, limit: int) -> None:
        self._reserved += limit
        poll = self._loop.create_task(self._receive(limit))
        self._polls.add(poll)
        poll.add_done_callback(self._polled)

    def _polled(self, poll: asyncio.Task[None]) -> None:
        self._polls.discard(poll)
        if not poll.cancelled() and (error := poll.exception()) is not None:
            log.error("hand_out_failed_unexpectedly", queue=self.name, exc_info=error)
        self.wake()

    async def _receive(self, limit: int) -> None:
        started = self._loop.time()
        wait = min(self._policy.wait, self._backend.limits.max_wait)
        try:
            received = await self._backend.receive(self._target, limit, wait, self._policy.visibility)
        except BackendError as error:
            self._back_off(error, started)
            return
        except Exception:
            # A bug in a backend must not stop the queue for good, nor pass unseen.
            log.exception("receive_failed_unexpectedly", queue=self.name)
            self._back_off(Unavailable("internal error, see the gateway's log", resource=self._resource), started)
            return
        finally:
            self._reserved -= limit
        self._unknown = 0
        if self._failures:
            self._failures = 0
            self._health.clear(self._resource)
        self._adapt(limit, len(received))
        handed = self._hand_out(received)
        if self._passing is not None and received and not handed and len(received) < limit:
            rest = random.uniform(0, OUT_OF_STEP)  # noqa: S311 - keeps no secret
            self._blocked_until = max(self._blocked_until, self._loop.time() + rest)

    def _back_off(self, error: BackendError, started: float) -> None:
        """Wait longer after every failure in a row; polls that were under way at the last one are part of that one."""
        if started <= self._failed_at:
            return
        self._failed_at = self._loop.time()
        self._failures += 1
        self._unknown = self._unknown + 1 if isinstance(error, NotFound) else 0
        if self._unknown >= UNKNOWN:
            self._unknown = 0
            self.cancel_consumers()
        self._wanted_polls = 1
        self._blocked_until = self._failed_at + self._policy.backoff.backoff(self._failures)
        lasting = not error.retriable or self._failures >= FAILURES_TO_REPORT
        # Without a consumer nobody would poll, and see that it works again.
        if self._turns and lasting and not error.throttled:
            self._health.report(self._resource, error)

    def _adapt(self, asked: int, got: int) -> None:
        """More polls while they come back full, one when there is nothing."""
        if got == self._backend.limits.receive_entries:
            self._wanted_polls = min(self._policy.polls, self._wanted_polls * 2)
        elif got == 0:
            self._wanted_polls = 1
        elif got * 2 < asked:
            self._wanted_polls = max(1, self._wanted_polls - 1)

    def _hand_out(self, received: Sequence[Received]) -> int:
        """How many consumers were given."""
        now = self._loop.time()
        handed = redelivered = 0
        for one in received:
            delivery = self._hold(one, now)
            if self._keeper.screen(delivery):
                continue
            if self._fetching.comes_first(delivery) and self._fetch(delivery):
                continue
            if not delivery.absent and self._turns.hand(delivery):
                handed += 1
                redelivered += delivery.redelivered
            elif self._passing is not None and self._turns.selective:
                self._passing.leave(delivery)
            else:
                # Its consumer left, or stopped reading, while the poll was under way.
                self.release(delivery)
        self._deliveries.inc(handed)
        self._redeliveries.inc(redelivered)
        return handed

    def hand(self, delivery: Delivery) -> bool:
        """Deliver what had to wait. False when nobody takes it now."""
        if self._keeper.screen(delivery):
            return True
        if delivery.absent:
            return self._fetch(delivery)
        if not self._turns.hand(delivery):
            return False
        self._deliveries.inc()
        self._redeliveries.inc(delivery.redelivered)
        return True

    # Large bodies

    def _fetch(self, delivery: Delivery) -> bool:
        """Have a delivery wait for its body, or behind one that does. False when nobody takes it now."""
        if self._turns.selective and not self._turns.takes(delivery.message):
            return False
        self._reserved += 1
        self._fetching.put(delivery)
        return True

    def _wanted(self) -> bool:
        return self._turns.credit(1) > 0

    def _left(self, delivery: Delivery) -> bool:
        """A delivery that those who want it have no credit for now is left, where consumers have selectors."""
        if self._passing is None or not self._turns.selective or self._turns.takes(delivery.message):
            return False
        self._reserved -= 1
        self._passing.leave(delivery)
        return True

    def _hand_fetched(self, delivery: Delivery) -> None:
        self._reserved -= 1
        if self._keeper.screen(delivery):  # it has waited
            return
        if self._turns.hand(delivery):
            self._deliveries.inc()
            self._redeliveries.inc(delivery.redelivered)
        elif self._passing is not None and self._turns.selective:
            delivery.unload()
            self._passing.leave(delivery)
        else:
            self.release(delivery)

    def _unfetched(self, delivery: Delivery) -> None:
        self._reserved -= 1
        self.release(delivery)

    def _not_fetched(self, delivery: Delivery, error: BackendError) -> None:
        """It is left alone, and comes back when its visibility ends: that is the pause before the next attempt."""
        self._reserved -= 1
        self.withdraw(delivery)
        self._back_off(error, self._loop.time())

    def _hold(self, received: Received, now: float) -> Delivery:
        delivery = Delivery(received, self)
        self.unsettled += 1
        self._renewer.hold(delivery, now)
        return delivery
