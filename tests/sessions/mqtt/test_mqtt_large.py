"""What a session says of large bodies: how much it expects, and what it needs no more."""

from __future__ import annotations

import pytest

from gateway.core.delivery import Delivery
from gateway.core.message import PUBLISH_QOS
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.packets import Connect, Level, Puback
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import Peer, delivery, message


def test_it_expects_the_whole_packet_from_its_first_bytes_on() -> None:
    peer = Peer()
    peer.connect()
    packet = encode(PublishPacket("a", b"x" * 100_000, 1, 1), Level.V3_1_1)
    assert peer.session.assembling == 0
    peer.session.receive_data(packet[:5], 0.0)
    assert peer.session.assembling == len(packet)
    peer.session.receive_data(packet[5:-1], 0.0)
    assert peer.session.assembling == len(packet)
    assert peer.session.receive_data(packet[-1:], 0.0)
    assert peer.session.assembling == 0


def test_a_length_that_is_not_known_yet_is_nothing() -> None:
    peer = Peer()
    peer.connect()
    peer.session.receive_data(b"\x32\xff", 0.0)
    assert peer.session.assembling < 10


def test_what_is_over_the_window_needs_its_body_until_it_is_sent() -> None:
    peer = Peer(Settings(delivery_window=1))
    peer.connect()
    peer.subscribe(("a", 1))
    first, second = (delivery(message("a", body)) for body in (b"1", b"2"))
    for each in (first, second):
        peer.session.deliver("live", each)
    assert [peer.session.needs_body(each) for each in (first, second)] == [False, True]
    peer.received()
    peer.send(Puback(1))
    assert not peer.session.needs_body(second)


@pytest.mark.parametrize("clean", [True, False])
def test_at_qos_2_it_is_needed_until_its_packet_identifier_is_kept(clean: bool) -> None:
    peer = Peer()
    peer.connect(Connect(client_id="c", clean_start=clean))
    peer.subscribe(("a", 2))
    one: Delivery = delivery(message("a", b"x", headers={PUBLISH_QOS: 2}), 1, "uid")
    peer.session.deliver("live" if clean else "session", one)
    assert peer.session.needs_body(one) is not clean
    if not clean:
        peer.tick()
        peer.kept_inflight()
    assert not peer.session.needs_body(one)


def test_before_anything_was_delivered_nothing_is_needed() -> None:
    assert not Peer().session.needs_body(delivery(message("a", b"x")))
