"""What becomes of a queue's messages that none of its consumers takes now, where consumers have selectors.

A message that one of them wants, and has no credit for, is laid aside for it, for a while. Any other is passed over:
hidden in the backend for the time that the rule says, so that what is behind it is seen, and then looked at again, here
or by another gateway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

import structlog

from gateway.core.backend import Backend, Target
from gateway.core.batcher import Batcher, BatchPolicy
from gateway.core.delivery import Delivery
from gateway.core.errors import ReceiptExpired
from gateway.core.metrics import Metrics
from gateway.core.outcome import Outcome, Result
from gateway.core.settler import DeliveryEntry, Settler
from gateway.core.subscription import Subscription, Turns

log = structlog.get_logger("mqlift.receiver")

ASIDE: Final = 100
"""Messages of one queue that wait here for consumers without credit: those of ten polls. What else they want is passed
over, or one that does not keep up would fill the memory, and keep the others from what is behind."""

ASIDE_BYTES: Final = 16 * 1024 * 1024
"""Of their bodies; one message may be larger than that."""

PASSED: Final = 20_000
"""Messages of one queue that this gateway passes over at a time. SQS counts them among the 120,000 in flight of a
queue, which are for all gateways, and for what consumers hold."""

REMEMBERED: Final = 1_000
"""The latest of them that a consumer who comes later gets at once, if it wants them. Headers are kept, bodies not."""


class Source(Protocol):
    """The receiver's part."""

    def look_again(self) -> None:
        """See anew whether to poll."""

    def hand(self, delivery: Delivery) -> bool:
        """Deliver to whose turn it is. False when nobody takes it now."""

    def withdraw(self, delivery: Delivery) -> bool:
        """Take a delivery back from whoever has it, without ending it; False when it has ended already."""

    def release(self, delivery: Delivery) -> None:
        """Give back what no consumer has had."""


class Passing:
    """Of one queue. `seconds`: how long a message is hidden, or laid aside; the rule may come to say another time."""

    def __init__(
        self,
        backend: Backend,
        target: Target,
        turns: Turns,
        source: Source,
        settler: Settler,
        *,
        seconds: float,
        policy: BatchPolicy,
        metrics: Metrics,
    ) -> None:
        self.seconds = seconds
        self._backend = backend
        self._target = target
        self._turns = turns
        self._source = source
        self._settler = settler
        self._loop = asyncio.get_running_loop()
        self._count = metrics.passed_over.labels(target.label or target.queue)
        self._aside: dict[Delivery, float] = {}
        """Until when each waits; the oldest comes first."""
        self._aside_bytes = 0
        self._passed: deque[float] = deque()
        """When each that was passed over comes back."""
        self._under_way: dict[Delivery, bool] = {}
        """What the backend is being asked to hide, and whether somebody has come for it since."""
        self._remembered: deque[Delivery] = deque(maxlen=REMEMBERED)
        self._offer: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        limits = backend.limits
        self._requests: Batcher[DeliveryEntry] = Batcher(
            self._hide,
            self._answered,
            batch_entries=limits.batch_entries,
            batch_bytes=limits.batch_bytes,
            policy=policy,
        )

    # What the receiver tells

    def leave(self, delivery: Delivery) -> None:
        """Nobody has taken it: who wants it has no credit, or nobody wants it."""
        if self._stopped:
            self._source.release(delivery)
        elif self._has_room and self._turns.wanted(delivery.message):
            self._lay_aside(delivery)
        else:
            self._pass_over(delivery)

    def credited(self) -> None:
        """Somebody may have credit again: at the end of this turn of the loop, they get what they had none for."""
        if self._aside and self._offer is None and not self._stopped:
            self._offer = self._loop.call_soon(self._hand_out)
        if len(self._passed) >= PASSED:
            self._source.look_again()

    def came(self, consumer: Subscription) -> None:
        """A consumer has come: what it wants need not stay hidden any longer."""
        self.credited()
        now = self._loop.time()
        hidden = [delivery for delivery in self._remembered if delivery.held_until > now]
        self._remembered.clear()
        for delivery in hidden:
            if consumer.wants(delivery.message):
                self._recall(delivery)
            else:
                self._remembered.append(delivery)
        for delivery in self._under_way:
            if consumer.wants(delivery.message):
                self._under_way[delivery] = True
        self._source.look_again()

    def left(self) -> None:
        """A consumer has left: what nobody here wants any more, others may."""
        for delivery in list(self._aside):
            if not self._turns.wanted(delivery.message):
                self._give_back(delivery)

    def full_until(self, now: float) -> float:
        """Until when nothing more can be passed over; `now` when it can be, or need not be."""
        passed = self._passed
        while passed and passed[0] <= now:
            passed.popleft()
        return now if len(passed) < PASSED or self._turns.takes_anything else passed[0]

    def stop(self) -> None:
        """Lay nothing aside any more, and give back what is."""
        self._stopped = True
        for delivery in list(self._aside):
            self._give_back(delivery)
        for handle in (self._offer, self._timer):
            if handle is not None:
                handle.cancel()

    async def drain(self) -> None:
        """Wait until the backend has answered for everything that was passed over."""
        await self._requests.drain()

    async def aclose(self) -> None:
        self.stop()
        await self._requests.aclose()

    # Aside

    @property
    def _has_room(self) -> bool:
        return len(self._aside) < ASIDE and self._aside_bytes < ASIDE_BYTES

    def _lay_aside(self, delivery: Delivery) -> None:
        self._aside[delivery] = self._loop.time() + self.seconds
        self._aside_bytes += len(delivery.message.body)
        if self._timer is None:
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer = self._loop.call_at(next(iter(self._aside.values())), self._waited) if self._aside else None

    def _waited(self) -> None:
        """Give back what nobody has found credit for: another gateway may have a consumer that has some."""
        now = self._loop.time()
        for delivery, until in list(self._aside.items()):
            if until > now:
                break
            self._give_back(delivery)
        self._set_timer()

    def _give_back(self, delivery: Delivery) -> None:
        self._take_up(delivery)
        self._source.release(delivery)

    def _take_up(self, delivery: Delivery) -> None:
        del self._aside[delivery]
        self._aside_bytes -= len(delivery.message.body)

    def _hand_out(self) -> None:
        self._offer = None
        for delivery in list(self._aside):
            if not self._turns.credit(1):
                break
            if self._source.hand(delivery):
                self._take_up(delivery)

    # Passing over

    def _pass_over(self, delivery: Delivery) -> None:
        self._source.withdraw(delivery)
        delivery.held_until = self._loop.time() + self.seconds
        delivery.message = replace(delivery.message, body=b"")  # selectors do not look at it
        self._passed.append(delivery.held_until)
        self._under_way[delivery] = False
        self._requests.put(DeliveryEntry(delivery))

    async def _hide(self, entries: Sequence[DeliveryEntry]) -> Sequence[Result]:
        receipts = [entry.delivery.receipt for entry in entries]
        return await self._backend.extend(self._target, receipts, self.seconds)

    def _answered(self, entries: Sequence[DeliveryEntry], results: Sequence[Result]) -> None:
        hidden = 0
        problem = None
        for entry, result in zip(entries, results, strict=True):
            delivery = entry.delivery
            called = self._under_way.pop(delivery)
            if result.outcome is not Outcome.ACCEPTED:
                # It comes back when its visibility ends: within the time that a crash would take.
                problem = problem or result.error
                continue
            hidden += 1
            if called:
                self._recall(delivery)
            else:
                self._remembered.append(delivery)
        self._count.inc(hidden)
        if problem is not None and not isinstance(problem, ReceiptExpired):
            log.warning("messages_not_passed_over", queue=self._target.queue, problem=str(problem))
        self._source.look_again()

    def _recall(self, delivery: Delivery) -> None:
        """Let what was passed over come back, and be received, at once."""
        self._settler.settle(delivery, Outcome.RELEASED)
        if self._passed:
            self._passed.pop()  # the latest are those that are remembered
