"""Polling one queue of a backend: as much as consumers have credit for, as often as there is something to get."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway.core.backend import Backend, Received, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import BackendError, Unavailable
from gateway.core.health import FAILURES_TO_REPORT, Health
from gateway.core.metrics import Metrics
from gateway.core.outcome import Outcome
from gateway.core.session import Delivery
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
    ) -> None:
        self.name = target.queue
        self._backend = backend
        self._target = target
        self._settler = settler
        self._policy = policy
        self._health = health
        self._resource = f"{target.kind} {target.name} (receive)"
        self._loop = asyncio.get_running_loop()
        self._turns = Turns()
        self._polls: set[asyncio.Task[None]] = set()
        self._wanted_polls = 1
        self._gathered = False
        self._reserved = 0
        self._failures = 0
        self._blocked_until = 0.0
        self._wake: asyncio.Handle | None = None
        self._closed = False
        self._renewal: asyncio.Task[None] | None = None
        # In the order they fall due, because every hold is the same time long.
        self._held: deque[Delivery] = deque()
        self._deliveries = metrics.deliveries.labels(self.name)
        self._redeliveries = metrics.redeliveries.labels(self.name)
        self._renewals = metrics.renewals.labels(self.name)
        self._unsettled = 0
        metrics.unsettled.labels(self.name).set_function(lambda: self._unsettled)
        metrics.polls.labels(self.name).set_function(lambda: len(self._polls))

    @property
    def consumers(self) -> int:
        return len(self._turns)

    def subscribe(self, subscription: Subscription) -> None:
        self._turns.add(subscription)
        self.wake()

    def unsubscribe(self, subscription: Subscription) -> None:
        self._turns.remove(subscription)
        if not self._turns and self._failures:
            # Nobody polls it any more, so nothing would tell that it works again.
            self._failures = 0
            self._health.clear(self._resource)

    def wake(self) -> None:
        """Poll if there is credit; at the end of this turn of the loop, once."""
        if self._wake is None and not self._closed:
            self._wake = self._loop.call_soon(self._start_polls)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """End a delivery, once; later calls for it do nothing, as after a disconnect."""
        if delivery.settled:
            return
        delivery.settled = True
        self._unsettled -= 1
        subscription = delivery.subscription
        if isinstance(subscription, Subscription):
            subscription.held -= 1
            if self._wake is None:
                self.wake()
        self._settler.settle(delivery, outcome)

    def stop(self) -> None:
        """No new polls. What those under way still bring is released when nobody takes it."""
        self._closed = True
        if self._wake is not None:
            self._wake.cancel()

    async def finish(self) -> None:
        """Wait for the polls under way, after `stop`."""
        await asyncio.gather(*self._polls, return_exceptions=True)

    async def aclose(self) -> None:
        """Abandon polls under way: what the service takes for their answers comes back after its visibility timeout."""
        self.stop()
        tasks = [*self._polls, *([self._renewal] if self._renewal else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_polls(self) -> None:
        self._wake = None
        now = self._loop.time()
        if now < self._blocked_until:
            self._wake = self._loop.call_at(self._blocked_until, self._start_polls)
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
        self.wake()

    async def _receive(self, limit: int) -> None:
        wait = min(self._policy.wait, self._backend.limits.max_wait)
        try:
            received = await self._backend.receive(self._target, limit, wait, self._policy.visibility)
        except BackendError as error:
            self._reserved -= limit
            self._back_off(error)
            return
        except asyncio.CancelledError:
            raise
        except Exception:
            # A bug in a backend must not stop the queue for good, nor pass unseen.
            log.exception("receive_failed_unexpectedly", queue=self.name)
            self._reserved -= limit
            self._back_off(Unavailable("internal error, see the gateway's log", resource=self._resource))
            return
        self._reserved -= limit
        if self._failures:
            self._failures = 0
            self._health.clear(self._resource)
        self._adapt(limit, len(received))
        self._hand_out(received)

    def _back_off(self, error: BackendError) -> None:
        self._failures += 1
        self._wanted_polls = 1
        self._blocked_until = self._loop.time() + self._policy.backoff.backoff(self._failures)
        if not error.throttled and (not error.retriable or self._failures >= FAILURES_TO_REPORT):
            self._health.report(self._resource, error)

    def _adapt(self, asked: int, got: int) -> None:
        """More polls while they come back full, one when there is nothing."""
        if got == self._backend.limits.receive_entries:
            self._wanted_polls = min(self._policy.polls, self._wanted_polls * 2)
        elif got == 0:
            self._wanted_polls = 1
        elif got * 2 < asked:
            self._wanted_polls = max(1, self._wanted_polls - 1)

    def _hand_out(self, received: Sequence[Received]) -> None:
        due = self._loop.time() + self._policy.visibility / 3
        for one in received:
            delivery = Delivery(one, self)
            delivery.due = due
            self._unsettled += 1
            subscription = self._turns.next()
            if subscription is None:
                # Its consumer left, or stopped reading, while the poll was under way.
                self.settle(delivery, Outcome.RELEASED)
                continue
            self._held.append(delivery)
            if delivery.redelivered:
                self._redeliveries.inc()
            subscription.hand(delivery)
        self._deliveries.inc(len(received))
        if self._held and self._renewal is None:
            self._renewal = self._loop.create_task(self._renew())
            self._renewal.add_done_callback(self._renewed)

    def _renewed(self, renewal: asyncio.Task[None]) -> None:
        self._renewal = None
        if not renewal.cancelled() and (error := renewal.exception()) is not None:
            log.error("renewal_failed_unexpectedly", queue=self.name, exc_info=error)

    async def _renew(self) -> None:
        """Keep what consumers hold hidden from others: renewed at a third of the timeout, up to the service's limit."""
        while self._forget_settled():
            await asyncio.sleep(max(0.0, self._held[0].due - self._loop.time()))
            now = self._loop.time()
            due: list[Delivery] = []
            while self._forget_settled() and self._held[0].due <= now:
                due.append(self._held.popleft())
            entries = self._backend.limits.batch_entries
            for start in range(0, len(due), entries):
                await self._extend(due[start : start + entries])

    def _forget_settled(self) -> bool:
        """Drop settled deliveries at the head; whether any is left."""
        held = self._held
        while held and held[0].settled:
            held.popleft()
        return bool(held)

    async def _extend(self, deliveries: list[Delivery]) -> None:
        now = self._loop.time()
        third = self._policy.visibility / 3
        for delivery in deliveries:
            if not delivery.held_until:
                delivery.held_until = now - third + self._backend.limits.max_hold
        # Over the limit it comes back, however long its consumer goes on.
        deliveries = [one for one in deliveries if not one.settled and now + self._policy.visibility < one.held_until]
        if not deliveries:
            return
        try:
            results = await self._backend.extend(
                self._target, [delivery.receipt for delivery in deliveries], self._policy.visibility
            )
        except BackendError as error:
            # Two more tries fit into what is left of the timeout; then the messages come back, as they must.
            log.warning("renewal_failed", queue=self.name, problem=str(error))
            renewed = deliveries
        else:
            self._renewals.inc(sum(result.outcome is Outcome.ACCEPTED for result in results))
            renewed = [
                delivery
                for delivery, result in zip(deliveries, results, strict=True)
                if result.outcome is Outcome.ACCEPTED
                or (isinstance(result.error, BackendError) and result.error.retriable)
            ]
        for delivery in renewed:
            delivery.due = now + third
            self._held.append(delivery)
