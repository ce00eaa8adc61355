"""The two kinds of queue: one that lives in a backend, and one that lives in this gateway's memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from gateway.core.backend import Answerable, QueueSpec, Received, Target
from gateway.core.errors import Refused
from gateway.core.message import Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.receiver import Receiver
from gateway.core.sender import Publisher, Sender
from gateway.core.session import Delivery
from gateway.core.subscription import Consumer, Subscription, Turns

log = structlog.get_logger("mqlift.queues")

VIRTUAL_QUEUE_MESSAGES: Final = 1_000
"""Messages that wait for a slow live subscriber, at most; Mosquitto's `max_queued_messages` has the same default."""

VIRTUAL_QUEUE_BYTES: Final = 16 * 1024 * 1024
"""Bytes that wait for a slow live subscriber, at most."""


class Sink(Protocol):
    """Somewhere that a routed message goes."""

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        """Take a message; exactly one `waiter.answer(token, …)` follows, at once or later."""


class Destination:
    """A rule's target: a resource of a backend, with the rule's options."""

    __slots__ = ("_sender", "_target")

    def __init__(self, sender: Sender, target: Target) -> None:
        self._sender = sender
        self._target = target

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        self._sender.put(self._target, message, publisher, waiter, token)


class BackendQueue:
    """A durable queue: its messages live in a backend, whoever publishes and consumes them.

    What it needs to send and to receive is made when it is first used: thousands of sessions may keep a queue each.
    """

    def __init__(
        self,
        target: Target,
        spec: QueueSpec,
        open_sender: Callable[[Target], Sender],
        open_receiver: Callable[[Target], Receiver],
    ) -> None:
        self.name = target.queue
        self.target = target
        self.spec = spec
        self.ensured = False
        """Whether the backend has said that it is there. One that only a rule names is found, or made, by sending."""
        self._open_sender = open_sender
        self._open_receiver = open_receiver
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None

    @property
    def consumers(self) -> int:
        return 0 if self._receiver is None else self._receiver.consumers

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:
        if self._sender is None:
            try:
                self._sender = self._open_sender(self.target)
            except Refused as error:
                waiter.answer(token, Result(Outcome.REJECTED, error))
                return
        self._sender.put(self.target, message, publisher, waiter, token)

    def consume(self, tag: str, consumer: Consumer, prefetch: int) -> Subscription:
        if self._receiver is None:
            self._receiver = self._open_receiver(self.target)
        subscription = Subscription(tag, self._receiver, consumer, prefetch)
        self._receiver.subscribe(subscription)
        return subscription

    def stop_polling(self) -> None:
        """No new polls; what consumers hold can still be settled."""
        if self._receiver is not None:
            self._receiver.stop()

    async def drain(self) -> None:
        """Wait for the polls under way, and until the backend has answered for every settlement."""
        if self._receiver is not None:
            await self._receiver.finish()
            await self._receiver.settler.drain()

    async def aclose(self) -> None:
        if self._receiver is not None:
            await self._receiver.aclose()
            await self._receiver.settler.aclose()


class VirtualQueue:
    """A queue of one connection: in memory, bounded, gone with its owner. No call to AWS.

    A message for a consumer that does not keep up is dropped when the queue is full, and counted, as brokers do for
    live subscribers: it must hold up neither its publishers nor the gateway's memory.
    """

    def __init__(self, name: str, metrics: Metrics, on_unused: Callable[[], None] | None = None) -> None:
        """`on_unused`: called when the last consumer leaves, for a queue that ends with it (AMQP's auto-delete)."""
        self.name = name
        self._on_unused = on_unused
        self._loop = asyncio.get_running_loop()
        self._turns = Turns()
        self._waiting: deque[Delivery] = deque()
        self._bytes = 0
        # Ahead of those that wait, in the order in which they were given back; no more than consumers may hold.
        self._released: deque[Delivery] = deque()
        self._closed = False
        self._dropped = metrics.dropped
        self._dropping = False
        self._wake: asyncio.Handle | None = None

    def put(self, message: Message, publisher: Publisher, waiter: Answerable, token: object) -> None:  # noqa: ARG002 - Sink
        delivery = Delivery(Received(message, ""), self)
        if self._waiting or self._released or not self._turns.hand(delivery):
            self._keep(delivery)
        waiter.answer(token, ACCEPTED)

    def put_retained(self, message: Message) -> None:
        """Take a message over the bounds: retained ones are in memory anyway, and are as many as the topics."""
        self._waiting.append(Delivery(Received(message, ""), self))
        self._bytes += len(message.body)
        self._wake_up()

    def consume(self, tag: str, consumer: Consumer, prefetch: int) -> Subscription:
        subscription = Subscription(tag, self, consumer, prefetch)
        self._turns.add(subscription)
        self._wake_up()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._turns.remove(subscription)
        if not self._turns and self._on_unused is not None and not self._closed:
            self._on_unused()

    def credited(self, subscription: Subscription) -> None:
        self._turns.offer(subscription)
        self._wake_up()

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """End a delivery, once: a released one is delivered again, ahead of the others, marked redelivered."""
        if delivery.settled:
            return
        delivery.settled = True
        if outcome is Outcome.RELEASED and not self._closed:
            self._released.append(Delivery(Received(delivery.message, "", delivery.attempt + 1), self))
        subscription = delivery.subscription
        if isinstance(subscription, Subscription):
            subscription.settled()

    def close(self) -> None:
        """Drop what waits, and what will be released."""
        self._closed = True
        if self._wake is not None:
            self._wake.cancel()
        self._waiting.clear()
        self._released.clear()

    def _wake_up(self) -> None:
        if self._wake is None and (self._waiting or self._released):
            self._wake = self._loop.call_soon(self._hand_out)

    def _keep(self, delivery: Delivery) -> None:
        size = len(delivery.message.body)
        if len(self._waiting) >= VIRTUAL_QUEUE_MESSAGES or self._bytes + size > VIRTUAL_QUEUE_BYTES:
            self._dropped.inc()
            if not self._dropping:
                self._dropping = True
                log.warning("slow_consumer", queue=self.name, waiting=len(self._waiting), bytes=self._bytes)
            return
        self._waiting.append(delivery)
        self._bytes += size

    def _hand_out(self) -> None:
        self._wake = None
        for line in (self._released, self._waiting):
            while line:
                delivery = line.popleft()
                if not self._turns.hand(delivery):
                    line.appendleft(delivery)
                    return
                if line is self._waiting:
                    self._bytes -= len(delivery.message.body)
        self._dropping = False
