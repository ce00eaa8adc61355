"""A backend, publishers and consumers that do what a test tells them to, and remember what was done with them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from gateway.core.backend import Depth, Entry, Limits, QueueSpec, Received, Target
from gateway.core.delivery import Delivery
from gateway.core.errors import TooLarge
from gateway.core.message import Address, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.subscription import Subscription

LIMITS = Limits(batch_entries=10, batch_bytes=1_000, entry_bytes=500)
TARGET = Target(kind="scripted", name="orders", queue="orders")


def new_metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def message(body: bytes = b"hello", *, key: str = "orders", exchange: str = "") -> Message:
    return Message(Address(exchange, key), body)


async def never(*_: object) -> Sequence[Result]:
    """A request that hangs until it is cancelled."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")


def raising(error: Exception) -> Callable[..., Awaitable[Sequence[Result]]]:
    async def fail(*_: object) -> Sequence[Result]:
        raise error

    return fail


class ScriptedBackend:
    """Accepts everything and delivers `inbox`, unless a test puts a function of its own in place of an `on_…`."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.inbox: deque[Received] = deque()
        self.sent: list[list[bytes]] = []
        self.settled: list[tuple[list[str], Outcome]] = []
        self.extended: list[list[str]] = []
        self.asked: list[int] = []
        """The limit of every `receive`."""
        self.polls = 0
        self.ensured: list[str] = []
        self.removed: list[str] = []
        self.closed = False
        self.on_send: Callable[[Sequence[Entry]], Awaitable[Sequence[Result]]] = _accept
        self.on_settle: Callable[[Sequence[str]], Awaitable[Sequence[Result]]] = _accept
        self.on_extend: Callable[[Sequence[str]], Awaitable[Sequence[Result]]] = _accept
        self.on_receive: Callable[[int], Awaitable[object]] | None = None
        self.on_ensure: Callable[[Target], Awaitable[object]] | None = None
        self.on_remove: Callable[[Target], Awaitable[object]] | None = None
        self.on_probe: Callable[[Target], Awaitable[object]] | None = None
        self._arrived = asyncio.Event()

    def arrive(self, *bodies: bytes, attempt: int = 1) -> None:
        """Messages come into the queue; the receipt of each is `r-` and its body."""
        for body in bodies:
            self.inbox.append(Received(message(body), "r-" + body.decode(), attempt))
        self._arrived.set()

    @property
    def deleted(self) -> list[str]:
        return [receipt for receipts, outcome in self.settled if outcome is Outcome.ACCEPTED for receipt in receipts]

    @property
    def released(self) -> list[str]:
        return [receipt for receipts, outcome in self.settled if outcome is Outcome.RELEASED for receipt in receipts]

    def home(self, queue: str, spec: QueueSpec) -> Target:
        return Target(kind="scripted", name=queue, queue=queue)

    def encode(self, target: Target, message: Message) -> Entry:
        size = len(message.body)
        if size > self.limits.entry_bytes:
            raise TooLarge(f"{size} bytes", resource=target.name)
        key = message.headers.get("key")
        return Entry(message.body, size, key if isinstance(key, str) else None)

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        self.sent.append([entry.payload for entry in entries if isinstance(entry.payload, bytes)])
        return await self.on_send(entries)

    async def receive(self, target: Target, limit: int, wait: float, visibility: float) -> Sequence[Received]:
        self.asked.append(limit)
        self.polls += 1
        try:
            if self.on_receive is not None:
                await self.on_receive(limit)
            return await self._take(limit, wait)
        finally:
            self.polls -= 1

    async def _take(self, limit: int, wait: float) -> Sequence[Received]:
        try:
            async with asyncio.timeout(wait):
                while not self.inbox:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return []
        return [self.inbox.popleft() for _ in range(min(limit, len(self.inbox)))]

    async def settle(self, target: Target, receipts: Sequence[str], outcome: Outcome) -> Sequence[Result]:
        self.settled.append((list(receipts), outcome))
        return await self.on_settle(receipts)

    async def extend(self, target: Target, receipts: Sequence[str], visibility: float) -> Sequence[Result]:
        self.extended.append(list(receipts))
        return await self.on_extend(receipts)

    async def ensure(self, target: Target, spec: QueueSpec) -> None:
        if self.on_ensure is not None:
            await self.on_ensure(target)
        self.ensured.append(target.name)

    async def probe(self, target: Target) -> None:
        if self.on_probe is not None:
            await self.on_probe(target)

    async def remove(self, target: Target) -> None:
        if self.on_remove is not None:
            await self.on_remove(target)
        self.removed.append(target.name)

    async def depth(self, target: Target) -> Depth:
        return Depth(ready=len(self.inbox), unsettled=0, delayed=0)

    async def aclose(self) -> None:
        self.closed = True


async def _accept(entries: Sequence[object]) -> Sequence[Result]:
    return [ACCEPTED] * len(entries)


@dataclass(eq=False)
class Publisher:
    """Remembers its answers; counts the reasons for which it is paused."""

    answers: list[tuple[object, Result]] = field(default_factory=list)
    pauses: set[object] = field(default_factory=set)

    def answer(self, token: object, result: Result) -> None:
        self.answers.append((token, result))

    def pause(self, reason: object) -> None:
        assert reason not in self.pauses, "paused twice for one reason"
        self.pauses.add(reason)

    def resume(self, reason: object) -> None:
        self.pauses.remove(reason)

    def outcome_of(self, token: object) -> Outcome:
        """The one answer to a token."""
        (result,) = (result for known, result in self.answers if known == token)
        return result.outcome


@dataclass(eq=False)
class Consumer(Publisher):
    """Holds what it is handed until the test settles it."""

    deliveries: list[Delivery] = field(default_factory=list)
    taken: bool = False
    times_cancelled: int = 0

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        assert 0 < subscription.held <= subscription.prefetch, "handed more than its credit"
        self.deliveries.append(delivery)

    def cancelled(self, subscription: Subscription) -> None:
        assert subscription.cancelled
        self.times_cancelled += 1

    def taken_over(self) -> None:
        self.taken = True

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.message.body for delivery in self.deliveries]

    def settle(self, outcome: Outcome = Outcome.ACCEPTED) -> None:
        """End all that it holds."""
        deliveries, self.deliveries = self.deliveries, []
        for delivery in deliveries:
            delivery.source.settle(delivery, outcome)
