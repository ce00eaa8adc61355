"""The port of a service whose records are read at positions and stay: a log in shards, such as a Kinesis stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol, runtime_checkable

from gateway.core.backend import Target
from gateway.core.errors import BackendError
from gateway.core.message import Message


class PositionLost(BackendError):
    """What `seek` gave is not valid any more (in Kinesis after five minutes): seek again."""

    retriable = True


class Whence(Enum):
    """What a position is measured from."""

    FIRST = "first"
    """The oldest record that is kept."""
    NEXT = "next"
    """What is written from now on."""
    TIME = "time"
    """The first record that arrived at `time` or later."""
    AT = "at"
    """Message number `index` of the record `sequence`."""
    AFTER = "after"
    """The record behind `sequence`."""
    END = "end"
    """The shard is closed, and all of it has been read."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one shard. `time`: seconds since 1970-01-01 UTC. `index` counts the messages of one record from 0."""

    whence: Whence
    sequence: str = ""
    index: int = 0
    time: float = 0.0


FIRST: Final = Position(Whence.FIRST)
NEXT: Final = Position(Whence.NEXT)
END: Final = Position(Whence.END)


class Shard(NamedTuple):
    """A part of a stream, in which order is kept. It goes on in its children once it was split or merged."""

    id: str
    """Letters, digits, `_`, `.` and `-`."""
    parents: tuple[str, ...] = ()
    open: bool = True
    """Whether it still takes records."""


class StreamRecord:
    """One record: several messages where it is an aggregated one, and none where its producer put none into it.

    `arrived`: seconds since 1970-01-01 UTC. `size` in bytes, as it counts towards what may be read at once.
    """

    __slots__ = ("arrived", "messages", "sequence", "size")

    def __init__(self, sequence: str, messages: Sequence[Message], arrived: float, size: int) -> None:
        self.sequence = sequence
        self.messages = messages
        self.arrived = arrived
        self.size = size


class Page(NamedTuple):
    """What one `read` gave, or one event of a subscription.

    `iterator` is for the next `read`, or the sequence number to go on behind with the next subscription; None when the
    shard is closed and this was its end.
    """

    records: Sequence[StreamRecord]
    iterator: str | None
    behind: bool
    """Whether there is more to be read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """What may be read of one shard, by everybody who reads it."""

    reads_per_second: float
    bytes_per_second: int
    page_records: int
    """Records in one `read` at most."""
    subscription_seconds: float
    """Between two subscriptions of one consumer to a shard, from the beginning of the first."""


@runtime_checkable
class StreamBackend(Protocol):
    """What a `Backend` offers besides, when its resources are streams. Errors are those of `Backend`."""

    read_limits: ReadLimits

    async def shards(self, target: Target) -> Sequence[Shard]:
        """All shards of which anything is kept, parents and children alike."""

    async def seek(self, target: Target, shard: str, position: Position) -> str:
        """An iterator for `read`; `position` is any but `END`. A record that is not kept any more: the oldest one."""

    async def read(self, target: Target, shard: str, iterator: str, limit: int) -> Page:
        """At most `limit` records, from the first one, in order. Does not wait for any. Raises `PositionLost`."""

    # Records that are brought, to consumers which the service knows: `Target.pushed`

    async def enroll(self, target: Target, consumer: str) -> None:
        """Have the consumer known to the service. Raises `NotFound` when it is not, and may not be made."""

    def subscribe(
        self, target: Target, consumer: str, shard: str, position: Position
    ) -> AbstractAsyncContextManager[AsyncIterator[Page]]:
        """Pages as they come, until the subscription ends: entered when the service has agreed, ended by leaving.

        `position` is any but `END`. What nobody asks for waits in the network. The first page is there soon, empty when
        there is nothing. Entering and iterating raise `BackendError`: `Contended` when somebody else has taken over.
        """
