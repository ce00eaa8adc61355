"""What all connections of a gateway share: how many there may be, from where and of whom."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final

from gateway.core.addresses import site
from gateway.core.budget import ByteBudget
from gateway.core.errors import Refused
from gateway.net.pace import Pace, PublishRate

ATTEMPT_BURST: Final = 10.0
"""Seconds of attempts at the full rate that an address may make at once: a site's devices all come back together."""

MAX_REMEMBERED: Final = 20_000
"""Addresses that tried, and users that published and left; those of the longest ago are forgotten first."""

GATEWAY_CONNECTIONS: Final = "gateway_connections"
ADDRESS_CONNECTIONS: Final = "address_connections"
ADDRESS_ATTEMPTS: Final = "address_attempts"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """Of all listeners together; 0 for any number."""

    connections: int = 0
    address_connections: int = 0
    """From one address; of IPv6, from one network."""
    address_attempts: float = 0.0
    """Connections that an address may begin in a second."""
    user_connections: int = 0
    """Of one user, who has a name."""
    user_rate: PublishRate = field(default_factory=PublishRate)
    """Of all connections of one user together."""


class Quotas:
    """Gives each connection its seat, from when it is accepted until it is gone."""

    def __init__(self, limits: QuotaLimits | None = None, budget: ByteBudget | None = None) -> None:
        """`budget`: memory for large bodies, also of others than connections."""
        self.limits = limits or QuotaLimits()
        self.budget = budget or ByteBudget()
        self.connections = 0
        self._by_address = _counts_addresses(self.limits)
        self._addresses: Counter[str] = Counter()
        self._attempts = _Attempts(self.limits.address_attempts)
        self._users: dict[str, _User] = {}
        self._left: OrderedDict[str, Pace] = OrderedDict()
        """What users owe that have no connection now: they must not be rid of it by coming back."""

    def change(self, limits: QuotaLimits) -> None:
        """Hold to other limits. What is over them already stays; nothing more comes.

        Connections of before are not counted for addresses and paces that had no limit when they began.
        """
        self.limits = limits
        self._by_address = _counts_addresses(limits)
        self._attempts.change(limits.address_attempts)
        for known in self._users.values():
            if known.pace is None:
                known.pace = limits.user_rate.pace()
            else:
                known.pace.change(limits.user_rate)
        for pace in self._left.values():
            pace.change(limits.user_rate)

    def refusal(self, address: str, now: float) -> str:
        """Why one more from an address gets no seat, by one of the reasons above; empty when it does.

        An attempt counts, whatever comes of it.
        """
        limits = self.limits
        if self._by_address:
            address = site(address)
            if not self._attempts.allowed(address, now):
                return ADDRESS_ATTEMPTS
            if limits.address_connections and self._addresses[address] >= limits.address_connections:
                return ADDRESS_CONNECTIONS
        if limits.connections and self.connections >= limits.connections:
            return GATEWAY_CONNECTIONS
        return ""

    def seat(self, address: str) -> Seat:
        """One for a connection from an address, when there was no `refusal`. To be left again."""
        self.connections += 1
        place = site(address) if self._by_address else ""
        if place:
            self._addresses[place] += 1
        return Seat(self, place)

    def enter(self, user: str) -> Pace | None:
        """One more connection of a user. Raises `Refused`. Only seats call this."""
        known = self._users.get(user)
        if known is None:
            known = self._users[user] = _User(self._left.pop(user, None) or self.limits.user_rate.pace())
        most = self.limits.user_connections
        if most and known.connections >= most:
            raise Refused(f"the user has {most} connections already")
        known.connections += 1
        return known.pace

    def leave(self, address: str, user: str) -> None:
        """One connection less. Only seats call this."""
        self.connections -= 1
        if address:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
        if user:
            self._leave_user(user)

    def _leave_user(self, user: str) -> None:
        known = self._users[user]
        known.connections -= 1
        if known.connections:
            return
        del self._users[user]
        if known.pace is not None:
            self._left[user] = known.pace
            if len(self._left) > MAX_REMEMBERED:
                self._left.popitem(last=False)


class Seat:
    """The place of one connection among all. `taken` is set by the connection, which then leaves it at its end."""

    __slots__ = ("_address", "_left", "_quotas", "_user", "paces", "taken")

    def __init__(self, quotas: Quotas, address: str) -> None:
        self._quotas = quotas
        self._address = address
        self._user = ""
        self._left = False
        self.taken = False
        self.paces: tuple[Pace, ...] = ()
        """What the connection has to keep to: its own, then its user's."""

    @property
    def budget(self) -> ByteBudget:
        """Memory for large bodies."""
        return self._quotas.budget

    def belongs_to(self, user: str) -> None:
        """Who it is, once that is known; the same again changes nothing. Raises `Refused` when the user has too many.

        Those without a name have nothing in common, and nothing to share.
        """
        if not user or self._user or self._left:
            return
        pace = self._quotas.enter(user)
        self._user = user
        if pace is not None:
            self.paces = (*self.paces, pace)

    def leave(self) -> None:
        """There is room again. Idempotent."""
        if not self._left:
            self._left = True
            self._quotas.leave(self._address, self._user)


def _counts_addresses(limits: QuotaLimits) -> bool:
    return bool(limits.address_connections or limits.address_attempts)


class _User:
    """Somebody with connections."""

    __slots__ = ("connections", "pace")

    def __init__(self, pace: Pace | None) -> None:
        self.connections = 0
        self.pace = pace


class _Attempts:
    """When the attempts of each address are paid for: a token bucket each, as in `Pace`, that refuses."""

    __slots__ = ("_each", "_paid")

    def __init__(self, rate: float) -> None:
        self._paid: OrderedDict[str, float] = OrderedDict()
        self.change(rate)

    def change(self, rate: float) -> None:
        """Allow so many in a second from now on, 0 for any number. What was paid for stays paid for."""
        self._each = 1.0 / rate if rate else 0.0

    def allowed(self, address: str, now: float) -> bool:
        """Count an attempt, and say whether it may be made. Those that may not cost nothing, or none ever could."""
        if not self._each:
            return True
        paid = max(self._paid.get(address, 0.0), now - max(ATTEMPT_BURST, self._each)) + self._each
        if paid > now + _ROUNDING:
            return False
        self._paid[address] = paid
        self._paid.move_to_end(address)
        if len(self._paid) > MAX_REMEMBERED:
            self._paid.popitem(last=False)
        return True


_ROUNDING: Final = 1e-6
"""Seconds that sums of fractions may be off."""
