"""Publishes of an MQTT 5 client. Statement numbers are those of MQTT 5.0."""

from __future__ import annotations

import pytest

from gateway.core.commands import Publish, Retain
from gateway.core.errors import BackendError, Invalid, MqliftError, NotAuthorized, Refused, Throttled, Unavailable
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import Connect, Disconnect, Level, Puback, Pubcomp, Pubrec, Pubrel
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.properties import Properties
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import Peer


def connected(settings: Settings | None = None, **said: int) -> Peer:
    peer = Peer(settings, Level.V5)
    peer.connect(Connect(client_id="c", level=Level.V5, properties=Properties(**said)))  # type: ignore[arg-type]
    return peer


@pytest.fixture
def peer() -> Peer:
    return connected()


def ends_with(peer: Peer, code: ReasonCode) -> str:
    """The connection ends with this code, in DISCONNECT as well. Gives the reason string."""
    error = peer.closed().error
    assert isinstance(error, PacketError)
    packet = peer.received()[-1]
    assert isinstance(packet, Disconnect)
    assert packet.reason_code == error.reason_code == code
    assert packet.properties.reason_string
    return packet.properties.reason_string


def aliased(topic: str, alias: int, body: bytes = b"") -> PublishPacket:
    return PublishPacket(topic, body, properties=Properties(topic_alias=alias))


# What the hub says


FAILURES = [
    (NotAuthorized("no"), ReasonCode.NOT_AUTHORIZED),
    (Throttled("slow down"), ReasonCode.QUOTA_EXCEEDED),
    (Refused("full"), ReasonCode.QUOTA_EXCEEDED),
    (Invalid("not for SQS"), ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR),
    (Unavailable("away"), ReasonCode.UNSPECIFIED_ERROR),
    (BackendError("odd"), ReasonCode.UNSPECIFIED_ERROR),
    (None, ReasonCode.UNSPECIFIED_ERROR),
]


@pytest.mark.parametrize(("error", "code"), FAILURES)
@pytest.mark.parametrize("qos", [1, 2])
def test_a_failed_publish_is_acknowledged_with_its_reason(
    peer: Peer, error: MqliftError | None, code: ReasonCode, qos: int
) -> None:
    """[MQTT-3.4.2-1] [MQTT-3.5.2-1]: one at a time, and the connection goes on."""
    peer.send(PublishPacket("a", b"", qos, 7))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token, Result(Outcome.REJECTED, error))
    (packet,) = peer.received()
    assert isinstance(packet, Puback if qos == 1 else Pubrec)
    assert (packet.packet_id, packet.reason_code) == (7, code)
    assert packet.properties.reason_string == (None if error is None else str(error))
    assert not peer.commands


def test_failures_keep_their_place_among_the_pubacks(peer: Peer) -> None:
    """[MQTT-4.6.0-2]"""
    peer.send(*(PublishPacket("a", b"", 1, packet_id) for packet_id in (1, 2, 3)))
    tokens = [publish.token for publish in peer.taken(Publish)]
    peer.answer(tokens[1], Result(Outcome.RELEASED, Throttled("slow down")))
    peer.answer(tokens[2])
    assert peer.received() == []
    peer.answer(tokens[0])
    codes = [(packet.packet_id, packet.reason_code) for packet in peer.received() if isinstance(packet, Puback)]
    assert codes == [(1, 0), (2, 0x97), (3, 0)]


def test_no_reason_string_for_who_wants_none() -> None:
    """[MQTT-3.1.2-29]"""
    peer = connected(request_problem_information=0)
    peer.send(PublishPacket("a", b"", 1, 7))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token, Result(Outcome.REJECTED, NotAuthorized("no")))
    assert peer.received() == [Puback(7, 0x87)]


def test_no_reason_string_over_the_client_s_packet_size() -> None:
    """[MQTT-3.4.2-2] [MQTT-3.1.2-24]"""
    peer = connected(maximum_packet_size=20)
    for problem, text in (("short", "short"), ("too long for this client", None)):
        peer.send(PublishPacket("a", b"", 1, 7))
        (publish,) = peer.taken(Publish)
        peer.answer(publish.token, Result(Outcome.REJECTED, NotAuthorized(problem)))
        assert peer.received() == [Puback(7, 0x87, Properties(reason_string=text))]


def test_reason_strings_are_bounded_and_always_have_a_form(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"", 1, 7))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token, Result(Outcome.REJECTED, NotAuthorized("a\0b\ud800" + "x" * 1000)))
    (packet,) = peer.received()
    assert isinstance(packet, Puback)
    assert packet.properties.reason_string is not None
    assert packet.properties.reason_string.startswith("a?b?xx")
    assert len(packet.properties.reason_string) == 200


@pytest.mark.parametrize("qos", [1, 2])
def test_nobody_subscribes(peer: Peer, qos: int) -> None:
    peer.send(PublishPacket("a", b"", qos, 7))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token, UNROUTED)
    kind = Puback if qos == 1 else Pubrec
    assert peer.received() == [kind(7, ReasonCode.NO_MATCHING_SUBSCRIBERS)]
    if qos == 2:  # a success: the identifier is in use until PUBREL [MQTT-4.3.3-9]
        peer.send(PublishPacket("a", b"", 2, 7, dup=True))
        assert not peer.commands


def test_the_connection_goes_on_after_a_failure(peer: Peer) -> None:
    for _ in range(2):
        peer.send(PublishPacket("a", b"", 1, 7))
        (publish,) = peer.taken(Publish)
        peer.answer(publish.token, Result(Outcome.REJECTED))
        assert peer.received() == [Puback(7, 0x80)]


def test_the_exchange_goes_on_when_the_message_has_expired(peer: Peer) -> None:
    """[MQTT-4.3.3-13]"""
    peer.send(PublishPacket("a", b"", 2, 7, properties=Properties(message_expiry_interval=1)))
    peer.wall += 60
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token)
    peer.send(Pubrel(7))
    assert peer.received() == [Pubrec(7), Pubcomp(7)]


# RETAIN


@pytest.mark.parametrize("level", [Level.V3_1_1, Level.V5])
@pytest.mark.parametrize("first", [Publish, Retain])
def test_a_retained_publish_is_acknowledged_when_it_is_routed_and_kept(level: Level, first: type) -> None:
    """[MQTT-3.3.1-5]"""
    peer = Peer(level=level)
    peer.connect()
    peer.send(PublishPacket("a", b"x", 1, 7, retain=True))
    commands = {type(command): command for command in peer.commands}
    assert set(commands) == {Publish, Retain}
    publish, retain = commands[Publish], commands[Retain]
    assert isinstance(publish, Publish)
    assert isinstance(retain, Retain)
    assert publish.message is retain.message
    peer.answer(commands[first].token)  # type: ignore[union-attr]
    assert peer.received() == []
    peer.answer(publish.token)
    assert peer.received() == [Puback(7)]


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_publish_that_cannot_be_retained_has_failed(peer: Peer, qos: int, order: tuple[int, int]) -> None:
    peer.send(PublishPacket("a", b"x", qos, 7, retain=True))
    (publish,) = peer.taken(Publish)
    results = (ACCEPTED, Result(Outcome.REJECTED, Refused("100 are retained")))
    for index in order:
        assert peer.received() == []
        peer.answer(publish.token, results[index])
    (packet,) = peer.received()
    assert isinstance(packet, Puback | Pubrec)
    assert packet.reason_code == ReasonCode.QUOTA_EXCEEDED


def test_retained_at_qos_0(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"x", retain=True))
    publish, retain = peer.commands
    assert isinstance(publish, Publish)
    assert publish.token is None
    assert isinstance(retain, Retain)
    assert retain.message is publish.message
    assert retain.message.headers == {"x-mqtt-retain": True}
    peer.commands.clear()
    peer.answer(retain.token, Result(Outcome.REJECTED))
    assert peer.received() == []
    assert not peer.commands


def test_without_retain_nothing_is_retained(peer: Peer) -> None:
    """[MQTT-3.3.1-8]"""
    peer.send(PublishPacket("a", b"x", 1, 7))
    assert not peer.taken(Retain)


# Flow control


def test_more_publishes_than_the_receive_maximum() -> None:
    """[MQTT-3.3.4-7] is the client's; §3.3.4 says how it ends."""
    peer = connected(Settings(receive_maximum=3))
    peer.send(PublishPacket("a", b"", 1, 1), PublishPacket("a", b"", 2, 2), PublishPacket("a", b"", 1, 3))
    for publish in peer.taken(Publish):
        peer.answer(publish.token)
    peer.received()
    peer.send(
        PublishPacket("a", b""),
        PublishPacket("a", b"", 1, 1),
        PublishPacket("a", b"", 1, 3),
        PublishPacket("a", b"", 2, 2, dup=True),
    )
    assert peer.received() == [Pubrec(2)], "a repetition is none more"
    peer.send(PublishPacket("a", b"", 2, 4))
    ends_with(peer, ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)


def test_pubcomp_gives_the_quota_back() -> None:
    """[MQTT-4.9.0-1] is the client's; the server counts as it does."""
    peer = connected(Settings(receive_maximum=1))
    for _ in range(3):
        peer.send(PublishPacket("a", b"", 2, 2))
        (publish,) = peer.taken(Publish)
        peer.answer(publish.token)
        peer.send(Pubrel(2))
    assert not peer.commands


def test_older_clients_have_no_receive_maximum() -> None:
    peer = Peer(Settings(receive_maximum=1))
    peer.connect()
    peer.send(PublishPacket("a", b"", 1, 1), PublishPacket("a", b"", 2, 2))
    assert len(peer.taken(Publish)) == 2


def test_publishes_of_an_earlier_connection_do_not_count() -> None:
    """4.9: the quota starts anew with each connection."""
    connect = Connect(
        client_id="c", level=Level.V5, clean_start=False, properties=Properties(session_expiry_interval=60)
    )
    peer = Peer(Settings(receive_maximum=1), Level.V5)
    peer.connect(connect)
    peer.send(PublishPacket("a", b"", 2, 1))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token)
    peer.kept_inflight()
    again = peer.again(connect)
    again.send(PublishPacket("a", b"", 1, 2))
    assert len(again.taken(Publish)) == 1
    again.send(Pubrel(1), PublishPacket("a", b"", 1, 3))
    ends_with(again, ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)


# Topic aliases


def test_an_alias_stands_for_the_topic_it_came_with(peer: Peer) -> None:
    """[MQTT-3.3.2-7] is the client's; §3.3.2.3.4"""
    peer.send(aliased("a/b", 1), aliased("", 1), aliased("c", 2), aliased("", 1), aliased("d", 1), aliased("", 1))
    keys = [message.address.routing_key for message in peer.published()]
    assert keys == ["a.b", "a.b", "c", "a.b", "d", "d"]


def test_an_alias_over_the_maximum() -> None:
    """[MQTT-3.3.2-9]"""
    peer = connected(Settings(topic_alias_maximum=2))
    peer.send(aliased("a", 2))
    peer.send(aliased("a", 3))
    assert ends_with(peer, ReasonCode.TOPIC_ALIAS_INVALID) == "topic alias 3; the limit is 2"


def test_no_aliases_at_all() -> None:
    peer = connected(Settings(topic_alias_maximum=0))
    peer.send(aliased("a", 1))
    ends_with(peer, ReasonCode.TOPIC_ALIAS_INVALID)


def test_alias_0(peer: Peer) -> None:
    """[MQTT-3.3.2-8]"""
    peer.feed(encode(aliased("a", 1), Level.V5).replace(b"\x23\x00\x01", b"\x23\x00\x00"))
    ends_with(peer, ReasonCode.TOPIC_ALIAS_INVALID)


def test_an_alias_that_stands_for_nothing(peer: Peer) -> None:
    """§3.3.2.3.4: a protocol error."""
    peer.send(aliased("", 1))
    ends_with(peer, ReasonCode.PROTOCOL_ERROR)


def test_aliases_end_with_the_connection(peer: Peer) -> None:
    """[MQTT-3.3.2-7]"""
    peer.send(aliased("a", 1))
    other = connected()
    other.send(aliased("", 1))
    ends_with(other, ReasonCode.PROTOCOL_ERROR)


# The payload format


@pytest.mark.parametrize("qos", [1, 2])
def test_a_payload_that_is_not_the_text_it_says(peer: Peer, qos: int) -> None:
    """§3.3.2.3.2"""
    said = Properties(payload_format_indicator=1)
    peer.send(PublishPacket("a", b"\xff", qos, 7, properties=said))
    assert not peer.commands
    (packet,) = peer.received()
    assert isinstance(packet, Puback | Pubrec)
    assert packet.reason_code == ReasonCode.PAYLOAD_FORMAT_INVALID
    peer.send(PublishPacket("a", "é".encode(), qos, 7, properties=said))
    assert len(peer.published()) == 1


def test_a_payload_that_is_not_the_text_it_says_at_qos_0(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"\xff", properties=Properties(payload_format_indicator=1)))
    assert not peer.published()
    ends_with(peer, ReasonCode.PAYLOAD_FORMAT_INVALID)


def test_bytes_are_not_looked_at(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"\xff", properties=Properties(payload_format_indicator=0)))
    assert len(peer.published()) == 1
