"""What a peer can do wrong. Each error becomes one ERROR frame: `title` is its `message` header, `str()` its body.

Where RabbitMQ's plugin has an error for it, the words are the plugin's, with their final line feed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from gateway.core.errors import Locked, MqliftError, ProtocolError
from gateway.core.topology import UnknownExchange, UnknownQueue

_SHOWN = 100
"""Characters of what a peer sent that are repeated to it, and in a log line."""


def shown(text: str) -> str:
    """What a peer sent, fit for an error's text."""
    return repr(_cut(text))


def quoted(text: str) -> str:
    """The same in double quotes, where RabbitMQ has them."""
    return json.dumps(_cut(text), ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def from_amqp(error: MqliftError) -> tuple[str, str] | None:
    """Title and text of an error that RabbitMQ's plugin passes on from AMQP; None for any other."""
    if isinstance(error, UnknownQueue):
        return "not_found", f"NOT_FOUND - no queue '{error.queue}' in vhost '/'"
    if isinstance(error, UnknownExchange):
        return "not_found", f"NOT_FOUND - no exchange '{error.exchange}' in vhost '/'"
    if isinstance(error, Locked):
        return "resource_locked", f"RESOURCE_LOCKED - {error}"
    return None


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


class IllegalCommand(BadCommand):
    """A command before CONNECT."""

    title = "Illegal command"

    def __init__(self) -> None:
        super().__init__("You must log in using CONNECT first")


class BadHeader(StompError):
    """A header that is missing, or whose value cannot be."""

    title = "Invalid header"


class MissingHeader(BadHeader):
    """A header that the frame cannot be without."""

    title = "Missing header"


class MissingDestination(MissingHeader):
    """A SEND or SUBSCRIBE without one."""

    title = "Missing destination"


class MissingDestinationOrId(MissingHeader):
    """An UNSUBSCRIBE that does not say of what."""

    title = "Missing destination or id"

    def __init__(self) -> None:
        super().__init__("UNSUBSCRIBE must include a 'destination' or 'id' header")


class MissingTransaction(MissingHeader):
    """A BEGIN, COMMIT or ABORT of nothing."""

    title = "Missing transaction"


class BadDestination(StompError):
    """A destination that this dialect does not know."""

    title = "Unknown destination"


class InvalidDestination(BadDestination):
    """A destination of a kind that is known, with a name that cannot be, or where it cannot be used."""

    title = "Invalid destination"


class ReservedName(BadDestination):
    """A queue that would have to be declared under a name that is not for clients (AMQP 0-9-1, queue.declare)."""

    title = "access_refused"

    def __init__(self, queue: str) -> None:
        super().__init__(f"ACCESS_REFUSED - queue name '{queue}' contains reserved prefix 'amq.*'")


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
        super().__init__(f"Supported versions are {','.join(offered)}\n")


class UnknownMessage(StompError):
    """An ACK or NACK of a message that this connection does not hold."""

    title = "Subscription not found"


class Silence(StompError):
    """The peer promised heart-beats and sent nothing."""

    title = "Heart-beat missed"
