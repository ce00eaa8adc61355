"""The one door for protocols: publish, declare, bind, consume. Routing meets the queues and the backends here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import structlog

from gateway.core.auth import Authenticator, Authorizer, Credentials, Identity
from gateway.core.backend import Answerable, Backend, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.besteffort import BestEffort, Losses
from gateway.core.errors import BackendError, MqliftError, Refused
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.message import RETAIN, Address, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result, worse
from gateway.core.queues import BackendQueue, Destination, Sink, VirtualQueue
from gateway.core.receiver import ReceivePolicy, Receiver
from gateway.core.retained import Retained, RetainedLimits
from gateway.core.routes import QUEUE_KIND, Routes
from gateway.core.sender import Publisher, Sender
from gateway.core.session import SessionRecord
from gateway.core.sessions import Sessions
from gateway.core.settler import Settler
from gateway.core.shared import SESSION, SHARED, SharedQueues
from gateway.core.statewriter import Done, StateWriter
from gateway.core.store import StateStore
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
    sessions: int = 10_000
    """Sessions that are kept for clients without a connection, or with one."""
    retained: RetainedLimits = field(default_factory=RetainedLimits)
    destinations: int = 20_000
    """Resources that are published to, those of queues included. A rule that makes names of captures lets clients
    choose how many there are."""


SWEEP: Final = 0.5
"""Seconds between two looks at what is due: wills and sessions. A will's delay is given in whole seconds."""

SESSION_LABEL: Final = "(sessions)"
"""What metrics call the queues of all kept sessions together: there may be thousands."""


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
        authorizer: Authorizer | None = None,
        sending: BatchPolicy,
        receiving: ReceivePolicy,
        limits: BrokerLimits,
        store: StateStore,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._topology = topology
        self._routes = routes
        self._backends = backends
        self._home = home
        self._authenticator = authenticator
        self.authorizer = authorizer
        """Asked by connections before they publish, subscribe or deliver; None: everything is allowed."""
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
        self._losses: dict[tuple[str, str], Losses] = {}
        self._durable: dict[str, BackendQueue] = {}
        self._virtual: dict[str, VirtualQueue] = {}
        self._owned: dict[Owner, set[str]] = {}
        self._claims: dict[str, Owner] = {}
        self._store = store
        self._writer = StateWriter(store)
        self._retained = Retained(store, self._writer, limits.retained)
        self._sessions = Sessions(
            store, self._writer, limit=limits.sessions, publish=self._publish_will, remove=self._remove_session
        )
        self._shared = SharedQueues(store, self._writer)
        self._plans: dict[Address, tuple[Sink, ...]] = {}
        self._plans_version = topology.version

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Who the peer is. Raises `NotAuthorized`."""
        return await self._authenticator.authenticate(credentials)

    async def restore(self) -> None:
        """Take up what the state store has kept. Before anything else; raises `StoreError`."""
        await self._retained.restore()
        for name, kept in (await self._shared.restore()).items():
            self._adopt(name, kept.arguments, kept.bindings)
        for record in await self._sessions.restore():
            if record.queue:
                self._adopt(record.queue, record.arguments, record.bindings)

    async def open_session(self, client_id: str, owner: Owner, *, clean: bool) -> SessionRecord | None:
        """Make `owner` the only connection with this client id, and give it the session that is kept.

        The connection that had the client id is told, and closed. Raises `StoreError`.
        """
        other = self._claims.get(client_id)
        if other is not None and other is not owner:
            self._metrics.takeovers.inc()
            other.taken_over()
        self._claims[client_id] = owner
        return await self._sessions.open(client_id, clean=clean)

    def keep_session(self, client_id: str, record: SessionRecord, done: Done) -> None:
        """Keep a session; `done` when it is durable, or with `Refused` at the limit."""
        queue = self._durable.get(record.queue)
        if queue is not None:
            record = replace(record, arguments=queue.spec.arguments)
        self._sessions.keep(client_id, record, done)

    def keep_inflight(self, client_id: str, inflight: bytes, done: Done) -> None:
        """Keep the part of a session that changes with messages; `done` when it, or a later one, is durable."""
        self._sessions.keep_inflight(client_id, inflight, done)

    def end_session(self, client_id: str, owner: Owner, expiry: float, will: Message | None, will_delay: float) -> None:
        """A session has lost its connection: keep it for `expiry` seconds, or remove it.

        When another connection goes on with it by now, it is not this one's to end; only its will is left.
        """
        if self._claims.get(client_id, owner) is owner:
            self._sessions.end(client_id, expiry, will, will_delay)
        elif will is not None and not will_delay:
            self._publish_will(will)

    def retain(self, message: Message, done: Done) -> None:
        """Keep a message as the last of its address, or with an empty body forget that; `done` when it is durable."""
        self._retained.keep(message, done)

    def announce(self, message: Message) -> None:
        """Publish something of the gateway's own, and show it to those who subscribe later."""
        self._retained.show(message)
        self._publish_alone(message)

    @property
    def kept_sessions(self) -> int:
        return len(self._sessions)

    @property
    def retained_messages(self) -> int:
        return len(self._retained)

    @property
    def bindings(self) -> int:
        return self._topology.binding_count

    def send_retained(self, queue: str, exchange: str, pattern: str, publisher: Publisher, waiter: Answerable) -> None:
        """Put the retained messages that match into a queue; one `waiter.answer(None, …)` follows.

        Raises `Refused` when there is no such queue.
        """
        virtual = self._virtual.get(queue)
        if virtual is not None:
            for message in self._retained.match(exchange, pattern):
                virtual.put_retained(message)
            waiter.answer(None, ACCEPTED)
            return
        durable = self._durable.get(queue)
        if durable is None:
            raise Refused(f"no queue '{queue}'")
        messages = list(self._retained.match(exchange, pattern))
        if not messages:
            waiter.answer(None, ACCEPTED)
        merge = Merge(len(messages), waiter, None)
        for message in messages:
            durable.put(message, publisher, merge, None)

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
            return
        if known is None:
            self._check_room(name)  # before anything is created
        await self._ensure(known.target if known else self._target_of(name, spec), spec)
        if name not in self._virtual:  # nobody else has taken the name meanwhile
            self._queue(name, spec).ensured = True
            if spec.arguments.get(SHARED):
                self._shared.declare(name, spec.arguments)

    async def delete_queue(self, name: str) -> None:
        """Remove a durable queue with its messages and bindings, if it is there. Raises `BackendError`."""
        queue = self._durable.pop(name, None)
        if queue is not None:
            await self._delete(queue.target)
            await queue.aclose()

    async def _delete(self, target: Target) -> None:
        self._topology.delete_queue(target.queue)
        sender = self._senders.pop((target.kind, target.name), None)
        if sender is not None:
            await sender.drain()  # an entry that came later than the deletion would make the queue anew
            await sender.aclose()
        await self._backends[target.kind].remove(target)

    def bind(self, queue: str, exchange: str, pattern: str) -> None:
        """Route to a queue from now on. Raises the topology's errors for unknown names and impossible patterns."""
        if self._topology.bind(queue, exchange, pattern):
            self._shared.bound(queue, exchange, pattern)

    def unbind(self, queue: str, exchange: str, pattern: str) -> None:
        self._topology.unbind(queue, exchange, pattern)

    def consume(self, tag: str, queue: str, consumer: Consumer, prefetch: int) -> Subscription:
        """Deliver a declared queue's messages to a consumer. Raises `Refused` when there is no such queue, or when it
        lives where nothing can be received from.
        """
        source = self._durable.get(queue) or self._virtual.get(queue)
        if source is None:
            raise Refused(f"no queue '{queue}'")
        if isinstance(source, BackendQueue) and not self._backends[source.target.kind].limits.receive_entries:
            target = source.target
            raise Refused(
                f"queue '{queue}' is sent to {target.kind} '{target.name}', and cannot be consumed from there"
            )
        return source.consume(tag, consumer, prefetch)

    def is_private(self, queue: str, owner: Owner) -> bool:
        """Whether only this connection consumes a queue: it declared it as virtual, or it is a kept session's."""
        durable = self._durable.get(queue)
        if durable is not None:
            return bool(durable.spec.arguments.get(SESSION))
        return queue in self._owned.get(owner, ())

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
        """Do what time asks for: wills, endings, expiry, and a look at destinations that fail. Never ends."""
        recheck = self._loop.time()
        while True:
            await asyncio.sleep(SWEEP)
            self._sessions.sweep()
            if self._loop.time() - recheck >= RECHECK:
                recheck = self._loop.time()
                await self._look_around()

    async def _look_around(self) -> None:
        for sender in list(self._senders.values()):
            await sender.recheck()
        try:
            await self._retained.sweep()
            await self._sessions.retry_removals()
            for name in self._shared.unused(self._consumed(), self._sessions.in_use()):
                await self.delete_queue(name)
                self._shared.forget(name)
        except MqliftError as error:
            log.warning("housekeeping_failed", problem=str(error))  # and is tried again

    def _consumed(self) -> set[str]:
        return {name for name, queue in self._durable.items() if queue.consumers}

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
        await self._writer.drain()

    async def aclose(self) -> None:
        """Give back what is not answered and close the backends."""
        for queue in self._durable.values():
            await queue.aclose()
        for sender in self._senders.values():
            await sender.aclose()
        await self._sessions.aclose()
        await self._writer.drain()
        await self._store.aclose()
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
        # Of two rules for one resource, the one that has to be waited for counts.
        for target in sorted(targets, key=lambda target: target.best_effort):
            if target.kind != QUEUE_KIND:
                sinks.setdefault((target.kind, target.name), self._destination(target))
        plan = tuple(sinks.values())
        if len(self._plans) >= PLANS or self._plans_version != self._topology.version:
            # A rule that names a queue has just declared it; what was published to that queue before was unrouted.
            self._plans.clear()
            self._plans_version = self._topology.version
        self._plans[address] = plan
        return plan

    def _destination(self, target: Target) -> Sink:
        sender = self._sender(target)
        if not target.best_effort:
            return Destination(sender, target)
        key = (target.kind, target.name)
        if key not in self._losses:
            self._losses[key] = Losses(sender, self._metrics)
        return BestEffort(sender, target, self._losses[key])

    def _target_of(self, queue: str, spec: QueueSpec) -> Target:
        target = self._routes.home(queue) or self._backends[self._home].home(queue, spec)
        return replace(target, label=SESSION_LABEL) if spec.arguments.get(SESSION) else target

    def _queue(self, name: str, spec: QueueSpec) -> BackendQueue:
        """The durable queue of this name, made known here if it was not."""
        queue = self._durable.get(name)
        if queue is not None:
            return queue
        self._check_room(name)
        target = self._target_of(name, spec)
        self._topology.declare_queue(name)
        queue = self._durable[name] = BackendQueue(target, spec, self._sender, self._receiver)
        return queue

    def _receiver(self, target: Target) -> Receiver:
        backend = self._backends[target.kind]
        settler = Settler(backend, target, policy=self._sending, metrics=self._metrics)
        return Receiver(backend, target, settler, policy=self._receiving, metrics=self._metrics, health=self._health)

    def _adopt(self, name: str, arguments: Mapping[str, object], bindings: Iterable[tuple[str, str]]) -> None:
        """Make a kept queue known again. It is not asked for in AWS before it is used."""
        self._queue(name, QueueSpec(durable=True, arguments=arguments))
        for exchange, pattern in bindings:
            self._topology.bind(name, exchange, pattern)

    async def _remove_session(self, record: SessionRecord) -> None:
        queue = self._durable.pop(record.queue, None)
        if queue is not None:
            await queue.aclose()
        await self._delete(self._target_of(record.queue, QueueSpec(durable=True, arguments=record.arguments)))

    def _publish_will(self, will: Message) -> None:
        if will.headers.get(RETAIN):  # [MQTT-3.1.2-17]
            self._retained.keep(will, _tell_not_retained)
        self._publish_alone(will)

    def _publish_alone(self, message: Message) -> None:
        """Publish what no connection waits for."""
        self.publish(message, _NOBODY, None)

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


class _Nobody:
    """Publishes for the gateway itself; it neither waits for the result nor can be made to wait."""

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - there is only one kind
        if result.outcome is not Outcome.ACCEPTED:
            log.warning("will_not_published", problem=str(result.error))

    def pause(self, reason: object) -> None:
        """Wills are few: one for each session that ends."""

    def resume(self, reason: object) -> None:
        """Nothing was paused."""


def _tell_not_retained(error: MqliftError | None) -> None:
    if error is not None:
        log.warning("will_not_retained", problem=str(error))


_NOBODY: Final = _Nobody()
