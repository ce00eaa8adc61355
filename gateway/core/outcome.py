"""What became of a message: published (by a backend) or delivered (by a consumer).

The names are those of AMQP 1.0's terminal delivery states (amqp-core-messaging §3.4).
"""

from __future__ import annotations

from enum import IntEnum

from gateway.core.errors import BackendError, MqliftError


class Outcome(IntEnum):
    """Ordered from good to bad: the worst of several outcomes is their maximum."""

    ACCEPTED = 0
    """Responsibility was taken: stored by the backend, or processed by the consumer."""
    RELEASED = 1
    """Not taken this time; the same message may be taken later."""
    REJECTED = 2
    """Will never be taken as it is: too large, illegal, or refused by the consumer for good."""


class Result:
    """The outcome of one message at one place, with the reason when it was not accepted.

    `routed` is False only for a message that was accepted and had nowhere to go: AMQP returns it when it is
    `mandatory`, the others count it.
    """

    __slots__ = ("error", "outcome", "routed")

    def __init__(self, outcome: Outcome, error: MqliftError | None = None, *, routed: bool = True) -> None:
        self.outcome = outcome
        self.error = error
        self.routed = routed

    def __repr__(self) -> str:
        return f"Result({self.outcome.name}, {self.error!r}, routed={self.routed})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return (self.outcome, self.error, self.routed) == (other.outcome, other.error, other.routed)

    __hash__ = None  # type: ignore[assignment]  # errors compare by identity; results are no keys


ACCEPTED = Result(Outcome.ACCEPTED)
UNROUTED = Result(Outcome.ACCEPTED, routed=False)


def failed(error: BackendError) -> Result:
    """The result of an entry that was not taken: rejected where it never will be, and released otherwise."""
    return Result(Outcome.REJECTED if error.permanent else Outcome.RELEASED, error)


def worse(one: Result, other: Result) -> Result:
    """The merge rule for a message that went to several places: the worst outcome wins, the first of equals speaks."""
    return other if other.outcome > one.outcome else one
