"""The topic trie against a plain definition of matching, and exchanges, queues and bindings."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.errors import Refused
from gateway.core.topology import (
    CACHED_QUEUES,
    CACHED_ROUTES,
    MAX_WORDS,
    PREDECLARED,
    ExchangeType,
    Inequivalent,
    TopicTrie,
    Topology,
    UnknownExchange,
    UnknownQueue,
    swap_separators,
)


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


def topic_topology(*patterns: str) -> Topology:
    topology = Topology()
    for pattern in patterns:
        topology.declare_queue(pattern)
        topology.bind(pattern, "amq.topic", pattern)
    return topology


def test_separators_swap_both_ways() -> None:
    assert swap_separators("a/b.c") == "a.b/c"
    assert swap_separators(swap_separators("x./y")) == "x./y"


def test_the_default_exchange_routes_to_the_queue_of_that_name() -> None:
    topology = Topology()
    assert topology.route("", "orders") == ()
    topology.declare_queue("orders")
    assert topology.route("", "orders") == ("orders",)
    topology.delete_queue("orders")
    assert topology.route("", "orders") == ()


def test_the_default_exchange_takes_no_bindings() -> None:
    topology = Topology()
    topology.declare_queue("q")
    with pytest.raises(Refused):
        topology.bind("q", "", "other")
    assert topology.declare_exchange("", ExchangeType.DIRECT) is False
    with pytest.raises(Inequivalent):
        topology.declare_exchange("", ExchangeType.FANOUT)


def test_predeclared_exchanges_exist_and_stay() -> None:
    topology = Topology()
    assert {"", "amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"} == PREDECLARED
    assert {name for name, _ in topology.exchanges()} == PREDECLARED - {""}
    for name in PREDECLARED:
        assert topology.route(name, "k") == ()
        with pytest.raises(Refused, match="predeclared"):
            topology.delete_exchange(name)


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        ("amq.direct", ("exact",)),
        ("amq.fanout", ("exact", "pattern", "other")),
        ("amq.topic", ("exact", "pattern")),
        ("amq.headers", ("exact", "pattern", "other")),
    ],
)
def test_each_type_routes_its_own_way(exchange: str, expected: tuple[str, ...]) -> None:
    topology = Topology()
    for queue, pattern in (("exact", "a.b"), ("pattern", "a.*"), ("other", "c")):
        topology.declare_queue(queue)
        topology.bind(queue, exchange, pattern)
    assert topology.route(exchange, "a.b") == expected


@pytest.mark.parametrize("exchange", ["amq.direct", "amq.fanout", "amq.topic", "amq.match"])
def test_a_queue_bound_twice_gets_a_message_once_until_the_last_binding_goes(exchange: str) -> None:
    topology = Topology()
    topology.declare_queue("q")
    assert topology.bind("q", exchange, "k")
    assert not topology.bind("q", exchange, "k")
    topology.bind("q", exchange, "other")
    assert topology.route(exchange, "k") == ("q",)
    assert topology.unbind("q", exchange, "other")
    assert topology.route(exchange, "k") == ("q",)
    assert topology.unbind("q", exchange, "k")
    assert not topology.unbind("q", exchange, "k")
    assert topology.route(exchange, "k") == ()
    assert topology.bindings("q") == ()


def test_overlapping_topic_bindings_of_one_queue_give_it_once() -> None:
    topology = Topology()
    topology.declare_queue("q")
    for pattern in ("a.#", "*.b", "a.b"):
        topology.bind("q", "amq.topic", pattern)
    assert topology.route("amq.topic", "a.b") == ("q",)


def test_amq_topic_keeps_the_rule_for_dollar_and_other_topic_exchanges_do_not() -> None:
    topology = topic_topology("#", "$SYS.#")
    assert topology.route("amq.topic", "$SYS.x") == ("$SYS.#",)
    topology.declare_exchange("own", ExchangeType.TOPIC)
    topology.bind("#", "own", "#")
    assert topology.route("own", "$SYS.x") == ("#",)


def test_own_exchanges() -> None:
    topology = Topology()
    with pytest.raises(UnknownExchange, match="no exchange 'logs'") as caught:
        topology.route("logs", "k")
    assert caught.value.exchange == "logs"
    assert topology.declare_exchange("logs", ExchangeType.FANOUT)
    assert not topology.declare_exchange("logs", ExchangeType.FANOUT)
    with pytest.raises(Inequivalent, match="'logs' is of type fanout, not topic"):
        topology.declare_exchange("logs", ExchangeType.TOPIC)
    topology.declare_queue("q")
    topology.bind("q", "logs", "")
    topology.bind("q", "amq.topic", "a")
    assert topology.delete_exchange("logs")
    assert not topology.delete_exchange("logs")
    assert topology.bindings("q") == (("amq.topic", "a"),)
    topology.declare_exchange("logs", ExchangeType.FANOUT)
    assert topology.route("logs", "") == ()


def test_binding_needs_its_queue_and_its_exchange() -> None:
    topology = Topology()
    with pytest.raises(UnknownQueue, match="no queue 'q'"):
        topology.bind("q", "amq.topic", "a")
    topology.declare_queue("q")
    with pytest.raises(UnknownExchange):
        topology.bind("q", "absent", "a")
    with pytest.raises(UnknownQueue):
        topology.bindings("absent")
    assert not topology.unbind("absent", "amq.topic", "a")
    assert not topology.unbind("q", "absent", "a")


def test_deleting_a_queue_ends_its_bindings() -> None:
    topology = topic_topology("a.*", "a.b")
    topology.bind("a.*", "amq.fanout", "")
    assert topology.route("amq.topic", "a.b") == ("a.b", "a.*")
    assert topology.delete_queue("a.*")
    assert not topology.delete_queue("a.*")
    assert topology.route("amq.topic", "a.b") == ("a.b",)
    assert topology.route("amq.fanout", "") == ()
    topology.declare_queue("a.*")
    assert topology.bindings("a.*") == ()
    assert list(topology.queues()) == ["a.b", "a.*"]
    assert topology.has_queue("a.b")


def test_the_version_grows_with_changes_only() -> None:
    topology = Topology()
    seen = [topology.version]

    def grew(change: bool) -> None:
        assert (topology.version > seen[-1]) is change
        seen.append(topology.version)

    grew(change=False)
    for change in (True, False):
        topology.declare_queue("q")
        grew(change=change)
        topology.declare_exchange("x", ExchangeType.TOPIC)
        grew(change=change)
        topology.bind("q", "x", "a")
        grew(change=change)
    topology.route("x", "a")
    grew(change=False)
    for change in (True, False):
        topology.unbind("q", "x", "a")
        grew(change=change)
        topology.delete_queue("q")
        grew(change=change)
        topology.delete_exchange("x")
        grew(change=change)


def test_a_cached_route_sees_every_change() -> None:
    topology = topic_topology("a.#")
    for _ in range(2):
        assert topology.route("amq.topic", "a.b") == ("a.#",)
        topology.declare_queue("q")
        topology.bind("q", "amq.topic", "a.b")
        assert topology.route("amq.topic", "a.b") == ("q", "a.#")
        topology.delete_queue("q")


def test_the_cache_is_bounded_and_large_results_are_not_kept() -> None:
    topology = topic_topology("a.*")
    exchange = topology._exchanges["amq.topic"]
    for number in range(CACHED_ROUTES + 10):
        topology.route("amq.topic", f"a.{number}")
    assert len(exchange._routes) == 10
    for number in range(CACHED_QUEUES):
        topology.declare_queue(str(number))
        topology.bind(str(number), "amq.topic", "#")
    assert len(topology.route("amq.topic", "a.b")) == CACHED_QUEUES + 1
    assert len(topology.route("amq.topic", "b")) == CACHED_QUEUES
    topology.route("amq.topic", "b" * 1000)
    assert list(exchange._routes) == ["b"]


def test_limits_are_told() -> None:
    topology = Topology(max_exchanges=6, max_queues=2, max_bindings=2)
    topology.declare_exchange("x", ExchangeType.TOPIC)
    with pytest.raises(Refused, match="there are 6 exchanges already, the limit"):
        topology.declare_exchange("y", ExchangeType.TOPIC)
    topology.declare_queue("a")
    topology.declare_queue("b")
    with pytest.raises(Refused, match="2 queues"):
        topology.declare_queue("c")
    topology.bind("a", "x", "k")
    topology.bind("b", "x", "k")
    with pytest.raises(Refused, match="2 bindings"):
        topology.bind("a", "x", "l")
    topology.delete_queue("a")
    assert topology.bind("b", "x", "l")
    topology.delete_exchange("x")
    assert topology.bind("b", "amq.topic", "l")
    assert topology.bind("b", "amq.topic", "m")


def test_too_many_words_are_refused_on_topic_exchanges() -> None:
    topology = topic_topology("#")
    longest = ".".join(["a"] * MAX_WORDS)
    assert topology.route("amq.topic", longest) == ("#",)
    with pytest.raises(Refused, match="257 words"):
        topology.route("amq.topic", longest + ".a")
    with pytest.raises(Refused, match="257 words"):
        topology.bind("#", "amq.topic", longest + ".a")
    assert topology.bindings("#") == (("amq.topic", "#"),)
    assert topology.route("amq.fanout", longest + ".a") == ()
