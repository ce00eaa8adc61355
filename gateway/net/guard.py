"""What one peer may do: the one place that asks the `Authorizer`."""

from __future__ import annotations

from typing import Final

from gateway.core.auth import Action, Authorizer, Identity
from gateway.core.commands import Publish
from gateway.core.errors import NotAuthorized
from gateway.core.message import DEFAULT_EXCHANGE, Address

EVERY_KEY: Final = "#"
"""The pattern of a binding that leaves nothing out."""


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

    def check_binding(self, source: str, pattern: str) -> None:
        """To have what comes under a pattern routed to where nobody is asked about it. Raises `NotAuthorized`."""
        if not self._authorizer.allows(self.identity, Action.BIND_SOURCE, source, pattern):
            raise NotAuthorized(f"binding to '{pattern}' is not allowed")

    def check_feeding(self, exchange: str, queue: str) -> None:
        """To have an exchange, or with an empty one a queue, fed by a binding. Raises `NotAuthorized`."""
        if not self._authorizer.allows(self.identity, Action.BIND_DESTINATION, exchange, queue):
            raise NotAuthorized(f"binding '{exchange or queue}' is not allowed")

    def check_dead_letters(self, queue: str, exchange: str, key: str) -> None:
        """To have what a queue gives up published to an exchange, under a key or, if that is empty, its own.

        Raises `NotAuthorized`.
        """
        self.check_subscribing(DEFAULT_EXCHANGE, queue)
        self.check_onward(exchange, key)

    def check_alternate(self, exchange: str, alternate: str) -> None:
        """To have what an exchange has no place for routed by another one. Raises `NotAuthorized`."""
        self.check_binding(exchange, EVERY_KEY)
        self.check_onward(alternate)

    def check_onward(self, exchange: str, key: str = "") -> None:
        """To have an exchange fed by what is given up elsewhere. Raises `NotAuthorized`."""
        if exchange == DEFAULT_EXCHANGE:  # it leads to the queue of that name
            self.check_publishing(Address(exchange, key))
        else:
            self.check_feeding(exchange, "")

    def may_declare(self, exchange: str, queue: str) -> bool:
        """Whether the peer may make and delete an exchange or, with an empty one, a queue."""
        return self._authorizer.allows(self.identity, Action.DECLARE, exchange, queue)

    def check_declaring(self, exchange: str, queue: str) -> None:
        """Raises `NotAuthorized`."""
        if not self.may_declare(exchange, queue):
            raise NotAuthorized(f"configuring '{exchange or queue}' is not allowed")

    def may_receive(self, address: Address) -> bool:
        """Whether a message with this address is for the peer."""
        return self._authorizer.allows(self.identity, Action.RECEIVE, *address)
