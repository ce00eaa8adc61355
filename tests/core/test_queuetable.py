"""Queues as clients declare, find and delete them: through the broker, with what may happen in between."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from adapters.memory.backend import MemoryBackend
from gateway.core.backend import QueueSpec, Target
from gateway.core.commands import Consume, Presence
from gateway.core.errors import (
    AccessDenied,
    Inequivalent,
    InUse,
    InvalidArgument,
    Locked,
    NotEmpty,
    NotFound,
    NotSupported,
)
from gateway.core.message import TOPIC_EXCHANGE, Address, Message, Properties
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome
from gateway.core.shared import SUBSCRIPTION
from gateway.core.topology import UnknownQueue
from tests.core.test_broker import DURABLE, LIVE, Rig, place, queue_rule
from tests.rig.clock import on_clock, settle_down, until
from tests.rig.scripted import Consumer, message, raising

LATE = 100.0


def arguments(**given: object) -> QueueSpec:
    return QueueSpec(arguments={name.replace("_", "-"): value for name, value in given.items()})


async def declare(rig: Rig, name: str = "orders", spec: QueueSpec = DURABLE, owner: Consumer | None = None) -> None:
    await rig.broker.declare_queue(name, spec, owner or rig.client, Presence.EQUIVALENT)


class Gate:
    """Holds a request of the backend up, and says when it is there."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.reached = False

    async def __call__(self, target: Target) -> None:
        self.reached = True
        await self.open.wait()


# Declaring


@pytest.mark.parametrize("spec", [DURABLE, LIVE, arguments(x_max_length=5)])
@on_clock
async def test_declared_again_it_has_to_be_the_same(spec: QueueSpec) -> None:
    rig = Rig()
    await declare(rig, spec=spec)
    await declare(rig, spec=spec)
    with pytest.raises(Inequivalent):
        await declare(rig, spec=arguments(x_max_length=6))
    await rig.broker.declare_queue("orders", arguments(x_max_length=6), rig.client, Presence.ANY)


@on_clock
async def test_an_exclusive_queue_is_locked_for_others_whatever_they_want_of_it() -> None:
    rig = Rig()
    await declare(rig, "mine", LIVE)
    other = Consumer()
    for attempt in (
        declare(rig, "mine", LIVE, other),
        rig.broker.declare_queue("mine", LIVE, other, Presence.REQUIRED),
        rig.broker.delete_queue("mine", other),
        rig.broker.purge_queue("mine", other),
        rig.broker.get("mine", other),
    ):
        with pytest.raises(Locked):
            await attempt
    with pytest.raises(Locked):
        rig.broker.consume(Consume("tag", "mine", 1, None), other)


@on_clock
async def test_a_name_that_one_declares_durable_and_another_virtual_at_once_becomes_one_of_them() -> None:
    rig = Rig()
    gate = rig.backend.on_ensure = Gate()
    durable = asyncio.create_task(declare(rig))
    await settle_down()
    virtual = asyncio.create_task(declare(rig, spec=QueueSpec(durable=False)))
    await settle_down()
    assert not virtual.done()
    gate.open.set()
    await durable
    with pytest.raises(Inequivalent):
        await virtual
    assert rig.broker._queues.virtual("orders") is None
    assert not rig.broker._queues._one_by_one


@on_clock
async def test_what_is_refused_makes_nothing() -> None:
    rig = Rig()
    for spec, error in (
        (arguments(x_message_ttl=-1), InvalidArgument),
        (arguments(x_queue_type="stream"), NotSupported),
        (QueueSpec(durable=False, arguments={"x-max-length": "many"}), InvalidArgument),
    ):
        with pytest.raises(error):
            await declare(rig, spec=spec)
    assert not rig.backend.ensured
    assert not rig.topology.has_queue("orders")
    assert not rig.broker._queues._one_by_one


def subscribed(topic: str) -> QueueSpec:
    return QueueSpec(arguments={SUBSCRIPTION: topic})


async def renew(rig: Rig, topic: str, owner: Consumer | None = None) -> None:
    await rig.broker.declare_queue("subscriber", subscribed(topic), owner or rig.client, Presence.RENEWED)
    rig.broker.rebind("subscriber", [(TOPIC_EXCHANGE, topic)])


@on_clock
async def test_a_queue_of_other_arguments_is_made_anew_without_what_was_in_it() -> None:
    backend = MemoryBackend()
    rig = Rig(backends={"memory": backend})
    await rig.broker.restore()
    await renew(rig, "old")
    for topic in ("old", "new"):
        await rig.publish(Message(Address(TOPIC_EXCHANGE, topic), b"waits"))
    await renew(rig, "old")
    queue = rig.broker._queues.durable("subscriber")
    assert queue is not None
    assert (await queue.depth(fresh=True)).ready == 1
    await renew(rig, "new")
    assert await rig.publish(Message(Address(TOPIC_EXCHANGE, "old"), b"unheard")) is UNROUTED
    assert await rig.publish(Message(Address(TOPIC_EXCHANGE, "new"), b"heard")) is ACCEPTED
    rig.broker.consume(Consume("tag", "subscriber", 5, None), rig.client)
    await until(lambda: rig.client.bodies == [b"heard"], "what came since")
    assert [target.queue for target in (queue.target, rig.broker._queues.durable("subscriber").target)] == [  # type: ignore[union-attr]
        "subscriber"
    ] * 2


@on_clock
async def test_a_queue_that_was_made_anew_is_found_again_after_a_restart() -> None:
    backend = MemoryBackend()
    rig = Rig(backends={"memory": backend})
    await rig.broker.restore()
    for topic in ("old", "new"):
        await renew(rig, topic)
    await rig.publish(Message(Address(TOPIC_EXCHANGE, "new"), b"waits"))
    again = Rig(backends={"memory": backend}, store=rig.store)
    await again.broker.restore()
    await renew(again, "new")
    again.broker.consume(Consume("tag", "subscriber", 5, None), again.client)
    await until(lambda: again.client.bodies == [b"waits"], "what waits")


@on_clock
async def test_a_queue_that_is_consumed_is_not_made_anew() -> None:
    rig = Rig()
    await renew(rig, "old")
    rig.broker.consume(Consume("tag", "subscriber", 5, None), rig.client)
    with pytest.raises(InUse):
        await renew(rig, "new", Consumer())
    await renew(rig, "old")
    assert await rig.publish(Message(Address(TOPIC_EXCHANGE, "old"), b"")) is ACCEPTED


@on_clock
async def test_a_queue_that_a_rule_has_a_place_for_is_emptied_there() -> None:
    rig = Rig(queue_rule("subscriber", place("elsewhere")))
    await rig.broker.restore()
    await renew(rig, "old")
    rig.backend.arrive(b"waits")
    await renew(rig, "new")
    assert rig.backend.deleted == ["r-waits"]
    assert [binding.pattern for binding in rig.topology.bindings("subscriber")] == ["new"]
    again = Rig(queue_rule("subscriber", place("elsewhere")), store=rig.store)
    await again.broker.restore()
    assert again.broker.is_declared_as("subscriber", subscribed("new"))


@on_clock
async def test_looking_for_a_queue_finds_what_is_in_aws_and_makes_nothing() -> None:
    rig = Rig()
    rig.backend.on_probe = raising(NotFound("there is none"))
    with pytest.raises(UnknownQueue):
        await rig.broker.declare_queue("orders", DURABLE, rig.client, Presence.REQUIRED)
    assert not rig.topology.has_queue("orders")
    rig.backend.on_probe = None
    rig.backend.arrive(b"a")
    counted = await rig.broker.declare_queue("orders", DURABLE, rig.client, Presence.REQUIRED)
    assert (counted.messages, counted.consumers) == (1, 0)
    assert await rig.publish(message()) is ACCEPTED
    assert not rig.backend.ensured


@on_clock
async def test_the_first_declaration_says_how_a_queue_is_that_a_rule_names_or_that_was_found() -> None:
    rig = Rig(queue_rule("orders", place("orders")))
    await rig.broker.restore()
    await rig.broker.declare_queue("found", DURABLE, rig.client, Presence.REQUIRED)
    for name in ("orders", "found"):
        await declare(rig, name, arguments(x_message_ttl=5_000))
        with pytest.raises(Inequivalent):
            await declare(rig, name)
    assert rig.backend.ensured == ["orders", "found"]


@on_clock
async def test_durable_queues_come_back_with_their_bindings_and_arguments() -> None:
    rig = Rig()
    await rig.broker.restore()
    await declare(rig, spec=arguments(x_max_length=5))
    written = rig.broker.bind("orders", TOPIC_EXCHANGE, "a.#")
    assert written is not None
    await written
    again = Rig(store=rig.store)
    await again.broker.restore()
    assert await again.publish(Message(Address(TOPIC_EXCHANGE, "a.b"), b"")) is ACCEPTED
    with pytest.raises(Inequivalent):
        await declare(again)


@on_clock
async def test_a_queue_that_cannot_be_restored_is_told_and_costs_only_itself() -> None:
    rig = Rig()
    await declare(rig, "good")
    await rig.store.put("queue", "bad", b'{"arguments":{"x-max-length":"many"}}')
    again = Rig(store=rig.store)
    with capture_logs() as lines:
        await again.broker.restore()
    assert [line["event"] for line in lines] == ["queue_not_restored"]
    assert again.topology.has_queue("good")


# Deleting


@on_clock
async def test_deleting_what_is_not_there_is_fine() -> None:
    rig = Rig()
    assert (await rig.broker.delete_queue("orders", rig.client)).messages == 0


@on_clock
async def test_a_deletion_goes_on_when_who_asked_for_it_vanishes_and_a_declaration_waits_for_it() -> None:
    rig = Rig()
    await declare(rig)
    gate = rig.backend.on_remove = Gate()
    deleting = asyncio.create_task(rig.broker.delete_queue("orders", rig.client))
    await until(lambda: gate.reached, "the deletion begins")
    deleting.cancel()
    await asyncio.gather(deleting, return_exceptions=True)
    assert await rig.publish(message()) is UNROUTED
    declaring = asyncio.create_task(declare(rig))
    await settle_down()
    assert not declaring.done()
    gate.open.set()
    await declaring
    assert rig.backend.removed == ["orders"]
    assert rig.backend.ensured == ["orders", "orders"]


@on_clock
async def test_a_queue_that_cannot_be_deleted_stays_with_its_bindings_and_consumers() -> None:
    rig = Rig()
    await declare(rig)
    rig.broker.bind("orders", TOPIC_EXCHANGE, "a")
    rig.broker.consume(Consume("tag", "orders", 5, None, cancellable=True), rig.client)
    rig.backend.on_remove = raising(AccessDenied("may not"))
    with pytest.raises(AccessDenied):
        await rig.broker.delete_queue("orders", rig.client)
    assert await rig.publish(Message(Address(TOPIC_EXCHANGE, "a"), b"")) is ACCEPTED
    assert rig.client.times_cancelled == 0
    rig.backend.on_remove = None
    await rig.broker.delete_queue("orders", rig.client)
    assert rig.client.times_cancelled == 1
    assert not rig.topology.has_queue("orders")


@on_clock
async def test_two_deletions_at_once_are_one() -> None:
    rig = Rig()
    await declare(rig)
    await asyncio.gather(*(rig.broker.delete_queue("orders", rig.client) for _ in range(2)))
    assert rig.backend.removed == ["orders"]


@on_clock
async def test_what_is_used_or_has_messages_stays_where_that_was_asked_for() -> None:
    rig = Rig()
    await declare(rig)
    await rig.broker.declare_queue("orders", DURABLE, rig.client, Presence.REQUIRED)  # its counts are known now
    rig.backend.arrive(b"a")
    with pytest.raises(NotEmpty):
        await rig.broker.delete_queue("orders", rig.client, if_empty=True)
    rig.backend.inbox.clear()
    subscription = rig.broker.consume(Consume("tag", "orders", 5, None), rig.client)
    with pytest.raises(InUse):
        await rig.broker.delete_queue("orders", rig.client, if_unused=True, if_empty=True)
    subscription.cancel()
    await rig.broker.delete_queue("orders", rig.client, if_unused=True, if_empty=True)
    assert rig.backend.removed == ["orders"]


# Time


@on_clock
async def test_queues_that_nobody_uses_expire() -> None:
    rig = Rig()
    await declare(rig, "durable", arguments(x_expires=2_000))
    await declare(rig, "virtual", QueueSpec(durable=False, arguments={"x-expires": 2_000}))
    watch = asyncio.create_task(rig.broker.watch())
    consumer = Consumer()
    subscriptions = [rig.broker.consume(Consume("tag", name, 1, None), consumer) for name in ("durable", "virtual")]
    await asyncio.sleep(10)
    assert rig.topology.has_queue("durable")
    assert rig.topology.has_queue("virtual")
    for subscription in subscriptions:
        subscription.cancel()
    await asyncio.sleep(1.4)
    await declare(rig, "durable", arguments(x_expires=2_000))
    await rig.broker.get("virtual", rig.client)
    await asyncio.sleep(1.4)
    assert rig.topology.has_queue("durable"), "declared again, so used"
    assert rig.topology.has_queue("virtual")
    await asyncio.sleep(2)
    assert list(rig.topology.queues()) == []
    assert rig.backend.removed == ["durable"]
    watch.cancel()


@on_clock
async def test_what_cannot_expire_now_is_tried_again() -> None:
    rig = Rig()
    await declare(rig, spec=arguments(x_expires=1_000))
    rig.backend.on_remove = raising(AccessDenied("may not"))
    watch = asyncio.create_task(rig.broker.watch())
    with capture_logs() as lines:
        await asyncio.sleep(2)
    assert "queue_not_deleted" in [line["event"] for line in lines]
    rig.backend.on_remove = None
    await asyncio.sleep(1)
    assert not rig.topology.has_queue("orders")
    watch.cancel()


# Dead letters, delays and priorities, with the memory backend


def memory() -> Rig:
    return Rig(backends={"memory": MemoryBackend()})


@on_clock
async def test_a_rejected_message_comes_out_of_the_queue_of_the_dead() -> None:
    rig = memory()
    await declare(rig, spec=arguments(x_dead_letter_exchange="", x_dead_letter_routing_key="dead"))
    await declare(rig, "dead")
    rig.broker.consume(Consume("tag", "orders", 5, None), rig.client)
    assert await rig.publish(message(b"a")) is ACCEPTED
    await until(lambda: rig.client.deliveries, "the delivery")
    rig.client.settle(Outcome.REJECTED)
    grave = Consumer()
    rig.broker.consume(Consume("tag", "dead", 5, None), grave)
    await until(lambda: grave.deliveries, "the dead letter")
    letter = grave.deliveries[0].message
    assert (letter.body, letter.headers["x-first-death-queue"]) == (b"a", "orders")
    await asyncio.sleep(LATE)
    assert not rig.client.deliveries
    assert rig.metrics.registry.get_sample_value("mqlift_dead_letters_total", {"reason": "rejected"}) == 1


@on_clock
async def test_a_queue_with_priorities_is_several_and_goes_with_all_of_them() -> None:
    rig = memory()
    await declare(rig, spec=arguments(x_max_priority=2))
    for priority in (0, 1, 2):
        made = Message(Address("", "orders"), b"%d" % priority, Properties(priority=priority))
        assert await rig.publish(made) is ACCEPTED
    backend = rig.broker._resources.backends["memory"]
    depths = [(await backend.depth(backend.home(name, DURABLE))).ready for name in ("orders", "orders-p1", "orders-p2")]
    assert depths == [1, 1, 1]
    rig.broker.consume(Consume("tag", "orders", 1, None), rig.client)
    for expected in (b"2", b"1", b"0"):
        await until(lambda: rig.client.deliveries, "a delivery")
        assert rig.client.bodies == [expected]
        rig.client.settle()
    await rig.broker.delete_queue("orders", rig.client)
    with pytest.raises(NotFound):
        await backend.probe(backend.home("orders-p2", DURABLE))
    assert not rig.broker._resources._levels


@on_clock
async def test_priorities_on_a_fifo_queue_of_a_rule_are_refused() -> None:
    rig = Rig(queue_rule("orders", place("orders.fifo")))
    with pytest.raises(InvalidArgument, match="FIFO"):
        await declare(rig, spec=arguments(x_max_priority=2))
    assert not rig.broker._resources._levels


@on_clock
async def test_a_fifo_queue_keeps_the_order_of_each_group() -> None:
    rig = memory()
    await declare(rig, spec=arguments(x_fifo=True))
    for number in range(6):
        group = {"x-group-id": "even" if number % 2 == 0 else "odd"}
        made = Message(Address("", "orders"), b"%d" % number, headers=group)
        assert await rig.publish(made) is ACCEPTED
    late = Message(Address("", "orders"), b"", not_before=1e12)
    assert (await rig.publish(late)).outcome is Outcome.REJECTED, "FIFO queues delay no single messages"
    rig.broker.consume(Consume("tag", "orders", 10, None), rig.client)
    await until(lambda: len(rig.client.deliveries) == 6, "all are delivered")
    for parity in (0, 1):
        assert [body for body in rig.client.bodies if int(body) % 2 == parity] == [
            b"%d" % number for number in range(parity, 6, 2)
        ]


@on_clock
async def test_virtual_queues_show_what_waits_in_them() -> None:
    rig = Rig()
    await declare(rig, "live", LIVE)
    assert await rig.publish(message(key="live")) is ACCEPTED
    assert rig.sample("virtual_queue_messages") == 1
    rig.broker.disconnected(rig.client, "")
    assert rig.sample("virtual_queue_messages") == 0
