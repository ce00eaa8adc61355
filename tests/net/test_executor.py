"""Commands beside the others, and what becomes of them when the connection ends in between."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.core.backend import QueueSpec, Target
from gateway.core.commands import (
    Aside,
    ChangePrefetch,
    Close,
    Consume,
    ControlCommand,
    DeclareExchange,
    DeclareQueue,
    DeleteQueue,
    Get,
    Got,
    Prefetch,
    PurgeQueue,
)
from gateway.core.errors import AccessDenied
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.outcome import Outcome
from tests.rig.clock import on_clock, settle_down
from tests.rig.hosting import Peer, connected
from tests.rig.scripted import raising

DURABLE = QueueSpec()
EXCLUSIVE = QueueSpec(durable=False, exclusive=True)
LOGS = ExchangeSpec(type=ExchangeType.FANOUT, durable=True)


class Gate:
    """Holds requests of the backend up."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, target: Target) -> None:
        await self.open.wait()


def tasks() -> int:
    return len(asyncio.all_tasks()) - 1


@on_clock
async def test_what_follows_does_not_wait_for_what_is_aside() -> None:
    rig, peer = connected()
    gate = rig.backend.on_ensure = Gate()
    await peer.sends(Aside(DeclareQueue("slow", DURABLE, "slow")), DeclareQueue("live", EXCLUSIVE, "live"))
    assert peer.answered == ["live"]
    assert peer.transport.reading
    gate.open.set()
    await settle_down()
    assert peer.answered == ["live", "slow"]
    assert tasks() == 0


@on_clock
async def test_an_error_aside_is_its_answer() -> None:
    rig, peer = connected()
    rig.backend.on_ensure = raising(AccessDenied("may not"))
    await peer.sends(Aside(DeclareQueue("slow", DURABLE, "slow")), Aside(Consume("tag", "nowhere", 1, "consume")))
    assert peer.answered == ["consume", "slow"]
    assert (peer.outcome_of("consume"), peer.outcome_of("slow")) == (Outcome.REJECTED, Outcome.RELEASED)


@on_clock
async def test_a_durable_exchange_is_told_when_it_is_written() -> None:
    rig, peer = connected()
    await rig.broker.restore()
    await peer.sends(Aside(DeclareExchange("logs", LOGS, "aside")), DeclareExchange("more", LOGS, "waiting"))
    await settle_down()
    assert sorted(map(str, peer.answered)) == ["aside", "waiting"]
    assert [record.key for record in await rig.broker.store.scan("exchange")] == ["logs", "more"]


@on_clock
async def test_a_bug_aside_ends_the_connection() -> None:
    rig, peer = connected()
    rig.backend.on_ensure = raising(KeyError("a bug"))
    with capture_logs() as lines:
        await peer.sends(Aside(DeclareQueue("slow", DURABLE, "slow")))
    assert peer.gone
    assert "command_failed_unexpectedly" in [line["event"] for line in lines]


async def end_by_loss(peer: Peer) -> None:
    peer.transport.reset()


async def end_by_close(peer: Peer) -> None:
    peer.transport.polite = False  # its socket lingers
    await peer.sends(Close("enough"))


@pytest.mark.parametrize("end", [end_by_loss, end_by_close])
@pytest.mark.parametrize("aside", [True, False])
@on_clock
async def test_an_exclusive_queue_whose_declaration_waits_does_not_outlive_its_connection(
    end: object, aside: bool
) -> None:
    rig, other = connected()
    gate = rig.backend.on_ensure = Gate()
    await other.sends(Aside(DeclareQueue("mine", DURABLE, "first")))
    peer = rig.connect()
    command = DeclareQueue("mine", EXCLUSIVE, "second")
    if aside or end is end_by_loss:
        await peer.sends(Aside(command) if aside else command)
        await end(peer)  # type: ignore[operator]
    await settle_down()
    rig.backend.on_ensure = raising(AccessDenied("may not"))
    gate.open.set()
    await settle_down()
    assert rig.broker._queues.virtual("mine") is None
    assert not rig.broker._queues._owned
    assert not rig.broker._queues._one_by_one


@on_clock
async def test_a_deletion_goes_on_without_its_connection() -> None:
    rig, peer = connected()
    await rig.declare("orders")
    gate = rig.backend.on_remove = Gate()
    await peer.sends(Aside(DeleteQueue("orders", "delete")))
    peer.transport.reset()
    await settle_down()
    assert peer.gone
    gate.open.set()
    await settle_down()
    assert rig.backend.removed == ["orders"]
    assert peer.answered == []


@on_clock
async def test_a_message_that_was_on_its_way_to_who_has_gone_is_given_back_at_once() -> None:
    rig, peer = connected()
    await rig.declare("orders")
    await peer.sends(Get("orders", "get"))
    peer.transport.reset()
    await settle_down()
    await rig.arrive(b"a")
    assert rig.backend.released == ["r-a"]
    assert peer.answered == []
    assert tasks() == 0


@on_clock
async def test_get_is_answered_with_a_message_or_with_none() -> None:
    rig, peer = connected()
    await rig.declare("orders")
    await rig.arrive(b"a")
    await peer.sends(Get("orders", "first"), Get("nowhere", "nowhere"))
    got = dict(peer.session.answers)["first"]
    assert isinstance(got, Got)
    assert got.delivery is not None
    assert got.delivery.message.body == b"a"
    assert peer.outcome_of("nowhere") is Outcome.REJECTED
    await peer.sends(Get("orders", "second"))
    await asyncio.sleep(1.1)
    empty = dict(peer.session.answers)["second"]
    assert isinstance(empty, Got)
    assert empty.delivery is None
    peer.transport.reset()
    await settle_down()
    assert rig.backend.released == [], "what a session has got is its own, and it has not said what of it"


@pytest.mark.parametrize(
    "command",
    [DeclareQueue("slow", DURABLE, "token"), PurgeQueue("orders", "token"), DeclareExchange("logs", LOGS, "token")],
)
@on_clock
async def test_at_the_end_what_would_wait_aside_is_answered_at_once(command: ControlCommand) -> None:
    rig, peer = connected()
    await rig.broker.restore()
    await rig.declare("orders")
    rig.backend.on_ensure = Gate()
    peer.session.at_shutdown = (Aside(command),)
    peer.connection.shutdown()
    assert peer.answered == ["token"]
    assert peer.outcome_of("token") is Outcome.RELEASED
    await settle_down()


@on_clock
async def test_what_waits_aside_when_the_end_comes_is_answered() -> None:
    rig, peer = connected()
    rig.backend.on_ensure = Gate()
    await peer.sends(Aside(DeclareQueue("slow", DURABLE, "slow")))
    peer.connection.shutdown()
    assert peer.outcome_of("slow") is Outcome.RELEASED
    await settle_down()
    assert tasks() == 0


@on_clock
async def test_a_close_in_the_answer_to_what_was_aside_does_not_interrupt_itself() -> None:
    rig, peer = connected()
    peer.session.on_answer = lambda token, _result: (Close("enough"),) if token == "last" else ()
    gate = rig.backend.on_ensure = Gate()
    await peer.sends(Aside(DeclareQueue("slow", DURABLE, "last")))
    gate.open.set()
    await settle_down()
    assert b"[last:ACCEPTED]" in peer.transport.written
    assert peer.gone


@on_clock
async def test_a_shared_prefetch_that_is_raised_lets_consumers_go_on() -> None:
    rig, peer = connected()
    await rig.declare("orders")
    shared = Prefetch(1)
    await peer.sends(Consume("tag", "orders", 10, "consume", shared=shared))
    await rig.arrive(b"a", b"b", b"c")
    assert [delivery.message.body for delivery in peer.session.delivered] == [b"a"]
    await peer.sends(ChangePrefetch(shared, 2))
    assert [delivery.message.body for delivery in peer.session.delivered] == [b"a", b"b"]
    await peer.sends(ChangePrefetch(shared, 0))
    assert len(peer.session.delivered) == 3
    peer.transport.reset()
    await settle_down()
    assert shared.consumers == []
    assert shared.held == 0
