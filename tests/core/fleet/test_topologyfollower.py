"""Several gateways with one store end with one topology, whatever they change at once, and whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.memory.store import MemoryStore
from gateway.core.backend import QueueSpec
from gateway.core.durable import DurableTopology
from gateway.core.errors import Inequivalent, MqliftError
from gateway.core.exchanges import ExchangeSpec, ExchangeType, ToExchange
from gateway.core.fleet.agreement import Agreement
from gateway.core.fleet.membership import Fleet
from gateway.core.fleet.topologyfollower import TopologyFollower
from gateway.core.statewriter import StateWriter
from gateway.core.store import StoreError
from gateway.core.topology import Binding, Topology, UnknownExchange
from gateway.core.topologyrecords import BINDING, EXCHANGE, QUEUE, binding_key
from tests.rig.clock import on_clock, settle_down
from tests.rig.sharedstore import SharedStore

TOPIC = ExchangeSpec(type=ExchangeType.TOPIC, durable=True)
DIRECT = ExchangeSpec(type=ExchangeType.DIRECT, durable=True)


class Gateway:
    """What a gateway has of the topology, without the rest of it. Its queues are names."""

    def __init__(self, common: MemoryStore) -> None:
        self.store = SharedStore(common)
        self.fleet = Fleet(self.store, asyncio.get_running_loop().time)
        self.writer = StateWriter(self.store, self.fleet)
        self.durable = DurableTopology(self.store, self.writer)
        self.topology = Topology()
        self.follower = TopologyFollower(self.store, self.writer, self.topology, self.durable, self.follow_queue)
        self.fleet.followers = [self.follower]
        self.agreement = Agreement(self.fleet, self.follower, self.durable)

    async def start(self) -> Gateway:
        await self.fleet.join()
        for name in await self.durable.restore(self.topology):
            self.topology.declare_queue(name, durable=True)
        await self.durable.restore_bindings(self.topology)
        self.topology.journal = self.durable
        return self

    def follow_queue(self, name: str, spec: QueueSpec | None) -> Sequence[Binding] | None:
        if spec is not None:
            self.topology.declare_queue(name, durable=True)
            return ()
        return self.topology.withdraw_queue(name)

    # What clients ask for

    async def change(self, change: Callable[[], object]) -> None:
        await self.agreement.change(change)

    async def declare(self, name: str, spec: ExchangeSpec = TOPIC) -> None:
        await self.change(lambda: self.topology.declare_exchange(name, spec))

    async def delete(self, name: str) -> None:
        await self.change(lambda: self.topology.delete_exchange(name))

    async def declare_queue(self, name: str) -> None:
        def declare() -> None:
            if self.topology.declare_queue(name, durable=True):
                self.durable.queue_changed(name, QueueSpec())
            else:
                self.durable.queue_repeated(name)

        await self.change(declare)

    async def delete_queue(self, name: str) -> None:
        def delete() -> None:
            if self.topology.delete_queue(name):
                self.durable.queue_changed(name, None)

        await self.change(delete)

    async def bind(self, queue: str, exchange: str, pattern: str = "a") -> None:
        await self.change(lambda: self.topology.bind(queue, exchange, pattern))

    async def bind_exchange(self, destination: str, exchange: str, pattern: str = "a") -> None:
        await self.change(lambda: self.topology.bind(ToExchange(destination), exchange, pattern))

    async def unbind(self, queue: str, exchange: str, pattern: str = "a") -> None:
        await self.change(lambda: self.topology.unbind(queue, exchange, pattern))

    # What came of it

    async def look(self) -> None:
        await self.fleet.catch_up()

    @property
    def all(self) -> set[tuple[str, str]]:
        """Everything durable, as the store would have it."""
        topology = self.topology
        found = {(EXCHANGE, name) for name, spec in topology.exchanges() if spec.durable and "amq." not in name}
        found |= {(QUEUE, name) for name in topology.queues() if topology.is_durable(name)}
        return found | {
            (BINDING, binding_key(each))
            for each in topology.all_bindings()
            if topology.is_kept(each.source, each.destination)
        }


async def gateways(count: int = 2) -> list[Gateway]:
    common = MemoryStore()
    return [await Gateway(common).start() for _ in range(count)]


@on_clock
async def test_what_one_declares_is_in_effect_at_the_other_within_a_second() -> None:
    one, other = await gateways()
    running = asyncio.ensure_future(other.fleet.run())
    await one.declare("logs")
    await one.declare_queue("orders")
    await one.bind("orders", "logs", "a.#")
    await asyncio.sleep(1.0)
    assert other.topology.route("logs", "a.b") == ("orders",)
    await one.unbind("orders", "logs", "a.#")
    await asyncio.sleep(1.0)
    assert other.topology.route("logs", "a.b") == ()
    await one.delete("logs")
    await one.delete_queue("orders")
    await asyncio.sleep(1.0)
    assert not other.all
    running.cancel()


@on_clock
async def test_an_idle_look_is_one_small_read() -> None:
    one, other = await gateways()
    await one.declare("logs")
    for number in range(50):
        await one.declare_queue(f"q{number}")
    await other.look()
    other.store.calls.clear()
    await other.look()
    assert other.store.calls == [("scan", "gateway")]


@on_clock
async def test_what_was_answered_elsewhere_is_known_to_the_next_change_at_once() -> None:
    one, other = await gateways()
    await one.declare("logs")
    with pytest.raises(Inequivalent) as refused:
        await other.declare("logs", DIRECT)
    assert (refused.value.argument, refused.value.current) == ("type", "topic")
    await other.declare("logs")
    await one.declare_queue("orders")
    await other.bind("orders", "logs")
    await other.delete("logs")
    with pytest.raises(UnknownExchange):
        await one.bind("orders", "logs", "b")


@on_clock
async def test_of_two_that_declare_differently_at_once_one_is_refused() -> None:
    one, other = await gateways()
    for gateway in (one, other):
        gateway.store.delay = lambda: 0.01
    results = await asyncio.gather(one.declare("logs"), other.declare("logs", DIRECT), return_exceptions=True)
    refused = [result for result in results if result is not None]
    assert len(refused) == 1
    assert isinstance(refused[0], Inequivalent)
    await one.look()
    await other.look()
    assert one.topology.exchange_spec("logs") == other.topology.exchange_spec("logs")


@on_clock
async def test_of_two_that_declare_the_same_at_once_none_is_refused() -> None:
    one, other = await gateways()
    for gateway in (one, other):
        gateway.store.delay = lambda: 0.01
    await asyncio.gather(one.declare("logs"), other.declare("logs"), other.declare("logs"))
    assert one.all == other.all == {(EXCHANGE, "logs")}


@on_clock
async def test_a_binding_made_while_its_exchange_is_deleted_does_not_come_back_with_the_next_of_that_name() -> None:
    one, other = await gateways()
    await one.declare("logs")
    await one.declare_queue("orders")
    await other.look()
    one.store.delay = other.store.delay = lambda: 0.01
    await asyncio.gather(one.delete("logs"), other.bind("orders", "logs"), return_exceptions=True)
    for gateway in (one, other, one, other):
        await gateway.look()
    await one.declare("logs")
    await other.look()
    assert one.topology.bindings("orders") == other.topology.bindings("orders") == ()
    assert not await one.store.common.scan(BINDING)


@on_clock
async def test_an_exchange_that_was_made_anew_as_another_replaces_the_one_that_is_here() -> None:
    one, other = await gateways()
    await one.declare("logs")
    await other.look()
    other.topology.declare_queue("live")
    other.topology.bind("live", "logs", "a")
    await one.delete("logs")
    await one.declare("logs", DIRECT)
    await other.look()
    assert other.topology.exchange_spec("logs") == DIRECT
    assert other.topology.bindings("live") == ()


@on_clock
async def test_an_auto_delete_exchange_stays_where_another_gateway_still_binds_to_it() -> None:
    one, other = await gateways()
    auto_delete = ExchangeSpec(type=ExchangeType.TOPIC, durable=True, auto_delete=True)
    await one.declare("logs", auto_delete)
    await one.declare_queue("orders")
    await one.bind("orders", "logs")
    one.topology.declare_queue("live")
    one.topology.bind("live", "logs", "x")
    await other.look()
    await one.unbind("orders", "logs")
    await other.look()
    assert other.topology.has_exchange("logs")
    one.topology.unbind("live", "logs", "x")
    await one.writer.drain()
    await other.look()
    assert not other.topology.has_exchange("logs")


@on_clock
async def test_what_is_in_the_way_here_is_left_alone_and_told() -> None:
    one, other = await gateways()
    other.topology.declare_exchange("logs", ExchangeSpec(type=ExchangeType.FANOUT))
    await one.declare("logs")
    with capture_logs() as lines:
        await other.look()
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["exchange_differs"]
    assert other.topology.exchange_spec("logs").type is ExchangeType.FANOUT


@on_clock
async def test_a_record_that_cannot_be_read_costs_only_itself() -> None:
    one, other = await gateways()
    for kind, key in ((EXCHANGE, "odd"), (QUEUE, "odd"), (BINDING, "odd")):
        await one.store.put(kind, key, b"no json")
        one.fleet.note(kind, key)
    with capture_logs() as lines:
        await one.declare("logs")
        await other.look()
    assert [line["kind"] for line in lines if line["event"] == "record_not_followed"] == [EXCHANGE, QUEUE, BINDING]
    assert other.all == {(EXCHANGE, "logs")}


@on_clock
async def test_what_could_not_be_written_does_not_stay_in_effect() -> None:
    one, other = await gateways()
    one.store.before = failing_on(one.store, "put", EXCHANGE)
    with capture_logs(), pytest.raises(StoreError):
        await one.declare("logs")
    one.store.heal()
    await one.look()
    assert not one.topology.has_exchange("logs")
    await one.delete("logs")  # does not write what was asked for before
    await one.declare("logs")
    await other.look()
    assert one.all == other.all == {(EXCHANGE, "logs")}


@on_clock
async def test_a_write_that_took_effect_though_it_seemed_to_fail_counts() -> None:
    one, other = await gateways()
    one.store.after = failing_on(one.store, "put", EXCHANGE)
    with capture_logs(), pytest.raises(StoreError):
        await one.declare("logs")
    one.store.heal()
    await one.look()
    await one.fleet.announce(EXCHANGE, "nothing")
    await other.look()
    assert one.all == other.all == {(EXCHANGE, "logs")}
    await one.declare("logs")


@on_clock
async def test_what_is_on_its_way_from_here_is_not_undone_by_what_was_read_before() -> None:
    one, other = await gateways()
    await one.declare_queue("orders")
    one.store.open.clear()
    binding = asyncio.ensure_future(one.bind("orders", "amq.topic"))
    await asyncio.sleep(0.1)
    one.store.open.set()
    await settle_down(1)
    one.topology.bind("orders", "amq.topic", "b")
    key = binding_key(Binding("amq.topic", "orders", "b"))
    await one.follower.follow({BINDING: [key]})
    assert one.topology.route("amq.topic", "b") == ("orders",)
    await binding
    await one.writer.drain()
    await other.look()
    assert one.all == other.all


def failing_on(store: SharedStore, action: str, kind: str) -> Callable[[], None]:
    def check() -> None:
        if store.calls[-1] == (action, kind):
            raise StoreError("out of space")

    return check


@on_clock
async def test_who_has_missed_something_reads_everything() -> None:
    one, other = await gateways()
    await one.declare("old")
    await other.look()
    for number in range(10):
        await one.declare_queue(f"q{number}")
        await asyncio.sleep(2.0)
    await one.delete("old")
    await other.look()
    assert other.all == one.all
    assert len(other.all) == 10


@on_clock
async def test_a_gateway_that_starts_later_has_everything_and_follows_from_there() -> None:
    (one,) = await gateways(1)
    await one.declare("logs")
    await one.declare_queue("orders")
    await one.bind("orders", "logs")
    other = await Gateway(one.store.common).start()
    assert other.all == one.all
    await one.unbind("orders", "logs")
    await other.look()
    assert other.all == one.all


# Many changes at once


@dataclass(frozen=True)
class Step:
    gateway: int
    what: str
    pause: int
    """Hundredths of a second before it begins; earlier ones may not have ended."""


NAMES = ("declare x", "declare y", "declare X", "delete x", "queue q", "gone q")
BINDINGS = ("bind q x", "bind q y", "unbind q x", "bind x y", "bind q amq.topic", "unbind q amq.topic")
steps = st.builds(Step, st.integers(0, 2), st.sampled_from(NAMES + BINDINGS), st.integers(0, 5))


def begin(gateway: Gateway, what: str) -> Awaitable[None]:
    match what.split():
        case ["declare", "X"]:
            return gateway.declare("x", DIRECT)
        case ["declare", name]:
            return gateway.declare(name)
        case ["delete", name]:
            return gateway.delete(name)
        case ["queue", name]:
            return gateway.declare_queue(name)
        case ["gone", name]:
            return gateway.delete_queue(name)
        case ["bind", "x", source]:
            return gateway.bind_exchange("x", source)
        case ["bind", queue, source]:
            return gateway.bind(queue, source)
        case ["unbind", queue, source]:
            return gateway.unbind(queue, source)
    raise AssertionError(what)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=25), st.integers(0, 2**32), st.sampled_from([0.0, 0.0, 0.1, 0.3]))
def test_all_end_with_what_the_store_has(plan: list[Step], seed: int, failing: float) -> None:
    on_clock(converge)(plan, random.Random(seed), failing)


async def converge(plan: list[Step], chance: random.Random, failing: float) -> None:
    fleet = await gateways(3)
    for gateway in fleet:
        make_unreliable(gateway.store, chance, failing)
    acknowledged: set[str] = set()

    async def do(step: Step) -> None:
        with contextlib.suppress(MqliftError):
            await begin(fleet[step.gateway], step.what)
            acknowledged.add(step.what)

    with capture_logs():
        tasks = []
        for step in plan:
            await asyncio.sleep(step.pause / 100)
            tasks.append(asyncio.ensure_future(do(step)))
            if chance.random() < 0.3:
                tasks.append(asyncio.ensure_future(look(chance.choice(fleet))))
        await asyncio.gather(*tasks)
        for gateway in fleet:
            gateway.store.heal()
        for gateway in fleet * 4:
            await gateway.writer.drain()
            await gateway.look()
            await gateway.fleet.announce(EXCHANGE, "")  # what was doubted is told by now
            await settle_down()
    common = fleet[0].store.common
    kept = {(kind, record.key) for kind in (EXCHANGE, QUEUE, BINDING) for record in await common.scan(kind)}
    for gateway in fleet:
        assert gateway.all == kept
        assert not gateway.durable._undone
    specs = [dict(gateway.topology.exchanges()) for gateway in fleet]
    assert specs[0] == specs[1] == specs[2]
    asked = {step.what for step in plan}
    assert kept >= expected(acknowledged, asked)
    again = await Gateway(common).start()
    assert again.all == kept


async def look(gateway: Gateway) -> None:
    with contextlib.suppress(StoreError):
        await gateway.look()


def make_unreliable(store: SharedStore, chance: random.Random, failing: float) -> None:
    def fail() -> None:
        if chance.random() < failing:
            raise StoreError("out of reach")

    store.before = store.after = fail
    store.delay = lambda: chance.random() / 20


def expected(acknowledged: set[str], asked: set[str]) -> set[tuple[str, str]]:
    """What was acknowledged, and nobody has asked to undo."""
    found = {(EXCHANGE, what[-1]) for what in acknowledged & {"declare y"}}
    if "delete x" not in asked and acknowledged & {"declare x", "declare X"}:
        found.add((EXCHANGE, "x"))
    if "gone q" not in asked and "queue q" in acknowledged:
        found.add((QUEUE, "q"))
        for source in ("y", "amq.topic"):
            if f"bind q {source}" in acknowledged and f"unbind q {source}" not in asked:
                found.add((BINDING, binding_key(Binding(source, "q", "a"))))
    return found
