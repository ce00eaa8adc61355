"""Publishing to one destination: encode once, batch, and tell each publisher the result of its own entry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from gateway.core.backend import Answerable, Backend, Entry, Target
from gateway.core.batcher import Batcher, BatchPolicy
from gateway.core.errors import BackendError, Invalid
from gateway.core.flow import Pausable, Watermark
from gateway.core.health import FAILURES_TO_REPORT, Health
from gateway.core.message import Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.tracing import Tracer

DESTINATION_MESSAGES: Final = 10_000
"""Messages that wait for one destination before its publishers are paused: a second of a fast destination."""

DESTINATION_BYTES: Final = 64 * 1024 * 1024
"""Bytes that wait for one destination before its publishers are paused."""


class Publisher(Answerable, Pausable, Protocol):
    """A connection that publishes: it is told results, and it can be asked to wait."""


class Sender:
    """Everything that goes to one resource of a backend, whichever rules and queues send it there."""

    def __init__(
        self,
        backend: Backend,
        target: Target,
        *,
        policy: BatchPolicy,
        inflight: Watermark,
        metrics: Metrics,
        health: Health,
        tracer: Tracer | None = None,
    ) -> None:
        self.backend = backend
        self.target = target
        self._metrics = metrics
        self._health = health
        self._tracer = tracer
        self._inflight = inflight
        self._waiting = Watermark(DESTINATION_MESSAGES, DESTINATION_BYTES)
        self._resource = f"{target.kind} {target.name} (send)"
        self._failures = 0
        self._label = f"{target.kind}:{target.label or target.name}"
        self._accepted = metrics.tally(metrics.entries.labels(self._label, "accepted"))
        self._batch_entries = metrics.batch_entries.labels(self._label)
        self._batcher: Batcher[Entry] = Batcher(
            self._send,
            self._done,
            batch_entries=backend.limits.batch_entries,
            batch_bytes=backend.limits.batch_bytes,
            policy=policy,
            join=_join,
        )
        self._latency = metrics.publish_seconds.labels(self._label)
        self._loop = asyncio.get_running_loop()
        self._timed: Entry | None = None
        """The entry whose time is taken: one of many, as each would cost more than it tells."""
        self._timed_at = 0.0
        self._seen_retries = 0
        self._seen_throttles = 0

    @property
    def held(self) -> int:
        """Entries without a result."""
        return self._batcher.held

    @property
    def full(self) -> bool:
        """Whether as much waits for the destination as may: its publishers are paused."""
        return self._waiting.full

    def put(self, target: Target, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        """Take a message; `waiter.answer(token, …)` follows, at once when it cannot be encoded.

        `target` names this sender's resource, with the options of the rule that sent the message here.
        """
        try:
            entry = self.backend.encode(target, message)
        except Invalid as error:
            self._metrics.entries.labels(self._label, "rejected").inc()
            waiter.answer(token, Result(Outcome.REJECTED, error))
            return
        entry.waiter = waiter if self._tracer is None else self._tracer.sent(target, message, waiter)
        entry.token = token
        if self._timed is None:
            self._timed = entry
            self._timed_at = self._loop.time()
        self._waiting.add(entry.size, publisher)
        self._inflight.add(entry.size, publisher)
        self._batcher.put(entry)

    async def recheck(self) -> None:
        """Clear the problem of an idle destination once its service answers again.

        A missing permission or resource is left alone: only the next message can tell.
        """
        if self._failures and not self.held and self._health.is_fatal(self._resource):
            try:
                await self.backend.probe(self.target)
            except BackendError as error:
                self._report(error)
            else:
                self._failures = 0
                self._health.clear(self._resource)

    async def drain(self) -> None:
        """Wait until every entry has its result."""
        await self._batcher.drain()

    async def aclose(self) -> None:
        await self._batcher.aclose()

    async def _send(self, entries: Sequence[Entry]) -> Sequence[Result]:
        self._batch_entries.observe(len(entries))
        try:
            results = await self.backend.send(self.target, entries)
        except BackendError as error:
            self._report(error)
            raise
        finally:
            self._count_retries()
        if self._failures and ACCEPTED in results:
            self._failures = 0
            self._health.clear(self._resource)
        return results

    def _report(self, error: BackendError) -> None:
        if error.permanent or error.throttled:
            return  # one entry's fault, or everyday
        self._failures += 1
        if not error.retriable or self._failures >= FAILURES_TO_REPORT:
            self._health.report(self._resource, error)

    def _count_retries(self) -> None:
        retries, throttles = self._batcher.retries, self._batcher.throttles
        if retries != self._seen_retries:
            self._metrics.retries.labels(self._label).inc(retries - self._seen_retries)
            self._seen_retries = retries
        if throttles != self._seen_throttles:
            self._metrics.throttles.labels(self._label).inc(throttles - self._seen_throttles)
            self._seen_throttles = throttles

    def _done(self, entries: Sequence[Entry], results: Sequence[Result]) -> None:
        accepted = 0
        for entry, result in zip(entries, results, strict=True):
            count = 1 + len(entry.joined) if entry.joined else 1
            self._waiting.remove(entry.size, count)
            self._inflight.remove(entry.size, count)
            if result is ACCEPTED:
                accepted += count
            else:
                self._metrics.entries.labels(self._label, result.outcome.name.lower()).inc(count)
            if entry is self._timed or (entry.joined and self._timed in entry.joined):
                self._timed = None
                self._latency.observe(self._loop.time() - self._timed_at)
            _answer(entry, result)
        self._accepted.count += accepted


def _join(entry: Entry, later: Entry) -> bool:
    return entry.join(later)


def _answer(entry: Entry, result: Result) -> None:
    """Tell the publisher, and those of the entries that became part of this one."""
    assert entry.waiter is not None
    entry.waiter.answer(entry.token, result)
    if entry.joined:
        for each in entry.joined:
            assert each.waiter is not None
            each.waiter.answer(each.token, result)
