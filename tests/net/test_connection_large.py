"""Connections with large bodies: they wait for memory, give it back, and are cut off when they keep it for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from gateway.core.backend import Entry, Limits
from gateway.core.budget import ByteBudget
from gateway.core.commands import Close, Consume, Get, Publish, Settle
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.net.connection import STUCK, UNSENT_BYTES
from gateway.net.large import PROGRESS, STALLED, UNCOUNTED
from gateway.net.quotas import Quotas
from tests.rig.clock import on_clock, settle_down
from tests.rig.hosting import Peer, Rig
from tests.rig.large import ScriptedBody
from tests.rig.scripted import never

LARGE = 4 * UNCOUNTED
ROOM = 10 * UNCOUNTED
"""For two of them."""


class LargeRig(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.backend.limits = Limits(batch_entries=10, batch_bytes=100 * LARGE, entry_bytes=100 * LARGE)
        self.budget = ByteBudget(ROOM)
        self.quotas = Quotas(budget=self.budget)

    async def assembling(self, size: int = LARGE) -> Peer:
        """A connection whose peer has announced a message."""
        peer = self.connect()
        await announces(peer, size)
        return peer


async def announces(peer: Peer, size: int) -> None:
    peer.session.assembling = size
    await peer.sends()


def publish(token: object, size: int = LARGE) -> Publish:
    return Publish(Message(Address("", "orders"), b"x" * size), token)


async def completes(peer: Peer, token: object = 1) -> None:
    peer.session.assembling = 0
    await peer.sends(publish(token))


@on_clock
async def test_who_announces_more_than_there_is_room_for_is_not_read_until_there_is() -> None:
    rig = LargeRig()
    await rig.declare("orders")
    peers = [await rig.assembling() for _ in range(4)]
    assert [peer.transport.reading for peer in peers] == [True, True, False, False]
    assert peers[2].session.log == ["not reading"], "the session knows, and is patient"
    assert peers[2].connection.paused == ["there is no room for a large message"]
    await completes(peers[0])
    assert peers[0].answered == [1]
    assert [peer.transport.reading for peer in peers] == [True, True, True, False], "in the order of their arrival"
    peers[1].transport.reset()
    await settle_down()
    assert [peer.transport.reading for peer in peers[2:]] == [True, True]
    assert (rig.budget.used, rig.budget.waiting) == (2 * LARGE, 0)


@on_clock
async def test_small_messages_need_no_room() -> None:
    rig = LargeRig()
    await rig.declare("orders")
    for _ in range(3):
        await rig.assembling()
    small = await rig.assembling(UNCOUNTED)
    assert small.transport.reading
    await small.sends(publish(1, UNCOUNTED))
    assert small.answered == [1]
    assert rig.budget.used == 2 * LARGE


@on_clock
async def test_what_was_published_takes_room_until_it_is_stored() -> None:
    rig = LargeRig()
    await rig.declare("orders")
    gate = asyncio.Event()

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        await gate.wait()
        return [ACCEPTED] * len(entries)

    rig.backend.on_send = send
    first = await rig.assembling()
    await completes(first)
    assert rig.budget.used == LARGE
    await completes(first, 2)
    third = await rig.assembling()
    assert not third.transport.reading
    gate.set()
    await settle_down()
    assert first.answered == [1, 2]
    assert third.transport.reading
    assert rig.budget.used == LARGE


@on_clock
async def test_one_publisher_does_not_keep_its_room_from_others() -> None:
    """What it announces next waits behind those who waited before."""
    rig = LargeRig()
    await rig.declare("orders")
    rig.budget.resize(LARGE)
    greedy, patient = await rig.assembling(), await rig.assembling()
    peer = greedy
    peer.session.assembling = LARGE
    await peer.sends(publish(1))
    assert not greedy.transport.reading
    assert patient.transport.reading
    await completes(patient)
    assert greedy.transport.reading


@on_clock
async def test_what_a_lost_connection_has_published_still_takes_room() -> None:
    rig = LargeRig()
    await rig.declare("orders")
    rig.backend.on_send = never
    peer = await rig.assembling()
    await completes(peer)
    await announces(peer, LARGE)
    assert rig.budget.used == 2 * LARGE
    peer.transport.reset()
    await settle_down()
    assert rig.budget.used == LARGE
    await rig.broker.aclose()
    assert rig.budget.used == 0


@on_clock
async def test_a_message_that_was_given_up_takes_no_room() -> None:
    rig = LargeRig()
    peer = await rig.assembling()
    await announces(peer, 0)
    assert rig.budget.used == 0
    await announces(peer, LARGE)
    await peer.sends(Close("the end"))
    assert rig.budget.used == 0


@on_clock
async def test_what_came_without_asking_counts() -> None:
    rig = LargeRig()
    await rig.declare("orders")
    rig.backend.on_send = never
    peer = rig.connect()
    await peer.sends(publish(1), publish(2), publish(3))
    assert rig.budget.used == 3 * LARGE
    assert not (await rig.assembling()).transport.reading


@pytest.mark.parametrize("assembling", [0, LARGE])
@on_clock
async def test_what_carries_the_protocol_counts_once(assembling: int) -> None:
    rig = LargeRig()
    peer = await rig.assembling(assembling)
    peer.connection.gather(LARGE, 10)
    assert rig.budget.used == LARGE
    peer.connection.gather(0, 10)
    assert rig.budget.used == assembling
    others = [await rig.assembling() for _ in range(2)]
    peer.connection.gather(2 * LARGE, 10)
    assert not peer.transport.reading
    for other in others:
        other.transport.reset()
    await settle_down()
    assert peer.transport.reading


@on_clock
async def test_who_is_not_let_in_has_no_room() -> None:
    rig = LargeRig()
    peer = rig.connect()
    peer.session.established = False
    peer.session.assembling = UNCOUNTED
    await peer.sends()
    assert not peer.gone
    await announces(peer, UNCOUNTED + 1)
    assert peer.gone
    assert rig.budget.used == 0


# Who keeps room for nothing


async def stalled(rig: LargeRig) -> tuple[Peer, Peer, Peer]:
    """Two who have room, and one who waits."""
    return await rig.assembling(), await rig.assembling(), await rig.assembling()


@on_clock
async def test_who_has_room_and_does_not_send_is_cut_off_for_who_waits() -> None:
    rig = LargeRig()
    first, second, third = await stalled(rig)
    with capture_logs() as lines:
        for _ in range(3):
            await asyncio.sleep(STALLED / 2)
            second.connection.data_received(b"x" * PROGRESS)
            await settle_down()
    assert (first.gone, second.gone, third.gone) == (True, False, False)
    assert third.transport.reading
    (line,) = (line for line in lines if line["event"] == "connection_refused")
    assert "keeps room" in line["reason"]


@on_clock
async def test_who_sends_next_to_nothing_is_cut_off_as_well() -> None:
    rig = LargeRig()
    first, second, _ = await stalled(rig)
    for _ in range(3):
        await asyncio.sleep(STALLED / 2)
        for peer in (first, second):
            if not peer.gone:
                peer.connection.data_received(b"x")
        await settle_down()
    assert first.gone != second.gone, "one of them is enough"


@pytest.mark.parametrize("reason", ["no room", "something else"])
@on_clock
async def test_who_has_just_begun_to_be_read_has_its_time(reason: str) -> None:
    """Whatever the clock of the next look says."""
    rig = LargeRig()
    first, second, third = await stalled(rig)
    await rig.assembling()
    if reason == "no room":
        await asyncio.sleep(STALLED - 0.1)
        second.connection.data_received(b"x" * PROGRESS)
        first.transport.reset()
    else:
        second.transport.reset()
        await settle_down()
        third.connection.pause(reason)
        third.connection.data_received(b"x" * PROGRESS)
        await asyncio.sleep(STALLED - 0.1)
        third.connection.data_received(b"x" * PROGRESS)
        first.connection.data_received(b"x" * PROGRESS)
        third.connection.resume(reason)
    await settle_down()
    assert third.transport.reading
    await asyncio.sleep(STALLED / 2)
    assert not third.gone


@on_clock
async def test_nobody_is_cut_off_while_nobody_waits() -> None:
    rig = LargeRig()
    peer = await rig.assembling()
    await asyncio.sleep(20 * STALLED)
    assert not peer.gone


@on_clock
async def test_who_is_not_read_is_not_blamed() -> None:
    rig = LargeRig()
    first, second, _ = await stalled(rig)
    for peer in (first, second):
        peer.connection.pause("something else")
    await asyncio.sleep(3 * STALLED)
    assert [first.gone, second.gone] == [False, False]


@on_clock
async def test_two_who_wait_for_each_other_do_not_wait_for_ever() -> None:
    rig = LargeRig()
    first, second = await rig.assembling(), await rig.assembling()
    await announces(first, 2 * LARGE)
    await announces(second, 2 * LARGE)
    assert [peer.transport.reading for peer in (first, second)] == [False, False]
    await asyncio.sleep(2 * STALLED)
    assert first.gone != second.gone, "the other one has its room"
    assert rig.budget.waiting == 0


@on_clock
async def test_the_account_is_closed_when_nothing_is_left_in_it() -> None:
    rig = LargeRig()
    await rig.declare("orders")
    peer = await rig.assembling()
    await completes(peer)
    await asyncio.sleep(2 * STALLED)
    assert peer.connection._large is None


# To the peer


async def consuming(rig: LargeRig, *bodies: ScriptedBody, automatic: bool = False, stuck: bool = False) -> Peer:
    """`stuck`: whether the peer reads nothing."""
    peer = rig.connect()
    await rig.declare("orders")
    await peer.consumes("orders", automatic=automatic)
    peer.transport.stuck = stuck
    rig.backend.inbox.extend(body.received() for body in bodies)
    await rig.arrive()
    return peer


@pytest.mark.parametrize("automatic", [False, True])
@on_clock
async def test_a_body_leaves_memory_when_it_is_written(automatic: bool) -> None:
    rig = LargeRig()
    body = ScriptedBody(b"large", budget=rig.budget)
    peer = await consuming(rig, body, automatic=automatic)
    assert peer.transport.written == b"large"
    assert not body.in_memory
    (delivery,) = peer.session.delivered
    assert delivery.message.body == b""
    assert rig.backend.deleted == (["r-large"] if automatic else [])
    if not automatic:
        await peer.sends(Settle([delivery], Outcome.ACCEPTED))
        assert rig.backend.deleted == ["r-large"]


@on_clock
async def test_a_body_that_the_peer_does_not_read_stays_in_memory_once() -> None:
    rig = LargeRig()
    body = ScriptedBody(b"large", budget=rig.budget)
    peer = await consuming(rig, body, stuck=True)
    assert body.in_memory
    assert peer.session.delivered[0].message.body == b"", "it is in what is written"
    peer.transport.let_go()
    await settle_down()
    assert peer.transport.written == b"large"
    assert not body.in_memory


@on_clock
async def test_a_body_that_is_not_encoded_yet_is_kept() -> None:
    rig = LargeRig()
    body = ScriptedBody(b"large", budget=rig.budget)
    peer = rig.connect()
    await rig.declare("orders")
    await peer.consumes("orders")
    delivered: list[bytes] = []
    original = peer.session.deliver

    def deliver(tag: str, delivery) -> bool:  # type: ignore[no-untyped-def]
        peer.session.unsent.append(delivery)
        delivered.append(delivery.message.body)
        return original(tag, delivery)

    peer.session.deliver = deliver  # type: ignore[method-assign]
    rig.backend.inbox.append(body.received())
    await rig.arrive()
    assert body.in_memory
    assert peer.session.delivered[0].message.body == b"large"
    peer.session.unsent.clear()
    peer.session.output = b"later"
    peer.connection.flush_soon()
    await settle_down()
    assert not body.in_memory


@on_clock
async def test_a_body_goes_back_with_its_delivery_when_the_connection_is_lost() -> None:
    rig = LargeRig()
    body = ScriptedBody(b"large", budget=rig.budget)
    peer = await consuming(rig, body, stuck=True)
    peer.transport.reset()
    await settle_down()
    assert not body.in_memory
    assert rig.backend.released == ["r-large"]


@on_clock
async def test_who_does_not_read_is_cut_off_for_who_waits() -> None:
    rig = LargeRig()
    body = ScriptedBody(b"x" * (ROOM - 1), budget=rig.budget)
    peer = await consuming(rig, body, stuck=True)
    await asyncio.sleep(2 * STALLED)
    assert not peer.gone, "nobody waits"
    waiting = await rig.assembling()
    await asyncio.sleep(2 * STALLED)
    assert peer.gone
    assert waiting.transport.reading


@pytest.mark.parametrize(("piece", "gone"), [(PROGRESS, False), (PROGRESS - 1, True)])
@on_clock
async def test_who_reads_a_large_body_slowly_is_not_stuck(piece: int, gone: bool) -> None:
    rig = LargeRig()
    body = ScriptedBody(b"x" * (UNSENT_BYTES + 20 * PROGRESS), budget=rig.budget)
    peer = await consuming(rig, body, stuck=True)
    for _ in range(9):  # once in each time that it has
        await asyncio.sleep(0.9 * STUCK)
        if not peer.gone:
            peer.transport.let_go(piece)
    assert peer.gone is gone


@on_clock
async def test_one_that_was_asked_for_alone_leaves_memory_too() -> None:
    rig = LargeRig()
    body = ScriptedBody(b"large", budget=rig.budget)
    peer = rig.connect()
    await rig.declare("orders")
    rig.backend.inbox.append(body.received())

    def on_answer(token: object, result: Result) -> Sequence[Consume]:
        delivery = getattr(result, "delivery", None)
        if delivery is not None:
            peer.session.output += delivery.message.body
            peer.session.held.append(delivery)
        return ()

    peer.session.on_answer = on_answer
    await peer.sends(Get("orders", "get"))
    await settle_down()
    assert peer.transport.written.endswith(b"large")
    assert not body.in_memory
