"""Topic names and topic filters (3.1.1 §4.7)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.fields import read_text

MAX_LEVELS: Final = 200
"""Levels of a name or filter: mosquitto's limit (TOPIC_HIERARCHY_LIMIT); what walks a trie stays shallow."""

CACHED_TOPICS: Final = 4096
"""Names kept in each cache of this process; with `CACHED_TOPIC_LENGTH` a cache stays under about 2 MiB."""

CACHED_TOPIC_LENGTH: Final = 200
"""Longer names are worked out each time: 4,096 names of 64 KiB would be 256 MiB."""

SHARED_PREFIX: Final = "$share/"
"""Marks a shared subscription (5.0 §4.8.2)."""


def is_topic_name(topic: str) -> bool:
    """Whether a message can be published to this name. Its length in bytes is the caller's concern."""
    return (
        topic != ""  # [MQTT-4.7.3-1]
        and "+" not in topic  # [MQTT-3.3.2-2]
        and "#" not in topic
        and topic.count("/") < MAX_LEVELS
    )


def is_topic_filter(topic_filter: str) -> bool:
    """Whether this is a well-formed filter of the protocol."""
    if topic_filter.startswith(SHARED_PREFIX):
        group, _, rest = topic_filter.removeprefix(SHARED_PREFIX).partition("/")
        # A group has a name without wildcards, and a filter follows it [MQTT-4.8.2-1] [MQTT-4.8.2-2].
        return group != "" and "+" not in group and "#" not in group and _is_unshared_filter(rest)
    return _is_unshared_filter(topic_filter)


def shared_filter(topic_filter: str) -> tuple[str, str]:
    """The group and the filter of a shared subscription, or no group and the filter as it is."""
    if not topic_filter.startswith(SHARED_PREFIX):
        return "", topic_filter
    group, _, rest = topic_filter.removeprefix(SHARED_PREFIX).partition("/")
    return group, rest


def _is_unshared_filter(topic_filter: str) -> bool:
    if topic_filter == "" or topic_filter.count("/") >= MAX_LEVELS:
        return False
    if "#" not in topic_filter and "+" not in topic_filter:
        return True
    *parents, last = topic_filter.split("/")
    if "#" in last and last != "#":  # `#` stands alone, and last [MQTT-4.7.1-2]
        return False
    if any("#" in level for level in parents):
        return False
    return all("+" not in level or level == "+" for level in (*parents, last))  # [MQTT-4.7.1-3]


def starts_with_wildcard(topic_filter: str) -> bool:
    """Such filters do not match names that begin with `$` [MQTT-4.7.2-1]."""
    return topic_filter[:1] in {"#", "+"}


def check_topic_name(topic: str) -> str:
    """The same name. Raises `PacketError`."""
    if not is_topic_name(topic):
        shown = topic if len(topic) <= CACHED_TOPIC_LENGTH else f"{topic[:CACHED_TOPIC_LENGTH]}…"
        raise PacketError(ReasonCode.TOPIC_NAME_INVALID, f"{shown!r} is not a topic name")
    return topic


def read_topic_name(raw: bytes) -> str:
    """Decode and check a topic name. Raises `PacketError`."""
    return check_topic_name(read_text(raw))


read_cached_topic_name = lru_cache(CACHED_TOPICS)(read_topic_name)
"""The same for names of at most `CACHED_TOPIC_LENGTH` bytes: clients publish to the same few topics all the time."""
