"""The ports of a backend: what an adapter of a queue, topic or stream service must offer the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from gateway.core.message import Message
from gateway.core.outcome import Outcome, Result
from gateway.core.transform import Transform

NO_CAPTURES: Mapping[str, str] = MappingProxyType({})

Provision: TypeAlias = Literal["auto", "never"]
"""Whether resources that are missing are created, or are an error that names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request of the service takes; each backend states its own, with the source."""

    batch_entries: int
    """Entries in one `send` at most."""
    batch_bytes: int
    """Sum of `Entry.size` in one `send` at most."""
    entry_bytes: int
    """`Entry.size` at most; `encode` raises `TooLarge` over it."""
    receive_entries: int = 10
    """Deliveries of one `receive` at most; 0 for a service that is only sent to: `receive` and what follows from it are
    never called."""
    max_wait: float = 20.0
    """Seconds that one `receive` may wait for a message."""
    max_hold: float = 12 * 3600.0
    """Seconds that a delivery may stay with one consumer, renewals included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One place in a backend that a message goes to, or a queue lives in.

    `kind` is the adapter's folder name (`sqs`), `name` the resource as the adapter knows it (a name, an ARN or a URL).
    `queue` is the hub's name of a queue that lives there, and empty for a mere destination.
    `options` are the adapter's own, checked when the configuration was read; `captures` are what the rule's pattern
    took out of the legacy name, for the templates in them.
    """

    kind: str
    name: str
    queue: str = ""
    options: object = None
    label: str = ""
    """What metrics call it, where it is one of many alike; its queue or name otherwise."""
    captures: Mapping[str, str] = field(default_factory=lambda: NO_CAPTURES, compare=False)
    transform: Transform | None = None
    """What the rule changes of a message; `encode` sends `transformed(target.transform, message)`."""
    best_effort: bool = False
    """Whether publishes are acknowledged without waiting for this target."""
    tail: str = ""
    """Of a stream that feeds the live subscribers of the rule's topics: the topic of records that do not say theirs, as
    MQTT writes it. `{partition_key}` stands for the record's key. Empty: it does not feed them."""
    pushed: tuple[str, ...] = ()
    """Of a stream that is read here: consumers to which the service brings records, by the names that it knows them by.
    They are for consumers of the same names; what feeds a `tail` is the one that is named here."""
    pass_over: float | None = None
    """Of a queue whose consumers may have selectors: the seconds that a message is hidden which none of them takes."""
    fanout: tuple[str, ...] | None = None
    """The resources of the queues that the service itself is to hand a message to; None where no rule asks for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """How a queue was asked for, in AMQP's terms. `arguments` are RabbitMQ's `x-` arguments."""

    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)
    lossy: bool = False
    """When a virtual queue is full: whether it drops what comes (a live subscription), or gives it back."""
    accepts: Callable[[Message], bool] | None = field(default=None, compare=False)
    """Of a virtual queue: which of the messages that are routed to it are wanted, besides what its arguments say."""

    @property
    def virtual(self) -> bool:
        """Whether the queue lives in the memory of this gateway and makes nothing in AWS."""
        return self.exclusive or self.auto_delete or not self.durable


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """Approximate message counts of a queue."""

    ready: int
    unsettled: int
    delayed: int


class Answerable(Protocol):
    """Somebody who waits for the result of a publish: a connection, or the merge of several targets."""

    def answer(self, token: object, result: Result) -> None:
        """Called exactly once for each token, from the event loop; must not raise."""


class Entry:
    """One message as it will be sent: encoded once, kept unchanged through every retry.

    `payload` is the adapter's; `size` counts towards the service's byte limits; entries with equal `key` stay in order.
    `joined` are entries that became part of this one, see `join`. `deadline` is when the sender gives up, on the event
    loop's clock: a backend that needs several requests for an entry tries those again no longer. The other fields
    belong to the sender.
    """

    __slots__ = ("attempts", "deadline", "joined", "key", "payload", "size", "token", "waiter")

    def __init__(self, payload: object, size: int, key: str | None = None) -> None:
        self.payload = payload
        self.size = size
        self.key = key
        self.attempts = 0
        self.deadline = 0.0
        self.token: object = None
        self.waiter: Answerable | None = None
        self.joined: list[Entry] | None = None

    def join(self, later: Entry) -> bool:  # noqa: ARG002 - for adapters that can
        """Take in a later entry of the same key, so that both are sent as one, or say False. Only before the first
        attempt.

        An adapter whose service has a record for several messages overrides this: it adds the payload, counts
        `later.size` in `size`, and appends to `joined`.
        """
        return False


class LargeBody(Protocol):
    """A body that is kept elsewhere. Its message was handed out without it."""

    @property
    def ordered(self) -> bool:
        """Whether what its queue hands out later has to wait for it."""

    async def fetch(self) -> bytes:
        """Wait for memory, and get the body. Raises `BackendError`. It counts as held in memory until `forget`."""

    def forget(self) -> None:
        """Nobody has it in memory any more; it may be fetched again. Idempotent."""


class Received:
    """One message that a backend handed out. `receipt` is opaque to the hub; `attempt` counts from 1.

    `uid` names the message: the same each time that it is handed out. `stored_at`: seconds since 1970-01-01 UTC, when
    the backend took it; 0 when it does not say. `large`: where its body is, if that is not in the message.
    """

    __slots__ = ("attempt", "large", "message", "receipt", "stored_at", "uid")

    def __init__(
        self,
        message: Message,
        receipt: str,
        attempt: int = 1,
        uid: str = "",
        stored_at: float = 0.0,
        large: LargeBody | None = None,
    ) -> None:
        self.message = message
        self.receipt = receipt
        self.attempt = attempt
        self.uid = uid
        self.stored_at = stored_at
        self.large = large


@runtime_checkable
class Redriving(Protocol):
    """What a `Backend` offers besides, where the service itself takes messages away that were received too often."""

    async def redriven_after(self, target: Target) -> int | None:
        """The receives that a message of this queue survives; None for any number. Raises `BackendError`."""


class Backend(Protocol):
    """A service that keeps messages. One object serves all its queues or streams; a gateway has one for each kind.

    Called only from the event loop. Coroutines raise nothing but `BackendError`, for the whole request (and pass on
    cancellation); what concerns one entry is in that entry's `Result`. Retries, batching, back-off and concurrency are
    the hub's: a backend makes one attempt.
    """

    limits: Limits

    def home(self, queue: str, spec: QueueSpec) -> Target:
        """The target of a hub queue that no rule maps. Pure; raises `Invalid` when the service cannot have it."""

    def encode(self, target: Target, message: Message) -> Entry:
        """Build what will be sent. Pure; raises `Invalid` or `TooLarge`."""

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        """Send one batch within `limits`; one result for each entry, in their order.

        Returns only after the service answered for every entry; `outcome.ACCEPTED`, that very object, means that the
        service has stored it.
        """

    async def receive(self, target: Target, limit: int, wait: float, visibility: float) -> Sequence[Received]:
        """Take at most `limit` messages (1 to `limits.receive_entries`), waiting at most `wait` seconds for the first.

        They stay hidden from others for `visibility` seconds, then come back unless extended or settled.
        """

    async def settle(self, target: Target, receipts: Sequence[str], outcome: Outcome) -> Sequence[Result]:
        """End deliveries: ACCEPTED and REJECTED delete them, RELEASED makes them visible at once.

        At most `limits.batch_entries` receipts. A delivery that is no longer ours gives `ReceiptExpired`.
        """

    async def extend(self, target: Target, receipts: Sequence[str], visibility: float) -> Sequence[Result]:
        """Hide deliveries for `visibility` seconds from now. At most `limits.batch_entries` receipts."""

    async def ensure(self, target: Target, spec: QueueSpec) -> None:
        """Find the resource, or create it where that is allowed. Raises `NotFound`, `AccessDenied`, …; idempotent."""

    async def probe(self, target: Target) -> None:
        """Find the resource without creating it. Raises `NotFound`, `AccessDenied`, or `CredentialsInvalid`."""

    async def remove(self, target: Target) -> None:
        """Remove a queue with its messages. One that is not there is removed already."""

    async def depth(self, target: Target) -> Depth:
        """Approximate counts of a queue."""

    async def aclose(self) -> None:
        """Close connections; requests in flight are abandoned. Idempotent."""
