"""The filters of one client, and which QoS they grant to a topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.protocols.mqtt.topics import CACHED_TOPIC_LENGTH, starts_with_wildcard

NOT_SUBSCRIBED: Final = -1

CACHED_GRANTS: Final = 1024
"""Topics whose answer is kept, for a client with more than one filter: at most about 300 KiB."""


class _Node:
    """One level of the filters with wildcards. `qos` is that of the filter that ends here."""

    __slots__ = ("children", "qos")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.qos = NOT_SUBSCRIBED


class Subscriptions:
    """Overlapping filters grant the highest of their QoS, once (3.1.1 §3.3.5).

    A single filter is not matched again: what the hub delivers has matched it, or one that was removed a moment ago,
    and that may still be delivered [MQTT-3.10.4-3]. Several are matched, and the answers kept, because a client
    receives the same few topics all the time.
    """

    __slots__ = ("_cache", "_exact", "_sole_qos", "_sole_starts_with_wildcard", "_trie", "_wildcards")

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        self._wildcards: dict[str, int] = {}
        self._trie: _Node | None = None
        self._cache: dict[str, int] = {}
        self._sole_qos = NOT_SUBSCRIBED
        self._sole_starts_with_wildcard = False

    def __len__(self) -> int:
        return len(self._exact) + len(self._wildcards)

    def __contains__(self, topic_filter: str) -> bool:
        return topic_filter in self._exact or topic_filter in self._wildcards

    def add(self, topic_filter: str, qos: int) -> None:
        """Add a filter, or replace its QoS [MQTT-3.8.4-3]."""
        if "+" in topic_filter or "#" in topic_filter:
            self._wildcards[topic_filter] = qos
            if self._trie is not None:
                _insert(self._trie, topic_filter, qos)
        else:
            self._exact[topic_filter] = qos
        self._changed()

    def remove(self, topic_filter: str) -> None:
        """Remove a filter, if it is there."""
        self._exact.pop(topic_filter, None)
        if self._wildcards.pop(topic_filter, None) is not None:
            self._trie = None  # made anew when it is needed: emptied nodes do not pile up
        self._changed()

    def _changed(self) -> None:
        self._cache.clear()
        self._sole_qos = NOT_SUBSCRIBED
        if len(self) == 1:
            ((topic_filter, self._sole_qos),) = (*self._exact.items(), *self._wildcards.items())
            self._sole_starts_with_wildcard = starts_with_wildcard(topic_filter)

    def granted_qos(self, topic: str) -> int:
        """The QoS at which a message of this topic goes to the client, or `NOT_SUBSCRIBED`."""
        if self._sole_qos >= 0:
            if self._sole_starts_with_wildcard and topic[0] == "$":  # [MQTT-4.7.2-1]
                return NOT_SUBSCRIBED
            return self._sole_qos
        qos = self._cache.get(topic)
        return self._match(topic) if qos is None else qos

    def _match(self, topic: str) -> int:
        qos = self._exact.get(topic, NOT_SUBSCRIBED)
        if self._wildcards:
            if self._trie is None:
                self._trie = _Node()
                for topic_filter, granted in self._wildcards.items():
                    _insert(self._trie, topic_filter, granted)
            qos = max(qos, _highest(self._trie, topic.split("/")))
        if len(topic) <= CACHED_TOPIC_LENGTH:
            if len(self._cache) >= CACHED_GRANTS:
                self._cache.clear()
            self._cache[topic] = qos
        return qos


def _insert(node: _Node, topic_filter: str, qos: int) -> None:
    for level in topic_filter.split("/"):
        child = node.children.get(level)
        if child is None:
            child = node.children[level] = _Node()
        node = child
    node.qos = qos


def _highest(root: _Node, levels: Sequence[str]) -> int:
    """Go down the trie level by level, along all filters that still match."""
    best = NOT_SUBSCRIBED
    nodes = [root]
    wildcards = levels[0][:1] != "$"  # [MQTT-4.7.2-1]
    for level in levels:
        following = []
        for node in nodes:
            children = node.children
            if wildcards:
                best = max(best, _qos_at(children.get("#")))
                if (child := children.get("+")) is not None:
                    following.append(child)
            if (child := children.get(level)) is not None:
                following.append(child)
        nodes = following
        wildcards = True
    for node in nodes:
        best = max(best, node.qos, _qos_at(node.children.get("#")))  # `a/#` matches `a` too [MQTT-4.7.1-2]
    return best


def _qos_at(node: _Node | None) -> int:
    return NOT_SUBSCRIBED if node is None else node.qos
