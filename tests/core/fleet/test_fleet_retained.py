"""Retained messages of several gateways with one store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.memory.store import MemoryStore
from gateway.core.errors import MqliftError
from gateway.core.fleet.membership import LOG_SECONDS, Fleet
from gateway.core.message import TOPIC_EXCHANGE, Address, Message, Properties
from gateway.core.retained import KIND, Retained, RetainedLimits
from gateway.core.statewriter import StateWriter
from gateway.core.store import StoreError
from tests.rig.clock import at_end, on_clock
from tests.rig.sharedstore import SharedStore


class Gateway:
    def __init__(self, common: MemoryStore, limits: RetainedLimits | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.store = SharedStore(common)
        self.fleet = Fleet(self.store, loop.time)
        self.writer = StateWriter(self.store, self.fleet)
        self.wall: Callable[[], float] = loop.time
        self.retained = Retained(
            self.store, self.writer, limits or RetainedLimits(), lambda: self.wall(), fleet=self.fleet
        )

    async def start(self) -> Gateway:
        await self.fleet.join()
        await self.retained.restore()
        task = asyncio.ensure_future(self.fleet.run())

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        at_end(stop)
        return self

    async def keep(self, key: str, body: bytes, expiration: int | None = None) -> None:
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: MqliftError | None) -> None:
            if error is None:
                kept.set_result(None)
            else:
                kept.set_exception(error)

        message = Message(Address(TOPIC_EXCHANGE, key), body, Properties(expiration=expiration))
        self.retained.keep(message, done)
        await kept

    @property
    def all(self) -> dict[str, bytes]:
        return {message.address.routing_key: message.body for message in self.retained.match(TOPIC_EXCHANGE, "#")}


async def gateways(count: int = 2, limits: RetainedLimits | None = None) -> list[Gateway]:
    common = MemoryStore()
    return [await Gateway(common, limits).start() for _ in range(count)]


@on_clock
async def test_what_is_set_and_removed_at_one_is_so_at_the_other_within_a_second() -> None:
    one, other = await gateways()
    await one.keep("a.b", b"1")
    await one.keep("c", b"2")
    await asyncio.sleep(1.0)
    assert other.all == {"a.b": b"1", "c": b"2"}
    await other.keep("a.b", b"3")
    await other.keep("c", b"")
    await asyncio.sleep(1.0)
    assert one.all == {"a.b": b"3"}
    assert len(one.retained) == len(other.retained) == 1


@on_clock
async def test_who_starts_or_was_away_has_all_of_them() -> None:
    one, other = await gateways()
    other.store.fail()
    with capture_logs():
        await one.keep("old", b"1")
        await one.keep("gone", b"1")
        await one.keep("gone", b"")
        await asyncio.sleep(3 * LOG_SECONDS)
        other.store.heal()
        await asyncio.sleep(1.0)
    later = await Gateway(one.store.common).start()
    assert one.all == other.all == later.all == {"old": b"1"}


@on_clock
async def test_one_of_them_removes_what_has_expired_and_nobody_what_was_set_anew() -> None:
    one, other = await gateways()
    await one.keep("a", b"short", expiration=10_000)
    await one.keep("b", b"short", expiration=10_000)
    await asyncio.sleep(9.0)
    assert other.all == {"a": b"short", "b": b"short"}
    await asyncio.sleep(2.0)
    assert one.all == other.all == {}
    one.store.open.clear()  # what it reads now is what it knows for a while
    sweeping = asyncio.ensure_future(one.retained.sweep())
    await asyncio.sleep(0.01)
    await other.keep("a", b"new")
    one.store.open.set()
    await sweeping
    await other.retained.sweep()
    await one.writer.drain()
    await other.writer.drain()
    await asyncio.sleep(2.0)
    assert one.all == other.all == {"a": b"new"}
    assert [record.key for record in await one.store.scan(KIND)] == ["a"]


@on_clock
async def test_the_limit_holds_for_what_others_retain() -> None:
    one, other = await gateways(limits=RetainedLimits(messages=2))
    other.store.delay = lambda: 0.05
    with capture_logs() as lines:
        await asyncio.gather(other.keep("a", b"1"), one.keep("b", b"1"), one.keep("c", b"1"))
        await asyncio.sleep(3.0)
    assert len(other.retained) <= 2
    assert "retained_not_followed" in [line["event"] for line in lines]


@on_clock
async def test_what_could_not_be_kept_is_not_shown() -> None:
    one, other = await gateways()
    await one.keep("a", b"1")
    one.store.fail()
    with capture_logs(), pytest.raises(StoreError):
        await one.keep("a", b"2")
    one.store.heal()
    await asyncio.sleep(2.0)
    assert one.all == other.all == {"a": b"1"}


@on_clock
async def test_what_a_gateway_shows_of_itself_is_its_own() -> None:
    one, other = await gateways()
    one.retained.show(Message(Address(TOPIC_EXCHANGE, "$SYS.uptime"), b"1"))
    await one.fleet.announce(KIND, "nothing")
    await one.retained.sweep()
    await asyncio.sleep(400)
    shown = [message.body for message in one.retained.match(TOPIC_EXCHANGE, "$SYS.#")]
    assert shown == [b"1"]
    assert not list(other.retained.match(TOPIC_EXCHANGE, "$SYS.#"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.sampled_from([b"", b"1", b"2"])), max_size=20),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.2]),
)
def test_all_end_with_the_same(plan: list[tuple[int, str, bytes]], seed: int, failing: float) -> None:
    chance = random.Random(seed)

    @on_clock
    async def run() -> None:
        fleet = await gateways(3)

        def fail() -> None:
            if chance.random() < failing:
                raise StoreError("out of reach")

        for gateway in fleet:
            gateway.store.before = gateway.store.after = fail
            gateway.store.delay = lambda: chance.random() / 20
        keeping: list[Awaitable[None]] = []
        with capture_logs():
            for number, key, body in plan:
                await asyncio.sleep(chance.random() / 10)
                keeping.append(asyncio.ensure_future(fleet[number].keep(key, body)))
            await asyncio.gather(*keeping, return_exceptions=True)
            for gateway in fleet:
                gateway.store.heal()
            await asyncio.sleep(5.0)
        kept = {record.key for record in await fleet[0].store.common.scan(KIND)}
        assert fleet[0].all == fleet[1].all == fleet[2].all
        assert set(fleet[0].all) == kept

    run()
