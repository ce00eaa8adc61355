"""Who reads which shard of a stream for a consumer of one name, and how far it has come: kept in the state store.

A shard's record is both a lease and a checkpoint: whoever has lost the lease cannot move the checkpoint any more, as it
writes on the condition that nobody else has. Clocks of different machines are not compared: a lease is over when its
record has not been written for a while, by the clock of who looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import orjson
import structlog

from gateway.core.store import Conflict, Record, StateStore, every_record
from gateway.core.streams.offset import Start, parse_offset, parse_position, position_text
from gateway.core.streams.port import END, NEXT, Position, Whence

log = structlog.get_logger("mqlift.stream")

KIND: Final = "stream"

LEASE_SECONDS: Final = 6.0
"""After so long without a word from its owner a shard is taken over: a crash costs no more than that."""

RENEW_SECONDS: Final = LEASE_SECONDS / 3
"""Between two words of an owner."""

_ENDED: Final = position_text(END)


class Lease:
    """One shard of the group. `at`: where the next owner goes on, as a part of offsets; `seen_at`: when it changed."""

    __slots__ = ("at", "owner", "seen_at", "shard", "version")

    def __init__(self, shard: str, owner: str, at: str, version: int, seen_at: float) -> None:
        self.shard = shard
        self.owner = owner
        self.at = at
        self.version = version
        self.seen_at = seen_at

    @property
    def ended(self) -> bool:
        """Whether the shard is closed, and everything in it was acknowledged."""
        return self.at == _ENDED


class Leases:
    """The records of one group of consumers: those of one name, of one stream. `clock` in seconds, any beginning."""

    def __init__(self, store: StateStore, stream: str, name: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._stream = stream
        self._name = name
        self._clock = clock
        self._prefix = orjson.dumps([stream, name]).decode()[:-1] + ","
        self._leases: dict[str, Lease] = {}

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))  # they come and go meanwhile

    def get(self, shard: str) -> Lease | None:
        return self._leases.get(shard)

    def over(self, lease: Lease) -> bool:
        """Whether anybody may take it."""
        return not lease.owner or self._clock() - lease.seen_at > LEASE_SECONDS

    async def found(self, start: Start, now: float) -> Start:
        """Where the group began: here and now, if it did not before. `now`: seconds since 1970. Raises `StoreError`."""
        key = self._key("")
        value = _pack_start(start, now)
        try:
            await self._store.put(KIND, key, value, expected=0)
        except Conflict:
            record = await self._store.get(KIND, key)
            value = value if record is None else record.value
        return _unpack_start(value)

    async def look(self) -> None:
        """See what others have written. Raises `StoreError`."""
        found: dict[str, Lease] = {}
        async for record in every_record(self._store, KIND, self._prefix):
            self._see(record, found)
        self._leases = found

    def _see(self, record: Record, found: dict[str, Lease]) -> None:
        try:
            _, _, shard = orjson.loads(record.key)
            if not shard:
                return
            owner, at = _unpack(record.value)
        except (KeyError, TypeError, ValueError) as error:
            log.error("lease_unreadable", stream=self._stream, problem=str(error))  # noqa: TRY400
            return
        known = self._leases.get(shard)
        if known is not None and known.version == record.version:
            found[shard] = known
            return
        found[shard] = Lease(shard, owner, at, record.version, self._clock())

    async def make(self, shard: str, at: str) -> None:
        """Have a record for a shard, nobody's yet; one that is there stays. Raises `StoreError`."""
        try:
            record = await self._store.put(KIND, self._key(shard), _pack("", at), expected=0)
        except Conflict:
            return  # somebody else was faster: the next look shows it
        self._leases[shard] = Lease(shard, "", at, record.version, self._clock())

    async def write(self, lease: Lease, owner: str, at: str, *, holds: bool = False) -> bool:
        """Take, renew, move or give back a lease; False when somebody else has written it. Raises `StoreError`.

        `holds`: the lease is the caller's. Of a write whose answer he did not get he does not know the version.
        """
        key, value = self._key(lease.shard), _pack(owner, at)
        try:
            record = await self._store.put(KIND, key, value, expected=lease.version)
        except Conflict:
            version = await self._own_version(lease) if holds else None
            if version is None:
                return False
            lease.version = version
            return await self.write(lease, owner, at)
        lease.owner, lease.at, lease.version, lease.seen_at = owner, at, record.version, self._clock()
        return True

    async def _own_version(self, lease: Lease) -> int | None:
        """The version of a lease whose last word is its holder's own."""
        record = await self._store.get(KIND, self._key(lease.shard))
        return record.version if record is not None and _unpack(record.value)[0] == lease.owner else None

    async def forget(self, lease: Lease) -> None:
        """The shard is gone. Raises `StoreError`."""
        self._leases.pop(lease.shard, None)
        try:
            await self._store.delete(KIND, self._key(lease.shard), expected=lease.version)
        except Conflict:
            log.debug("lease_changed", stream=self._stream, shard=lease.shard)  # somebody else cares for it

    def _key(self, shard: str) -> str:
        return orjson.dumps([self._stream, self._name, shard]).decode()


async def forget_stream(store: StateStore, stream: str) -> None:
    """Remove all records of a stream: in one that is made anew they would mean nothing. Raises `StoreError`."""
    prefix = orjson.dumps([stream]).decode()[:-1] + ","
    async for record in every_record(store, KIND, prefix):
        await store.delete(KIND, record.key)


def share(leases: Iterable[Lease], me: str, over: Callable[[Lease], bool]) -> list[Lease]:
    """The leases to take now, so that each consumer of the group has as many as the others, or one more.

    What is free (`over`) is taken first; then, one by one, from who has at least two more.
    """
    held: dict[str, list[Lease]] = {me: []}
    free = []
    for lease in leases:
        if lease.ended:
            continue
        if over(lease):
            free.append(lease)
        else:
            held.setdefault(lease.owner, []).append(lease)
    mine = len(held.pop(me))
    total = mine + len(free) + sum(map(len, held.values()))
    taken = free[: max(0, -(-total // (len(held) + 1)) - mine)]
    while held:
        most = max(held.values(), key=len)
        if len(most) < mine + len(taken) + 2:
            break
        taken.append(most.pop())
    return taken


def _pack(owner: str, at: str) -> bytes:
    return orjson.dumps({"owner": owner, "at": at})


def _unpack(value: bytes) -> tuple[str, str]:
    packed = orjson.loads(value)
    return str(packed["owner"]), str(packed["at"])


def _pack_start(start: Start, now: float) -> bytes:
    """What is written from now on is a time to those who come later."""
    default = Position(Whence.TIME, time=now) if start.default is NEXT else start.default
    positions = ",".join(f"{shard}@{position_text(position)}" for shard, position in start.positions.items())
    return orjson.dumps({"default": position_text(default), "at": positions})


def _unpack_start(value: bytes) -> Start:
    packed = orjson.loads(value)
    at = packed["at"]
    return Start(parse_position(packed["default"]), parse_offset(at) if at else {})
