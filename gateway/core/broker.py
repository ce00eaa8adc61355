"""The one door for protocols: publish, declare, bind, consume. Routing meets the queues and the backends here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.core.auth import Authenticator, Credentials, Identity
from gateway.core.backend import Answerable, Backend, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import BackendError, MqliftError, Refused
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.message import Address, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result, worse
from gateway.core.queues import BackendQueue, Destination, Sink, VirtualQueue
from gateway.core.receiver import ReceivePolicy, Receiver
from gateway.core.routes import QUEUE_KIND, Routes
from gateway.core.sender import Publisher, Sender
from gateway.core.settler import Settler
from gateway.core.subscription import Consumer, Subscription
from gateway.core.topology import Topology

log = structlog.get_logger("mqlift.broker")

PLANS: Final = 10_000
"""Addresses whose way is remembered. Devices with more topics than that pay for the routing again."""

RECHECK: Final = 5.0
"""Seconds between two looks at a destination that fails and that nobody publishes to meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """What one gateway holds at most."""

    inflight_messages: int = 100_000
    """Published messages without a result, before publishers are paused."""
    inflight_bytes: int = 256 * 1024 * 1024
    durable_queues: int = 10_000
    """Durable queues that are in use here; each keeps a sender, a receiver and its metrics."""
    destinations: int = 20_000
    """Resources that are published to, those of queues included. A rule that makes names of captures lets clients
    choose how many there are."""


class Owner(Publisher, Consumer, Protocol):
    """A connection, as the broker sees it."""

    def taken_over(self) -> None:
        """Another connection has claimed its client id."""


class Merge:
    """Waits for several places that one message went to: accepted when all accepted, the worst outcome wins."""

    __slots__ = ("_missing", "_token", "_waiter", "_worst")

    def __init__(self, places: int, waiter: Answerable, token: object) -> None:
        self._missing = places
        self._waiter = waiter
        self._token = token
        self._worst = ACCEPTED

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - every place answers for the same token
        self._worst = worse(self._worst, result)
        self._missing -= 1
        if not self._missing:
            self._waiter.answer(self._token, self._worst)


class Broker:
    """Knows every queue, sender and claim of one gateway. Everything runs in its event loop."""

    def __init__(
        self,
        *,
        topology: Topology,
        routes: Routes,
        backends: Mapping[str, Backend],
        home: str,
        authenticator: Authenticator,
        sending: BatchPolicy,
        receiving: ReceivePolicy,
        limits: BrokerLimits,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._topology = topology
        self._routes = routes
        self._backends = backends
        self._home = home
        self._authenticator = authenticator
        self._sending = sending
        self._receiving = receiving
        self._limits = limits
        self._metrics = metrics
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._inflight = Watermark(limits.inflight_messages, limits.inflight_bytes)
        metrics.inflight.set_function(lambda: self._inflight.count)
        metrics.inflight_bytes.set_function(lambda: self._inflight.bytes)
        self._senders: dict[tuple[str, str], Sender] = {}
        self._durable: dict[str, BackendQueue] = {}
        self._virtual: dict[str, VirtualQueue] = {}
        self._owned: dict[Owner, set[str]] = {}
        self._claims: dict[str, Owner] = {}
        self._plans: dict[Address, tuple[Sink, ...]] = {}
        self._plans_version = topology.version

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Who the peer is. Raises `NotAuthorized`."""
        return await self._authenticator.authenticate(credentials)

    def claim(self, client_id: str, owner: Owner) -> None:
        """Make `owner` the only connection with this client id; the one that was is told and closed."""
        other = self._claims.get(client_id)
        self._claims[client_id] = owner
        if other is not None and other is not owner:
            self._metrics.takeovers.inc()
            other.taken_over()

    def publish(self, message: Message, publisher: Publisher, token: object) -> None:
        """Route a message. `publisher.answer(token, …)` follows once, at once or when all places have answered."""
        if self._plans_version != self._topology.version:
            self._plans.clear()
            self._plans_version = self._topology.version
        plan = self._plans.get(message.address)
        if plan is None:
            try:
                plan = self._plan(message.address)
            except MqliftError as error:
                publisher.answer(token, Result(Outcome.REJECTED, error))
                return
        if len(plan) == 1:
            plan[0].put(message, publisher, publisher, token)
        elif plan:
            merge = Merge(len(plan), publisher, token)
            for sink in plan:
                sink.put(message, publisher, merge, None)
        else:
            self._metrics.unrouted.inc()
            publisher.answer(token, UNROUTED)

    async def declare_queue(self, name: str, spec: QueueSpec, owner: Owner) -> None:
        """Have a queue; one that is there stays as it is. Raises `BackendError`, or `Refused` over a limit."""
        known = self._durable.get(name)
        if name in self._virtual or (known is not None and known.ensured):
            return
        if spec.virtual:
            self._topology.declare_queue(name)
            on_unused = (lambda: self._drop(name, owner)) if spec.auto_delete else None
            self._virtual[name] = VirtualQueue(name, self._metrics, on_unused)
            self._owned.setdefault(owner, set()).add(name)
        else:
            if known is None:
                self._check_room(name)  # before anything is created
            await self._ensure(known.target if known else self._target_of(name, spec), spec)
            if name not in self._virtual:  # nobody else has taken the name meanwhile
                self._queue(name, spec).ensured = True

    def bind(self, queue: str, exchange: str, pattern: str) -> None:
        """Route to a queue from now on. Raises the topology's errors for unknown names and impossible patterns."""
        self._topology.bind(queue, exchange, pattern)

    def unbind(self, queue: str, exchange: str, pattern: str) -> None:
        self._topology.unbind(queue, exchange, pattern)

    def consume(self, tag: str, queue: str, consumer: Consumer, prefetch: int) -> Subscription:
        """Deliver a declared queue's messages to a consumer. Raises `Refused` when there is no such queue."""
        source = self._durable.get(queue) or self._virtual.get(queue)
        if source is None:
            raise Refused(f"no queue '{queue}'")
        return source.consume(tag, consumer, prefetch)

    def disconnected(self, owner: Owner, client_id: str) -> None:
        """A connection has ended: its virtual queues and its claim, if it made one, end with it."""
        for name in list(self._owned.get(owner, ())):
            self._drop(name, owner)
        if client_id and self._claims.get(client_id) is owner:
            del self._claims[client_id]

    def _drop(self, queue: str, owner: Owner) -> None:
        """End a virtual queue."""
        self._topology.delete_queue(queue)
        self._virtual.pop(queue).close()
        owned = self._owned[owner]
        owned.discard(queue)
        if not owned:
            del self._owned[owner]

    async def watch(self) -> None:
        """Look at failing destinations that nobody uses just now, so that readiness recovers by itself. Never ends."""
        while True:
            await asyncio.sleep(RECHECK)
            for sender in list(self._senders.values()):
                await sender.recheck()

    def stop_polling(self) -> None:
        """No new polls. What consumers hold can still be settled."""
        for queue in self._durable.values():
            queue.stop_polling()

    async def answered(self) -> None:
        """Wait until every publish has its result."""
        await asyncio.gather(*(sender.drain() for sender in self._senders.values()))

    async def drain(self) -> None:
        """Wait until every poll has ended, and every publish and every settlement has its answer.

        A poll that is cut off may already have messages on their way to it, which would stay hidden for the visibility
        timeout; so this may take as long as a long poll.
        """
        await asyncio.gather(self.answered(), *(queue.drain() for queue in self._durable.values()))

    async def aclose(self) -> None:
        """Give back what is not answered and close the backends."""
        for queue in self._durable.values():
            await queue.aclose()
        for sender in self._senders.values():
            await sender.aclose()
        for backend in self._backends.values():
            await backend.aclose()

    def _plan(self, address: Address) -> tuple[Sink, ...]:
        """Where a message with this address goes: each place once, bound queues first."""
        sinks: dict[object, Sink] = {}
        names = list(self._topology.route(address.exchange, address.routing_key))
        targets = list(self._routes.for_publish(address))
        for name in names:
            targets.extend(self._routes.copies(name))
        names.extend(target.name for target in targets if target.kind == QUEUE_KIND)
        for name in names:
            virtual = self._virtual.get(name)
            if virtual is not None:
                sinks[name] = virtual
            else:
                queue = self._queue(name, QueueSpec())
                sinks[queue.target.kind, queue.target.name] = queue
        for target in targets:
            if target.kind != QUEUE_KIND:
                sinks.setdefault((target.kind, target.name), Destination(self._sender(target), target))
        plan = tuple(sinks.values())
        if len(self._plans) >= PLANS or self._plans_version != self._topology.version:
            # A rule that names a queue has just declared it; what was published to that queue before was unrouted.
            self._plans.clear()
            self._plans_version = self._topology.version
        self._plans[address] = plan
        return plan

    def _target_of(self, queue: str, spec: QueueSpec) -> Target:
        return self._routes.home(queue) or self._backends[self._home].home(queue, spec)

    def _queue(self, name: str, spec: QueueSpec) -> BackendQueue:
        """The durable queue of this name, made known here if it was not."""
        queue = self._durable.get(name)
        if queue is not None:
            return queue
        self._check_room(name)
        target = self._target_of(name, spec)
        sender = self._sender(target)
        self._topology.declare_queue(name)
        backend = self._backends[target.kind]
        settler = Settler(backend, target, policy=self._sending, metrics=self._metrics)
        receiver = Receiver(
            backend, target, settler, policy=self._receiving, metrics=self._metrics, health=self._health
        )
        queue = self._durable[name] = BackendQueue(target, sender, receiver, settler)
        return queue

    def _check_room(self, queue: str) -> None:
        limit = self._limits.durable_queues
        if len(self._durable) >= limit:
            raise Refused(f"queue '{queue}': {limit} queues are in use, the limit of this gateway")

    def _sender(self, target: Target) -> Sender:
        key = (target.kind, target.name)
        sender = self._senders.get(key)
        if sender is None:
            limit = self._limits.destinations
            if len(self._senders) >= limit:
                raise Refused(
                    f"{target.kind} '{target.name}': {limit} destinations are in use, the limit of this gateway"
                )
            sender = self._senders[key] = Sender(
                self._backends[target.kind],
                target,
                policy=self._sending,
                inflight=self._inflight,
                metrics=self._metrics,
                health=self._health,
            )
        return sender

    async def _ensure(self, target: Target, spec: QueueSpec) -> None:
        """Find or create a resource, trying again while that may help."""
        deadline = self._loop.time() + self._sending.timeout
        attempt = 0
        while True:
            try:
                return await self._backends[target.kind].ensure(target, spec)
            except BackendError as error:
                attempt += 1
                delay = self._sending.backoff(attempt)
                if not error.retriable or self._loop.time() + delay >= deadline:
                    raise
            await asyncio.sleep(delay)
