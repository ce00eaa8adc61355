"""Kept sessions of several gateways with one store: one holder, one end, and nothing is written by who has lost it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.memory.store import MemoryStore
from gateway.core.commands import SessionRecord
from gateway.core.errors import MqliftError
from gateway.core.fleet.membership import LEASE_SECONDS, Fleet
from gateway.core.fleet.sessions import ADOPT_SECONDS, FleetSessions
from gateway.core.message import Address, Message
from gateway.core.sessions import INFLIGHT, KIND, REMOVED
from gateway.core.statewriter import StateWriter
from gateway.core.store import Conflict, StoreError
from tests.rig.clock import at_end, on_clock
from tests.rig.sharedstore import SharedStore

WILL = Message(Address("amq.topic", "last.words"), b"gone")
RECORD = SessionRecord(
    queue="mqtt-session-a-1", arguments={"x-fifo": True}, bindings=(("amq.topic", "a.#"),), expiry=600.0, state=b"state"
)


class Gateway:
    """What a gateway has of sessions; its clients say goodbye at once when their session is lost."""

    def __init__(self, common: MemoryStore) -> None:
        loop = asyncio.get_running_loop()
        self.store = SharedStore(common)
        self.fleet = Fleet(self.store, loop.time)
        self.writer = StateWriter(self.store, self.fleet)
        self.published: list[Message] = []
        self.removed: list[str] = []
        self.routed: dict[str, SessionRecord] = {}
        self.lost: list[str] = []
        self.will_of_the_lost: tuple[Message | None, float] = (None, 0.0)
        self.sessions = FleetSessions(
            self.store,
            self.writer,
            self.fleet,
            limit=10,
            publish=self.published.append,
            remove=self._remove,
            appeared=lambda record: self.routed.__setitem__(record.queue, record),
            vanished=lambda record: self.routed.pop(record.queue, None),
            lost=self._lose,
            wall=loop.time,
        )
        self.fleet.fenced = self.sessions.fenced
        self._tasks: list[asyncio.Task[None]] = []

    async def _remove(self, record: SessionRecord) -> None:
        self.removed.append(record.queue)

    def _lose(self, client_id: str) -> None:
        self.lost.append(client_id)
        will, delay = self.will_of_the_lost
        self.sessions.end(client_id, 600.0, will, delay)

    async def start(self) -> Gateway:
        await self.fleet.join()
        await self.sessions.restore()
        self.thaw()
        at_end(self.freeze)
        return self

    def thaw(self) -> None:
        self._tasks = [asyncio.ensure_future(self.fleet.run()), asyncio.ensure_future(self._sweep())]

    async def freeze(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def kill(self) -> None:
        self.store.fail()
        await self.freeze()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.sessions.sweep()

    async def keep(self, client_id: str = "a", record: SessionRecord = RECORD) -> None:
        await self._told(lambda done: self.sessions.keep(client_id, record, done))

    async def keep_inflight(self, inflight: bytes, client_id: str = "a") -> None:
        await self._told(lambda done: self.sessions.keep_inflight(client_id, inflight, done))

    async def _told(self, begin: object) -> None:
        told: asyncio.Future[MqliftError | None] = asyncio.get_running_loop().create_future()
        begin(told.set_result)  # type: ignore[operator]
        error = await told
        if error is not None:
            raise error

    async def connect(self, client_id: str = "a", *, clean: bool = False) -> SessionRecord | None:
        """As a client whose session is kept: what it had, or None."""
        await self.fleet.catch_up()
        record = await self.sessions.open(client_id, clean=clean)
        await self.keep(client_id, replace(RECORD if record is None else record, inflight=b""))
        return record


async def gateways(count: int = 2) -> list[Gateway]:
    common = MemoryStore()
    found = [await Gateway(common).start() for _ in range(count)]
    await asyncio.sleep(1.0)
    return found


@on_clock
async def test_a_client_goes_on_at_another_gateway() -> None:
    one, other = await gateways()
    assert await one.connect() is None
    await one.keep_inflight(b"packet ids")
    one.sessions.end("a", 600.0, None, 0.0)
    await asyncio.sleep(1.0)
    record = await other.connect()
    assert record is not None
    assert (record.queue, record.state, record.inflight) == (RECORD.queue, RECORD.state, b"packet ids")
    await asyncio.sleep(2_000)
    assert one.removed == other.removed == []


@on_clock
async def test_every_gateway_routes_to_every_session_within_a_second() -> None:
    one, other = await gateways()
    await one.connect()
    await asyncio.sleep(1.0)
    assert other.routed[RECORD.queue].bindings == RECORD.bindings
    await one.keep("a", replace(RECORD, bindings=(("amq.topic", "b"),)))
    await asyncio.sleep(1.0)
    assert other.routed[RECORD.queue].bindings == (("amq.topic", "b"),)
    later = await Gateway(one.store.common).start()
    assert later.routed[RECORD.queue].bindings == (("amq.topic", "b"),)
    one.sessions.end("a", 0.0, None, 0.0)
    await asyncio.sleep(1.0)
    assert other.routed == later.routed == {}
    assert one.removed == [RECORD.queue]


@on_clock
async def test_who_is_still_connected_loses_it_within_a_second_and_can_write_no_more() -> None:
    one, other = await gateways()
    await one.connect()
    await one.keep_inflight(b"1")
    record = await other.connect()
    assert record is not None
    assert record.inflight == b"1"
    with capture_logs():
        with pytest.raises(Conflict):
            await one.keep_inflight(b"2")
        with pytest.raises(Conflict):
            await one.keep("a", replace(RECORD, state=b"other"))
    await other.keep_inflight(b"3")
    await asyncio.sleep(1.0)
    assert one.lost == ["a"]
    assert other.lost == []
    with pytest.raises(Conflict):
        await one.keep_inflight(b"4")
    found = await one.store.get(INFLIGHT, "a")
    assert found is not None
    assert found.value == b"3"


@on_clock
async def test_what_is_being_kept_while_it_is_taken_is_kept_or_refused() -> None:
    one, other = await gateways()
    await one.connect()
    one.store.delay = lambda: 0.05
    other.store.delay = lambda: 0.01
    with capture_logs():
        keeping = asyncio.ensure_future(one.keep_inflight(b"late"))
        record = await other.connect()
        result = (await asyncio.gather(keeping, return_exceptions=True))[0]
    assert record is not None
    if result is None:
        assert record.inflight == b"late"
    else:
        assert isinstance(result, Conflict)
        assert record.inflight == b""


@on_clock
async def test_it_goes_back_and_forth() -> None:
    one, other = await gateways()
    await one.connect()
    for number in range(5):
        mine, its = (other, one) if number % 2 == 0 else (one, other)
        record = await mine.connect()
        assert record is not None
        await mine.keep_inflight(str(number).encode())
        await asyncio.sleep(1.0)
        assert its.lost[-1:] == ["a"]
    assert (len(one.lost), len(other.lost)) == (3, 2)


@on_clock
async def test_of_two_that_open_it_at_once_one_has_it() -> None:
    one, other = await gateways()
    await one.connect()
    one.sessions.end("a", 600.0, None, 0.0)
    await asyncio.sleep(1.0)
    for gateway in (one, other):
        gateway.store.delay = lambda: 0.01
    with capture_logs():
        await asyncio.gather(one.connect(), other.connect(), return_exceptions=True)
    await asyncio.sleep(2.0)
    assert len(one.lost) + len(other.lost) == 1
    holder = other if one.lost else one
    await holder.keep_inflight(b"mine")


@pytest.mark.parametrize(
    ("delay", "clean", "published"), [(0.0, False, 1), (30.0, False, 0), (0.0, True, 1), (30.0, True, 1)]
)
def test_the_will_of_who_lost_it(delay: float, clean: bool, published: int) -> None:
    @on_clock
    async def run() -> None:
        one, other = await gateways()
        await one.connect()
        one.will_of_the_lost = (WILL, delay)
        await other.connect(clean=clean)
        await asyncio.sleep(60.0)
        assert one.lost == ["a"]
        assert len(one.published) == published
        assert other.published == []

    run()


@on_clock
async def test_a_clean_start_elsewhere_forgets_it() -> None:
    one, other = await gateways()
    await one.connect()
    await one.keep_inflight(b"1")
    await other.fleet.catch_up()
    assert await other.sessions.open("a", clean=True) is None
    await asyncio.sleep(1.0)
    assert one.lost == ["a"]
    assert one.routed == other.routed == {}
    assert other.removed == [RECORD.queue]
    assert await other.sessions.open("a", clean=False) is None
    for kind in (KIND, INFLIGHT, REMOVED):
        assert not await one.store.common.scan(kind)


@on_clock
async def test_a_will_waits_where_its_gateway_is_and_is_called_off_by_who_comes_back_elsewhere() -> None:
    one, other = await gateways()
    await one.connect()
    one.sessions.end("a", 600.0, WILL, 10.0)
    await asyncio.sleep(5.0)
    await other.connect()
    await asyncio.sleep(20.0)
    assert one.published == other.published == []
    other.sessions.end("a", 600.0, WILL, 10.0)
    await asyncio.sleep(11.0)
    assert other.published == [WILL]
    assert one.published == []
    await other.connect()
    await asyncio.sleep(20.0)
    assert len(other.published) == 1


@on_clock
async def test_one_of_the_others_ends_what_a_dead_gateway_left() -> None:
    one, *others = await gateways(3)
    for number in range(9):
        client_id = f"c{number}"
        await one.sessions.open(client_id, clean=False)
        await one.keep(client_id, replace(RECORD, queue=f"q-{client_id}", expiry=60.0))
    one.sessions.end("c8", 30.0, WILL, 20.0)
    await asyncio.sleep(1.0)
    with capture_logs():
        await one.kill()
        await asyncio.sleep(LEASE_SECONDS + 30.0)
        assert sum(len(other.published) for other in others) == 1
        assert [queue for other in others for queue in other.removed] == ["q-c8"]
        await asyncio.sleep(60.0)
    removed = sorted(queue for other in others for queue in other.removed)
    assert removed == sorted(f"q-c{number}" for number in range(9))
    assert all(other.removed for other in others), "they share the work"
    assert not await others[0].store.common.scan(KIND)


@on_clock
async def test_the_wills_of_a_dead_gateway_s_clients_are_published_once() -> None:
    one, *others = await gateways(3)
    for number in range(4):
        await one.sessions.open(f"c{number}", clean=False)
        will, delay = (None, 0.0) if number == 3 else (WILL, 20.0 * number)
        await one.keep(f"c{number}", replace(RECORD, queue=f"q-{number}", will=will, will_delay=delay))
    await others[0].fleet.catch_up()
    await others[0].sessions.open("c2", clean=False)  # its client is back
    one.sessions.end("c1", 600.0, None, 0.0)  # and this one has said goodbye
    await one.writer.drain()
    with capture_logs():
        await one.kill()
        await asyncio.sleep(LEASE_SECONDS + ADOPT_SECONDS + 60.0)
    assert [will for other in others for will in other.published] == [WILL]


@on_clock
async def test_a_client_of_a_dead_gateway_goes_on_elsewhere_at_once() -> None:
    one, other = await gateways()
    await one.connect()
    await one.keep_inflight(b"1")
    await one.kill()
    record = await other.connect()
    assert record is not None
    assert record.inflight == b"1"
    with capture_logs():
        await asyncio.sleep(2_000)
    assert other.removed == []


@on_clock
async def test_a_gateway_that_was_frozen_damages_nothing() -> None:
    one, other = await gateways()
    await one.connect("a")
    await one.sessions.open("b", clean=False)
    await one.keep("b", replace(RECORD, queue="q-b"))
    await one.freeze()
    with capture_logs():
        await other.connect("a")
        await other.keep_inflight(b"new", "a")
        await asyncio.sleep(LEASE_SECONDS + ADOPT_SECONDS + 2.0)
        assert not other.fleet.is_live(one.fleet.me)
        one.sessions.end("a", 0.0, None, 0.0)  # what its sockets tell it first
        with pytest.raises(Conflict):
            await one.keep("b", RECORD)
        one.thaw()
        await asyncio.sleep(3.0)
    assert "b" in one.lost
    assert one.removed == []
    record = await one.connect()
    assert record is not None
    assert record.inflight == b"new"
    await asyncio.sleep(1.0)
    assert other.lost == ["a"]


@on_clock
async def test_a_gateway_that_starts_leaves_the_sessions_of_others_alone() -> None:
    one, _ = await gateways()
    await one.connect("a", clean=False)
    await one.keep("a", replace(RECORD, expiry=5.0))
    later = await Gateway(one.store.common).start()
    await asyncio.sleep(60.0)
    assert later.removed == one.removed == []


@on_clock
async def test_after_everything_was_down_what_was_connected_begins_to_expire() -> None:
    (one,) = await gateways(1)
    await one.connect("a")
    await one.keep("a", replace(RECORD, expiry=20.0))
    await one.kill()
    with capture_logs():
        later = await Gateway(one.store.common).start()
        await asyncio.sleep(LEASE_SECONDS + 10.0)
        assert later.removed == []
        await asyncio.sleep(20.0)
    assert later.removed == [RECORD.queue]


@on_clock
async def test_one_who_says_goodbye_leaves_its_sessions_to_the_others_at_once() -> None:
    one, other = await gateways()
    await one.connect()
    one.sessions.end("a", 5.0, WILL, 2.0)
    await one.writer.drain()
    await one.freeze()
    await one.fleet.leave()
    await asyncio.sleep(2.0 + ADOPT_SECONDS + 1.0)
    assert other.published == [WILL]
    await asyncio.sleep(ADOPT_SECONDS)
    assert other.removed == [RECORD.queue]


@on_clock
async def test_a_session_whose_opening_was_broken_off_ends_in_its_time() -> None:
    one, other = await gateways()
    await one.connect()
    await one.keep("a", replace(RECORD, expiry=20.0))
    one.sessions.end("a", 20.0, None, 0.0)
    await asyncio.sleep(1.0)
    other.store.delay = lambda: 0.05
    opening = asyncio.ensure_future(other.sessions.open("a", clean=False))
    await asyncio.sleep(0.15)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    await asyncio.sleep(40.0)
    assert one.removed + other.removed == [RECORD.queue]


@on_clock
async def test_what_could_not_be_cleared_away_is_cleared_away_later() -> None:
    one, other = await gateways()
    await one.connect()
    await one.keep_inflight(b"1")
    calls = 0

    def fail_once_begun() -> None:
        nonlocal calls
        if one.store.calls[-1] == ("put", REMOVED):
            calls += 1
            raise StoreError("out of reach")

    one.store.before = fail_once_begun
    with capture_logs():
        one.sessions.end("a", 0.0, None, 0.0)
        await asyncio.sleep(1.0)
        assert await other.sessions.open("b", clean=False) is None
        one.store.heal()
        await asyncio.sleep(2 * ADOPT_SECONDS)
    assert calls
    assert one.removed == [RECORD.queue]
    assert not await one.store.common.scan(KIND)
    assert not await one.store.common.scan(INFLIGHT)


@on_clock
async def test_an_ending_that_could_not_be_written_is_written_when_the_store_is_back() -> None:
    one, other = await gateways()
    await one.connect()
    one.store.fail()
    with capture_logs():
        one.sessions.end("a", 60.0, WILL, 10.0)
        await asyncio.sleep(5.0)
        one.store.heal()
        await asyncio.sleep(2.0)
        await one.kill()
        await asyncio.sleep(LEASE_SECONDS + 2 * ADOPT_SECONDS)
    assert other.published == [WILL]
    await asyncio.sleep(60.0)
    assert other.removed == [RECORD.queue]


@on_clock
async def test_a_limit_counts_those_of_all() -> None:
    one, other = await gateways()
    for number in range(10):
        await one.sessions.open(str(number), clean=False)
        await one.keep(str(number), replace(RECORD, queue=str(number)))
    await asyncio.sleep(1.0)
    await other.sessions.open("more", clean=False)
    with pytest.raises(MqliftError, match="limit"):
        await other.keep("more")


# Clients that wander


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["connect", "connect", "clean", "inflight", "inflight", "leave", "end"]),
            st.sampled_from([0.0, 0.01, 0.05, 1.0, 3.0]),
        ),
        max_size=25,
    ),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.0, 0.15]),
)
def test_a_session_has_one_holder_and_what_it_was_told_is_kept(
    plan: list[tuple[int, str, float]], seed: int, failing: float
) -> None:
    on_clock(wander)(plan, random.Random(seed), failing)


class Wanderer:
    """A client's connections to one gateway, one after the other."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._connected = False
        self._alone = asyncio.Lock()

    async def do(self, what: str) -> None:
        try:
            if what == "inflight":
                if self._connected:
                    await self.gateway.keep_inflight(what.encode())
                return
            async with self._alone:
                if self._connected:  # the old connection is taken over, or ends
                    self._close(0.0 if what == "end" else 600.0)
                if what in ("connect", "clean"):
                    await self.gateway.connect(clean=what == "clean")
                    self._connected = True
        except MqliftError:  # a connection that cannot keep its session is closed
            self._close(600.0)

    def _close(self, expiry: float) -> None:
        self._connected = False
        self.gateway.sessions.end("a", expiry, None, 0.0)


async def wander(plan: list[tuple[int, str, float]], chance: random.Random, failing: float) -> None:
    fleet = await gateways(3)

    def fail() -> None:
        if chance.random() < failing:
            raise StoreError("out of reach")

    for gateway in fleet:
        gateway.store.before = gateway.store.after = fail
        gateway.store.delay = lambda: chance.random() / 20
    wanderers = [Wanderer(gateway) for gateway in fleet]
    with capture_logs():
        tasks = []
        for number, what, pause in plan:
            await asyncio.sleep(pause)
            tasks.append(asyncio.ensure_future(wanderers[number].do(what)))
        await asyncio.gather(*tasks)
        for gateway in fleet:
            gateway.store.heal()
        await asyncio.sleep(30.0)
        await check(fleet)


async def check(fleet: list[Gateway]) -> None:
    holders = [gateway for gateway in fleet if "a" in gateway.sessions._held and gateway.sessions.is_kept("a")]
    assert len(holders) <= 1
    for gateway in fleet:
        assert gateway.sessions.is_kept("a") == fleet[0].sessions.is_kept("a")
        assert gateway.sessions._endings.keys() == fleet[0].sessions._endings.keys()
    for holder in holders:
        await holder.keep_inflight(b"last")
    if fleet[0].sessions.is_kept("a"):
        record = await fleet[0].sessions.open("a", clean=False)
        assert record is not None
        assert not holders or record.inflight == b"last"
