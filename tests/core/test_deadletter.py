"""Dead letters: what is written on them, and which go round in circles."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.core.deadletter import DEATHS, MAX_DEATHS, Reason, circles, copies_of, dead_letter, deaths_of
from gateway.core.message import Address, HeaderValue, Message, Properties

NOW = 1_700_000_000.9


def published(**headers: HeaderValue) -> Message:
    return Message(Address("shop", "order.new"), b"hello", Properties(expiration=5_000, priority=3), headers)


def died(message: Message, queue: str, reason: Reason = Reason.EXPIRED, key: str | None = None) -> Message:
    return dead_letter(message, queue, reason, NOW, "graveyard", key)


def test_the_first_death() -> None:
    letter = died(published(mine=1), "orders")
    assert letter.address == Address("graveyard", "order.new")
    assert (letter.body, letter.not_before) == (b"hello", 0.0)
    assert letter.properties == Properties(priority=3), "it would expire again at once"
    assert letter.headers == {
        "mine": 1,
        "x-death": [
            {
                "count": 1,
                "reason": "expired",
                "queue": "orders",
                "time": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
                "exchange": "shop",
                "routing-keys": ["order.new"],
                "original-expiration": "5000",
            }
        ],
        "x-first-death-reason": "expired",
        "x-first-death-queue": "orders",
        "x-first-death-exchange": "shop",
        "x-last-death-reason": "expired",
        "x-last-death-queue": "orders",
        "x-last-death-exchange": "shop",
    }


def test_a_key_of_the_queue_replaces_all_that_it_was_published_with() -> None:
    message = published(CC=["also", 7, "too"])
    assert copies_of(message.headers) == ["also", "too"]
    letter = died(message, "orders", key="dead")
    assert letter.address == Address("graveyard", "dead")
    assert copies_of(letter.headers) == []
    assert deaths_of(letter.headers)[0]["routing-keys"] == ["order.new", "also", "too"]
    assert copies_of(died(message, "orders").headers) == ["also", "too"]


def test_deaths_are_counted_by_queue_and_reason_the_latest_first() -> None:
    letter = published()
    for queue, reason in (
        ("work", Reason.REJECTED),
        ("wait", Reason.EXPIRED),
        ("work", Reason.REJECTED),
        ("work", Reason.EXPIRED),
        ("work", Reason.REJECTED),
    ):
        letter = died(letter, queue, reason)
    assert [(each["queue"], each["reason"], each["count"]) for each in deaths_of(letter.headers)] == [
        ("work", "rejected", 3),
        ("work", "expired", 1),
        ("wait", "expired", 1),
    ]
    assert letter.headers["x-first-death-queue"] == "work"
    assert letter.headers["x-last-death-exchange"] == "graveyard"
    assert deaths_of(letter.headers)[0]["exchange"] == "shop", "the first time is what is told"


@pytest.mark.parametrize("made_up", ["text", 7, [1, "two"], [{"queue": 3}], {}, None])
def test_what_a_client_has_made_of_the_header_breaks_nothing(made_up: HeaderValue) -> None:
    letter = died(Message(Address("", "k"), b"", headers={DEATHS: made_up}), "orders")
    assert deaths_of(letter.headers)[0]["queue"] == "orders"


def test_a_count_that_is_none_starts_again() -> None:
    made_up: HeaderValue = [{"queue": "orders", "reason": "expired", "count": "many"}]
    letter = died(Message(Address("", "k"), b"", headers={DEATHS: made_up}), "orders")
    assert deaths_of(letter.headers)[0]["count"] == 1


@pytest.mark.parametrize(
    ("deaths", "expected"),
    [
        ([("a", Reason.EXPIRED)], {"a"}),
        ([("a", Reason.EXPIRED), ("b", Reason.MAXLEN)], {"a", "b"}),
        ([("a", Reason.EXPIRED), ("b", Reason.REJECTED)], set()),
        ([("a", Reason.REJECTED), ("b", Reason.EXPIRED)], {"b"}),
        ([("b", Reason.EXPIRED), ("a", Reason.REJECTED), ("b", Reason.EXPIRED)], {"b"}),
        ([("c", Reason.DELIVERY_LIMIT)], set()),
    ],
)
def test_a_circle_is_one_that_nobody_rejects(deaths: list[tuple[str, Reason]], expected: set[str]) -> None:
    letter = published()
    for queue, reason in deaths:
        letter = died(letter, queue, reason)
    assert circles(letter, ["a", "b"]) == expected


def test_deaths_are_bounded_and_so_is_a_circle_of_many_queues() -> None:
    letter = published()
    for number in range(MAX_DEATHS + 5):
        letter = died(letter, f"q{number}")
    deaths = deaths_of(letter.headers)
    assert len(deaths) == MAX_DEATHS
    assert deaths[0]["queue"] == f"q{MAX_DEATHS + 4}"
    assert circles(letter, ["q0"]) == {"q0"}, "forgotten, and stopped all the same"
    assert circles(died(letter, "q", Reason.REJECTED), ["q0"]) == set()
