"""Whatever can be written is read back as it was, in any pieces, among any others."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.protocols.mqtt.codec import Decoder, encode
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
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Place, Properties

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
topics = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=20)
blobs = st.binary(max_size=40)
ids = st.integers(1, 65_535)
uint16 = st.integers(0, 65_535)
uint32 = st.integers(0, 2**32 - 1)
flags = st.integers(0, 1)
qos = st.integers(0, 2)
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
identifiers = st.integers(1, 268_435_455)

# Which property may stand where: 5.0 table 2-4, written out once more by hand.
MESSAGE = {
    "payload_format_indicator": flags,
    "message_expiry_interval": uint32,
    "content_type": texts,
    "response_topic": topics,
    "correlation_data": blobs,
}
AUTHENTICATION = {"authentication_method": texts}
REASON = {"reason_string": texts}
PROPERTIES = {
    Place.CONNECT: {
        "session_expiry_interval": uint32,
        "receive_maximum": ids,
        "maximum_packet_size": st.integers(1, 2**32 - 1),
        "topic_alias_maximum": uint16,
        "request_response_information": flags,
        "request_problem_information": flags,
        **AUTHENTICATION,
    },
    Place.WILL: {"will_delay_interval": uint32, **MESSAGE},
    Place.CONNACK: {
        "session_expiry_interval": uint32,
        "receive_maximum": ids,
        "maximum_qos": flags,
        "retain_available": flags,
        "maximum_packet_size": st.integers(1, 2**32 - 1),
        "assigned_client_identifier": texts,
        "topic_alias_maximum": uint16,
        "wildcard_subscription_available": flags,
        "subscription_identifier_available": flags,
        "shared_subscription_available": flags,
        "server_keep_alive": uint16,
        "response_information": texts,
        "server_reference": texts,
        **AUTHENTICATION,
        **REASON,
    },
    Place.PUBLISH: {
        "topic_alias": ids,
        "subscription_identifier": st.lists(identifiers, max_size=3).map(tuple),
        **MESSAGE,
    },
    Place.PUBACK: REASON,
    Place.PUBREC: REASON,
    Place.PUBREL: REASON,
    Place.PUBCOMP: REASON,
    Place.SUBSCRIBE: {"subscription_identifier": identifiers.map(lambda value: (value,))},
    Place.SUBACK: REASON,
    Place.UNSUBSCRIBE: {},
    Place.UNSUBACK: REASON,
    Place.DISCONNECT: {"session_expiry_interval": uint32, "server_reference": texts, **REASON},
    Place.AUTH: {**AUTHENTICATION, **REASON},
}


def properties(place: Place, level: Level) -> st.SearchStrategy[Properties]:
    if level < Level.V5:
        return st.just(NO_PROPERTIES)
    fields = {**PROPERTIES[place], "user_property": pairs}
    if "authentication_method" not in fields:
        return st.fixed_dictionaries({}, optional=fields).map(lambda values: Properties(**values))
    method = {"authentication_method": fields.pop("authentication_method"), "authentication_data": blobs}
    return st.builds(
        lambda values, more: Properties(**values, **more),
        st.fixed_dictionaries({}, optional=fields),
        st.just({}) | st.fixed_dictionaries(method),
    )


def wills(level: Level) -> st.SearchStrategy[Will]:
    return st.builds(
        Will, topic=topics, payload=blobs, qos=qos, retain=st.booleans(), properties=properties(Place.WILL, level)
    )


@st.composite
def connects(draw: st.DrawFn, level: Level) -> Connect:
    username = draw(st.none() | texts)
    return Connect(
        client_id=draw(texts),
        level=level,
        clean_start=draw(st.booleans()),
        keep_alive=draw(uint16),
        will=draw(st.none() | wills(level)),
        username=username,
        password=draw(st.none() | blobs) if username is not None or level == Level.V5 else None,
        properties=draw(properties(Place.CONNECT, level)),
    )


@st.composite
def publishes(draw: st.DrawFn, level: Level) -> Publish:
    level_qos = draw(qos)
    return Publish(
        draw(topics),
        draw(blobs | st.binary(min_size=120, max_size=140)),
        level_qos,
        draw(ids) if level_qos else 0,
        draw(st.booleans()),
        draw(st.booleans()) if level_qos else False,
        draw(properties(Place.PUBLISH, level)),
    )


def reasons(level: Level, *codes: int) -> st.SearchStrategy[int]:
    return st.sampled_from(codes) if level == Level.V5 else st.just(0)


def subscriptions(level: Level) -> st.SearchStrategy[Subscription]:
    if level < Level.V5:
        return st.builds(Subscription, texts, qos)
    local = texts.filter(lambda text: not text.startswith("$share/"))
    return st.builds(Subscription, local, qos, st.booleans(), st.booleans(), qos)


def packets(level: Level) -> st.SearchStrategy[Packet]:
    kinds: list[st.SearchStrategy[Packet]] = [
        connects(level),
        st.builds(
            Connack,
            st.booleans() if level > Level.V3_1 else st.just(False),
            st.just(0),
            properties(Place.CONNACK, level),
        ),
        st.builds(Connack, st.just(False), reasons(level, 0x80, 0x84, 0x9F), properties(Place.CONNACK, level)),
        publishes(level),
        st.builds(Puback, ids, reasons(level, 0, 0x10, 0x99), properties(Place.PUBACK, level)),
        st.builds(Pubrec, ids, reasons(level, 0, 0x10, 0x99), properties(Place.PUBREC, level)),
        st.builds(Pubrel, ids, reasons(level, 0, 0x92), properties(Place.PUBREL, level)),
        st.builds(Pubcomp, ids, reasons(level, 0, 0x92), properties(Place.PUBCOMP, level)),
        st.builds(
            Subscribe,
            ids,
            st.lists(subscriptions(level), min_size=1, max_size=4).map(tuple),
            properties(Place.SUBSCRIBE, level),
        ),
        st.builds(Suback, ids, st.lists(qos, min_size=1).map(tuple), properties(Place.SUBACK, level)),
        st.builds(Unsubscribe, ids, st.lists(texts, min_size=1).map(tuple), properties(Place.UNSUBSCRIBE, level)),
        st.builds(
            Unsuback,
            ids,
            st.lists(st.sampled_from([0, 0x11, 0x80]), min_size=1).map(tuple) if level == Level.V5 else st.just(()),
            properties(Place.UNSUBACK, level),
        ),
        st.just(Pingreq()),
        st.just(Pingresp()),
        st.builds(Disconnect, reasons(level, 0, 0x04, 0xA2), properties(Place.DISCONNECT, level)),
    ]
    if level == Level.V5:
        kinds.append(st.builds(Auth, st.sampled_from([0, 0x18, 0x19]), properties(Place.AUTH, level)))
    return st.one_of(kinds)


streams = st.sampled_from(Level).flatmap(lambda level: st.tuples(st.just(level), st.lists(packets(level), max_size=8)))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=streams, cuts=st.lists(st.integers(0, 2000), max_size=10))
def test_what_was_written_is_read(stream: tuple[Level, list[Packet]], cuts: list[int]) -> None:
    level, written = stream
    wire = b"".join(encode(packet, level) for packet in written)
    decoder = Decoder(1 << 20, level)
    read = []
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    for start, end in itertools.pairwise(edges):
        decoder.feed(wire[start:end])
        while (packet := decoder.next_packet()) is not None:
            read.append(packet)
    assert read == written


def test_every_property_is_covered() -> None:
    names = {"user_property", "authentication_data", *(name for fields in PROPERTIES.values() for name in fields)}
    assert names == set(Properties.__slots__)
