"""Several queues that look like one: the highest level first, and nothing lost between two receives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from adapters.memory.backend import MemoryBackend
from gateway.core.backend import Entry, QueueSpec, Received, Target
from gateway.core.errors import AccessDenied, BackendError, ReceiptExpired
from gateway.core.message import Address, Message, Properties
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.core.priority import LEVELS, PriorityBackend, level_count
from tests.rig.clock import at_end, on_clock, settle_down

TARGET = Target(kind="memory", name="orders", queue="orders")
VISIBILITY = 30.0


class Counting(MemoryBackend):
    """Remembers what was asked of which queue, and refuses what a test wants it to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, float]] = []
        self.errors: dict[str, BackendError] = {}

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[object]:  # type: ignore[override]
        self._fail(target)
        return await super().send(target, entries)

    async def receive(self, target: Target, limit: int, wait: float, visibility: float) -> Sequence[Received]:
        if wait:
            self._fail(target)
        self.asked.append((target.name, wait))
        return await super().receive(target, limit, wait, visibility)

    def _fail(self, target: Target) -> None:
        if target.name in self.errors:
            raise self.errors[target.name]


class Rig:
    def __init__(self, max_priority: int = 2) -> None:
        self.memory = Counting()
        self.levels = [
            Target(kind="memory", name="orders" + (f"-p{level}" if level else ""), queue="orders")
            for level in range(level_count(max_priority))
        ]
        self.queue = PriorityBackend(self.memory, self.levels, max_priority)
        at_end(self.queue.aclose)

    async def publish(self, *priorities: int | None) -> None:
        entries = [self.queue.encode(TARGET, prioritised(each)) for each in priorities]
        assert await self.queue.send(TARGET, entries) == [ACCEPTED] * len(entries)

    async def receive(self, limit: int = 10, wait: float = 20.0) -> list[int | None]:
        return [each.message.properties.priority for each in await self._receive(limit, wait)]

    async def _receive(self, limit: int = 10, wait: float = 20.0) -> Sequence[Received]:
        return await self.queue.receive(TARGET, limit, wait, VISIBILITY)


def prioritised(priority: int | None) -> Message:
    return Message(Address("", "orders"), b"hello", Properties(priority=priority))


async def made(max_priority: int = 2) -> Rig:
    rig = Rig(max_priority)
    await rig.queue.ensure(TARGET, QueueSpec())
    return rig


@pytest.mark.parametrize(
    ("most", "priorities", "expected"),
    [
        (1, [None, 0, 1, 9], [0, 0, 1, 1]),
        (4, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (9, [0, 1, 2, 3, 8, 9, 200], [0, 0, 1, 1, 4, 4, 4]),
        (255, [0, 51, 52, 255], [0, 0, 1, 4]),
    ],
)
@on_clock
async def test_priorities_share_levels_where_there_are_more_of_them(
    most: int, priorities: list[int | None], expected: list[int]
) -> None:
    rig = Rig(most)
    assert [rig.queue.level(prioritised(each)) for each in priorities] == expected
    assert len(rig.levels) == min(most + 1, LEVELS)


@on_clock
async def test_a_batch_goes_to_its_levels_and_comes_back_the_highest_first() -> None:
    rig = await made()
    await rig.publish(0, 2, 1, 2, None)
    depths = [(await rig.memory.depth(level)).ready for level in rig.levels]
    assert depths == [2, 1, 2]
    assert (await rig.queue.depth(TARGET)).ready == 5
    assert await rig.receive() == [2, 2]
    assert await rig.receive() == [1]
    assert await rig.receive() == [0, None]


@on_clock
async def test_a_busy_high_level_costs_one_request_for_each_batch() -> None:
    rig = await made()
    await rig.publish(*[2] * 30)
    rig.memory.asked.clear()
    for _ in range(3):
        assert await rig.receive() == [2] * 10
    assert rig.memory.asked == [("orders-p2", 0.0)] * 3


@on_clock
async def test_what_comes_while_all_levels_are_asked_is_handed_out_the_next_time_and_never_lost() -> None:
    rig = await made()
    receiving = asyncio.create_task(rig.receive())
    await settle_down()
    assert sorted(rig.memory.asked[-3:]) == [("orders", 20.0), ("orders-p1", 20.0), ("orders-p2", 20.0)]
    await rig.publish(0, 1, 2)
    assert max(await receiving) == 2
    got = await receiving
    while len(got) < 3:
        got += await rig.receive(wait=0.0)
    assert sorted(map(int, filter(lambda each: each is not None, got))) == [0, 1, 2]


@on_clock
async def test_a_receive_that_is_cancelled_leaves_what_it_asked_for_to_the_next() -> None:
    rig = await made()
    receiving = asyncio.create_task(rig.receive())
    await settle_down()
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await rig.publish(1)
    await settle_down()
    assert (await rig.queue.depth(TARGET)).ready == 1, "hidden from others, and with nobody here"
    assert await rig.receive() == [1]


@on_clock
async def test_what_nobody_asks_for_in_time_comes_back_by_itself() -> None:
    rig = await made()
    receiving = asyncio.create_task(rig.receive())
    await settle_down()
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await rig.publish(1)
    await asyncio.sleep(VISIBILITY / 2)
    assert await rig.receive(wait=0.0) == [], "too late to be renewed"
    (again,) = await rig._receive()
    assert again.attempt == 2


@on_clock
async def test_an_empty_queue_is_asked_for_as_long_as_was_wished() -> None:
    rig = await made()
    start = asyncio.get_running_loop().time()
    assert await rig.receive(wait=5.0) == []
    assert asyncio.get_running_loop().time() - start == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.RELEASED])
@on_clock
async def test_receipts_of_several_levels_are_settled_in_one_request(outcome: Outcome) -> None:
    rig = await made()
    await rig.publish(0, 1, 2)
    receipts = [each.receipt for _ in range(3) for each in await rig._receive()]
    assert await rig.queue.extend(TARGET, receipts, 60.0) == [ACCEPTED] * 3
    assert await rig.queue.settle(TARGET, receipts, outcome) == [ACCEPTED] * 3
    depth = await rig.queue.depth(TARGET)
    assert (depth.ready, depth.unsettled) == ((0, 0) if outcome is Outcome.ACCEPTED else (3, 0))
    if outcome is Outcome.ACCEPTED:
        first, *_ = await rig.queue.settle(TARGET, receipts[:1], outcome)
        assert isinstance(first.error, ReceiptExpired)


@on_clock
async def test_a_level_that_fails_fails_alone_and_all_of_them_together() -> None:
    rig = await made()
    rig.memory.errors["orders-p1"] = AccessDenied("may not")
    entries = [rig.queue.encode(TARGET, prioritised(each)) for each in (1, 0, 1, 2)]
    results = await rig.queue.send(TARGET, entries)
    assert [result.outcome for result in results] == [
        Outcome.RELEASED,
        Outcome.ACCEPTED,
        Outcome.RELEASED,
        Outcome.ACCEPTED,
    ]
    with pytest.raises(AccessDenied):
        await rig.queue.send(TARGET, entries[:1])


@on_clock
async def test_an_error_of_a_long_poll_is_told() -> None:
    rig = await made()
    rig.memory.errors["orders-p1"] = AccessDenied("may not")
    with pytest.raises(AccessDenied):
        await rig.receive()
    rig.memory.errors.clear()
    await rig.publish(0)
    assert await rig.receive() == [0], "the polls of the others go on"


@on_clock
async def test_draining_gives_back_what_nobody_has() -> None:
    rig = await made()
    receiving = asyncio.create_task(rig.receive())
    await settle_down()
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await rig.publish(2)
    await rig.queue.drain()
    assert (await rig.memory.depth(rig.levels[2])).ready == 1


@on_clock
async def test_removing_concerns_all_levels() -> None:
    rig = await made()
    await rig.publish(0, 1, 2)
    await rig.queue.probe(TARGET)
    await rig.queue.remove(TARGET)
    with pytest.raises(BackendError):
        await rig.queue.probe(TARGET)
    for level in rig.levels:
        with pytest.raises(BackendError):
            await rig.memory.probe(level)
