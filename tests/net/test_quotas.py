"""Seats: counted by gateway, address and user, given back once, and bounded in what is remembered."""

from __future__ import annotations

import pytest

from gateway.core.errors import Refused
from gateway.net import quotas as quotas_module
from gateway.net.pace import PublishRate
from gateway.net.quotas import (
    ADDRESS_ATTEMPTS,
    ADDRESS_CONNECTIONS,
    ATTEMPT_BURST,
    GATEWAY_CONNECTIONS,
    QuotaLimits,
    Quotas,
    Seat,
)

NOW = 1_000.0


def take(quotas: Quotas, address: str = "192.0.2.1", now: float = NOW) -> Seat | str:
    return quotas.refusal(address, now) or quotas.seat(address)


def seat(quotas: Quotas, address: str = "192.0.2.1") -> Seat:
    taken = take(quotas, address)
    assert isinstance(taken, Seat), taken
    return taken


def test_without_limits_everybody_has_a_seat() -> None:
    quotas = Quotas()
    seats = [seat(quotas) for _ in range(1_000)]
    assert quotas.connections == 1_000
    for each in seats:
        each.belongs_to("ann")
        each.leave()
        each.leave()
    assert quotas.connections == 0
    assert not quotas._addresses
    assert not quotas._users


def test_a_gateway_has_so_many() -> None:
    quotas = Quotas(QuotaLimits(connections=2))
    first, _ = seat(quotas, "192.0.2.1"), seat(quotas, "192.0.2.2")
    assert take(quotas, "192.0.2.3") == GATEWAY_CONNECTIONS
    first.leave()
    seat(quotas, "192.0.2.3")


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"),
        ("/run/a.sock", "/run/a.sock", "/run/b.sock"),
    ],
)
def test_an_address_has_so_many(one: str, same: str, other: str) -> None:
    quotas = Quotas(QuotaLimits(address_connections=2))
    seats = [seat(quotas, one), seat(quotas, same)]
    assert take(quotas, one) == ADDRESS_CONNECTIONS
    assert take(quotas, same) == ADDRESS_CONNECTIONS
    seat(quotas, other)
    seats[0].leave()
    seat(quotas, same)


def test_an_address_may_try_so_often() -> None:
    quotas = Quotas(QuotaLimits(address_attempts=2))
    at_once = int(2 * ATTEMPT_BURST)
    assert not any(quotas.refusal("192.0.2.1", NOW) for _ in range(at_once))
    assert {quotas.refusal("192.0.2.1", NOW) for _ in range(1_000)} == {ADDRESS_ATTEMPTS}
    assert not quotas.refusal("192.0.2.2", NOW), "others are not concerned"
    later = NOW + 1.0
    assert [quotas.refusal("192.0.2.1", later) for _ in range(3)] == ["", "", ADDRESS_ATTEMPTS]
    assert not any(quotas.refusal("192.0.2.1", NOW + 3_600) for _ in range(at_once))


def test_a_rate_below_one_in_the_burst_lets_one_in() -> None:
    quotas = Quotas(QuotaLimits(address_attempts=0.01))
    assert [quotas.refusal("192.0.2.1", NOW) for _ in range(2)] == ["", ADDRESS_ATTEMPTS]


def test_no_more_addresses_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "MAX_REMEMBERED", 100)
    quotas = Quotas(QuotaLimits(address_attempts=1))
    for number in range(1_000):
        quotas.refusal(f"2001:db8:0:{number:x}::1", NOW)
    assert len(quotas._attempts._paid) == 100


def test_a_user_has_so_many_and_the_anonymous_are_not_one() -> None:
    quotas = Quotas(QuotaLimits(user_connections=2))
    seats = [seat(quotas) for _ in range(4)]
    seats[0].belongs_to("ann")
    seats[0].belongs_to("ann")
    seats[1].belongs_to("ann")
    with pytest.raises(Refused, match="the user has 2 connections already"):
        seats[2].belongs_to("ann")
    seats[2].belongs_to("bob")
    for each in (seats[3], seat(quotas), seat(quotas)):
        each.belongs_to("")
    seats[0].leave()
    seats[3].belongs_to("ann")
    for each in seats:
        each.leave()
    assert not quotas._users


def test_connections_of_a_user_share_a_pace_and_have_their_own_before_it() -> None:
    quotas = Quotas(QuotaLimits(user_rate=PublishRate(messages=8)))
    one, two, other, nobody = (seat(quotas) for _ in range(4))
    own = PublishRate(messages=1).pace()
    assert own is not None
    one.paces = (own,)
    for each, user in ((one, "ann"), (two, "ann"), (other, "bob"), (nobody, "")):
        each.belongs_to(user)
    assert one.paces == (own, two.paces[0])
    assert other.paces[0] is not two.paces[0]
    assert nobody.paces == ()


def test_who_leaves_and_comes_back_owes_what_it_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "MAX_REMEMBERED", 2)
    quotas = Quotas(QuotaLimits(user_rate=PublishRate(messages=8)))

    def pace(user: str) -> object:
        one = seat(quotas)
        one.belongs_to(user)
        one.leave()
        return one.paces[0]

    first = pace("ann")
    assert pace("ann") is first
    for user in ("bob", "cat", "dan"):
        pace(user)
    assert len(quotas._left) == 2
    assert pace("ann") is not first, "forgotten, as the oldest"


def test_a_seat_that_was_left_is_nobodys() -> None:
    quotas = Quotas(QuotaLimits(user_connections=1))
    one = seat(quotas)
    one.leave()
    one.belongs_to("ann")
    assert not quotas._users


# Other limits, while it runs


def test_other_limits_are_for_what_comes_and_not_for_what_is_there() -> None:
    quotas = Quotas()
    seats = [seat(quotas) for _ in range(3)]
    quotas.change(QuotaLimits(connections=2))
    assert take(quotas) == GATEWAY_CONNECTIONS
    for each in seats:
        each.leave()
    seats = [seat(quotas), seat(quotas)]
    assert take(quotas) == GATEWAY_CONNECTIONS
    quotas.change(QuotaLimits())
    seat(quotas)


def test_addresses_are_counted_from_when_they_have_a_limit() -> None:
    quotas = Quotas()
    before = seat(quotas)
    quotas.change(QuotaLimits(address_connections=1))
    counted = seat(quotas)
    assert take(quotas) == ADDRESS_CONNECTIONS
    before.leave()
    assert take(quotas) == ADDRESS_CONNECTIONS
    counted.leave()
    quotas.change(QuotaLimits())
    assert not quotas._addresses


def test_attempts_that_are_paid_for_stay_paid_for() -> None:
    quotas = Quotas(QuotaLimits(address_attempts=1))
    assert not any(quotas.refusal("192.0.2.1", NOW) for _ in range(int(ATTEMPT_BURST)))
    quotas.change(QuotaLimits(address_attempts=2))
    assert quotas.refusal("192.0.2.1", NOW) == ADDRESS_ATTEMPTS
    assert [quotas.refusal("192.0.2.1", NOW + 1.0) for _ in range(3)] == ["", "", ADDRESS_ATTEMPTS]
    quotas.change(QuotaLimits())
    assert not quotas.refusal("192.0.2.1", NOW)


def test_users_who_are_in_keep_to_another_rate() -> None:
    quotas = Quotas(QuotaLimits(user_rate=PublishRate(messages=1)))
    ann, bob = seat(quotas), seat(quotas)
    ann.belongs_to("ann")
    bob.belongs_to("bob")
    bob.leave()
    quotas.change(QuotaLimits(user_rate=PublishRate(messages=8)))
    bob = seat(quotas)
    bob.belongs_to("bob")
    for each in (ann, bob):
        (pace,) = each.paces
        assert [pace.spend(0, NOW) > 0 for _ in range(9)] == [False] * 8 + [True]
    quotas.change(QuotaLimits())
    assert all(each.paces[0].spend(0, NOW + 1.0) <= 0 for each in (ann, bob) for _ in range(100))


def test_users_of_before_there_was_a_rate_keep_to_it_with_their_next_connection() -> None:
    quotas = Quotas()
    first, second = seat(quotas), seat(quotas)
    first.belongs_to("ann")
    quotas.change(QuotaLimits(user_rate=PublishRate(messages=1)))
    second.belongs_to("ann")
    assert (len(first.paces), len(second.paces)) == (0, 1)
