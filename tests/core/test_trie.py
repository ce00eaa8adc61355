"""The topic trie against a plain definition of matching."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.errors import Refused
from gateway.core.trie import MAX_WORDS, TopicTrie, swap_separators


def matches(pattern: str, key: str) -> bool:
    """What a pattern means, said with a regular expression over `word.`: every word closed by its dot."""
    words = pattern.split(".") if pattern else []
    expression = "".join({"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}.get(word, re.escape(word) + r"\.") for word in words)
    return re.fullmatch(expression, f"{key}." if key else "") is not None


def trie_matches(pattern: str, key: str, *, shield_dollar: bool = False) -> bool:
    trie: TopicTrie[str] = TopicTrie(shield_dollar=shield_dollar)
    assert trie.insert(pattern, "value")
    found = trie.match(key)
    assert found in ([], ["value"])
    return bool(found)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.b", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*", "a.", True),
        ("*.b", "a.b", True),
        ("a.#", "a", True),
        ("a.#", "a.b", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("#.c", "c.d", False),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("a.#.c", "a.b", False),
        ("#.a.#", "b.b", False),
        ("#.a.#", "b.a.b.a", True),
        ("#.#", "", True),
        ("#.*", "a", True),
        ("#.*", "", False),
        ("*.#.*", "a", False),
        ("*.#.*", "a.b", True),
        ("#", "", True),
        ("#", "a", True),
        ("*", "", False),
        ("", "", True),
        ("", "a", False),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        ("..", "..", True),
        ("*.*", ".", True),
        ("a", "*", False),
        ("*", "*", True),
        ("*", "#", True),
        ("#", "#", True),
        ("ü.*", "ü.x", True),
        ("a.b#", "a.b#", True),
        ("a.b*", "a.bc", False),
    ],
)
def test_words(pattern: str, key: str, expected: bool) -> None:
    assert matches(pattern, key) is expected
    assert trie_matches(pattern, key) is expected


WORDS = st.sampled_from(["a", "b", "*", "#", "", "$s"])
PATTERNS = st.lists(WORDS, max_size=6).map(".".join)
KEYS = st.lists(st.sampled_from(["a", "b", "c", "", "$s"]), max_size=6).map(".".join)


@given(st.lists(PATTERNS, max_size=12), st.lists(KEYS, max_size=6))
@settings(max_examples=300)
def test_all_matching_patterns_are_found_and_no_others(patterns: list[str], keys: list[str]) -> None:
    trie: TopicTrie[str] = TopicTrie()
    for pattern in patterns:
        trie.insert(pattern, pattern)
    for key in keys:
        assert sorted(trie.match(key)) == sorted(pattern for pattern in set(patterns) if matches(pattern, key))


@given(PATTERNS, KEYS)
def test_a_shielded_trie_differs_only_for_leading_wildcards_on_dollar_keys(pattern: str, key: str) -> None:
    """[MQTT-4.7.2-1]."""
    hidden = key.startswith("$") and pattern.split(".")[0] in ("*", "#")
    assert trie_matches(pattern, key, shield_dollar=True) is (matches(pattern, key) and not hidden)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("#", False), ("*.monitor.x", False), ("$SYS.#", True), ("$SYS.monitor.*", True), ("#.x", False)],
)
def test_dollar_topics_hide_from_leading_wildcards(pattern: str, expected: bool) -> None:
    assert trie_matches(pattern, "$SYS.monitor.x", shield_dollar=True) is expected


def test_one_pattern_holds_many_values_and_each_once() -> None:
    trie: TopicTrie[int] = TopicTrie()
    assert [trie.insert("a.#", value) for value in (3, 1, 3)] == [True, True, False]
    assert trie.match("a.b") == [3, 1]
    trie.insert("a.b", 3)
    assert sorted(trie.match("a.b")) == [1, 3, 3]


def test_removing_what_is_not_there() -> None:
    trie: TopicTrie[int] = TopicTrie()
    trie.insert("a.*.c", 1)
    assert not trie.remove("a.*.c", 2)
    assert not trie.remove("a.*", 1)
    assert not trie.remove("a.*.c.d", 1)
    assert trie.match("a.b.c") == [1]


class TrieMachine(RuleBasedStateMachine):
    """Insertions and removals in any order leave what a set of pairs would hold, and nothing when it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.trie: TopicTrie[int] = TopicTrie()
        self.model: set[tuple[str, int]] = set()

    @rule(pattern=PATTERNS, value=st.integers(0, 3))
    def insert(self, pattern: str, value: int) -> None:
        assert self.trie.insert(pattern, value) is ((pattern, value) not in self.model)
        self.model.add((pattern, value))

    @rule(pattern=PATTERNS, value=st.integers(0, 3))
    def remove(self, pattern: str, value: int) -> None:
        assert self.trie.remove(pattern, value) is ((pattern, value) in self.model)
        self.model.discard((pattern, value))

    @rule()
    def remove_all(self) -> None:
        for pattern, value in self.model:
            assert self.trie.remove(pattern, value)
        self.model.clear()

    @rule(key=KEYS)
    def match(self, key: str) -> None:
        assert sorted(self.trie.match(key)) == sorted(value for pattern, value in self.model if matches(pattern, key))

    @invariant()
    def pruned(self) -> None:
        assert bool(self.trie) is bool(self.model)


TestTrieMachine = TrieMachine.TestCase


@pytest.mark.parametrize("unit", ["#", "#.*", "#.a", "*.#"])
def test_a_pattern_of_many_hashes_costs_words_times_nodes(unit: str) -> None:
    pattern = ".".join([unit] * (MAX_WORDS // len(unit.split("."))))
    trie: TopicTrie[str] = TopicTrie()
    trie.insert(pattern, "value")
    # A search that tries each split on its own would need more steps than there are atoms: it would never end.
    assert trie.match(".".join(["a"] * MAX_WORDS)) == ["value"]


def test_a_thousand_levels() -> None:
    deep = ".".join(["#"] * 1000)
    trie: TopicTrie[str] = TopicTrie()
    with pytest.raises(Refused, match=r"^1000 words are more than the limit of 256$"):
        trie.insert(deep, "value")
    assert not trie
    trie.insert("a.#", "value")
    assert not trie.remove(deep, "value")
    assert trie.match(".".join(["a"] * 1000)) == ["value"]


def test_separators_swap_both_ways() -> None:
    assert swap_separators("a/b.c") == "a.b/c"
    assert swap_separators(swap_separators("x./y")) == "x./y"
