"""Deliveries at QoS 2, and what a kept session does for them. Statement numbers are those of MQTT 3.1.1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.commands import KeepInflight
from gateway.core.delivery import Delivery
from gateway.core.message import PUBLISH_QOS, Origin, Properties
from gateway.core.outcome import Outcome, Result
from gateway.protocols.mqtt.delivering import COMPLETED
from gateway.protocols.mqtt.packets import Connect, Level, Puback, Pubcomp, Pubrec, Pubrel
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import WALL_CLOCK, Peer, delivery, message

KEPT = Connect(client_id="c", clean_start=False)


def twice_safe(body: bytes = b"hi", *, uid: str = "", attempt: int = 1) -> Delivery:
    """A delivery of a message that was published at QoS 2."""
    return delivery(message("a", body, headers={PUBLISH_QOS: 2}), attempt, uid)


def sent(packet_id: int, body: bytes = b"hi", *, dup: bool = False) -> PublishPacket:
    return PublishPacket("a", body, 2, packet_id, dup=dup)


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.connect()
    peer.subscribe(("a", 2))
    return peer


@pytest.fixture
def kept() -> Peer:
    peer = Peer()
    peer.connect(KEPT)
    peer.subscribe(("a", 2))
    return peer


def deliver(peer: Peer, *deliveries: Delivery) -> None:
    """Let the session's queue deliver, and what has to be kept for that be kept."""
    for each in deliveries:
        assert peer.session.deliver("session", each)
    peer.tick()
    peer.kept_inflight()


def test_the_whole_exchange(peer: Peer) -> None:
    """[MQTT-4.3.3-1]"""
    held = twice_safe()
    assert peer.session.deliver("live", held)
    assert peer.received() == [sent(1)]
    assert peer.session.unsettled() == [held]
    peer.send(Pubrec(1))
    assert peer.settled() == [(held, Outcome.ACCEPTED)]
    assert peer.received() == [Pubrel(1)]
    assert peer.session.unsettled() == []
    peer.send(Pubcomp(1))
    assert not peer.commands
    assert peer.received() == []


@pytest.mark.parametrize(
    ("granted", "mode", "headers", "qos"),
    [
        (2, 2, {PUBLISH_QOS: 2}, 2),
        (1, 2, {PUBLISH_QOS: 2}, 1),
        (0, 2, {PUBLISH_QOS: 2}, 0),
        (2, 2, {}, 1),
        (2, None, {}, 1),
        (2, 1, {}, 0),
    ],
)
def test_qos_is_the_lower_of_subscription_and_message(
    granted: int, mode: int | None, headers: dict[str, int], qos: int
) -> None:
    """[MQTT-3.8.4-6]"""
    peer = Peer()
    peer.connect()
    peer.subscribe(("a", granted))
    peer.session.deliver("live", delivery(message("a", mode=mode, headers=headers)))
    (packet,) = peer.received()
    assert isinstance(packet, PublishPacket)
    assert packet.qos == qos


def test_pubrels_go_out_in_the_order_of_the_pubrecs(peer: Peer) -> None:
    """[MQTT-4.6.0-4]"""
    for _ in range(3):
        peer.session.deliver("live", twice_safe())
    peer.received()
    peer.send(Pubrec(3), Pubrec(1), Pubrec(2))
    assert peer.received() == [Pubrel(3), Pubrel(1), Pubrel(2)]


def test_pubrec_again_gets_pubrel_again(peer: Peer) -> None:
    peer.session.deliver("live", twice_safe())
    peer.send(Pubrec(1), Pubrec(1))
    assert peer.received() == [sent(1), Pubrel(1), Pubrel(1)]
    assert len(peer.settled()) == 1


def test_pubrec_that_nobody_waits_for(peer: Peer) -> None:
    """PUBREL lets the client forget the identifier; 5.0 has a code for it."""
    peer.send(Pubrec(9), Pubcomp(9))
    assert peer.received() == [Pubrel(9)]
    v5 = Peer(level=Level.V5)
    v5.connect()
    v5.send(Pubrec(9))
    assert v5.received() == [Pubrel(9, 0x92)]


def test_a_client_that_subscribes_to_nothing_may_still_acknowledge() -> None:
    peer = Peer()
    peer.connect()
    peer.send(Puback(1), Pubcomp(1), Pubrec(1))
    assert peer.received() == [Pubrel(1)]
    assert not peer.commands


def test_puback_does_not_end_what_needs_pubrec(peer: Peer) -> None:
    peer.session.deliver("live", twice_safe())
    peer.send(Puback(1))
    assert peer.settled() == []
    assert len(peer.session.unsettled()) == 1


def test_pubcomp_before_pubrec_ends_nothing(peer: Peer) -> None:
    peer.session.deliver("live", twice_safe())
    peer.send(Pubcomp(1))
    assert len(peer.session.unsettled()) == 1
    peer.send(Pubrec(1))
    assert len(peer.settled()) == 1


def test_a_failure_in_pubrec_ends_the_delivery() -> None:
    """5.0 [MQTT-4.3.3-4]: no PUBREL, and the identifier is free."""
    peer = Peer(level=Level.V5)
    peer.connect()
    peer.subscribe(("a", 2))
    held = twice_safe()
    peer.session.deliver("live", held)
    peer.received()
    peer.send(Pubrec(1, 0x80))
    assert peer.settled() == [(held, Outcome.ACCEPTED)]
    assert peer.received() == []
    peer.send(Pubrec(1))
    assert peer.received() == [Pubrel(1, 0x92)]


def test_packet_ids_are_in_use_until_pubcomp() -> None:
    """[MQTT-2.3.1-4]"""
    peer = Peer(Settings(delivery_window=3))
    peer.connect()
    peer.subscribe(("#", 2))
    peer.session.deliver("live", twice_safe())
    peer.send(Pubrec(1))
    peer.received()
    for packet_id in range(2, 65_536):
        peer.session.deliver("live", delivery(message("a")))
        peer.session.data_to_send()
        peer.send(Puback(packet_id))
    peer.session.deliver("live", delivery(message("a")))
    (packet,) = peer.received()
    assert isinstance(packet, PublishPacket)
    assert packet.packet_id == 2, "1 is still to be completed"


def test_the_window_is_full_until_pubcomp() -> None:
    """5.0 [MQTT-3.3.4-9]; settled at PUBREC, the delivery gives its credit back earlier than that."""
    peer = Peer(Settings(delivery_window=2))
    peer.connect()
    peer.subscribe(("a", 2))
    deliveries = [twice_safe(b"%d" % index) for index in range(4)]
    for each in deliveries:
        assert peer.session.deliver("live", each)
    peer.session.deliver("live", delivery(message("a", b"zero", mode=1)))
    assert peer.received() == [sent(1, b"0"), sent(2, b"1"), PublishPacket("a", b"zero")]
    assert peer.session.unsettled() == deliveries
    peer.send(Pubrec(1))
    assert peer.received() == [Pubrel(1)]
    peer.send(Pubcomp(1))
    assert peer.received() == [sent(3, b"2")]
    peer.send(Pubrec(2), Pubcomp(2))
    assert peer.received() == [Pubrel(2), sent(4, b"3")]
    assert peer.session.unsettled() == deliveries[2:]


def test_what_waits_for_the_window_keeps_its_order(peer: Peer) -> None:
    """[MQTT-4.6.0-6]"""
    peer = Peer(Settings(delivery_window=1))
    peer.connect()
    peer.subscribe(("a", 2))
    for index in range(6):
        each = twice_safe(b"%d" % index) if index % 2 else delivery(message("a", b"%d" % index))
        peer.session.deliver("live", each)
    bodies = []
    while packets := peer.received():
        for packet in packets:
            if isinstance(packet, PublishPacket):
                bodies.append(packet.payload)
                peer.send(
                    *((Puback(packet.packet_id),) if packet.qos == 1 else (Pubrec(packet.packet_id),)),
                    *(() if packet.qos == 1 else (Pubcomp(packet.packet_id),)),
                )
    assert bodies == [b"%d" % index for index in range(6)]
    assert len(peer.settled()) == 6


# In a session that is kept


def test_the_packet_id_is_kept_before_it_is_used(kept: Peer) -> None:
    """[MQTT-4.4.0-1] After a crash the message must have it again."""
    held = twice_safe(uid="m1")
    assert kept.session.deliver("session", held)
    assert kept.received() == []
    assert kept.session.unsettled() == [held]
    assert kept.session.deadline <= kept.now, "there is something to do though nothing came"
    kept.tick()
    assert kept.session.deadline > kept.now
    (keep,) = kept.taken(KeepInflight)
    assert kept.received() == []
    kept.answer(keep.token)
    assert kept.received() == [sent(1)]


def test_pubrel_leaves_when_it_is_kept_that_the_client_has_the_message(kept: Peer) -> None:
    held = twice_safe(uid="m1")
    deliver(kept, held)
    kept.received()
    kept.send(Pubrec(1))
    (keep,) = kept.taken(KeepInflight)
    assert kept.received() == []
    assert kept.settled() == []
    assert kept.session.unsettled() == [held]
    kept.answer(keep.token)
    assert kept.settled() == [(held, Outcome.ACCEPTED)]
    assert kept.received() == [Pubrel(1)]
    kept.send(Pubcomp(1))
    assert not kept.commands, "an identifier that comes back once more does no harm"


def test_one_write_for_what_is_delivered_together(kept: Peer) -> None:
    for index in range(5):
        kept.session.deliver("session", twice_safe(b"%d" % index, uid=f"m{index}"))
    kept.tick()
    assert len(kept.kept_inflight()) == 1
    assert kept.received() == [sent(index + 1, b"%d" % index) for index in range(5)]


def test_an_assignment_that_cannot_be_kept_closes(kept: Peer) -> None:
    held = twice_safe(uid="m1")
    kept.session.deliver("session", held)
    kept.tick()
    (keep,) = kept.taken(KeepInflight)
    kept.answer(keep.token, Result(Outcome.RELEASED))
    kept.closed()
    assert kept.received() == []
    assert kept.session.unsettled() == [held]


def test_after_a_crash_the_message_has_its_packet_id_again_and_dup(kept: Peer) -> None:
    """[MQTT-4.4.0-1] [MQTT-3.3.1-1]"""
    deliver(kept, twice_safe(b"other", uid="m0"), twice_safe(uid="m1"))
    again = kept.again()
    assert again.received() == []
    assert again.session.deliver("session", twice_safe(b"new", uid="m2"))
    assert again.session.deliver("session", twice_safe(uid="m1"))
    again.tick()
    again.kept_inflight()
    assert again.received() == [sent(3, b"new"), sent(2, dup=True)]


def test_dup_says_what_is_known_and_not_what_the_queue_counts(kept: Peer) -> None:
    """5.0 [MQTT-3.3.1-3] A message may have been taken out of the queue before, and not have been sent."""
    deliver(kept, twice_safe(uid="m1", attempt=2))
    assert kept.received() == [sent(1)]
    clean = Peer()
    clean.connect()
    clean.subscribe(("a", 2))
    clean.session.deliver("live", twice_safe(attempt=2))
    assert clean.received() == [sent(1, dup=True)]


def test_a_message_that_is_known_is_sent_without_another_write(kept: Peer) -> None:
    deliver(kept, twice_safe(uid="m1"))
    again = kept.again()
    assert again.session.deliver("session", twice_safe(uid="m1"))
    assert again.received() == [sent(1, dup=True)]
    assert not again.commands


def test_after_a_crash_pubrels_come_first(kept: Peer) -> None:
    """[MQTT-4.4.0-1]"""
    deliver(kept, twice_safe(uid="m1"), twice_safe(uid="m2"))
    kept.send(Pubrec(2), Pubrec(1))
    kept.kept_inflight()
    again = Peer()
    again.record = kept.record
    again.send(KEPT)
    again.execute()
    assert again.received()[1:] == [Pubrel(2), Pubrel(1)]  # [MQTT-4.6.0-4]
    assert not again.session.deliver("session", twice_safe(uid="m1")), "the client has it: its deletion was lost"
    assert again.received() == []
    again.send(Pubcomp(1), Pubcomp(2))
    deliver(again, twice_safe(b"new", uid="m3"))
    (packet,) = again.received()
    assert isinstance(packet, PublishPacket)


def test_the_queue_delivers_again_what_is_under_way(kept: Peer) -> None:
    """[MQTT-4.3.3-1] Its visibility timeout has passed: there is one more receipt, and not one more PUBLISH."""
    first, second, third = (twice_safe(uid="m1", attempt=attempt) for attempt in (1, 2, 3))
    deliver(kept, first)
    assert kept.received() == [sent(1)]
    assert kept.session.deliver("session", second)
    assert kept.received() == []
    assert kept.session.unsettled() == [first, second]
    kept.send(Pubrec(1))
    assert kept.session.deliver("session", third)
    kept.kept_inflight()
    assert kept.settled() == [(each, Outcome.ACCEPTED) for each in (first, second, third)]
    assert not kept.session.deliver("session", twice_safe(uid="m1", attempt=4))
    kept.send(Pubcomp(1))
    assert not kept.session.deliver("session", twice_safe(uid="m1", attempt=5)), "its deletion has failed"
    assert kept.received() == [Pubrel(1)]


def test_the_memory_of_completed_messages_is_bounded(kept: Peer) -> None:
    for index in range(COMPLETED + 1):
        deliver(kept, twice_safe(uid=f"m{index}"))
        (packet,) = kept.received()
        assert isinstance(packet, PublishPacket)
        kept.send(Pubrec(packet.packet_id))
        kept.kept_inflight()
        kept.send(Pubcomp(packet.packet_id))
        kept.received()
    assert not kept.session.deliver("session", twice_safe(uid="m1"))
    assert kept.session.deliver("session", twice_safe(uid="m0"))


def test_pubrec_for_what_an_earlier_connection_sent(kept: Peer) -> None:
    """The client has the message, and says so before the queue brings it again."""
    deliver(kept, twice_safe(uid="m1"))
    again = kept.again()
    again.send(Pubrec(1))
    again.kept_inflight()
    assert again.received() == [Pubrel(1)]
    assert not again.session.deliver("session", twice_safe(uid="m1", attempt=2))
    again.send(Pubcomp(1))
    assert again.received() == []


def test_qos_1_has_its_packet_id_again_after_the_connection(kept: Peer) -> None:
    """[MQTT-4.4.0-1]"""
    held = delivery(message("a"), uid="m1")
    kept.session.deliver("session", delivery(message("a"), uid="m0"))
    kept.session.deliver("session", held)
    assert not kept.commands, "a write for each message at QoS 1 would cost more than a repetition"
    kept.lose()
    again = kept.again()
    again.session.deliver("session", delivery(message("a"), uid="m9"))
    again.session.deliver("session", delivery(message("a"), uid="m1"))
    first, second = again.received()
    assert first == PublishPacket("a", b"hi", 1, 3), "1 is reserved for m0"
    assert second == PublishPacket("a", b"hi", 1, 2, dup=True)


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_sent_does_not_expire(kept: Peer, qos: int) -> None:
    """5.0 [MQTT-4.3.3-7] The client has the identifier, and waits for PUBREL."""
    hub = Properties(delivery_mode=2, expiration=5_000, timestamp=int(WALL_CLOCK))
    of = replace(message("a", headers={PUBLISH_QOS: qos}), properties=hub, origin=Origin("mqtt", "p"))
    deliver(kept, delivery(of, uid="m1"))
    kept.lose()
    again = kept.again()
    again.wall += 60
    assert again.session.deliver("session", delivery(of, 2, uid="m1"))
    assert again.received() == [PublishPacket("a", b"hi", qos, 1, dup=True)]
    again.session.deliver("session", delivery(of, 2, uid="m2"))
    again.tick()
    again.kept_inflight()
    assert again.received() == [], "this one was sent to nobody"
    assert len(again.session.unsettled()) == 1


def test_orderly_ends_leave_packet_ids_too(kept: Peer) -> None:
    kept.session.deliver("session", delivery(message("a"), uid="m0"))
    kept.feed(b"\xe0\x00")
    assert kept.closed().error is None
    assert [type(command).__name__ for command in kept.commands] == ["KeepInflight", "EndSession"]


def test_nothing_is_written_at_the_end_when_nothing_changed(kept: Peer) -> None:
    kept.lose()
    assert [type(command).__name__ for command in kept.commands] == ["EndSession"]
    again = kept.again()
    deliver(again, twice_safe(uid="m1"))
    again.lose()
    assert [type(command).__name__ for command in again.commands] == ["EndSession"]


def test_reserved_packet_ids_are_bounded() -> None:
    peer = Peer(Settings(delivery_window=2000))
    peer.connect(KEPT)
    peer.subscribe(("a", 1))
    for index in range(1500):
        peer.session.deliver("session", delivery(message("a"), uid=f"m{index}"))
    peer.lose()
    narrow = Peer(Settings(delivery_window=10))
    narrow.record = peer.record
    narrow.connect(KEPT, session_present=True)
    for index in (499, 500):
        narrow.session.deliver("session", delivery(message("a"), 2, uid=f"m{index}"))
    first, second = narrow.received()
    assert isinstance(first, PublishPacket)
    assert isinstance(second, PublishPacket)
    assert (first.packet_id, second.packet_id) == (1, 501), "the oldest are given up"
