"""Targets that nobody waits for: a rule's `best_effort: true`. What they do not take is counted, and lost."""

from __future__ import annotations

import structlog

from gateway.core.backend import Answerable, Target
from gateway.core.message import Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.sender import Publisher, Sender

log = structlog.get_logger("mqlift.besteffort")


class Losses:
    """What one destination has not taken, whichever rules and addresses send it there."""

    def __init__(self, sender: Sender, metrics: Metrics) -> None:
        self._target = sender.target
        label = f"{self._target.kind}:{self._target.label or self._target.name}"
        self._lost = metrics.best_effort_lost.labels(label)
        self._losing = False

    def lose(self, problem: str) -> None:
        self._lost.inc()
        if not self._losing:  # said once, until something is taken again
            self._losing = True
            log.warning("best_effort_lost", kind=self._target.kind, name=self._target.name, problem=problem)

    def taken(self) -> None:
        self._losing = False


class BestEffort:
    """A sink like a `queues.Destination`, but the publisher is answered at once, and never made to wait.

    Retries, batches and order are those of every target. While as much waits for the destination as may, what comes is
    lost: it must hold up neither publishers nor the gateway's memory.
    """

    __slots__ = ("_losses", "_sender", "_target")

    def __init__(self, sender: Sender, target: Target, losses: Losses) -> None:
        self._sender = sender
        self._target = target
        self._losses = losses

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:  # noqa: ARG002 - Sink
        if self._sender.full:
            self._losses.lose("as much waits for the destination as may")
        else:
            self._sender.put(self._target, message, self, self, None)
        waiter.answer(token, ACCEPTED)

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - all are alike
        if result.outcome is Outcome.ACCEPTED:
            self._losses.taken()
        else:
            self._losses.lose(str(result.error))

    def pause(self, reason: object) -> None:
        """The real publishers are not to wait; `Sender.full` says when there is too much."""

    def resume(self, reason: object) -> None:
        """Nothing was paused."""
