"""Sessions that outlive their connections: kept in the state store, ended when their time is over, with their wills."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import orjson
import structlog

from gateway.core.errors import Refused
from gateway.core.message import Message
from gateway.core.packing import MetaUnreadable, pack_message, unpack_message
from gateway.core.session import SessionRecord
from gateway.core.statewriter import Done, StateWriter
from gateway.core.store import StateStore

log = structlog.get_logger("mqlift.sessions")

KIND: Final = "session"
INFLIGHT: Final = "session.inflight"
VERSION: Final = 1
PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What happens to a session without a connection, and when: seconds since 1970-01-01 UTC."""

    ends_at: float
    will: Message | None = None
    will_at: float = math.inf

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
    ) -> None:
        self._store = store
        self._writer = writer
        self._limit = limit
        self._publish = publish
        self._remove = remove
        self._kept: dict[str, SessionRecord] = {}
        self._endings: dict[str, Ending] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def restore(self) -> list[SessionRecord]:
        """Read what the store has; sessions that were connected when the gateway ended begin to expire now."""
        after = ""
        while True:
            records = await self._store.scan(KIND, after=after, limit=PAGE)
            for record in records:
                try:
                    kept, ending = unpack(record.value)
                except MetaUnreadable as error:
                    log.error("session_unreadable", client_id=record.key, problem=str(error))  # noqa: TRY400
                    continue
                self._kept[record.key] = kept
                if ending is None:
                    self._end_later(record.key, kept, Ending(ends_at=time.time() + kept.expiry))
                else:
                    self._endings[record.key] = ending
            if len(records) < PAGE:
                return list(self._kept.values())
            after = records[-1].key

    async def open(self, client_id: str, *, clean: bool) -> SessionRecord | None:
        """Go on with a session, or forget it. Raises `StoreError`, and `BackendError` when its queue cannot be removed."""
        lock = self._opening.setdefault(client_id, asyncio.Lock())
        try:
            async with lock:
                return await self._open(client_id, clean)
        finally:
            if not lock.locked():
                self._opening.pop(client_id, None)

    async def _open(self, client_id: str, clean: bool) -> SessionRecord | None:
        ending = self._endings.pop(client_id, None)
        kept = self._kept.get(client_id)
        now = time.time()
        if ending is not None and ending.will is not None and (clean or ending.will_at <= now):
            self._publish(ending.will)  # a new session ends the old one, and that is when its will is due
        if kept is None:
            return None
        if clean or (ending is not None and ending.ends_at <= now):
            await self._forget(client_id)
            return None
        await self._writer.settled(INFLIGHT, client_id)
        inflight = await self._store.get(INFLIGHT, client_id)
        self._write(client_id, kept, None, _ignore)
        return replace(kept, inflight=inflight.value if inflight is not None else b"")

    def keep(self, client_id: str, record: SessionRecord, done: Done) -> None:
        """Keep a connected session as it is now; `done` when it is durable."""
        if client_id not in self._kept and len(self._kept) >= self._limit:
            done(Refused(f"{self._limit} sessions are kept, the limit of this gateway"))
            return
        self._kept[client_id] = record
        self._write(client_id, record, None, done)

    def keep_inflight(self, client_id: str, inflight: bytes, done: Done) -> None:
        """Keep the part that changes with messages; `done` when it, or a later one, is durable."""
        self._writer.write(INFLIGHT, client_id, inflight, done)

    async def end(self, client_id: str, expiry: float, will: Message | None, will_delay: float) -> None:
        """The session has no connection any more. Raises like `open`."""
        if expiry <= 0:
            if will is not None:
                self._publish(will)
            if client_id in self._kept:
                await self._forget(client_id)
            return
        now = time.time()
        record = self._kept.get(client_id)
        if record is None and len(self._kept) >= self._limit:
            if will is not None:
                self._publish(will)
            return
        record = self._kept[client_id] = replace(record or SessionRecord(), expiry=expiry)
        self._end_later(client_id, record, Ending(ends_at=now + expiry, will=will, will_at=now + will_delay))

    async def sweep(self) -> None:
        """Publish the wills and end the sessions whose time has come."""
        now = time.time()
        for client_id, ending in list(self._endings.items()):
            due = ending.next
            if due is not None and due <= now and self._endings.get(client_id) is ending:
                await self._end(client_id, ending, now)

    async def _end(self, client_id: str, ending: Ending, now: float) -> None:
        if ending.will is not None:
            self._publish(ending.will)
        if ending.ends_at <= now:
            del self._endings[client_id]
            await self._forget(client_id)
            log.info("session_expired", client_id=client_id)
        else:
            self._end_later(client_id, self._kept[client_id], replace(ending, will=None))

    def _end_later(self, client_id: str, record: SessionRecord, ending: Ending) -> None:
        self._endings[client_id] = ending
        self._write(client_id, record, ending, _ignore)

    async def _forget(self, client_id: str) -> None:
        record = self._kept.pop(client_id)
        self._writer.write(KIND, client_id, None, _ignore)
        self._writer.write(INFLIGHT, client_id, None, _ignore)
        await self._remove(record)

    def _write(self, client_id: str, record: SessionRecord, ending: Ending | None, done: Done) -> None:
        expires_at = None if ending is None else ending.next
        self._writer.write(KIND, client_id, pack(record, ending), done, expires_at=expires_at)


def _ignore(_: object) -> None:
    """Nobody waits; the writer has logged a failure."""


def pack(record: SessionRecord, ending: Ending | None) -> bytes:
    """A session as the store keeps it; `inflight` is a record of its own."""
    packed: dict[str, object] = {
        "v": VERSION,
        "queue": record.queue,
        "bindings": record.bindings,
        "shared": record.shared,
        "expiry": _seconds(record.expiry),
        "state": base64.b64encode(record.state).decode(),
    }
    if ending is not None:
        packed["ends_at"] = _seconds(ending.ends_at)
        if ending.will is not None:
            packed["will"] = base64.b64encode(pack_message(ending.will)).decode()
            packed["will_at"] = ending.will_at
    return orjson.dumps(packed)


def unpack(value: bytes) -> tuple[SessionRecord, Ending | None]:
    """The reverse of `pack`. Raises `MetaUnreadable`."""
    try:
        packed = orjson.loads(value)
        if packed["v"] != VERSION:
            raise MetaUnreadable(f"a session of version {packed['v']!r:.20}, known is {VERSION}")
        record = SessionRecord(
            queue=packed["queue"],
            bindings=tuple((exchange, pattern) for exchange, pattern in packed["bindings"]),
            shared=tuple(packed["shared"]),
            expiry=_unlimited(packed["expiry"]),
            state=base64.b64decode(packed["state"]),
        )
        if "ends_at" not in packed:
            return record, None
        will = unpack_message(base64.b64decode(packed["will"])) if "will" in packed else None
        ending = Ending(ends_at=_unlimited(packed["ends_at"]), will=will, will_at=packed.get("will_at", math.inf))
    except (KeyError, TypeError, ValueError) as error:
        raise MetaUnreadable(f"not a session: {error}") from None
    return record, ending


def _seconds(value: float) -> float | None:
    return None if value == math.inf else value


def _unlimited(value: float | None) -> float:
    return math.inf if value is None else value
