"""The way of a message: from its address to every place that gets it, and all their answers to one result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from gateway.core.backend import Answerable, QueueSpec, Target
from gateway.core.besteffort import BestEffort, Losses
from gateway.core.burying import NOTHING_SKIPPED
from gateway.core.errors import MqliftError
from gateway.core.fanout import FannedOut, FanOut
from gateway.core.merge import Merge
from gateway.core.message import DELAY, Address, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import UNROUTED, Outcome, Result
from gateway.core.queues import BackendQueue, Destination, Sink
from gateway.core.queuetable import QueueTable
from gateway.core.resources import BackendResources
from gateway.core.routes import QUEUE_KIND
from gateway.core.sender import Publisher
from gateway.core.topology import Topology, UnknownExchange
from gateway.core.tracing import Tracer

PLANS: Final = 10_000
"""Addresses whose way is remembered. Devices with more topics than that pay for the routing again."""


class Routing:
    """Routes by the topology and the rules, and remembers the ways. Queues and fan-out are set before first use."""

    queues: QueueTable
    fanout: FanOut

    def __init__(self, topology: Topology, resources: BackendResources, metrics: Metrics) -> None:
        self.tracer: Tracer | None = None
        self._topology = topology
        self._resources = resources
        self._metrics = metrics
        self._losses: dict[tuple[str, str], Losses] = {}
        self._plans: dict[Address, tuple[Sink, ...]] = {}
        self._plans_version = topology.version

    def forget(self) -> None:
        """Find every way anew: rules, or what topics bring, have changed."""
        self._plans.clear()

    def filled_queue(self, name: str) -> BackendQueue | None:
        """A durable queue that messages wait in, which a stream is not."""
        queue = self.queues.durable(name)
        return queue if isinstance(queue, BackendQueue) else None

    def publish_live(self, message: Message, publisher: Publisher) -> None:
        """Hand what a stream has to the live subscribers of its topic; durable queues had it when it was published."""
        exchange, key = message.address
        try:
            names = self._topology.route(exchange, key, message.headers)
        except UnknownExchange:
            return  # a native producer's word
        for name in names:
            virtual = self.queues.virtual(name)
            if virtual is not None:
                virtual.put(message, publisher, _LIVE, None)

    def publish(self, message: Message, publisher: Publisher, token: object, also: Sequence[str] = ()) -> None:
        """Route a message. `publisher.answer(token, …)` follows once, at once or when all places have answered.

        `also`: more routing keys. Each place gets the message once.
        """
        if self._plans_version != self._topology.version:
            self._plans.clear()
            self._plans_version = self._topology.version
        address = message.address
        plan = self._plans.get(address)
        if plan is None or also:
            try:
                self._topology.check_publish(address.exchange)
                plan = self._plan(message, also)
            except MqliftError as error:
                publisher.answer(token, Result(Outcome.REJECTED, error))
                return
        self.put(message, plan, publisher, token)

    def put(self, message: Message, plan: Sequence[Sink], publisher: Publisher, token: object) -> None:
        """Hand a message to all places of its plan; `publisher.answer(token, …)` follows once."""
        address = message.address
        if self._topology.delaying and address.exchange in self._topology.delaying:
            message = self._delayed(message)
        waiter: Answerable = publisher
        if self.tracer is not None:
            message, waiter = self.tracer.published(message, waiter)
        if len(plan) == 1:
            plan[0].put(message, publisher, waiter, token)
        elif plan:
            merge = Merge(len(plan), waiter, token)
            for sink in plan:
                sink.put(message, publisher, merge, None)
        else:
            self._metrics.unrouted.inc()
            waiter.answer(token, UNROUTED)

    def _delayed(self, message: Message) -> Message:
        """As the delayed-message exchange's header asks for: milliseconds, from now."""
        delay = message.headers.get(DELAY)
        if isinstance(delay, bool) or not isinstance(delay, int) or delay <= 0:
            return message
        # As RabbitMQ's plugin: consumers see how long it was, and it is not delayed again on its way as a dead letter.
        return replace(message, headers={**message.headers, DELAY: -delay}, not_before=time.time() + delay / 1000)

    def _plan(self, message: Message, also: Sequence[str]) -> tuple[Sink, ...]:
        """Where a message goes: each place once, bound queues first. Raises `UnknownExchange`, `Refused`, `Invalid`."""
        address = message.address
        plan = self.sinks(message, also, NOTHING_SKIPPED)
        if also or self._topology.routes_by_headers(address.exchange):
            return plan
        if len(self._plans) >= PLANS or self._plans_version != self._topology.version:
            # A rule that names a queue has just declared it; what was published to that queue before was unrouted.
            self._plans.clear()
            self._plans_version = self._topology.version
        self._plans[address] = plan
        return plan

    def sinks(self, message: Message, also: Sequence[str], skipped: AbstractSet[str]) -> tuple[Sink, ...]:
        """Where a message goes; `skipped` are queues that are not to have it, though it is routed to them.

        Raises `UnknownExchange`, `Refused`, `Invalid`.
        """
        sinks: dict[object, Sink] = {}
        for key in (message.address.routing_key, *also):
            address = Address(message.address.exchange, key)
            names = self._topology.route(address.exchange, key, message.headers)
            # A topic gets a message once, under one key: which queues it is to name is clear where there is only one.
            self.add_sinks(sinks, address, [name for name in names if name not in skipped], fan_out=not also)
        return tuple(sinks.values())

    def add_sinks(self, sinks: dict[object, Sink], address: Address, names: list[str], *, fan_out: bool) -> None:
        """Add where one address leads; `names` are the queues that are bound."""
        targets = list(self._resources.routes.for_publish(address))
        topics = [target for target in targets if target.fanout is not None] if fan_out else ()
        for name in names:
            targets.extend(self._resources.routes.copies(name))
        for topic in topics:
            names = self._fan_out(sinks, address.exchange, topic, names)
        names.extend(target.name for target in targets if target.kind == QUEUE_KIND)
        fed = any(target.tail for target in targets)
        for name in names:
            virtual = self.queues.virtual(name)
            if virtual is not None:
                if not fed:  # it comes back from the stream
                    sinks[name] = virtual
            else:
                queue = self.queues.known(name, QueueSpec())
                sinks[queue.target.kind, queue.target.name] = queue
        for target in targets:
            place = (target.kind, target.name)
            # Of two rules for one resource, the one that has to be waited for counts.
            needed = not target.best_effort and isinstance(sinks.get(place), BestEffort)
            if target.kind != QUEUE_KIND and (needed or place not in sinks):
                sinks[place] = self._destination(target)

    def _fan_out(self, sinks: dict[object, Sink], exchange: str, topic: Target, names: list[str]) -> list[str]:
        """Let a topic bring a message to the queues that it can; the names of the others."""
        queues = [queue for name in names if (queue := self.filled_queue(name)) is not None]
        brought = self.fanout.brought(topic, exchange, queues)
        if brought:
            sinks[topic.kind, topic.name] = FannedOut(self.fanout, self._resources.sender(topic), topic, brought)
        return [name for name in names if not any(queue.name == name for queue in brought)]

    def _destination(self, target: Target) -> Sink:
        sender = self._resources.sender(target)
        if not target.best_effort:
            return Destination(sender, target)
        place = (target.kind, target.name)
        if place not in self._losses:
            self._losses[place] = Losses(sender, self._metrics)
        return BestEffort(sender, target, self._losses[place])


class _Live:
    """Waits for nothing: a live subscriber that has no room misses what comes."""

    def answer(self, token: object, result: Result) -> None:
        """Its queue has counted that."""


_LIVE: Final = _Live()
