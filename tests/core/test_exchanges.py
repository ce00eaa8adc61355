"""What each type of exchange asks of a message, and what an exchange may be declared with."""

from __future__ import annotations

import pytest

from gateway.core.errors import Inequivalent, InvalidArgument
from gateway.core.exchanges import BindingKey, Exchange, ExchangeSpec, ExchangeType, ToExchange
from gateway.core.message import NO_HEADERS, Headers


def headers_exchange(arguments: Headers) -> Exchange:
    exchange = Exchange(ExchangeSpec(type=ExchangeType.HEADERS))
    exchange.bind(BindingKey.of("q", "", arguments), arguments)
    return exchange


@pytest.mark.parametrize(
    ("arguments", "headers", "expected"),
    [
        ({}, {}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 0}, True),
        ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": "x"}, {"b": "x"}, True),
        ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2, "b": "y"}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": None}, {"a": "anything"}, True),
        ({"a": None}, {}, False),
        ({"x-other": 1, "a": 1}, {"a": 1}, True),
        ({"x-match": "all-with-x", "x-other": 1, "a": 1}, {"a": 1}, False),
        ({"x-match": "all-with-x", "x-other": 1}, {"x-other": 1}, True),
        ({"x-match": "any", "x-other": 1}, {"x-other": 1}, False),
        ({"x-match": "any-with-x", "x-other": 1}, {"x-other": 1}, True),
        ({"a": ["x", {"y": 1}]}, {"a": ["x", {"y": 1}]}, True),
    ],
)
def test_headers(arguments: Headers, headers: Headers, expected: bool) -> None:
    assert headers_exchange(arguments).route("any key", headers) == (("q",) if expected else ())


@pytest.mark.parametrize("mode", ["some", "", 1, None, ["all"], {"all": 1}])
def test_a_match_that_is_none_is_refused(mode: object) -> None:
    with pytest.raises(InvalidArgument, match="x-match"):
        headers_exchange({"x-match": mode})  # type: ignore[dict-item]


def test_bindings_that_differ_in_arguments_are_two() -> None:
    exchange = headers_exchange({"a": 1})
    other: Headers = {"a": 2}
    exchange.bind(BindingKey.of("q", "", other), other)
    assert exchange.route("", {"a": 2}) == ("q",)
    exchange.unbind(BindingKey.of("q", "", {"a": 1}))
    assert exchange.route("", {"a": 1}) == ()
    assert exchange.route("", {"a": 2}) == ("q",)


def test_the_order_of_arguments_makes_no_difference_and_their_types_do() -> None:
    assert BindingKey.of("q", "", {"a": 1, "b": 2}) == BindingKey.of("q", "", {"b": 2, "a": 1})
    assert BindingKey.of("q", "", {"a": 1}) != BindingKey.of("q", "", {"a": "1"})
    assert BindingKey.of("q", "", {"a": b"1"}) != BindingKey.of("q", "", {"a": "1"})
    assert BindingKey.of("q", "", {}) == BindingKey.of("q", "", NO_HEADERS)
    assert BindingKey.of(ToExchange("q"), "", {}).destination != BindingKey.of("q", "", {}).destination


def test_arguments_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        BindingKey.of("q", "", {"a": object()})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"x-delayed-type": "odd"}, {"x-delayed-type": 5}, {"x-delayed-type": "x-delayed-message"}],
)
def test_a_delayed_exchange_says_how_it_decides(arguments: Headers) -> None:
    with pytest.raises(InvalidArgument, match="x-delayed-type"):
        Exchange(ExchangeSpec(type=ExchangeType.DELAYED, arguments=arguments))


def test_a_delayed_exchange_decides_as_the_type_that_it_names() -> None:
    exchange = Exchange(ExchangeSpec(type=ExchangeType.DELAYED, arguments={"x-delayed-type": "topic"}))
    exchange.bind(BindingKey.of("q", "a.*", NO_HEADERS), NO_HEADERS)
    assert exchange.route("a.b", NO_HEADERS) == ("q",)


@pytest.mark.parametrize("name", [5, True, ["x"]])
def test_an_alternate_exchange_is_a_name(name: object) -> None:
    with pytest.raises(InvalidArgument, match="alternate-exchange"):
        Exchange(ExchangeSpec(type=ExchangeType.FANOUT, arguments={"alternate-exchange": name}))  # type: ignore[dict-item]


FULL = ExchangeSpec(type=ExchangeType.TOPIC, durable=True, arguments={"alternate-exchange": "rest", "other": 1})


@pytest.mark.parametrize(
    ("asked", "argument", "received", "current"),
    [
        (ExchangeSpec(type=ExchangeType.FANOUT, durable=True), "type", "fanout", "topic"),
        (ExchangeSpec(type=ExchangeType.TOPIC), "durable", "false", "true"),
        (ExchangeSpec(type=ExchangeType.TOPIC, durable=True, auto_delete=True), "auto_delete", "true", "false"),
        (ExchangeSpec(type=ExchangeType.TOPIC, durable=True, internal=True), "internal", "true", "false"),
        (ExchangeSpec(type=ExchangeType.TOPIC, durable=True), "alternate-exchange", "none", "rest"),
    ],
)
def test_what_differs_is_named(asked: ExchangeSpec, argument: str, received: str, current: str) -> None:
    with pytest.raises(Inequivalent) as caught:
        FULL.check_equivalent("logs", asked)
    error = caught.value
    assert (error.name, error.argument, error.received, error.current) == ("logs", argument, received, current)


def test_arguments_that_mean_nothing_make_no_difference() -> None:
    FULL.check_equivalent(
        "logs", ExchangeSpec(type=ExchangeType.TOPIC, durable=True, arguments={"alternate-exchange": "rest"})
    )
