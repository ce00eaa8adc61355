"""The port of a dialect: what a kind of broker calls its queues and topics, and which headers it puts around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gateway.core.backend import QueueSpec
from gateway.core.message import NO_HEADERS, Address, Headers, Message, Origin
from gateway.protocols.stomp.errors import BadDestination, shown
from gateway.protocols.stomp.versions import Version

MAX_NAME = 255
"""Bytes of a queue name, exchange name or routing key: AMQP's short string, as in RabbitMQ."""

TEMPORARY = "stomp-temp-"
"""Begins the names of queues and topics that belong to one connection; its session's id and a name follow."""

DURABLE = QueueSpec(durable=True)
PRIVATE = QueueSpec(durable=False, exclusive=True)
"""A temporary queue: ends with its connection."""
LIVE = QueueSpec(durable=False, exclusive=True, auto_delete=True, lossy=True)
"""Of a live subscription: ends with its only consumer, and drops what that does not keep up with."""


class Owner(NamedTuple):
    """Whose connection it is."""

    session_id: str
    client_id: str = ""


NOBODY = Owner("")


@dataclass(frozen=True, slots=True)
class Source:
    """A queue that is needed. `spec` is None for one that somebody else has declared; bindings are (exchange, key).

    `exact`: it is to be just this, for one consumer; what an earlier subscription of its name has asked for goes, with
    the messages that came by it. `selector`: of what is in the queue, the consumer wants what that matches.
    """

    queue: str
    spec: QueueSpec | None
    bindings: tuple[Address, ...] = ()
    exact: bool = False
    selector: str = ""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a SUBSCRIBE says about how it is to be delivered to."""

    prefetch: int | None = None
    """Messages that it may hold; below 1 any number, None for not said."""
    priority: int = 0
    """Of the consumer among others."""
    sole: bool = False
    """Whether it wants everything, and others nothing, while it is there."""
    others_only: bool = False
    """Whether what its own connection sends is not for it."""
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)
    """For a stream: where to begin, and the consumer's name."""


class Target(NamedTuple):
    """One place that a SEND goes to, and the queue that has to be there first, if any."""

    address: Address
    queue: Source | None = None


class ReplyTo(NamedTuple):
    """What a `reply-to` that names a temporary destination stands for.

    `text` is published instead; `queue` has to be there first. `subscription`: the id of the subscription to it that
    the gateway makes by itself.
    """

    text: str
    queue: str | None = None
    subscription: str | None = None


class Sender:
    """Whose SENDs these are, and what a broker puts on each: the time, and an id that no other message has."""

    __slots__ = ("_prefix", "_sent", "clock", "origin")

    def __init__(self, origin: Origin, clock: Callable[[], float], session_id: str) -> None:
        """`clock` gives seconds since 1970-01-01 UTC."""
        self.origin = origin
        self.clock = clock
        self._prefix = f"ID:{session_id}-"
        self._sent = 0

    def next_id(self) -> str:
        self._sent += 1
        return f"{self._prefix}{self._sent}"


class Dialect(Protocol):
    """How one kind of broker reads and writes destinations and headers. One object serves all connections."""

    ids_required: bool
    """Whether a SUBSCRIBE of version 1.1 or 1.2 without an id is refused, as the specification says."""
    early_receipts: bool
    """Whether a SEND in a transaction gets its receipt at once: it has been put there. Otherwise after the COMMIT."""
    message_id_prefix: str
    redelivered_lines: tuple[str, str]
    """What a MESSAGE says about itself when it is delivered for the first time, and when perhaps not."""
    claims_client_ids: bool
    """Whether a `client-id` belongs to one connection at a time."""
    dead_letter_queue: str | None
    """Where a NACK moves its message, and no other, to. None: a NACK gives back, and is cumulative as an ACK is."""

    def targets(self, destination: str, headers: Mapping[str, str], owner: Owner) -> Sequence[Target]:
        """Where a SEND goes. Raises `StompError` or `Refused`."""

    def sources(self, headers: Mapping[str, str], owner: Owner, live_queue: str) -> Sequence[Source]:
        """What a SUBSCRIBE consumes. `live_queue` is the name of its live queue, should it need one.

        Raises `StompError`, or `Refused` for what is not offered.
        """

    def wishes(self, headers: Mapping[str, str]) -> Wishes:
        """How a SUBSCRIBE wants to be delivered to. Raises `BadHeader`."""

    def forgotten(self, headers: Mapping[str, str], owner: Owner, sources: Sequence[Source]) -> Sequence[str]:
        """Durable queues that an UNSUBSCRIBE gives up. `sources` are its subscription's, if it names one."""

    def reply_to(self, reply_to: str, owner: Owner) -> ReplyTo | None:
        """What the `reply-to` of a SEND stands for, unless it is published as it is. Raises `BadDestination`."""

    def selector(self, selector: str) -> str:
        """What the hub understands by a selector of this dialect, see `core.selector.CONVERTING`."""

    def format(self, address: Address, owner: Owner) -> str:
        """The destination header of a message that was published to `address`."""

    def original(self, address: Address, queue: str) -> Address | None:
        """Where a message was really published, when it is shown as one of the queue that it is consumed from."""

    def to_message(self, headers: Mapping[str, str], address: Address, body: bytes, sender: Sender) -> Message:
        """What a SEND publishes. Raises `BadHeader`, or `Refused` for what is not offered."""

    def message_lines(self, message: Message, version: Version, owner: Owner) -> str:
        """The header lines of a MESSAGE that come from the message itself, with the length of its body."""


def bounded(name: str, destination: str) -> str:
    """Raises `BadDestination` for a name over `MAX_NAME`."""
    if len(name.encode(errors="replace")) > MAX_NAME:
        raise BadDestination(f"{shown(destination)} has a name over {MAX_NAME} bytes")
    return name


def temporary_name(owner: Owner, name: str) -> str:
    return f"{TEMPORARY}{owner.session_id}-{name}"
