"""The port of a protocol: a session takes bytes and a clock, and gives commands and bytes.

A session does no I/O and knows no event loop. The connection that hosts it calls its methods from one thread,
executes the commands they return in order, and then writes `data_to_send()`. Commands with a `token` are answered by
exactly one `answer(token, result)`, possibly before the next command is executed, possibly much later and in any
order among the concurrent ones (`Publish`, `Retain`, `KeepInflight`, `Get`, `Aside`). Control commands (all others but
`Settle`, `EndSession` and `Close`) are executed one after the other, each after the one before it was answered;
commands that follow one wait behind it, and meanwhile nothing is read. A session that has several streams of commands
in one connection wraps control commands in `Aside`, and sees to the order within each stream itself. After `taken_over`
or `shutdown`, control commands that would have to wait, or wait already, are answered RELEASED at once: so a session
that closes when everything is answered does so soon.

A session never raises for what a peer sends: it answers with its protocol's own error and a `Close` command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time as wall_clock
from typing import Protocol

from gateway.core.commands import Command
from gateway.core.delivery import Delivery
from gateway.core.metrics import Count
from gateway.core.outcome import Result


class Session(Protocol):
    """One connection's protocol state. `now` is always the event loop's clock, in seconds."""

    deadline: float
    """When `tick` has to be called next; infinity for never. Read after every other call."""

    established: bool
    """Whether the peer has been let in. A connection that takes too long for it is closed."""

    congested: bool
    """Whether the session holds back more than it wants to: while it does, the peer is not read."""

    @property
    def assembling(self) -> int:
        """Bytes that unfinished messages have in all, as the peer has announced them; at most, where it has not."""

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        """Bytes from the peer, cut anywhere."""

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        """The result of a command."""

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        """Encode a delivery. True: the session holds it until it returns a `Settle` for it, or ends.

        False: the connection settles it as accepted as soon as the bytes have gone to the operating system.
        """

    def needs_body(self, delivery: Delivery) -> bool:
        """Whether the body of a delivery has not been encoded yet, or may be needed again. Asked for large ones."""

    def tick(self, now: float) -> Sequence[Command]:
        """Time has passed `deadline`: send heart-beats, give up on a silent peer."""

    def reading(self, active: bool, now: float) -> None:
        """The connection stopped (False) or went on (True) reading: a peer that is not read is not silent."""

    def data_to_send(self) -> bytes:
        """Take what is to be written."""

    def cancelled(self, tag: str) -> Sequence[Command]:
        """A consumer's queue is gone, and the consumer with it (`Consume.cancellable`). What it holds stays its own."""

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
