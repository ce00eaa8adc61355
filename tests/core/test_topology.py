"""Exchanges, queues and bindings: which queues a message goes to, and what goes with what."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.errors import Inequivalent, InUse, NotSupported, Refused
from gateway.core.exchanges import CACHED_DESTINATIONS, CACHED_ROUTES, ExchangeSpec, ExchangeType, ToExchange
from gateway.core.topology import PREDECLARED, Binding, InternalExchange, Topology, UnknownExchange, UnknownQueue
from gateway.core.trie import MAX_WORDS

TOPIC = ExchangeSpec(type=ExchangeType.TOPIC)
FANOUT = ExchangeSpec(type=ExchangeType.FANOUT)


def topic_topology(*patterns: str) -> Topology:
    topology = Topology()
    for pattern in patterns:
        topology.declare_queue(pattern)
        topology.bind(pattern, "amq.topic", pattern)
    return topology


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
    assert topology.declare_exchange("", ExchangeSpec(type=ExchangeType.DIRECT, durable=True)) is False
    with pytest.raises(Inequivalent):
        topology.declare_exchange("", FANOUT)


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
    topology.declare_exchange("own", TOPIC)
    topology.bind("#", "own", "#")
    assert topology.route("own", "$SYS.x") == ("#",)


def test_own_exchanges() -> None:
    topology = Topology()
    with pytest.raises(UnknownExchange, match="no exchange 'logs'") as caught:
        topology.route("logs", "k")
    assert caught.value.exchange == "logs"
    assert topology.declare_exchange("logs", FANOUT)
    assert not topology.declare_exchange("logs", FANOUT)
    with pytest.raises(Inequivalent, match="exchange 'logs' has type fanout, not topic"):
        topology.declare_exchange("logs", TOPIC)
    topology.declare_queue("q")
    topology.bind("q", "logs", "")
    topology.bind("q", "amq.topic", "a")
    assert topology.delete_exchange("logs")
    assert not topology.delete_exchange("logs")
    assert topology.bindings("q") == (Binding("amq.topic", "q", "a"),)
    topology.declare_exchange("logs", FANOUT)
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
        topology.declare_exchange("x", TOPIC)
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
    for number in range(CACHED_DESTINATIONS):
        topology.declare_queue(str(number))
        topology.bind(str(number), "amq.topic", "#")
    assert len(topology.route("amq.topic", "a.b")) == CACHED_DESTINATIONS + 1
    assert len(topology.route("amq.topic", "b")) == CACHED_DESTINATIONS
    topology.route("amq.topic", "b" * 1000)
    assert list(exchange._routes) == ["b"]


def test_limits_are_told() -> None:
    topology = Topology(max_exchanges=6, max_queues=2, max_bindings=2)
    topology.declare_exchange("x", TOPIC)
    with pytest.raises(Refused, match="there are 6 exchanges already, the limit"):
        topology.declare_exchange("y", TOPIC)
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
    assert topology.bindings("#") == (Binding("amq.topic", "#", "#"),)
    assert topology.route("amq.fanout", longest + ".a") == ()


# Exchanges bound to exchanges, alternate exchanges, and what goes with what


def linked(*links: tuple[str, str], **specs: ExchangeSpec) -> Topology:
    topology = Topology()
    for source, destination in links:
        for name in (source, destination):
            topology.declare_exchange(name, specs.get(name, FANOUT))
        topology.bind(ToExchange(destination), source, "k")
    return topology


def test_messages_follow_bindings_between_exchanges_each_queue_once_and_no_loop_for_ever() -> None:
    topology = linked(("a", "b"), ("b", "c"), ("a", "c"), ("c", "a"))
    for queue, exchange in (("q1", "b"), ("q2", "c"), ("q2", "a")):
        topology.declare_queue(queue)
        topology.bind(queue, exchange, "k")
    assert sorted(topology.route("a", "k")) == ["q1", "q2"]
    assert topology.bindings(ToExchange("c")) == (
        Binding("b", ToExchange("c"), "k"),
        Binding("a", ToExchange("c"), "k"),
    )


def test_an_alternate_exchange_gets_what_has_no_place() -> None:
    rest = ExchangeSpec(type=ExchangeType.TOPIC, arguments={"alternate-exchange": "rest"})
    topology = Topology()
    topology.declare_exchange("own", rest)
    assert topology.route("own", "k") == (), "it is not there"
    topology.declare_exchange("rest", ExchangeSpec(type=ExchangeType.FANOUT, arguments={"alternate-exchange": "own"}))
    assert topology.route("own", "k") == (), "round in a circle"
    for queue, exchange in (("found", "own"), ("lost", "rest")):
        topology.declare_queue(queue)
        topology.bind(queue, exchange, "a")
    assert topology.route("own", "a") == ("found",)
    assert topology.route("own", "b") == ("lost",)


def test_the_default_exchange_may_be_the_alternate_one() -> None:
    topology = Topology()
    topology.declare_exchange("own", ExchangeSpec(type=ExchangeType.TOPIC, arguments={"alternate-exchange": ""}))
    topology.declare_queue("orders")
    assert topology.route("own", "orders") == ("orders",)
    assert topology.route("own", "other") == ()


def test_internal_exchanges_are_not_published_to() -> None:
    topology = linked(("a", "b"), b=ExchangeSpec(type=ExchangeType.FANOUT, internal=True))
    topology.check_publish("a")
    topology.check_publish("")
    with pytest.raises(InternalExchange, match="internal"):
        topology.check_publish("b")
    with pytest.raises(UnknownExchange):
        topology.check_publish("c")


def test_nothing_is_bound_to_an_exchange_that_delays() -> None:
    topology = Topology()
    topology.declare_exchange("later", ExchangeSpec(type=ExchangeType.DELAYED, arguments={"x-delayed-type": "direct"}))
    assert topology.delaying == {"later"}
    with pytest.raises(NotSupported):
        topology.bind(ToExchange("later"), "amq.topic", "#")
    topology.delete_exchange("later")
    assert not topology.delaying


def test_if_unused_counts_what_leads_away_from_an_exchange() -> None:
    topology = linked(("a", "b"))
    with pytest.raises(InUse):
        topology.delete_exchange("a", if_unused=True)
    assert topology.delete_exchange("b", if_unused=True)
    assert topology.delete_exchange("a", if_unused=True)


def test_an_auto_delete_exchange_goes_with_its_last_binding_and_not_before_its_first() -> None:
    topology = Topology()
    topology.declare_exchange("auto", ExchangeSpec(type=ExchangeType.FANOUT, auto_delete=True))
    topology.declare_queue("q")
    topology.bind("q", "auto", "a")
    topology.bind("q", "auto", "b")
    topology.unbind("q", "auto", "a")
    assert topology.route("auto", "") == ("q",)
    topology.delete_queue("q")
    with pytest.raises(UnknownExchange):
        topology.route("auto", "")


def test_a_long_chain_of_auto_delete_exchanges_ends_at_once() -> None:
    count = 5_000
    topology = Topology()
    for number in range(count):
        topology.declare_exchange(str(number), ExchangeSpec(type=ExchangeType.FANOUT, auto_delete=True))
    for number in range(count - 1):
        topology.bind(ToExchange(str(number + 1)), str(number), "")
    topology.declare_queue("q")
    topology.bind("q", str(count - 1), "")
    assert topology.route("0", "") == ("q",)
    topology.delete_queue("q")
    assert {name for name, _ in topology.exchanges()} == PREDECLARED - {""}
    assert topology.binding_count == 0


def test_only_headers_make_equal_addresses_differ() -> None:
    topology = linked(("a", "b"), b=ExchangeSpec(type=ExchangeType.HEADERS))
    assert not topology.routes_by_headers("a"), "nothing is bound by headers"
    topology.declare_queue("q")
    topology.bind("q", "b", "", {"x": 1})
    assert topology.routes_by_headers("a")
    assert topology.routes_by_headers("b")
    assert not topology.routes_by_headers("amq.topic")
    assert topology.route("a", "", {"x": 1}) == ("q",)
    assert topology.route("a", "", {"x": 2}) == ()


EXCHANGES = st.sampled_from(["a", "b", "c", "d"])
QUEUES = st.sampled_from(["p", "q", "r"])
KEYS = st.sampled_from(["k", "l"])


class TopologyMachine(RuleBasedStateMachine):
    """Declarations, bindings and deletions in any order route as a list of bindings does that is searched anew."""

    def __init__(self) -> None:
        super().__init__()
        self.topology = Topology()
        self.specs: dict[str, ExchangeSpec] = {}
        self.queues: set[str] = set()
        self.bindings: set[tuple[str, object, str]] = set()

    @rule(
        name=EXCHANGES,
        kind=st.sampled_from([ExchangeType.DIRECT, ExchangeType.FANOUT]),
        auto_delete=st.booleans(),
        alternate=st.none() | EXCHANGES,
    )
    def declare_exchange(self, name: str, kind: ExchangeType, auto_delete: bool, alternate: str | None) -> None:
        arguments = {} if alternate is None else {"alternate-exchange": alternate}
        spec = ExchangeSpec(type=kind, auto_delete=auto_delete, arguments=arguments)
        known = self.specs.get(name)
        if known is not None and known != spec:
            with pytest.raises(Inequivalent):
                self.topology.declare_exchange(name, spec)
        else:
            assert self.topology.declare_exchange(name, spec) is (known is None)
            self.specs[name] = spec

    @rule(name=QUEUES)
    def declare_queue(self, name: str) -> None:
        assert self.topology.declare_queue(name) is (name not in self.queues)
        self.queues.add(name)

    @rule(source=EXCHANGES, destination=QUEUES | EXCHANGES.map(ToExchange), key=KEYS)
    def bind(self, source: str, destination: str | ToExchange, key: str) -> None:
        if source not in self.specs or not self.there(destination):
            with pytest.raises((UnknownExchange, UnknownQueue)):
                self.topology.bind(destination, source, key)
        else:
            new = (source, destination, key) not in self.bindings
            assert self.topology.bind(destination, source, key) is new
            self.bindings.add((source, destination, key))

    @rule(source=EXCHANGES, destination=QUEUES | EXCHANGES.map(ToExchange), key=KEYS)
    def unbind(self, source: str, destination: str | ToExchange, key: str) -> None:
        known = (source, destination, key) in self.bindings
        assert self.topology.unbind(destination, source, key) is known
        self.drop({(source, destination, key)} if known else set())

    @rule(name=EXCHANGES)
    def delete_exchange(self, name: str) -> None:
        assert self.topology.delete_exchange(name) is (name in self.specs)
        self.end(name)

    @rule(name=QUEUES)
    def delete_queue(self, name: str) -> None:
        assert self.topology.delete_queue(name) is (name in self.queues)
        self.queues.discard(name)
        self.drop({binding for binding in self.bindings if binding[1] == name})

    def there(self, destination: str | ToExchange) -> bool:
        return destination.exchange in self.specs if isinstance(destination, ToExchange) else destination in self.queues

    def end(self, exchange: str) -> None:
        if self.specs.pop(exchange, None) is not None:
            self.bindings -= {binding for binding in self.bindings if binding[0] == exchange}
            self.drop({binding for binding in self.bindings if binding[1] == ToExchange(exchange)})

    def drop(self, bindings: set[tuple[str, object, str]]) -> None:
        self.bindings -= bindings
        for source in {source for source, _, _ in bindings}:
            spec = self.specs.get(source)
            if spec is not None and spec.auto_delete and not any(source == each[0] for each in self.bindings):
                self.end(source)

    def expected(self, exchange: str, key: str, seen: set[str]) -> set[str]:
        """The queues by the definition: a binding matches, or else the alternate exchange decides."""
        if exchange not in self.specs or exchange in seen:
            return set()
        seen.add(exchange)
        spec = self.specs[exchange]
        matched = [
            destination
            for source, destination, pattern in self.bindings
            if source == exchange and (spec.type is ExchangeType.FANOUT or pattern == key)
        ]
        found = {each for each in matched if isinstance(each, str)}
        following = [each.exchange for each in matched if isinstance(each, ToExchange)]
        if not matched and spec.alternate is not None:
            following = [spec.alternate]
        for name in following:
            found |= self.expected(name, key, seen)
        return found

    @invariant()
    def routes_as_defined(self) -> None:
        assert self.topology.binding_count == len(self.bindings)
        assert {name for name, _ in self.topology.exchanges()} - PREDECLARED == set(self.specs)
        for exchange in self.specs:
            for key in ("k", "l"):
                found = self.topology.route(exchange, key)
                assert len(found) == len(set(found))
                assert set(found) == self.expected(exchange, key, set())


TestTopologyMachine = TopologyMachine.TestCase
TestTopologyMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
