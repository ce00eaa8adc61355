"""Deliveries to an MQTT 5 client. Statement numbers are those of MQTT 5.0."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.message import PUBLISH_QOS, RETAIN, RETAINED, Message, Origin
from gateway.core.message import Properties as HubProperties
from gateway.core.outcome import Outcome
from gateway.protocols.mqtt.packets import Connect, Level, Packet, Puback, Subscribe, Subscription, Unsubscribe
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Properties
from gateway.protocols.mqtt.settings import Settings
from tests.sessions.mqtt.peer import WALL_CLOCK, Peer, delivery, message

MQTT = Origin("mqtt", "somebody")


def connected(settings: Settings | None = None, **said: int) -> Peer:
    peer = Peer(settings, Level.V5)
    peer.connect(Connect(client_id="c", level=Level.V5, properties=Properties(**said)))  # type: ignore[arg-type]
    return peer


@pytest.fixture
def peer() -> Peer:
    return connected()


def subscribe(peer: Peer, *subscriptions: Subscription, identifier: int = 0) -> None:
    said = Properties(subscription_identifier=(identifier,)) if identifier else NO_PROPERTIES
    peer.send(Subscribe(1, subscriptions, said))
    peer.execute()
    peer.received()


def delivered(peer: Peer, of: Message) -> PublishPacket:
    peer.session.deliver("live", delivery(of))
    packet = only(peer.received())
    assert isinstance(packet, PublishPacket)
    return packet


def only(packets: list[Packet]) -> Packet:
    (packet,) = packets
    return packet


def with_properties(properties: HubProperties, **headers: object) -> Message:
    of = replace(message("a"), properties=properties, origin=MQTT)
    return replace(of, headers=headers) if headers else of  # type: ignore[arg-type]


# Properties


def test_a_plain_message_has_no_properties(peer: Peer) -> None:
    """[MQTT-2.2.2-1]"""
    subscribe(peer, Subscription("a", 1))
    peer.session.deliver("live", delivery(message("a", b"x")))
    assert peer.session.data_to_send() == b"\x32\x07\x00\x01a\x00\x01\x00x"


def test_properties_of_the_message(peer: Peer) -> None:
    """[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]"""
    subscribe(peer, Subscription("a", 1))
    hub = HubProperties(delivery_mode=2, content_type="text/plain", correlation_id=b"\0\1", reply_to="/topic/re.x")
    packet = delivered(peer, with_properties(hub, **{"x-mqtt-payload-format": 1, "k": ["v", "w"], "n": 3}))
    assert packet.properties == Properties(
        payload_format_indicator=1,
        content_type="text/plain",
        correlation_data=b"\0\1",
        response_topic="re/x",
        user_property=(("k", "v"), ("k", "w"), ("n", "3")),
    )


def test_older_clients_get_the_payload_alone() -> None:
    peer = Peer()
    peer.connect()
    peer.subscribe(("a", 1))
    hub = HubProperties(delivery_mode=2, content_type="text/plain", correlation_id=b"\0\1")
    peer.session.deliver("live", delivery(with_properties(hub, k="v")))
    assert peer.received() == [PublishPacket("a", b"hi", 1, 1)]


# Expiry


@pytest.mark.parametrize("level", [Level.V3_1_1, Level.V5])
@pytest.mark.parametrize(("waited", "left"), [(0, 30), (10, 20), (29.9, 1), (30, None), (31, None)])
def test_expiry_is_what_is_left(level: Level, waited: float, left: int | None) -> None:
    """[MQTT-3.3.2-5] [MQTT-3.3.2-6] Older clients are not told, and do not get what has expired."""
    peer = Peer(level=level)
    peer.connect()
    peer.subscribe(("a", 1))
    hub = HubProperties(delivery_mode=2, expiration=30_000, timestamp=int(WALL_CLOCK))
    peer.wall += waited
    held = peer.session.deliver("live", delivery(with_properties(hub)))
    packets = peer.received()
    assert held is bool(packets) is (left is not None), "what is not sent is over"
    if packets and level is Level.V5:
        packet = only(packets)
        assert isinstance(packet, PublishPacket)
        assert packet.properties.message_expiry_interval == left


@pytest.mark.parametrize(
    ("of", "left"),
    [
        (replace(message("a"), properties=HubProperties(expiration=1500, timestamp=1)), 2),
        (replace(message("a"), properties=HubProperties(expiration=30_000), origin=MQTT), 30),
        (replace(message("a"), properties=HubProperties(expiration=2**50), origin=MQTT), 0xFFFFFFFF),
        (replace(message("a"), properties=HubProperties(expiration=30_000, timestamp=2**40), origin=MQTT), 30),
    ],
)
def test_expiry_of_messages_whose_age_is_not_known(peer: Peer, of: Message, left: int) -> None:
    subscribe(peer, Subscription("a", 1))
    assert delivered(peer, of).properties.message_expiry_interval == left


def test_a_message_can_expire_while_it_waits_for_the_window() -> None:
    peer = connected(receive_maximum=1)
    subscribe(peer, Subscription("a", 1))
    hub = HubProperties(delivery_mode=2, expiration=5_000, timestamp=int(WALL_CLOCK))
    first, second, third = delivery(message("a")), delivery(with_properties(hub)), delivery(message("a", b"3"))
    for each in (first, second, third):
        assert peer.session.deliver("live", each)
    peer.received()
    peer.wall += 6
    peer.send(Puback(1))
    assert peer.settled() == [(first, Outcome.ACCEPTED), (second, Outcome.ACCEPTED)]
    assert peer.received() == [PublishPacket("a", b"3", 1, 3)]


# The client's limits


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_too_large_for_the_client_is_over(qos: int) -> None:
    """[MQTT-3.1.2-24] [MQTT-3.1.2-25]"""
    peer = connected(maximum_packet_size=12)
    subscribe(peer, Subscription("a", qos))
    of = message("a", b"12345678", headers={PUBLISH_QOS: 2})
    assert not peer.session.deliver("live", delivery(of))
    assert peer.received() == []
    assert peer.session.unsettled() == []
    assert peer.discarded.count == 1
    fits = delivered(peer, message("a", b"1234", headers={PUBLISH_QOS: 2}))
    assert len(fits.payload) == 4


def test_the_packet_id_of_what_was_too_large_is_free() -> None:
    """[MQTT-2.2.1-4]"""
    peer = connected(Settings(delivery_window=1), maximum_packet_size=12)
    subscribe(peer, Subscription("a", 2))
    for _ in range(3):
        peer.session.deliver("live", delivery(message("a", b"12345678", headers={PUBLISH_QOS: 2})))
    assert delivered(peer, message("a", b"1", headers={PUBLISH_QOS: 2})).qos == 2


def test_the_receive_maximum() -> None:
    """[MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-1] [MQTT-4.9.0-2] [MQTT-4.9.0-3]"""
    peer = connected(receive_maximum=2)
    subscribe(peer, Subscription("a", 1))
    for index in range(4):
        peer.session.deliver("live", delivery(message("a", b"%d" % index)))
    peer.session.deliver("live", delivery(message("a", b"at most once", mode=1)))
    payloads = [packet.payload for packet in peer.received() if isinstance(packet, PublishPacket)]
    assert payloads == [b"0", b"1", b"at most once"]
    peer.feed(b"\xc0\x00")
    assert len(peer.received()) == 1, "PINGRESP does not wait"
    peer.send(Puback(2), Puback(1))
    payloads = [packet.payload for packet in peer.received() if isinstance(packet, PublishPacket)]
    assert payloads == [b"2", b"3"]


def test_the_window_is_asked_of_the_hub() -> None:
    for receive_maximum, window in ((None, 7), (3, 3), (1000, 7)):
        peer = Peer(Settings(delivery_window=7), Level.V5)
        properties = Properties(receive_maximum=receive_maximum)
        peer.connect(Connect(client_id="c", level=Level.V5, properties=properties))
        peer.send(Subscribe(1, (Subscription("a", 1),)))
        _, consume, *_ = peer.execute()
        assert getattr(consume, "prefetch", 0) == window


def test_puback_with_a_failure_ends_the_delivery(peer: Peer) -> None:
    """[MQTT-4.4.0-2]"""
    subscribe(peer, Subscription("a", 1))
    held = delivery(message("a"))
    peer.session.deliver("live", held)
    peer.send(Puback(1, 0x80))
    assert peer.settled() == [(held, Outcome.ACCEPTED)]


# Topic aliases


def test_topic_aliases() -> None:
    """[MQTT-3.3.2-11] [MQTT-3.1.2-26] The first topics get them."""
    peer = connected(topic_alias_maximum=2)
    subscribe(peer, Subscription("#", 0))
    seen = []
    for key in ("a", "b", "a", "c", "b", "c"):
        packet = delivered(peer, message(key))
        seen.append((packet.topic, packet.properties.topic_alias))
    assert seen == [("a", 1), ("b", 2), ("", 1), ("c", None), ("", 2), ("c", None)]


def test_no_topic_aliases_for_who_wants_none(peer: Peer) -> None:
    """[MQTT-3.1.2-27]"""
    subscribe(peer, Subscription("a", 0))
    for _ in range(2):
        assert delivered(peer, message("a")) == PublishPacket("a", b"hi")


def test_our_own_limit_of_topic_aliases() -> None:
    peer = connected(Settings(topic_alias_maximum=1), topic_alias_maximum=100)
    subscribe(peer, Subscription("#", 0))
    assert [delivered(peer, message(key)).properties.topic_alias for key in ("a", "b")] == [1, None]


def test_an_alias_that_was_not_sent_stands_for_nothing() -> None:
    """[MQTT-3.3.2-7]"""
    peer = connected(topic_alias_maximum=5, maximum_packet_size=14)
    subscribe(peer, Subscription("#", 0))
    peer.session.deliver("live", delivery(message("a", b"12345678")))
    assert peer.received() == []
    packet = delivered(peer, message("a", b"1"))
    assert (packet.topic, packet.properties.topic_alias) == ("a", 1)


def test_aliases_of_what_is_sent_later_are_given_then() -> None:
    """A kept session at QoS 2: the packet identifier is kept first, and other messages overtake it meanwhile."""
    connect = Connect(
        client_id="c",
        level=Level.V5,
        properties=Properties(session_expiry_interval=60, topic_alias_maximum=5),
    )
    peer = Peer(level=Level.V5)
    peer.connect(connect)
    subscribe(peer, Subscription("a", 2))
    peer.session.deliver("session", delivery(message("a", b"2", headers={PUBLISH_QOS: 2}), uid="m"))
    peer.session.deliver("session", delivery(message("a", b"1"), uid="n"))
    peer.tick()
    peer.kept_inflight()
    packets = [packet for packet in peer.received() if isinstance(packet, PublishPacket)]
    assert [(packet.payload, packet.topic) for packet in packets] == [(b"1", "a"), (b"2", "")]


# Subscription options


def test_subscription_identifiers(peer: Peer) -> None:
    """[MQTT-3.3.4-3] [MQTT-3.3.4-4]"""
    subscribe(peer, Subscription("a/+", 1), identifier=1)
    subscribe(peer, Subscription("a/#", 0), identifier=268_435_455)
    subscribe(peer, Subscription("a/b", 1))
    assert set(delivered(peer, message("a.b")).properties.subscription_identifier) == {1, 268_435_455}
    assert delivered(peer, message("a")).properties.subscription_identifier == (268_435_455,)


def test_a_subscription_is_replaced_with_its_identifier(peer: Peer) -> None:
    """[MQTT-3.8.4-3]"""
    subscribe(peer, Subscription("a", 1), identifier=1)
    subscribe(peer, Subscription("a", 1), identifier=2)
    assert delivered(peer, message("a")).properties.subscription_identifier == (2,)
    subscribe(peer, Subscription("a", 1))
    assert delivered(peer, message("a")).properties is NO_PROPERTIES


def own(of: Message, client_id: str = "c", protocol: str = "mqtt") -> Message:
    return replace(of, origin=Origin(protocol, client_id))


def test_no_local(peer: Peer) -> None:
    """[MQTT-3.8.3-3]"""
    subscribe(peer, Subscription("a", 1, no_local=True))
    assert not peer.session.deliver("live", delivery(own(message("a"))))
    assert peer.received() == []
    assert delivered(peer, own(message("a"), "d")).topic == "a"
    assert delivered(peer, own(message("a"), "c", "stomp")).topic == "a"


def test_no_local_is_an_option_of_each_filter(peer: Peer) -> None:
    subscribe(peer, Subscription("a/#", 2, no_local=True), identifier=1)
    subscribe(peer, Subscription("a/b", 0), identifier=2)
    mine = delivered(peer, own(message("a.b")))
    assert (mine.qos, mine.properties.subscription_identifier) == (0, (2,))
    other = delivered(peer, message("a.b"))
    assert (other.qos, set(other.properties.subscription_identifier)) == (1, {1, 2})
    assert not peer.session.deliver("live", delivery(own(message("a.c"))))


@pytest.mark.parametrize(
    ("as_published", "headers", "flag"),
    [
        (False, {RETAIN: True}, False),
        (True, {RETAIN: True}, True),
        (True, {}, False),
        (False, {RETAINED: True, RETAIN: True}, True),
        (True, {RETAINED: True, RETAIN: True}, True),
    ],
)
def test_the_retain_flag(peer: Peer, as_published: bool, headers: dict[str, bool], flag: bool) -> None:
    """[MQTT-3.3.1-12] [MQTT-3.3.1-13]; §3.3.1.3 for retained messages"""
    subscribe(peer, Subscription("a", 1, retain_as_published=as_published))
    assert delivered(peer, message("a", headers=headers)).retain is flag


def test_the_retain_flag_before_mqtt_5() -> None:
    """3.1.1 [MQTT-3.3.1-8] [MQTT-3.3.1-9]"""
    peer = Peer()
    peer.connect()
    peer.subscribe(("a", 1))
    assert not delivered(peer, message("a", headers={RETAIN: True})).retain
    assert delivered(peer, message("a", headers={RETAINED: True})).retain


def test_what_is_under_way_at_unsubscribe_is_completed(peer: Peer) -> None:
    """[MQTT-3.10.4-2] [MQTT-3.10.4-3]"""
    subscribe(peer, Subscription("a", 1))
    held = delivery(message("a"))
    peer.session.deliver("live", held)
    peer.send(Unsubscribe(2, ("a",)))
    peer.execute()
    assert not peer.session.deliver("live", delivery(message("a")))
    peer.send(Puback(1))
    assert peer.settled() == [(held, Outcome.ACCEPTED)]
