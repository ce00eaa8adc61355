"""Kept sessions that several gateways share: each has one holder, and what another writes to it is not taken.

The record of a session names the gateway that holds it: where its client is connected, or was last. Every write asks
for the version that the holder has written itself, so a gateway that has lost a session cannot change it any more,
however long it was frozen. Who takes a session over writes both of its records first; then it reads what is in flight.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog

from gateway.core.commands import SessionRecord
from gateway.core.errors import MqliftError
from gateway.core.fleet.membership import Fleet
from gateway.core.fleet.recordfollower import RecordFollower
from gateway.core.message import Message
from gateway.core.packing import MetaUnreadable
from gateway.core.sessions import INFLIGHT, KIND, REMOVED, Ending, Holding, Sessions, pack, unpack
from gateway.core.statewriter import Done, StateWriter
from gateway.core.store import Conflict, Record, StateStore, StoreError, every_record

log = structlog.get_logger("mqlift.sessions")

TRIES: Final = 8
"""Times that a session is asked for which other gateways change meanwhile."""

ADOPT_SECONDS: Final = 5.0
"""Between two looks for sessions whose gateway is gone."""

OVER: Final = 0.0
"""When a session ends that nobody can go on with: it is only left to be cleared away."""


class FleetSessions(Sessions):
    """Every kept session of the fleet. `appeared` and `vanished` are told of those that are to be routed to.

    `lost` is told of a client id whose session another gateway has taken: its connection is to be closed.
    """

    def __init__(
        self,
        store: StateStore,
        writer: StateWriter,
        fleet: Fleet,
        *,
        limit: int,
        publish: Callable[[Message], None],
        remove: Callable[[SessionRecord], Awaitable[None]],
        appeared: Callable[[SessionRecord], None],
        vanished: Callable[[SessionRecord], None],
        lost: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(store, writer, limit=limit, publish=publish, remove=remove, wall=wall)
        self._fleet = fleet
        self._appeared = appeared
        self._vanished = vanished
        self._lost = lost
        self._holdings: dict[str, Holding] = {}
        self._held: set[str] = set()
        """Client ids that are connected here, those without a kept session too."""
        self._opening: set[str] = set()
        self._resumed: dict[str, bool] = {}
        """Of sessions that are being lost: whether somebody goes on with them."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Sessions that are being ended."""
        self._adopt_at = wall()
        self._follower = RecordFollower(store, writer, KIND, apply=self._apply, here=lambda: self._kept)
        fleet.followers.append(self._follower)

    # What the store has

    async def restore(self) -> list[SessionRecord]:
        """Read what the store has. Those of other gateways stay as they are."""
        async for record in every_record(self._store, KIND):
            self._apply(record.key, record)
        return []  # `appeared` was told

    def _apply(self, client_id: str, record: Record | None) -> None:
        self._writer.known(KIND, client_id, 0 if record is None else record.version)
        if record is None:
            if client_id in self._kept:
                self._lose(client_id, resumed=False)
                self._drop(client_id)
            return
        try:
            kept, ending, holding = unpack(record.value)
        except MetaUnreadable as error:
            log.error("session_unreadable", client_id=client_id, problem=str(error))  # noqa: TRY400 - told in one line
            return
        if holding.gateway != self._fleet.me:
            before = self._holdings.get(client_id, holding)
            self._lose(client_id, resumed=holding.born == before.born)
        if client_id in self._kept and self._kept[client_id].queue != kept.queue:
            self._drop(client_id)
        self._kept[client_id] = kept
        self._holdings[client_id] = holding
        if ending is not None:
            self._expect(client_id, ending)
        elif self._has_ended_here(client_id, holding):
            self._end_later(client_id, kept, self._endings[client_id])  # that could not be written
        else:
            self._endings.pop(client_id, None)
        if client_id not in self._held:  # or its connection may be ahead of what is written
            self._appeared(kept)

    def _has_ended_here(self, client_id: str, holding: Holding) -> bool:
        connected = client_id in self._held or client_id in self._opening
        return holding.gateway == self._fleet.me and client_id in self._endings and not connected

    def _drop(self, client_id: str) -> None:
        """Know a session no more."""
        record = self._kept.pop(client_id)
        self._endings.pop(client_id, None)
        self._holdings.pop(client_id, None)
        if record.queue:
            self._vanished(record)

    def _lose(self, client_id: str, *, resumed: bool) -> None:
        """Another gateway has taken a session that was this one's."""
        if client_id in self._held:
            self._held.discard(client_id)
            log.info("session_taken_over", client_id=client_id)
            self._resumed[client_id] = resumed
            self._lost(client_id)
            del self._resumed[client_id]

    def fenced(self) -> None:
        """The others have taken this gateway for dead: its sessions are theirs."""
        for client_id in self._held & self._kept.keys():
            self._lose(client_id, resumed=True)

    def is_kept(self, client_id: str) -> bool:
        """Whether a client has a kept session, wherever."""
        return client_id in self._kept

    # What connections ask for

    async def open(self, client_id: str, *, clean: bool, user: str = "") -> SessionRecord | None:
        """As `Sessions.open`; another gateway that holds the session loses it."""
        self._opening.add(client_id)
        try:
            for _ in range(TRIES):
                try:
                    record = await self._open(client_id, clean=clean, user=user)
                except Conflict:
                    await self._writer.settled(KIND, client_id)
                    await self._follower.read([client_id])
                else:
                    self._held.add(client_id)
                    return record
            raise StoreError(f"the session of '{client_id}' is being opened elsewhere all the time")
        except asyncio.CancelledError:
            self._fleet.recheck(KIND, client_id)  # what was begun goes on
            raise
        finally:
            self._opening.discard(client_id)

    async def _open(self, client_id: str, *, clean: bool, user: str) -> SessionRecord | None:
        """Raises `Conflict` when the session is not what it was thought to be."""
        while (task := self._tasks.get(client_id)) is not None:
            await asyncio.wait([task])
        await self._writer.settled(KIND, client_id)
        kept = self._kept.get(client_id)
        ending = self._endings.get(client_id)
        now = self._wall()
        if kept is not None and (clean or (ending is not None and ending.ends_at <= now)):
            await self._end_for_good(client_id)
            kept = None
        if kept is None:
            await self._take_inflight(client_id, fence=False)
            if client_id in self._kept:  # another gateway has made one meanwhile
                raise Conflict(KIND, client_id)
            return None
        fence = self._holding(client_id).gateway != self._fleet.me
        kept = replace(kept, user=user or kept.user, will=None)
        await self._claim(client_id, kept, None)
        claimed = self._writer.version(KIND, client_id)
        if ending is not None and ending.will is not None and ending.will_at <= now:
            self._publish(ending.will)
        inflight = await self._take_inflight(client_id, fence=fence)
        if fence and await self._has_changed(client_id, claimed):
            raise Conflict(KIND, client_id)  # what is in flight was taken from who has it by now
        if self._writer.version(KIND, client_id) != claimed:
            raise Conflict(KIND, client_id)
        return replace(kept, inflight=inflight)

    async def _has_changed(self, client_id: str, version: int) -> bool:
        record = await self._store.get(KIND, client_id)
        return record is None or record.version != version

    async def _take_inflight(self, client_id: str, *, fence: bool) -> bytes:
        """What is in flight. With `fence`, nobody who held the session before can change it from now on."""
        await self._writer.settled(INFLIGHT, client_id)
        inflight = await self._read_inflight(client_id)
        for _ in range(TRIES if fence else 0):
            try:
                await self._written(partial(self._keep_inflight, client_id, inflight))
            except Conflict:
                inflight = await self._read_inflight(client_id)  # who had it has not noticed yet
            else:
                return inflight
        if fence:
            raise StoreError(f"what is in flight to '{client_id}' is being changed elsewhere all the time")
        return inflight

    async def _read_inflight(self, client_id: str) -> bytes:
        record = await self._store.get(INFLIGHT, client_id)
        self._writer.known(INFLIGHT, client_id, 0 if record is None else record.version)
        return b"" if record is None else record.value

    def keep(self, client_id: str, record: SessionRecord, done: Done) -> None:
        """As `Sessions.keep`; `done` is told `Conflict` when the session is another gateway's by now."""
        if client_id not in self._held:
            done(Conflict(KIND, client_id))
            return
        super().keep(client_id, record, done)

    def keep_inflight(self, client_id: str, inflight: bytes, done: Done) -> None:
        """As `keep`."""
        if client_id not in self._held:
            done(Conflict(INFLIGHT, client_id))
            return
        self._keep_inflight(client_id, inflight, done)

    def _keep_inflight(self, client_id: str, inflight: bytes, done: Done) -> None:
        self._writer.write(INFLIGHT, client_id, inflight, done, conditional=True)

    def end(self, client_id: str, expiry: float, will: Message | None, will_delay: float) -> None:
        """As `Sessions.end`. Of a session that is another gateway's, only the will is left: [MQTT-3.1.2-8]; it waits
        no longer where nobody goes on with the session (5.0 §3.1.3.2.2).
        """
        if client_id in self._held:
            self._held.discard(client_id)
            super().end(client_id, expiry, will, will_delay)
        elif will is not None and not (will_delay and self._resumed.get(client_id, True)):
            self._publish(will)

    def released(self, client_id: str) -> None:
        """As `Sessions.released`: of one that is not kept, no end is told."""
        if client_id not in self._kept:
            self._held.discard(client_id)

    def abandon(self, client_id: str) -> None:
        """As `Sessions.abandon`: its end begins soon, as that of a session whose gateway is gone."""
        self._held.discard(client_id)

    # Endings

    def sweep(self) -> None:
        """As `Sessions.sweep`, of the sessions that this gateway holds, and its part of those that nobody does."""
        now = self._wall()
        if now >= self._adopt_at:
            self._adopt_at = now + ADOPT_SECONDS
            self._adopt(now)
        while self._due and self._due[0][0] <= now:
            _, client_id = heapq.heappop(self._due)
            ending = self._endings.get(client_id)
            if ending is None or ending.next is None or ending.next > now:
                continue
            if self._is_mine(client_id) and client_id not in self._tasks and client_id not in self._opening:
                self._end(client_id, ending, now)
            heapq.heappush(self._due, (now + ADOPT_SECONDS, client_id))  # in case that it does not come to that

    def _adopt(self, now: float) -> None:
        """Begin the end of sessions that were connected to a gateway that is gone."""
        for client_id, record in list(self._kept.items()):
            connected = client_id in self._held or client_id in self._opening
            if client_id not in self._endings and not connected and self._is_mine(client_id):
                self._end_later(client_id, replace(record, will=None), Ending.of_lost(record, now))

    def _is_mine(self, client_id: str) -> bool:
        """Whether this gateway is to end a session: it holds it, or is the one of those that remain."""
        gateway = self._holding(client_id).gateway
        return gateway == self._fleet.me or (not self._fleet.is_live(gateway) and self._fleet.is_mine(client_id))

    def _end(self, client_id: str, ending: Ending, now: float) -> None:
        over = ending.ends_at <= now
        self._begin(client_id, self._end_for_good(client_id) if over else self._publish_late(client_id, ending))

    def _forget(self, client_id: str) -> None:
        self._begin(client_id, self._end_for_good(client_id))

    def _begin(self, client_id: str, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._try(client_id, ending))
        self._tasks[client_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(client_id, None))

    async def _try(self, client_id: str, ending: Coroutine[Any, Any, None]) -> None:
        try:
            await ending
        except Conflict:
            log.debug("session_ended_elsewhere", client_id=client_id)
        except StoreError as error:
            log.warning("session_not_ended", client_id=client_id, problem=str(error))  # and is tried again

    async def _publish_late(self, client_id: str, ending: Ending) -> None:
        """A will whose delay is over: once nobody can call it off any more. Raises `StoreError`."""
        record = self._kept.get(client_id)
        if record is not None and ending.will is not None:
            await self._claim(client_id, record, replace(ending, will=None))
            self._publish(ending.will)

    async def _end_for_good(self, client_id: str) -> None:
        """End a session, once for all gateways: who has written that it is over clears it away. Raises `StoreError`.

        Whoever finds it so later, as this gateway did not come to the end, does the rest.
        """
        record = self._kept.get(client_id)
        if record is None:
            return
        ending = self._endings.get(client_id)
        will = None if ending is None else ending.will
        gateway = self._holding(client_id).gateway
        at_it = gateway != self._fleet.me and self._fleet.is_live(gateway)
        another_ends_it = ending is not None and ending.ends_at == OVER and at_it
        await self._claim(client_id, record, Ending(ends_at=OVER, will=will, will_at=OVER))
        if will is not None and not another_ends_it:
            self._publish(will)
            self._endings[client_id] = Ending(ends_at=OVER)
        if record.queue:
            await self._written(lambda done: self._writer.write(REMOVED, record.queue, pack(record, None), done))
        await self._take_inflight(client_id, fence=False)
        await self._written(lambda done: self._writer.write(INFLIGHT, client_id, None, done, conditional=True))
        await self._written(lambda done: self._writer.write(KIND, client_id, None, done, conditional=True))
        if self._kept.get(client_id) is record:
            self._drop(client_id)
        if record.queue:
            self._remove_soon(record)
        log.info("session_ended", client_id=client_id)

    async def retry_removals(self) -> None:
        """As `Sessions.retry_removals`; of several gateways, one does."""
        for record in await self._store.scan(REMOVED):
            if record.key not in self._removals and self._fleet.is_mine(record.key):
                self._remove_soon(unpack(record.value).record)

    async def aclose(self) -> None:
        """Leave what is under way to the others."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await super().aclose()

    # Writing

    async def _claim(self, client_id: str, record: SessionRecord, ending: Ending | None) -> None:
        """Hold a session from now on. Raises `Conflict` when it is not as it is known here, and `StoreError`."""
        await self._written(lambda done: self._write(client_id, record, ending, done))
        self._kept[client_id] = record
        self._holdings[client_id] = Holding(self._fleet.me, self._holding(client_id).born)
        if ending is None:
            self._endings.pop(client_id, None)
        else:
            self._expect(client_id, ending)

    def _write(self, client_id: str, record: SessionRecord, ending: Ending | None, done: Done | None = None) -> None:
        holding = Holding(self._fleet.me, self._holding(client_id).born)
        expires_at = None if ending is None else ending.next
        value = pack(record, ending, holding)
        self._writer.write(KIND, client_id, value, done, expires_at=expires_at, conditional=True)

    def _holding(self, client_id: str) -> Holding:
        """That of a session that is known, or a new one's."""
        if client_id not in self._holdings:
            self._holdings[client_id] = Holding(self._fleet.me, secrets.token_hex(8))
        return self._holdings[client_id]

    async def _written(self, write: Callable[[Done], None]) -> None:
        """Begin a write, and wait until it is durable. Raises what it is told."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: MqliftError | None) -> None:
            if written.cancelled():
                return
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        write(done)
        await written
