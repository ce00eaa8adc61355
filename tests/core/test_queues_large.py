"""Durable queues whose messages have large bodies: buried, delayed and watched without keeping these in memory."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.core.deadletter import Reason
from gateway.core.errors import Unavailable
from gateway.core.outcome import Outcome
from tests.core.test_queues import DLX, Rig
from tests.rig.clock import on_clock, settle_down
from tests.rig.large import ScriptedBody
from tests.rig.scripted import Consumer


async def delivered(rig: Rig, *bodies: ScriptedBody) -> Consumer:
    _, consumer = rig.consume()
    rig.backend.inbox.extend(body.received() for body in bodies)
    rig.backend.arrive()
    await settle_down()
    return consumer


@pytest.mark.parametrize("written", [False, True])
@on_clock
async def test_a_dead_letter_has_its_body_though_it_was_let_go(written: bool) -> None:
    rig, body = Rig(**DLX), ScriptedBody(b"large")
    consumer = await delivered(rig, body)
    if written:
        consumer.deliveries[0].unload()
    consumer.settle(Outcome.REJECTED)
    await settle_down()
    assert rig.buried == [(b"large", Reason.REJECTED)]
    assert rig.backend.deleted == ["r-large"]
    assert (body.fetches, body.in_memory) == (1 + written, False)


@on_clock
async def test_a_dead_letter_whose_body_cannot_be_had_stays() -> None:
    rig, body = Rig(**DLX), ScriptedBody(b"large")
    consumer = await delivered(rig, body)
    consumer.deliveries[0].unload()
    body.failures = [Unavailable("S3 is down")]
    with capture_logs() as lines:
        consumer.settle(Outcome.REJECTED)
        await settle_down()
    assert not rig.buried
    assert not rig.backend.settled, "it comes back when its visibility ends"
    assert [line["event"] for line in lines] == ["message_not_moved"]


@on_clock
async def test_a_dead_letter_that_nobody_wants_is_not_fetched() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    consumer = await delivered(rig, body)
    consumer.deliveries[0].unload()
    consumer.settle(Outcome.REJECTED)
    await settle_down()
    assert body.fetches == 1
    assert rig.backend.settled == [(["r-large"], Outcome.REJECTED)]


@on_clock
async def test_what_expired_is_buried_with_its_body_and_was_not_fetched_before() -> None:
    rig, body = Rig(**DLX, x_message_ttl=1_000), ScriptedBody(b"large")
    rig.consume()
    rig.backend.inbox.append(body.received(stored_at=rig.wall() - 2.0))
    rig.backend.arrive()
    await settle_down()
    assert rig.buried == [(b"large", Reason.EXPIRED)]
    assert (body.fetches, body.in_memory) == (1, False)


@on_clock
async def test_what_waits_to_expire_is_not_in_memory() -> None:
    rig, body = Rig(**DLX, x_message_ttl=60_000), ScriptedBody(b"large")
    rig.backend.inbox.append(body.received(stored_at=rig.wall()))
    rig.backend.arrive()
    rig.queue.watch_expiry()
    await settle_down()
    assert not body.in_memory
    await asyncio.sleep(61.0)
    assert rig.buried == [(b"large", Reason.EXPIRED)]
    assert not body.in_memory


@on_clock
async def test_what_waits_to_expire_can_be_taken() -> None:
    rig, body = Rig(**DLX, x_message_ttl=60_000), ScriptedBody(b"large")
    rig.backend.inbox.append(body.received(stored_at=rig.wall()))
    rig.backend.arrive()
    rig.queue.watch_expiry()
    await settle_down()
    delivery = await rig.queue.get()
    assert delivery is not None
    assert delivery.message.body == b"large"
    delivery.source.settle(delivery, Outcome.ACCEPTED)
    await settle_down()
    assert not body.in_memory


@on_clock
async def test_a_get_whose_body_cannot_be_had_leaves_the_message_alone() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    rig.backend.inbox.append(body.received())
    rig.backend.arrive()
    body.failures = [Unavailable("S3 is down")]
    with pytest.raises(Unavailable):
        await rig.queue.get()
    assert rig.queue.unsettled == 0
    await settle_down()
    assert not rig.backend.settled


@on_clock
async def test_what_is_not_due_goes_on_with_its_body() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    rig.consume()
    rig.backend.inbox.append(body.received(not_before=rig.wall() + 1_000.0))
    rig.backend.arrive()
    await settle_down()
    assert rig.backend.sent == [[b"large"]]
    assert rig.backend.deleted == ["r-large"]
    assert not body.in_memory


@on_clock
async def test_a_purge_fetches_nothing() -> None:
    rig, body = Rig(), ScriptedBody(b"large")
    rig.backend.inbox.append(body.received(stored_at=1.0))
    rig.backend.arrive()
    assert await rig.queue.purge() == 1
    assert body.fetches == 0


async def burying() -> tuple[Rig, ScriptedBody]:
    """A consumer has rejected a message whose body does not come for its dead letter."""
    rig, body = Rig(**DLX), ScriptedBody(b"large")
    consumer = await delivered(rig, body)
    consumer.deliveries[0].unload()
    body.arrived.clear()
    consumer.settle(Outcome.REJECTED)
    await settle_down()
    return rig, body


@on_clock
async def test_a_drain_waits_for_what_is_buried() -> None:
    rig, body = await burying()
    rig.queue.stop_polling()
    drained = asyncio.create_task(rig.queue.drain())
    await settle_down()
    assert not drained.done()
    body.arrived.set()
    await drained
    assert rig.backend.deleted == ["r-large"]


@on_clock
async def test_closing_does_not_wait_for_what_is_buried() -> None:
    rig, body = await burying()
    await rig.queue.aclose()
    assert not rig.buried
    assert not body.in_memory
