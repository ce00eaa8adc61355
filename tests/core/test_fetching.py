"""Deliveries whose bodies are elsewhere: fetched one by one, hidden meanwhile, in memory no longer than needed."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from gateway.core.backend import Received
from gateway.core.budget import ByteBudget
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.errors import AccessDenied, BackendError, Unavailable
from gateway.core.fetching import Fetching
from gateway.core.outcome import Outcome
from gateway.core.subscription import Subscription
from tests.core.test_receiver import Rig
from tests.rig.clock import on_clock, settle_down
from tests.rig.large import ScriptedBody
from tests.rig.scripted import TARGET, Consumer, message


def arrive(rig: Rig, *messages: ScriptedBody | bytes) -> None:
    rig.backend.inbox.extend(
        Received(message(each), "r-" + each.decode()) if isinstance(each, bytes) else each.received()
        for each in messages
    )
    rig.backend.arrive()


async def consuming(rig: Rig, *messages: ScriptedBody | bytes, prefetch: int = 10) -> Consumer:
    arrive(rig, *messages)
    _, consumer = rig.subscribe(prefetch)
    await settle_down()
    return consumer


@on_clock
async def test_a_delivery_comes_with_its_body_and_leaves_memory_when_it_is_settled() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    consumer = await consuming(rig, body)
    assert consumer.bodies == [b"large"]
    assert body.in_memory
    consumer.settle()
    await settle_down()
    assert rig.backend.deleted == ["r-large"]
    assert not body.in_memory


@on_clock
async def test_others_pass_one_that_is_waited_for_where_there_is_no_order() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    body.arrived.clear()
    consumer = await consuming(rig, body, b"small")
    assert consumer.bodies == [b"small"]
    body.arrived.set()
    await settle_down()
    assert consumer.bodies == [b"small", b"large"]


@on_clock
async def test_where_there_is_an_order_it_is_kept() -> None:
    rig, first, last = Rig(), ScriptedBody(b"first", ordered=True), ScriptedBody(b"last", ordered=True)
    first.arrived.clear()
    consumer = await consuming(rig, first, b"small", last)
    assert not consumer.bodies
    arrive(rig, b"later")
    await settle_down()
    first.arrived.set()
    await settle_down()
    assert consumer.bodies == [b"first", b"small", b"last", b"later"]


@on_clock
async def test_no_more_than_there_is_room_for_is_in_memory_and_the_rest_stays_hidden() -> None:
    rig, budget = Rig(), ByteBudget(10)
    bodies = [ScriptedBody(b"body-%d" % number, budget=budget) for number in range(4)]
    consumer = await consuming(rig, *bodies)
    assert consumer.bodies == [b"body-0"]
    assert [body.in_memory for body in bodies] == [True, False, False, False]
    await asyncio.sleep(60.0)
    hidden = {receipt for receipts in rig.backend.extended for receipt in receipts}
    assert hidden == {"r-body-0", "r-body-1", "r-body-2", "r-body-3"}
    for number in range(1, 4):
        consumer.deliveries[-1].unload()  # it was written
        await settle_down()
        assert consumer.deliveries[-1].message.body == b"body-%d" % number
    assert rig.backend.asked[0] == 10
    assert budget.used == 6


@on_clock
async def test_what_waits_counts_towards_the_credit() -> None:
    rig, budget = Rig(), ByteBudget(10)
    bodies = [ScriptedBody(b"body-%d" % number, budget=budget) for number in range(4)]
    await consuming(rig, *bodies, prefetch=2)
    assert rig.backend.asked == [2]
    assert len(rig.backend.inbox) == 2


@on_clock
async def test_one_that_cannot_be_had_is_left_alone_and_others_come() -> None:
    rig, gone, there = Rig(), ScriptedBody(b"gone"), ScriptedBody(b"there")
    gone.failures = [Unavailable("S3 is down")]
    consumer = await consuming(rig, gone, there)
    assert consumer.bodies == [b"there"]
    assert not rig.backend.settled, "it comes back when its visibility ends"
    await asyncio.sleep(60.0)
    assert {receipt for receipts in rig.backend.extended for receipt in receipts} == {"r-there"}
    assert not gone.in_memory


@on_clock
async def test_what_would_overtake_one_that_cannot_be_had_is_given_back() -> None:
    rig, gone, later = Rig(), ScriptedBody(b"gone", ordered=True), ScriptedBody(b"later", ordered=True)
    gone.failures = [Unavailable("S3 is down")]
    consumer = await consuming(rig, gone, b"small", later)
    await asyncio.sleep(0.1)
    assert not consumer.bodies
    assert sorted(rig.backend.released) == ["r-later", "r-small"]


@on_clock
async def test_a_missing_permission_is_told() -> None:
    rig, gone = Rig(), ScriptedBody(b"gone")
    gone.failures = [AccessDenied("s3:GetObject")]
    await consuming(rig, gone)
    assert [problem.text for problem in rig.health.problems] == ["s3:GetObject"]


@on_clock
async def test_a_consumer_that_reads_nothing_is_waited_for_without_memory() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    body.arrived.clear()
    arrive(rig, body)
    subscription, consumer = rig.subscribe(10)
    await settle_down()
    subscription.blocked = True
    body.arrived.set()
    await settle_down()
    assert (body.in_memory, body.fetches) == (False, 1)
    assert not rig.backend.released, "or it would be given back again and again"
    subscription.unblock()
    await settle_down()
    assert consumer.bodies == [b"large"]
    assert body.fetches == 2


@on_clock
async def test_what_waits_is_given_back_when_the_last_consumer_leaves() -> None:
    rig, first, second = Rig(), ScriptedBody(b"first"), ScriptedBody(b"second")
    first.arrived.clear()
    arrive(rig, first, second)
    subscription, consumer = rig.subscribe(10)
    await settle_down()
    subscription.cancel()
    await settle_down()
    assert sorted(rig.backend.released) == ["r-first", "r-second"]
    assert not first.in_memory
    # And the queue goes on with the next consumer.
    first.arrived.set()
    third = ScriptedBody(b"third")
    consumer = await consuming(rig, third)
    assert consumer.bodies == [b"third"]


@on_clock
async def test_what_waits_is_given_back_at_the_end() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    body.arrived.clear()
    consumer = await consuming(rig, body)
    rig.receiver.stop()
    await rig.receiver.finish()
    await rig.settler.drain()
    assert rig.backend.released == ["r-large"]
    assert not consumer.bodies
    assert not body.in_memory


@on_clock
async def test_what_comes_after_the_end_is_given_back() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    gate = asyncio.Event()

    async def slow(limit: int) -> None:
        await gate.wait()

    rig.backend.on_receive = slow
    await consuming(rig, body)
    rig.receiver.stop()
    gate.set()
    await rig.receiver.finish()
    await rig.settler.drain()
    assert rig.backend.released == ["r-large"]
    assert body.fetches == 0


@on_clock
async def test_one_that_is_taken_alone_comes_without_its_body() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    arrive(rig, body)
    delivery = await rig.receiver.get()
    assert delivery is not None
    assert delivery.absent
    await delivery.load()
    await delivery.load()
    assert (delivery.message.body, body.fetches) == (b"large", 1)
    delivery.strip()
    assert (delivery.message.body, body.in_memory) == (b"", True)
    delivery.unload()
    assert not body.in_memory
    rig.receiver.settle(delivery, Outcome.ACCEPTED)


def selecting(rig: Rig, prefetch: int = 10) -> tuple[Subscription, Consumer]:
    """A consumer that wants the red ones."""
    consumer = Consumer()
    rig.receiver.pass_over(30.0)
    command = Consume("tag", TARGET.queue, prefetch, None, selector="colour = 'red'")
    subscription = Subscription(command, rig.receiver, consumer)
    rig.receiver.subscribe(subscription)
    return subscription, consumer


@on_clock
async def test_what_no_selector_takes_is_not_fetched() -> None:
    rig, red, blue = Rig(), ScriptedBody(b"red"), ScriptedBody(b"blue")
    rig.backend.inbox.extend([blue.received(headers={"colour": "blue"}), red.received(headers={"colour": "red"})])
    rig.backend.arrive()
    _, consumer = selecting(rig)
    await settle_down()
    assert consumer.bodies == [b"red"]
    assert (red.fetches, blue.fetches) == (1, 0)
    assert rig.backend.extended == [["r-blue"]]


@on_clock
async def test_what_a_selector_takes_waits_for_credit_without_its_body() -> None:
    rig, first, second = Rig(), ScriptedBody(b"first"), ScriptedBody(b"second")
    first.arrived.clear()
    rig.backend.inbox.extend(each.received(headers={"colour": "red"}) for each in (first, second))
    rig.backend.arrive()
    subscription, consumer = selecting(rig)
    await settle_down()
    subscription.blocked = True
    first.arrived.set()
    await settle_down()
    assert not consumer.bodies
    assert [first.in_memory, second.in_memory] == [False, False]
    subscription.unblock()
    await settle_down()
    assert sorted(consumer.bodies) == [b"first", b"second"]
    consumer.settle()
    await settle_down()
    assert sorted(rig.backend.deleted) == ["r-first", "r-second"]


@on_clock
async def test_a_bug_in_what_follows_gives_back_what_waits_and_is_told() -> None:
    given_back: list[Delivery] = []

    def hand_out(delivery: Delivery) -> None:
        raise KeyError("a bug")

    def failed(delivery: Delivery, error: BackendError) -> None:
        raise AssertionError(error)

    fetching = Fetching(
        wanted=lambda: True, left=lambda _: False, hand_out=hand_out, give_back=given_back.append, failed=failed
    )
    rig = Rig()
    first, second = (Delivery(ScriptedBody(body).received(), rig.receiver) for body in (b"a", b"b"))
    fetching.put(first)
    fetching.put(second)
    with capture_logs() as lines:
        await settle_down()
    assert given_back == [second]
    assert [line["event"] for line in lines] == ["hand_out_failed_unexpectedly"]
