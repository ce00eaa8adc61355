"""What a peer can do wrong. Each error becomes one ERROR frame: `title` is its `message` header, `str()` its body."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.errors import ProtocolError

_SHOWN = 100
"""Characters of what a peer sent that are repeated to it, and in a log line."""


def shown(text: str) -> str:
    """What a peer sent, fit for an error's text."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


class StompError(ProtocolError):
    """The root of what is answered with an ERROR frame and the end of the connection."""

    title = "Protocol error"


class MalformedFrame(StompError):
    """Bytes that are no STOMP frame."""

    title = "Malformed frame"


class FrameTooLarge(StompError):
    """A frame, or a part of one, over a limit of this listener."""

    title = "Frame too large"


class BadCommand(StompError):
    """A command that does not exist, or not here and now."""

    title = "Bad command"


class BadHeader(StompError):
    """A header that is missing, or whose value cannot be."""

    title = "Invalid header"


class MissingHeader(BadHeader):
    """A header that the frame cannot be without."""

    title = "Missing header"


class MissingTransaction(MissingHeader):
    """A BEGIN, COMMIT or ABORT of nothing."""

    title = "Missing transaction"


class BadDestination(StompError):
    """A destination that this dialect does not know."""

    title = "Unknown destination"


class InvalidDestination(BadDestination):
    """A destination of a kind that is known, with a name that cannot be, or where it cannot be used."""

    title = "Invalid destination"


class DuplicateSubscription(BadHeader):
    """A SUBSCRIBE with an id that is in use."""

    title = "Duplicated subscription identifier"


class UnknownSubscription(BadHeader):
    """An UNSUBSCRIBE of what is not subscribed."""

    title = "No subscription found"


class BadTransaction(StompError):
    """A transaction that was begun already, or never, or that lasts too long."""

    title = "Bad transaction"


class BadSelector(StompError):
    """A selector that is none."""

    title = "Invalid selector"


class SubscriptionCancelled(StompError):
    """The queue of a subscription was deleted."""

    title = "Server cancelled subscription"


class VersionMismatch(StompError):
    """The peer speaks none of the versions offered."""

    title = "Version mismatch"

    def __init__(self, offered: Sequence[str]) -> None:
        super().__init__(f"Supported versions are {','.join(offered)}")


class UnknownMessage(StompError):
    """An ACK or NACK of a message that this connection does not hold."""

    title = "Subscription not found"


class Silence(StompError):
    """The peer promised heart-beats and sent nothing."""

    title = "Heart-beat missed"
