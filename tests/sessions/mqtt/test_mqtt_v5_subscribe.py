"""SUBSCRIBE and UNSUBSCRIBE of MQTT 5, and shared subscriptions in all versions. Statement numbers are those of 5.0."""

from __future__ import annotations

import pytest

from gateway.core.backend import QueueSpec
from gateway.core.commands import Bind, Cancel, Consume, DeclareQueue, SendRetained
from gateway.core.errors import NotAuthorized, Refused, Unavailable
from gateway.core.message import PUBLISH_QOS
from gateway.core.outcome import Outcome, Result
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import (
    Connect,
    Disconnect,
    Level,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.properties import Properties
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import Peer, delivery, message

DENIED = Result(Outcome.REJECTED, NotAuthorized("subscribing is not allowed"))


@pytest.fixture
def peer() -> Peer:
    peer = Peer(level=Level.V5)
    peer.connect()
    return peer


def subscribe(peer: Peer, *subscriptions: Subscription, packet_id: int = 1) -> tuple[int, ...]:
    """The codes."""
    peer.send(Subscribe(packet_id, subscriptions))
    peer.execute()
    (suback,) = peer.received()
    assert isinstance(suback, Suback)
    assert suback.packet_id == packet_id
    return suback.codes


# Codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotAuthorized("no"), ReasonCode.NOT_AUTHORIZED),
        (Refused("the limit"), ReasonCode.QUOTA_EXCEEDED),
        (Unavailable("away"), ReasonCode.UNSPECIFIED_ERROR),
    ],
)
def test_each_filter_has_a_reason_code(peer: Peer, error: Refused, code: ReasonCode) -> None:
    """[MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2]"""
    subscribe(peer, Subscription("x", 0))
    peer.send(Subscribe(2, tuple(Subscription(name, 2) for name in ("a", "b/*", "c"))))
    peer.step(Result(Outcome.REJECTED, error))
    peer.execute()
    assert peer.received() == [Suback(2, (code, ReasonCode.TOPIC_FILTER_INVALID, 2))]


def test_an_older_version_has_one_code_for_failure() -> None:
    """3.1.1 [MQTT-3.9.3-2]"""
    peer = Peer()
    peer.connect()
    peer.send(Subscribe(2, (Subscription("a", 2), Subscription("b/*", 2))))
    peer.execute(Result(Outcome.ACCEPTED), Result(Outcome.ACCEPTED), DENIED)
    assert peer.received() == [Suback(2, (0x80, 0x80))]


def test_version_3_1_has_none() -> None:
    """3.1 §3.9: SUBACK can only grant."""
    peer = Peer(level=Level.V3_1)
    peer.connect(Connect(client_id="c", level=Level.V3_1))
    peer.send(Subscribe(2, (Subscription("a/*", 2),)))
    assert isinstance(peer.closed().error, PacketError)
    assert peer.received() == []


def test_a_malformed_filter_closes(peer: Peer) -> None:
    """[MQTT-4.7.1-1] [MQTT-4.7.1-2]"""
    peer.send(Subscribe(1, (Subscription("a/#/b", 0),)))
    (packet,) = peer.received()
    assert isinstance(packet, Disconnect)
    assert packet.reason_code == ReasonCode.TOPIC_FILTER_INVALID
    peer.closed()


def test_unsuback_has_a_code_for_each_filter(peer: Peer) -> None:
    """[MQTT-3.11.3-1] [MQTT-3.11.3-2] [MQTT-3.10.4-1] [MQTT-3.10.4-5] [MQTT-3.10.4-6]"""
    subscribe(peer, Subscription("a", 1), Subscription("b", 1), Subscription("c", 1))
    peer.send(Unsubscribe(3, ("b", "x", "c", "A")))
    peer.step()
    peer.step(Result(Outcome.RELEASED, Unavailable("away")))
    assert peer.received() == [Unsuback(3, (0x00, 0x11, 0x80, 0x11))]
    peer.session.deliver("live", delivery(message("b")))
    assert peer.received() == []
    peer.session.deliver("live", delivery(message("c")))
    assert len(peer.received()) == 1, "what could not be unsubscribed goes on"


# Retained messages


@pytest.mark.parametrize(("handling", "first", "again"), [(0, 1, 1), (1, 1, 0), (2, 0, 0)])
def test_retain_handling(peer: Peer, handling: int, first: int, again: int) -> None:
    """[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4]"""
    for expected in (first, again):
        peer.send(Subscribe(1, (Subscription("a/+", 1, retain_handling=handling),)))
        sent = [command for command in peer.execute() if isinstance(command, SendRetained)]
        assert [command.pattern for command in sent] == ["a.*"] * expected
        peer.received()
    peer.send(Unsubscribe(2, ("a/+",)), Subscribe(3, (Subscription("a/+", 1, retain_handling=handling),)))
    assert sum(isinstance(command, SendRetained) for command in peer.execute()) == first


def test_older_versions_always_send_them() -> None:
    """3.1.1 [MQTT-3.3.1-6] [MQTT-3.8.4-3]"""
    peer = Peer()
    peer.connect()
    for _ in range(2):
        peer.send(Subscribe(1, (Subscription("a", 1),)))
        assert sum(isinstance(command, SendRetained) for command in peer.execute()) == 1


def test_retained_messages_are_asked_for_when_every_filter_is_bound(peer: Peer) -> None:
    """What matches two filters has the identifiers and the QoS of both."""
    peer.send(Subscribe(1, (Subscription("a", 1), Subscription("b", 1))))
    kinds = [type(command) for command in peer.execute()]
    assert kinds == [DeclareQueue, Consume, Bind, Bind, SendRetained, SendRetained]


def test_retained_messages_that_cannot_be_sent_close(peer: Peer) -> None:
    """No SUBACK: the client subscribes again, and has them then."""
    subscribe(peer, Subscription("x", 1))
    peer.send(Subscribe(2, (Subscription("a", 1),)))
    peer.execute(Result(Outcome.ACCEPTED), Result(Outcome.RELEASED, Unavailable("the store is away")))
    (packet,) = peer.received()
    assert isinstance(packet, Disconnect)
    assert packet.reason_code == ReasonCode.UNSPECIFIED_ERROR
    assert "the store is away" in peer.closed().reason


# Shared subscriptions


SHARED = "$share/g/a/+"


@pytest.mark.parametrize("level", [Level.V3_1, Level.V3_1_1, Level.V5])
def test_a_shared_subscription_has_a_queue_of_its_own(level: Level) -> None:
    """[MQTT-4.8.2-1] Shared by its name, by everybody who names the group and the filter."""
    peer = Peer(level=level)
    peer.connect(Connect(client_id="c", level=level))
    peer.send(Subscribe(1, (Subscription(SHARED, 2),)))
    declare, bind, consume = peer.execute()
    assert isinstance(declare, DeclareQueue)
    assert (declare.queue, declare.spec) == ("mqtt-shared-g/a/+", QueueSpec(arguments={"x-shared": True}))
    assert isinstance(bind, Bind)
    assert (bind.queue, bind.exchange, bind.pattern) == (declare.queue, "amq.topic", "a.*")
    assert isinstance(consume, Consume)
    assert (consume.tag, consume.queue) == ("share:g/a/+", declare.queue)
    assert consume.prefetch == Settings().delivery_window
    assert peer.received() == [Suback(1, (2,))]


def test_groups_and_filters_do_not_run_into_each_other(peer: Peer) -> None:
    names = set()
    for topic_filter in ("$share/a/b/c", "$share/a-b/c", "$share/a/b-c", "$share/a.b/c"):
        peer.send(Subscribe(1, (Subscription(topic_filter, 1),)))
        names |= {command.queue for command in peer.execute() if isinstance(command, DeclareQueue)}
    assert len(names) == 4


@pytest.mark.parametrize(
    "topic_filter", ["$share//a", "$share/g", "$share/g/", "$share/g+/a", "$share/#/a", "$share/g/a#", "$share/"]
)
def test_shared_filters_that_are_none(topic_filter: str) -> None:
    """[MQTT-4.8.2-1] [MQTT-4.8.2-2]"""
    for packet in (Subscribe(1, (Subscription(topic_filter, 0),)), Unsubscribe(1, (topic_filter,))):
        peer = Peer(level=Level.V5)
        peer.connect()
        peer.send(packet)
        error = peer.closed().error
        assert isinstance(error, PacketError)
        assert error.reason_code is ReasonCode.TOPIC_FILTER_INVALID


def test_no_local_with_a_shared_subscription(peer: Peer) -> None:
    """[MQTT-3.8.3-4]"""
    peer.send(Subscribe(1, (Subscription(SHARED, 0, no_local=True),)))
    error = peer.closed().error
    assert isinstance(error, PacketError)
    assert error.reason_code is ReasonCode.PROTOCOL_ERROR


def test_the_options_of_a_share_are_its_own(peer: Peer) -> None:
    """[MQTT-4.8.2-3] An ordinary filter that matches too says nothing about its deliveries."""
    subscribe(peer, Subscription("a/b", 1))
    peer.send(Subscribe(2, (Subscription(SHARED, 2),), Properties(subscription_identifier=(7,))))
    peer.execute()
    peer.received()
    of = message("a.b", headers={PUBLISH_QOS: 2})
    peer.session.deliver("share:g/a/+", delivery(of))
    peer.session.deliver("live", delivery(of))
    assert peer.received() == [
        PublishPacket("a/b", b"hi", 2, 1, properties=Properties(subscription_identifier=(7,))),
        PublishPacket("a/b", b"hi", 1, 2),
    ]


def test_subscribing_again_changes_the_options_of_a_share(peer: Peer) -> None:
    subscribe(peer, Subscription(SHARED, 2))
    peer.send(Subscribe(2, (Subscription(SHARED, 0),)))
    assert not peer.commands, "it is one of the consumers already"
    assert peer.received() == [Suback(2, (0,))]
    assert not peer.session.deliver("share:g/a/+", delivery(message("a.b")))


def test_leaving_a_share(peer: Peer) -> None:
    """[MQTT-3.10.4-1]"""
    subscribe(peer, Subscription(SHARED, 1), Subscription("g/a/+", 1))
    peer.send(Unsubscribe(2, (SHARED,)))
    (cancel,) = peer.execute()
    assert isinstance(cancel, Cancel)
    assert cancel.tag == "share:g/a/+"
    assert peer.received() == [Unsuback(2, (0,))]
    peer.send(Unsubscribe(3, (SHARED, "g/a/+")))
    peer.execute()
    assert peer.received() == [Unsuback(3, (0x11, 0))]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_share_that_cannot_be_joined(peer: Peer, step: int) -> None:
    peer.send(Subscribe(1, (Subscription(SHARED, 1),)))
    for _ in range(step):
        peer.step()
    peer.step(DENIED)
    assert peer.received() == [Suback(1, (0x87,))]
    assert not peer.commands
    assert subscribe(peer, Subscription(SHARED, 1)) == (1,)


def test_shares_have_a_limit() -> None:
    peer = Peer(Settings(max_shared_subscriptions=1, max_subscriptions=3), Level.V5)
    peer.connect()
    codes = subscribe(peer, *(Subscription(name, 1) for name in ("$share/g/a", "$share/g/b", "x", "y", "z")))
    assert codes == (1, 0x97, 1, 1, 0x97)
    assert subscribe(peer, Subscription("$share/g/a", 0)) == (0,)


def test_shares_of_a_kept_session() -> None:
    """[MQTT-4.8.2-4]"""
    connect = Connect(
        client_id="c", level=Level.V5, clean_start=False, properties=Properties(session_expiry_interval=60)
    )
    peer = Peer(level=Level.V5)
    peer.connect(connect)
    subscribe(peer, Subscription(SHARED, 1))
    assert peer.record is not None
    assert peer.record.shared == ("mqtt-shared-g/a/+",)
    assert peer.record.queue == ""
    again = Peer(level=Level.V5)
    again.record = peer.record
    again.send(connect)
    kinds = [type(command).__name__ for command in again.execute()]
    assert kinds == ["Authenticate", "OpenSession", "DeclareQueue", "Bind", "Consume"]
    again.received()
    assert again.session.deliver("share:g/a/+", delivery(message("a.b")))
    again.send(Unsubscribe(2, (SHARED,)))
    again.execute()
    assert again.record is not None
    assert again.record.shared == ()
