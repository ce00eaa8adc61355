"""The filters of one client, and what they grant to a topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.protocols.mqtt.fields import write_variable_int
from gateway.protocols.mqtt.topics import CACHED_TOPIC_LENGTH, starts_with_wildcard

CACHED_GRANTS: Final = 1024
"""Topics whose answer is kept, for a client with more than one filter: at most about 300 KiB."""

SUBSCRIPTION_IDENTIFIER: Final = b"\x0b"
"""The identifier of the property of this name (5.0 table 2-4)."""


class Filter:
    """One filter and its options. `identifier` is 0 for none; the last three exist in 5.0 only."""

    __slots__ = ("identifier", "no_local", "qos", "retain_as_published", "topic_filter")

    def __init__(
        self,
        topic_filter: str,
        qos: int,
        no_local: bool = False,
        retain_as_published: bool = False,
        identifier: int = 0,
    ) -> None:
        self.topic_filter = topic_filter
        self.qos = qos
        self.no_local = no_local
        self.retain_as_published = retain_as_published
        self.identifier = identifier


class Grant:
    """What all filters that match a topic say together.

    `identifiers` are their subscription identifiers, as properties of a PUBLISH. `own` is what is left for a message
    of the client itself: the same when no filter has No Local, None when all have it.
    """

    __slots__ = ("identifiers", "own", "qos", "retain_as_published")

    def __init__(self, qos: int, *, retain_as_published: bool = False, identifiers: bytes = b"") -> None:
        self.qos = qos
        self.retain_as_published = retain_as_published
        self.identifiers = identifiers
        self.own: Grant | None = self


_PLAIN: Final = (Grant(0), Grant(1), Grant(2))
"""The grants of filters without options, by QoS: all there are before 5.0."""


def grant_of(filters: Sequence[Filter]) -> Grant | None:
    """What filters that match the same topic grant: the highest of their QoS [MQTT-3.3.4-2], and all their identifiers
    [MQTT-3.3.4-4]. None without a filter.
    """
    if not filters:
        return None
    qos = max(each.qos for each in filters)
    if not any(each.identifier or each.no_local or each.retain_as_published for each in filters):
        return _PLAIN[qos]
    grant = Grant(
        qos,
        retain_as_published=any(each.retain_as_published for each in filters),
        identifiers=b"".join(
            SUBSCRIPTION_IDENTIFIER + write_variable_int(each.identifier) for each in filters if each.identifier
        ),
    )
    if any(each.no_local for each in filters):
        grant.own = grant_of([each for each in filters if not each.no_local])  # [MQTT-3.8.3-3]
    return grant


class _Node:
    """One level of the filters with wildcards. `filter` is the one that ends here."""

    __slots__ = ("children", "filter")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.filter: Filter | None = None


class Subscriptions:
    """What a client is subscribed to, but for shared subscriptions.

    A single filter is not matched again: what the hub delivers has matched it, or one that was removed a moment ago,
    and that may still be delivered [MQTT-3.10.4-3]. Several are matched, and the answers kept, because a client
    receives the same few topics all the time.
    """

    __slots__ = ("_cache", "_exact", "_sole", "_sole_starts_with_wildcard", "_trie", "_wildcards")

    def __init__(self) -> None:
        self._exact: dict[str, Filter] = {}
        self._wildcards: dict[str, Filter] = {}
        self._trie: _Node | None = None
        self._cache: dict[str, Grant | None] = {}
        self._sole: Grant | None = None
        self._sole_starts_with_wildcard = False

    def __len__(self) -> int:
        return len(self._exact) + len(self._wildcards)

    def __iter__(self) -> Iterator[Filter]:
        yield from self._exact.values()
        yield from self._wildcards.values()

    def get(self, topic_filter: str) -> Filter | None:
        """The filter as it was added, if it is there."""
        return self._exact.get(topic_filter) or self._wildcards.get(topic_filter)

    def add(self, added: Filter) -> None:
        """Add a filter, or replace its options [MQTT-3.8.4-3]."""
        topic_filter = added.topic_filter
        if "+" in topic_filter or "#" in topic_filter:
            self._wildcards[topic_filter] = added
            if self._trie is not None:
                _insert(self._trie, added)
        else:
            self._exact[topic_filter] = added
        self._changed()

    def remove(self, topic_filter: str) -> None:
        """Remove a filter, if it is there."""
        self._exact.pop(topic_filter, None)
        if self._wildcards.pop(topic_filter, None) is not None:
            self._trie = None  # made anew when it is needed: emptied nodes do not pile up
        self._changed()

    def _changed(self) -> None:
        self._cache.clear()
        self._sole = None
        if len(self) == 1:
            (sole,) = self
            self._sole = grant_of((sole,))
            self._sole_starts_with_wildcard = starts_with_wildcard(sole.topic_filter)

    def granted(self, topic: str) -> Grant | None:
        """How a message of this topic goes to the client; None when it does not."""
        if self._sole is not None:
            if self._sole_starts_with_wildcard and topic[0] == "$":  # [MQTT-4.7.2-1]
                return None
            return self._sole
        try:
            return self._cache[topic]
        except KeyError:
            return self._match(topic)

    def _match(self, topic: str) -> Grant | None:
        exact = self._exact.get(topic)
        matching = [exact] if exact is not None else []
        if self._wildcards:
            if self._trie is None:
                self._trie = _Node()
                for each in self._wildcards.values():
                    _insert(self._trie, each)
            matching += _matching(self._trie, topic.split("/"))
        grant = grant_of(matching)
        if len(topic) <= CACHED_TOPIC_LENGTH:
            if len(self._cache) >= CACHED_GRANTS:
                self._cache.clear()
            self._cache[topic] = grant
        return grant


def _insert(node: _Node, added: Filter) -> None:
    for level in added.topic_filter.split("/"):
        child = node.children.get(level)
        if child is None:
            child = node.children[level] = _Node()
        node = child
    node.filter = added


def _matching(root: _Node, levels: Sequence[str]) -> list[Filter]:
    """Go down the trie level by level, along all filters that still match."""
    found: list[Filter | None] = []
    nodes = [root]
    wildcards = levels[0][:1] != "$"  # [MQTT-4.7.2-1]
    for level in levels:
        following = []
        for node in nodes:
            children = node.children
            if wildcards:
                found.append(_filter_at(children.get("#")))
                if (child := children.get("+")) is not None:
                    following.append(child)
            if (child := children.get(level)) is not None:
                following.append(child)
        nodes = following
        wildcards = True
    for node in nodes:
        found += node.filter, _filter_at(node.children.get("#"))  # `a/#` matches `a` too [MQTT-4.7.1-2]
    return [each for each in found if each is not None]


def _filter_at(node: _Node | None) -> Filter | None:
    return None if node is None else node.filter
