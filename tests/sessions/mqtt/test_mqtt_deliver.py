"""Deliveries to a client. Statement numbers are those of MQTT 3.1.1."""

from __future__ import annotations

import pytest

from gateway.core.commands import Settle
from gateway.core.outcome import Outcome
from gateway.protocols.mqtt.packets import Connect, Disconnect, Puback, Unsubscribe
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from tests.sessions.mqtt.peer import Peer, delivery, message


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.connect(Connect(client_id="c", keep_alive=10))
    return peer


def test_qos_1_is_held_until_puback(peer: Peer) -> None:
    """[MQTT-4.3.2-1]"""
    peer.subscribe(("a/+", 1))
    held = delivery(message("a.b", b"body"))
    assert peer.session.deliver("live", held)
    assert peer.received() == [PublishPacket("a/b", b"body", 1, 1)]  # RETAIN is 0 [MQTT-3.3.1-9]
    assert peer.session.unsettled() == [held]
    peer.send(Puback(1))
    assert peer.settled() == [(held, Outcome.ACCEPTED)]
    assert peer.session.unsettled() == []
    peer.send(Puback(1))
    assert not peer.commands


def test_pubacks_of_one_read_are_settled_together(peer: Peer) -> None:
    peer.subscribe(("#", 1))
    held = [delivery(message("a")) for _ in range(3)]
    for each in held:
        peer.session.deliver("live", each)
    peer.send(Puback(3), PublishPacket("x", b""), Puback(1))
    (settle,) = peer.taken(Settle)
    assert list(settle.deliveries) == [held[2], held[0]]
    assert peer.session.unsettled() == [held[1]]


def test_pubacks_before_a_violation_or_disconnect_are_settled(peer: Peer) -> None:
    for ending in (b"\x00\x00", b"\xe0\x00"):
        peer = Peer()
        peer.connect()
        peer.subscribe(("#", 1))
        held = delivery(message("a"))
        peer.session.deliver("live", held)
        peer.feed(b"\x40\x02\x00\x01" + ending)
        peer.closed()
        assert peer.settled() == [(held, Outcome.ACCEPTED)]


@pytest.mark.parametrize(("granted", "mode", "qos"), [(1, 2, 1), (1, None, 1), (1, 1, 0), (0, 2, 0), (0, 1, 0)])
def test_qos_is_the_lower_of_subscription_and_message(peer: Peer, granted: int, mode: int | None, qos: int) -> None:
    """[MQTT-3.8.4-6]"""
    peer.subscribe(("a", granted))
    held = peer.session.deliver("live", delivery(message("a", mode=mode)))
    assert held is (qos == 1)
    assert peer.received() == [PublishPacket("a", b"hi", qos, qos)]
    assert len(peer.session.unsettled()) == qos


def test_redelivered_has_dup(peer: Peer) -> None:
    """[MQTT-3.3.1-2] [MQTT-3.3.1-3]"""
    peer.subscribe(("a", 1))
    peer.session.deliver("live", delivery(message("a"), attempt=2))
    peer.session.deliver("live", delivery(message("a", mode=1), attempt=2))
    assert peer.received() == [PublishPacket("a", b"hi", 1, 1, dup=True), PublishPacket("a", b"hi")]


def test_overlapping_filters_deliver_once_with_the_highest_qos(peer: Peer) -> None:
    """[MQTT-3.3.5-1]"""
    peer.subscribe(("a/#", 0), ("a/b", 1), ("+/c", 0))
    for key, qos in (("a.b", 1), ("a.c", 0), ("x.c", 0), ("a", 0), ("a.b", 1)):
        peer.session.deliver("live", delivery(message(key)))
        (packet,) = peer.received()
        assert isinstance(packet, PublishPacket)
        assert (packet.topic, packet.qos) == (key.replace(".", "/"), qos)


@pytest.mark.parametrize("filters", [(("#", 1),), (("#", 1), ("+/monitor/#", 1))])
def test_leading_wildcards_do_not_match_dollar_topics(peer: Peer, filters: tuple[tuple[str, int], ...]) -> None:
    """[MQTT-4.7.2-1]"""
    peer.subscribe(*filters)
    assert not peer.session.deliver("live", delivery(message("$SYS.monitor.x")))
    assert peer.received() == []
    assert peer.session.unsettled() == []
    peer.subscribe(("$SYS/#", 1))
    assert peer.session.deliver("live", delivery(message("$SYS.monitor.x")))


def test_messages_of_other_exchanges_and_keys_with_slashes(peer: Peer) -> None:
    peer.subscribe(("#", 0))
    peer.session.deliver("live", delivery(message("a.b/c", exchange="logs")))
    assert peer.received() == [PublishPacket("a/b.c", b"hi")]


@pytest.mark.parametrize("key", ["", "a.+", "#", "a\0b", "\ud800", "k" * 65_536, "." * 200])
def test_messages_without_a_topic_are_rejected_at_once(peer: Peer, key: str) -> None:
    """[MQTT-3.3.2-1] [MQTT-3.3.2-2]"""
    peer.subscribe(("#", 1))
    held = delivery(message(key))
    assert peer.session.deliver("live", held)
    assert peer.received() == []
    assert peer.session.unsettled() == [held]
    assert peer.session.deadline <= peer.now
    peer.tick()
    assert peer.settled() == [(held, Outcome.REJECTED)]
    assert not peer.commands
    assert peer.session.unsettled() == []
    assert peer.session.deadline == peer.now + 15


def test_messages_without_a_topic_are_rejected_while_nothing_is_read(peer: Peer) -> None:
    peer.subscribe(("#", 1))
    peer.session.deliver("live", delivery(message("")))
    peer.session.reading(False, peer.now)
    assert peer.session.deadline <= peer.now
    peer.tick()
    assert len(peer.settled()) == 1


def test_messages_too_large_for_mqtt_are_rejected(peer: Peer) -> None:
    peer.subscribe(("#", 1))
    huge = bytes(268_435_456)  # pages of zeros: they cost no memory until somebody reads them
    for mode in (1, 2):
        held = delivery(message("a", huge, mode))
        assert peer.session.deliver("live", held)
        peer.tick()
        assert peer.settled() == [(held, Outcome.REJECTED)]
    peer.session.deliver("live", delivery(message("a")))
    assert peer.received() == [PublishPacket("a", b"hi", 1, 2)]


def test_packet_ids_in_use_are_skipped(peer: Peer) -> None:
    """[MQTT-2.3.1-4]"""
    peer.subscribe(("#", 1))
    peer.session.deliver("live", delivery(message("a")))
    peer.session.deliver("live", delivery(message("a")))
    peer.send(Puback(1))
    for packet_id in range(3, 65_536):
        peer.session.deliver("live", delivery(message("a")))
        peer.session.data_to_send()
        peer.send(Puback(packet_id))
    for expected in (1, 3):
        peer.session.deliver("live", delivery(message("a")))
        (packet,) = peer.received()
        assert isinstance(packet, PublishPacket)
        assert packet.packet_id == expected


def test_order_of_deliveries_is_kept(peer: Peer) -> None:
    """[MQTT-4.6.0-6]"""
    peer.subscribe(("#", 1))
    for index in range(20):
        peer.session.deliver("live", delivery(message("a", b"%d" % index, mode=1 + index % 2)))
    bodies = [packet.payload for packet in peer.received() if isinstance(packet, PublishPacket)]
    assert bodies == [b"%d" % index for index in range(20)]


def test_what_arrives_after_unsubscribe_is_dropped(peer: Peer) -> None:
    peer.subscribe(("a", 1))
    peer.send(Unsubscribe(2, ("a",)))
    peer.execute()
    peer.received()
    assert not peer.session.deliver("live", delivery(message("a")))
    assert peer.received() == []


def test_what_arrives_after_the_end_is_held_for_release(peer: Peer) -> None:
    peer.subscribe(("a", 1))
    before, after = delivery(message("a")), delivery(message("a", mode=1))
    peer.session.deliver("live", before)
    peer.received()
    peer.send(Disconnect())
    assert peer.session.deliver("live", after)
    assert peer.received() == []
    assert peer.session.unsettled() == [before, after]
