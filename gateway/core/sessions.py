"""Sessions that outlive their connections: kept in the state store, ended when their time is over, with their wills."""

from __future__ import annotations

import asyncio
import base64
import heapq
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import orjson
import structlog

from gateway.core.commands import SessionRecord
from gateway.core.errors import BackendError, Refused
from gateway.core.message import Message
from gateway.core.packing import MetaUnreadable, pack_message, unpack_message
from gateway.core.statewriter import Done, StateWriter
from gateway.core.store import StateStore, StoreError, every_record

log = structlog.get_logger("mqlift.sessions")

KIND: Final = "session"
INFLIGHT: Final = "session.inflight"
REMOVED: Final = "session.removed"
"""Sessions whose queues are still to be deleted in AWS, by the queue's name."""
VERSION: Final = 1
SPARE: Final = 1_000
"""Entries of the queue of endings that may be out of date, beyond one for each session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What happens to a session without a connection, and when: seconds since 1970-01-01 UTC."""

    ends_at: float
    will: Message | None = None
    will_at: float = math.inf

    @classmethod
    def of_lost(cls, record: SessionRecord, now: float) -> Ending:
        """That of a session whose gateway has ended, and has not said anything of it."""
        return cls(ends_at=now + record.expiry, will=record.will, will_at=now + record.will_delay)

    @property
    def next(self) -> float | None:
        """When something has to be done; None for never."""
        due = min(self.ends_at, self.will_at if self.will is not None else math.inf)
        return None if due == math.inf else due


class Sessions:
    """Every kept session of the store. `publish` sends a will; `remove` deletes what a session leaves behind in AWS."""

    def __init__(
        self,
        store: StateStore,
        writer: StateWriter,
        *,
        limit: int,
        publish: Callable[[Message], None],
        remove: Callable[[SessionRecord], Awaitable[None]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._writer = writer
        self.limit = limit
        self._publish = publish
        self._remove = remove
        self._wall = wall
        self._kept: dict[str, SessionRecord] = {}
        self._endings: dict[str, Ending] = {}
        self._due: list[tuple[float, str]] = []
        self._removals: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def restore(self) -> list[SessionRecord]:
        """Read what the store has; sessions that were connected when the gateway ended begin to expire now."""
        async for record in every_record(self._store, KIND):
            try:
                kept, ending, _ = unpack(record.value)
            except MetaUnreadable as error:
                log.error("session_unreadable", client_id=record.key, problem=str(error))  # noqa: TRY400
                continue
            self._kept[record.key] = kept
            self._end_later(record.key, kept, ending or Ending.of_lost(kept, self._wall()))
        return list(self._kept.values())

    def in_use(self) -> set[str]:
        """The shared queues that kept sessions take part in."""
        return {queue for record in self._kept.values() for queue in record.shared}

    def user(self, client_id: str) -> str:
        """Who a kept session belongs to; empty for nobody in particular."""
        kept = self._kept.get(client_id)
        return "" if kept is None else kept.user

    async def open(self, client_id: str, *, clean: bool, user: str = "") -> SessionRecord | None:
        """Go on with a session, which is `user`'s from now on, or forget it. Raises `StoreError`."""
        ending = self._endings.pop(client_id, None)
        kept = self._kept.get(client_id)
        now = self._wall()
        over = clean or (ending is not None and ending.ends_at <= now)
        if ending is not None and ending.will is not None and (over or ending.will_at <= now):
            self._publish(ending.will)  # a session's end is when its will is due, at the latest
        if kept is None:
            return None
        if over:
            self._forget(client_id)
            return None
        kept = self._kept[client_id] = replace(kept, user=user or kept.user, will=None)
        self._write(client_id, kept, None)
        try:
            await self._writer.settled(INFLIGHT, client_id)
            inflight = await self._store.get(INFLIGHT, client_id)
        except (StoreError, asyncio.CancelledError):
            self._end_later(client_id, kept, ending or Ending(ends_at=now + kept.expiry))  # it is nobody's again
            raise
        return replace(kept, inflight=inflight.value if inflight is not None else b"")

    def keep(self, client_id: str, record: SessionRecord, done: Done) -> None:
        """Keep a connected session as it is now; `done` when it is durable."""
        if client_id not in self._kept and len(self._kept) >= self.limit:
            done(Refused(f"{self.limit} sessions are kept, the limit of this gateway"))
            return
        self._kept[client_id] = record
        self._write(client_id, record, None, done)

    def keep_inflight(self, client_id: str, inflight: bytes, done: Done) -> None:
        """Keep the part that changes with messages; `done` when it, or a later one, is durable."""
        self._writer.write(INFLIGHT, client_id, inflight, done)

    def end(self, client_id: str, expiry: float, will: Message | None, will_delay: float) -> None:
        """The session has no connection any more."""
        if expiry <= 0:
            if will is not None:
                self._publish(will)
            if client_id in self._kept:
                self._forget(client_id)
            return
        now = self._wall()
        record = self._kept.get(client_id)
        if record is None and len(self._kept) >= self.limit:
            if will is not None:
                self._publish(will)
            return
        record = self._kept[client_id] = replace(record or SessionRecord(), expiry=expiry, will=None)
        self._end_later(client_id, record, Ending(ends_at=now + expiry, will=will, will_at=now + will_delay))

    def sweep(self) -> None:
        """Publish the wills and end the sessions whose time has come."""
        now = self._wall()
        while self._due and self._due[0][0] <= now:
            _, client_id = heapq.heappop(self._due)
            ending = self._endings.get(client_id)
            if ending is not None and ending.next is not None and ending.next <= now:
                self._end(client_id, ending, now)

    def released(self, client_id: str) -> None:
        """The connection that had a client id is gone; the end of its session may still be told."""

    def abandon(self, client_id: str) -> None:
        """Nobody was given the session that was just opened."""

    async def retry_removals(self) -> None:
        """Delete what could not be deleted before. Raises `StoreError`."""
        for record in await self._store.scan(REMOVED):
            if record.key not in self._removals:
                self._remove_soon(unpack(record.value).record)

    async def aclose(self) -> None:
        """Leave the removals under way to the next gateway."""
        for task in list(self._removals.values()):
            task.cancel()
        await asyncio.gather(*self._removals.values(), return_exceptions=True)

    def _end(self, client_id: str, ending: Ending, now: float) -> None:
        if ending.will is not None:
            self._publish(ending.will)
        if ending.ends_at <= now:
            del self._endings[client_id]
            self._forget(client_id)
            log.info("session_expired", client_id=client_id)
        else:
            self._end_later(client_id, self._kept[client_id], replace(ending, will=None))

    def _end_later(self, client_id: str, record: SessionRecord, ending: Ending) -> None:
        self._expect(client_id, ending)
        self._write(client_id, record, ending)

    def _expect(self, client_id: str, ending: Ending) -> None:
        """Look at a session when its ending is due."""
        self._endings[client_id] = ending
        if ending.next is not None:
            if len(self._due) > 2 * len(self._endings) + SPARE:
                # Sessions that came back left entries behind.
                self._due = [(each.next, key) for key, each in self._endings.items() if each.next is not None]
                heapq.heapify(self._due)
            else:
                heapq.heappush(self._due, (ending.next, client_id))

    def _forget(self, client_id: str) -> None:
        record = self._kept.pop(client_id)
        if record.queue:
            self._writer.write(REMOVED, record.queue, pack(record, None))
            self._remove_soon(record)
        self._writer.write(KIND, client_id, None)
        self._writer.write(INFLIGHT, client_id, None)

    def _remove_soon(self, record: SessionRecord) -> None:
        task = asyncio.get_running_loop().create_task(self._remove_now(record))
        self._removals[record.queue] = task
        task.add_done_callback(lambda _: self._removals.pop(record.queue, None))

    async def _remove_now(self, record: SessionRecord) -> None:
        try:
            await self._remove(record)
        except BackendError as error:
            log.warning("queue_not_removed", queue=record.queue, problem=str(error))  # and tried again by and by
        else:
            self._writer.write(REMOVED, record.queue, None)

    def _write(self, client_id: str, record: SessionRecord, ending: Ending | None, done: Done | None = None) -> None:
        expires_at = None if ending is None else ending.next
        self._writer.write(KIND, client_id, pack(record, ending), done, expires_at=expires_at)


class Holding(NamedTuple):
    """Whose a session is, where several gateways share a store. Empty: it was not shared when it was written."""

    gateway: str = ""
    """Where its client is connected, or was last."""
    born: str = ""
    """Tells a session from later ones of the same client."""


class Kept(NamedTuple):
    """What a session's record says."""

    record: SessionRecord
    ending: Ending | None
    holding: Holding


def pack(record: SessionRecord, ending: Ending | None, holding: Holding | None = None) -> bytes:
    """A session as the store keeps it; `inflight` is a record of its own."""
    packed: dict[str, object] = {
        "v": VERSION,
        "queue": record.queue,
        "arguments": record.arguments,
        "bindings": record.bindings,
        "shared": record.shared,
        "expiry": _seconds(record.expiry),
        "user": record.user,
        "state": base64.b64encode(record.state).decode(),
    }
    if holding is not None:
        packed["gateway"], packed["born"] = holding
    if ending is None and record.will is not None:
        packed["will"] = base64.b64encode(pack_message(record.will)).decode()
        packed["will_delay"] = record.will_delay
    if ending is not None:
        packed["ends_at"] = _seconds(ending.ends_at)
        if ending.will is not None:
            packed["will"] = base64.b64encode(pack_message(ending.will)).decode()
            packed["will_at"] = ending.will_at
    return orjson.dumps(packed)


def unpack(value: bytes) -> Kept:
    """The reverse of `pack`. Raises `MetaUnreadable`."""
    try:
        packed = orjson.loads(value)
        if packed["v"] != VERSION:
            raise MetaUnreadable(f"a session of version {packed['v']!r:.20}, known is {VERSION}")
        record = SessionRecord(
            queue=packed["queue"],
            arguments=packed["arguments"],
            bindings=tuple((exchange, pattern) for exchange, pattern in packed["bindings"]),
            shared=tuple(packed["shared"]),
            expiry=_unlimited(packed["expiry"]),
            user=packed.get("user", ""),  # those of earlier versions have none
            state=base64.b64decode(packed["state"]),
        )
        holding = Holding(str(packed.get("gateway", "")), str(packed.get("born", "")))
        will = unpack_message(base64.b64decode(packed["will"])) if "will" in packed else None
        if "ends_at" not in packed:
            return Kept(replace(record, will=will, will_delay=packed.get("will_delay", 0.0)), None, holding)
        ending = Ending(ends_at=_unlimited(packed["ends_at"]), will=will, will_at=packed.get("will_at", math.inf))
    except (KeyError, TypeError, ValueError) as error:
        raise MetaUnreadable(f"not a session: {error}") from None
    return Kept(record, ending, holding)


def _seconds(value: float) -> float | None:
    return None if value == math.inf else value


def _unlimited(value: float | None) -> float:
    return math.inf if value is None else value
