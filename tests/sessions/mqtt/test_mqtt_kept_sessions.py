"""Sessions that outlive their connections. Statement numbers are those of MQTT 3.1.1, and of 5.0 where it says so."""

from __future__ import annotations

import math

import pytest

from gateway.core.backend import QueueSpec
from gateway.core.commands import (
    Bind,
    Consume,
    DeclareQueue,
    EndSession,
    KeepSession,
    Opened,
    OpenSession,
    SendRetained,
    SessionRecord,
    Unbind,
)
from gateway.core.errors import NotAuthorized, Refused, Unavailable
from gateway.core.message import Address, Message, Origin, Properties
from gateway.core.outcome import Outcome, Result
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Level,
    Pingreq,
    Pingresp,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.properties import Properties as PacketProperties
from gateway.protocols.mqtt.settings import FOR_EVER, Settings
from tests.sessions.mqtt.peer import WALL_CLOCK, Peer, delivery, message

KEPT = Connect(client_id="c", clean_start=False)
DEFAULT_EXPIRY = float(Settings().persistent_session_expiry)


def subscribe(packet_id: int, *filters: tuple[str, int]) -> Subscribe:
    return Subscribe(packet_id, tuple(Subscription(*pair) for pair in filters))


def v5(expiry: int | None, *, clean: bool = False, will: Will | None = None) -> Connect:
    properties = PacketProperties(session_expiry_interval=expiry)
    return Connect(client_id="c", level=Level.V5, clean_start=clean, will=will, properties=properties)


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.connect(KEPT)
    return peer


def test_a_new_session_is_kept_before_connack() -> None:
    """[MQTT-3.1.2-4] [MQTT-3.2.2-3] It exists from then on, whatever is in it."""
    peer = Peer()
    peer.send(KEPT)
    _, opening, keep = peer.execute()
    assert isinstance(opening, OpenSession)
    assert not opening.clean
    assert keep == KeepSession("c", SessionRecord(expiry=DEFAULT_EXPIRY), getattr(keep, "token", None))
    assert peer.received() == [Connack(False, 0)]


def test_its_will_is_kept_with_it() -> None:
    """For a gateway that is killed; what a connection says at its end counts more."""
    will = Will(topic="last", payload=b"words", properties=PacketProperties(will_delay_interval=5))
    peer = Peer()
    peer.send(v5(600, will=will))
    *_, keep = peer.execute()
    assert isinstance(keep, KeepSession)
    assert keep.record.will is not None
    assert (keep.record.will.body, keep.record.will_delay) == (b"words", 5.0)
    again = Peer()
    again.record = SessionRecord(expiry=600.0)
    again.send(v5(600, will=will))
    *_, keep = again.execute()
    assert isinstance(keep, KeepSession)
    assert keep.record.will is not None


def test_a_kept_session_is_present() -> None:
    """[MQTT-3.2.2-2]"""
    peer = Peer()
    peer.record = SessionRecord(expiry=DEFAULT_EXPIRY)
    peer.send(KEPT)
    assert [type(command).__name__ for command in peer.execute()] == ["Authenticate", "OpenSession"]
    assert peer.received() == [Connack(True, 0)]


def test_version_3_1_has_no_flag_for_it() -> None:
    peer = Peer(level=Level.V3_1)
    peer.record = SessionRecord(expiry=DEFAULT_EXPIRY)
    peer.send(Connect(client_id="c", level=Level.V3_1, clean_start=False))
    peer.execute()
    assert peer.session.data_to_send() == b"\x20\x02\x00\x00"


def test_clean_session_forgets_what_was_kept() -> None:
    """[MQTT-3.1.2-6] [MQTT-3.2.2-1]"""
    peer = Peer()
    peer.send(Connect(client_id="c", clean_start=True))
    (opening,) = (command for command in peer.execute() if isinstance(command, OpenSession))
    assert opening.clean
    assert peer.received() == [Connack(False, 0)]
    peer.lose()
    assert peer.commands == [], "nothing was kept, so nothing ends"


@pytest.mark.parametrize(("outcome", "old", "new"), [(Outcome.REJECTED, 3, 0x97), (Outcome.RELEASED, 3, 0x88)])
def test_a_session_that_cannot_be_kept_is_refused(outcome: Outcome, old: int, new: int) -> None:
    """With too many kept sessions a client that needs one is told so, and not left without it."""
    for level, code, connect in ((Level.V3_1_1, old, KEPT), (Level.V5, new, v5(60))):
        peer = Peer(level=level)
        peer.send(connect)
        peer.step()
        peer.step()
        problem = Refused("10 sessions are kept, the limit of this gateway")
        peer.execute(Result(outcome, problem))
        (connack,) = peer.received()
        assert isinstance(connack, Connack)
        assert connack.code == code
        assert peer.closed().error is problem
        assert peer.ended().expiry > 0, "the hub may have opened it"


def test_another_users_client_id_is_refused() -> None:
    for level, code, connect in ((Level.V3_1_1, 5, KEPT), (Level.V5, 0x87, v5(60))):
        peer = Peer(level=level)
        peer.send(connect)
        peer.step()
        problem = NotAuthorized("the client identifier is another user's")
        peer.execute(Result(Outcome.REJECTED, problem))
        (connack,) = peer.received()
        assert isinstance(connack, Connack)
        assert connack.code == code
        assert peer.closed().error is problem


def test_the_first_filter_opens_the_queue_and_names_it_in_the_record(peer: Peer) -> None:
    peer.send(subscribe(1, ("a/+", 1)))
    declare, keep_queue, consume, bind, keep, send_retained = peer.execute()
    assert isinstance(declare, DeclareQueue)
    assert declare.queue.startswith("mqtt-session-c-")
    # One group for each topic: order is kept, and one slow topic does not hold up another.
    assert declare.spec == QueueSpec(durable=True, arguments={"x-fifo": True, "x-group-id": "{key}", "x-session": True})
    assert isinstance(keep_queue, KeepSession)
    assert keep_queue.record.queue == declare.queue
    assert isinstance(consume, Consume)
    assert (consume.queue, consume.prefetch) == (declare.queue, Settings().delivery_window)
    assert isinstance(bind, Bind)
    assert (bind.queue, bind.pattern) == (declare.queue, "a.*")
    assert isinstance(keep, KeepSession)
    assert keep.record.queue == declare.queue
    assert keep.record.bindings == (("amq.topic", "a.*"),)
    assert isinstance(send_retained, SendRetained)
    assert send_retained.queue == declare.queue
    assert peer.received() == [Suback(1, (1,))]


def test_suback_leaves_when_the_filter_is_kept(peer: Peer) -> None:
    peer.subscribe(("a", 1))
    peer.send(subscribe(2, ("b", 1)))
    (bind,) = peer.taken(Bind)
    peer.answer(bind.token)
    (keep,) = peer.taken(KeepSession)
    assert peer.received() == []
    assert keep.record.bindings == (("amq.topic", "a"), ("amq.topic", "b"))
    peer.answer(keep.token)
    peer.execute()
    assert peer.received() == [Suback(2, (1,))]


@pytest.mark.parametrize("outcome", [Outcome.RELEASED, Outcome.REJECTED])
def test_a_filter_that_cannot_be_kept_closes(peer: Peer, outcome: Outcome) -> None:
    """No SUBACK: the client subscribes again on its next connection."""
    peer.subscribe(("a", 1))
    peer.send(subscribe(2, ("b", 1)))
    peer.execute(Result(Outcome.ACCEPTED), Result(outcome, Unavailable("the store is away")))
    assert peer.received() == []
    assert "the store is away" in peer.closed().reason


def test_qos_0_is_live_and_the_rest_waits_for_the_client(peer: Peer) -> None:
    peer.send(subscribe(1, ("live", 0), ("kept", 2)))
    binds = {command.pattern: command.queue for command in peer.execute() if isinstance(command, Bind)}
    assert binds["live"].startswith("mqtt-subscription-c-")
    assert binds["kept"].startswith("mqtt-session-c-")
    assert peer.record is not None
    assert peer.record.bindings == (("amq.topic", "kept"),)


def test_what_both_queues_bring_is_delivered_once(peer: Peer) -> None:
    """[MQTT-3.3.5-1]"""
    peer.subscribe(("a/#", 0), ("a/b", 1))
    assert not peer.session.deliver("live", delivery(message("a.b")))
    assert peer.received() == []
    assert peer.session.deliver("session", delivery(message("a.b")))
    assert peer.received() == [PublishPacket("a/b", b"hi", 1, 1)]
    assert not peer.session.deliver("live", delivery(message("a.c")))
    assert peer.received() == [PublishPacket("a/c", b"hi")]


def test_retained_messages_of_a_live_filter_are_delivered_though_another_is_kept(peer: Peer) -> None:
    peer.subscribe(("a/b", 1), ("a/#", 0))
    retained = message("a.b", headers={"x-mqtt-retained": True})
    assert not peer.session.deliver("live", delivery(retained))
    assert peer.received() == [PublishPacket("a/b", b"hi", retain=True)]


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_a_filter_moves_to_the_queue_of_its_new_qos(peer: Peer, before: int, after: int) -> None:
    """[MQTT-3.8.4-3] Bound there before it is unbound here, so that nothing is missed."""
    peer.subscribe(("a", before))
    peer.send(subscribe(2, ("a", after)))
    commands = [command for command in peer.execute() if isinstance(command, Bind | Unbind)]
    bind, unbind = commands
    assert isinstance(bind, Bind)
    assert isinstance(unbind, Unbind)
    assert bind.queue != unbind.queue
    assert bind.pattern == unbind.pattern == "a"
    assert peer.received() == [Suback(2, (after,))]


def test_a_filter_that_cannot_be_moved_closes(peer: Peer) -> None:
    peer.subscribe(("a", 0), ("b", 1))
    peer.send(subscribe(2, ("a", 1)))
    peer.execute(Result(Outcome.ACCEPTED), Result(Outcome.REJECTED))
    assert peer.closed().error is not None


def test_unsubscribe_is_kept_before_unsuback(peer: Peer) -> None:
    peer.subscribe(("a", 1), ("b", 1))
    peer.send(Unsubscribe(2, ("a",)))
    (unbind,) = peer.taken(Unbind)
    peer.answer(unbind.token)
    (keep,) = peer.taken(KeepSession)
    assert keep.record.bindings == (("amq.topic", "b"),)
    assert peer.received() == []
    peer.answer(keep.token)
    assert peer.received() == [Unsuback(2)]


def test_a_session_that_comes_back(peer: Peer) -> None:
    """[MQTT-3.1.2-4] [MQTT-3.1.2-5] Subscriptions are there without SUBSCRIBE, and so are the messages."""
    peer.subscribe(("live/+", 0), ("kept/+", 2))
    peer.lose()
    again = Peer()
    again.record = peer.record
    again.send(KEPT, Pingreq())
    commands = again.execute()
    assert [type(command).__name__ for command in commands] == [
        "Authenticate",
        "OpenSession",
        "DeclareQueue",
        "Consume",
        "DeclareQueue",
        "Consume",
        "Bind",
    ]
    assert peer.record is not None
    assert isinstance(commands[2], DeclareQueue)
    assert commands[2].queue == peer.record.queue
    assert isinstance(commands[6], Bind)
    assert commands[6].pattern == "live.*"
    assert again.received() == [Connack(True, 0), Pingresp()]
    assert again.session.deliver("session", delivery(message("kept.x")))
    assert again.received() == [PublishPacket("kept/x", b"hi", 1, 1)]
    again.session.deliver("live", delivery(message("live.x")))
    assert again.received() == [PublishPacket("live/x", b"hi")]


def test_connack_comes_before_what_waited(peer: Peer) -> None:
    """5.0 [MQTT-3.2.0-1]"""
    peer.subscribe(("a", 1))
    again = Peer()
    again.record = peer.record
    again.send(KEPT)
    while not (consume := again.taken(Consume)):
        again.step()
    again.session.deliver("session", delivery(message("a")))
    assert again.received() == [Connack(True, 0), PublishPacket("a", b"hi", 1, 1)]
    again.answer(consume[0].token)


@pytest.mark.parametrize("step", [2, 3, 4, 5, 6])
def test_a_session_that_cannot_be_restored_is_not_half_there(peer: Peer, step: int) -> None:
    peer.subscribe(("live/+", 0), ("kept/+", 2))
    again = Peer(level=Level.V5)
    again.record = peer.record
    again.send(v5(int(DEFAULT_EXPIRY)))
    for _ in range(step):
        again.step()
    again.step(Result(Outcome.RELEASED, Unavailable("sqs")))
    last = again.received()[-1]
    assert isinstance(last, Connack if step == 2 else Disconnect)
    assert again.closed().error is not None
    assert again.ended().expiry == DEFAULT_EXPIRY


@pytest.mark.parametrize(
    ("state", "inflight"),
    [
        (b"{", b""),
        (b'{"v":2,"filters":[],"shared":[]}', b""),
        (b"[]", b""),
        (b"", b'{"v":1}'),
        (b"", b'{"v":1,"received":[0],"sent":[],"released":[],"completed":[]}'),
    ],
)
def test_a_session_that_cannot_be_read_is_refused(state: bytes, inflight: bytes) -> None:
    """It stays as it is: another version of the gateway may know it, and a clean start gets rid of it."""
    for connect, code in ((v5(60), ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR), (KEPT, 3)):
        peer = Peer(level=Level(connect.level))
        peer.record = SessionRecord(state=state, inflight=inflight, expiry=60.0)
        peer.send(connect)
        peer.execute()
        (connack,) = peer.received()
        assert isinstance(connack, Connack)
        assert connack.code == code
        assert "cannot be read" in peer.closed().reason


# How it ends


def test_every_ending_keeps_the_session(peer: Peer) -> None:
    for end in ("lost", "disconnected", "violated", "taken over", "shut down"):
        peer = Peer()
        peer.connect(KEPT)
        match end:
            case "lost":
                peer.lose()
            case "disconnected":
                peer.send(Disconnect())
            case "violated":
                peer.feed(b"\x00\x00")
            case "taken over":
                peer.commands += peer.session.taken_over()
            case _:
                peer.commands += peer.session.shutdown()
        assert peer.ended() == EndSession("c", DEFAULT_EXPIRY)
        for more in (peer.session.connection_lost, peer.session.taken_over, peer.session.shutdown):
            assert more() == []


def test_an_end_while_the_session_is_being_opened() -> None:
    """The hub may have called off its expiry already."""
    peer = Peer()
    peer.send(KEPT)
    peer.lose()
    assert peer.commands == [], "nobody was asked for the session"
    peer = Peer()
    peer.send(KEPT)
    peer.step()
    peer.lose()
    assert peer.commands == [EndSession("c", DEFAULT_EXPIRY)]


def test_a_session_that_could_not_be_opened_is_ended_too() -> None:
    peer = Peer()
    peer.send(KEPT)
    peer.step()
    peer.execute(Result(Outcome.RELEASED, Unavailable("the store is away")))
    assert peer.received() == [Connack(False, 3)]
    assert peer.ended() == EndSession("c", DEFAULT_EXPIRY)


def test_a_client_that_is_not_let_in_ends_no_session() -> None:
    peer = Peer()
    peer.send(KEPT)
    peer.execute(Result(Outcome.REJECTED, NotAuthorized("no")))
    assert not peer.taken(EndSession)


@pytest.mark.parametrize(
    ("connect", "settings", "expiry"),
    [
        (KEPT, Settings(persistent_session_expiry=60), 60.0),
        (KEPT, Settings(persistent_session_expiry=FOR_EVER), math.inf),
        (v5(60), Settings(), 60.0),
        (v5(60, clean=True), Settings(), 60.0),
        (v5(FOR_EVER), Settings(max_session_expiry=FOR_EVER), math.inf),
        (v5(FOR_EVER), Settings(max_session_expiry=600), 600.0),
    ],
)
def test_how_long_a_session_is_kept(connect: Connect, settings: Settings, expiry: float) -> None:
    """5.0 [MQTT-3.1.2-23]"""
    peer = Peer(settings, Level(connect.level))
    peer.connect(connect)
    assert peer.record is not None
    assert peer.record.expiry == expiry
    peer.lose()
    assert peer.ended().expiry == expiry


@pytest.mark.parametrize(
    ("connect", "settings"),
    [
        (KEPT, Settings(persistent_session_expiry=0)),
        (v5(None), Settings()),
        (v5(0), Settings()),
        (v5(60), Settings(max_session_expiry=0)),
    ],
)
def test_sessions_that_end_with_their_connection(connect: Connect, settings: Settings) -> None:
    peer = Peer(settings, Level(connect.level))
    peer.connect(connect)
    assert peer.record is None
    peer.lose()
    assert peer.commands == []


def test_a_kept_session_that_is_not_to_be_kept_any_longer() -> None:
    """5.0 §3.1.2.11.2: it goes on for this connection, and ends with it."""
    peer = Peer(level=Level.V5)
    peer.connect(v5(60))
    peer.subscribe(("a", 1))
    again = peer.again(v5(0))
    assert again.session.deliver("session", delivery(message("a")))
    again.lose()
    assert again.ended() == EndSession("c", 0.0)


def test_a_new_expiry_is_kept_at_connect() -> None:
    """What counts when the gateway ends without a word."""
    peer = Peer(level=Level.V5)
    peer.connect(v5(60))
    peer.subscribe(("a", 1))
    again = peer.again(v5(120))
    assert again.record is not None
    assert (again.record.expiry, again.record.bindings) == (120.0, (("amq.topic", "a"),))


def disconnect(expiry: int) -> Disconnect:
    return Disconnect(0, PacketProperties(session_expiry_interval=expiry))


def test_disconnect_changes_the_expiry() -> None:
    """5.0 §3.14.2.2.2"""
    for asked, granted in ((5, 5.0), (0, 0.0), (FOR_EVER, 600.0)):
        peer = Peer(Settings(max_session_expiry=600), Level.V5)
        peer.connect(v5(60))
        peer.send(disconnect(asked))
        assert peer.closed().error is None
        assert peer.ended().expiry == granted


def test_disconnect_cannot_ask_for_a_session_that_connect_did_not_want() -> None:
    """5.0 §3.14.2.2.2"""
    peer = Peer(level=Level.V5)
    peer.connect(v5(0))
    peer.send(disconnect(5))
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.PROTOCOL_ERROR
    (packet,) = peer.received()
    assert isinstance(packet, Disconnect)
    assert packet.reason_code == ReasonCode.PROTOCOL_ERROR
    same = Peer(level=Level.V5)
    same.connect(v5(0))
    same.send(disconnect(0))
    assert same.closed().error is None


# Wills


def will(delay: int | None = None, *, retain: bool = False, expiry: int | None = None) -> Will:
    properties = PacketProperties(will_delay_interval=delay, message_expiry_interval=expiry)
    return Will(topic="gone", payload=b"bye", qos=1, retain=retain, properties=properties)


def test_the_will_of_a_kept_session_goes_with_its_end(peer: Peer) -> None:
    """[MQTT-3.1.2-8]"""
    peer = Peer()
    peer.connect(Connect(client_id="c", clean_start=False, will=Will(topic="gone", payload=b"bye", qos=1)))
    peer.lose()
    end = peer.ended()
    expected = Message(Address("amq.topic", "gone"), b"bye", Properties(delivery_mode=2), origin=Origin("mqtt", "c"))
    assert (end.will, end.will_delay) == (expected, 0.0)
    assert peer.published() == []


@pytest.mark.parametrize(("delay", "expiry", "expected"), [(5, 60, 5.0), (90, 60, 60.0), (None, 60, 0.0)])
def test_a_will_waits_for_its_delay_or_the_end_of_the_session(delay: int | None, expiry: int, expected: float) -> None:
    """5.0 [MQTT-3.1.2-8] [MQTT-3.1.3-9]"""
    peer = Peer(level=Level.V5)
    peer.connect(v5(expiry, will=will(delay)))
    peer.lose()
    assert peer.ended().will_delay == expected


def test_a_will_does_not_wait_when_the_session_ends_with_the_connection() -> None:
    """5.0 §3.1.3.2.2"""
    peer = Peer(level=Level.V5)
    peer.connect(v5(0, will=will(30)))
    peer.lose()
    (message_,) = peer.published()
    assert message_.body == b"bye"
    assert peer.commands == []


def test_a_will_that_is_to_be_retained_goes_with_the_end_of_the_session() -> None:
    """[MQTT-3.1.2-17] The hub retains it beside."""
    peer = Peer()
    peer.connect(Connect(client_id="c", will=Will(topic="gone", payload=b"bye", retain=True)))
    peer.lose()
    end = peer.ended()
    assert end.will is not None
    assert end.will.headers == {"x-mqtt-retain": True}
    assert end.expiry == 0
    assert peer.published() == []


def test_a_will_begins_to_age_when_it_is_published() -> None:
    peer = Peer(level=Level.V5)
    peer.connect(v5(60, will=will(10, expiry=30)))
    peer.wall += 1000
    peer.lose()
    end = peer.ended()
    assert end.will is not None
    assert end.will.properties.expiration == 30_000
    assert end.will.properties.timestamp == WALL_CLOCK + 1010


def test_disconnect_with_will() -> None:
    """5.0 [MQTT-3.14.4-3]: only 0x00 discards it."""
    for code, said in ((0x00, 0), (0x04, 1), (0x80, 1)):
        peer = Peer(level=Level.V5)
        peer.connect(v5(0, will=will()))
        peer.send(Disconnect(code))
        peer.closed()
        assert len(peer.published()) == said


def test_takeover_before_the_session_is_restored_is_no_way_to_lose_it(peer: Peer) -> None:
    again = Peer()
    again.record = peer.record
    again.send(KEPT)
    again.step()
    (opening,) = again.taken(OpenSession)
    again.commands += again.session.taken_over()
    again.closed()
    assert again.ended().expiry == DEFAULT_EXPIRY
    again.answer(opening.token, Opened(peer.record))
    assert again.commands == []
