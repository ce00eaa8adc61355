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
    headers: Sequence[tuple[str, str]] = ()
    """More headers of the ERROR frame."""


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

    title = "Bad header"


class BadDestination(StompError):
    """A destination that this dialect does not know."""

    title = "Unknown destination"


class VersionMismatch(StompError):
    """The peer speaks none of the versions offered."""

    title = "Version mismatch"

    def __init__(self, offered: Sequence[str]) -> None:
        super().__init__(f"the versions that are spoken here: {', '.join(offered)}")
        # [STOMP 1.2, Protocol Negotiation]
        self.headers = (("version", ",".join(offered)),)


class UnknownMessage(StompError):
    """An ACK or NACK of a message that this connection does not hold."""

    title = "Message not found"


class Silence(StompError):
    """The peer promised heart-beats and sent nothing."""

    title = "Heart-beat missed"
