from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.message import PERSISTENT, PUBLISH_QOS, RETAIN, TRANSIENT, Address, Message, Origin
from gateway.protocols.mqtt.convert import address_of, message_of, outgoing_topic, pattern_of
from gateway.protocols.mqtt.packets import Publish, Will
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
