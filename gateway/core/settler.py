"""Ending deliveries: consumers' acknowledgements become batched deletes, their refusals batched releases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from gateway.core.backend import Backend, Target
from gateway.core.batcher import Batcher, BatchPolicy
from gateway.core.delivery import Delivery
from gateway.core.errors import ReceiptExpired
from gateway.core.metrics import Metrics
from gateway.core.outcome import Outcome, Result

log = structlog.get_logger("mqlift.settler")

NO_SIZE: Final = 0
"""Receipts are counted, not weighed: ten of them are far below any service's request limit."""


class DeliveryEntry:
    """One delivery in a request about it: to end it, or to hold it longer."""

    __slots__ = ("attempts", "deadline", "delivery", "key", "size")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.size = NO_SIZE
        self.key: str | None = None
        self.attempts = 0
        self.deadline = 0.0


class Settler:
    """Ends the deliveries of one queue. Nobody waits for the results: what fails comes back as a redelivery."""

    def __init__(self, backend: Backend, target: Target, *, policy: BatchPolicy, metrics: Metrics) -> None:
        self._backend = backend
        self._target = target
        self._metrics = metrics
        self._failures = metrics.settle_failures.labels(target.label or target.queue)
        self._batchers = {outcome: self._batcher(outcome, policy) for outcome in Outcome}

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """End a delivery. A rejected one is deleted: whoever rejects it has stored it elsewhere, if it has to stay."""
        if delivery.large is not None:
            delivery.unload()
        self._batchers[outcome].put(DeliveryEntry(delivery))

    async def drain(self) -> None:
        """Wait until the backend has answered for every settlement."""
        for batcher in self._batchers.values():
            await batcher.drain()

    async def aclose(self) -> None:
        for batcher in self._batchers.values():
            await batcher.aclose()

    def _batcher(self, outcome: Outcome, policy: BatchPolicy) -> Batcher[DeliveryEntry]:
        settled = self._metrics.settlements.labels(self._target.label or self._target.queue, outcome.name.lower())

        async def send(entries: Sequence[DeliveryEntry]) -> Sequence[Result]:
            receipts = [entry.delivery.receipt for entry in entries]
            return await self._backend.settle(self._target, receipts, outcome)

        def done(entries: Sequence[DeliveryEntry], results: Sequence[Result]) -> None:
            settled.inc(len(entries))
            self._count_failures(results)

        limits = self._backend.limits
        return Batcher(send, done, batch_entries=limits.batch_entries, batch_bytes=limits.batch_bytes, policy=policy)

    def _count_failures(self, results: Sequence[Result]) -> None:
        for result in results:
            if result.outcome is Outcome.ACCEPTED:
                continue
            self._failures.inc()
            if not isinstance(result.error, ReceiptExpired):
                log.warning("settlement_failed", queue=self._target.queue, problem=str(result.error))
