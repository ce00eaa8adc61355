"""Consumers with a name: shares of shards, checkpoints that follow acknowledgements, and takeovers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from adapters.memory.store import MemoryStore
from gateway.core.backend import QueueSpec, Target
from gateway.core.commands import Consume
from gateway.core.health import Health
from gateway.core.outcome import Outcome
from gateway.core.sender import Sender
from gateway.core.store import Record, StoreError
from gateway.core.streams.lease import LEASE_SECONDS, RENEW_SECONDS, Lease, Leases, share
from gateway.core.streams.offset import Start
from gateway.core.streams.port import FIRST
from gateway.core.streams.queue import StreamQueue
from gateway.core.subscription import Subscription
from tests.rig.clock import at_end, on_clock, settle_down, until
from tests.rig.scripted import Consumer, new_metrics
from tests.rig.stream_log import StreamLog

FIVE = ("0", "1", "2", "3", "4")


def _no_sender(target: Target) -> Sender:
    raise AssertionError("nothing is sent")


def gateway(log: StreamLog, store: MemoryStore) -> StreamQueue:
    """One replica, as far as one stream goes."""
    queue = StreamQueue(
        Target(kind="stream", name="s", queue="s"),
        QueueSpec(arguments={"x-queue-type": "stream"}),
        log,
        open_sender=_no_sender,
        store=store,
        metrics=new_metrics(),
        health=Health(),
        wall=lambda: log.now,
    )
    at_end(queue.aclose)
    return queue


class Member(Consumer):
    """A consumer, with its subscription."""

    subscription: Subscription

    @property
    def texts(self) -> list[str]:
        return [body.decode() for body in self.bodies]

    def leave(self) -> None:
        """As a connection does that is lost: it stops, then gives back what it holds."""
        self.subscription.cancel()
        self.settle(Outcome.RELEASED)


async def join(queue: StreamQueue, name: str = "app", offset: str = "first", prefetch: int = 1_000) -> Member:
    member = Member()
    arguments = {"name": name, "x-stream-offset": offset}
    member.subscription = queue.consume(Consume("tag", "s", prefetch, None, arguments=arguments), member)
    assert member.subscription.begun is not None
    await member.subscription.begun
    return member


async def shards_of(store: MemoryStore) -> dict[str, list[str]]:
    """The shards of each owner, as the store has them."""
    leases = Leases(store, "s", "app", asyncio.get_running_loop().time)
    await leases.look()
    owners: dict[str, list[str]] = {}
    for lease in leases:
        if not lease.ended:
            owners.setdefault(lease.owner, []).append(lease.shard)
    return owners


async def has_shares(store: MemoryStore, *sizes: int) -> None:
    """Wait until the shards are shared out like this."""
    for _ in range(1_000):
        owners = await shards_of(store)
        if sorted(map(len, owners.values())) == list(sizes) and "" not in owners:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not {sizes}, but {owners}")


@on_clock
async def test_it_goes_on_where_it_has_acknowledged_to() -> None:
    log, store = StreamLog("0"), MemoryStore()
    log.write("0", "a", "b", "c", "d")
    queue = gateway(log, store)
    member = await join(queue)
    await until(lambda: len(member.deliveries) == 4, "all")
    for number in (0, 1, 3):  # but not the third
        delivery = member.deliveries[number]
        delivery.source.settle(delivery, Outcome.ACCEPTED)
    member.deliveries = [member.deliveries[2]]
    member.leave()
    await queue.drain()
    again = await join(gateway(log, store))
    await until(lambda: len(again.deliveries) == 2, "from the gap on")
    assert again.texts == ["c", "d"]


@on_clock
async def test_inside_an_aggregated_record_too() -> None:
    log, store = StreamLog("0"), MemoryStore()
    log.aggregate("0", "a", "b", "c")
    queue = gateway(log, store)
    member = await join(queue, prefetch=2)
    await until(lambda: len(member.deliveries) == 2, "two")
    member.deliveries[0].source.settle(member.deliveries[0], Outcome.ACCEPTED)
    await until(lambda: len(member.deliveries) == 3, "three")
    member.deliveries.pop(0)
    member.leave()
    await queue.drain()
    again = await join(gateway(log, store))
    await until(lambda: len(again.deliveries) == 2, "the rest")
    assert again.texts == ["b", "c"]


@on_clock
async def test_the_checkpoint_counts_and_the_offset_only_the_first_time() -> None:
    log, store = StreamLog("0"), MemoryStore()
    log.write("0", "old")
    log.now += 10
    queue = gateway(log, store)
    member = await join(queue, offset="next")
    log.write("0", "new")
    await until(lambda: member.deliveries, "what is new")
    assert member.texts == ["new"]
    member.leave()
    await queue.drain()
    again = await join(gateway(log, store), offset="first")
    await until(lambda: again.deliveries, "the same again")
    assert again.texts == ["new"]


@on_clock
async def test_two_names_know_nothing_of_each_other() -> None:
    log, store = StreamLog("0"), MemoryStore()
    log.write("0", "a")
    queue = gateway(log, store)
    for name in ("one", "two"):
        member = await join(queue, name)
        await until(lambda: member.deliveries, "a")  # noqa: B023 - awaited here


@on_clock
async def test_replicas_share_the_shards_and_nothing_comes_to_both() -> None:
    log, store = StreamLog(*FIVE), MemoryStore()
    one = await join(gateway(log, store))
    await has_shares(store, 5)
    two = await join(gateway(log, store))
    await has_shares(store, 2, 3)
    await asyncio.sleep(LEASE_SECONDS)  # both know it
    for shard in FIVE:
        log.write(shard, f"in {shard}")
    await until(lambda: len(one.deliveries) + len(two.deliveries) >= 5, "all")
    await settle_down()
    assert sorted(one.texts + two.texts) == [f"in {shard}" for shard in FIVE]
    assert {len(one.texts), len(two.texts)} == {2, 3}


@on_clock
async def test_a_member_that_leaves_gives_its_shards_back_at_once() -> None:
    log, store = StreamLog(*FIVE), MemoryStore()
    first, second = gateway(log, store), gateway(log, store)
    await join(first)
    two = await join(second)
    await has_shares(store, 2, 3)
    two.leave()
    await second.drain()
    assert "" in await shards_of(store)
    await has_shares(store, 5)


@on_clock
async def test_a_replica_that_was_killed_loses_its_shards_after_a_while() -> None:
    log, store = StreamLog(*FIVE), MemoryStore()
    killed = gateway(log, store)
    one = await join(killed)
    await until(lambda: one.deliveries == [], "begun")
    two = await join(gateway(log, store))
    await has_shares(store, 2, 3)
    for task in list(killed._consumers):
        task.cancel()
    start = asyncio.get_running_loop().time()
    await has_shares(store, 5)
    assert asyncio.get_running_loop().time() - start < 2 * LEASE_SECONDS
    log.write("0", "a")
    await until(lambda: two.deliveries, "a")


@on_clock
async def test_who_has_lost_a_shard_cannot_move_its_checkpoint() -> None:
    log, store = StreamLog("0", "1"), MemoryStore()
    log.write("0", "a")
    log.write("1", "a")
    one = await join(gateway(log, store))
    await until(lambda: len(one.deliveries) == 2, "both")
    two = await join(gateway(log, store))
    await has_shares(store, 1, 1)
    await until(lambda: two.deliveries, "the stolen shard begins where nothing was acknowledged")
    one.settle()
    await asyncio.sleep(LEASE_SECONDS)
    leases = Leases(store, "s", "app", asyncio.get_running_loop().time)
    await leases.look()
    stolen = two.subscription.queue
    assert sorted(lease.at for lease in leases).count("") == 1, (stolen, [lease.at for lease in leases])


@on_clock
async def test_children_are_begun_when_all_of_the_parent_is_acknowledged() -> None:
    log, store = StreamLog("0"), MemoryStore()
    log.write("0", "p0", "p1")
    log.split("0", "1", "2")
    log.write("1", "l0")
    log.write("2", "r0")
    queue = gateway(log, store)
    member = await join(queue)
    await until(lambda: len(member.deliveries) == 2, "the parent's")
    await asyncio.sleep(2 * LEASE_SECONDS)
    assert member.texts == ["p0", "p1"]
    member.settle()
    await until(lambda: len(member.deliveries) == 2, "the children's")
    assert sorted(member.texts) == ["l0", "r0"]
    member.settle()
    member.leave()
    await queue.drain()
    again = await join(gateway(log, store))
    log.write("1", "l1")
    await until(lambda: again.deliveries, "what is new")
    assert again.texts == ["l1"]


@on_clock
async def test_what_was_held_when_a_consumer_was_cancelled_can_still_be_acknowledged() -> None:
    log, store = StreamLog("0"), MemoryStore()
    log.write("0", "a", "b")
    queue = gateway(log, store)
    member = await join(queue)
    await until(lambda: len(member.deliveries) == 2, "both")
    member.subscription.cancel()
    await asyncio.sleep(LEASE_SECONDS)
    member.settle()
    await queue.drain()
    log.write("0", "c")
    again = await join(gateway(log, store))
    await until(lambda: again.deliveries, "what is new")
    assert again.texts == ["c"]


class Failing(MemoryStore):
    failing = False

    async def put(self, *args: object, **options: object) -> object:  # type: ignore[override]
        if self.failing:
            raise StoreError("out of reach")
        return await super().put(*args, **options)  # type: ignore[arg-type]


@on_clock
async def test_a_store_that_fails_for_a_moment_costs_nothing() -> None:
    log, store = StreamLog("0"), Failing()
    log.write("0", "a", "b")
    queue = gateway(log, store)
    member = await join(queue)
    await until(lambda: len(member.deliveries) == 2, "both")
    store.failing = True
    member.settle()
    await asyncio.sleep(LEASE_SECONDS / 2)
    store.failing = False
    await asyncio.sleep(LEASE_SECONDS)
    member.leave()
    await queue.drain()
    log.write("0", "c")
    again = await join(gateway(log, store))
    await until(lambda: again.deliveries, "what is new")
    assert again.texts == ["c"]


class Lossy(MemoryStore):
    """Writes, and says of some shards that it could not."""

    def __init__(self) -> None:
        super().__init__()
        self.lossy: set[str] = set()

    async def put(self, kind: str, key: str, *args: object, **options: object) -> object:  # type: ignore[override]
        record = await super().put(kind, key, *args, **options)  # type: ignore[arg-type]
        if orjson.loads(key)[2] in self.lossy:
            raise StoreError("the answer was lost")
        return record


@on_clock
async def test_checkpoints_whose_answers_are_lost_cost_nothing() -> None:
    log, store = StreamLog("0", "1"), Lossy()
    log.write("0", "a")
    log.write("1", "b")
    queue = gateway(log, store)
    member = await join(queue)
    await until(lambda: len(member.deliveries) == 2, "both")
    store.lossy = {"0", "1"}
    member.settle()
    await asyncio.sleep(LEASE_SECONDS / 2)
    store.lossy.clear()
    log.write("0", "c")
    log.write("1", "d")
    await until(lambda: len(member.deliveries) == 2, "what is new")
    assert sorted(member.texts) == ["c", "d"], "nothing comes again, as nobody else has had the shards"


@on_clock
async def test_a_shard_that_was_taken_without_an_answer_is_read() -> None:
    log, store = StreamLog("0", "1"), Lossy()
    killed = gateway(log, store)
    await join(killed)
    two = await join(gateway(log, store))
    await has_shares(store, 1, 1)
    for task in list(killed._consumers):
        task.cancel()
    store.lossy.add("0")  # the one that was killed has kept it
    await has_shares(store, 2)
    store.lossy.clear()
    log.write("0", "a")
    log.write("1", "b")
    await until(lambda: len(two.deliveries) == 2, "both")


class Stuck(MemoryStore):
    """Never answers for one shard, while it is told to."""

    def __init__(self, shard: str) -> None:
        super().__init__()
        self._shard = shard
        self.free = asyncio.Event()
        self.free.set()

    async def put(self, kind: str, key: str, *args: object, **options: object) -> object:  # type: ignore[override]
        if orjson.loads(key)[2] == self._shard:
            await self.free.wait()
        return await super().put(kind, key, *args, **options)  # type: ignore[arg-type]


@on_clock
async def test_a_shard_that_cannot_be_renewed_does_not_end_the_others() -> None:
    log, store = StreamLog("0", "1"), Stuck("0")
    one = await join(gateway(log, store))
    log.write("1", "a")
    await until(lambda: one.deliveries, "a")
    one.settle()
    await asyncio.sleep(RENEW_SECONDS)  # and that is written
    store.free.clear()
    two = await join(gateway(log, store), prefetch=1)
    await asyncio.sleep(3 * LEASE_SECONDS)
    log.write("0", "b")
    log.write("1", "c")
    await until(lambda: len(one.deliveries) + len(two.deliveries) == 2, "both")
    assert sorted(one.texts + two.texts) == ["b", "c"], "each came to one of them, once"
    store.free.set()
    one.settle()
    two.settle()
    await has_shares(store, 1, 1)


@on_clock
async def test_a_look_reads_the_records_of_its_group_only() -> None:
    store = Counting()
    for name in ("app", "app2", "ap"):
        for shard in range(3):
            await Leases(store, "s", name, lambda: 0.0).make(str(shard), "")
    store.read.clear()
    await Leases(store, "s", "app", lambda: 0.0).look()
    assert store.read == [f'["s","app","{shard}"]' for shard in range(3)]


class Counting(MemoryStore):
    """Knows what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    async def scan(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1_000) -> Sequence[Record]:
        records = await super().scan(kind, prefix=prefix, after=after, limit=limit)
        self.read += [record.key for record in records]
        return records


@on_clock
async def test_a_group_begins_once() -> None:
    store = MemoryStore()
    one, two = (Leases(store, "s", "app", lambda: 0.0) for _ in range(2))
    begun = await one.found(Start(), 1_000.0)
    assert await two.found(Start(FIRST), 2_000.0) == begun
    assert begun.default.time == 1_000.0


def lease(shard: int, owner: str, at: str = "") -> Lease:
    return Lease(str(shard), owner, at, 1, 0.0)


@pytest.mark.parametrize(
    ("owners", "taken"),
    [
        (["", "", ""], 3),
        (["b", "b", "b", "b"], 2),
        (["b", "b", "b"], 1),
        (["b"], 0),
        (["b", ""], 1),
        (["b", "c", "c", "c"], 1),
        (["me", "b"], 0),
        (["me", "b", "b"], 0),
        ([], 0),
    ],
)
def test_shares(owners: list[str], taken: int) -> None:
    leases = [lease(number, owner) for number, owner in enumerate(owners)]
    assert len(share(leases, "me", lambda each: not each.owner)) == taken


def test_what_is_read_to_the_end_is_nobodys_share() -> None:
    assert share([lease(0, "b", "end"), lease(1, "b")], "me", lambda each: not each.owner) == []


@examples(st.integers(0, 30), st.integers(1, 8))
def test_taking_turns_ends_with_equal_shares(shards: int, members: int) -> None:
    leases = [lease(number, "") for number in range(shards)]
    names = [f"m{number}" for number in range(members)]
    for _ in range(members * 3):
        for name in names:
            for taken in share(leases, name, lambda each: not each.owner):
                taken.owner = name
    sizes = [sum(each.owner == name for each in leases) for name in names]
    assert sum(sizes) == shards
    assert max(sizes) - min(sizes) <= 1
