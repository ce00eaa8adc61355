from __future__ import annotations

import pytest

from gateway.protocols.mqtt.topics import is_topic_filter, is_topic_name, starts_with_wildcard


@pytest.mark.parametrize("name", ["a", "/", "//", "a/b", "/a", "a/", " ", "$SYS/x", "a b/ü", "a" * 65_535, "/" * 199])
def test_names(name: str) -> None:
    assert is_topic_name(name)  # [MQTT-4.7.3-1] one character is enough
    assert is_topic_filter(name)


@pytest.mark.parametrize("name", ["", "+", "#", "a/+", "a/#", "a+b", "/" * 200])
def test_no_names(name: str) -> None:
    assert not is_topic_name(name)


@pytest.mark.parametrize("topic_filter", ["#", "+", "/#", "+/#", "a/#", "a/+/b", "+/+", "/+", "+/", "$SYS/#", "a//#"])
def test_filters(topic_filter: str) -> None:
    assert is_topic_filter(topic_filter)


@pytest.mark.parametrize(
    "topic_filter", ["", "a#", "#/", "#/a", "a/#/b", "##", "a/b#", "a+", "+a", "a/b+/c", "++", "+#", "/" * 200]
)
def test_no_filters(topic_filter: str) -> None:
    assert not is_topic_filter(topic_filter)  # [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-1]


def test_leading_wildcards() -> None:
    assert [starts_with_wildcard(f) for f in ("#", "+/a", "a/#", "$SYS/#", "/+")] == [True, True, False, False, False]
