"""How a connection of MQTT 5, or of 3.1, begins and ends. Statement numbers are those of 5.0."""

from __future__ import annotations

import pytest

from gateway.core.commands import Authenticate, OpenSession, Publish
from gateway.core.errors import NotAuthorized, Unavailable
from gateway.core.outcome import Outcome, Result
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Level,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.properties import Properties
from gateway.protocols.mqtt.settings import MAX_KEEP_ALIVE, Settings
from tests.sessions.mqtt.peer import Peer, delivery, message


def v5(
    client_id: str = "c", *, keep_alive: int = 0, clean: bool = True, will: Will | None = None, **said: object
) -> Connect:
    properties = Properties(**said)  # type: ignore[arg-type]
    return Connect(
        client_id=client_id,
        level=Level.V5,
        clean_start=clean,
        keep_alive=keep_alive,
        will=will,
        properties=properties,
    )


@pytest.fixture
def peer() -> Peer:
    peer = Peer(level=Level.V5)
    peer.connect()
    return peer


def said_at_the_end(peer: Peer) -> Disconnect:
    packet = peer.received()[-1]
    assert isinstance(packet, Disconnect)
    return packet


# CONNACK


def test_connack_announces_limits() -> None:
    """[MQTT-3.2.2-1] §3.2.2.3: what is not said is available."""
    peer = Peer(Settings(receive_maximum=9, max_packet_size=2000, topic_alias_maximum=7), Level.V5)
    connack = peer.connect(v5())
    assert connack.properties == Properties(receive_maximum=9, maximum_packet_size=2000, topic_alias_maximum=7)


def test_connack_leaves_out_what_goes_without_saying() -> None:
    peer = Peer(Settings(receive_maximum=65_535, topic_alias_maximum=0), Level.V5)
    connack = peer.connect(v5())
    assert connack.properties == Properties(maximum_packet_size=Settings().max_packet_size)


@pytest.mark.parametrize("clean", [True, False])
def test_an_empty_client_id_is_assigned_and_told(clean: bool) -> None:
    """[MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]"""
    assigned = set()
    for _ in range(2):
        peer = Peer(level=Level.V5)
        peer.send(v5("", clean=clean))
        (opening,) = (command for command in peer.execute() if isinstance(command, OpenSession))
        (connack,) = peer.received()
        assert isinstance(connack, Connack)
        assert connack.properties.assigned_client_identifier == opening.client_id
        assigned.add(opening.client_id)
    assert len(assigned) == 2


def test_a_client_id_of_its_own_is_not_assigned() -> None:
    assert Peer(level=Level.V5).connect(v5("c")).properties.assigned_client_identifier is None


@pytest.mark.parametrize(
    ("limit", "asked", "used", "told"),
    [
        (MAX_KEEP_ALIVE, 10, 10, None),
        (MAX_KEEP_ALIVE, 0, 0, None),
        (60, 10, 10, None),
        (60, 100, 60, 60),
        (60, 0, 60, 60),
    ],
)
def test_the_server_s_keep_alive(limit: int, asked: int, used: int, told: int | None) -> None:
    """[MQTT-3.2.2-21] [MQTT-3.2.2-22] [MQTT-3.1.2-21]"""
    peer = Peer(Settings(max_keep_alive=limit), Level.V5)
    connack = peer.connect(v5(keep_alive=asked))
    assert connack.properties.server_keep_alive == told
    assert peer.session.deadline == (peer.now + 1.5 * used if used else float("inf"))


def test_older_clients_cannot_be_told_of_another_keep_alive() -> None:
    peer = Peer(Settings(max_keep_alive=60))
    peer.connect(Connect(client_id="c", keep_alive=100))
    assert peer.session.deadline == peer.now + 150


@pytest.mark.parametrize(
    ("asked", "limit", "told"), [(60, 100, None), (100, 100, None), (101, 100, 100), (0xFFFFFFFF, 100, 100), (5, 0, 0)]
)
def test_a_shorter_expiry_than_asked_for_is_told(asked: int, limit: int, told: int | None) -> None:
    """§3.2.2.3.2"""
    peer = Peer(Settings(max_session_expiry=limit), Level.V5)
    connack = peer.connect(v5(session_expiry_interval=asked))
    assert connack.properties.session_expiry_interval == told


def test_no_response_information() -> None:
    """[MQTT-3.1.2-28]"""
    connack = Peer(level=Level.V5).connect(v5(request_response_information=1))
    assert connack.properties.response_information is None


# Refusals


@pytest.mark.parametrize(
    ("result", "old", "new"),
    [
        (Result(Outcome.REJECTED, NotAuthorized("no")), 5, 0x87),
        (Result(Outcome.RELEASED, Unavailable("the directory is away")), 3, 0x88),
    ],
)
@pytest.mark.parametrize("level", Level)
def test_a_refusal_has_the_code_of_its_version(level: Level, result: Result, old: int, new: int) -> None:
    """[MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.2.2-8] [MQTT-3.1.4-2] [MQTT-3.1.4-6]"""
    peer = Peer(level=level)
    peer.send(Connect(client_id="c", level=level), PublishPacket("a", b""))
    peer.execute(result)
    (connack,) = peer.received()
    assert isinstance(connack, Connack)
    assert (connack.session_present, connack.code) == (False, new if level is Level.V5 else old)
    assert connack.properties.reason_string == (str(result.error) if level is Level.V5 else None)
    assert peer.closed().error is result.error
    assert not peer.commands


@pytest.mark.parametrize(
    ("connect", "code"),
    [
        (v5("x" * 24), ReasonCode.CLIENT_IDENTIFIER_NOT_VALID),
        (v5(authentication_method="SCRAM-SHA-1"), ReasonCode.BAD_AUTHENTICATION_METHOD),
        (
            v5(will=Will(topic="a", payload=b"\xff", properties=Properties(payload_format_indicator=1))),
            ReasonCode.PAYLOAD_FORMAT_INVALID,
        ),
    ],
)
def test_what_is_refused_without_asking(connect: Connect, code: ReasonCode) -> None:
    """[MQTT-3.1.3-8] [MQTT-4.12.0-1]"""
    peer = Peer(Settings(max_client_id_bytes=23), Level.V5)
    peer.send(connect)
    assert not peer.taken(Authenticate)
    (connack,) = peer.received()
    assert isinstance(connack, Connack)
    assert connack.code == code
    assert connack.properties.authentication_method is None  # [MQTT-4.12.0-6]
    assert isinstance(peer.closed().error, PacketError)


def test_a_refusal_is_no_larger_than_the_client_takes() -> None:
    """[MQTT-3.2.2-19]"""
    peer = Peer(level=Level.V5)
    peer.send(v5(maximum_packet_size=10))
    peer.execute(Result(Outcome.REJECTED, NotAuthorized("a long explanation")))
    assert peer.received() == [Connack(False, 0x87)]


def test_too_much_behind_connect_is_refused_in_connack() -> None:
    peer = Peer(Settings(max_pipelined_bytes=10), Level.V5)
    peer.send(v5())
    peer.feed(bytes(11))
    (connack,) = peer.received()
    assert isinstance(connack, Connack)
    assert connack.code == ReasonCode.QUOTA_EXCEEDED
    peer.closed()


def test_no_disconnect_before_connack() -> None:
    """[MQTT-3.14.0-1]"""
    for end, code in (("taken_over", 0x80), ("shutdown", 0x88)):
        peer = Peer(level=Level.V5)
        peer.send(v5())
        peer.step()
        peer.commands += getattr(peer.session, end)()
        (connack,) = peer.received()
        assert isinstance(connack, Connack)
        assert connack.code == code


def test_before_connect_nothing_is_said() -> None:
    peer = Peer(level=Level.V5)
    peer.commands += peer.session.shutdown()
    assert peer.session.data_to_send() == b""
    peer.closed()


# Version 3.1


def test_version_3_1_is_served() -> None:
    peer = Peer(level=Level.V3_1)
    peer.feed(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x01c")
    peer.execute()
    assert peer.session.data_to_send() == b"\x20\x02\x00\x00"
    assert peer.session.deadline == peer.now + 15
    peer.send(Subscribe(1, (Subscription("a", 2),)), PublishPacket("a", b"x", 1, 5))
    peer.execute()
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token)
    assert peer.received() == [Suback(1, (2,)), Puback(5)]
    peer.session.deliver("live", delivery(message("a")))
    assert peer.received() == [PublishPacket("a", b"hi", 1, 1)]


@pytest.mark.parametrize(("client_id", "accepted"), [("x" * 23, True), ("x" * 24, True), ("", False)])
def test_client_ids_of_version_3_1(client_id: str, accepted: bool) -> None:
    """3.1 §3.1 has 1 to 23 characters. More are taken, as Mosquitto does."""
    peer = Peer(level=Level.V3_1)
    peer.send(Connect(client_id=client_id, level=Level.V3_1))
    assert bool(peer.taken(Authenticate)) is accepted
    assert peer.received() == ([] if accepted else [Connack(False, 2)])


# The server's DISCONNECT


def silent(peer: Peer) -> None:
    peer.now += 90
    peer.tick()


def taken_over(peer: Peer) -> None:
    peer.commands += peer.session.taken_over()


def shut_down(peer: Peer) -> None:
    peer.commands += peer.session.shutdown()


def malformed(peer: Peer) -> None:
    peer.feed(b"\x00\x00")


def connect_again(peer: Peer) -> None:
    peer.send(v5())


def authenticate(peer: Peer) -> None:
    peer.send(Auth(0x19))


def too_large(peer: Peer) -> None:
    peer.feed(b"\x30\xff\xff\xff\x7f")


def identifier_in_use(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"", 1, 1))
    peer.taken(Publish)
    peer.send(PublishPacket("b", b"", 1, 1))


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (silent, ReasonCode.KEEP_ALIVE_TIMEOUT),
        (taken_over, ReasonCode.SESSION_TAKEN_OVER),  # [MQTT-3.1.4-3]
        (shut_down, ReasonCode.SERVER_SHUTTING_DOWN),
        (malformed, ReasonCode.MALFORMED_PACKET),  # [MQTT-4.13.1-1]
        (connect_again, ReasonCode.PROTOCOL_ERROR),  # [MQTT-3.1.0-2]
        (authenticate, ReasonCode.PROTOCOL_ERROR),  # [MQTT-4.12.0-7]
        (too_large, ReasonCode.PACKET_TOO_LARGE),
        (identifier_in_use, ReasonCode.PROTOCOL_ERROR),  # [MQTT-2.2.1-3]
    ],
)
def test_the_server_says_why_it_closes(end: object, code: ReasonCode) -> None:
    """[MQTT-4.13.2-1] [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-3.14.2-1] [MQTT-3.14.2-2]"""
    assert callable(end)
    peer = Peer(level=Level.V5)
    peer.connect(v5(keep_alive=60, will=Will(topic="gone", payload=b"bye")))
    end(peer)
    packet = said_at_the_end(peer)
    assert packet.reason_code == code
    assert packet.properties.reason_string
    assert packet.properties.session_expiry_interval is None
    close = peer.closed()
    assert (close.error is None) is (code in {ReasonCode.SESSION_TAKEN_OVER, ReasonCode.SERVER_SHUTTING_DOWN})
    assert [message_.body for message_ in peer.published()] == [b"bye"]
    assert not peer.commands
    peer.send(Pingreq())
    assert peer.received() == []


def test_older_clients_are_only_closed() -> None:
    for end in (silent, taken_over, shut_down, malformed):
        peer = Peer()
        peer.connect(Connect(client_id="c", keep_alive=60))
        end(peer)
        assert peer.received() == []
        peer.closed()


def test_who_disconnects_is_not_answered(peer: Peer) -> None:
    peer.send(Disconnect(0x04))
    assert peer.received() == []
    assert peer.closed().error is None


def test_disconnect_is_no_larger_than_the_client_takes() -> None:
    """[MQTT-3.14.2-3]"""
    peer = Peer(level=Level.V5)
    peer.connect(v5(maximum_packet_size=10))
    taken_over(peer)
    assert peer.received() == [Disconnect(ReasonCode.SESSION_TAKEN_OVER)]


def test_a_reason_may_be_given_at_the_end_to_who_wants_none() -> None:
    """[MQTT-3.1.2-29]"""
    peer = Peer(level=Level.V5)
    peer.connect(v5(request_problem_information=0))
    taken_over(peer)
    assert said_at_the_end(peer).properties.reason_string


def test_a_subscription_identifier_from_a_client(peer: Peer) -> None:
    """[MQTT-3.3.4-6]"""
    peer.send(PublishPacket("a", b"", properties=Properties(subscription_identifier=(1,))))
    assert said_at_the_end(peer).reason_code == ReasonCode.PROTOCOL_ERROR
    assert not peer.published()


def test_ping(peer: Peer) -> None:
    """[MQTT-3.12.4-1]"""
    peer.send(Pingreq())
    assert peer.received() == [Pingresp()]


@pytest.mark.parametrize("packet", [Connack(False, 0), Suback(1, (0,)), Pingresp()])
def test_packets_that_clients_do_not_send(peer: Peer, packet: Packet) -> None:
    peer.feed(encode(packet, Level.V5))
    assert said_at_the_end(peer).reason_code == ReasonCode.PROTOCOL_ERROR
