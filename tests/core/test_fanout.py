"""Fan-out by a service: every queue gets what is routed to it, once, whichever way; and subscriptions come and go."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.memory.store import MemoryStore
from gateway.core.arguments import SELECTOR
from gateway.core.auth import Credentials, Identity
from gateway.core.backend import Entry, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.errors import BackendError, NotFound, Unavailable
from gateway.core.exchanges import ExchangeSpec, ExchangeType, ToExchange
from gateway.core.fanout import KIND, LEAVING, LOST, SWEEP, TOLD, VERIFY, FanOut
from gateway.core.fleet.broker import FleetBroker
from gateway.core.fleet.membership import Fleet
from gateway.core.health import Health
from gateway.core.message import Address, Message, Origin
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.queues import BackendQueue
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import ExchangeMatch, Pattern, Routes, Rule, RuleTarget
from gateway.core.shared import SESSION
from gateway.core.statewriter import StateWriter
from gateway.core.store import Record, StateStore, StoreError, every_record
from gateway.core.topology import Topology
from tests.rig.clock import at_end, on_clock, until
from tests.rig.scripted import Consumer, ScriptedBackend, new_metrics
from tests.rig.sharedstore import SharedStore

TOPIC = Target(kind="topic", name="events", fanout=())
DURABLE = QueueSpec()
FANOUT = ExchangeSpec(type=ExchangeType.FANOUT, durable=True)


class Service:
    """A service with topics: the port of the adapter, and who is subscribed."""

    def __init__(self, wait: float = 0.0) -> None:
        self.wait = wait
        self.limit = 3
        self.subscribed: set[str] = set()
        self.error: BackendError | None = None
        self.calls: list[str] = []
        self.looking: Callable[[], object] | None = None
        """Happens while the service is asked whether a subscription is there."""

    def objection(self, topic: Target, queue: Target) -> str:
        return "ordered" if queue.name.endswith(".fifo") else ""

    def _call(self, action: str) -> None:
        self.calls.append(action)
        if self.error is not None:
            raise self.error

    async def subscribe(self, topic: Target, queue: Target) -> str:
        self._call("subscribe")
        self.subscribed.add(queue.name)
        return f"s-{queue.name}"

    async def holds(self, topic: Target, queue: Target, subscription: str) -> bool:
        self._call("holds")
        assert subscription == f"s-{queue.name}"
        there = queue.name in self.subscribed
        if self.looking is not None:
            self.looking()
        return there

    async def unsubscribe(self, topic: Target, queue: Target, subscription: str) -> None:
        self._call("unsubscribe")
        self.subscribed.discard(queue.name)


class World:
    """What arrives where: a topic hands on to the queues that are named and subscribed, and keeps the plain message."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.arrived: defaultdict[str, list[bytes]] = defaultdict(list)
        self.queues = _Queues(self)
        self.topic = _Topic(self)


class _Queues(ScriptedBackend):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        self._world.arrived[target.name] += [cast("bytes", entry.payload) for entry in entries]
        return [ACCEPTED] * len(entries)

    async def remove(self, target: Target) -> None:
        self._world.arrived.pop(target.name, None)


class _Topic(ScriptedBackend):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.gone = False
        """Whether the next request finds the topic deleted; then it is made again."""

    def encode(self, target: Target, message: Message) -> Entry:
        return Entry((message.body, target.fanout or ()), len(message.body))

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        if self.gone:
            self.gone = False
            return [Result(Outcome.RELEASED, NotFound("the topic was deleted"))] * len(entries)
        for entry in entries:
            body, queues = cast("tuple[bytes, tuple[str, ...]]", entry.payload)
            self._world.arrived[f"topic {target.name}"].append(body)
            for queue in self._world.service.subscribed.intersection(queues):
                self._world.arrived[queue].append(body)
        return [ACCEPTED] * len(entries)


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity(user="")


class Rig:
    """A broker with one rule: what is published to `events…` goes to the topic."""

    def __init__(self, mate: Rig | None = None, store: StateStore | None = None) -> None:
        """With a store, one gateway of several; `mate` is another one."""
        self.service: Service = Service() if mate is None else mate.service
        self.world: World = World(self.service) if mate is None else mate.world
        self.topology = Topology()
        match = ExchangeMatch(Pattern.name("events*"))
        self.broker = (Broker if store is None else FleetBroker)(
            topology=self.topology,
            routes=Routes([Rule("routes.0", match, (RuleTarget.of(TOPIC, match.captures),))]),
            backends={"scripted": self.world.queues, "topic": self.world.topic},
            home="scripted",
            authenticator=Anyone(),
            sending=BatchPolicy(),
            receiving=ReceivePolicy(),
            limits=BrokerLimits(),
            store=store or MemoryStore(),
            metrics=new_metrics(),
            health=Health(),
            subscribers={"topic": self.service},
        )
        at_end(self.broker.aclose)
        self.client = Consumer()
        self.published = 0

    async def start(self) -> None:
        self._watch = asyncio.create_task(self.broker.watch())
        at_end(self._stop)
        for name in ("events", "events.more"):
            self.topology.declare_exchange(name, FANOUT)

    async def _stop(self) -> None:
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)

    async def queue(self, name: str, spec: QueueSpec = DURABLE) -> None:
        await self.broker.declare_queue(name, spec, self.client)
        self.broker.bind(name, "events", "")

    async def publish(self, body: bytes = b"", *, exchange: str = "events", origin: Origin | None = None) -> bytes:
        self.published += 1
        body = body or b"%d" % self.published
        message = Message(Address(exchange, "k"), body)
        message = message if origin is None else replace(message, origin=origin)
        known = len(self.client.answers)
        self.broker.publish(message, self.client, None)
        await until(lambda: len(self.client.answers) > known, "an answer")
        return body


async def time_passes() -> None:
    for _ in range(3):
        await asyncio.sleep(SWEEP)


@on_clock
async def test_one_call_for_all_queues_once_they_are_subscribed() -> None:
    rig = Rig()
    await rig.start()
    for name in ("a", "b"):
        await rig.queue(name)
    before = await rig.publish()  # by the gateway
    await time_passes()
    sent = rig.world.queues.sent.copy()
    after = await rig.publish()
    assert rig.world.arrived == {"a": [before, after], "b": [before, after], "topic events": [before, after]}
    assert rig.world.queues.sent == sent


@on_clock
async def test_a_topic_that_is_gone_has_taken_its_subscriptions_with_it() -> None:
    """What is told so was given back; from then on the gateway sends, until they are made again."""
    rig = Rig()
    await rig.start()
    await rig.queue("a")
    await rig.queue("b")
    await rig.publish()
    await time_passes()
    rig.service.subscribed.clear()
    rig.world.topic.gone = True
    refused = await rig.publish()
    assert rig.client.answers[-1][1].outcome is Outcome.RELEASED
    after = await rig.publish()
    await time_passes()
    sent = rig.world.queues.sent.copy()
    by_service = await rig.publish()
    assert rig.world.queues.sent == sent
    for queue in ("a", "b"):
        assert refused not in rig.world.arrived[queue]
        assert rig.world.arrived[queue][-2:] == [after, by_service]


@on_clock
async def test_a_topic_that_is_lost_while_it_is_looked_at() -> None:
    """What the service has said of the subscription before counts no more."""
    rig = Rig()
    await rig.start()
    await rig.queue("a")

    def lose() -> None:
        rig.service.looking = None
        rig.service.subscribed.clear()
        rig.service.error = Unavailable("no new subscription for now")
        rig.broker._fanout.lose(TOPIC)

    rig.service.looking = lose
    await rig.publish()
    await time_passes()
    assert rig.service.looking is None
    body = await rig.publish()
    assert body in rig.world.arrived["a"]


@on_clock
async def test_what_came_from_a_topic_is_brought_by_the_gateway() -> None:
    rig = Rig()
    await rig.start()
    await rig.queue("a")
    await rig.publish()
    await time_passes()
    body = await rig.publish(origin=Origin("topic", "arn"))
    # The adapter leaves the topic out; here it only counts that the topic was not told to hand it on.
    assert rig.world.arrived["a"].count(body) == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.fifo", {}),
        ("a", {"x-max-priority": 3}),
        ("a", {"x-max-length": 10}),
        ("a", {SESSION: True}),
        ("a", {SELECTOR: "a = 1"}),
    ],
)
@on_clock
async def test_queues_that_need_the_gateway(name: str, arguments: Mapping[str, object]) -> None:
    rig = Rig()
    await rig.start()
    await rig.queue(name, QueueSpec(arguments=arguments))
    await rig.publish()
    await time_passes()
    assert rig.service.calls == []


@on_clock
async def test_a_queue_that_is_given_a_selector_is_sent_to_by_the_gateway_from_then_on() -> None:
    rig = Rig()
    await rig.start()
    await rig.queue("a")
    await rig.publish()
    await time_passes()
    sent = rig.world.queues.sent.copy()
    before = await rig.publish()
    assert rig.world.queues.sent == sent, "the service brought it"
    next(rig.broker.queues()).redefine(QueueSpec(arguments={SELECTOR: "a = 1"}))
    rig.broker.bind("a", "events.more", "")  # so that the way is planned anew
    await rig.publish()
    assert rig.world.arrived["a"][-1] == before, "it does not match"
    await time_passes()
    await rig.publish()
    assert rig.world.arrived["a"][-1] == before


@on_clock
async def test_a_service_has_room_for_so_many() -> None:
    rig = Rig()
    await rig.start()
    names = ["a", "b", "c", "d"]
    for name in names:
        await rig.queue(name)
    first = await rig.publish()
    await time_passes()
    second = await rig.publish()
    assert len(rig.service.subscribed) == rig.service.limit
    assert all(rig.world.arrived[name] == [first, second] for name in names)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["declare", "delete", "bind", "unbind", "publish", "publish", "time", "time", "fail"]),
        st.sampled_from(["a", "b", "c", "d", "x.fifo"]),
        st.sampled_from(["events", "events.more"]),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS)
@on_clock
async def test_every_queue_gets_every_message_once(operations: list[tuple[str, str, str]]) -> None:
    """Whatever is declared, bound, unbound and deleted, before or after subscriptions work."""
    rig = Rig()
    await rig.start()
    rig.topology.bind(ToExchange("events.more"), "events", "")
    expected: defaultdict[str, list[bytes]] = defaultdict(list)
    for operation, queue, exchange in operations:
        if operation == "declare":
            await rig.broker.declare_queue(queue, DURABLE, rig.client)
        elif operation == "delete":
            await rig.broker.delete_queue(queue, rig.client)
            expected.pop(queue, None)
        elif operation in ("bind", "unbind") and rig.topology.has_queue(queue):
            (rig.broker.bind if operation == "bind" else rig.broker.unbind)(queue, exchange, "")
        elif operation == "publish":
            names = rig.topology.route(exchange, "k")
            body = await rig.publish(exchange=exchange)
            for name in names:
                expected[name].append(body)
        elif operation == "fail":
            rig.service.error = None if rig.service.error else Unavailable("out of order")
        elif operation == "time":
            await time_passes()
    for name in ("a", "b", "c", "d", "x.fifo"):
        assert rig.world.arrived.get(name, []) == expected.get(name, [])


# The life of a subscription, on a clock of the test's own


class FailingStore(MemoryStore):
    error: StoreError | None = None

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        if self.error is not None:
            raise self.error
        return await super().put(kind, key, value, expected=expected, expires_at=expires_at)


class Life:
    """One queue, bound to one exchange, and the fan-out of one gateway."""

    def __init__(self, store: FailingStore | None = None, service: Service | None = None, now: float = 1e9) -> None:
        self.now = now
        self.store = store or FailingStore()
        self.service = service or Service(wait=900.0)
        self.topology = Topology()
        self.topology.declare_exchange("events", FANOUT)
        self.queues: dict[str, BackendQueue] = {}
        self.forgotten = 0
        self.have("a")
        self.topology.bind("a", "events", "")
        self.fanout = FanOut(
            {"topic": self.service},
            topology=self.topology,
            store=self.store,
            find=self.queues.get,
            changed=self._forget,
            clock=lambda: self.now,
        )

    def _forget(self) -> None:
        self.forgotten += 1

    def have(self, name: str) -> None:
        def unused(*_: object) -> None:
            raise AssertionError("nothing is sent or received here")

        target = Target(kind="scripted", name=name, queue=name)
        self.topology.declare_queue(name, durable=True)
        self.queues[name] = BackendQueue(
            target,
            DURABLE,
            ScriptedBackend(),
            open_sender=unused,  # type: ignore[arg-type]
            open_receiver=unused,  # type: ignore[arg-type]
            bury=unused,  # type: ignore[arg-type]
            nobody=Consumer(),
        )
        self.queues[name].declared = True

    def brought(self) -> list[str]:
        return [queue.name for queue in self.fanout.brought(TOPIC, "events", list(self.queues.values()))]

    async def after(self, seconds: float) -> list[str]:
        self.now += seconds
        await self.fanout.sweep()
        return self.brought()

    async def records(self) -> list[Record]:
        return [record async for record in every_record(self.store, KIND)]


async def working() -> Life:
    life = Life()
    assert life.brought() == []
    assert await life.after(1) == []
    assert await life.after(life.service.wait) == ["a"]
    return life


class TestLife:
    async def test_it_is_relied_on_when_the_service_has_had_its_time(self) -> None:
        life = Life()
        life.brought()
        await life.after(1)
        assert await life.after(life.service.wait - 1) == []
        assert life.service.calls == ["subscribe"]
        assert await life.after(1) == ["a"]
        assert life.forgotten == 1

    async def test_after_an_unbind_it_is_left_when_nothing_can_be_under_way(self) -> None:
        life = await working()
        life.topology.unbind("a", "events", "")
        assert await life.after(1) == []
        await life.after(LEAVING - 1)
        assert "unsubscribe" not in life.service.calls
        await life.after(1)
        assert life.service.calls[-1] == "unsubscribe"
        assert await life.records() == []

    async def test_while_it_is_left_a_new_binding_is_served_by_the_gateway(self) -> None:
        life = await working()
        life.topology.unbind("a", "events", "")
        await life.after(1)
        life.topology.bind("a", "events", "")
        assert await life.after(1) == []
        await life.after(LEAVING)
        await life.after(1)
        assert await life.after(life.service.wait) == ["a"]

    async def test_a_queue_that_nobody_has_declared_is_the_gateways(self) -> None:
        life = Life()
        life.queues["a"].declared = False
        life.brought()
        assert await life.after(1) == []
        assert life.service.calls == []

    async def test_a_queue_made_anew_is_another(self) -> None:
        life = await working()
        life.have("a")
        assert life.brought() == []  # at once, before any sweep

    async def test_another_way_to_the_queue_keeps_it(self) -> None:
        life = await working()
        life.topology.declare_exchange("other", FANOUT)
        life.topology.bind(ToExchange("other"), "events", "")
        life.topology.bind("a", "other", "")
        life.topology.unbind("a", "events", "")
        assert await life.after(1) == ["a"]

    async def test_an_alternate_exchange_is_a_way_too(self) -> None:
        life = Life()
        life.topology.unbind("a", "events", "")
        life.topology.declare_exchange("lost", FANOUT)
        life.topology.bind("a", "lost", "")
        spec = replace(FANOUT, type=ExchangeType.DIRECT, arguments={"alternate-exchange": "lost"})
        life.topology.declare_exchange("first", spec)
        life.fanout.brought(TOPIC, "first", life.queues.values())
        await life.after(1)
        await life.after(life.service.wait)
        assert await life.after(1) == ["a"]

    async def test_a_subscription_that_was_removed_is_made_again(self) -> None:
        life = await working()
        life.service.subscribed.clear()
        assert await life.after(VERIFY) == []
        await life.after(1)
        assert life.service.subscribed == {"a"}
        assert await life.after(life.service.wait) == ["a"]

    async def test_what_fails_is_tried_again_and_the_gateway_sends(self) -> None:
        life = Life()
        life.service.error = Unavailable("out of order")
        life.brought()
        for _ in range(3):
            assert await life.after(1) == []
        life.service.error = None
        await life.after(600)
        assert await life.after(life.service.wait) == ["a"]

    async def test_after_a_restart_it_is_looked_at_first(self) -> None:
        life = await working()
        again = Life(life.store, life.service, life.now)
        await again.fanout.restore()
        assert again.brought() == []
        assert await again.after(1) == ["a"]
        assert life.service.calls.count("subscribe") == 1

    async def test_after_a_restart_the_rest_of_the_time_is_waited_for(self) -> None:
        life = Life()
        life.brought()
        await life.after(1)
        again = Life(life.store, life.service, life.now)
        await again.fanout.restore()
        assert await again.after(life.service.wait - 1) == []
        assert await again.after(1) == ["a"]

    async def test_after_a_restart_without_the_queue_it_is_left(self) -> None:
        life = await working()
        again = Life(life.store, life.service, life.now)
        await again.fanout.restore()
        del again.queues["a"]
        await again.after(1)
        await again.after(LEAVING)
        assert life.service.calls[-1] == "unsubscribe"

    async def test_an_end_that_could_not_be_written_down_is_no_end_yet(self) -> None:
        life = await working()
        life.store.error = StoreError("full")
        life.topology.unbind("a", "events", "")
        for _ in range(3):
            await life.after(LEAVING)
        assert "unsubscribe" not in life.service.calls
        life.store.error = None
        await life.after(LEAVING)
        assert life.service.calls[-1] == "unsubscribe"

    @pytest.mark.parametrize(("key", "value"), [("[]", b"{}"), ('["topic","t","q","n","n"]', b"{}"), ("x", b"x")])
    async def test_a_record_that_is_none_is_passed_over(self, key: str, value: bytes) -> None:
        life = Life()
        await life.store.put(KIND, key, value)
        await life.fanout.restore()
        assert life.brought() == []


# Two gateways with one store


class Mates:
    """A service, a topic and a queue in common. What they do by themselves is done while time passes."""

    def __init__(self, wait: float = 20.0, count: int = 2) -> None:
        self.loop = asyncio.get_running_loop()
        self.service = Service(wait)
        self.common = MemoryStore()
        self.all = [Mate(self) for _ in range(count)]

    async def start(self) -> list[Mate]:
        for mate in self.all:
            await mate.fleet.join()
            await mate.fanout.restore()
            mate.thaw()
            at_end(mate.freeze)
        return self.all

    async def working(self) -> list[Mate]:
        """Both rely on the subscription that one of them has made."""
        one, *others = await self.start()
        one.brought()
        await asyncio.sleep(2 * SWEEP)
        for mate in others:
            mate.brought()
        await asyncio.sleep(self.service.wait + 2 * SWEEP)
        assert self.service.calls.count("subscribe") == 1
        assert all(mate.brought() == ["a"] for mate in self.all)
        return self.all

    def delete_topic(self) -> None:
        self.service.subscribed.clear()


class Mate(Life):
    """The fan-out of one gateway of several, and its part in the fleet."""

    def __init__(self, mates: Mates) -> None:
        super().__init__(service=mates.service)
        loop = mates.loop
        self.own = SharedStore(mates.common)
        self.fleet = Fleet(self.own, loop.time)
        self.fanout = FanOut(
            {"topic": mates.service},
            topology=self.topology,
            store=self.own,
            find=self.queues.get,
            changed=self._forget,
            clock=lambda: 1e9 + loop.time(),
        )
        self.fanout.follow(self.fleet, StateWriter(self.own, self.fleet))
        self._tasks: list[asyncio.Task[None]] = []

    def thaw(self) -> None:
        self._tasks = [asyncio.ensure_future(each) for each in (self.fleet.run(), self.fanout.run())]

    async def freeze(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@on_clock
async def test_what_is_bound_at_one_is_brought_what_is_published_at_the_other() -> None:
    common = MemoryStore()
    one = Rig(store=SharedStore(common))
    other = Rig(one, SharedStore(common))
    for rig in (one, other):
        await rig.broker.restore()
        await rig.start()
    for name in ("a", "b"):
        await one.broker.declare_queue(name, DURABLE, one.client)
        binding = one.broker.bind(name, "events", "")
        assert binding is not None
        await binding
    await time_passes()
    before = await other.publish(b"by the gateway")
    await time_passes()
    sent = one.world.queues.sent.copy()
    after = [await rig.publish(body) for rig, body in ((other, b"there"), (one, b"here"))]
    assert one.world.queues.sent == sent
    assert one.world.arrived == {name: [before, *after] for name in ("a", "b", "topic events")}


@on_clock
async def test_a_subscription_of_one_gateway_is_relied_on_by_all() -> None:
    await Mates().working()


@on_clock
async def test_a_topic_that_one_has_found_gone_is_lost_to_all_before_it_is_made_again() -> None:
    """What the others publish to the new one by its queues would reach nobody."""
    mates = Mates()
    one, other = await mates.working()
    mates.delete_topic()
    calls = len(mates.service.calls)
    one.fanout.lose(TOPIC)
    assert one.brought() == []
    await asyncio.sleep(TOLD - 0.1)
    assert "subscribe" not in mates.service.calls[calls:]
    assert other.brought() == []


@on_clock
async def test_a_subscription_that_was_made_again_is_waited_for_by_all() -> None:
    mates = Mates()
    one, other = await mates.working()
    mates.delete_topic()
    one.fanout.lose(TOPIC)
    await asyncio.sleep(mates.service.wait)
    assert mates.service.subscribed == {"a"}
    assert [one.brought(), other.brought()] == [[], []]
    await asyncio.sleep(TOLD + 3 * SWEEP)
    assert [one.brought(), other.brought()] == [["a"], ["a"]]


@on_clock
async def test_who_was_not_told_of_a_loss_finds_it_in_the_record() -> None:
    """It could not see the list of changes while the loss was in it."""
    mates = Mates(wait=60.0)
    one, other = await mates.working()
    other.own.fail()
    mates.delete_topic()
    one.fanout.lose(TOPIC)
    await asyncio.sleep(10.0)
    assert mates.service.subscribed == {"a"}
    assert other.brought() == ["a"], "it cannot know"
    other.own.heal()
    await asyncio.sleep(1.0)
    assert other.brought() == []


@on_clock
async def test_a_subscription_that_one_finds_missing_is_no_more_relied_on_by_the_other() -> None:
    mates = Mates()
    one, other = await mates.working()
    await other.freeze()
    mates.delete_topic()
    await asyncio.sleep(VERIFY)
    assert one.brought() == []
    other.thaw()
    await asyncio.sleep(1.0)
    assert other.brought() == []


@on_clock
async def test_what_one_has_ended_the_other_does_not_rely_on() -> None:
    """The queue was deleted and made anew, quicker than the other could see: nothing lets the service into it."""
    mates = Mates()
    one, other = await mates.working()
    one.have("a")
    assert one.brought() == []
    await asyncio.sleep(SWEEP + 2.0)
    assert other.brought() == []
    await asyncio.sleep(LEAVING + 3 * SWEEP)
    assert mates.service.calls.count("unsubscribe") == 1
    assert [record async for record in every_record(mates.common, KIND)] == []


@on_clock
async def test_a_pair_that_ends_while_it_is_not_subscribed_leaves_no_record() -> None:
    mates = Mates()
    one, other = await mates.working()
    mates.service.error = Unavailable("out of order")
    one.fanout.lose(TOPIC)
    await asyncio.sleep(SWEEP)
    mates.service.error = None
    for mate in (one, other):
        mate.topology.unbind("a", "events", "")
    await asyncio.sleep(LEAVING + 3 * SWEEP)
    assert [record async for record in every_record(mates.common, KIND)] == []


@on_clock
async def test_a_loss_that_cannot_be_read_is_passed_over() -> None:
    mates = Mates()
    one, other = await mates.working()
    await one.fleet.announce(LOST, "x")
    one.fanout.lose(TOPIC)
    await asyncio.sleep(2.0)
    assert other.brought() == []
