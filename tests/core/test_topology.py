"""Exchanges, queues and bindings: which queues a message goes to, and what goes with what."""

from __future__ import annotations

import pytest

from gateway.core.errors import Inequivalent, Refused
from gateway.core.exchanges import CACHED_DESTINATIONS, CACHED_ROUTES, ExchangeSpec, ExchangeType
from gateway.core.topology import PREDECLARED, Binding, Topology, UnknownExchange, UnknownQueue
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
