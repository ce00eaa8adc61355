"""Patterns with captures, rules in their order, and targets rendered from what was captured."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.backend import Target
from gateway.core.errors import Invalid
from gateway.core.message import Address
from gateway.core.routes import (
    QUEUE_KIND,
    ExchangeMatch,
    Match,
    Pattern,
    QueueMatch,
    Routes,
    Rule,
    RuleTarget,
    TopicMatch,
)
from gateway.core.trie import TopicTrie, swap_separators


@pytest.mark.parametrize(
    ("text", "subject", "captured"),
    [
        ("a/b", "a/b", {}),
        ("a/b", "a/b/c", None),
        ("a/b", "a", None),
        ("a/b", "a/bc", None),
        ("a.b", "axb", None),
        ("a/+/c", "a/b/c", {}),
        ("a/+/c", "a//c", {}),
        ("a/+", "a", None),
        ("a/+", "a/b/c", None),
        ("a/#", "a", {}),
        ("a/#", "a/b/c", {}),
        ("a/#", "ab", None),
        ("#", "a/b", {}),
        ("#", "a\nb/c", {}),
        ("sensors/{site}/{device}/telemetry", "sensors/hall/7/telemetry", {"site": "hall", "device": "7"}),
        ("sensors/{site}/{device}/telemetry", "sensors//7/telemetry", {"site": "", "device": "7"}),
        ("sensors/{site}/{device}/telemetry", "sensors/hall/telemetry", None),
        ("a/{rest:#}", "a", {"rest": ""}),
        ("a/{rest:#}", "a/b", {"rest": "b"}),
        ("a/{rest:#}", "a/b.x/c/", {"rest": "b.x/c/"}),
        ("{all:#}", "a/b", {"all": "a/b"}),
        ("#", "$SYS/x", None),
        ("+/x", "$SYS/x", None),
        ("{first}/x", "$SYS/x", None),
        ("{all:#}", "$SYS/x", None),
        ("$SYS/#", "$SYS/x", {}),
        ("a/+", "a/$x", {}),
    ],
)
def test_topic_patterns(text: str, subject: str, captured: dict[str, str] | None) -> None:
    assert Pattern.topic(text).match(subject) == captured


@pytest.mark.parametrize(
    ("text", "subject", "captured"),
    [
        ("orders", "orders", {}),
        ("orders", "orders2", None),
        ("orders.*", "orders.eu", {}),
        ("orders.*", "orders.", {}),
        ("orders.*", "orders", None),
        ("*", "", {}),
        ("*", "any/thing\n", {}),
        ("**", "x", {}),
        ("*.fifo", "a.fifo.fifo", {}),
        ("a*b*c", "abbc", {}),
        ("a*b*c", "acb", None),
        ("a*a", "a", None),
        ("orders.{region}", "orders.eu.west", {"region": "eu.west"}),
        ("orders.{region}", "orders.", None),
        ("{a}.{b}", "x.y.z", {"a": "x", "b": "y.z"}),
        ("{a}.{b}", ".y.z", {"a": ".y", "b": "z"}),
        ("{a}-{b}-x", "1-2-x", {"a": "1", "b": "2"}),
        ("{a}-{b}-x", "1-x", None),
        ("{name}.fifo", "a.fifo.fifo", {"name": "a.fifo"}),
        ("a+b", "aab", None),
    ],
)
def test_name_patterns(text: str, subject: str, captured: dict[str, str] | None) -> None:
    assert Pattern.name(text).match(subject) == captured


@pytest.mark.parametrize(
    ("text", "subject", "captured"),
    [
        ("", "", {}),
        ("", "a", None),
        ("a.*.#", "a.b", {}),
        ("a.*.#", "a", None),
        ("#.error", "error", {}),
        ("#.error", "a.b.error", {}),
        ("#.error.#", "a.error.b", {}),
        ("#.error.#", "a.b", None),
        ("{first}.#.{last}", "a.b", {"first": "a", "last": "b"}),
        ("{first}.#.{last}", "a", None),
        ("{head:#}.x.{tail:#}", "a.b.x.c.x", {"head": "a.b", "tail": "c.x"}),
        ("{head:#}.x.{tail:#}", "x", {"head": "", "tail": ""}),
        ("{all:#}", "", {"all": ""}),
        ("*", "", None),
        ("+.a", "+.a", {}),
        ("#", "$x", {}),
    ],
)
def test_key_patterns(text: str, subject: str, captured: dict[str, str] | None) -> None:
    assert Pattern.key(text).match(subject) == captured


@pytest.mark.parametrize("text", ["", "a/#/b", "{x:#}/b", "a+/b", "a/b#", "a/{x", "a/x}", "a/{x}y", "{1x}", "{x:+}"])
def test_topic_patterns_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Pattern.topic(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{client_id}", "{client_id} is a field of every message; capture under another name"),
        ("{a}.{a}", "{a} is captured twice in '{a}.{a}'"),
        ("{a}{b}", "nothing separates two wildcards in '{a}{b}'"),
        ("*{b}", "nothing separates two wildcards in '*{b}'"),
        ("{a:#}", "'{a:#}' in '{a:#}': a capture is written {name}"),
        ("x}", "'}' in 'x}': a capture is written {name}"),
    ],
)
def test_name_patterns_that_are_none(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Pattern.name(text)
    assert str(caught.value) == problem


WORDS = st.lists(st.sampled_from(["a", "b", "*", "#", "+"]), min_size=1, max_size=7).map(".".join)
KEYS = st.lists(st.sampled_from(["a", "b", ""]), max_size=8).map(".".join)


@given(WORDS, KEYS)
@settings(max_examples=500)
def test_a_key_pattern_matches_what_a_binding_would(pattern: str, key: str) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.insert(pattern, pattern)
    assert (Pattern.key(pattern).match(key) is not None) is bool(trie.match(key))


@given(st.lists(st.sampled_from(["a", "b", "-", "*"]), max_size=8), st.text(alphabet="ab-", max_size=10))
def test_captures_put_back_give_the_name(pieces: list[str], name: str) -> None:
    """Separated wildcards as captures: what they took is what stood there, and never nothing."""
    text = "-".join(f"{{c{number}}}" if piece == "*" else piece for number, piece in enumerate(pieces))
    captured = Pattern.name(text).match(name)
    if captured is not None:
        assert all(captured.values())
        assert text.format(**captured) == name


@pytest.mark.parametrize("count", [2, 40])
def test_no_pattern_and_no_name_make_matching_slow(count: int) -> None:
    # A search that backtracks would try each of the ways to place the words: with 40 of them it would never end.
    assert Pattern.key(".".join(["#.a"] * count) + ".b").match(".".join(["a"] * 250)) is None
    assert Pattern.name("a".join(["*"] * count) + "b").match("a" * 1000) is None


def target(name: str, kind: str = "sqs", options: object = None) -> Target:
    return Target(kind=kind, name=name, options=options)


def rule(key: str, match: Match, *targets: Target) -> Rule:
    return Rule(key, match, tuple(RuleTarget.of(each, match.captures) for each in targets))


def topic(text: str) -> TopicMatch:
    return TopicMatch(Pattern.topic(text))


def queue(text: str) -> QueueMatch:
    return QueueMatch(Pattern.name(text))


def exchange(text: str, key: str | None = None) -> ExchangeMatch:
    return ExchangeMatch(Pattern.name(text), None if key is None else Pattern.key(key))


def on_topic(text: str) -> Address:
    return Address("amq.topic", swap_separators(text))


def names(targets: tuple[Target, ...]) -> list[str]:
    return [each.name for each in targets]


def test_the_first_topic_rule_that_matches_wins() -> None:
    routes = Routes(
        [
            rule("routes.0", queue("#"), target("never")),
            rule("routes.1", topic("sensors/{site}/+"), target("site-{site}"), target("all")),
            rule("routes.2", topic("sensors/#"), target("rest")),
        ]
    )
    assert names(routes.for_publish(on_topic("sensors/hall/1"))) == ["site-hall", "all"]
    assert names(routes.for_publish(on_topic("sensors"))) == ["rest"]
    assert names(routes.for_publish(on_topic("other"))) == []
    assert routes.for_publish(Address("", "sensors.hall.1")) == ()
    assert routes.for_publish(Address("logs", "sensors.hall.1")) == ()
    matched = routes.rule_for_address(on_topic("sensors/hall/1"))
    assert matched is not None
    assert (matched.rule.key, matched.captures) == ("routes.1", {"site": "hall"})


def test_a_topic_is_matched_as_mqtt_writes_it() -> None:
    routes = Routes([rule("routes.0", topic("a.b/{c}"), target("x-{c}"))])
    assert names(routes.for_publish(Address("amq.topic", "a/b.c/d"))) == ["x-c.d"]


def test_exchange_rules_see_every_exchange_but_the_default_and_the_topic_one() -> None:
    routes = Routes(
        [
            rule("routes.0", exchange("logs", "*.{level}"), target("log-{level}")),
            rule("routes.1", exchange("{name}"), target("exchange-{name}")),
        ]
    )
    assert names(routes.for_publish(Address("logs", "app.error"))) == ["log-error"]
    assert names(routes.for_publish(Address("logs", "error"))) == ["exchange-logs"]
    assert routes.for_publish(on_topic("app/error")) == ()
    assert routes.for_publish(Address("", "logs")) == ()


def test_exchange_and_key_capture_together() -> None:
    match = exchange("app-{app}", "{level}.#")
    assert match.captures == {"app", "level"}
    assert match.match(Address("app-shop", "error.x")) == {"app": "shop", "level": "error"}
    assert match.match(Address("app-shop", "")) is None


@pytest.mark.parametrize(
    ("name", "key", "problem"),
    [
        ("amq.topic", None, "messages on amq.topic are matched as topics; write topic: with '/' between levels"),
        ("", None, "the default exchange has queues only; write queue:"),
        ("{a}", "{a}", "{a} is captured by both exchange and key"),
    ],
)
def test_exchange_matches_that_are_none(name: str, key: str | None, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        exchange(name, key)
    assert str(caught.value) == problem


def test_a_queue_match_needs_a_name() -> None:
    with pytest.raises(ValueError, match="never empty"):
        queue("")


def test_a_queue_lives_at_the_first_target_and_the_others_get_copies() -> None:
    options = object()
    routes = Routes(
        [
            rule("routes.0", queue("orders.{region}"), target("orders-{region}", options=options), target("audit")),
            rule("routes.1", queue("*"), target("rest")),
        ]
    )
    home = routes.home("orders.eu")
    assert home == Target(kind="sqs", name="orders-eu", queue="orders.eu", options=options)
    assert home is not None
    assert home.captures == {"region": "eu"}
    assert routes.copies("orders.eu") == (target("audit"),)
    assert routes.home("x") == Target(kind="sqs", name="rest", queue="x")
    assert routes.copies("x") == ()


def test_without_a_rule_the_backend_decides() -> None:
    assert Routes().home("x") is None
    assert Routes().copies("x") == ()
    assert Routes().for_publish(on_topic("x")) == ()


def test_a_name_with_a_field_that_is_not_captured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown field \{region\}; known are \{site\}"):
        RuleTarget.of(target("orders-{region}"), frozenset({"site"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("{site}-in", "arn:aws:sqs:eu-west-1:999999999999:x"),
        ("{site}", "https://sqs.eu-west-1.amazonaws.com/999999999999/x"),
        ("arn:aws:sqs:{site}:111122223333:in", "eu-west-1:999999999999:x"),
        ("https://sqs.{site}.amazonaws.com/111122223333/in", "example.com/"),
        ("arn:aws:sqs:eu-west-1:111122223333:{site}", "a b"),
        ("arn:aws:sqs:eu-west-1:111122223333:{site}", "a\n"),
    ],
)
def test_a_capture_cannot_turn_a_name_into_another_resource(name: str, value: str) -> None:
    routes = Routes([rule("routes.0", topic("in/{site:#}"), target(name))])
    with pytest.raises(Invalid, match=r"^sqs .*\{site\}.*: .*(cannot be in a name|is no name, but elsewhere)$"):
        routes.for_publish(on_topic(f"in/{value}"))


@pytest.mark.parametrize(
    ("name", "value", "rendered"),
    [
        ("dev-{site}", "aa:bb", "dev-aa:bb"),
        ("dev-{site}", "a b/ü", "dev-a b/ü"),
        ("arn:aws:sqs:eu-west-1:111122223333:{site}", "hall.fifo", "arn:aws:sqs:eu-west-1:111122223333:hall.fifo"),
    ],
)
def test_what_else_is_in_a_name_is_for_the_adapter_to_make_legal(name: str, value: str, rendered: str) -> None:
    routes = Routes([rule("routes.0", topic("in/{site:#}"), target(name))])
    assert names(routes.for_publish(on_topic(f"in/{value}"))) == [rendered]


def test_a_capture_may_hold_anything_in_the_name_of_a_hub_queue_and_in_options() -> None:
    routes = Routes([rule("routes.0", topic("in/{site}"), target("in {site}", kind=QUEUE_KIND), target("all"))])
    to_queue, to_all = routes.for_publish(on_topic("in/a:b"))
    assert (to_queue.kind, to_queue.name) == (QUEUE_KIND, "in a:b")
    assert (to_all.name, to_all.captures) == ("all", {"site": "a:b"})


def test_a_name_is_never_empty() -> None:
    routes = Routes([rule("routes.0", topic("in/{site}"), target("{site}", kind=QUEUE_KIND))])
    with pytest.raises(Invalid, match=r"^queue \{site\}: the name would be empty$"):
        routes.for_publish(on_topic("in/"))


def test_a_long_capture_is_shown_in_part() -> None:
    routes = Routes([rule("routes.0", queue("{site}"), target("{site}"))])
    with pytest.raises(Invalid) as caught:
        routes.home("arn:" * 10_000)
    assert len(str(caught.value)) < 200


def test_matches_describe_themselves() -> None:
    assert str(topic("a/+")) == "topic a/+"
    assert str(queue("a*")) == "queue a*"
    assert str(exchange("x")) == "exchange x"
    assert str(exchange("x", "a.#")) == "exchange x key a.#"


@pytest.mark.parametrize(
    ("match", "fixed"),
    [
        (TopicMatch(Pattern.topic("a/b")), True),
        (TopicMatch(Pattern.topic("a/+")), False),
        (TopicMatch(Pattern.topic("a/{b}")), False),
        (TopicMatch(Pattern.topic("a/#")), False),
        (ExchangeMatch(Pattern.name("x")), False),
        (ExchangeMatch(Pattern.name("*"), Pattern.key("a.b")), True),
        (ExchangeMatch(Pattern.name("x"), Pattern.key("a.*")), False),
        (QueueMatch(Pattern.name("*")), True),
    ],
)
def test_what_is_the_same_for_each_message(match: Match, fixed: bool) -> None:
    assert match.fixed_fields == ({"topic", "key"} if fixed else set())
