"""How a connection begins, lives, and ends. Statement numbers are those of MQTT 3.1.1."""

from __future__ import annotations

import math

import pytest

from gateway.core.auth import Credentials
from gateway.core.commands import Authenticate, Opened, OpenSession, Publish
from gateway.core.errors import MqliftError, NotAuthorized, Refused
from gateway.core.message import PERSISTENT, TRANSIENT, Address, Message, Origin
from gateway.core.outcome import Outcome, Result
from gateway.core.session import SessionContext
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Suback,
    Unsuback,
    Will,
)
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.session import open_session
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import Peer

WILL = Will(topic="gone/c", payload=b"bye", qos=1)
WILL_MESSAGE = Message(Address("amq.topic", "gone.c"), b"bye", PERSISTENT, origin=Origin("mqtt", "c", "u"))
WITH_WILL = Connect(client_id="c", username="u", will=WILL, keep_alive=60)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_connect_authenticates_then_opens_the_session_then_answers(peer: Peer) -> None:
    peer.send(Connect(client_id="c", username="u", password=b"secret"))
    (authenticate,) = peer.taken(Authenticate)
    assert authenticate.credentials == Credentials(protocol="mqtt", client_id="c", username="u", password=b"secret")
    assert not peer.commands
    peer.answer(authenticate.token, peer.accepted(authenticate))
    (opening,) = peer.taken(OpenSession)
    assert (opening.client_id, opening.clean) == ("c", True)
    assert peer.received() == []
    assert not peer.session.established
    peer.answer(opening.token, Opened(None))
    assert peer.received() == [Connack(False, 0)]  # [MQTT-3.2.2-1] [MQTT-3.2.2-6]
    assert peer.session.established
    assert not peer.commands


def test_clean_session_0_is_told_that_there_is_no_session(peer: Peer) -> None:
    peer.connect(Connect(client_id="c", clean_start=False))  # [MQTT-3.2.2-3]


def test_empty_client_id_gets_one_of_its_own() -> None:
    """[MQTT-3.1.3-6]"""
    opened = set()
    for _ in range(2):
        peer = Peer()
        peer.send(Connect(client_id=""))
        (opening,) = (command for command in peer.execute() if isinstance(command, OpenSession))
        assert opening.client_id.startswith("mqlift-")
        assert peer.received() == [Connack(False, 0)]
        opened.add(opening.client_id)
    assert len(opened) == 2


def test_empty_client_id_needs_clean_session(peer: Peer) -> None:
    """[MQTT-3.1.3-7] [MQTT-3.1.3-8]"""
    peer.send(Connect(client_id="", clean_start=False))
    assert peer.received() == [Connack(False, 2)]
    assert peer.closed().error is not None
    assert not peer.session.established


def test_client_ids_have_a_limit() -> None:
    for client_id, accepted in (("é" * 15, True), ("é" * 15 + "x", False)):
        peer = Peer(Settings(max_client_id_bytes=30))
        peer.send(Connect(client_id=client_id))
        assert bool(peer.taken(Authenticate)) is accepted
        assert peer.received() == ([] if accepted else [Connack(False, 2)])


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Result(Outcome.REJECTED, NotAuthorized("no")), 5),
        (Result(Outcome.RELEASED, Refused("the directory is away")), 3),
    ],
)
def test_authentication_that_fails(peer: Peer, result: Result, code: int) -> None:
    peer.send(WITH_WILL, Pingreq())
    peer.execute(result)
    assert peer.received() == [Connack(False, code)]  # [MQTT-3.2.2-4] [MQTT-3.2.2-5] [MQTT-3.1.4-2]
    assert peer.closed().error is result.error
    assert not peer.commands, "no will: the client was never let in"
    assert not peer.session.established


def test_a_session_that_cannot_be_opened(peer: Peer) -> None:
    peer.send(WITH_WILL)
    (authenticate,) = peer.taken(Authenticate)
    peer.answer(authenticate.token, peer.accepted(authenticate))
    peer.execute(Result(Outcome.RELEASED, Refused("too many")))
    assert peer.received() == [Connack(False, 3)]
    peer.closed()
    assert not peer.commands


def test_unknown_version_is_refused(peer: Peer) -> None:
    peer.feed(b"\x10\x0d\x00\x04MQTT\x84\x02\x00\x00\x00\x01c")
    assert peer.session.data_to_send() == b"\x20\x02\x00\x01"
    peer.closed()


@pytest.mark.parametrize(
    "wire",
    [
        b"\xc0\x00",  # [MQTT-3.1.0-1]
        b"\x10\x0d\x00\x04HTTP\x04\x02\x00\x00\x00\x01c",  # [MQTT-3.1.2-1]
        b"\x10\x0d\x00\x04MQTT\x04\x03\x00\x00\x00\x01c",  # [MQTT-3.1.2-3]
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_what_is_no_connect_is_closed_without_a_word(peer: Peer, wire: bytes) -> None:
    """[MQTT-4.8.0-1]"""
    peer.feed(wire)
    assert isinstance(peer.closed().error, PacketError)
    assert not peer.commands
    assert peer.session.data_to_send() == b""
    peer.feed(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c")
    assert not peer.commands


def test_second_connect_is_a_violation(peer: Peer) -> None:
    """[MQTT-3.1.0-2]"""
    peer.connect()
    peer.send(Connect(client_id="c"))
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.PROTOCOL_ERROR
    assert peer.received() == []


@pytest.mark.parametrize("packet", [Connack(False, 0), Suback(1, (0,)), Unsuback(1), Pingresp()])
def test_packets_that_clients_do_not_send(peer: Peer, packet: Packet) -> None:
    peer.connect()
    peer.send(packet)
    assert isinstance(peer.closed().error, PacketError)


def test_ping(peer: Peer) -> None:
    """[MQTT-3.12.4-1]"""
    peer.connect()
    peer.send(Pingreq(), Pingreq())
    assert peer.received() == [Pingresp(), Pingresp()]
    assert not peer.commands


def test_what_is_sent_behind_connect_waits_for_connack(peer: Peer) -> None:
    """[MQTT-3.1.4-5]"""
    peer.send(Connect(client_id="c"), PublishPacket("a", b"1", 1, 1))
    peer.send(PublishPacket("a", b"2", 1, 2))
    peer.feed(b"\xc0")
    peer.feed(b"\x00")
    assert peer.published() == []
    peer.execute()
    assert [message.body for message in peer.published()] == [b"1", b"2"]
    assert peer.received() == [Connack(False, 0), Pingresp()]


def test_what_is_sent_behind_connect_is_bounded() -> None:
    peer = Peer(Settings(max_pipelined_bytes=10))
    peer.send(Connect(client_id="c"))
    peer.feed(bytes(10))
    assert len(peer.commands) == 1
    peer.feed(bytes(1))
    assert isinstance(peer.closed().error, PacketError)
    (authenticate,) = peer.taken(Authenticate)
    peer.answer(authenticate.token)
    assert not peer.commands


def test_second_connect_behind_the_first_is_a_violation(peer: Peer) -> None:
    peer.send(Connect(client_id="c"), Connect(client_id="c"))
    peer.execute()
    assert isinstance(peer.closed().error, PacketError)


def test_disconnect_discards_the_will(peer: Peer) -> None:
    """[MQTT-3.1.2-10] [MQTT-3.14.4-3]"""
    peer.connect(WITH_WILL)
    peer.send(Disconnect(), PublishPacket("a", b"late"))
    assert peer.closed().error is None
    assert not peer.commands, "no will, and nothing after DISCONNECT"
    assert peer.session.connection_lost() == []


def end_by_loss(peer: Peer) -> None:
    peer.commands += peer.session.connection_lost()


def end_by_takeover(peer: Peer) -> None:
    peer.commands += peer.session.taken_over()  # [MQTT-3.1.4-2]
    assert peer.closed().error is None


def end_by_shutdown(peer: Peer) -> None:
    peer.commands += peer.session.shutdown()
    assert peer.closed().error is None


def end_by_silence(peer: Peer) -> None:
    peer.now += 90
    peer.tick()
    peer.closed()


def end_by_violation(peer: Peer) -> None:
    peer.feed(b"\x00\x00")
    peer.closed()


def end_by_failed_publish(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"", 1, 1))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token, Result(Outcome.REJECTED, MqliftError("no")))
    peer.closed()


@pytest.mark.parametrize(
    "end", [end_by_loss, end_by_takeover, end_by_shutdown, end_by_silence, end_by_violation, end_by_failed_publish]
)
def test_will_is_published_once_at_every_other_end(peer: Peer, end: object) -> None:
    """[MQTT-3.1.2-8] [MQTT-3.1.2-10]"""
    assert callable(end)
    peer.connect(WITH_WILL)
    end(peer)
    (publish,) = peer.taken(Publish)
    assert (publish.message, publish.token) == (WILL_MESSAGE, None)
    assert not peer.commands
    for more in (peer.session.connection_lost, peer.session.taken_over, peer.session.shutdown):
        assert more() == []
    assert peer.session.deadline == math.inf


def test_will_at_qos_0_is_transient(peer: Peer) -> None:
    peer.connect(Connect(client_id="c", will=Will(topic="t", payload=b"", qos=0)))
    peer.commands += peer.session.connection_lost()
    (message,) = peer.published()
    assert message.properties is TRANSIENT


def test_no_will_without_one(peer: Peer) -> None:
    """[MQTT-3.1.2-12]"""
    peer.connect()
    assert peer.session.connection_lost() == []


def test_takeover_before_connack(peer: Peer) -> None:
    peer.send(WITH_WILL)
    (authenticate,) = peer.taken(Authenticate)
    peer.answer(authenticate.token, peer.accepted(authenticate))
    (opening,) = peer.taken(OpenSession)
    peer.commands += peer.session.taken_over()
    peer.closed()
    peer.answer(opening.token, Opened(None))
    assert not peer.commands
    assert peer.received() == []
    assert not peer.session.established


def test_keep_alive_is_one_and_a_half_times_what_was_asked_for(peer: Peer) -> None:
    """[MQTT-3.1.2-24]"""
    assert peer.session.deadline == math.inf, "the time until CONNECT is the connection's business"
    peer.connect(Connect(client_id="c", keep_alive=10))
    assert peer.session.deadline == peer.now + 15
    start = peer.now
    peer.now = start + 8
    peer.send(Pingreq())
    peer.now = start + 15
    peer.tick()
    assert not peer.commands
    assert peer.session.deadline == start + 23
    peer.now = start + 22.9
    peer.tick()
    assert not peer.commands
    peer.now = start + 23
    peer.tick()
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.KEEP_ALIVE_TIMEOUT
    assert peer.session.deadline == math.inf
    peer.tick()
    assert not peer.commands


def test_keep_alive_counts_from_connack(peer: Peer) -> None:
    peer.send(Connect(client_id="c", keep_alive=10))
    peer.now += 100
    peer.execute()
    assert peer.session.deadline == peer.now + 15


def test_keep_alive_0_is_none(peer: Peer) -> None:
    peer.connect(Connect(client_id="c", keep_alive=0))
    assert peer.session.deadline == math.inf


def test_keep_alive_rests_while_nothing_is_read(peer: Peer) -> None:
    peer.connect(Connect(client_id="c", keep_alive=10))
    peer.session.reading(False, peer.now)
    assert peer.session.deadline == math.inf
    peer.now += 1000
    peer.tick()
    assert not peer.commands
    peer.session.reading(True, peer.now)
    assert peer.session.deadline == peer.now + 15
    peer.now += 15
    peer.tick()
    peer.closed()


def test_nothing_happens_after_the_end(peer: Peer) -> None:
    peer.connect(Connect(client_id="c", keep_alive=10))
    peer.send(PublishPacket("a", b"", 1, 1))
    (publish,) = peer.taken(Publish)
    peer.send(Disconnect())
    peer.closed()
    peer.answer(publish.token)
    peer.feed(b"\xc0\x00")
    peer.session.reading(True, peer.now)
    assert peer.session.deadline == math.inf
    assert not peer.commands
    assert peer.received() == []


def test_puback_that_nobody_waits_for(peer: Peer) -> None:
    peer.connect()
    peer.send(Puback(9))
    assert not peer.commands


def test_settings_of_another_protocol() -> None:
    with pytest.raises(TypeError, match="object"):
        open_session(SessionContext(peer="", server="", settings=object()), 0.0)


def test_unknown_token(peer: Peer) -> None:
    peer.connect()
    with pytest.raises(TypeError, match="token"):
        peer.answer("nobody's")
