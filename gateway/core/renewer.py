"""Keeping what consumers hold hidden from others, for as long as they hold it and the service allows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from gateway.core.backend import Backend, Target
from gateway.core.batcher import Batcher, BatchPolicy
from gateway.core.delivery import Delivery
from gateway.core.errors import ReceiptExpired
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.settler import DeliveryEntry

log = structlog.get_logger("mqlift.renewer")

RENEWALS: Final = 16
"""Renewal requests for one queue under way at once, at most: 160 deliveries a round trip. One after the other, ten
thousand held deliveries could not all be renewed within a third of the timeout."""


class Renewer:
    """Extends the visibility of one queue's deliveries at each third of the timeout, up to `limits.max_hold`.

    A renewal that fails is tried again until the timeout has passed; then the message comes back, as it must.
    """

    def __init__(self, backend: Backend, target: Target, *, visibility: float, metrics: Metrics) -> None:
        self._backend = backend
        self._target = target
        self._visibility = visibility
        self._third = visibility / 3
        self._renewed = metrics.renewals.labels(target.label or target.queue)
        self._loop = asyncio.get_running_loop()
        # In the order they fall due, because every hold is the same time long. Settled ones leave at once: the rest of
        # their time they would keep their messages in memory.
        self._held: dict[Delivery, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        limits = backend.limits
        self._requests: Batcher[DeliveryEntry] = Batcher(
            self._extend,
            self._extended,
            batch_entries=limits.batch_entries,
            batch_bytes=limits.batch_bytes,
            policy=BatchPolicy(requests=RENEWALS, partial_requests=RENEWALS, timeout=2 * self._third),
        )

    def hold(self, delivery: Delivery, now: float) -> None:
        """A delivery was received at `now`. Called in the order of time."""
        delivery.due = now + self._third
        delivery.held_until = now + self._backend.limits.max_hold
        self._keep(delivery)

    def forget(self, delivery: Delivery) -> None:
        """A delivery has ended."""
        self._held.pop(delivery, None)

    async def aclose(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._held.clear()
        await self._requests.aclose()

    def _keep(self, delivery: Delivery) -> None:
        self._held[delivery] = None
        if self._timer is None:
            self._timer = self._loop.call_at(delivery.due, self._renew)

    def _renew(self) -> None:
        """Ask for more time for all that is due, and see to the next when it is."""
        self._timer = None
        now = self._loop.time()
        due: list[Delivery] = []
        for delivery in self._held:
            if delivery.due > now:
                self._timer = self._loop.call_at(delivery.due, self._renew)
                break
            due.append(delivery)
        for delivery in due:
            del self._held[delivery]
            # Over the limit it comes back, however long its consumer goes on.
            if now + self._visibility < delivery.held_until:
                self._requests.put(DeliveryEntry(delivery))

    async def _extend(self, entries: Sequence[DeliveryEntry]) -> Sequence[Result]:
        held = [entry for entry in entries if not entry.delivery.settled]
        if not held:
            return [ACCEPTED] * len(entries)
        receipts = [entry.delivery.receipt for entry in held]
        results = await self._backend.extend(self._target, receipts, self._visibility)
        if len(held) == len(entries):
            return results
        # For those that were settled while they waited for this request nothing is left to do.
        answers = dict(zip(held, results, strict=True))
        return [answers.get(entry, ACCEPTED) for entry in entries]

    def _extended(self, entries: Sequence[DeliveryEntry], results: Sequence[Result]) -> None:
        if self._closed:
            return
        due = self._loop.time() + self._third
        problem = None
        renewed = 0
        for entry, result in zip(entries, results, strict=True):
            delivery = entry.delivery
            renewed += result.outcome is Outcome.ACCEPTED
            if delivery.settled or isinstance(result.error, ReceiptExpired):
                continue  # it has ended, or it is another consumer's by now
            problem = problem or result.error
            delivery.due = due
            self._keep(delivery)
        self._renewed.inc(renewed)
        if problem is not None:
            log.warning("renewal_failed", queue=self._target.queue, problem=str(problem))
