"""What one peer may do: the one place that asks the `Authorizer`."""

from __future__ import annotations

from gateway.core.auth import Action, Authorizer, Identity
from gateway.core.errors import NotAuthorized
from gateway.core.message import Address
from gateway.core.session import Publish


class Guard:
    """Asks for one peer. Where nothing is forbidden to anybody, a connection has none."""

    __slots__ = ("_authorizer", "identity")

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self.identity = Identity()
        """Nobody, before the peer has said who it is: it may do nothing yet that is asked about."""

    def refusal(self, address: Address) -> NotAuthorized | None:
        """Why the peer may not publish to an address; None when it may."""
        if self._authorizer.allows(self.identity, Action.PUBLISH, *address):
            return None
        return NotAuthorized(f"publishing to '{address.routing_key}' is not allowed")

    def refusal_of(self, command: Publish) -> NotAuthorized | None:
        """Why the peer may not publish a message, with all its routing keys; None when it may."""
        exchange, key = command.message.address
        for each in (key, *command.also):
            refusal = self.refusal(Address(exchange, each))
            if refusal is not None:
                return refusal
        return None

    def check_publishing(self, address: Address) -> None:
        """Raises `NotAuthorized`."""
        refusal = self.refusal(address)
        if refusal is not None:
            raise refusal

    def check_subscribing(self, exchange: str, key: str) -> None:
        """To an exchange by a pattern, or to a queue, whose exchange is the default one. Raises `NotAuthorized`."""
        if not self._authorizer.allows(self.identity, Action.SUBSCRIBE, exchange, key):
            raise NotAuthorized(f"subscribing to '{key}' is not allowed")

    def may_receive(self, address: Address) -> bool:
        """Whether a message with this address is for the peer."""
        return self._authorizer.allows(self.identity, Action.RECEIVE, *address)
