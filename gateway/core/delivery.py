"""A message on its way to a consumer."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from gateway.core.backend import Received
from gateway.core.outcome import Outcome


class Delivery:
    """One message on its way to one consumer, until it is settled exactly once.

    `redelivered`: it may have been delivered before. `attempt` counts from 1. `uid` is the same each time that the
    backend delivers the same message, and empty where nothing outlives the connection. `large`: where the body is that
    the message was handed out without, None for nearly all; while it is `absent`, it is not in the message.
    """

    __slots__ = (
        "absent",
        "attempt",
        "due",
        "held_until",
        "large",
        "message",
        "receipt",
        "settled",
        "source",
        "stored_at",
        "subscription",
        "uid",
    )

    def __init__(self, received: Received, source: DeliverySource) -> None:
        self.message = received.message
        self.receipt = received.receipt
        self.uid = received.uid
        self.attempt = received.attempt
        self.stored_at = received.stored_at
        self.large = received.large
        self.absent = self.large is not None
        self.source = source
        self.settled = False
        self.due = 0.0
        self.held_until = 0.0
        self.subscription: object = None

    @property
    def redelivered(self) -> bool:
        return self.attempt > 1

    async def load(self) -> None:
        """Have the body in the message, where it is not. Raises `BackendError`."""
        if self.large is not None and self.absent:
            body = await self.large.fetch()
            self.message = replace(self.message, body=body)
            self.absent = False

    def strip(self) -> None:
        """Let go of a large body that has been encoded; those bytes still take the memory that it had."""
        if self.large is not None and not self.absent:
            self.message = replace(self.message, body=b"")
            self.absent = True

    def unload(self) -> None:
        """A large body is in memory no more: neither in the message nor encoded. Idempotent."""
        if self.large is not None:
            self.strip()
            self.large.forget()


class DeliverySource(Protocol):
    """The queue that a delivery came from."""

    name: str

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take the consumer's word. Returns at once; the backend is told in a batch."""
