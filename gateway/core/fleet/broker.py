"""The broker of a gateway that shares its state store with others: what one of them has made, all of them have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import structlog

from gateway.core.backend import QueueSpec
from gateway.core.broker import Broker, Owner
from gateway.core.commands import Counted, Got, Presence, SessionRecord
from gateway.core.errors import MqliftError
from gateway.core.fleet.agreement import Agreement
from gateway.core.fleet.claims import CLAIM, ClaimFollower, pack_claim
from gateway.core.fleet.membership import Fleet
from gateway.core.fleet.sessions import FleetSessions
from gateway.core.fleet.topologyfollower import TopologyFollower
from gateway.core.fleet.usage import Usage
from gateway.core.later import Later
from gateway.core.sessions import Sessions
from gateway.core.shared import SESSION
from gateway.core.statewriter import StateWriter
from gateway.core.store import StoreError

log = structlog.get_logger("mqlift.broker")


class FleetBroker(Broker):
    """One broker of several, which follow each other through the store."""

    _fleet: Fleet
    _fleet_sessions: FleetSessions
    _fleet_usage: Usage

    def _opened(self) -> None:
        self._shared.follow(
            self._fleet,
            appeared=lambda name, queue: self._route_to(name, queue.arguments, list(queue.bindings)),
            vanished=self._queues.withdraw,
        )
        self._fanout.follow(self._fleet, self._writer)
        self._fleet.followers.append(self._fleet_usage)
        self._fleet.followers.append(ClaimFollower(self._fleet_sessions.is_kept, self._claimed_elsewhere))
        follower = TopologyFollower(self.store, self._writer, self._topology, self._durable, self._queues.follow)
        self._fleet.followers.insert(0, follower)
        self._agreement = Agreement(self._fleet, follower, self._durable)
        self._metrics.gateways.set_function(lambda: self._fleet.size)

    # Parts

    def _open_writer(self) -> StateWriter:
        self._fleet = Fleet(self.store, self._loop.time)
        return StateWriter(self.store, self._fleet)

    def _open_sessions(self, limit: int) -> Sessions:
        self._fleet_sessions = FleetSessions(
            self.store,
            self._writer,
            self._fleet,
            limit=limit,
            publish=self._publish_will,
            remove=self._remove_session,
            appeared=lambda record: self._route_to(record.queue, record.arguments, record.bindings),
            vanished=lambda record: self._queues.withdraw(record.queue),
            lost=self._taken_elsewhere,
        )
        self._fleet.fenced = self._fleet_sessions.fenced
        return self._fleet_sessions

    def _open_usage(self) -> Usage:
        self._fleet_usage = Usage(self._fleet, self._loop.time)
        return self._fleet_usage

    async def restore(self) -> None:
        """As `Broker.restore`, as one of the fleet."""
        await self._fleet.join()
        await super().restore()

    async def watch(self) -> None:
        """As `Broker.watch`, and follow the others."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().watch())
            tasks.create_task(self._fleet.run())

    async def _leave(self) -> None:
        try:
            await self._fleet.leave()
        except StoreError as error:
            log.warning("goodbye_not_said", problem=str(error))  # the others find out

    def _route_to(self, queue: str, arguments: Mapping[str, object], bindings: Sequence[tuple[str, str]]) -> None:
        """A queue that sessions at other gateways have made gets what is published here."""
        if not queue:
            return
        try:
            self._queues.adopt(queue, arguments)
            self._rebind(queue, bindings)
        except MqliftError as error:
            log.error("queue_not_followed", queue=queue, problem=str(error))  # noqa: TRY400 - told in one line

    # Client ids

    async def open_session(self, client_id: str, owner: Owner, *, clean: bool, user: str = "") -> SessionRecord | None:
        """As `Broker.open_session`, of a client that may be connected to another gateway, which is told.

        Raises `NotAuthorized` too, for a client id that another user has there.
        """
        await self._fleet.catch_up()
        self.check_client_id(client_id, user)
        record = await super().open_session(client_id, owner, clean=clean, user=user)
        try:
            await self._fleet.announce(CLAIM, pack_claim(client_id, user))
        except (StoreError, asyncio.CancelledError):
            self._fleet_sessions.abandon(client_id)
            raise
        return record

    def _taken_elsewhere(self, client_id: str) -> None:
        """A client has connected to another gateway."""
        claim = self._claims.pop(client_id, None)
        if claim is not None:
            self._metrics.takeovers.inc()
            claim.owner.taken_over()

    def _claimed_elsewhere(self, client_id: str, user: str) -> None:
        """As `_taken_elsewhere`, of a client that nothing is kept of; `user` is who has claimed it."""
        claim = self._claims.get(client_id)
        if claim is not None and (self.client_ids_shared or not claim.user or claim.user == user):
            self._taken_elsewhere(client_id)

    # Topology

    def _change(self, change: Callable[[], object], *, here: bool = False) -> Awaitable[None] | None:
        """As `Broker._change`. What concerns others is changed, and raises what it raises, when it is waited for."""
        return super()._change(change) if here else self._agreement.change(change)

    async def declare_queue(
        self, name: str, spec: QueueSpec, owner: Owner, presence: Presence = Presence.ANY
    ) -> Counted:
        """As `Broker.declare_queue`, and as what others have declared lets it be."""
        declare = partial(super().declare_queue, name, spec, owner, presence)
        known = presence in (Presence.ANY, Presence.REQUIRED) and self._topology.has_queue(name)
        if spec.virtual or spec.arguments.get(SESSION) or known:
            return await declare()
        return await self._agreement.reach(declare)

    async def delete_queue(
        self, name: str, owner: Owner | None, *, if_unused: bool = False, if_empty: bool = False
    ) -> Counted:
        """As `Broker.delete_queue`."""
        await self._agreement.catch_up()
        return await super().delete_queue(name, owner, if_unused=if_unused, if_empty=if_empty)

    async def purge_queue(self, name: str, owner: Owner | None) -> Counted:
        """As `Broker.purge_queue`."""
        await self._find(name)
        return await super().purge_queue(name, owner)

    async def get(self, queue: str, owner: Owner) -> Got:
        """As `Broker.get`."""
        await self._find(queue)
        return await super().get(queue, owner)

    def finding(self, queue: str) -> Awaitable[None] | None:
        """As `Broker.finding`."""
        return None if self._topology.has_queue(queue) else Later(self._agreement.catch_up)

    async def _find(self, queue: str) -> None:
        """Know a queue, if another gateway has declared it. Raises `StoreError`."""
        if not self._topology.has_queue(queue):
            await self._agreement.catch_up()

    def _consumed(self) -> set[str]:
        """As `Broker._consumed`: those that are used elsewhere too, and those that are not this gateway's to end."""
        usage = self._fleet_usage
        others = {
            queue.name
            for queue in self._queues.all_durable()
            if usage.is_elsewhere(queue.name) or not usage.is_mine(queue.name)
        }
        return super()._consumed() | others
