"""Patterns of topics, names and regular expressions, against brute force."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.patterns import (
    MAX_NAME_LENGTH,
    MAX_REGEX_LENGTH,
    NOBODY,
    Expression,
    Subject,
    Words,
    check_filter,
    glob_matcher,
    name_matcher,
)

ANN = Subject("ann", "device-7")


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a/b", "a.b", True),
        ("a/b", "a.b.c", False),
        ("a/b", "a", False),
        ("a/+", "a.b", True),
        ("a/+", "a", False),
        ("a/+", "a.b.c", False),
        ("a/#", "a", True),
        ("a/#", "a.b.c", True),
        ("a/#", "ab", False),
        ("+/b", "a.b", True),
        ("#", "a.b", True),
        ("#", "$SYS.broker", False),
        ("+/broker", "$SYS.broker", False),
        ("$SYS/#", "$SYS.broker", True),
        ("a.b/c", "a/b.c", True),
        ("a.b/c", "a.b.c", False),
        ("a//c", "a..c", True),
        ("a/+/c", "a..c", True),
        ("users/%u/#", "users.ann.x", True),
        ("users/%u/#", "users.bob.x", False),
        ("devices/%c", "devices.device-7", True),
        ("x-%u-%c", "x-ann-device-7", True),
        ("100%%/x", "100%.x", True),
        ("100%x", "100%x", True),
    ],
)
def test_topics(pattern: str, key: str, expected: bool) -> None:
    assert Words.topic(pattern, ANN).matches(key) is expected


@pytest.mark.parametrize("name", ["+", "#", "*", "a/b", "a.b", "a/#"])
def test_a_name_is_never_a_wildcard_nor_more_than_a_level(name: str) -> None:
    pattern = Words.topic("users/%u", Subject(name, ""))
    for key in ("users.ann", "users.a.b", "users"):
        assert not pattern.matches(key)
    for wild in ("users.*", "users.#", "#", "users.a.b"):
        assert not pattern.covers(wild)


@pytest.mark.parametrize(
    ("pattern", "other", "covers", "overlaps"),
    [
        ("a/#", "a.*.c", True, True),
        ("a/#", "a.#", True, True),
        ("a/+", "a.#", False, True),
        ("a/+", "a.*", True, True),
        ("a/b", "a.*", False, True),
        ("a/b", "#", False, True),
        ("a/b", "b.#", False, False),
        ("+/b", "a.*", False, True),
        ("#", "#", True, True),
        ("#", "$SYS.#", False, False),
        ("a/#", "#.b", False, True),
        ("a/+/c", "a.#.d", False, False),
    ],
)
def test_filters(pattern: str, other: str, covers: bool, overlaps: bool) -> None:
    words = Words.topic(pattern, ANN)
    assert (words.covers(other), words.overlaps(other)) == (covers, overlaps)


WORD = st.sampled_from(["a", "b", "*", "#"])
PATTERN = st.lists(WORD, max_size=5).map(".".join)
KEYS = [".".join(words) for length in range(6) for words in itertools.product("abc", repeat=length)]


def naive(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "#":
        return naive(pattern[1:], key) or bool(key and naive(pattern, key[1:]))
    return bool(key) and pattern[0] in ("*", key[0]) and naive(pattern[1:], key[1:])


def matched(pattern: str) -> set[str]:
    return {key for key in KEYS if naive(pattern.split(".") if pattern else [], key.split(".") if key else [])}


@given(pattern=PATTERN, other=PATTERN)
def test_words_against_brute_force(pattern: str, other: str) -> None:
    words = Words.key(pattern, NOBODY)
    mine, others = matched(pattern), matched(other)
    assert {key for key in KEYS if words.matches(key)} == mine
    if words.covers(other):
        assert others <= mine
    literals = [word for word in (pattern + "." + other).split(".") if word not in "*#"]
    if len(literals) <= 5:  # or the key that both match may be longer than those tried
        assert words.overlaps(other) is bool(mine & others)


def test_many_wildcards_take_no_time() -> None:
    pattern = Words.key(".".join(["#", "a"] * 60), NOBODY)
    started = time.process_time()
    assert not pattern.matches(".".join(["a"] * 150 + ["b"]))
    assert not pattern.covers(".".join(["a"] * 150 + ["b"]))
    assert pattern.overlaps(".".join(["#", "a"] * 60))
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["", "a/#/b", "#/a", "a+/b", "a#", "a/b#"])
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(ValueError, match=r"topic|stands last|whole level"):
        check_filter(text)


@pytest.mark.parametrize("text", ["a", "/", "+", "#", "a/+/b/#", "$SYS/#"])
def test_what_is_one(text: str) -> None:
    assert check_filter(text) == text


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("orders", "orders", True),
        ("orders", "orders2", False),
        ("orders.*", "orders.eu", True),
        ("orders.*", "orders", False),
        ("*", "", True),
        ("*.eu", "orders.eu", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "ac", False),
        ("ab*ba", "aba", False),
        ("%u-*", "ann-x", True),
        ("%u-*", "bob-x", False),
        (".*", "x", False),
    ],
)
def test_names(pattern: str, name: str, expected: bool) -> None:
    assert name_matcher(pattern, ANN)(name) is expected


def test_a_star_in_a_users_name_is_no_wildcard() -> None:
    assert not name_matcher("%u", Subject("*", ""))("orders")


@given(parts=st.lists(st.text("ab", max_size=2), min_size=1, max_size=4), name=st.text("ab", max_size=8))
def test_globs_against_regular_expressions(parts: list[str], name: str) -> None:
    expression = Expression("^" + ".*".join(parts) + "$")
    assert glob_matcher(parts)(name) is expression.matches(name)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("", "", False),
        ("", "x", False),
        (".*", "", True),
        ("order", "my-orders", True),
        ("^order", "my-orders", False),
        ("^(?!amq\\.).*$", "amq.topic", False),
        ("^(?!amq\\.).*$", "orders", True),
        (".*", "x" * (MAX_NAME_LENGTH + 1), False),
    ],
)
def test_expressions_are_searched_for_as_rabbitmq_does(text: str, name: str, expected: bool) -> None:
    assert Expression(text).matches(name) is expected


@pytest.mark.parametrize("text", ["(", "[a", "a**b(", "x" * (MAX_REGEX_LENGTH + 1)])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match=r"regular expression|longer"):
        Expression(text)


def test_one_that_never_ends_is_stopped_and_matches_nothing() -> None:
    slow = Expression("^(a|a|aa)+(b|c)+d$")
    started = time.process_time()
    assert not slow.matches("a" * 200 + "b" * 200)
    assert time.process_time() - started < 1


def test_names_in_an_expression_are_literal() -> None:
    expression = Expression("^{client_id}\\.{username}$")
    assert expression.filled({"username": "ann", "client_id": "d7"}).matches("d7.ann")
    assert not expression.filled({"username": ".*", "client_id": ".*"}).matches("d7.ann")
    assert expression.filled({"username": ".*", "client_id": "{username}"}).matches("{username}..*")
    plain = Expression("^x$")
    assert plain.filled({"username": "ann"}) is plain
