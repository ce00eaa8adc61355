"""Queues in memory: order, bounds, redelivery, and what is left when they go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from gateway.core.backend import QueueSpec
from gateway.core.deadletter import DeadLettering, Reason
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import Consume
from gateway.core.subscription import Subscription
from gateway.core.virtual import LIVE_ROOM, VirtualQueue
from tests.rig.clock import on_clock, settle_down
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
