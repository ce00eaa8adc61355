"""Patterns of words, and which of them match a routing key. Pure.

A pattern and a routing key are words separated by `.`; in a pattern `*` is one word and `#` any number of words, none
included (AMQP 0-9-1 §3.1.3.3). Words may be empty: `a..b` has three.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from gateway.core.errors import Refused

T = TypeVar("T")

MAX_WORDS = 256
"""Of a pattern or a routing key. AMQP's short strings hold no more (255 bytes); Mosquitto's limit is 200 levels.
Matching costs at worst the product of both, so neither may be long."""

_SWAP = str.maketrans("./", "/.")


def swap_separators(name: str) -> str:
    """A routing key as an MQTT topic, or the other way round: `.` and `/` change places, as in RabbitMQ."""
    return name.translate(_SWAP)


def split_words(text: str) -> list[str]:
    """The words of a pattern or a routing key. The empty key has none, so `#` matches it and `*` does not."""
    return text.split(".") if text else []


class _Node(Generic[T]):
    """One word of one or more patterns. Tables are made when they are needed: most nodes have few entries or none."""

    __slots__ = ("any_words", "children", "one_word", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] | None = None
        self.one_word: _Node[T] | None = None
        self.any_words: _Node[T] | None = None
        self.values: dict[T, None] | None = None

    @property
    def empty(self) -> bool:
        return not (self.children or self.values or self.one_word or self.any_words)

    def child(self, word: str) -> _Node[T] | None:
        if word == "*":
            return self.one_word
        if word == "#":
            return self.any_words
        return self.children.get(word) if self.children else None

    def add_child(self, word: str) -> _Node[T]:
        node: _Node[T] = _Node()
        if word == "*":
            self.one_word = node
        elif word == "#":
            self.any_words = node
        elif self.children is None:
            self.children = {word: node}
        else:
            self.children[word] = node
        return node

    def drop_child(self, word: str) -> None:
        if word == "*":
            self.one_word = None
        elif word == "#":
            self.any_words = None
        elif self.children is not None:
            del self.children[word]


class TopicTrie(Generic[T]):
    """Values by pattern, found by routing key. Values must be hashable.

    With `shield_dollar`, a pattern that starts with a wildcard does not match a key that starts with `$`: the
    server's own topics are not part of "everything" [MQTT-4.7.2-1].
    """

    __slots__ = ("_root", "_shield_dollar")

    def __init__(self, *, shield_dollar: bool = False) -> None:
        self._root: _Node[T] = _Node()
        self._shield_dollar = shield_dollar

    def insert(self, pattern: str, value: T) -> bool:
        """Whether it was not there before. Raises `Refused` for a pattern of more than `MAX_WORDS` words."""
        words = split_words(pattern)
        check_words(words)
        node = self._root
        for word in words:
            node = node.child(word) or node.add_child(word)
        if node.values is None:
            node.values = {}
        if value in node.values:
            return False
        node.values[value] = None
        return True

    def remove(self, pattern: str, value: T) -> bool:
        """Whether it was there. Nodes that nothing needs any more go with it."""
        path: list[tuple[_Node[T], str]] = []
        node = self._root
        for word in split_words(pattern):
            child = node.child(word)
            if child is None:
                return False
            path.append((node, word))
            node = child
        if node.values is None or value not in node.values:
            return False
        del node.values[value]
        while path and node.empty:
            node, word = path.pop()
            node.drop_child(word)
        return True

    def match(self, key: str) -> list[T]:
        """The values of all patterns that match, one for each pattern; in the same order for equal histories.

        All patterns advance together, one word at a time, and a `#` that was reached stays reached: so the cost is at
        worst words times nodes, whatever the patterns are.
        """
        root = self._root
        shielded = self._shield_dollar and key.startswith("$")
        live = [root]
        hashes: dict[_Node[T], None] = {}
        if not shielded:
            _reach_hashes(live, hashes)
        for word in split_words(key):
            reached: list[_Node[T]] = []
            for nodes in (live, hashes):
                for node in nodes:
                    if node.children is not None and (child := node.children.get(word)) is not None:
                        reached.append(child)
                    if node.one_word is not None and not (shielded and node is root):
                        reached.append(node.one_word)
            live = reached
            _reach_hashes(live, hashes)
            if not (live or hashes):
                break
        return [value for nodes in (live, hashes) for node in nodes if node.values for value in node.values]

    def __bool__(self) -> bool:
        return not self._root.empty


def check_words(words: list[str]) -> None:
    """Raises `Refused` for more than `MAX_WORDS`."""
    if len(words) > MAX_WORDS:
        raise Refused(f"{len(words)} words are more than the limit of {MAX_WORDS}")


def _reach_hashes(live: list[_Node[T]], hashes: dict[_Node[T], None]) -> None:
    """Add the `#` nodes that follow the live nodes, also one after another (`#.#`), unless they are there already."""
    for node in live:
        follower = node.any_words
        while follower is not None and follower not in hashes:
            hashes[follower] = None
            follower = follower.any_words
