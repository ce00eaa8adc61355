"""What a session asks the hub for, and the results that say more than whether it was done.

When each is executed and answered is said in `core/session.py`, the port.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from gateway.core.auth import Credentials, Identity
from gateway.core.backend import QueueSpec
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError
from gateway.core.exchanges import ExchangeSpec
from gateway.core.message import NO_HEADERS, Headers, Message
from gateway.core.outcome import Outcome, Result


class Publish:
    """Route a message. With a token of None nobody waits for the result, and none is given.

    `also`: more routing keys, for the same exchange; each queue gets the message once (RabbitMQ's CC and BCC).
    """

    __slots__ = ("also", "message", "token")

    def __init__(self, message: Message, token: object = None, also: Sequence[str] = ()) -> None:
        self.message = message
        self.token = token
        self.also = also


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
class ClaimClientId:
    """Be the only connection with this client id, until it ends. Answered ACCEPTED, or with `InUse`."""

    client_id: str
    token: object


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Be the only connection with this client id, and go on with the session it left, if any is kept.

    Another connection that has the client id, here, is told by `taken_over()` first. What waited for the session's end
    (its expiry, a delayed will) is called off. With `clean`, the session that is kept is forgotten, with its queue.
    Answered `Opened`, RELEASED when the store does not answer, or with `NotAuthorized` when the client id is another
    user's: then nothing has changed.
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
    user: str = ""
    """Who it belongs to, empty for an anonymous peer; the hub fills it in."""
    state: bytes = b""
    inflight: bytes = b""
    will: Message | None = None
    """Published after `will_delay` seconds when the gateway ends without a word. A connection's end has its own."""
    will_delay: float = 0.0


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


class Presence(Enum):
    """What a declaration says about something of that name that is there already."""

    ANY = "any"
    """It stays as it is, and will do."""
    EQUIVALENT = "equivalent"
    """It has to be what was asked for, or the declaration is refused with `Inequivalent`."""
    RENEWED = "renewed"
    """It has to be what was asked for; a queue of other arguments is removed with its messages, and made anew. `InUse`
    while it is consumed."""
    REQUIRED = "required"
    """It has to be there, as whatever it is; nothing is made (AMQP's `passive`). `UnknownQueue`, `UnknownExchange`."""


@dataclass(frozen=True, slots=True)
class DeclareExchange:
    """Have an exchange. Answered ACCEPTED, or with `Inequivalent`, `UnknownExchange`, `Refused`."""

    exchange: str
    spec: ExchangeSpec
    token: object
    presence: Presence = Presence.EQUIVALENT


@dataclass(frozen=True, slots=True)
class DeleteExchange:
    """Remove an exchange with its bindings. ACCEPTED also when there was none; `InUse` with `if_unused`."""

    exchange: str
    token: object
    if_unused: bool = False


@dataclass(frozen=True, slots=True)
class DeclareQueue:
    """Have a queue of this name. An exclusive one belongs to this connection and ends with it.

    Answered `Counted`, or with `Inequivalent`, `UnknownQueue`, `Locked` for another connection's exclusive queue,
    `NotSupported` for what the backend cannot do, or the backend's own error.
    """

    queue: str
    spec: QueueSpec
    token: object
    presence: Presence = Presence.ANY


class Counted(Result):
    """It is there, or is done: with so many messages (approximate in AWS) and, for a queue, so many consumers here."""

    __slots__ = ("consumers", "messages")

    def __init__(self, messages: int, consumers: int = 0) -> None:
        super().__init__(Outcome.ACCEPTED)
        self.messages = messages
        self.consumers = consumers


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Remove a queue, with its messages and bindings; its consumers are told. `Counted` also when there was none.

    `if_unused` and `if_empty` refuse with `InUse` and `NotEmpty`; another connection's exclusive queue with `Locked`.
    """

    queue: str
    token: object
    if_unused: bool = False
    if_empty: bool = False


@dataclass(frozen=True, slots=True)
class PurgeQueue:
    """Drop the messages of a queue that nobody holds. Answered `Counted`, or with `UnknownQueue`."""

    queue: str
    token: object


@dataclass(frozen=True, slots=True)
class Bind:
    """Route from an exchange to a queue: by a pattern, or on a headers exchange by `arguments` (AMQP 0-9-1 §3.1.3).

    Answered ACCEPTED when it takes effect, and is durable where both ends are; or `UnknownQueue`, `UnknownExchange`,
    `Refused`.
    """

    queue: str
    exchange: str
    pattern: str
    token: object
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True)
class Unbind:
    """Undo a `Bind`. ACCEPTED also when there was none."""

    queue: str
    exchange: str
    pattern: str
    token: object
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True)
class Rebind:
    """Let a queue have these bindings, (exchange, pattern) each, and no others. Answered like `Bind`.

    What is in the queue stays there, also what came by a binding that is undone.
    """

    queue: str
    bindings: tuple[tuple[str, str], ...]
    token: object


@dataclass(frozen=True, slots=True)
class BindExchange:
    """Route from an exchange (`source`) to another one (`destination`). Answered like `Bind`."""

    destination: str
    source: str
    pattern: str
    token: object
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True)
class UnbindExchange:
    """Undo a `BindExchange`. ACCEPTED also when there was none."""

    destination: str
    source: str
    pattern: str
    token: object
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)


class Creditable(Protocol):
    """A consumer that a shared limit may hold back."""

    def credited(self) -> None:
        """It may have room again."""


class Prefetch:
    """A limit on what several consumers hold together (AMQP's `basic.qos`, global); 0 for none."""

    __slots__ = ("consumers", "held", "limit")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.held = 0
        self.consumers: list[Creditable] = []
        """Kept by the hub."""

    def change(self, limit: int) -> None:
        """Set another limit; consumers may have room again."""
        self.limit = limit
        self.offer()

    def offer(self) -> None:
        """Let all consumers see that there is room."""
        for consumer in self.consumers:
            consumer.credited()


@dataclass(frozen=True, slots=True)
class Consume:
    """Deliver a queue's messages to this session as `deliver(tag, …)`, with at most `prefetch` unsettled at a time.

    `exclusive`: nobody else may consume the queue meanwhile. `sole`: others may, and get nothing while this consumer,
    or one that asked for the same before it, is there (ActiveMQ's exclusive consumer). Among consumers with room, those
    of higher `priority` come first. `shared` is a limit over several consumers of this connection. A consumer that is
    `cancellable` is told by `cancelled(tag)` when its queue is gone; others stay, and go on when the queue is back.

    Of a stream, `arguments` say where to begin and under what name (`core/streams/offset.py`); other queues refuse
    `x-stream-offset`. `acknowledges`: whether the peer does; False when `deliver` never leaves a delivery with the
    session. `unlimited`: the peer has set no limit, and `prefetch` is the gateway's own. `selector`: the consumer wants
    what that matches, and leaves the rest (`core/selector.py`; empty: it wants all). Only queues that a rule lets pass
    messages over have such consumers; others refuse them with `NotSupported`.
    Answered ACCEPTED, or with `UnknownQueue`, `Locked`, `InUse` (an exclusive consumer is, or would be, in the way),
    `InvalidArgument`, `NotSupported`, `Refused` for what a stream cannot do; a stream's backend's own error.
    """

    tag: str
    queue: str
    prefetch: int
    token: object
    exclusive: bool = False
    priority: int = 0
    shared: Prefetch | None = None
    cancellable: bool = False
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)
    acknowledges: bool = True
    sole: bool = False
    unlimited: bool = False
    selector: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a `Consume`. What is unsettled stays with the session, which may still settle it."""

    tag: str
    token: object


@dataclass(frozen=True, slots=True)
class ChangePrefetch:
    """Give a shared limit a new value: consumers may have room again. Never answered."""

    shared: Prefetch
    limit: int


@dataclass(frozen=True, slots=True)
class Get:
    """Take one message, if there is one now. Concurrent; answered `Got`, or with `UnknownQueue`, `Locked`."""

    queue: str
    token: object


class Got(Result):
    """The message, or None. It is the session's until it is settled, which holds for a session that has ended too.

    `remaining`: messages that are still ready, approximately.
    """

    __slots__ = ("delivery", "remaining")

    def __init__(self, delivery: Delivery | None, remaining: int = 0) -> None:
        super().__init__(Outcome.ACCEPTED)
        self.delivery = delivery
        self.remaining = remaining


@dataclass(frozen=True, slots=True)
class Aside:
    """Execute a control command at once and beside all others: what follows does not wait for it. Answered like it."""

    command: ControlCommand


@dataclass(frozen=True, slots=True)
class Close:
    """Write what is left to send, then close the connection. `error` is None for an orderly end."""

    reason: str
    error: MqliftError | None = None


ControlCommand: TypeAlias = (
    Authenticate
    | ClaimClientId
    | OpenSession
    | KeepSession
    | DeclareExchange
    | DeleteExchange
    | DeclareQueue
    | DeleteQueue
    | PurgeQueue
    | Bind
    | Unbind
    | Rebind
    | BindExchange
    | UnbindExchange
    | Consume
    | Cancel
    | SendRetained
)


Command: TypeAlias = (
    Publish | Settle | ControlCommand | Aside | Get | ChangePrefetch | KeepInflight | EndSession | Retain | Close
)


NO_COMMANDS: Sequence[Command] = ()
