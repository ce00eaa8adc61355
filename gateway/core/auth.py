"""The ports that decide who may connect, and who may do what."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from gateway.core.certificate import Certificate
from gateway.core.errors import NotAuthorized

EXTERNAL = "EXTERNAL"
"""The SASL mechanism of a peer that has proved who it is below the protocol: by a certificate (RFC 4422 appendix A)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a peer gave to prove who it is. The password never shows in `repr`.

    The session says what its protocol carries; the connection that hosts it adds `peer` and `certificate`.
    """

    protocol: str
    client_id: str = ""
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    """Also a token, where tokens are taken."""
    mechanism: str = ""
    """Of SASL, where the protocol has it: `PLAIN`, `AMQPLAIN`, `EXTERNAL`. Empty: the protocol's own login."""
    peer: str = ""
    """The peer's address without its port; a load balancer's PROXY header counts. Empty when it is not known."""
    certificate: Certificate | None = None
    """The one that TLS has verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a peer is, once it is known. An anonymous peer has an empty user."""

    user: str = ""
    client_id: str = ""
    """What the peer calls itself. Nothing has proved it."""
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] | None = None
    """What a token grants, as it says it. None: this peer came without a token."""
    expires_at: float | None = None
    """Seconds since 1970-01-01 UTC, after which nothing is allowed any more. None: never."""

    def __hash__(self) -> int:
        # Of what differs most: it is looked up for every message.
        return hash((self.user, self.client_id))


def renewed(before: Identity, after: Identity) -> Identity:
    """The identity that goes on when a peer proves again who it is (AMQP's `connection.update-secret`).

    Raises `NotAuthorized` when it is somebody else now: what the connection holds was given to the first one.
    """
    if before.user != after.user:
        raise NotAuthorized("access refused")
    return after


class Authenticator(Protocol):
    """Decides who a peer is."""

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Raises `NotAuthorized`, without a hint about which part was wrong, and `Refused` when it cannot tell now."""


class Action(Enum):
    """What a peer may or may not do."""

    # By identity, as members are compared: Enum's own is written in Python, and this is looked up for every message.
    __hash__ = object.__hash__

    PUBLISH = "publish"
    """To an exchange with a routing key."""
    SUBSCRIBE = "subscribe"
    """Bind a queue of the peer's own to an exchange with a pattern: then RECEIVE is asked for each message. Or consume,
    get from or purge a queue that is not its own: then the exchange is empty, the key its name."""
    RECEIVE = "receive"
    """A message of an exchange and a routing key, from a queue of the peer's own."""
    DECLARE = "declare"
    """Create or delete a queue (the exchange is empty, the key its name) or an exchange (the key is empty)."""
    BIND_SOURCE = "bind source"
    """Have what an exchange gets under a pattern routed to another exchange, or to a queue that is not the peer's own:
    nobody is asked about the messages later."""
    BIND_DESTINATION = "bind destination"
    """Have such a queue (the exchange is empty, the key its name) or exchange (the key is empty) fed by a binding."""


class Authorizer(Protocol):
    """Decides what a peer may do. Asked for every message: it must answer at once."""

    def allows(self, identity: Identity, action: Action, exchange: str, key: str) -> bool:
        """`key`: a routing key; a pattern for SUBSCRIBE and BIND_SOURCE; or the name of a queue, see `Action`."""
