"""The one door for protocols: publish, declare, bind, consume. Routing meets the queues and the backends here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import structlog

from gateway.core.arguments import QueuePolicy
from gateway.core.auth import Authenticator, Authorizer, Credentials, Identity
from gateway.core.backend import Answerable, Backend, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.besteffort import BestEffort, Losses
from gateway.core.burying import NOTHING_SKIPPED, Undertaker
from gateway.core.durable import DurableTopology
from gateway.core.errors import BackendError, Invalid, MqliftError, NotAuthorized, Refused
from gateway.core.exchanges import Destination as Bound
from gateway.core.exchanges import ExchangeSpec
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.message import DELAY, NO_HEADERS, RETAIN, Address, Headers, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result, worse
from gateway.core.priority import Levels, PriorityBackend, with_levels
from gateway.core.queues import BackendQueue, Destination, Sink
from gateway.core.queuetable import Queue, QueueTable
from gateway.core.receiver import Keeper, ReceivePolicy, Receiver
from gateway.core.retained import Retained, RetainedLimits
from gateway.core.routes import QUEUE_KIND, Routes
from gateway.core.sender import Publisher, Sender
from gateway.core.session import Consume, Counted, Got, Presence, SessionRecord
from gateway.core.sessions import Sessions
from gateway.core.settler import Settler
from gateway.core.shared import SESSION, SharedQueues
from gateway.core.statewriter import Done, StateWriter
from gateway.core.store import StateStore
from gateway.core.subscription import Consumer, Subscription
from gateway.core.topology import Topology, UnknownExchange, UnknownQueue
from gateway.core.tracing import Tracer

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


@dataclass(frozen=True, slots=True)
class Moved:
    """A queue that rules want elsewhere, and that stays at its `home`."""

    queue: str
    home: Target
    wanted: str


class Owner(Publisher, Consumer, Hashable, Protocol):
    """A connection, as the broker sees it."""

    def taken_over(self) -> None:
        """Another connection has claimed its client id."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has a client id: a connection, and the user that it belongs to."""

    owner: Owner
    user: str


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
        self.tracer: Tracer | None = None
        """Told of every message; set before the first connection."""
        self.client_ids_shared = False
        """Whether any user may take over the client id, and the session, of any other."""
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
        self._claims: dict[str, Claim] = {}
        self._levels = Levels()
        self._store = store
        self._writer = StateWriter(store)
        self._retained = Retained(store, self._writer, limits.retained)
        self._sessions = Sessions(
            store, self._writer, limit=limits.sessions, publish=self._publish_will, remove=self._remove_session
        )
        self._shared = SharedQueues(store, self._writer)
        self._durable = DurableTopology(store, self._writer)
        self._queues = QueueTable(
            topology=topology,
            durable=self._durable,
            shared=self._shared,
            resources=self,
            bury=Undertaker(topology, self, metrics).bury,
            nobody=_NOBODY,
            metrics=metrics,
            limit=limits.durable_queues,
        )
        self._show_sizes()
        self._plans: dict[Address, tuple[Sink, ...]] = {}
        self._plans_version = topology.version
        self._lengths_due = self._loop.time() + RECHECK

    def _show_sizes(self) -> None:
        metrics = self._metrics
        metrics.durable_queues.set_function(lambda: self._queues.durable_count)
        metrics.virtual_queues.set_function(lambda: self._queues.virtual_count)
        metrics.bindings.set_function(lambda: self._topology.binding_count)
        metrics.sessions.set_function(lambda: len(self._sessions))
        metrics.retained.set_function(lambda: len(self._retained))

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Who the peer is. Raises `NotAuthorized`."""
        return await self._authenticator.authenticate(credentials)

    async def restore(self) -> None:
        """Take up what the state store has kept. Before anything else; raises `StoreError`."""
        await self._retained.restore()
        for name, spec in (await self._durable.restore(self._topology)).items():
            try:
                self._queues.adopt(name, spec.arguments)
            except MqliftError as error:  # such as a rule that was changed since
                log.error("queue_not_restored", queue=name, problem=str(error))  # noqa: TRY400 - told in one line
        for name in self._routes.named_queues():
            if not self._topology.has_queue(name):
                self._queues.adopt(name, {}, declared=False)
        await self._durable.restore_bindings(self._topology)
        for name, kept in (await self._shared.restore()).items():
            self._queues.adopt(name, kept.arguments, kept.bindings)
        for record in await self._sessions.restore():
            if record.queue:
                self._queues.adopt(record.queue, record.arguments, record.bindings)
        self._topology.journal = self._durable

    def check_client_id(self, client_id: str, user: str) -> None:
        """Raises `NotAuthorized` when a connection or a kept session of another user has a client id.

        What an anonymous peer has is anybody's, as nothing tells it from others.
        """
        holder = self._holder(client_id)
        if holder and holder != user and not self.client_ids_shared:
            raise NotAuthorized("the client identifier is another user's")

    def _holder(self, client_id: str) -> str:
        claim = self._claims.get(client_id)
        return self._sessions.user(client_id) if claim is None else claim.user

    async def open_session(self, client_id: str, owner: Owner, *, clean: bool, user: str = "") -> SessionRecord | None:
        """Make `owner` the only connection with this client id, and give it the session that is kept.

        The connection that had the client id is told, and closed. Ask `check_client_id` before. Raises `StoreError`.
        """
        other = self._claims.get(client_id)
        if other is not None and other.owner is not owner:
            self._metrics.takeovers.inc()
            other.owner.taken_over()
        self._claims[client_id] = Claim(owner, user)
        return await self._sessions.open(client_id, clean=clean, user=user)

    def keep_session(self, client_id: str, record: SessionRecord, done: Done) -> None:
        """Keep a session; `done` when it is durable, or with `Refused` at the limit."""
        record = replace(record, user=self._holder(client_id))
        queue = self._queues.durable(record.queue)
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
        claim = self._claims.get(client_id)
        if claim is None or claim.owner is owner:
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
    def inflight(self) -> int:
        """Published messages that wait for a backend."""
        return self._inflight.count

    @property
    def bindings(self) -> int:
        return self._topology.binding_count

    def send_retained(self, queue: str, exchange: str, pattern: str, publisher: Publisher, waiter: Answerable) -> None:
        """Put the retained messages that match into a queue; one `waiter.answer(None, …)` follows.

        Raises `UnknownQueue`.
        """
        virtual = self._queues.virtual(queue)
        if virtual is not None:
            for message in self._retained.match(exchange, pattern):
                virtual.put_retained(message)
            waiter.answer(None, ACCEPTED)
            return
        durable = self._queues.durable(queue)
        if durable is None:
            raise UnknownQueue(queue)
        messages = list(self._retained.match(exchange, pattern))
        if not messages:
            waiter.answer(None, ACCEPTED)
        merge = Merge(len(messages), waiter, None)
        for message in messages:
            durable.put(message, publisher, merge, None)

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

    def declare_exchange(self, exchange: str, spec: ExchangeSpec, presence: Presence) -> Awaitable[None] | None:
        """Have an exchange. What is durable survives the gateway once what this returns has been awaited.

        Raises `Inequivalent`, `UnknownExchange`, `InvalidArgument`, `Refused`, `StoreError`.
        """
        try:
            self._topology.exchange_spec(exchange)
        except UnknownExchange:
            if presence is Presence.REQUIRED:
                raise
        else:
            if presence is not Presence.EQUIVALENT:
                return None
        self._topology.declare_exchange(exchange, spec)
        return self._durable.written()

    def delete_exchange(self, exchange: str, *, if_unused: bool) -> Awaitable[None] | None:
        """As `declare_exchange`. Raises `InUse`, `Refused` for a predeclared one, `StoreError`."""
        self._topology.delete_exchange(exchange, if_unused=if_unused)
        return self._durable.written()

    async def declare_queue(
        self, name: str, spec: QueueSpec, owner: Owner, presence: Presence = Presence.ANY
    ) -> Counted:
        """Have a queue. Raises `Inequivalent`, `UnknownQueue`, `Locked`, `Refused`, `BackendError`, `StoreError`."""
        return await self._queues.declare(name, spec, presence, owner)

    async def delete_queue(
        self, name: str, owner: Owner | None, *, if_unused: bool = False, if_empty: bool = False
    ) -> Counted:
        """Remove a queue with its messages and bindings, if it is there.

        Raises `InUse`, `NotEmpty`, `Locked`, `BackendError`.
        """
        return await self._queues.delete(name, owner, if_unused=if_unused, if_empty=if_empty)

    async def purge_queue(self, name: str, owner: Owner | None) -> Counted:
        """Drop the messages that nobody holds. Raises `UnknownQueue`, `Locked`, `BackendError`."""
        return await self._queues.purge(name, owner)

    def bind(
        self, destination: Bound, exchange: str, pattern: str, arguments: Headers = NO_HEADERS
    ) -> Awaitable[None] | None:
        """Route to a queue or exchange from now on. A durable binding survives the gateway as a durable exchange does.

        Raises the topology's errors for unknown names and impossible patterns; awaited, `StoreError`.
        """
        if self._topology.bind(destination, exchange, pattern, arguments) and isinstance(destination, str):
            self._shared.bound(destination, exchange, pattern)
        return self._durable.written()

    def unbind(
        self, destination: Bound, exchange: str, pattern: str, arguments: Headers = NO_HEADERS
    ) -> Awaitable[None] | None:
        """As `bind`. What was not bound is not unbound."""
        self._topology.unbind(destination, exchange, pattern, arguments)
        return self._durable.written()

    def rebind(self, queue: str, bindings: Sequence[tuple[str, str]]) -> Awaitable[None] | None:
        """Let a queue have these bindings and no others. As `bind`; where one is impossible, nothing is undone."""
        for exchange, pattern in bindings:
            self._topology.bind(queue, exchange, pattern)
        for binding in self._topology.bindings(queue):
            if (binding.source, binding.pattern) not in bindings or binding.arguments:
                self._topology.unbind(queue, binding.source, binding.pattern, binding.arguments)
        return self._durable.written()

    def consume(self, command: Consume, consumer: Owner) -> Subscription:
        """Deliver a queue's messages to a consumer. Raises `UnknownQueue`, `Locked`, `InUse`, `NotSupported`."""
        return self._queues.consume(command, consumer, consumer)

    async def get(self, queue: str, owner: Owner) -> Got:
        """Take one message, if there is one. Raises `UnknownQueue`, `Locked`, `BackendError`."""
        return await self._queues.get(queue, owner)

    def check_owner(self, queue: str, owner: Owner) -> None:
        """Raises `Locked` for another connection's exclusive queue."""
        self._queues.check_owner(queue, owner)

    def is_private(self, queue: str, owner: Owner) -> bool:
        """Whether only this connection consumes a queue: it declared it as its own, or it is a kept session's."""
        return self._queues.is_private(queue, owner)

    def is_kept_session(self, queue: str) -> bool:
        """Whether a queue is that of a kept session, of whomever."""
        return self._queues.is_kept_session(queue)

    def shared_sources(self, queue: str) -> Collection[tuple[str, str]] | None:
        """Exchange and pattern of what the queue of a shared subscription is bound to. None for any other queue."""
        return self._shared.sources(queue)

    def disconnected(self, owner: Owner, client_id: str) -> None:
        """A connection has ended: its own queues and its claim, if it made one, end with it."""
        self._queues.disconnected(owner)
        claim = self._claims.get(client_id) if client_id else None
        if claim is not None and claim.owner is owner:
            del self._claims[client_id]

    # What operators ask for

    @property
    def topology(self) -> Topology:
        """To be looked at; changes go through the broker."""
        return self._topology

    def is_durable(self, queue: str) -> bool:
        """Whether there is such a queue, and it lives in a backend."""
        return self._queues.durable(queue) is not None

    def queues(self) -> Iterator[Queue]:
        """All that this gateway knows, durable ones first; to be looked at."""
        return self._queues.all()

    def reroute(self, routes: Routes, backends: Mapping[str, Backend]) -> list[Moved]:
        """Follow other rules from now on; `backends` are those that were not open yet.

        What is under way goes where it was going. A queue that is known here stays where it lives, or the messages that
        wait there would be left behind: those that the new rules want elsewhere are given back, to be told.
        """
        self._backends = {**self._backends, **backends}
        self._routes = routes
        self._plans.clear()
        moved = [found for queue in self._queues.all_durable() if (found := self._follow(queue)) is not None]
        for name in routes.named_queues():
            self._adopt_named(name)
        return moved

    def _adopt_named(self, name: str) -> None:
        if self._topology.has_queue(name):
            return
        try:
            self._queues.adopt(name, {})
        except MqliftError as error:
            log.error("queue_not_adopted", queue=name, problem=str(error))  # noqa: TRY400 - no bug

    def _follow(self, queue: BackendQueue) -> Moved | None:
        """Take what the rules say about a queue that stays where it is: their options."""
        try:
            target = self.home(queue.name, queue.spec)
        except Invalid as error:
            return Moved(queue.name, queue.target, str(error))
        if (target.kind, target.name) != (queue.target.kind, queue.target.name):
            return Moved(queue.name, queue.target, f"{target.kind} {target.name}")
        queue.target = target
        return None

    def limit(self, limits: BrokerLimits) -> None:
        """Hold to other limits. What is over them already stays; nothing more comes."""
        self._limits = limits
        self._inflight.move(limits.inflight_messages, limits.inflight_bytes)
        self._queues.limit = limits.durable_queues
        self._sessions.limit = limits.sessions
        self._retained.limits = limits.retained

    async def watch(self) -> None:
        """Do what time asks for: wills, endings, expiry, and a look at destinations that fail. Never ends."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_sessions())
            tasks.create_task(self._watch_queues())
            tasks.create_task(self._watch_destinations())

    async def _watch_sessions(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self._sessions.sweep()

    async def _watch_queues(self) -> None:
        """Apart from the others: what it deletes and takes out may be a lot."""
        while True:
            await asyncio.sleep(SWEEP)
            await self._queues.sweep()
            if self._loop.time() >= self._lengths_due:
                self._lengths_due = self._loop.time() + RECHECK
                await self._queues.check_lengths()

    async def _watch_destinations(self) -> None:
        while True:
            await asyncio.sleep(RECHECK)
            await self._look_around()

    async def _look_around(self) -> None:
        for sender in list(self._senders.values()):
            await sender.recheck()
        try:
            await self._retained.sweep()
            await self._sessions.retry_removals()
            for name in self._shared.unused(self._consumed(), self._sessions.in_use()):
                await self.delete_queue(name, None)
                self._shared.forget(name)
        except MqliftError as error:
            log.warning("housekeeping_failed", problem=str(error))  # and is tried again

    def _consumed(self) -> set[str]:
        return {queue.name for queue in self._queues.all_durable() if queue.consumers}

    def stop_polling(self) -> None:
        """No new polls. What consumers hold can still be settled."""
        for queue in self._queues.all_durable():
            queue.stop_polling()

    async def answered(self) -> None:
        """Wait until every publish has its result."""
        await asyncio.gather(*(sender.drain() for sender in self._senders.values()))

    async def drain(self) -> None:
        """Wait until every poll has ended, and every publish and every settlement has its answer.

        A poll that is cut off may already have messages on their way to it, which would stay hidden for the visibility
        timeout; so this may take as long as a long poll.
        """
        await asyncio.gather(self.answered(), *(queue.drain() for queue in self._queues.all_durable()))
        # What ended only when its dead letter was stored elsewhere.
        await asyncio.gather(*(queue.drain() for queue in self._queues.all_durable()))
        await self._levels.drain()
        await self._queues.finish_deletions()
        await self._writer.drain()

    async def aclose(self) -> None:
        """Give back what is not answered and close the backends."""
        await self._queues.aclose()
        for sender in self._senders.values():
            await sender.aclose()
        await self._sessions.aclose()
        await self._writer.drain()
        await self._store.aclose()
        await self._levels.aclose()
        for backend in self._backends.values():
            await backend.aclose()

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
            self._add_sinks(sinks, address, [name for name in names if name not in skipped])
        return tuple(sinks.values())

    def _add_sinks(self, sinks: dict[object, Sink], address: Address, names: list[str]) -> None:
        targets = list(self._routes.for_publish(address))
        for name in names:
            targets.extend(self._routes.copies(name))
        names.extend(target.name for target in targets if target.kind == QUEUE_KIND)
        for name in names:
            virtual = self._queues.virtual(name)
            if virtual is not None:
                sinks[name] = virtual
            else:
                queue = self._queues.known(name, QueueSpec())
                sinks[queue.target.kind, queue.target.name] = queue
        for target in targets:
            place = (target.kind, target.name)
            # Of two rules for one resource, the one that has to be waited for counts.
            needed = not target.best_effort and isinstance(sinks.get(place), BestEffort)
            if target.kind != QUEUE_KIND and (needed or place not in sinks):
                sinks[place] = self._destination(target)

    def _destination(self, target: Target) -> Sink:
        sender = self.sender(target)
        if not target.best_effort:
            return Destination(sender, target)
        place = (target.kind, target.name)
        if place not in self._losses:
            self._losses[place] = Losses(sender, self._metrics)
        return BestEffort(sender, target, self._losses[place])

    # What queues need

    def backend(self, target: Target, policy: QueuePolicy) -> Backend:
        """What a queue lives in: its backend, or for one with priorities several queues of that.

        Raises `InvalidArgument`.
        """
        return self._levels.keep(target, self._made_for(target, policy))

    def _made_for(self, target: Target, policy: QueuePolicy) -> Backend:
        backend = self._backend_of(target)
        if not policy.max_priority or isinstance(backend, PriorityBackend):
            return backend
        ruled = self._routes.home(target.queue) is not None
        return with_levels(backend, target, policy.max_priority, by_name=ruled)

    def _backend_of(self, target: Target) -> Backend:
        return self._levels.find(target) or self._backends[target.kind]

    def home(self, queue: str, spec: QueueSpec) -> Target:
        """Where a durable queue lives. Raises `Invalid`."""
        target = self._routes.home(queue) or self._backends[self._home].home(queue, spec)
        return replace(target, label=SESSION_LABEL) if spec.arguments.get(SESSION) else target

    def receiver(self, target: Target, keeper: Keeper, policy: QueuePolicy) -> Receiver:
        """What polls a queue."""
        backend = self._backend_of(target)
        return Receiver(
            backend,
            target,
            Settler(backend, target, policy=self._sending, metrics=self._metrics),
            policy=self._receiving,
            metrics=self._metrics,
            health=self._health,
            keeper=keeper,
            single=policy.single_active_consumer,
        )

    async def remove(self, target: Target) -> None:
        """Remove a queue in its backend, once what was sent to it has its answer. Raises `BackendError`."""
        sender = self._senders.pop((target.kind, target.name), None)
        if sender is not None:
            await sender.drain()  # an entry that came later than the deletion would make the queue anew
            await sender.aclose()
        await self._backend_of(target).remove(target)
        await self._levels.forget(target)

    async def _remove_session(self, record: SessionRecord) -> None:
        queue = self._queues.pop_durable(record.queue)
        if queue is not None:
            await queue.aclose()
        await self.remove(self.home(record.queue, QueueSpec(durable=True, arguments=record.arguments)))

    def _publish_will(self, will: Message) -> None:
        if will.headers.get(RETAIN):  # [MQTT-3.1.2-17]
            self._retained.keep(will, _tell_not_retained)
        self._publish_alone(will)

    def _publish_alone(self, message: Message) -> None:
        """Publish what no connection waits for."""
        self.publish(message, _NOBODY, None)

    def sender(self, target: Target) -> Sender:
        """What sends to a resource. Raises `Refused` at the limit."""
        key = (target.kind, target.name)
        sender = self._senders.get(key)
        if sender is None:
            limit = self._limits.destinations
            if len(self._senders) >= limit:
                raise Refused(
                    f"{target.kind} '{target.name}': {limit} destinations are in use, the limit of this gateway"
                )
            sender = self._senders[key] = Sender(
                self._backend_of(target),
                target,
                policy=self._sending,
                inflight=self._inflight,
                metrics=self._metrics,
                health=self._health,
                tracer=self.tracer,
            )
        return sender

    async def ensure(self, target: Target, spec: QueueSpec, policy: QueuePolicy) -> None:
        """Find or create a queue, trying again while that may help."""
        backend = self._made_for(target, policy)
        deadline = self._loop.time() + self._sending.timeout
        attempt = 0
        while True:
            try:
                return await backend.ensure(target, spec)
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
