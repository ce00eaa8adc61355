"""What one connection may do: publish at a pace, consume, hold deliveries, and leave what it was sent unread."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.auth import Credentials, Identity
from gateway.core.commands import Authenticate, Cancel, Consume, Prefetch, Publish, Settle
from gateway.core.message import Address, Message
from gateway.core.outcome import Outcome
from gateway.net.limits import ConnectionLimits
from gateway.net.pace import PublishRate
from gateway.net.quotas import QuotaLimits, Quotas
from tests.rig.clock import on_clock, settle_down
from tests.rig.hosting import Peer, Rig, connected

LOGIN = Authenticate(Credentials(protocol="test"), "login")


def publish(token: object = None, size: int = 5) -> Publish:
    return Publish(Message(Address("", "nowhere"), b"x" * size), token)


async def seconds_until_read(peer: Peer) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    while not peer.transport.reading:
        assert loop.time() < start + 100
        await asyncio.sleep(0.01)
    return loop.time() - start


# Pace


@pytest.mark.parametrize(
    ("rate", "size"), [(PublishRate(messages=10), 0), (PublishRate(bytes=1_000), 100), (PublishRate(messages=10), 100)]
)
@on_clock
async def test_who_publishes_too_fast_is_not_read_for_as_long_as_that_costs(rate: PublishRate, size: int) -> None:
    rig, peer = connected(ConnectionLimits(publish_rate=rate))
    await peer.sends(*(publish(number, size) for number in range(10)))
    assert peer.transport.reading, "what a second allows"
    await peer.sends(*(publish(number, size) for number in range(10, 40)))
    assert not peer.transport.reading
    assert peer.answered == [*range(40)], "what was sent is taken"
    assert peer.session.log == ["not reading"], "so that it is not taken for silent"
    assert await seconds_until_read(peer) == pytest.approx(3.0, abs=0.05)
    assert peer.session.log == ["not reading", "reading"]
    assert rig.sample("reading_paused", protocol="test") == 0
    await peer.sends(publish("again", size))
    assert await seconds_until_read(peer) == pytest.approx(0.1, abs=0.05)


@on_clock
async def test_without_a_rate_nobody_waits() -> None:
    _, peer = connected()
    await peer.sends(*(publish(None, 100) for _ in range(10_000)))
    assert peer.transport.reading


class Named:
    def __init__(self, user: str) -> None:
        self.user = user

    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity(user=self.user)


def of_users(**limits: object) -> Rig:
    rig = Rig()
    rig.quotas = Quotas(QuotaLimits(**limits))  # type: ignore[arg-type]
    return rig


async def login(rig: Rig, user: str) -> Peer:
    rig.broker.authenticate = Named(user).authenticate  # type: ignore[method-assign]
    peer = rig.connect()
    await peer.sends(LOGIN)
    return peer


@on_clock
async def test_connections_of_one_user_share_its_rate() -> None:
    rig = of_users(user_rate=PublishRate(messages=10))
    one, two, other = await login(rig, "ann"), await login(rig, "ann"), await login(rig, "bob")
    await one.sends(*(publish() for _ in range(10)))
    assert one.transport.reading
    await two.sends(*(publish() for _ in range(10)))
    assert not two.transport.reading
    assert one.transport.reading, "it has sent nothing since"
    await one.sends(publish())
    assert not one.transport.reading
    await other.sends(*(publish() for _ in range(10)))
    assert other.transport.reading
    assert await seconds_until_read(two) == pytest.approx(1.0, abs=0.05)
    assert await seconds_until_read(one) == pytest.approx(0.1, abs=0.05)


@on_clock
async def test_before_the_login_and_without_a_name_there_is_no_rate_of_a_user() -> None:
    rig = of_users(user_rate=PublishRate(messages=1))
    anonymous = await login(rig, "")
    await anonymous.sends(*(publish() for _ in range(10)))
    assert anonymous.transport.reading


@on_clock
async def test_one_connection_too_many_of_a_user_is_refused_at_its_login() -> None:
    rig = of_users(user_connections=1)
    first, second = await login(rig, "ann"), await login(rig, "ann")
    assert first.outcome_of("login") is Outcome.ACCEPTED
    assert second.outcome_of("login") is Outcome.REJECTED
    assert "1 connections already" in str(second.session.answers[0][1].error)
    first.connection.seat.leave()
    third = await login(rig, "ann")
    assert third.outcome_of("login") is Outcome.ACCEPTED


@on_clock
async def test_who_is_cut_off_while_it_rests_leaves_no_timer() -> None:
    rig, peer = connected(ConnectionLimits(publish_rate=PublishRate(messages=1)))
    await peer.sends(*(publish() for _ in range(50)))
    assert not peer.transport.reading
    peer.transport.reset()
    await settle_down()
    assert peer.gone
    assert rig.sample("reading_paused", protocol="test") == 0
    await asyncio.sleep(100)
    assert peer.session.log == ["not reading"]


# Consumers and what they hold


@on_clock
async def test_one_consumer_too_many_is_refused_and_one_that_left_makes_room() -> None:
    _, peer = connected(ConnectionLimits(consumers=2))
    for number in range(3):
        await peer.consumes(f"queue-{number}")
        await peer.sends(Cancel("tag", "cancel"))
    await peer.sends(*(Consume(f"tag-{number}", "queue-0", 1, number) for number in range(3)))
    assert [peer.outcome_of(number) for number in range(3)] == [
        Outcome.ACCEPTED,
        Outcome.ACCEPTED,
        Outcome.REJECTED,
    ]
    await peer.sends(Cancel("tag-0", "cancelled"))
    await peer.sends(Consume("tag-3", "queue-0", 1, 3))
    assert peer.outcome_of(3) is Outcome.ACCEPTED


async def holding(limit: int, *queues: str) -> tuple[Rig, Peer]:
    rig, peer = connected(ConnectionLimits(unacknowledged=limit))
    await rig.declare(*queues)
    await peer.sends(*(Consume(f"tag-{queue}", queue, 100, f"consume-{queue}") for queue in queues))
    return rig, peer


@on_clock
async def test_a_connection_holds_so_many_whatever_its_prefetch_allows() -> None:
    rig, peer = await holding(3, "orders")
    await rig.arrive(*(b"%d" % number for number in range(8)))
    assert [delivery.message.body for delivery in peer.session.held] == [b"0", b"1", b"2"]
    settled, peer.session.held = peer.session.held[:2], peer.session.held[2:]
    await peer.sends(Settle(settled, Outcome.ACCEPTED))
    await settle_down()
    assert [delivery.message.body for delivery in peer.session.held] == [b"2", b"3", b"4"]


@on_clock
async def test_a_consumer_that_comes_when_the_connection_is_full_gets_nothing_yet() -> None:
    rig, peer = await holding(1, "orders")
    await rig.arrive(b"0")
    await peer.sends(Consume("late", "orders", 10, "late"))
    await rig.arrive(b"1")
    assert len(peer.session.held) == 1
    held, peer.session.held = peer.session.held, []
    await peer.sends(Settle(held, Outcome.ACCEPTED))
    await settle_down()
    assert [delivery.message.body for delivery in peer.session.held] == [b"1"]


@on_clock
async def test_several_consumers_hold_so_many_together() -> None:
    rig, peer = await holding(3, "orders", "returns")
    await rig.arrive(*(b"%d" % number for number in range(8)))
    assert len(peer.session.held) == 3


@on_clock
async def test_consumers_with_a_limit_of_their_protocol_keep_to_that() -> None:
    rig, peer = connected(ConnectionLimits(unacknowledged=1))
    await rig.declare("orders")
    await peer.sends(Consume("tag", "orders", 10, "consume", shared=Prefetch(2)))
    await rig.arrive(*(b"%d" % number for number in range(8)))
    assert len(peer.session.held) == 2


@on_clock
async def test_automatic_acknowledgements_hold_nothing() -> None:
    rig, peer = connected(ConnectionLimits(unacknowledged=2))
    await peer.consumes("orders", automatic=True)
    await rig.arrive(*(b"%d" % number for number in range(6)))
    await settle_down()
    assert len(peer.session.delivered) == 6


# What is not read


async def stuck(limits: ConnectionLimits) -> Peer:
    rig, peer = connected(limits)
    await peer.consumes("orders", automatic=True)
    peer.transport.stuck = True
    await rig.arrive(b"x" * 100)
    assert peer.transport.buffer
    return peer


@on_clock
async def test_who_takes_nothing_of_what_it_was_sent_is_cut_off() -> None:
    peer = await stuck(ConnectionLimits(write_timeout=30.0))
    await asyncio.sleep(29.9)
    assert not peer.gone
    await asyncio.sleep(0.2)
    assert peer.gone


@on_clock
async def test_who_reads_slowly_is_not() -> None:
    peer = await stuck(ConnectionLimits(write_timeout=30.0))
    for _ in range(10):
        await asyncio.sleep(29.0)
        peer.transport.let_go(1)
    assert not peer.gone
    await asyncio.sleep(60.1)
    assert peer.gone


@on_clock
async def test_who_has_read_everything_is_not_waited_for() -> None:
    peer = await stuck(ConnectionLimits(write_timeout=30.0))
    peer.transport.let_go()
    await asyncio.sleep(1_000)
    assert not peer.gone


@on_clock
async def test_without_a_timeout_a_peer_may_take_for_ever() -> None:
    peer = await stuck(ConnectionLimits(write_timeout=0.0))
    await asyncio.sleep(100_000)
    assert not peer.gone
