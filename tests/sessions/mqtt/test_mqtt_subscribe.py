"""SUBSCRIBE and UNSUBSCRIBE. Statement numbers are those of MQTT 3.1.1."""

from __future__ import annotations

import pytest

from gateway.core.backend import QueueSpec
from gateway.core.commands import Bind, Consume, DeclareQueue, Publish, SendRetained, Unbind
from gateway.core.errors import Refused
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import Pingreq, Pingresp, Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import Peer, delivery, message

FAILED = Result(Outcome.RELEASED, Refused("not now"))


def subscribe(packet_id: int, *filters: tuple[str, int]) -> Subscribe:
    return Subscribe(packet_id, tuple(Subscription(*pair) for pair in filters))


def delivered(peer: Peer, key: str) -> int | None:
    """The QoS at which a message goes to the client."""
    peer.session.deliver("live", delivery(message(key)))
    packets = peer.received()
    if not packets:
        return None
    (packet,) = packets
    assert isinstance(packet, PublishPacket)
    return packet.qos


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.connect()
    return peer


def test_first_subscribe_opens_a_queue_and_binds(peer: Peer) -> None:
    """[MQTT-3.8.4-1]"""
    peer.send(subscribe(9, ("a/+/b.c/#", 1)))
    declare, consume, bind, send_retained = peer.execute()
    assert isinstance(declare, DeclareQueue)
    assert declare.queue.startswith("mqtt-subscription-c-")
    assert declare.spec == QueueSpec(durable=False, exclusive=True, lossy=True)
    assert isinstance(consume, Consume)
    assert (consume.queue, consume.prefetch) == (declare.queue, Settings().delivery_window)
    assert isinstance(bind, Bind)
    assert (bind.queue, bind.exchange, bind.pattern) == (declare.queue, "amq.topic", "a.*.b/c.#")
    assert isinstance(send_retained, SendRetained)
    assert (send_retained.queue, send_retained.pattern) == (bind.queue, bind.pattern)
    assert peer.received() == [Suback(9, (1,))]  # [MQTT-3.8.4-2]
    peer.send(subscribe(10, ("b", 0)))
    assert [type(command) for command in peer.execute()] == [Bind, SendRetained]
    assert peer.received() == [Suback(10, (0,))]


def test_queues_of_one_client_id_differ_by_connection() -> None:
    queues = set()
    for _ in range(2):
        peer = Peer()
        peer.connect()
        peer.send(subscribe(1, ("a", 0)))
        queues |= {command.queue for command in peer.taken(DeclareQueue)}
    assert len(queues) == 2


def test_suback_has_a_code_for_each_filter_and_comes_last(peer: Peer) -> None:
    """[MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.9.3-1]"""
    peer.send(subscribe(2, ("a", 0), ("b", 1), ("c", 2), ("d", 1)))
    while peer.commands:
        assert peer.received() == []
        command = peer.commands.pop()
        assert isinstance(command, DeclareQueue | Consume | Bind | SendRetained)
        peer.answer(command.token, FAILED if isinstance(command, Bind) and command.pattern == "b" else ACCEPTED)
    assert peer.received() == [Suback(2, (0, 0x80, 2, 1))]
    assert delivered(peer, "b") is None


@pytest.mark.parametrize("topic_filter", ["a#", "a/#/b", "a+", ""])
def test_filters_that_are_none_close(peer: Peer, topic_filter: str) -> None:
    """[MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-1]"""
    for packet in (subscribe(1, ("ok", 0), (topic_filter, 0)), Unsubscribe(1, ("ok", topic_filter))):
        peer = Peer()
        peer.connect()
        peer.send(packet)
        error = peer.closed().error
        assert isinstance(error, PacketError)
        assert error.reason_code is ReasonCode.TOPIC_FILTER_INVALID
        assert not peer.commands


def test_filters_that_cannot_be_served_are_refused_one_by_one(peer: Peer) -> None:
    peer.send(subscribe(1, ("a/*", 1)))
    assert not peer.commands, "nothing to ask the hub"
    assert peer.received() == [Suback(1, (0x80,))]
    peer.send(subscribe(2, ("$share/g/*", 1), ("a*", 1), ("a/*/b", 1)))
    peer.execute()
    assert peer.received() == [Suback(2, (0x80, 1, 0x80))]


def test_the_same_filter_again_replaces_its_qos(peer: Peer) -> None:
    """[MQTT-3.8.4-3]"""
    for qos in (1, 0, 1):
        peer.subscribe(("a", qos))
        assert delivered(peer, "a") == qos
    peer.send(Unsubscribe(5, ("a",)))
    peer.execute()
    assert peer.received() == [Unsuback(5)]
    assert delivered(peer, "a") is None


def test_unsubscribe(peer: Peer) -> None:
    """[MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-6]"""
    peer.subscribe(("a", 1), ("a/+", 1), ("b", 1), ("c", 0))
    peer.send(Unsubscribe(7, ("a/+", "a")))
    for pattern in ("a.*", "a"):
        assert peer.received() == []
        (unbind,) = peer.taken(Unbind)
        assert unbind.pattern == pattern
        peer.answer(unbind.token)
    assert peer.received() == [Unsuback(7)]
    assert [delivered(peer, key) for key in ("a", "a.x", "b", "c")] == [None, None, 1, 0]


def test_unsubscribe_from_what_is_not_subscribed(peer: Peer) -> None:
    """[MQTT-3.10.4-5]"""
    peer.send(Unsubscribe(7, ("a", "$share/g/a")))
    assert not peer.commands
    assert peer.received() == [Unsuback(7)]
    peer.subscribe(("b", 1))
    peer.send(Unsubscribe(8, ("a", "a/*")))
    peer.execute()
    assert peer.received() == [Unsuback(8)]
    assert delivered(peer, "b") == 1


def test_unsubscribe_that_fails_closes(peer: Peer) -> None:
    peer.subscribe(("a", 1))
    peer.send(Unsubscribe(7, ("a",)))
    peer.execute(FAILED)
    assert isinstance(peer.closed().error, PacketError)
    assert peer.received() == []


def test_pipelined_changes_end_as_the_last_one_says(peer: Peer) -> None:
    peer.subscribe(("a", 1))
    peer.send(Unsubscribe(2, ("a",)), subscribe(3, ("a", 0)), Pingreq())
    assert peer.received() == [Pingresp()]
    peer.execute()
    assert peer.received() == [Unsuback(2), Suback(3, (0,))]
    assert delivered(peer, "a") == 0
    peer.send(subscribe(4, ("a", 1)), Unsubscribe(5, ("a",)))
    peer.execute()
    assert peer.received() == [Suback(4, (1,)), Unsuback(5)]
    assert delivered(peer, "a") is None


def test_a_publish_behind_subscribe_stays_behind_it(peer: Peer) -> None:
    peer.send(subscribe(1, ("a", 1)), PublishPacket("a", b""))
    for control in (DeclareQueue, Consume, Bind, SendRetained):
        assert [type(command) for command in peer.commands] == [control, Publish]
        command = peer.commands.pop(0)
        assert isinstance(command, DeclareQueue | Consume | Bind | SendRetained)
        peer.answer(command.token)
    assert [type(command) for command in peer.commands] == [Publish]


def test_a_queue_that_cannot_be_declared_is_tried_again(peer: Peer) -> None:
    peer.send(subscribe(1, ("a", 1), ("b", 0)), subscribe(2, ("b", 1)))
    assert [type(command) for command in peer.execute(FAILED, FAILED)] == [DeclareQueue] * 2
    assert peer.received() == [Suback(1, (0x80, 0x80)), Suback(2, (0x80,))]
    peer.send(subscribe(3, ("a", 1)))
    assert [type(command) for command in peer.execute()] == [DeclareQueue, Consume, Bind, SendRetained]
    assert peer.received() == [Suback(3, (1,))]


def test_a_queue_that_cannot_be_consumed_is_not_bound(peer: Peer) -> None:
    peer.send(subscribe(1, ("a", 1)))
    assert [type(command) for command in peer.execute(ACCEPTED, FAILED)] == [DeclareQueue, Consume]
    assert peer.received() == [Suback(1, (0x80,))]
    assert delivered(peer, "a") is None


def test_subscriptions_have_a_limit() -> None:
    peer = Peer(Settings(max_subscriptions=3))
    peer.connect()
    peer.send(subscribe(1, ("a", 0), ("b", 0)), subscribe(2, ("c", 0), ("d", 0)))
    peer.execute()
    assert peer.received() == [Suback(1, (0, 0)), Suback(2, (0, 0x80))]
    peer.send(subscribe(3, ("e", 0), ("a", 1)))
    peer.execute()
    assert peer.received() == [Suback(3, (0x80, 1))]
    peer.send(Unsubscribe(4, ("b",)), Pingreq())
    peer.execute()
    peer.received()
    peer.subscribe(("e", 1))


def test_unanswered_filters_have_a_limit() -> None:
    peer = Peer(Settings(max_unanswered_filters=3))
    peer.connect()
    peer.send(subscribe(1, ("a", 0), ("b", 0)), Unsubscribe(2, ("b",)))
    peer.execute()
    assert peer.received() == [Suback(1, (0, 0)), Unsuback(2)]
    peer.send(subscribe(1, ("a", 0), ("b", 0)), Unsubscribe(2, ("b", "a")))
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.QUOTA_EXCEEDED
