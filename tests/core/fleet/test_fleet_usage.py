"""Queues that end, and messages that do, while several gateways have them: nobody ends what another one uses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from structlog.testing import capture_logs

from gateway.core.backend import QueueSpec
from gateway.core.commands import Consume, Presence, SessionRecord
from gateway.core.fleet.membership import LEASE_SECONDS
from gateway.core.fleet.usage import ELSEWHERE_SECONDS, LATE_SECONDS, TELL_SECONDS
from gateway.core.message import Address, Message
from gateway.core.outcome import Outcome
from gateway.core.queues import BackendQueue
from gateway.core.shared import GRACE, SHARED
from gateway.core.subscription import Subscription
from tests.rig.clock import on_clock, until
from tests.rig.fleetmates import Mate, fleet
from tests.rig.scripted import Consumer


async def declare(mate: Mate, name: str, arguments: Mapping[str, object]) -> None:
    await mate.broker.declare_queue(name, QueueSpec(arguments=arguments), mate.client, Presence.ANY)


def consume(mate: Mate, queue: str) -> Subscription:
    return mate.broker.consume(Consume("tag", queue, 10, None), Consumer())


def find(mate: Mate, name: str) -> BackendQueue:
    (queue,) = [queue for queue in mate.broker.queues() if queue.name == name]
    assert isinstance(queue, BackendQueue)
    return queue


def waits(mate: Mate, name: str) -> bool:
    """Whether a gateway takes the messages of a queue to see them expire."""
    return find(mate, name)._waiting is not None


def let_time_pass(*mates: Mate) -> None:
    """For shared queues time is the world's, which these tests do not wait for."""
    for mate in mates:
        mate.broker._shared._wall = asyncio.get_running_loop().time


@on_clock
async def test_a_queue_that_expires_stays_while_another_gateway_uses_it() -> None:
    one, other = await fleet()
    await declare(one, "orders", {"x-expires": 20_000})
    await asyncio.sleep(1.0)
    subscription = consume(other, "orders")
    await asyncio.sleep(200.0)
    assert one.topology.has_queue("orders")
    subscription.cancel()
    await asyncio.sleep(15.0)
    assert one.topology.has_queue("orders")
    await asyncio.sleep(5.0 + LATE_SECONDS + TELL_SECONDS)
    assert not one.topology.has_queue("orders")
    assert not other.topology.has_queue("orders")


@on_clock
async def test_one_that_expires_soon_stays_too() -> None:
    one, other = await fleet()
    await declare(one, "orders", {"x-expires": 2_000})
    await other.broker.declare_queue("orders", QueueSpec(), other.client, Presence.REQUIRED)
    consume(other, "orders")
    await asyncio.sleep(60.0)
    assert one.topology.has_queue("orders")


@on_clock
async def test_messages_that_expire_are_taken_by_one_gateway_and_by_none_while_there_are_consumers() -> None:
    mates = await fleet(count=3)
    one, other, third = mates
    await declare(one, "orders", {"x-message-ttl": 600_000, "x-dead-letter-exchange": "amq.topic"})
    await asyncio.sleep(2.0)
    subscription = consume(other, "orders")
    await asyncio.sleep(2 * ELSEWHERE_SECONDS)
    assert not any(waits(mate, "orders") for mate in mates)
    subscription.cancel()
    await asyncio.sleep(2 * ELSEWHERE_SECONDS)
    assert sum(waits(mate, "orders") for mate in mates) == 1
    (waiting,) = [mate for mate in mates if waits(mate, "orders")]
    (idle, *_) = [mate for mate in mates if mate is not waiting]
    assert (await idle.publish(Message(Address("", "orders"), b"hello"))).outcome is Outcome.ACCEPTED
    await asyncio.sleep(1.0)  # it is taken
    consumer = Consumer()
    idle.broker.consume(Consume("tag", "orders", 10, None), consumer)
    await until(lambda: consumer.deliveries, "the message, which was given back")
    assert third is not None


@on_clock
async def test_a_lone_gateway_takes_them_at_once() -> None:
    (one,) = await fleet(count=1)
    await declare(one, "orders", {"x-message-ttl": 600_000, "x-dead-letter-exchange": "amq.topic"})
    await asyncio.sleep(1.0)
    assert waits(one, "orders")


@on_clock
async def test_who_is_left_takes_them() -> None:
    one, other = await fleet()
    await declare(one, "orders", {"x-message-ttl": 600_000, "x-dead-letter-exchange": "amq.topic"})
    await asyncio.sleep(2 * ELSEWHERE_SECONDS)
    waiting, left = (one, other) if waits(one, "orders") else (other, one)
    with capture_logs():
        await waiting.kill()
        await asyncio.sleep(LEASE_SECONDS + 5.0)
    assert waits(left, "orders")


@on_clock
async def test_a_queue_over_its_length_loses_what_is_over_it_and_no_more() -> None:
    one, other = await fleet()
    await declare(one, "orders", {"x-max-length": 5})
    await asyncio.sleep(1.0)
    for number in range(30):
        await (one, other)[number % 2].publish(Message(Address("", "orders"), b"hello"))
    await asyncio.sleep(60.0)
    depth = await find(one, "orders").depth(fresh=True)
    assert depth.ready == 5


@on_clock
async def test_a_shared_queue_stays_while_another_gateway_consumes_it() -> None:
    one, other = await fleet()
    let_time_pass(one, other)
    await declare(one, "mqtt-shared-g", {SHARED: True})
    assert one.broker.bind("mqtt-shared-g", "amq.topic", "a") is None
    await asyncio.sleep(1.0)
    assert other.topology.route("amq.topic", "a") == ("mqtt-shared-g",)
    subscription = consume(other, "mqtt-shared-g")
    await asyncio.sleep(2 * GRACE)
    assert one.topology.has_queue("mqtt-shared-g")
    subscription.cancel()
    await asyncio.sleep(GRACE + ELSEWHERE_SECONDS + 30.0)
    assert not one.topology.has_queue("mqtt-shared-g")
    assert not other.topology.has_queue("mqtt-shared-g")
    assert one.broker.bindings == other.broker.bindings == 0


@on_clock
async def test_a_shared_queue_stays_while_a_kept_session_anywhere_takes_part() -> None:
    one, other = await fleet()
    let_time_pass(one, other)
    await declare(one, "mqtt-shared-g", {SHARED: True})
    await one.broker.open_session("a", one.client, clean=False)
    kept: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    one.broker.keep_session("a", SessionRecord(shared=("mqtt-shared-g",), expiry=1e9), kept.set_result)
    assert await kept is None
    one.broker.end_session("a", one.client, 1e9, None, 0.0)
    await asyncio.sleep(3 * GRACE)
    assert one.topology.has_queue("mqtt-shared-g")
    assert other.topology.has_queue("mqtt-shared-g")
