"""Publishes of a client, and their acknowledgements. Statement numbers are those of MQTT 3.1.1."""

from __future__ import annotations

import pytest

from gateway.core.commands import Close, Publish
from gateway.core.errors import Throttled
from gateway.core.message import PERSISTENT, TRANSIENT, Address, Message, Origin
from gateway.core.outcome import UNROUTED, Outcome, Result
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import Puback
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from tests.sessions.mqtt.peer import Peer


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.connect()
    return peer


def test_qos_0_is_published_and_not_answered(peer: Peer) -> None:
    """[MQTT-4.3.1-1]"""
    peer.send(PublishPacket("a/b.c", b"hi"))
    (publish,) = peer.taken(Publish)
    assert publish.token is None
    assert publish.message == Message(Address("amq.topic", "a.b/c"), b"hi", TRANSIENT, origin=Origin("mqtt", "c"))
    assert publish.message.properties is TRANSIENT
    assert peer.received() == []


def test_qos_1_is_acknowledged_after_the_hub_took_it(peer: Peer) -> None:
    """[MQTT-3.3.4-1] [MQTT-4.3.2-2]"""
    peer.send(PublishPacket("a", b"", 1, 7))
    (publish,) = peer.taken(Publish)
    assert publish.message.properties is PERSISTENT
    assert peer.received() == []
    peer.answer(publish.token)
    assert peer.received() == [Puback(7)]
    assert not peer.commands


def test_unrouted_is_acknowledged(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"", 1, 7))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token, UNROUTED)
    assert peer.received() == [Puback(7)]


def test_messages_of_a_connection_share_what_they_can(peer: Peer) -> None:
    peer.send(PublishPacket("a/b", b"1"), PublishPacket("a/b", b"2"))
    first, second = peer.published()
    assert first.address is second.address
    assert first.origin is second.origin


def test_pubacks_go_out_in_the_order_of_the_publishes(peer: Peer) -> None:
    """[MQTT-4.6.0-2]"""
    peer.send(*(PublishPacket("a", b"", 1, packet_id) for packet_id in (5, 3, 9, 1)))
    tokens = [publish.token for publish in peer.taken(Publish)]
    for index, expected in ((2, []), (1, []), (0, [5, 3, 9]), (3, [1])):
        peer.answer(tokens[index])
        assert peer.received() == [Puback(packet_id) for packet_id in expected]


def test_dup_of_a_packet_in_flight_is_not_published_twice(peer: Peer) -> None:
    peer.send(PublishPacket("a", b"x", 1, 1))
    peer.send(PublishPacket("a", b"x", 1, 1, dup=True))
    (publish,) = peer.taken(Publish)
    peer.answer(publish.token)
    assert peer.received() == [Puback(1)]


def test_a_packet_id_is_free_again_after_puback(peer: Peer) -> None:
    """[MQTT-4.3.2-2] What comes after PUBACK is a new message, DUP or not."""
    for dup in (False, True):
        peer.send(PublishPacket("a", b"x", 1, 1, dup=dup))
        (publish,) = peer.taken(Publish)
        peer.answer(publish.token)
        assert peer.received() == [Puback(1)]


def test_a_packet_id_in_flight_for_another_message_is_a_violation(peer: Peer) -> None:
    """[MQTT-2.3.1-2] To acknowledge both with one PUBACK would lose one."""
    peer.send(PublishPacket("a", b"x", 1, 1), PublishPacket("a", b"y", 1, 1))
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.PACKET_IDENTIFIER_IN_USE
    assert [message.body for message in peer.published()] == [b"x"]


@pytest.mark.parametrize("outcome", [Outcome.RELEASED, Outcome.REJECTED])
def test_a_publish_that_fails_closes_without_puback(peer: Peer, outcome: Outcome) -> None:
    peer.send(*(PublishPacket("a", b"", 1, packet_id) for packet_id in (1, 2, 3)))
    tokens = [publish.token for publish in peer.taken(Publish)]
    peer.answer(tokens[0])
    peer.answer(tokens[2])
    problem = Throttled("slow down")
    peer.answer(tokens[1], Result(outcome, problem))
    assert peer.received() == [Puback(1)]
    assert peer.closed() == Close("a publish was not accepted: slow down", problem)
    assert not peer.commands


def test_every_packet_id_may_be_in_flight(peer: Peer) -> None:
    peer.send(*(PublishPacket("a", b"", 1, packet_id) for packet_id in range(1, 65_536)))
    tokens = [publish.token for publish in peer.taken(Publish)]
    assert len(tokens) == 65_535
    for token in reversed(tokens[1:]):
        peer.answer(token)
    assert peer.received() == []
    peer.answer(tokens[0])
    assert peer.received() == [Puback(packet_id) for packet_id in range(1, 65_536)]
