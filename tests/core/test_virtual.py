"""Queues in memory: order, bounds, redelivery, and what is left when they go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from gateway.core.arguments import SELECTOR
from gateway.core.backend import QueueSpec
from gateway.core.commands import Consume
from gateway.core.deadletter import DeadLettering, Reason
from gateway.core.errors import InUse, NotSupported
from gateway.core.message import Address, Message, Properties
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.subscription import Subscription
from gateway.core.virtual import LIVE_ROOM, Room, VirtualQueue
from tests.rig.clock import ClockLoop, on_clock, settle_down
from tests.rig.scripted import Consumer, Publisher, message, new_metrics

LIVE = QueueSpec(durable=False, exclusive=True, lossy=True)


class Rig:
    def __init__(self, spec: QueueSpec = LIVE) -> None:
        loop = asyncio.get_running_loop()
        self.metrics = new_metrics()
        self.buried: list[tuple[bytes, Reason]] = []
        self.times_unused = 0
        self.wall = 1_000_000.0
        self.queue = VirtualQueue(
            "live", spec, self.metrics, bury=self.bury, on_unused=self.unused, wall=lambda: self.wall + loop.time()
        )
        self.publisher = Publisher()

    def bury(self, queue: DeadLettering, message: Message, reason: Reason, done: Callable[[Result], None]) -> None:
        assert queue is self.queue
        self.buried.append((message.body, reason))
        done(ACCEPTED)

    def unused(self) -> None:
        self.times_unused += 1

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.queue.put(message(body), self.publisher, self.publisher, body)

    def consume(self, prefetch: int) -> tuple[Subscription, Consumer]:
        consumer = Consumer()
        return self.queue.consume(Consume("tag", "live", prefetch, None), consumer), consumer

    @property
    def dropped(self) -> float:
        return self.metrics.registry.get_sample_value("mqlift_virtual_queue_dropped_total") or 0.0


@on_clock
async def test_what_it_does_not_want_is_accepted_and_not_kept() -> None:
    spec = replace(LIVE, accepts=lambda message: message.body != b"own", arguments={SELECTOR: "JMSPriority = 4"})
    rig = Rig(spec)
    rig.put(b"own", b"another's")
    urgent = Message(Address("", "live"), b"urgent", Properties(priority=9))
    rig.queue.put(urgent, rig.publisher, rig.publisher, b"urgent")
    assert {rig.publisher.outcome_of(token) for token in (b"own", b"another's", b"urgent")} == {Outcome.ACCEPTED}
    assert rig.queue.published == 1
    _, consumer = rig.consume(5)
    await settle_down()
    assert consumer.bodies == [b"another's"]


@on_clock
async def test_its_consumers_have_no_selectors() -> None:
    rig = Rig(QueueSpec(durable=False))
    with pytest.raises(NotSupported, match="selector: queue 'live' is in the gateway's memory"):
        rig.queue.consume(Consume("tag", "live", 1, None, selector="a = 1"), Consumer())
    assert rig.queue.consumers == 0


@on_clock
async def test_a_waiting_consumer_gets_a_message_in_the_same_turn() -> None:
    rig = Rig()
    _, consumer = rig.consume(5)
    rig.put(b"a")
    assert consumer.bodies == [b"a"]
    assert rig.publisher.outcome_of(b"a") is Outcome.ACCEPTED


@on_clock
async def test_messages_wait_in_order_for_a_consumer_and_for_credit() -> None:
    rig = Rig()
    rig.put(b"a", b"b", b"c")
    _, consumer = rig.consume(2)
    await settle_down()
    assert consumer.bodies == [b"a", b"b"]
    rig.put(b"d")
    consumer.settle()
    rig.put(b"e")
    await settle_down()
    assert consumer.bodies == [b"c", b"d"], "what comes does not overtake what waits"


@on_clock
async def test_what_is_given_back_comes_first_in_its_order_and_marked() -> None:
    rig = Rig()
    subscription, consumer = rig.consume(3)
    rig.put(b"a", b"b", b"c", b"d")
    subscription.cancel()
    consumer.settle(Outcome.RELEASED)
    rig.put(b"e")
    _, other = rig.consume(10)
    await settle_down()
    assert other.bodies == [b"a", b"b", b"c", b"d", b"e"]
    assert [delivery.attempt for delivery in other.deliveries] == [2, 2, 2, 1, 1]
    assert [delivery.redelivered for delivery in other.deliveries] == [True, True, True, False, False]


@on_clock
async def test_what_is_given_back_overtakes_what_was_already_on_its_way_to_nobody() -> None:
    rig = Rig()
    _, consumer = rig.consume(1)
    rig.put(b"a", b"b")
    await settle_down()  # "b" was looked at, and nobody had credit for it
    consumer.settle(Outcome.RELEASED)
    await settle_down()
    assert [(each.message.body, each.redelivered) for each in consumer.deliveries] == [(b"a", True)]


@on_clock
async def test_a_delivery_is_settled_once() -> None:
    rig = Rig()
    subscription, consumer = rig.consume(1)
    rig.put(b"a", b"b")
    (delivery,) = consumer.deliveries
    delivery.source.settle(delivery, Outcome.ACCEPTED)
    delivery.source.settle(delivery, Outcome.RELEASED)
    await settle_down()
    assert consumer.bodies == [b"a", b"b"]
    assert subscription.held == 1


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.REJECTED])
@on_clock
async def test_an_ended_delivery_does_not_come_back(outcome: Outcome) -> None:
    rig = Rig()
    _, consumer = rig.consume(1)
    rig.put(b"a")
    consumer.settle(outcome)
    await settle_down()
    assert not consumer.deliveries


@on_clock
async def test_a_slow_consumer_holds_up_neither_publishers_nor_memory() -> None:
    rig = Rig()
    with capture_logs() as lines:
        rig.put(*(b"%d" % number for number in range(LIVE_ROOM.messages + 3)))
    assert all(result.outcome is Outcome.ACCEPTED for _, result in rig.publisher.answers)
    assert len(rig.publisher.answers) == LIVE_ROOM.messages + 3
    assert rig.dropped == 3
    assert [line["event"] for line in lines] == ["slow_consumer"], "one line, not one for each message"
    _, consumer = rig.consume(10_000)
    await settle_down()
    assert len(consumer.deliveries) == LIVE_ROOM.messages
    assert consumer.bodies[-1] == b"%d" % (LIVE_ROOM.messages - 1)


@on_clock
async def test_the_bytes_that_wait_are_bounded_and_counted_down() -> None:
    rig = Rig()
    large = b"x" * (LIVE_ROOM.bytes // 4)
    with capture_logs() as lines:
        rig.put(large, large, large, large, b"one more")
        assert rig.dropped == 1
        _, consumer = rig.consume(2)
        await settle_down()
        rig.put(large, large, b"one more")
        assert rig.dropped == 2
        consumer.settle()
        await settle_down()
        consumer.settle()
        await settle_down()
        assert rig.queue._bytes == 0
        consumer.settle()
        rig.put(large, large, large, large, large, large, b"one more")
    assert rig.dropped == 3
    assert [line["event"] for line in lines] == ["slow_consumer"] * 2, "once for each time that it falls behind"


@on_clock
async def test_a_closed_queue_keeps_nothing_that_comes_back() -> None:
    rig = Rig()
    subscription, consumer = rig.consume(2)
    rig.put(b"a", b"b", b"c")
    subscription.cancel()
    rig.queue.close()
    consumer.settle(Outcome.RELEASED)
    await settle_down()
    assert not rig.queue.ready


@on_clock
async def test_a_consumer_that_closes_the_queue_while_it_is_handed_a_message_breaks_nothing() -> None:
    rig = Rig()
    rig.put(b"a", b"b")

    class Leaving(Consumer):
        def deliver(self, subscription: Subscription, delivery: object) -> None:
            subscription.cancel()
            rig.queue.close()

    rig.queue.consume(Consume("tag", "live", 5, None), Leaving())
    await settle_down()
    assert not rig.queue.ready


@on_clock
async def test_consumers_of_one_queue_take_turns() -> None:
    rig = Rig()
    first, second = rig.consume(10)[1], rig.consume(10)[1]
    rig.put(b"a", b"b", b"c", b"d")
    assert (first.bodies, second.bodies) == ([b"a", b"c"], [b"b", b"d"])


def declared(**arguments: object) -> QueueSpec:
    return QueueSpec(durable=False, arguments={name.replace("_", "-"): value for name, value in arguments.items()})


def expiring(body: bytes, milliseconds: int) -> Message:
    return Message(Address("", "live"), body, Properties(expiration=milliseconds))


def delayed(body: bytes, until: float) -> Message:
    return Message(Address("", "live"), body, not_before=until)


@on_clock
async def test_a_declared_queue_that_is_full_gives_back_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.core.virtual.QUEUE_ROOM", Room(messages=2, bytes=1_000))
    rig = Rig(declared())
    rig.put(b"a", b"b", b"c")
    assert rig.publisher.outcome_of(b"c") is Outcome.RELEASED
    assert (rig.queue.ready, rig.dropped, rig.buried) == (2, 0, [])


@on_clock
async def test_the_oldest_gives_way_where_the_length_is_limited() -> None:
    rig = Rig(declared(x_max_length=2))
    rig.put(b"a", b"b", b"c")
    assert rig.buried == [(b"a", Reason.MAXLEN)]
    _, consumer = rig.consume(3)
    await settle_down()
    rig.put(b"d")
    rig.put(b"e", b"f")
    assert consumer.bodies == [b"b", b"c", b"d"], "who waits is counted, and not what is held"


@on_clock
async def test_bytes_are_limited_too_and_what_never_fits_goes_at_once() -> None:
    rig = Rig(declared(x_max_length_bytes=4))
    rig.put(b"aa", b"bb", b"ccc", b"never")
    assert rig.buried == [
        (b"aa", Reason.MAXLEN),
        (b"bb", Reason.MAXLEN),
        (b"ccc", Reason.MAXLEN),
        (b"never", Reason.MAXLEN),
    ]
    assert all(result is ACCEPTED for _, result in rig.publisher.answers)
    assert rig.queue._bytes == 0


@pytest.mark.parametrize(
    ("overflow", "buried"), [("reject-publish", []), ("reject-publish-dlx", [(b"b", Reason.MAXLEN)])]
)
@on_clock
async def test_the_newest_is_refused_where_that_was_asked_for(overflow: str, buried: list[object]) -> None:
    rig = Rig(declared(x_max_length=1, x_overflow=overflow))
    rig.put(b"a", b"b")
    assert rig.publisher.outcome_of(b"b") is Outcome.REJECTED
    assert rig.buried == buried
    assert rig.queue.ready == 1


@on_clock
async def test_messages_expire_at_the_head_when_their_time_is_over() -> None:
    rig = Rig(declared(x_message_ttl=2_000))
    rig.put(b"a")
    rig.publisher.answers.clear()
    rig.queue.put(expiring(b"own", 500), rig.publisher, rig.publisher, b"own")
    await asyncio.sleep(1.9)
    assert rig.buried == [], "the one behind waits for its turn, as in RabbitMQ"
    await asyncio.sleep(0.2)
    assert rig.buried == [(b"a", Reason.EXPIRED), (b"own", Reason.EXPIRED)]
    rig.put(b"b")
    await asyncio.sleep(1.0)
    _, consumer = rig.consume(1)
    await settle_down()
    assert consumer.bodies == [b"b"]
    await asyncio.sleep(10)
    assert len(rig.buried) == 2, "what a consumer holds does not expire"
    consumer.settle(Outcome.RELEASED)
    await settle_down()
    assert rig.buried[2:] == [(b"b", Reason.EXPIRED)], "and is not delivered again after its time"
    assert not consumer.deliveries


@on_clock
async def test_a_message_with_a_time_of_nothing_needs_a_consumer_that_waits() -> None:
    rig = Rig(declared(x_message_ttl=0))
    rig.put(b"a")
    await asyncio.sleep(0.01)
    assert rig.buried == [(b"a", Reason.EXPIRED)]
    _, consumer = rig.consume(1)
    rig.put(b"b")
    assert consumer.bodies == [b"b"]


@on_clock
async def test_a_shorter_time_behind_a_longer_one_is_seen_when_it_comes_first() -> None:
    rig = Rig(declared())
    for body, milliseconds in ((b"long", 60_000), (b"short", 1_000)):
        rig.queue.put(expiring(body, milliseconds), rig.publisher, rig.publisher, body)
    _, consumer = rig.consume(1)
    await settle_down()
    assert consumer.bodies == [b"long"]
    await asyncio.sleep(1.1)
    assert rig.buried == [(b"short", Reason.EXPIRED)]
    assert rig.queue.get() is None


@on_clock
async def test_the_highest_priority_comes_first_and_what_was_given_back_before_its_equals() -> None:
    rig = Rig(declared(x_max_priority=5))
    for number, priority in enumerate((0, 5, None, 9, 3)):
        body = b"%d" % number
        rig.queue.put(
            Message(Address("", "live"), body, Properties(priority=priority)), rig.publisher, rig.publisher, body
        )
    subscription, consumer = rig.consume(2)
    await settle_down()
    assert consumer.bodies == [b"1", b"3"]
    subscription.cancel()
    consumer.settle(Outcome.RELEASED)
    _, other = rig.consume(10)
    await settle_down()
    assert other.bodies == [b"1", b"3", b"4", b"0", b"2"]


@on_clock
async def test_a_delayed_message_comes_when_it_is_due_also_to_a_queue_that_is_full() -> None:
    rig = Rig(declared(x_max_length=1, x_overflow="reject-publish"))
    rig.queue.put(delayed(b"later", rig.wall + 1_002.0), rig.publisher, rig.publisher, b"later")
    rig.put(b"a")
    assert rig.publisher.outcome_of(b"later") is Outcome.ACCEPTED
    await asyncio.sleep(1.9)
    assert rig.queue.ready == 1
    await asyncio.sleep(0.2)
    assert rig.queue.ready == 2, "it was accepted, so it is kept"
    _, consumer = rig.consume(5)
    await settle_down()
    assert consumer.bodies == [b"a", b"later"]
    assert rig.queue._bytes == 0


@on_clock
async def test_what_is_delayed_takes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.core.virtual.QUEUE_ROOM", Room(messages=2, bytes=10))
    rig = Rig(declared())
    for body in (b"12345", b"1234567", b"1", b"2"):
        rig.queue.put(delayed(body, rig.wall + 2_000.0), rig.publisher, rig.publisher, body)
    released = [token for token, result in rig.publisher.answers if result.outcome is Outcome.RELEASED]
    assert released == [b"1234567", b"2"]


@on_clock
async def test_purging_drops_what_waits_and_neither_what_is_held_nor_what_is_delayed() -> None:
    rig = Rig(declared())
    _, consumer = rig.consume(1)
    rig.put(b"held", b"a", b"b")
    rig.queue.put(delayed(b"later", rig.wall + 1_001.0), rig.publisher, rig.publisher, b"later")
    assert rig.queue.purge() == 2
    await asyncio.sleep(1.1)
    consumer.settle()
    await settle_down()
    assert consumer.bodies == [b"later"]


@on_clock
async def test_a_message_that_is_got_is_held_until_it_is_settled() -> None:
    rig = Rig(declared())
    assert rig.queue.get() is None
    rig.put(b"a", b"b")
    first = rig.queue.get()
    assert first is not None
    assert (first.message.body, rig.queue.ready) == (b"a", 1)
    first.source.settle(first, Outcome.RELEASED)
    again = rig.queue.get()
    assert again is not None
    assert (again.message.body, again.attempt) == (b"a", 2)


@on_clock
async def test_what_fails_too_often_is_given_up() -> None:
    rig = Rig(declared(x_delivery_limit=1))
    _, consumer = rig.consume(1)
    rig.put(b"a")
    for attempt in (1, 2):
        assert [delivery.attempt for delivery in consumer.deliveries] == [attempt]
        consumer.settle(Outcome.RELEASED)
        await settle_down()
    assert not consumer.deliveries
    assert rig.buried == [(b"a", Reason.DELIVERY_LIMIT)]


@on_clock
async def test_what_is_rejected_is_given_up() -> None:
    rig = Rig(declared())
    _, consumer = rig.consume(1)
    rig.put(b"a")
    consumer.settle(Outcome.REJECTED)
    assert rig.buried == [(b"a", Reason.REJECTED)]


@on_clock
async def test_only_one_consumer_is_active_where_that_was_asked_for() -> None:
    rig = Rig(declared(x_single_active_consumer=True))
    first, active = rig.consume(1)
    _, waiting = rig.consume(10)
    rig.put(b"a", b"b")
    await settle_down()
    assert (active.bodies, waiting.bodies) == ([b"a"], [])
    first.cancel()
    active.settle(Outcome.RELEASED)
    await settle_down()
    assert sorted(waiting.bodies) == [b"a", b"b"]


@on_clock
async def test_an_exclusive_consumer_is_alone() -> None:
    rig = Rig(declared())
    alone = rig.queue.consume(Consume("tag", "live", 1, None, exclusive=True), Consumer())
    with pytest.raises(InUse):
        rig.consume(1)
    alone.cancel()
    rig.consume(1)
    with pytest.raises(InUse):
        rig.queue.consume(Consume("tag", "live", 1, None, exclusive=True), Consumer())


@on_clock
async def test_a_queue_is_unused_when_its_last_consumer_leaves_and_not_before_its_first() -> None:
    rig = Rig(QueueSpec(durable=False, auto_delete=True))
    rig.put(b"a")
    assert rig.queue.get() is not None
    assert rig.times_unused == 0
    first, second = rig.consume(1)[0], rig.consume(1)[0]
    first.cancel()
    assert rig.times_unused == 0
    second.cancel()
    assert rig.times_unused == 1


@on_clock
async def test_closing_tells_who_wants_to_be_told_once_and_leaves_no_timer() -> None:
    rig = Rig(declared(x_message_ttl=60_000))
    consumer, other = Consumer(), Consumer()
    rig.queue.consume(Consume("tag", "live", 1, None, cancellable=True), consumer)
    rig.queue.consume(Consume("tag", "live", 1, None), other)
    rig.put(b"a", b"b", b"c")
    rig.queue.close()
    assert (consumer.times_cancelled, other.times_cancelled) == (1, 0)
    assert rig.queue.consumers == 0
    assert rig.queue._timer is not None
    assert rig.queue._timer.cancelled()


class VirtualMachine(RuleBasedStateMachine):
    """Whatever happens, in any order: each message that was accepted is in one place, and comes to one end."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=ClockLoop)
        self.runner.get_loop()
        self.published = 0
        self.ended: list[bytes] = []
        self.consumers: list[tuple[Subscription, Consumer]] = []

    @initialize(
        arguments=st.fixed_dictionaries(
            {},
            optional={
                "x-max-length": st.integers(0, 4),
                "x-max-priority": st.integers(1, 3),
                "x-message-ttl": st.integers(0, 3_000),
                "x-delivery-limit": st.integers(0, 2),
                "x-single-active-consumer": st.booleans(),
                "x-overflow": st.sampled_from(["drop-head", "reject-publish", "reject-publish-dlx"]),
            },
        )
    )
    def declare(self, arguments: dict[str, object]) -> None:
        async def make() -> Rig:
            return Rig(QueueSpec(durable=False, arguments=arguments))

        self.rig = self.runner.run(make())

    def act(self, action: Callable[[], object]) -> None:
        async def run() -> None:
            action()
            await settle_down(3)

        self.runner.run(run())

    @rule(priority=st.integers(0, 4), expiration=st.none() | st.integers(0, 2_000), delay=st.sampled_from([0, 0, 1, 2]))
    def publish(self, priority: int, expiration: int | None, delay: int) -> None:
        def put() -> None:
            body = b"%d" % self.published
            self.published += 1
            now = self.rig.wall + asyncio.get_running_loop().time()
            properties = Properties(priority=priority, expiration=expiration)
            message = Message(Address("", "live"), body, properties, not_before=now + delay if delay else 0.0)
            self.rig.queue.put(message, self.rig.publisher, self.rig.publisher, body)

        self.act(put)

    @rule(prefetch=st.integers(1, 3))
    def join(self, prefetch: int) -> None:
        self.act(lambda: self.consumers.append(self.rig.consume(prefetch)))

    @precondition(lambda self: self.consumers)
    @rule(which=st.integers(0, 9), outcome=st.sampled_from(Outcome))
    def settle(self, which: int, outcome: Outcome) -> None:
        _, consumer = self.consumers[which % len(self.consumers)]
        if consumer.deliveries:
            delivery = consumer.deliveries.pop(0)
            if outcome is Outcome.ACCEPTED:
                self.ended.append(delivery.message.body)
            self.act(lambda: delivery.source.settle(delivery, outcome))

    @precondition(lambda self: self.consumers)
    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        subscription, consumer = self.consumers.pop(which % len(self.consumers))

        def lose() -> None:
            subscription.cancel()
            consumer.settle(Outcome.RELEASED)

        self.act(lose)

    @rule()
    def get(self) -> None:
        def take() -> None:
            delivery = self.rig.queue.get()
            if delivery is not None:
                self.ended.append(delivery.message.body)
                delivery.source.settle(delivery, Outcome.ACCEPTED)

        self.act(take)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5]))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        if not hasattr(self, "rig"):
            return
        queue = self.rig.queue
        lines = [part for line in queue._ready._lines for part in (line.released, line.waiting)]
        ready = [delivery.message.body for part in lines for delivery in part]
        later = [message.body for _, _, message in queue._delayed]
        held = [body for _, consumer in self.consumers for body in consumer.bodies]
        buried = [body for body, _ in self.rig.buried]
        refused = [token for token, result in self.rig.publisher.answers if result.outcome is not Outcome.ACCEPTED]
        places = [*ready, *later, *held, *buried, *self.ended, *(body for body in refused if body not in buried)]
        assert sorted(places, key=int) == [b"%d" % number for number in range(self.published)]
        assert len(ready) == queue.ready
        assert queue._bytes == sum(map(len, [*ready, *later]))

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.act(self.rig.queue.close)
        self.runner.close()


TestVirtualMachine = VirtualMachine.TestCase
TestVirtualMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
