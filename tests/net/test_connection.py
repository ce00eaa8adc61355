"""Connections: commands in order, back-pressure in pairs, and deliveries that never get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from gateway.core.auth import Credentials
from gateway.core.backend import Entry, QueueSpec
from gateway.core.commands import (
    Authenticate,
    Bind,
    Cancel,
    Close,
    Consume,
    DeclareQueue,
    OpenSession,
    Publish,
    Settle,
    Unbind,
)
from gateway.core.errors import AccessDenied, NotAuthorized, ProtocolError, Refused
from gateway.core.message import TOPIC_EXCHANGE, Address, Message
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.net.connection import LINGER, STUCK, UNSENT_BYTES
from gateway.net.limits import ConnectionLimits
from tests.rig.clock import on_clock, settle_down, until
from tests.rig.connections import FakeTransport
from tests.rig.hosting import Rig, connected, consuming
from tests.rig.scripted import never, raising

LIVE = QueueSpec(durable=False, exclusive=True)
DURABLE = QueueSpec()
LOGIN = Authenticate(Credentials(protocol="test"), "login")
END = Close("the end")
CLAIM = OpenSession("device", False, "claim")


def publish(token: object = None, *, key: str = "orders", body: bytes = b"hello") -> Publish:
    return Publish(Message(Address("", key), body), token)


def on_topic(token: object = None, body: bytes = b"hello") -> Publish:
    return Publish(Message(Address(TOPIC_EXCHANGE, "a"), body), token)


# Publishing


@on_clock
async def test_an_acknowledgement_leaves_after_the_backend_has_accepted_and_once_for_a_turn() -> None:
    rig = Rig()
    await rig.declare("orders")
    gate = asyncio.Event()

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        await gate.wait()
        return [ACCEPTED, Result(Outcome.REJECTED), ACCEPTED]

    rig.backend.on_send = send
    peer = rig.connect()
    await peer.sends(publish(1), publish(2), publish(None))
    assert peer.connection.inflight == 3
    assert len(peer.transport.written) == 0
    gate.set()
    await settle_down()
    assert peer.transport.written == b"[1:ACCEPTED][2:REJECTED]"
    assert peer.connection.inflight == 0
    assert rig.sample("publishes_total", protocol="test") == 3
    assert rig.sample("publish_results_total", outcome="accepted") == 2
    assert rig.sample("publish_results_total", outcome="rejected") == 1


@on_clock
async def test_unrouted_is_answered_at_once() -> None:
    peer = Rig().connect()
    await peer.sends(publish(1, key="nowhere"))
    assert peer.session.answers == [(1, UNROUTED)]


@on_clock
async def test_too_many_unanswered_publishes_stop_the_reading_until_half_are_answered() -> None:
    rig = Rig(ConnectionLimits(inflight=4))
    await rig.declare("orders")
    rig.backend.on_send = never
    peer = rig.connect()
    await peer.sends(*(publish(number) for number in range(3)))
    assert peer.transport.reading
    await peer.sends(publish(3), publish(4), publish(5))
    assert not peer.transport.reading
    assert peer.session.log == ["not reading"]
    assert rig.sample("reading_paused", protocol="test") == 1
    for number in range(3):
        peer.connection.answer(number, ACCEPTED)
    assert not peer.transport.reading
    peer.connection.answer(3, ACCEPTED)
    assert peer.transport.reading
    assert peer.session.log == ["not reading", "reading"]
    assert rig.sample("reading_paused", protocol="test") == 0


@on_clock
async def test_too_many_unanswered_bytes_stop_the_reading_until_half_are_answered() -> None:
    rig = Rig(ConnectionLimits(inflight=8, inflight_bytes=80))
    await rig.declare("orders")
    rig.backend.on_send = never
    peer = rig.connect()
    await peer.sends(publish("small", body=b"x" * 10), publish("large", body=b"x" * 51))
    assert peer.connection.inflight == 1 + 6
    assert peer.transport.reading
    await peer.sends(publish("last", body=b""))
    assert not peer.transport.reading
    await rig.broker.aclose()
    assert sorted(map(str, peer.answered)) == ["large", "last", "small"], "each with the token it came with"
    assert peer.transport.reading
    assert peer.connection.inflight == 0


@on_clock
async def test_one_message_larger_than_all_that_may_be_under_way_is_taken() -> None:
    peer = Rig(ConnectionLimits(inflight=8, inflight_bytes=80)).connect()
    await peer.sends(publish(1, key="nowhere", body=b"x" * 500))
    assert peer.answered == [1]
    assert peer.transport.reading


@on_clock
async def test_reading_goes_on_when_the_last_reason_is_over() -> None:
    peer = Rig().connect()
    peer.connection.pause("one")
    peer.connection.pause("two")
    peer.connection.pause("one")
    peer.connection.resume("one")
    peer.connection.resume("one")
    peer.connection.resume("never given")
    assert not peer.transport.reading
    peer.connection.resume("two")
    assert peer.transport.reading
    assert peer.session.log == ["not reading", "reading"]


@on_clock
async def test_a_full_gateway_pauses_a_publisher_and_forgets_it_when_it_goes() -> None:
    rig = Rig(inflight_messages=2)
    await rig.declare("orders")
    rig.backend.on_send = never
    gone, stays = rig.connect(), rig.connect()
    await gone.sends(publish(1), publish(2))
    await stays.sends(publish(3))
    assert not gone.transport.reading
    assert not stays.transport.reading
    gone.transport.reset()
    await settle_down()
    assert gone.session.log == ["not reading"]
    assert rig.sample("reading_paused", protocol="test") == 1
    await rig.broker.aclose()
    assert stays.transport.reading
    assert rig.sample("inflight_messages") == 0
    assert rig.sample("reading_paused", protocol="test") == 0
    assert rig.sample("publish_results_total", outcome="released") == 3, "those of a connection that is gone, too"


@on_clock
async def test_results_for_a_connection_that_is_gone_reach_nobody() -> None:
    rig = Rig()
    await rig.declare("orders")
    rig.backend.on_send = never
    peer = rig.connect()
    await peer.sends(publish(1))
    peer.transport.reset()
    await settle_down()
    peer.connection.answer(1, ACCEPTED)
    assert not peer.session.answers
    assert peer.connection.inflight == 0


# Commands


@on_clock
async def test_pipelined_commands_wait_behind_one_that_waits_and_reading_stops() -> None:
    rig, peer = connected()
    await peer.sends(LOGIN, DeclareQueue("orders", DURABLE, "declare"), publish(1), Close("done"))
    assert not peer.answered
    assert not peer.transport.reading
    rig.door.open.set()
    await settle_down()
    assert peer.answered == ["login", "declare"]
    assert rig.backend.sent == [[b"hello"]]
    assert peer.gone


@on_clock
async def test_what_a_session_answers_comes_before_what_was_pipelined() -> None:
    rig = Rig()
    rig.door.open.set()
    peer = rig.connect()
    order: list[object] = []

    def on_answer(token: object, result: Result) -> Sequence[Bind | OpenSession]:
        order.append(token)
        return (CLAIM,) if token == "login" else ()

    peer.session.on_answer = on_answer
    await peer.sends(LOGIN, DeclareQueue("live", LIVE, "declare"), Bind("live", TOPIC_EXCHANGE, "a", "bind"))
    assert order == ["login", "claim", "declare", "bind"]
    assert peer.transport.reading


@on_clock
async def test_what_an_answer_gives_while_a_command_waits_comes_before_what_was_pipelined() -> None:
    rig = Rig()
    await rig.declare("orders")
    peer = rig.connect()
    gate = asyncio.Event()

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        await gate.wait()
        return [ACCEPTED] * len(entries)

    rig.backend.on_send = send
    peer.session.on_answer = lambda token, result: (CLAIM,) if token == 1 else ()
    await peer.sends(publish(1), LOGIN, Bind("orders", TOPIC_EXCHANGE, "a", "bind"))
    gate.set()
    await settle_down()
    assert peer.answered == [1]
    rig.door.open.set()
    await settle_down()
    assert peer.answered == [1, "login", "claim", "bind"]


@on_clock
async def test_a_publish_that_failed_while_a_command_waits_lets_no_later_one_go_out() -> None:
    rig = Rig()
    await rig.declare("orders")
    peer = rig.connect()
    rig.backend.on_send = raising(AccessDenied("no"))
    peer.session.on_answer = lambda token, result: (Close("released", AccessDenied("no")),) if token == 1 else ()
    await peer.sends(publish(1), LOGIN, publish(2))
    assert peer.answered == [1]
    rig.door.open.set()
    await settle_down()
    assert peer.gone
    assert rig.sample("publishes_total", protocol="test") == 1


@on_clock
async def test_a_command_given_in_an_answer_inside_a_list_waits_for_nothing_and_loses_nothing() -> None:
    rig = Rig()
    await rig.declare("orders")
    peer = rig.connect()
    peer.session.on_answer = lambda token, result: (
        (DeclareQueue("first", DURABLE, "first"),) if token == "unrouted" else ()
    )
    gate = asyncio.Event()
    order: list[str] = []

    async def ensure(target: object) -> None:
        order.append(getattr(target, "name", ""))
        await gate.wait()

    rig.backend.on_ensure = ensure
    await peer.sends(publish("unrouted", key="nowhere"), DeclareQueue("second", DURABLE, "second"), publish("last"))
    assert order == ["first"], "one after the other"
    gate.set()
    await settle_down()
    assert order == ["first", "second"]
    assert peer.answered == ["unrouted", "first", "second", "last"]
    assert peer.transport.reading


@on_clock
async def test_a_close_inside_an_answer_ends_the_list() -> None:
    rig = Rig()
    await rig.declare("orders")
    peer = rig.connect()
    peer.session.on_answer = lambda token, result: (Close("rejected", ProtocolError("no")),) if token == 1 else ()
    await peer.sends(publish(1, key="nowhere"), publish(2), LOGIN)
    assert peer.gone
    assert not rig.backend.sent, "what follows a publish that failed is not published before it"
    assert peer.transport.written == b"[1:ACCEPTED]"
    assert rig.sample("protocol_errors_total", protocol="test") == 1


@on_clock
async def test_after_close_only_settlements_count() -> None:
    rig, peer = await consuming()
    await rig.arrive(b"a", b"b")
    first, _ = peer.session.held
    await peer.sends(END, Settle([first], Outcome.ACCEPTED), publish(1), LOGIN, Consume("x", "orders", 1, "x"))
    await settle_down()
    assert rig.backend.deleted == ["r-a"]
    assert rig.backend.released == ["r-b"]
    assert not rig.backend.sent
    peer.connection.data_received(b"data")
    assert peer.session.times_ended == 1


@on_clock
async def test_errors_of_control_commands_are_answers() -> None:
    rig = Rig()
    await rig.declare("orders")
    peer = rig.connect()
    await peer.sends(
        Bind("missing", TOPIC_EXCHANGE, "a", "bind"),
        Unbind("missing", TOPIC_EXCHANGE, "a", "unbind"),
        Consume("tag", "missing", 1, "consume"),
        Cancel("missing", "cancel"),
        Consume("tag", "orders", 1, "good"),
        Consume("tag", "orders", 1, "again"),
    )
    outcomes = [result.outcome for _, result in peer.session.answers]
    rejected = Outcome.REJECTED
    assert outcomes == [rejected, Outcome.ACCEPTED, rejected, Outcome.ACCEPTED, Outcome.ACCEPTED, rejected]
    assert isinstance(peer.session.answers[-1][1].error, Refused), "a tag is in use"
    peer.transport.reset()
    await settle_down()
    await rig.arrive(b"a")
    assert rig.backend.released == ["r-a"], "nobody is left who consumes"


@on_clock
async def test_who_is_not_let_in_is_told_and_counted() -> None:
    rig = Rig()
    rig.door.error = NotAuthorized("not let in")
    rig.door.open.set()
    peer = rig.connect()
    await peer.sends(LOGIN)
    assert peer.outcome_of("login") is Outcome.REJECTED
    assert rig.sample("logins_refused_total", protocol="test") == 1


@on_clock
async def test_a_queue_that_cannot_be_had_is_an_answer() -> None:
    rig = Rig()
    rig.backend.on_ensure = raising(AccessDenied("may not"))
    peer = rig.connect()
    await peer.sends(DeclareQueue("orders", DURABLE, "declare"), Consume("tag", "orders", 1, "consume"))
    assert [(token, result.outcome) for token, result in peer.session.answers] == [
        ("declare", Outcome.RELEASED),
        ("consume", Outcome.REJECTED),
    ]


@on_clock
async def test_a_bug_behind_a_waiting_command_ends_the_connection() -> None:
    rig = Rig()
    rig.backend.on_ensure = raising(KeyError("a bug"))
    peer = rig.connect()
    with capture_logs() as lines:
        await peer.sends(DeclareQueue("orders", DURABLE, "declare"))
    assert peer.gone
    assert "command_failed_unexpectedly" in [line["event"] for line in lines]


@on_clock
async def test_a_connection_lost_while_a_queue_is_declared_leaves_no_queue_and_no_task() -> None:
    rig = Rig()
    rig.backend.on_ensure = never
    peer = rig.connect()
    await peer.consumes("orders")
    peer.transport.reset()
    await settle_down()
    assert peer.gone
    assert not rig.open
    assert not rig.broker._queues._durable
    assert len(asyncio.all_tasks()) == 1


@on_clock
async def test_a_virtual_queue_whose_declaration_was_about_to_run_does_not_outlive_its_connection() -> None:
    rig, peer = connected()
    peer.session.script[b"data"] = (DeclareQueue("live", LIVE, "declare"),)
    peer.connection.data_received(b"data")
    peer.connection.connection_lost(None)
    await settle_down()
    assert not rig.broker._queues._virtual


# Deliveries


@on_clock
async def test_a_delivery_is_held_until_the_peer_settles_it() -> None:
    rig, peer = await consuming()
    await rig.arrive(b"a", b"b")
    assert peer.transport.written == b"ab"
    assert not rig.backend.settled
    first, second = peer.session.held
    peer.session.held = [second]
    await peer.sends(Settle([first], Outcome.ACCEPTED))
    assert rig.backend.deleted == ["r-a"]
    peer.transport.reset()
    await settle_down()
    assert rig.backend.released == ["r-b"]


@on_clock
async def test_an_automatic_delivery_is_accepted_when_its_bytes_are_gone() -> None:
    rig, _ = await consuming(automatic=True)
    await rig.arrive(b"a")
    assert rig.backend.deleted == ["r-a"]


@on_clock
async def test_while_a_byte_waits_there_are_no_deliveries_and_no_automatic_acknowledgements() -> None:
    rig, peer = await consuming(automatic=True)
    peer.transport.stuck = True
    await rig.arrive(b"abc")
    peer.transport.let_go(2)
    asked = len(rig.backend.asked)
    rig.backend.arrive(b"d")
    await asyncio.sleep(60)
    assert peer.transport.buffer == b"c"
    assert not rig.backend.settled
    assert len(rig.backend.asked) == asked, "a slow consumer stops the polling"
    peer.transport.let_go()
    await settle_down()
    assert peer.transport.written == b"abcd"
    assert rig.backend.deleted == ["r-abc", "r-d"]


@on_clock
async def test_a_consumer_that_subscribes_while_bytes_wait_gets_nothing_yet() -> None:
    rig, peer = connected()
    peer.transport.stuck = True
    await peer.sends(publish(1, key="nowhere"), DeclareQueue("orders", DURABLE, "d"), Consume("t", "orders", 5, "c"))
    await rig.arrive(b"a")
    assert not peer.session.held
    peer.transport.let_go()
    await settle_down()
    assert len(peer.session.held) == 1


@on_clock
async def test_unwritten_deliveries_come_back_when_the_connection_is_lost() -> None:
    rig, peer = await consuming(automatic=True)
    peer.transport.stuck = True
    await rig.arrive(b"a", b"b")
    peer.transport.reset()
    await settle_down()
    assert rig.backend.released == ["r-a", "r-b"]
    assert not rig.backend.deleted


@on_clock
async def test_a_delivery_whose_write_failed_is_not_accepted() -> None:
    rig, peer = await consuming(automatic=True)
    peer.transport.broken = True
    await rig.arrive(b"a")
    assert peer.gone
    assert rig.backend.released == ["r-a"]
    assert not rig.backend.deleted


@on_clock
async def test_a_delivery_in_the_turn_of_a_close_is_not_accepted_unwritten() -> None:
    rig, peer = await consuming(automatic=True)
    peer.transport.stuck = True
    peer.session.output = b"goodbye"
    await peer.sends(END)
    assert not peer.gone, "the peer has not read the last bytes"
    await rig.arrive(b"a")
    assert rig.backend.released == ["r-a"], "a connection that closes consumes no more"
    peer.transport.let_go()
    await settle_down()
    assert peer.gone
    assert peer.transport.written == b"goodbye"


@pytest.mark.parametrize("stuck", [False, True])
@on_clock
async def test_two_writes_in_one_turn_lose_no_delivery(stuck: bool) -> None:
    rig = Rig()
    peer, other = rig.connect(), rig.connect()
    peer.session.automatic = True
    await peer.sends(DeclareQueue("live", LIVE, "d"), Consume("t", "live", 5, "c"))
    peer.session.script[b"end"] = (END,)
    rig.broker.publish(publish(key="live").message, other.connection, None)
    peer.connection._flush()
    peer.transport.stuck = stuck
    rig.broker.publish(publish(key="live").message, other.connection, None)
    peer.connection.data_received(b"end")
    await settle_down()
    peer.transport.let_go()
    await settle_down()
    assert peer.gone
    assert [delivery.settled for delivery in peer.session.delivered] == [True, True]


@on_clock
async def test_a_session_that_wrote_nothing_for_an_automatic_delivery_gets_the_next() -> None:
    rig, peer = await consuming(prefetch=1, automatic=True)
    rig.backend.arrive(b"", b"b")  # as when it is too large for this client
    await until(lambda: len(rig.backend.deleted) == 2, "both are accepted")
    assert peer.transport.written == b"b"


@on_clock
async def test_settlements_behind_a_waiting_command_count_when_the_connection_is_lost() -> None:
    rig, peer = await consuming()
    await rig.arrive(b"a", b"b")
    first, _ = peer.session.held
    await peer.sends(LOGIN, Settle([first], Outcome.ACCEPTED), publish(1))
    peer.transport.reset()
    await settle_down()
    assert rig.backend.deleted == ["r-a"]
    assert rig.backend.released == ["r-b"]
    assert not rig.backend.sent


@on_clock
async def test_cancelling_leaves_what_is_held_with_the_session() -> None:
    rig, peer = await consuming()
    await rig.arrive(b"a")
    await peer.sends(Cancel("tag", "cancel"))
    await rig.arrive(b"b")
    assert rig.backend.released == ["r-b"]
    await peer.sends(Settle(list(peer.session.held), Outcome.ACCEPTED), Consume("tag", "orders", 1, "again"))
    assert rig.backend.deleted == ["r-a"]
    assert peer.outcome_of("again") is Outcome.ACCEPTED


@on_clock
async def test_a_transport_that_has_bytes_before_the_session_begins_may_pause_it_at_once() -> None:
    """As asyncio's TLS does, when the end of its handshake is still to be written."""

    class Behind(FakeTransport):
        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            super().set_write_buffer_limits(high, low)
            self.stuck = True
            self.write(b"handshake")

    rig = Rig()
    peer = rig.connect(Behind)
    peer.session.output = b"answer"
    await peer.sends(DeclareQueue("orders", DURABLE, "d"), Consume("t", "orders", 5, "c"))
    await rig.arrive(b"a")
    assert not peer.session.held
    peer.transport.let_go()
    await settle_down()
    assert len(peer.session.held) == 1


# Faults of a session


@on_clock
async def test_a_bug_in_one_session_keeps_no_answer_from_the_others() -> None:
    rig = Rig()
    await rig.declare("orders")
    broken, sound = rig.connect(), rig.connect()
    broken.session.script[b"data"] = (publish(1),)
    sound.session.script[b"data"] = (publish(2),)
    broken.session.fault = KeyError("a bug")
    broken.connection.data_received(b"data")
    sound.connection.data_received(b"data")
    with capture_logs() as lines:
        await settle_down()
    assert len(rig.backend.sent) == 1, "one batch"
    assert sound.answered == [2]
    assert broken.gone
    assert "session_failed" in [line["event"] for line in lines]


@on_clock
async def test_a_bug_in_one_session_keeps_no_delivery_from_the_others() -> None:
    rig = Rig()
    broken, sound = rig.connect(), rig.connect()
    await broken.consumes("orders")
    await sound.consumes("orders")
    broken.session.fault = KeyError("a bug")
    with capture_logs():
        await rig.arrive(b"a", b"b", b"c")
    assert broken.gone
    held = [delivery.receipt for delivery in sound.session.held]
    assert sorted(held + rig.backend.released) == ["r-a", "r-b", "r-c"]
    assert len(held) >= 2


@on_clock
async def test_a_session_that_fails_at_its_end_still_gives_back_what_was_unwritten() -> None:
    rig, peer = await consuming(automatic=True)
    peer.transport.stuck = True
    await rig.arrive(b"a")

    def fail() -> Sequence[Publish]:
        raise KeyError("a bug")

    peer.session.connection_lost = fail  # type: ignore[method-assign]
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    peer.transport.reset()
    await settle_down()
    assert rig.backend.released == ["r-a"]
    assert not rig.open
    assert rig.sample("connections", protocol="test") == 0
    assert len(failures) == 1


# Takeover, shutdown, wills


@on_clock
async def test_a_takeover_ends_the_other_connection_with_its_will() -> None:
    rig = Rig()
    await rig.declare("orders")
    first, second = rig.connect(), rig.connect()
    await first.sends(CLAIM, DeclareQueue("live", LIVE, "d"), Consume("t", "live", 1, "c"))
    first.session.at_takeover = (publish(body=b"will"), Close("taken over"))
    await second.sends(CLAIM, DeclareQueue("live", LIVE, "d"), Consume("t", "live", 1, "c"))
    assert first.session.log[-1] == "taken over"
    assert first.gone
    assert rig.backend.sent == [[b"will"]]
    await second.sends(publish(1, key="live"))
    assert len(second.session.held) == 1, "the queue is the second one's, though of the same name"
    assert rig.sample("takeovers_total") == 1


@on_clock
async def test_a_takeover_does_not_wait_for_a_slow_reader_to_give_up_its_queues() -> None:
    rig = Rig()
    first, second = rig.connect(), rig.connect()
    await first.sends(CLAIM, DeclareQueue("live", LIVE, "declare"))
    first.transport.stuck = True
    first.session.output = b"goodbye"
    first.session.at_takeover = (Close("taken over"),)
    await second.sends(CLAIM, DeclareQueue("live", LIVE, "declare"), Consume("t", "live", 1, "c"))
    assert not first.gone
    await asyncio.sleep(LINGER + 0.1)
    assert first.gone
    await second.sends(publish(1, key="live"))
    assert len(second.session.held) == 1


@on_clock
async def test_a_connection_that_is_closing_already_is_not_asked_for_its_will_twice() -> None:
    rig = Rig()
    await rig.declare("orders")
    first, second = rig.connect(), rig.connect()
    await first.sends(CLAIM)
    first.transport.stuck = True
    first.session.output = b"goodbye"
    first.session.at_takeover = (publish(body=b"will"), Close("taken over"))
    first.session.at_end = (publish(body=b"will"),)
    await first.sends(Close("bad data", ProtocolError("bad data")))
    await second.sends(CLAIM)
    assert "taken over" not in first.session.log
    first.transport.reset()
    await settle_down()
    assert rig.backend.sent == [[b"will"]]


@on_clock
async def test_a_takeover_cuts_short_what_the_other_waits_for_and_keeps_its_settlements() -> None:
    rig = Rig()
    first, second = rig.connect(), rig.connect()
    await first.consumes("orders")
    await first.sends(CLAIM)
    await rig.arrive(b"a")
    rig.backend.on_ensure = never
    await first.sends(
        DeclareQueue("slow", DURABLE, "slow"), Settle(list(first.session.held), Outcome.ACCEPTED), publish(1)
    )
    first.session.at_takeover = (Close("taken over"),)
    await second.sends(CLAIM)
    assert first.gone
    assert rig.backend.deleted == ["r-a"]
    assert not rig.backend.sent
    assert "slow" not in first.answered


@pytest.mark.parametrize("ending", ["shutdown", "takeover"])
@on_clock
async def test_what_the_end_of_a_session_interrupts_is_answered(ending: str) -> None:
    rig = Rig()
    await rig.declare("orders")
    rig.backend.on_ensure = never
    peer = rig.connect()
    await peer.sends(CLAIM)
    await peer.sends(DeclareQueue("slow", DURABLE, "slow"), publish("behind"), DeclareQueue("next", DURABLE, "next"))
    waited_for = {"slow", "behind", "next"}

    def on_answer(token: object, result: Result) -> Sequence[Close]:
        waited_for.discard(str(token))
        return () if waited_for else (Close("everything is answered"),)

    peer.session.on_answer = on_answer
    if ending == "shutdown":
        peer.connection.shutdown()
    else:
        await rig.connect().sends(CLAIM)
    await settle_down()
    assert peer.answered == ["claim", "slow", "next", "behind"]
    assert peer.outcome_of("slow") is peer.outcome_of("next") is Outcome.RELEASED
    assert peer.outcome_of("behind") is Outcome.ACCEPTED
    assert rig.backend.sent == [[b"hello"]]
    assert peer.gone
    assert rig.sample("reading_paused", protocol="test") == 0


@on_clock
async def test_a_bug_in_a_session_that_is_told_of_an_interruption_cuts_it_off() -> None:
    rig, peer = await consuming()
    await rig.arrive(b"a")
    rig.backend.on_ensure = never
    await peer.sends(DeclareQueue("slow", DURABLE, "slow"), Settle(list(peer.session.held), Outcome.ACCEPTED))

    def fail(token: object, result: Result) -> Sequence[Close]:
        raise KeyError("a bug")

    peer.session.on_answer = fail
    with capture_logs() as lines:
        peer.connection.shutdown()
    await settle_down()
    assert peer.gone
    assert rig.backend.deleted == ["r-a"], "what the peer has settled is settled"
    assert "session_failed" in [line["event"] for line in lines]


@on_clock
async def test_at_the_end_a_will_is_published_and_nothing_else() -> None:
    rig = Rig()
    await rig.declare("orders")
    peer = rig.connect()
    peer.session.at_end = (publish(body=b"will"), CLAIM)
    peer.transport.reset()
    await settle_down()
    assert rig.backend.sent == [[b"will"]]
    assert peer.connection.inflight == 0
    assert not rig.broker._claims


@on_clock
async def test_a_will_to_a_topic_that_the_dying_connection_consumes_itself_is_not_lost_in_it() -> None:
    rig = Rig()
    peer, other = rig.connect(), rig.connect()
    for one, queue in ((peer, "live-1"), (other, "live-2")):
        await one.sends(
            DeclareQueue(queue, LIVE, "d"), Bind(queue, TOPIC_EXCHANGE, "a", "b"), Consume("t", queue, 5, "c")
        )
    peer.session.at_end = (on_topic(body=b"will"),)
    peer.transport.reset()
    await settle_down()
    assert not peer.session.held
    assert [delivery.message.body for delivery in other.session.held] == [b"will"]


@on_clock
async def test_a_paused_gateway_takes_the_will_of_a_connection_that_ends() -> None:
    rig = Rig(inflight_messages=1)
    await rig.declare("orders")
    rig.backend.on_send = never
    peer = rig.connect()
    peer.session.at_end = (publish(body=b"will"),)
    await peer.sends(publish(1))
    peer.transport.reset()
    await settle_down()
    assert rig.sample("inflight_messages") == 2
    await rig.broker.aclose()
    assert rig.sample("inflight_messages") == 0
    assert peer.session.log == ["not reading"]


@on_clock
async def test_shutdown_says_goodbye_and_closes() -> None:
    rig, peer = await consuming()
    await rig.arrive(b"a")
    peer.connection.stop_reading()
    assert not peer.transport.reading
    peer.session.output = b"goodbye"
    peer.session.at_shutdown = (Close("shutdown"),)
    peer.connection.shutdown()
    peer.connection.shutdown()
    await settle_down()
    assert peer.session.log[-2:] == ["not reading", "shutdown"]
    assert peer.transport.written.endswith(b"goodbye")
    assert peer.gone
    assert rig.backend.released == ["r-a"]


@on_clock
async def test_a_session_that_fails_at_shutdown_is_cut_off() -> None:
    peer = Rig().connect()
    peer.session.fault = KeyError("a bug")
    with capture_logs():
        peer.connection.shutdown()
    await settle_down()
    assert peer.gone


# Time


@on_clock
async def test_a_peer_that_does_not_connect_in_time_is_cut_off() -> None:
    rig = Rig(ConnectionLimits(connect_timeout=10.0))
    slow, quick = rig.connect(), rig.connect()
    slow.session.established = quick.session.established = False
    slow.connection._arm()
    quick.connection._arm()
    await asyncio.sleep(9.0)
    assert not slow.gone
    quick.session.established = True
    slow.session.deadline = 5_000.0
    await asyncio.sleep(2.0)
    assert slow.gone
    assert not quick.gone
    assert rig.sample("protocol_errors_total", protocol="test") == 1


@on_clock
async def test_the_session_is_ticked_at_its_deadline_and_not_before() -> None:
    peer = Rig().connect()
    loop = asyncio.get_running_loop()
    ticks: list[float] = []

    def tick(now: float) -> Sequence[Close]:
        ticks.append(now)
        peer.session.deadline = now + 10.0
        peer.session.output += b"beat"
        return () if len(ticks) < 3 else (Close("silent"),)

    start = loop.time()
    peer.session.on_tick = tick
    peer.session.deadline = start + 5.0
    await peer.sends()
    peer.session.deadline = start + 7.0  # later: as after activity of the peer
    await asyncio.sleep(100)
    assert [round(tick - start, 3) for tick in ticks] == [7.0, 17.0, 27.0]
    assert peer.transport.written == b"beatbeatbeat"
    assert peer.gone


@on_clock
async def test_a_peer_that_sends_and_never_reads_is_not_read_and_then_cut_off() -> None:
    peer = Rig().connect()
    peer.transport.stuck = True
    peer.session.output = b"x" * UNSENT_BYTES
    await peer.sends()
    assert peer.transport.reading, "its acknowledgements are still taken"
    peer.session.output = b"x"
    await peer.sends()
    assert not peer.transport.reading
    await asyncio.sleep(STUCK - 1)
    assert not peer.gone
    await asyncio.sleep(2)
    assert peer.gone


@on_clock
async def test_a_peer_that_reads_again_in_time_is_read_again() -> None:
    peer = Rig().connect()
    peer.transport.stuck = True
    peer.session.output = b"x" * (UNSENT_BYTES + 1)
    await peer.sends()
    await asyncio.sleep(STUCK / 2)
    peer.transport.let_go()
    assert peer.transport.reading
    await asyncio.sleep(STUCK * 2)
    assert not peer.gone


@on_clock
async def test_last_bytes_that_nobody_reads_are_given_up_after_a_while() -> None:
    peer = Rig().connect()
    peer.transport.stuck = True
    peer.session.output = b"goodbye"
    await peer.sends(END)
    await asyncio.sleep(LINGER - 0.1)
    assert not peer.gone
    await asyncio.sleep(0.2)
    assert peer.gone


@on_clock
async def test_a_peer_that_does_not_close_its_side_is_cut_off_and_until_then_not_listened_to() -> None:
    rig, peer = connected()
    peer.transport.polite = False
    peer.connection.pause("busy")
    peer.session.at_shutdown = (END,)
    peer.connection.shutdown()
    assert peer.transport.reading, "unread bytes would reset the connection, and the last words with it"
    assert rig.sample("reading_paused", protocol="test") == 0
    await peer.sends(publish(1))
    peer.connection.pause("busy still")
    assert peer.transport.reading
    peer.connection.resume("busy")
    peer.connection.resume("busy still")
    assert not peer.answered
    await asyncio.sleep(LINGER + 0.1)
    assert peer.gone
    assert rig.sample("reading_paused", protocol="test") == 0


@on_clock
async def test_no_timer_is_left_of_a_connection_that_is_gone() -> None:
    rig, peer = connected()
    peer.session.deadline = 5_000.0
    await peer.sends()
    peer.transport.reset()
    await settle_down()
    loop = asyncio.get_running_loop()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]
    assert rig.sample("connections", protocol="test") == 0
    assert rig.sample("connections_opened_total", protocol="test") == 1


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("ending", ["reset", "close", "shutdown", "takeover", "abort"])
@on_clock
async def test_however_it_ends_every_delivery_is_settled_or_released(ending: str, automatic: bool) -> None:
    rig, peer = await consuming(automatic=automatic)
    await peer.sends(CLAIM)
    peer.transport.stuck = True
    await rig.arrive(b"a", b"b", b"c")
    peer.session.at_shutdown = peer.session.at_takeover = (END,)
    match ending:
        case "reset":
            peer.transport.reset()
        case "close":
            await peer.sends(END)
        case "shutdown":
            peer.connection.shutdown()
        case "takeover":
            await rig.connect().sends(CLAIM)
        case "abort":
            peer.connection.abort()
    await asyncio.sleep(LINGER + 1)
    assert peer.gone
    assert sorted(rig.backend.released) == ["r-a", "r-b", "r-c"]
    assert not rig.backend.deleted
    assert rig.sample("unsettled_deliveries", queue="orders") == 0
