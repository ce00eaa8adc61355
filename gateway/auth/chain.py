"""Logging in: the ways that are configured, one after the other, behind one door that tells nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from gateway.auth.throttle import Throttle
from gateway.core.auth import Credentials, Identity
from gateway.core.errors import NotAuthorized, Refused

log = structlog.get_logger("mqlift.auth")

REFUSED: Final = "access refused"
"""All that a peer is ever told."""

_SHOWN: Final = 64
"""Characters of a name in the log; a peer chooses its length."""


class Way(Protocol):
    """One way to prove who one is."""

    async def identify(self, credentials: Credentials) -> Identity | None:
        """Who it is. None when the credentials are not of this way, or wrong: the next one is asked.

        Raises `Refused` when it cannot tell now.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """The ways in, in the order in which they are asked."""

    proofs: Sequence[Way] = ()
    """What nobody can guess, certificates and tokens: never throttled, so no stranger can lock their owners out."""
    secrets: Sequence[Way] = ()
    """What can be guessed: passwords."""
    anonymous: bool = False
    """Whether a peer that gives neither name nor password is let in, as nobody in particular. When there is no other
    way, every peer is: a name that nothing can prove is not looked at."""

    @property
    def none(self) -> bool:
        """Whether nobody can be let in."""
        return not (self.proofs or self.secrets or self.anonymous)


class Chain:
    """The authenticator of a gateway."""

    def __init__(self, ways: Ways, throttle: Throttle, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, from any start."""
        self._throttle = throttle
        self._clock = clock
        self._ways = ways

    def use(self, ways: Ways, throttle: Throttle) -> None:
        """Ask others from now on. Who is in stays in."""
        self._ways = ways
        self._throttle = throttle

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Raises `NotAuthorized`, the same for every reason, and `Refused` when nobody can tell now."""
        identity, unsure = await _first(self._ways.proofs, credentials)
        if identity is None and self._may_be_anonymous(credentials):
            identity = Identity()
        if identity is None:
            identity = await self._by_secret(credentials, unsure)
        return replace(identity, client_id=credentials.client_id)

    def _may_be_anonymous(self, credentials: Credentials) -> bool:
        ways = self._ways
        nothing_given = not credentials.username and not credentials.password
        return ways.anonymous and (nothing_given or not (ways.proofs or ways.secrets))

    async def _by_secret(self, credentials: Credentials, unsure: Refused | None) -> Identity:
        """Ask for what can be guessed, unless there were too many guesses. `unsure`: why no proof could be judged."""
        throttle, user, peer = self._throttle, credentials.username or "", credentials.peer
        if not throttle.begin(user, peer, self._clock()):
            self._tell(credentials, "too_many_failures")
            raise NotAuthorized(REFUSED)
        identity, still_unsure = await _first(self._ways.secrets, credentials)
        if identity is not None:
            throttle.succeeded(user, peer, self._clock())
            return identity
        unsure = still_unsure or unsure
        if unsure is not None:
            throttle.undecided(user, peer, self._clock())
            raise unsure
        self._tell(credentials, "wrong")
        raise NotAuthorized(REFUSED)

    def _tell(self, credentials: Credentials, reason: str) -> None:
        log.info(
            "login_refused",
            reason=reason,
            protocol=credentials.protocol,
            peer=credentials.peer,
            user=(credentials.username or "")[:_SHOWN],
            client_id=credentials.client_id[:_SHOWN],
        )


async def _first(ways: Sequence[Way], credentials: Credentials) -> tuple[Identity | None, Refused | None]:
    """Who the first way knows; and the last reason of those that cannot tell, which does not keep others from it."""
    unsure: Refused | None = None
    for way in ways:
        try:
            identity = await way.identify(credentials)
        except Refused as error:
            unsure = error
        else:
            if identity is not None:
                return identity, None
    return None, unsure
