"""The port of tracing: what is told of a message on its way, for those who follow it through several systems.

Without a tracer none of this is called. `traceparent` is the header of W3C Trace Context
(https://www.w3.org/TR/trace-context/), which MQTT 5 carries as a user property, AMQP and STOMP as a header.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.core.backend import Answerable, Target
from gateway.core.delivery import Delivery
from gateway.core.message import Message

TRACEPARENT: Final = "traceparent"


class Tracer(Protocol):
    """Called for every message, from the event loop: it must not wait."""

    def published(self, message: Message, waiter: Answerable) -> tuple[Message, Answerable]:
        """A message has come. What is routed in its place, and who is told its result in place of `waiter`."""

    def sent(self, target: Target, message: Message, waiter: Answerable) -> Answerable:
        """It goes to a resource of a backend. Who is told in place of `waiter` what became of it there."""

    def delivering(self, queue: str, delivery: Delivery) -> None:
        """A consumer gets it. What it gets, and who hears of the settlement, may be replaced in the delivery."""
