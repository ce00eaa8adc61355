"""Which filters match, and what they grant, against a matcher that follows the specification word by word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.mqtt.subscriptions import CACHED_GRANTS, Filter, Subscriptions
from gateway.protocols.mqtt.topics import is_topic_filter

NOT_SUBSCRIBED = -1


def granted_qos(subscriptions: Subscriptions, topic: str) -> int:
    grant = subscriptions.granted(topic)
    return NOT_SUBSCRIBED if grant is None else grant.qos


def matches(topic_filter: str, topic: str) -> bool:
    if topic.startswith("$") and topic_filter.startswith(("+", "#")):
        return False  # [MQTT-4.7.2-1]
    levels = topic.split("/")
    for index, level in enumerate(topic_filter.split("/")):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(topic_filter.split("/")) == len(levels)


def oracle(filters: dict[str, int], topic: str) -> int:
    """`#` also stands for its parent level: `a/#` matches `a`."""
    both = [(f, qos) for f, qos in filters.items() if f != "#" and f.endswith("/#")]
    granted = [qos for f, qos in filters.items() if matches(f, topic)]
    granted += [qos for f, qos in both if matches(f[:-2], topic)]
    return max(granted, default=NOT_SUBSCRIBED)


def table(*filters: str) -> Subscriptions:
    subscriptions = Subscriptions()
    subscriptions.add(Filter("never/matched", 0))  # so that no filter is the only one
    for topic_filter in filters:
        subscriptions.add(Filter(topic_filter, 1))
    return subscriptions


@pytest.mark.parametrize(
    ("topic_filter", "yes", "no"),
    [
        # The examples of 3.1.1 §4.7.1 and §4.7.2.
        (
            "sport/tennis/player1/#",
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"],
            ["sport/tennis", "sport/tennis/player2"],
        ),
        ("sport/#", ["sport", "sport/", "sport/a/b"], ["sports", "/sport"]),
        ("#", ["a", "/", "a/b/c"], ["$SYS", "$SYS/a"]),
        ("sport/tennis/+", ["sport/tennis/player1"], ["sport/tennis/player1/ranking", "sport/tennis"]),
        ("sport/+", ["sport/"], ["sport"]),
        ("+/+", ["/finance"], ["finance"]),
        ("/+", ["/finance"], ["/a/b"]),
        ("+", ["finance"], ["/finance", "$SYS"]),
        ("+/tennis/#", ["a/tennis", "/tennis/x"], ["$a/tennis"]),
        ("+/monitor/Clients", ["a/monitor/Clients"], ["$SYS/monitor/Clients"]),
        ("$SYS/#", ["$SYS", "$SYS/monitor/Clients"], ["SYS"]),
        ("$SYS/monitor/+", ["$SYS/monitor/Clients"], ["$SYS/monitor"]),
        ("ACCOUNTS", ["ACCOUNTS"], ["Accounts"]),
        ("a/+/$x", ["a/$b/$x"], ["a/b/x"]),
    ],
)
def test_examples(topic_filter: str, yes: list[str], no: list[str]) -> None:
    subscriptions = table(topic_filter)
    assert [topic for topic in yes if granted_qos(subscriptions, topic) != 1] == []
    assert [topic for topic in no if granted_qos(subscriptions, topic) != NOT_SUBSCRIBED] == []


levels = st.sampled_from(["a", "b", "", "$x"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.lists(st.sampled_from(["a", "b", "", "$x", "+", "#"]), min_size=1, max_size=4)
    .map("/".join)
    .filter(is_topic_filter)
)


@settings(deadline=None)
@given(
    changes=st.lists(st.tuples(st.booleans(), filters, st.integers(0, 2)), min_size=1, max_size=12),
    published=st.lists(topics, min_size=1, max_size=6),
)
def test_grants(changes: list[tuple[bool, str, int]], published: list[str]) -> None:
    subscriptions = Subscriptions()
    model: dict[str, int] = {}
    for added, topic_filter, qos in changes:
        if added:
            subscriptions.add(Filter(topic_filter, qos))
            model[topic_filter] = qos
        else:
            subscriptions.remove(topic_filter)
            model.pop(topic_filter, None)
        assert len(subscriptions) == len(model)
        assert (subscriptions.get(topic_filter) is not None) is added
        for topic in published * 2:
            expected = oracle(model, topic)
            if len(model) != 1 or expected != NOT_SUBSCRIBED:  # the only filter is not matched again
                assert granted_qos(subscriptions, topic) == expected


def test_kept_answers_are_bounded() -> None:
    subscriptions = table("a/+")
    for index in range(3 * CACHED_GRANTS):
        assert granted_qos(subscriptions, f"a/{index}") == 1
    assert len(subscriptions._cache) <= CACHED_GRANTS
    granted_qos(subscriptions, "a/" + "x" * 60_000)
    assert not any(len(topic) > 1000 for topic in subscriptions._cache)


def test_the_deepest_topic() -> None:
    assert granted_qos(table("+/" * 199 + "+"), "a/" * 199 + "a") == 1
