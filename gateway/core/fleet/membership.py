"""The gateways that share a state store: who of them is alive, and what each has changed lately.

Each gateway has one record, which only it writes: a sign of life, with the list of what it has changed in the last
seconds. The others read all these records once a second, and then only what has changed. Who cannot tell any more what
it has missed reads everything again. Clocks of different machines are not compared.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Protocol

import orjson
import structlog

from gateway.core.store import Conflict, Record, StateStore, StoreError, every_record

log = structlog.get_logger("mqlift.fleet")

KIND: Final = "gateway"
VERSION: Final = 1

LOOK_SECONDS: Final = 0.8
"""Between two looks at the others: what one changes is in effect at all others within a second."""

BEAT_SECONDS: Final = 3.0
"""Between two signs of life of a gateway that has nothing to say."""

LEASE_SECONDS: Final = 15.0
"""After so long without a sign of life a gateway is taken for dead. Nothing waits for it but the end of sessions that
were connected there: their clients go on elsewhere at once."""

GRAVE_SECONDS: Final = 60.0
"""How long the record of a gateway that is gone stays, for those who were away."""

LOG_SECONDS: Final = 3.0
LOG_BYTES: Final = 64 * 1024
"""What a gateway's list of changes holds at most: DynamoDB bills each write by the size of the record."""

GATHER_BYTES: Final = 4 * 1024
GATHER_SECONDS: Final = 0.1
"""A list that is longer waits so long for more: ten writes of 64 KB a second are what one partition of DynamoDB takes
beside its other work (1,000 units a second).
"""

RESCAN_SECONDS: Final = 10.0
"""Between two times that everything is read, at least, when gateways change more than their lists can hold."""

REVISIT_SECONDS: Final = 300.0
"""Between two times that everything is read though nothing seems to be missed."""

ID_BYTES: Final = 8


class Follower(Protocol):
    """Brings what others have changed into this gateway."""

    @property
    def kinds(self) -> Collection[str]:
        """Of the records that it follows."""

    async def follow(self, changes: Mapping[str, Collection[str]]) -> None:
        """Keys by kind: these may have changed. Called once a second, also when there are none.

        Raises `StoreError`, and is asked again.
        """

    async def rescan(self) -> None:
        """Anything may have changed. Raises `StoreError`, and is asked again."""


class _Member:
    """Another gateway, as it was when it was last looked at."""

    __slots__ = ("gone", "gone_for", "read", "silent", "version")

    def __init__(self) -> None:
        self.version = 0
        self.read = 0
        """The number of the last of its changes that was followed."""
        self.silent = 0.0
        """Seconds that its record has not changed, of those in which this gateway was looking."""
        self.gone = False
        """It has said goodbye, or was taken for dead."""
        self.gone_for = 0.0


class _News:
    """What one look has found."""

    def __init__(self) -> None:
        self.changes: dict[str, dict[str, None]] = {}
        self.read: dict[str, int] = {}
        """How far the list of each gateway was read."""
        self.missed = False


class Fleet:
    """One gateway among the others. `clock` in seconds, any beginning."""

    def __init__(self, store: StateStore, clock: Callable[[], float]) -> None:
        self.me = _new_id()
        self.followers: list[Follower] = []
        self.fenced: Callable[[], None] | None = None
        """Told when the others have taken this gateway for dead: what it held is theirs."""
        self.missed_at = clock()
        """When announcements were missed last; at the beginning nothing is known of the others."""
        self._store = store
        self._clock = clock
        self._others: dict[str, _Member] = {}
        self._live = [self.me]
        self._version = 0
        self._log: deque[_Entry] = deque()
        self._log_bytes = 0
        self._last = 0
        """The number of the latest change that was noted; the first has 1."""
        self._written = 0
        self._doubts: dict[str, dict[str, None]] = {}
        self._beat_at = 0.0
        self._looked_at = clock()
        self._rescan_at = clock() + REVISIT_SECONDS
        self._rescan_from = float("-inf")
        self._look_once = _Together(self._look)
        self._write_once = _Together(self._write)

    # Who is there

    @property
    def size(self) -> int:
        """Gateways that are alive, this one among them."""
        return len(self._live)

    def is_live(self, gateway: str) -> bool:
        return gateway == self.me or (gateway in self._others and not self._others[gateway].gone)

    def is_mine(self, key: str) -> bool:
        """Whether this gateway is the one that does what one of them has to do. All who see the same agree."""
        return self._live[zlib.crc32(key.encode()) % len(self._live)] == self.me

    def _count_live(self) -> None:
        self._live = sorted([self.me, *(name for name, member in self._others.items() if not member.gone)])

    # Telling the others

    def note(self, kind: str, key: str) -> None:
        """The others are to look at a record, with the next sign of life at the latest."""
        self._last += 1
        entry = _Entry(kind, key, self._clock())
        self._log.append(entry)
        self._log_bytes += entry.size
        self._trim()

    def doubt(self, kind: str, key: str) -> None:
        """A write has failed, and may have taken effect: everybody is to look, this gateway too."""
        self.note(kind, key)
        self.recheck(kind, key)

    def recheck(self, kind: str, key: str) -> None:
        """Look at a record again: it is not what was known of it here."""
        self._doubts.setdefault(kind, {})[key] = None

    async def announce(self, kind: str, key: str) -> None:
        """As `note`, and wait until the others can know. Raises `StoreError`: then they will later, if at all."""
        self.note(kind, key)
        last = self._last
        while self._written < last:
            await self._write_once()

    def follows(self, kind: str) -> bool:
        """Whether the others want to know of changes to records of a kind."""
        return any(kind in follower.kinds for follower in self.followers)

    def _trim(self) -> None:
        oldest = self._clock() - LOG_SECONDS
        while self._log and (self._log_bytes > LOG_BYTES or self._log[0].at < oldest):
            self._log_bytes -= self._log.popleft().size

    async def _write(self) -> None:
        """Write this gateway's record. Raises `StoreError`."""
        if self._log_bytes > GATHER_BYTES:
            await asyncio.sleep(GATHER_SECONDS)
        self._trim()
        last = self._last
        value = self._pack()
        try:
            record = await self._store.put(KIND, self.me, value, expected=self._version)
        except Conflict:
            await self._find_out()
            return
        self._version = record.version
        self._written = last
        self._beat_at = self._clock() + BEAT_SECONDS

    def _pack(self, *, left: bool = False) -> bytes:
        entries = [[entry.kind, entry.key] for entry in self._log]
        return orjson.dumps({"v": VERSION, "last": self._last, "log": entries, "gone": left})

    async def _find_out(self) -> None:
        """Its record is not as it was: it wrote that in a call that seemed to fail, or others hold it for dead."""
        record = await self._store.get(KIND, self.me)
        if record is not None and not _unpack(record).gone:
            self._version = record.version
            return
        log.error("taken_for_dead", gateway=self.me)
        self._others[self.me] = former = _Member()
        former.read = self._last  # what it has changed is known here
        self.me = _new_id()  # its list does not begin with 1, so the others read everything
        self._version = 0
        self._count_live()
        self._rescan_from = float("-inf")
        self._rescan_at = self._clock()
        if self.fenced is not None:
            self.fenced()

    # Following the others

    async def join(self) -> None:
        """Be one of them, and see how far the others are; then read what is kept. Raises `StoreError`."""
        await self._write_once()
        news = await self._read()
        self._advance(news)

    async def catch_up(self) -> None:
        """Follow everything that was announced before this call. Raises `StoreError`."""
        await self._look_once()

    async def run(self) -> None:
        """Look, give signs of life, and see who is gone. Never ends."""
        failing = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look_once()
                if self._clock() >= self._beat_at or self._written < self._last:
                    await self._write_once()
                await self._bury()
            except StoreError as error:
                if not failing:
                    log.warning("fleet_out_of_touch", problem=str(error))
                failing = True
            else:
                failing = False

    async def leave(self) -> None:
        """Say goodbye: what was this gateway's is the others'. After `run` has ended. Raises `StoreError`."""
        await self._look_once.finish()
        await self._write_once.finish()
        self._trim()
        await self._store.put(KIND, self.me, self._pack(left=True))

    async def _look(self) -> None:
        doubts, self._doubts = self._doubts, {}
        try:
            news = await self._read()
            for kind, keys in doubts.items():
                news.changes.setdefault(kind, {}).update(keys)
            await self._follow(news)
        except StoreError:
            for kind, keys in doubts.items():
                self._doubts.setdefault(kind, {}).update(keys)
            raise

    async def _follow(self, news: _News) -> None:
        now = self._clock()
        if news.missed:
            self.missed_at = now
            self._rescan_at = min(self._rescan_at, max(now, self._rescan_from + RESCAN_SECONDS))
        if now >= self._rescan_at:
            for follower in self.followers:
                await follower.rescan()
            self._rescan_from, self._rescan_at = now, now + REVISIT_SECONDS
        # Also after that: some announcements have no record.
        for follower in self.followers:
            await follower.follow({kind: keys for kind, keys in news.changes.items() if kind in follower.kinds})
        self._advance(news)

    async def _read(self) -> _News:
        """See the records of the others. Nothing of what they have changed counts as followed yet."""
        news = _News()
        now = self._clock()
        # A gateway that was frozen, or had no store, must not blame the others for its own absence.
        elapsed = min(now - self._looked_at, 2 * LOOK_SECONDS)
        found = set()
        async for record in every_record(self._store, KIND):
            if record.key != self.me:
                found.add(record.key)
                self._see(record, news, elapsed)
        self._looked_at = now
        for name in self._others.keys() - found:
            news.missed = news.missed or not self._others[name].gone
            del self._others[name]
        self._count_live()
        return news

    def _see(self, record: Record, news: _News, elapsed: float) -> None:
        member = self._others.get(record.key)
        if member is None:
            member = self._others[record.key] = _Member()
            log.info("gateway_seen", gateway=record.key)
        member.silent = member.silent + elapsed if member.version == record.version else 0.0
        member.gone_for += elapsed if member.gone else 0.0
        member.version = record.version
        said = _unpack(record)
        if said.gone and not member.gone:
            log.info("gateway_gone", gateway=record.key)
            news.missed = True  # it may have written what it could not announce any more
            member.gone = True
        self._read_list(member, record.key, said, news)

    def _read_list(self, member: _Member, name: str, said: _Said, news: _News) -> None:
        first = said.last - len(said.entries) + 1
        news.missed = news.missed or first > member.read + 1
        for kind, key in said.entries[max(0, member.read + 1 - first) :]:
            news.changes.setdefault(kind, {})[key] = None
        news.read[name] = said.last

    def _advance(self, news: _News) -> None:
        for name, last in news.read.items():
            if name in self._others:
                self._others[name].read = last

    async def _bury(self) -> None:
        """Say of gateways that are silent that they are dead, and remove what has been gone for long."""
        for name, member in list(self._others.items()):
            try:
                if member.gone and member.gone_for >= GRAVE_SECONDS and self.is_mine(name):
                    await self._store.delete(KIND, name, expected=member.version)
                elif not member.gone and member.silent >= LEASE_SECONDS:
                    await self._declare_dead(name, member)
            except Conflict:
                log.debug("gateway_changed", gateway=name)  # another one was faster, or it is alive

    async def _declare_dead(self, name: str, member: _Member) -> None:
        """After this it can write its record no more, and so learns of it when it comes back."""
        record = await self._store.get(KIND, name)
        if record is not None and record.version == member.version:
            value = orjson.dumps({**orjson.loads(record.value), "gone": True})
            await self._store.put(KIND, name, value, expected=record.version)
            log.warning("gateway_taken_for_dead", gateway=name, silent=member.silent)


class _Entry:
    """One change of this gateway's list."""

    __slots__ = ("at", "key", "kind", "size")

    def __init__(self, kind: str, key: str, at: float) -> None:
        self.kind = kind
        self.key = key
        self.at = at
        self.size = len(kind) + len(key.encode()) + 8  # and what JSON puts around it


class _Said:
    """What the record of a gateway says."""

    __slots__ = ("entries", "gone", "last")

    def __init__(self, last: int, entries: list[tuple[str, str]], *, gone: bool) -> None:
        self.last = last
        self.entries = entries
        self.gone = gone


def _unpack(record: Record) -> _Said:
    """A record that cannot be read counts as one of a gateway that has left: its list is missed."""
    try:
        packed = orjson.loads(record.value)
        entries = [(str(kind), str(key)) for kind, key in packed["log"]]
        return _Said(int(packed["last"]), entries, gone=bool(packed["gone"]))
    except (KeyError, TypeError, ValueError) as error:
        log.error("gateway_unreadable", gateway=record.key, problem=str(error))  # noqa: TRY400 - told in one line
        return _Said(0, [], gone=True)


def _new_id() -> str:
    return secrets.token_hex(ID_BYTES)


class _Together:
    """One run at a time. Who asks while one is under way gets the next one, together with all others who do."""

    __slots__ = ("_current", "_next", "_run")

    def __init__(self, run: Callable[[], Awaitable[None]]) -> None:
        self._run = run
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Raises what the run raises. Who is cancelled does not end it."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._current))
            self._next.add_done_callback(_look_at)
        await asyncio.shield(self._next)

    async def finish(self) -> None:
        """Wait for what is under way, whatever comes of it."""
        while waiting := [task for task in (self._current, self._next) if task is not None and not task.done()]:
            await asyncio.wait(waiting)

    async def _after(self, current: asyncio.Task[None] | None) -> None:
        if current is not None:
            await asyncio.wait([current])
        self._current, self._next = self._next, None
        await self._run()


def _look_at(task: asyncio.Task[None]) -> None:
    """Whether or not anybody waits for it: who does is told."""
    if not task.cancelled():
        task.exception()
