"""Topics, messages and properties, to the hub and back."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.message import (
    PERSISTENT,
    PUBLISH_QOS,
    RETAIN,
    TRANSIENT,
    Address,
    Headers,
    Message,
    Origin,
    Properties,
)
from gateway.protocols.mqtt.convert import (
    address_of,
    message_of,
    outgoing_topic,
    pattern_of,
    publish_fields,
    seconds_left,
    user_properties_of,
)
from gateway.protocols.mqtt.fields import FieldReader, write_variable_int
from gateway.protocols.mqtt.packets import Publish, Will
from gateway.protocols.mqtt.properties import Place, read_properties
from gateway.protocols.mqtt.properties import Properties as PacketProperties
from gateway.protocols.mqtt.topics import is_topic_name


@pytest.mark.parametrize(
    ("topic", "key"),
    [("a/b", "a.b"), ("a.b/c", "a/b.c"), ("/", "."), ("a", "a"), ("/a/", ".a."), ("*", "*"), ("é", "é")],
)
def test_topics_and_keys(topic: str, key: str) -> None:
    assert address_of(topic) == Address("amq.topic", key)
    out = outgoing_topic(key)
    assert out is not None
    assert out.name == topic
    assert out.field == len(topic.encode()).to_bytes(2, "big") + topic.encode()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(is_topic_name))
def test_a_topic_comes_back_as_it_was(topic: str) -> None:
    out = outgoing_topic(address_of(topic).routing_key)
    assert out is not None
    assert out.name == topic


@pytest.mark.parametrize("key", ["", "+", "a.#", "\0", "\ud800", "é" * 32_768, "." * 200])
def test_keys_without_a_topic(key: str) -> None:
    assert outgoing_topic(key) is None


def test_long_names_are_converted_too() -> None:
    topic = "a/" * 150 + "b"
    assert address_of(topic).routing_key == "a." * 150 + "b"
    out = outgoing_topic("a." * 150 + "b")
    assert out is not None
    assert out.name == topic


@pytest.mark.parametrize(
    ("topic_filter", "pattern"),
    [("#", "#"), ("a/+/b", "a.*.b"), ("+", "*"), ("a.b/#", "a/b.#"), ("a*/+", "a*.*"), ("*", None), ("a/*/+", None)],
)
def test_filters(topic_filter: str, pattern: str | None) -> None:
    assert pattern_of(topic_filter) == pattern


def no_clock() -> float:
    raise AssertionError("what cannot expire has no age")


def test_messages() -> None:
    origin = Origin("mqtt", "c")
    expected = Message(Address("amq.topic", "a.b"), b"x", TRANSIENT, origin=origin)
    assert message_of(Publish("a/b", b"x"), origin, no_clock) == expected
    persistent = Message(Address("amq.topic", "a.b"), b"x", PERSISTENT, origin=origin)
    assert message_of(Publish("a/b", b"x", 1, 7), origin, no_clock) == persistent
    retained = Message(Address("amq.topic", "a.b"), b"x", PERSISTENT, {RETAIN: True}, origin)
    assert message_of(Publish("a/b", b"x", 1, 7, retain=True), origin, no_clock) == retained
    exactly_once = Message(Address("amq.topic", "a.b"), b"x", PERSISTENT, {PUBLISH_QOS: 2}, origin)
    assert message_of(Will(topic="a/b", payload=b"x", qos=2), origin, no_clock) == exactly_once


# MQTT 5


def converted(**said: object) -> Message:
    properties = PacketProperties(**said)  # type: ignore[arg-type]
    return message_of(Publish("a", b"x", 1, 1, properties=properties), Origin("mqtt", "c"), lambda: 1000.4)


def back(of: Message) -> PacketProperties:
    fields = publish_fields(of, seconds_left(of, lambda: 1000.4))
    data = write_variable_int(len(fields)) + fields
    return read_properties(FieldReader(data, 0, len(data)), Place.PUBLISH)


def test_properties_of_a_publish() -> None:
    message = converted(
        payload_format_indicator=1,
        message_expiry_interval=30,
        content_type="text/plain",
        response_topic="re/x.y",
        correlation_data=b"\0\xff",
        user_property=(("a", "1"), ("b", "2")),
    )
    assert message.properties == Properties(
        delivery_mode=2,
        content_type="text/plain",
        reply_to="/topic/re.x%2Fy",
        correlation_id=b"\0\xff",
        expiration=30_000,
        timestamp=1000,
    )
    assert message.headers == {"a": "1", "b": "2", "x-mqtt-payload-format": 1}


def test_a_message_without_expiry_has_no_age() -> None:
    assert converted(content_type="x").properties.timestamp is None


def test_flags_stand_beside_user_properties() -> None:
    properties = PacketProperties(user_property=(("a", "1"),))
    packet = Publish("a", b"x", 2, 1, retain=True, properties=properties)
    headers = message_of(packet, Origin("mqtt"), no_clock).headers
    assert headers == {"a": "1", RETAIN: True, PUBLISH_QOS: 2}


pairs = st.lists(st.tuples(st.sampled_from(["a", "b", "", "x-mqtt-retained", "é"]), st.text("xy€", max_size=3)))


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {"user_property": pairs.map(tuple)},
        optional={
            "payload_format_indicator": st.just(1),
            "message_expiry_interval": st.integers(1, 0xFFFFFFFF),
            "content_type": st.text("ab€", max_size=5),
            "response_topic": st.sampled_from(["a", "a/b.c", "/", "é", "é.é", "100%/x", "%41.x", "a b/c.d"]),
            "correlation_data": st.binary(max_size=5),
        },
    )
)
def test_properties_come_back_unaltered_and_in_order(said: dict[str, object]) -> None:
    """5.0 [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]"""
    assert back(converted(**said)) == PacketProperties(**said)  # type: ignore[arg-type]


def test_repeated_and_mixed_user_properties() -> None:
    assert converted(user_property=(("a", "1"), ("a", "2"))).headers == {"a": ["1", "2"]}
    mixed = converted(user_property=(("a", "1"), ("b", "2"), ("a", "3")))
    assert mixed.headers == {"a": ["1", "3"], "b": "2", "x-mqtt-user-properties": ["a", "1", "b", "2", "a", "3"]}


def test_a_client_cannot_set_the_gateway_s_own_headers() -> None:
    headers = converted(user_property=(("x-mqtt-retained", "1"), ("x-mqtt-user-properties", "x"))).headers
    assert "x-mqtt-retained" not in headers
    assert headers.keys() == {"x-mqtt-user-properties"}


def test_headers_of_other_protocols() -> None:
    headers: Headers = {
        "text": "t",
        "list": ["a", 1, None],
        "true": True,
        "number": 1.5,
        "decimal": Decimal("1.10"),
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "bytes": b"x",
        "table": {"a": "b"},
        "none": None,
        "nul": "a\0",
        "surrogate": "\ud800",
        "long": "x" * 65_536,
        "x-mqtt-anything": "internal",
        "n\0": "x",
    }
    assert user_properties_of(headers) == (
        ("text", "t"),
        ("list", "a"),
        ("list", "1"),
        ("true", "true"),
        ("number", "1.5"),
        ("decimal", "1.10"),
        ("when", "2026-01-02T00:00:00+00:00"),
    )


@pytest.mark.parametrize(
    ("reply_to", "topic"),
    [
        ("/topic/a.b", "a/b"),
        ("/exchange/amq.topic/a.b/c", "a/b.c"),
        ("/topic/a.b%2Fc", "a/b.c"),
        ("/queue/a", None),
        ("amq.gen-x", None),
        ("/topic/", None),
        ("/topic/a.#", None),
        ("/topic/\ud800", None),
        (None, None),
    ],
)
def test_where_an_answer_can_be_published(reply_to: str | None, topic: str | None) -> None:
    of = Message(Address("x", "a"), b"", Properties(reply_to=reply_to))
    assert back(of).response_topic == topic


@pytest.mark.parametrize(
    ("correlation_id", "data"),
    [("é", "é".encode()), (b"\xff", b"\xff"), ("\ud800", b"?"), ("x" * 65_536, None), (None, None)],
)
def test_correlation_ids_of_other_protocols(correlation_id: str | bytes | None, data: bytes | None) -> None:
    of = Message(Address("x", "a"), b"", Properties(correlation_id=correlation_id))
    assert back(of).correlation_data == data


def test_a_content_type_without_a_form() -> None:
    assert back(Message(Address("x", "a"), b"", Properties(content_type="\0"))).content_type is None
