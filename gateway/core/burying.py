"""Dead letters on their way: from the queue that gave a message up to its dead-letter exchange, or to their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from gateway.core.deadletter import DeadLettering, Reason, circles, copies_of, dead_letter
from gateway.core.errors import MqliftError
from gateway.core.message import Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.queues import Sink
from gateway.core.sender import Publisher
from gateway.core.topology import Topology, UnknownExchange

NOTHING_SKIPPED: AbstractSet[str] = frozenset()


class Routing(Protocol):
    """The broker's part."""

    def sinks(self, message: Message, also: Sequence[str], skipped: AbstractSet[str]) -> tuple[Sink, ...]:
        """Where a message goes; `skipped` are queues that are not to have it. Raises `UnknownExchange`, `Refused`."""

    def put(self, message: Message, plan: Sequence[Sink], publisher: Publisher, token: object) -> None:
        """Hand it to all of them; one answer follows."""


class Undertaker:
    """Sends what queues give up to their dead-letter exchanges; without one it ends here, as in RabbitMQ."""

    def __init__(self, topology: Topology, routing: Routing, metrics: Metrics) -> None:
        self._topology = topology
        self._routing = routing
        self._metrics = metrics

    def bury(self, queue: DeadLettering, message: Message, reason: Reason, done: Callable[[Result], None]) -> None:
        self._metrics.dead_letters.labels(reason.value).inc()
        policy = queue.policy
        exchange = policy.dead_letter_exchange
        if exchange is None:
            done(ACCEPTED)
            return
        letter = dead_letter(message, queue.name, reason, time.time(), exchange, policy.dead_letter_routing_key)
        try:
            plan = self._way(letter, reason)
        except UnknownExchange:
            plan = ()
        except MqliftError as error:
            done(Result(Outcome.REJECTED, error))
            return
        if not plan:
            self._metrics.dead_letters_dropped.inc()
            done(ACCEPTED)
            return
        self._routing.put(letter, plan, _Burial(done), None)

    def _way(self, letter: Message, reason: Reason) -> Sequence[Sink]:
        """Dead letters may go to internal exchanges, and do not go round in circles. Raises as `Routing.sinks`."""
        also = copies_of(letter.headers)
        if reason is Reason.REJECTED:
            return self._routing.sinks(letter, also, NOTHING_SKIPPED)
        exchange, key = letter.address
        names = {name for each in (key, *also) for name in self._topology.route(exchange, each, letter.headers)}
        return self._routing.sinks(letter, also, circles(letter, names))


class _Burial:
    """Publishes a dead letter, and tells what became of it; it cannot be made to wait."""

    __slots__ = ("_done",)

    def __init__(self, done: Callable[[Result], None]) -> None:
        self._done = done

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - there is one
        self._done(result)

    def pause(self, reason: object) -> None:
        """Dead letters are no more than consumers hold."""

    def resume(self, reason: object) -> None:
        """Nothing was paused."""
