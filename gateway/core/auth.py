"""The ports that decide who may connect, and who may do what."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
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


class Action(Enum):
    """What a peer may or may not do."""

    PUBLISH = "publish"
    """To an exchange with a routing key."""
    SUBSCRIBE = "subscribe"
    """Bind a queue to an exchange with a pattern, or consume a queue: then the exchange is empty, the key its name."""
    RECEIVE = "receive"
    """A message of an exchange and a routing key."""


class Authorizer(Protocol):
    """Decides what a peer may do. Asked for every message: it must answer at once."""

    def allows(self, identity: Identity, action: Action, exchange: str, key: str) -> bool:
        """`key`: a routing key or, for SUBSCRIBE, a pattern or the name of a queue."""
