"""Failed logins under a scripted clock."""

from __future__ import annotations

import pytest

from gateway.auth import throttle as module
from gateway.auth.throttle import Throttle, ThrottleLimits, site

LIMITS = ThrottleLimits(per_address=10, per_user=3, window=60)


@pytest.fixture
def throttle() -> Throttle:
    return Throttle(LIMITS)


def test_a_user_is_refused_after_so_many_failures_from_anywhere(throttle: Throttle) -> None:
    assert [throttle.begin("ann", f"192.0.2.{number}", 0) for number in range(5)] == [True] * 3 + [False] * 2
    assert throttle.begin("bob", "192.0.2.1", 0)


def test_an_address_is_refused_after_so_many_failures_of_anybody(throttle: Throttle) -> None:
    assert [throttle.begin(f"user-{number}", "192.0.2.1", 0) for number in range(12)] == [True] * 10 + [False] * 2
    assert throttle.begin("user-0", "192.0.2.2", 0)


def test_failures_are_forgiven_with_time(throttle: Throttle) -> None:
    for _ in range(3):
        throttle.begin("ann", "192.0.2.1", 0)
    assert not throttle.begin("ann", "192.0.2.1", 19)
    assert throttle.begin("ann", "192.0.2.1", 21)  # one of three, after a third of the window
    assert not throttle.begin("ann", "192.0.2.1", 22)
    assert [throttle.begin("ann", "192.0.2.1", 500) for _ in range(4)] == [True] * 3 + [False]


def test_what_is_refused_does_not_count(throttle: Throttle) -> None:
    for second in range(1_000):
        throttle.begin("ann", "192.0.2.1", second / 100)
    assert throttle.begin("ann", "192.0.2.2", 45)


def test_success_is_not_counted_and_forgives_nothing(throttle: Throttle) -> None:
    for _ in range(100):
        assert throttle.begin("ann", "192.0.2.1", 0)
        throttle.succeeded("ann", "192.0.2.1", 0)
    for number in range(10):
        throttle.begin(f"guess-{number}", "192.0.2.1", 0)
    assert not throttle.begin("ann", "192.0.2.1", 0)


def test_attempts_at_the_same_time_count_before_they_are_judged(throttle: Throttle) -> None:
    assert sum(throttle.begin("ann", "192.0.2.1", 0) for _ in range(1_000)) == 3


def test_guessing_does_not_lock_a_user_out_where_it_has_been(throttle: Throttle) -> None:
    assert throttle.begin("ann", "192.0.2.1", 0)
    throttle.succeeded("ann", "192.0.2.1", 0)
    for _ in range(5):
        throttle.begin("ann", "198.51.100.1", 0)
    assert not throttle.begin("ann", "198.51.100.1", 0)
    assert throttle.begin("ann", "192.0.2.1", 0)


def test_what_nobody_could_judge_does_not_count(throttle: Throttle) -> None:
    for _ in range(100):
        assert throttle.begin("ann", "192.0.2.1", 0)
        throttle.undecided("ann", "192.0.2.1", 0)


def test_peers_without_a_name_are_not_one_user(throttle: Throttle) -> None:
    assert [throttle.begin("", f"192.0.2.{number}", 0) for number in range(20)] == [True] * 20


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("/run/mqlift.sock", "/run/mqlift.sock"),
    ],
)
def test_an_ipv6_peer_is_its_network(peer: str, expected: str) -> None:
    assert site(peer) == expected


def test_zero_is_no_limit() -> None:
    throttle = Throttle(ThrottleLimits(per_address=0, per_user=0))
    assert all(throttle.begin("ann", "192.0.2.1", 0) for _ in range(1_000))


def test_tables_are_bounded(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COUNTED", 50)
    monkeypatch.setattr(module, "MAX_TRUSTED", 50)
    for number in range(200):
        user, peer = f"{number}-" + "x" * 70_000, f"10.0.0.{number}"
        throttle.begin(user, peer, 0)
        throttle.succeeded(user, peer, 0)
        throttle.begin("y" * 70_000 + str(number), f"10.0.1.{number}", 0)
    for table in (throttle._addresses._counts, throttle._users._counts):
        assert len(table) <= 50
        assert all(len(name) <= module.MAX_NAME_LENGTH for name in table)
    assert len(throttle._trusted) == 50
