"""The one door for protocols: publish, declare, bind, consume. Routing meets the queues and the backends here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol

import structlog

from gateway.core.auth import Authenticator, Authorizer, Credentials, Identity
from gateway.core.backend import Answerable, Backend, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.burying import Undertaker
from gateway.core.commands import Consume, Counted, Got, Presence, SessionRecord
from gateway.core.durable import DurableTopology
from gateway.core.errors import InUse, Invalid, MqliftError, NotAuthorized
from gateway.core.exchanges import Destination as Bound
from gateway.core.exchanges import ExchangeSpec
from gateway.core.fanout import FanOut, Subscriber
from gateway.core.fleet.usage import Usage
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.merge import Merge
from gateway.core.message import NO_HEADERS, RETAIN, Headers, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.queues import BackendQueue
from gateway.core.queuetable import Queue, QueueTable
from gateway.core.receiver import ReceivePolicy
from gateway.core.resources import BackendResources, Homes
from gateway.core.retained import Retained, RetainedLimits
from gateway.core.routes import Routes
from gateway.core.routing import Routing
from gateway.core.sender import Publisher
from gateway.core.sessions import Sessions
from gateway.core.shared import SharedQueues
from gateway.core.statewriter import Done, StateWriter
from gateway.core.store import StateStore
from gateway.core.streams.queue import StreamQueue
from gateway.core.streams.tail import Tails
from gateway.core.subscription import Consumer, Subscription
from gateway.core.topology import Topology, UnknownExchange, UnknownQueue
from gateway.core.tracing import Tracer

log = structlog.get_logger("mqlift.broker")

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


class Broker:
    """Knows every queue, session and claim of one gateway. Everything runs in its event loop."""

    routing: type[Routing] = Routing
    """How messages find their way."""

    def __init__(
        self,
        *,
        topology: Topology,
        routes: Routes,
        backends: Mapping[str, Backend],
        home: str,
        stream_home: str = "",
        authenticator: Authenticator,
        authorizer: Authorizer | None = None,
        sending: BatchPolicy,
        receiving: ReceivePolicy,
        limits: BrokerLimits,
        store: StateStore,
        metrics: Metrics,
        health: Health,
        subscribers: Mapping[str, Subscriber] = MappingProxyType({}),
    ) -> None:
        """`home`: the kind of backend that queues live in which no rule maps; `stream_home`: the same of streams.
        `subscribers`, by the kinds of targets that a rule may have hand messages to queues themselves.
        """
        self._topology = topology
        self._authenticator = authenticator
        self.authorizer = authorizer
        """Asked by connections before they publish, subscribe or deliver; None: everything is allowed."""
        self.client_ids_shared = False
        """Whether any user may take over the client id, and the session, of any other."""
        self._metrics = metrics
        self.health = health
        self._loop = asyncio.get_running_loop()
        self._inflight = Watermark(limits.inflight_messages, limits.inflight_bytes)
        self._claims: dict[str, Claim] = {}
        self._client_ids: dict[str, Owner] = {}
        self.store = store
        self._writer = self._open_writer()
        self._retained = Retained(store, self._writer, limits.retained, fleet=self._writer.fleet)
        self._sessions = self._open_sessions(limits.sessions)
        self._shared = SharedQueues(store, self._writer)
        self._usage = self._open_usage()
        self._durable = DurableTopology(store, self._writer)
        self._resources = BackendResources(
            backends,
            routes,
            Homes(queues=home, streams=stream_home),
            sending=sending,
            receiving=receiving,
            inflight=self._inflight,
            destinations=limits.destinations,
            store=store,
            metrics=metrics,
            health=health,
        )
        self._routing = self.routing(topology, self._resources, metrics)
        self._queues = self._routing.queues = QueueTable(
            topology=topology,
            durable=self._durable,
            shared=self._shared,
            resources=self._resources,
            bury=Undertaker(topology, self._routing, metrics).bury,
            nobody=_NOBODY,
            metrics=metrics,
            limit=limits.durable_queues,
            usage=self._usage,
        )
        self._fanout = self._routing.fanout = FanOut(
            subscribers,
            topology=topology,
            store=store,
            find=self._routing.filled_queue,
            changed=self._routing.forget,
        )
        self._tails = Tails(
            routes.tails(), self._resources.stream, lambda message: self._routing.publish_live(message, _NOBODY)
        )
        self._show_sizes()
        self._opened()
        self._lengths_due = self._loop.time() + RECHECK

    # What is another thing where several gateways share a store (`core/fleet/broker.py`)

    def _opened(self) -> None:
        """All parts are there."""

    def _open_writer(self) -> StateWriter:
        return StateWriter(self.store)

    def _open_sessions(self, limit: int) -> Sessions:
        return Sessions(self.store, self._writer, limit=limit, publish=self._publish_will, remove=self._remove_session)

    def _open_usage(self) -> Usage | None:
        """What other gateways use."""
        return None

    def _change(self, change: Callable[[], object], *, here: bool = False) -> Awaitable[None] | None:  # noqa: ARG002
        """Change the topology; what to wait for until what is durable of it is written.

        `here`: it concerns this gateway alone.
        """
        change()
        return self._durable.written()

    def finding(self, queue: str) -> Awaitable[None] | None:  # noqa: ARG002
        """What to wait for until a queue is known that another gateway may have declared; None when it is."""
        return None

    async def _leave(self) -> None:
        """Nothing more is written."""

    def _show_sizes(self) -> None:
        metrics = self._metrics
        metrics.inflight.set_function(lambda: self._inflight.count)
        metrics.inflight_bytes.set_function(lambda: self._inflight.bytes)
        metrics.durable_queues.set_function(lambda: self._queues.durable_count)
        metrics.virtual_queues.set_function(lambda: self._queues.virtual_count)
        metrics.bindings.set_function(lambda: self._topology.binding_count)
        metrics.sessions.set_function(lambda: len(self._sessions))
        metrics.retained.set_function(lambda: len(self._retained))

    @property
    def tracer(self) -> Tracer | None:
        """Told of every message; set before the first connection."""
        return self._routing.tracer

    @tracer.setter
    def tracer(self, tracer: Tracer | None) -> None:
        self._routing.tracer = self._resources.tracer = tracer

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
        for name in self._resources.routes.named_queues():
            if not self._topology.has_queue(name):
                self._queues.adopt(name, {}, declared=False)
        await self._durable.restore_bindings(self._topology)
        for name, kept in (await self._shared.restore()).items():
            self._queues.adopt(name, kept.arguments, kept.bindings)
        for record in await self._sessions.restore():
            if record.queue:
                self._queues.adopt(record.queue, record.arguments, record.bindings)
        await self._fanout.restore()
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

    def claim_client_id(self, client_id: str, owner: Owner) -> None:
        """Make `owner` the only connection with this client id. Raises `InUse`.

        They have nothing to do with those of sessions, which are taken over.
        """
        if self._client_ids.setdefault(client_id, owner) is not owner:
            raise InUse("another connection has this client-id")

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
        self._routing.publish(message, publisher, token, also)

    def declare_exchange(self, exchange: str, spec: ExchangeSpec, presence: Presence) -> Awaitable[None] | None:
        """Have an exchange. What is durable survives the gateway once what this returns has been awaited.

        Raises `Inequivalent`, `UnknownExchange`, `InvalidArgument`, `Refused`, `StoreError`.
        """
        if presence is not Presence.EQUIVALENT and self._topology.has_exchange(exchange):
            return None
        return self._change(lambda: self._declare_exchange(exchange, spec, presence))

    def _declare_exchange(self, exchange: str, spec: ExchangeSpec, presence: Presence) -> None:
        try:
            self._topology.exchange_spec(exchange)
        except UnknownExchange:
            if presence is Presence.REQUIRED:
                raise
        else:
            if presence is not Presence.EQUIVALENT:
                return
        self._topology.declare_exchange(exchange, spec)

    def delete_exchange(self, exchange: str, *, if_unused: bool) -> Awaitable[None] | None:
        """As `declare_exchange`. Raises `InUse`, `Refused` for a predeclared one, `StoreError`."""
        return self._change(lambda: self._topology.delete_exchange(exchange, if_unused=if_unused))

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
        change = partial(self._bind, destination, exchange, pattern, arguments)
        return self._change(change, here=self._is_here(destination, exchange))

    def _bind(self, destination: Bound, exchange: str, pattern: str, arguments: Headers) -> None:
        if self._topology.bind(destination, exchange, pattern, arguments) and isinstance(destination, str):
            self._shared.bound(destination, exchange, pattern)

    def _is_here(self, destination: Bound, exchange: str) -> bool:
        """Whether a binding is this gateway's alone: that of a queue of its own to an exchange that it knows."""
        if not isinstance(destination, str) or self._topology.is_durable(destination):
            return False
        return self._topology.has_queue(destination) and self._topology.has_exchange(exchange)

    def unbind(
        self, destination: Bound, exchange: str, pattern: str, arguments: Headers = NO_HEADERS
    ) -> Awaitable[None] | None:
        """As `bind`. What was not bound is not unbound."""
        change = partial(self._topology.unbind, destination, exchange, pattern, arguments)
        return self._change(change, here=self._is_here(destination, exchange))

    def rebind(self, queue: str, bindings: Sequence[tuple[str, str]]) -> Awaitable[None] | None:
        """Let a queue have these bindings and no others. As `bind`; where one is impossible, nothing is undone."""
        here = all(self._is_here(queue, exchange) for exchange, _ in bindings)
        return self._change(partial(self._rebind, queue, bindings), here=here)

    def _rebind(self, queue: str, bindings: Sequence[tuple[str, str]]) -> None:
        for exchange, pattern in bindings:
            self._topology.bind(queue, exchange, pattern)
        for binding in self._topology.bindings(queue):
            if (binding.source, binding.pattern) not in bindings or binding.arguments:
                self._topology.unbind(queue, binding.source, binding.pattern, binding.arguments)

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

    def is_declared_as(self, queue: str, spec: QueueSpec) -> bool:
        """Whether there is such a durable queue, with just these arguments."""
        known = self._queues.durable(queue)
        return known is not None and known.spec.arguments == spec.arguments

    def shared_sources(self, queue: str) -> Collection[tuple[str, str]] | None:
        """Exchange and pattern of what the queue of a shared subscription is bound to. None for any other queue."""
        return self._shared.sources(queue)

    def disconnected(self, owner: Owner, client_id: str) -> None:
        """A connection has ended: its own queues and its claim, if it made one, end with it."""
        self._queues.disconnected(owner)
        if self._client_ids.get(client_id) is owner:
            del self._client_ids[client_id]
        claim = self._claims.get(client_id) if client_id else None
        if claim is not None and claim.owner is owner:
            del self._claims[client_id]
            self._sessions.released(client_id)

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
        self._resources.backends = {**self._resources.backends, **backends}
        self._resources.routes = routes
        self._routing.forget()
        moved = [found for queue in self._queues.all_durable() if (found := self._follow(queue)) is not None]
        for name in routes.named_queues():
            self.adopt(name)
        return moved

    def adopt(self, name: str) -> None:
        """Know a queue that the configuration names, before anybody declares it."""
        if self._topology.has_queue(name):
            return
        try:
            self._queues.adopt(name, {}, declared=False)
        except MqliftError as error:
            log.error("queue_not_adopted", queue=name, problem=str(error))  # noqa: TRY400 - no bug

    def _follow(self, queue: BackendQueue | StreamQueue) -> Moved | None:
        """Take what the rules say about a queue that stays where it is: their options."""
        try:
            target = self._resources.home(queue.name, queue.spec)
        except Invalid as error:
            return Moved(queue.name, queue.target, str(error))
        if (target.kind, target.name) != (queue.target.kind, queue.target.name):
            return Moved(queue.name, queue.target, f"{target.kind} {target.name}")
        queue.target = target
        return None

    def limit(self, limits: BrokerLimits) -> None:
        """Hold to other limits. What is over them already stays; nothing more comes."""
        self._resources.destinations = limits.destinations
        self._inflight.move(limits.inflight_messages, limits.inflight_bytes)
        self._queues.limit = limits.durable_queues
        self._sessions.limit = limits.sessions
        self._retained.limits = limits.retained

    async def watch(self) -> None:
        """Do what time asks for: wills, endings, expiry, and a look at destinations that fail. Never ends."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tails.start())
            tasks.create_task(self._watch_sessions())
            tasks.create_task(self._watch_queues())
            tasks.create_task(self._watch_destinations())
            tasks.create_task(self._fanout.run())

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
        for sender in self._resources.senders():
            await sender.recheck()
        try:
            await self._retained.sweep()
            await self._sessions.retry_removals()
            for name in self._shared.unused(self._consumed(), self._sessions.in_use()):
                await self.delete_queue(name, None)
                self._shared.forget(name)
            await self._tails.start()
        except MqliftError as error:
            log.warning("housekeeping_failed", problem=str(error))  # and is tried again

    def _consumed(self) -> set[str]:
        """Durable queues that are not to be ended."""
        return {queue.name for queue in self._queues.all_durable() if queue.consumers}

    def stop_polling(self) -> None:
        """No new polls. What consumers hold can still be settled."""
        for queue in self._queues.all_durable():
            queue.stop_polling()
        self._tails.stop_polling()

    async def answered(self) -> None:
        """Wait until every publish has its result."""
        await self._resources.answered()

    async def drain(self) -> None:
        """Wait until every poll has ended, and every publish and every settlement has its answer.

        A poll that is cut off may already have messages on their way to it, which would stay hidden for the visibility
        timeout; so this may take as long as a long poll.
        """
        await asyncio.gather(self.answered(), *(queue.drain() for queue in self._queues.all_durable()))
        # What ended only when its dead letter was stored elsewhere.
        await asyncio.gather(*(queue.drain() for queue in self._queues.all_durable()))
        await self._resources.drain()
        await self._queues.finish_deletions()
        await self._writer.drain()

    async def aclose(self) -> None:
        """Give back what is not answered and close the backends."""
        await self._queues.aclose()
        await self._tails.aclose()
        await self._resources.stop_sending()
        await self._sessions.aclose()
        await self._writer.drain()
        await self._leave()
        await self.store.aclose()
        await self._resources.aclose()

    async def _remove_session(self, record: SessionRecord) -> None:
        queue = self._queues.pop_durable(record.queue)
        if queue is not None:
            await queue.aclose()
        spec = QueueSpec(durable=True, arguments=record.arguments)
        await self._resources.remove(self._resources.home(record.queue, spec))

    def _publish_will(self, will: Message) -> None:
        if will.headers.get(RETAIN):  # [MQTT-3.1.2-17]
            self._retained.keep(will, _tell_not_retained)
        self._publish_alone(will)

    def _publish_alone(self, message: Message) -> None:
        """Publish what no connection waits for."""
        self.publish(message, _NOBODY, None)


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
