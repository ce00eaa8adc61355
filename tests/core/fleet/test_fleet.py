"""Gateways that share a store: they see each other, what each changes, and who is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import pytest
from structlog.testing import capture_logs

from adapters.memory.store import MemoryStore
from gateway.core.fleet.membership import (
    BEAT_SECONDS,
    GRAVE_SECONDS,
    KIND,
    LEASE_SECONDS,
    LOG_BYTES,
    LOG_SECONDS,
    LOOK_SECONDS,
    RESCAN_SECONDS,
    REVISIT_SECONDS,
    Fleet,
)
from gateway.core.store import StoreError
from tests.rig.clock import at_end, on_clock, until
from tests.rig.sharedstore import SharedStore


class Follower:
    kinds = ("thing",)

    def __init__(self) -> None:
        self.followed: list[str] = []
        self.rescans = 0
        self.error: StoreError | None = None

    async def follow(self, changes: Mapping[str, Collection[str]]) -> None:
        self._check()
        assert set(changes) <= {"thing"}
        self.followed += changes.get("thing", ())

    async def rescan(self) -> None:
        self._check()
        self.rescans += 1

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


class Gateway:
    def __init__(self, common: MemoryStore) -> None:
        self.store = SharedStore(common)
        self.fleet = Fleet(self.store, asyncio.get_running_loop().time)
        self.seen = Follower()
        self.fleet.followers = [self.seen]
        self.fenced = 0
        self.fleet.fenced = self._fenced
        self.task: asyncio.Task[None] | None = None

    def _fenced(self) -> None:
        self.fenced += 1

    async def start(self) -> Gateway:
        await self.fleet.join()
        self.run()
        at_end(self.stop)
        return self

    def run(self) -> None:
        self.task = asyncio.ensure_future(self.fleet.run())

    async def stop(self) -> None:
        """As `kill -9`."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])


async def gateways(count: int = 2) -> list[Gateway]:
    common = MemoryStore()
    found = [await Gateway(common).start() for _ in range(count)]
    await asyncio.sleep(2 * LOOK_SECONDS)
    for gateway in found:
        gateway.seen.rescans = 0
    return found


@on_clock
async def test_a_change_is_known_within_a_second_and_once() -> None:
    one, other = await gateways()
    await one.fleet.announce("thing", "a")
    await one.fleet.announce("thing", "b")
    await one.fleet.announce("else", "c")
    await asyncio.sleep(1.0)
    assert other.seen.followed == ["a", "b"]
    assert one.seen.followed == []
    await asyncio.sleep(20)
    assert other.seen.followed == ["a", "b"]
    assert other.seen.rescans == 0


@on_clock
async def test_many_changes_at_once_are_one_write_after_the_one_under_way() -> None:
    one, other = await gateways()
    one.store.calls.clear()
    await asyncio.gather(*(one.fleet.announce("thing", str(number)) for number in range(100)))
    assert one.store.calls.count(("put", KIND)) <= 2
    await other.fleet.catch_up()
    assert other.seen.followed == [str(number) for number in range(100)]


@on_clock
async def test_who_asks_while_a_look_is_under_way_gets_the_next_one() -> None:
    one, other = await gateways()
    other.store.delay = lambda: 0.05
    looking = asyncio.ensure_future(other.fleet.catch_up())
    await asyncio.sleep(0.07)  # it has read, and its answer is on its way
    await one.fleet.announce("thing", "a")
    await other.fleet.catch_up()
    assert other.seen.followed == ["a"]
    await looking


@on_clock
async def test_an_idle_gateway_costs_a_read_a_look_and_a_write_a_beat() -> None:
    one, _ = await gateways()
    one.store.calls.clear()
    await asyncio.sleep(60)
    assert set(one.store.calls) == {("scan", KIND), ("put", KIND)}
    assert one.store.calls.count(("scan", KIND)) <= 60 / LOOK_SECONDS + 1
    assert one.store.calls.count(("put", KIND)) <= 60 / BEAT_SECONDS + 1


@on_clock
async def test_an_idle_record_is_small_again() -> None:
    one, _ = await gateways()
    for number in range(1_000):
        one.fleet.note("thing", f"key-{number}")
    await asyncio.sleep(LOG_SECONDS + 2 * BEAT_SECONDS)
    record = await one.store.get(KIND, one.fleet.me)
    assert record is not None
    assert len(record.value) < 100


@on_clock
async def test_who_was_away_for_longer_than_the_list_goes_back_reads_everything() -> None:
    one, other = await gateways()
    await other.stop()
    await one.fleet.announce("thing", "a")
    await asyncio.sleep(LOG_SECONDS + 2 * BEAT_SECONDS)
    other.run()
    await asyncio.sleep(1.0)
    assert other.seen.rescans == 1


@on_clock
async def test_more_than_the_list_can_hold_is_read_as_a_whole_and_not_all_the_time() -> None:
    one, other = await gateways()
    for _ in range(20):
        for number in range(3):
            one.fleet.note("thing", "x" * (LOG_BYTES // 2) + str(number))
        await asyncio.sleep(1.0)
    assert 1 <= other.seen.rescans <= 20 / RESCAN_SECONDS + 1


@on_clock
async def test_everything_is_looked_at_again_now_and_then() -> None:
    one, _ = await gateways()
    await asyncio.sleep(REVISIT_SECONDS * 2 + 5)
    assert one.seen.rescans == 2


@on_clock
async def test_what_could_not_be_followed_is_followed_again() -> None:
    one, other = await gateways()
    other.seen.error = StoreError("out of reach")
    with capture_logs():
        await one.fleet.announce("thing", "a")
        await asyncio.sleep(3.0)
    other.seen.error = None
    await asyncio.sleep(1.0)
    assert other.seen.followed == ["a"]


@on_clock
async def test_a_doubt_is_looked_at_by_everybody() -> None:
    one, other = await gateways()
    one.fleet.doubt("thing", "a")
    one.store.fail()
    with capture_logs():
        await asyncio.sleep(2.0)
    one.store.heal()
    await asyncio.sleep(2.0)
    assert one.seen.followed == ["a"]
    assert other.seen.followed == ["a"]


@on_clock
async def test_who_announces_is_told_when_the_others_cannot_know() -> None:
    one, other = await gateways()
    one.store.fail()
    with pytest.raises(StoreError):
        await one.fleet.announce("thing", "a")
    one.store.heal()
    await asyncio.sleep(2 * LOOK_SECONDS + 0.5)
    assert other.seen.followed == ["a"], "and they are told later"


@on_clock
async def test_an_answer_that_is_lost_does_not_make_a_gateway_think_itself_dead() -> None:
    one, other = await gateways()

    def lose() -> None:
        if one.store.calls[-1] == ("put", KIND):
            raise StoreError("no answer")

    one.store.after = lose
    with pytest.raises(StoreError):
        await one.fleet.announce("thing", "a")
    one.store.heal()
    await one.fleet.announce("thing", "b")
    await other.fleet.catch_up()
    assert other.seen.followed == ["a", "b"]
    assert one.fenced == 0


@on_clock
async def test_who_leaves_is_gone_at_once_and_its_last_words_are_followed() -> None:
    one, other = await gateways()
    one.fleet.note("thing", "last")
    await one.stop()
    await one.fleet.leave()
    await other.fleet.catch_up()
    assert other.seen.followed == ["last"]
    assert other.fleet.size == 1
    assert not other.fleet.is_live(one.fleet.me)
    await asyncio.sleep(GRAVE_SECONDS + 5)
    assert await other.store.get(KIND, one.fleet.me) is None


@on_clock
async def test_who_is_silent_is_taken_for_dead_and_everything_is_read_once() -> None:
    one, *others = await gateways(3)
    await one.stop()
    with capture_logs():
        await asyncio.sleep(LEASE_SECONDS - 1.0)
        assert all(other.fleet.is_live(one.fleet.me) for other in others)
        await asyncio.sleep(3.0)
    assert not any(other.fleet.is_live(one.fleet.me) for other in others)
    assert [other.seen.rescans for other in others] == [1, 1]
    await asyncio.sleep(GRAVE_SECONDS + 5)
    assert await others[0].store.get(KIND, one.fleet.me) is None
    assert [other.seen.rescans for other in others] == [1, 1]


@pytest.mark.parametrize("away", [LEASE_SECONDS + 5, LEASE_SECONDS + GRAVE_SECONDS + 10])
def test_who_was_frozen_and_comes_back_learns_that_it_is_dead_and_is_another(away: float) -> None:
    @on_clock
    async def run() -> None:
        one, other = await gateways()
        before = one.fleet.me
        await one.stop()
        with capture_logs():
            await asyncio.sleep(away)
            assert other.fleet.size == 1
            one.run()
            await asyncio.sleep(2.0)
        assert one.fenced == 1
        assert one.fleet.me != before
        assert one.seen.rescans >= 1
        await one.fleet.announce("thing", "a")
        await other.fleet.catch_up()
        assert other.fleet.size == one.fleet.size == 2
        assert not other.fleet.is_live(before)
        assert "a" in other.seen.followed
        assert other.fenced == 0

    run()


@on_clock
async def test_nobody_is_blamed_for_ones_own_absence() -> None:
    one, other = await gateways()
    for gateway in (one, other):
        gateway.store.fail()
    with capture_logs():
        await asyncio.sleep(3 * LEASE_SECONDS)
        one.store.heal()  # first: for it, the other has not said anything for long
        await asyncio.sleep(3.0)
        other.store.heal()
        await asyncio.sleep(3.0)
    assert one.fleet.size == other.fleet.size == 2
    assert one.fenced == other.fenced == 0


@on_clock
async def test_each_task_is_exactly_ones() -> None:
    fleet = await gateways(3)
    for number in range(100):
        assert sum(gateway.fleet.is_mine(f"session-{number}") for gateway in fleet) == 1
    for gateway in fleet:
        assert 10 < sum(gateway.fleet.is_mine(f"session-{number}") for number in range(100)) < 60


@on_clock
async def test_a_record_that_cannot_be_read_is_a_gateway_that_is_not_there() -> None:
    one, _ = await gateways()
    with capture_logs():
        await one.store.put(KIND, "odd", b"no json")
        await until(lambda: "odd" in one.fleet._others, "it is seen")
        assert not one.fleet.is_live("odd")
        await asyncio.sleep(GRAVE_SECONDS + 5)
    assert await one.store.get(KIND, "odd") is None
