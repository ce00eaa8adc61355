"""The port of a protocol: a session takes bytes and a clock, and gives commands and bytes.

A session does no I/O and knows no event loop. The connection that hosts it calls its methods from one thread,
executes the commands they return in order, and then writes `data_to_send()`. Commands with a `token` are answered by
exactly one `answer(token, result)`, possibly before the next command is executed, possibly much later and in any
order among the concurrent ones (`Publish`, `Retain`, `KeepInflight`). Control commands (all others but `Settle`,
`EndSession` and `Close`) are executed one after the other, each after the one before it was answered; commands that
follow one wait behind it. After `taken_over` or `shutdown`, control commands that would have to wait, or wait already,
are answered RELEASED at once: so a session that closes when everything is answered does so soon.

A session never raises for what a peer sends: it answers with its protocol's own error and a `Close` command.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import time as wall_clock
from typing import Protocol, TypeAlias

from gateway.core.auth import Credentials, Identity
from gateway.core.backend import QueueSpec, Received
from gateway.core.errors import MqliftError
from gateway.core.message import Message
from gateway.core.metrics import Count
from gateway.core.outcome import Outcome, Result


class Publish:
    """Route a message. With a token of None nobody waits for the result, and none is given."""

    __slots__ = ("message", "token")

    def __init__(self, message: Message, token: object = None) -> None:
        self.message = message
        self.token = token


class Settle:
    """End deliveries that `deliver` left with the session. Never answered."""

    __slots__ = ("deliveries", "outcome")

    def __init__(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        self.deliveries = deliveries
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Who is this? Answered `Authenticated`, or REJECTED with `NotAuthorized`."""

    credentials: Credentials
    token: object


class Authenticated(Result):
    """The peer is let in, as somebody."""

    __slots__ = ("identity",)

    def __init__(self, identity: Identity) -> None:
        super().__init__(Outcome.ACCEPTED)
        self.identity = identity


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Be the only connection with this client id, and go on with the session it left, if any is kept.

    Another connection that has the client id, here, is told by `taken_over()` first. What waited for the session's end
    (its expiry, a delayed will) is called off. With `clean`, the session that is kept is forgotten, with its queue.
    Answered `Opened`, or RELEASED when the store does not answer.
    """

    client_id: str
    clean: bool
    token: object


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """What outlives a session's connection. `state` and `inflight` mean something only to their protocol."""

    queue: str = ""
    """The durable queue that its messages wait in; empty for none. Its bindings are those of `bindings`."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Those that the queue was declared with; the hub fills them in."""
    bindings: tuple[tuple[str, str], ...] = ()
    """(exchange, pattern) of each."""
    shared: tuple[str, ...] = ()
    """Shared queues that the session takes part in."""
    expiry: float = math.inf
    """Seconds that the session is kept when the gateway ends without a word."""
    state: bytes = b""
    inflight: bytes = b""


class Opened(Result):
    """The session is this connection's. `record` is what was kept of it, None for a new one."""

    __slots__ = ("record",)

    def __init__(self, record: SessionRecord | None) -> None:
        super().__init__(Outcome.ACCEPTED)
        self.record = record


@dataclass(frozen=True, slots=True)
class KeepSession:
    """Keep the session: when answered, it survives its connection and the gateway. `record.inflight` is left alone.

    The record's queue has been declared. REJECTED with `Refused` when there are too many kept sessions.
    """

    client_id: str
    record: SessionRecord
    token: object


@dataclass(frozen=True, slots=True)
class KeepInflight:
    """Keep the part of the session that changes with messages. Answered when it, or a later one, is durable.

    Concurrent: written in order, several at once where they come faster than the store.
    """

    client_id: str
    inflight: bytes
    token: object


@dataclass(frozen=True, slots=True)
class EndSession:
    """The connection of a session ends. Executed whatever has become of the connection; never answered.

    `expiry`: seconds that the session is kept, infinity for ever; with 0, it and its queue are removed. `will` is
    published after `will_delay` seconds, or when the session ends before that, unless it is opened again in time.
    """

    client_id: str
    expiry: float
    will: Message | None = None
    will_delay: float = 0.0


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Remove a durable queue, with its messages and bindings. ACCEPTED also when there was none."""

    queue: str
    token: object


@dataclass(frozen=True, slots=True)
class Retain:
    """Keep a message as the last one of its address; an empty body forgets it. Concurrent, answered when durable.

    It is not routed by this: a `Publish` of the same message does that.
    """

    message: Message
    token: object


@dataclass(frozen=True, slots=True)
class SendRetained:
    """Put the retained messages whose addresses match a pattern into a queue, each with the header `RETAINED`."""

    queue: str
    exchange: str
    pattern: str
    token: object


@dataclass(frozen=True, slots=True)
class DeclareQueue:
    """Have a queue of this name. A virtual one belongs to this connection and ends with it."""

    queue: str
    spec: QueueSpec
    token: object


@dataclass(frozen=True, slots=True)
class Bind:
    """Route from an exchange to a queue by a pattern of words, `*` (one word) and `#` (any number)."""

    queue: str
    exchange: str
    pattern: str
    token: object


@dataclass(frozen=True, slots=True)
class Unbind:
    """Undo a `Bind`. ACCEPTED also when there was none."""

    queue: str
    exchange: str
    pattern: str
    token: object


@dataclass(frozen=True, slots=True)
class Consume:
    """Deliver a queue's messages to this session as `deliver(tag, …)`, with at most `prefetch` unsettled at a time."""

    tag: str
    queue: str
    prefetch: int
    token: object


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a `Consume`. What is unsettled stays with the session, which may still settle it."""

    tag: str
    token: object


@dataclass(frozen=True, slots=True)
class Close:
    """Write what is left to send, then close the connection. `error` is None for an orderly end."""

    reason: str
    error: MqliftError | None = None


Command: TypeAlias = (
    Publish
    | Settle
    | Authenticate
    | OpenSession
    | KeepSession
    | KeepInflight
    | EndSession
    | DeclareQueue
    | DeleteQueue
    | Bind
    | Unbind
    | Consume
    | Cancel
    | Retain
    | SendRetained
    | Close
)

NO_COMMANDS: Sequence[Command] = ()


class Delivery:
    """One message on its way to one consumer, until it is settled exactly once.

    `redelivered`: it may have been delivered before. `attempt` counts from 1. `uid` is the same each time that the
    backend delivers the same message, and empty where nothing outlives the connection.
    """

    __slots__ = ("attempt", "due", "held_until", "message", "receipt", "settled", "source", "subscription", "uid")

    def __init__(self, received: Received, source: DeliverySource) -> None:
        self.message = received.message
        self.receipt = received.receipt
        self.uid = received.uid
        self.attempt = received.attempt
        self.source = source
        self.settled = False
        self.due = 0.0
        self.held_until = 0.0
        self.subscription: object = None

    @property
    def redelivered(self) -> bool:
        return self.attempt > 1


class DeliverySource(Protocol):
    """The queue that a delivery came from."""

    name: str

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take the consumer's word. Returns at once; the backend is told in a batch."""


class Session(Protocol):
    """One connection's protocol state. `now` is always the event loop's clock, in seconds."""

    deadline: float
    """When `tick` has to be called next; infinity for never. Read after every other call."""

    established: bool
    """Whether the peer has been let in. A connection that takes too long for it is closed."""

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        """Bytes from the peer, cut anywhere."""

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        """The result of a command."""

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        """Encode a delivery. True: the session holds it until it returns a `Settle` for it, or ends.

        False: the connection settles it as accepted as soon as the bytes have gone to the operating system.
        """

    def tick(self, now: float) -> Sequence[Command]:
        """Time has passed `deadline`: send heart-beats, give up on a silent peer."""

    def reading(self, active: bool, now: float) -> None:
        """The connection stopped (False) or went on (True) reading: a peer that is not read is not silent."""

    def data_to_send(self) -> bytes:
        """Take what is to be written."""

    def unsettled(self) -> Sequence[Delivery]:
        """What the session still holds; the connection releases it when it ends."""

    def taken_over(self) -> Sequence[Command]:
        """Another connection has claimed the client id: say so, publish what the protocol asks for, and close."""

    def shutdown(self) -> Sequence[Command]:
        """The gateway stops: say so if the protocol can, publish what it asks for, and close."""

    def connection_lost(self) -> Sequence[Command]:
        """The socket is gone. What follows is `Settle`, `KeepInflight`, `EndSession`, and `Publish` without a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext:
    """What a new session is told about where it lives."""

    peer: str
    """Address and port of the peer, for error texts and log lines."""
    server: str
    """Name and version of this product."""
    settings: object
    """The protocol's own settings, checked."""
    time: Callable[[], float] = wall_clock
    """Seconds since 1970-01-01 UTC: for what has to mean the same to other gateways, such as the age of a message."""
    discarded: Count = field(default_factory=Count)
    """Deliveries that the session ends without sending them: expired ones, and those too large for the peer."""


class SessionFactory(Protocol):
    """How a protocol folder offers itself: `session.open_session`."""

    def __call__(self, context: SessionContext, now: float) -> Session: ...
