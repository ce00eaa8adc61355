"""The port that decides who may connect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a peer gave to prove who it is. The password never shows in `repr`."""

    protocol: str
    client_id: str = ""
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a peer is, once it is known. An anonymous peer has an empty user."""

    user: str = ""


class Authenticator(Protocol):
    """Decides who a peer is."""

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Raises `NotAuthorized`, without a hint about which part was wrong."""
