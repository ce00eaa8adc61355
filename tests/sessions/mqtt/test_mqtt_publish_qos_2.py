"""Publishes of a client at QoS 2. Statement numbers are those of MQTT 3.1.1, and of 5.0 where it says so."""

from __future__ import annotations

import pytest

from gateway.core.commands import KeepInflight, Publish
from gateway.core.errors import NotAuthorized, Throttled
from gateway.core.message import PERSISTENT, PUBLISH_QOS, Address, Message, Origin
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import Connect, Level, Puback, Pubcomp, Pubrec, Pubrel
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.publishing import MAX_KEPT_RECEIPTS
from tests.sessions.mqtt.peer import Peer

KEPT = Connect(client_id="c", clean_start=False)


def publish(packet_id: int, body: bytes = b"x", *, dup: bool = False) -> PublishPacket:
    return PublishPacket("a", body, 2, packet_id, dup=dup)


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.connect()
    return peer


@pytest.fixture
def kept() -> Peer:
    peer = Peer()
    peer.connect(KEPT)
    return peer


def accept(peer: Peer, result: Result = ACCEPTED) -> None:
    for command in peer.taken(Publish):
        peer.answer(command.token, result)


def test_the_whole_exchange(peer: Peer) -> None:
    """[MQTT-4.3.3-2] [MQTT-3.3.4-1]"""
    peer.send(publish(7, b"hi"))
    (command,) = peer.taken(Publish)
    expected = Message(Address("amq.topic", "a"), b"hi", PERSISTENT, {PUBLISH_QOS: 2}, Origin("mqtt", "c"))
    assert command.message == expected
    assert peer.received() == [], "not before the hub has taken it"
    peer.answer(command.token)
    assert peer.received() == [Pubrec(7)]
    peer.send(Pubrel(7))
    assert peer.received() == [Pubcomp(7)]
    assert not peer.commands


def test_pubrecs_go_out_in_the_order_of_the_publishes(peer: Peer) -> None:
    """[MQTT-4.6.0-3]"""
    peer.send(*(publish(packet_id) for packet_id in (5, 3, 9, 1)))
    tokens = [command.token for command in peer.taken(Publish)]
    for index, expected in ((2, []), (1, []), (0, [5, 3, 9]), (3, [1])):
        peer.answer(tokens[index])
        assert peer.received() == [Pubrec(packet_id) for packet_id in expected]


def test_pubcomps_go_out_in_the_order_of_the_pubrels(peer: Peer) -> None:
    peer.send(publish(1), publish(2))
    accept(peer)
    peer.received()
    peer.send(Pubrel(2), Pubrel(1))
    assert peer.received() == [Pubcomp(2), Pubcomp(1)]


@pytest.mark.parametrize("dup", [False, True])
def test_a_packet_id_that_is_not_released_is_not_published_again(peer: Peer, dup: bool) -> None:
    """[MQTT-4.3.3-2] [MQTT-2.3.1-3]; 5.0 [MQTT-4.3.3-10]"""
    peer.send(publish(7))
    peer.send(publish(7, dup=dup))
    (command,) = peer.taken(Publish)
    assert peer.received() == [], "the answer that is on its way is for both"
    peer.answer(command.token)
    assert peer.received() == [Pubrec(7)]
    peer.send(publish(7, dup=dup))
    assert not peer.commands
    assert peer.received() == [Pubrec(7)]


def test_a_packet_id_is_free_again_after_pubrel(peer: Peer) -> None:
    """5.0 [MQTT-4.3.3-12]"""
    for body in (b"1", b"2"):
        peer.send(publish(7, body))
        (command,) = peer.taken(Publish)
        assert command.message.body == body
        peer.answer(command.token)
        peer.send(Pubrel(7))
        assert peer.received() == [Pubrec(7), Pubcomp(7)]


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_packet_id_in_flight_at_another_qos_is_a_violation(peer: Peer, first: int, second: int) -> None:
    """[MQTT-2.3.1-2]"""
    peer.send(PublishPacket("a", b"", first, 7), PublishPacket("a", b"", second, 7))
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.PACKET_IDENTIFIER_IN_USE


def test_pubrel_before_pubrec_is_a_violation(peer: Peer) -> None:
    """PUBCOMP would say that the message is safe, and the hub has not taken it."""
    peer.send(publish(7), Pubrel(7))
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.PROTOCOL_ERROR
    assert peer.received() == []


def test_pubrel_for_what_is_not_known(peer: Peer) -> None:
    """[MQTT-4.3.3-2]; 5.0 has a code for it."""
    peer.send(Pubrel(9))
    assert peer.received() == [Pubcomp(9)]
    v5 = Peer(level=Level.V5)
    v5.connect()
    v5.send(Pubrel(9))
    assert v5.received() == [Pubcomp(9, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)]


def test_a_publish_that_fails_closes_before_mqtt_5(peer: Peer) -> None:
    peer.send(publish(1), publish(2))
    first, second = peer.taken(Publish)
    peer.answer(second.token, Result(Outcome.RELEASED, Throttled("slow down")))
    assert peer.closed().reason == "a publish was not accepted: slow down"
    peer.answer(first.token)
    assert peer.received() == []


def test_a_publish_that_fails_frees_the_packet_id_in_mqtt_5() -> None:
    """5.0 [MQTT-4.3.3-9]"""
    peer = Peer(level=Level.V5)
    peer.connect()
    peer.send(publish(1), publish(2))
    first, second = peer.taken(Publish)
    peer.answer(second.token, Result(Outcome.REJECTED, NotAuthorized("no")))
    assert peer.received() == [], "in the order of the PUBLISHes"
    peer.answer(first.token)
    ok, failed = peer.received()
    assert ok == Pubrec(1)
    assert isinstance(failed, Pubrec)
    assert (failed.packet_id, failed.reason_code, failed.properties.reason_string) == (2, 0x87, "no")
    peer.send(publish(2))
    accept(peer)
    assert peer.received() == [Pubrec(2)]


# In a session that is kept


def test_pubrec_leaves_when_the_packet_id_is_kept(kept: Peer) -> None:
    """[MQTT-4.3.3-2] The identifier outlives the connection, and the gateway."""
    kept.send(publish(7))
    assert not kept.taken(KeepInflight), "nothing is to be kept before the hub has it"
    accept(kept)
    (keep,) = kept.taken(KeepInflight)
    assert keep.client_id == "c"
    assert kept.received() == []
    kept.answer(keep.token)
    assert kept.received() == [Pubrec(7)]
    kept.send(Pubrel(7))
    (keep,) = kept.taken(KeepInflight)
    assert kept.received() == [], "a crash now must not bring the identifier back after PUBCOMP"
    kept.answer(keep.token)
    assert kept.received() == [Pubcomp(7)]


def test_one_write_is_under_way_and_the_next_keeps_all_that_came_meanwhile(kept: Peer) -> None:
    for packet_id in (1, 2, 3):
        kept.send(publish(packet_id))
        accept(kept)
    (keep,) = kept.taken(KeepInflight)
    kept.answer(keep.token)
    assert kept.received() == [Pubrec(1)]
    (keep,) = kept.taken(KeepInflight)
    kept.answer(keep.token)
    assert kept.received() == [Pubrec(2), Pubrec(3)]
    assert not kept.commands


def test_a_repeated_publish_while_the_packet_id_is_being_kept(kept: Peer) -> None:
    kept.send(publish(7))
    accept(kept)
    kept.send(publish(7, dup=True))
    assert kept.received() == []
    kept.kept_inflight()
    assert kept.received() == [Pubrec(7)]
    assert kept.published() == []


def test_what_cannot_be_kept_is_not_acknowledged(kept: Peer) -> None:
    kept.send(publish(7))
    accept(kept)
    (keep,) = kept.taken(KeepInflight)
    kept.answer(keep.token, Result(Outcome.RELEASED, Throttled("the store is away")))
    assert kept.received() == []
    assert "the store is away" in kept.closed().reason


def test_a_kept_packet_id_is_known_on_the_next_connection(kept: Peer) -> None:
    """[MQTT-4.4.0-1] [MQTT-3.1.2-4]"""
    kept.send(publish(7))
    accept(kept)
    kept.kept_inflight()
    again = kept.again()
    again.send(publish(7, dup=True))
    assert again.published() == []
    assert again.received() == [Pubrec(7)]
    again.send(Pubrel(7))
    again.kept_inflight()
    assert again.received() == [Pubcomp(7)]
    again.send(publish(7))
    assert len(again.published()) == 1


def test_an_accepted_publish_that_waits_for_another_is_left_to_the_next_connection(kept: Peer) -> None:
    """What the hub has taken must not be published again, though PUBREC was not due yet."""
    kept.send(publish(1), publish(2))
    _, second = kept.taken(Publish)
    kept.answer(second.token)
    kept.lose()
    kept.ended()
    again = kept.again()
    again.send(publish(1, dup=True), publish(2, dup=True))
    assert len(again.published()) == 1
    assert again.received() == [Pubrec(2)]


def test_nothing_is_kept_in_a_clean_session(peer: Peer) -> None:
    peer.send(publish(7))
    accept(peer)
    peer.send(Pubrel(7), publish(8))
    assert not peer.taken(KeepInflight)
    peer.commands += peer.session.connection_lost()
    assert not peer.taken(KeepInflight)


def test_unreleased_publishes_of_a_kept_session_have_a_limit(kept: Peer) -> None:
    for start in range(1, MAX_KEPT_RECEIPTS, 1000):
        kept.send(*(publish(packet_id) for packet_id in range(start, start + 1000)))
        accept(kept)
    kept.kept_inflight()
    kept.received()
    kept.send(PublishPacket("a", b"", 1, 60_000), publish(MAX_KEPT_RECEIPTS + 1))
    error = kept.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.QUOTA_EXCEEDED


def test_qos_1_needs_no_write_in_a_kept_session(kept: Peer) -> None:
    kept.send(PublishPacket("a", b"", 1, 1))
    accept(kept)
    assert kept.received() == [Puback(1)]
    assert not kept.commands
