"""Failed logins are counted for each address and each user: whoever guesses has to wait."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from gateway.core.addresses import site

MAX_COUNTED: Final = 20_000
"""Addresses, and users, that are counted at once; those that failed longest ago are forgotten first."""

MAX_TRUSTED: Final = 20_000
"""Pairs of user and address that have logged in."""

MAX_NAME_LENGTH: Final = 256
"""Characters of a user's name that are counted by: a peer may give one of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleLimits:
    """Failed logins within `window` seconds before further ones are refused unseen; 0 for any number."""

    per_address: int = 100
    per_user: int = 20
    window: float = 60.0


class Throttle:
    """Counts attempts before they are checked, so that many at once count as well, and takes back those that succeed.

    A user whose name others guess at can still log in from an address where that worked before.
    """

    def __init__(self, limits: ThrottleLimits) -> None:
        self._limits = limits
        self._addresses = _Failures(limits.per_address, limits.window)
        self._users = _Failures(limits.per_user, limits.window)
        self._trusted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin(self, user: str, peer: str, now: float) -> bool:
        """Whether an attempt may be checked; it counts as failed until `succeeded` or `undecided`. `now` in seconds."""
        user, address = _counted(user), site(peer)
        by_name = self._is_counted(user, address)
        if self._addresses.full(address, now) or (by_name and self._users.full(user, now)):
            return False
        self._addresses.add(address, now)
        if by_name:
            self._users.add(user, now)
        return True

    def succeeded(self, user: str, peer: str, now: float) -> None:
        """The attempt that began was right. Those that failed before stay counted."""
        self.undecided(user, peer, now)
        pair = (_counted(user), site(peer))
        self._trusted[pair] = None
        self._trusted.move_to_end(pair)
        if len(self._trusted) > MAX_TRUSTED:
            self._trusted.popitem(last=False)

    def undecided(self, user: str, peer: str, now: float) -> None:
        """The attempt that began could not be judged."""
        user, address = _counted(user), site(peer)
        self._addresses.take_back(address, now)
        if self._is_counted(user, address):
            self._users.take_back(user, now)

    def _is_counted(self, user: str, address: str) -> bool:
        """Whether the user counts as well: not who gives no name, nor one that has been here."""
        return bool(user) and (user, address) not in self._trusted


class _Failures:
    """How many for each name; they are forgiven one by one, all of them within a window."""

    __slots__ = ("_counts", "_limit", "_rate")

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._rate = limit / window
        self._counts: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def full(self, name: str, now: float) -> bool:
        return self._limit > 0 and self._count(name, now) > self._limit - 1

    def add(self, name: str, now: float) -> None:
        self._counts[name] = (self._count(name, now) + 1, now)
        self._counts.move_to_end(name)
        if len(self._counts) > MAX_COUNTED:
            self._counts.popitem(last=False)

    def take_back(self, name: str, now: float) -> None:
        count = self._count(name, now) - 1
        if count > 0:
            self._counts[name] = (count, now)
        else:
            self._counts.pop(name, None)

    def _count(self, name: str, now: float) -> float:
        count, since = self._counts.get(name, (0.0, now))
        return max(0.0, count - (now - since) * self._rate)


def _counted(user: str) -> str:
    return user[:MAX_NAME_LENGTH]
