"""Messages that native applications publish, on their way to legacy subscribers: from one queue into the hub.

All replicas of a gateway take them from the same queue in a backend, so each message comes to one of them. It is
deleted there when the hub has accepted it everywhere, and released otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import structlog

from gateway.core.backend import Backend, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.errors import BackendError
from gateway.core.health import FAILURES_TO_REPORT, Health
from gateway.core.message import DEFAULT_EXCHANGE, Address, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.receiver import ReceivePolicy, Receiver
from gateway.core.sender import Publisher
from gateway.core.settler import Settler
from gateway.core.subscription import Subscription
from gateway.core.templates import Template
from gateway.core.trie import swap_separators

log = structlog.get_logger("mqlift.ingress")

PREFETCH: Final = 200
"""Messages of one source that are taken and not yet accepted, at most."""

AGAIN: Final = BatchPolicy(backoff_base=0.5, backoff_cap=30.0)
"""How long a message that was not accepted is kept before it is released, longer after every attempt: it would come
back at once."""

ATTACHING: Final = BatchPolicy(backoff_base=0.5, backoff_cap=15.0)

LOOK: Final = 300.0
"""Seconds between two looks at queue and subscription: somebody may have removed them."""


class Incoming(NamedTuple):
    """A message that came in, and the fields that it has besides those of every message."""

    message: Message
    captures: Mapping[str, str]


class Inlet(Protocol):
    """The side of an adapter: how messages get into the queue, and what they look like in it."""

    async def attach(self) -> None:
        """See that messages arrive in the queue, which is there. Idempotent; raises `BackendError`."""

    def take(self, message: Message) -> Incoming | None:
        """A message as it was published; None for one that this gateway has published itself. Must not raise."""


class Hub(Protocol):
    """The broker."""

    def publish(self, message: Message, publisher: Publisher, token: object) -> None:
        """Route a message; one `publisher.answer(token, …)` follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressRule:
    """Where messages of one source are published. `key` says where in the configuration it stands.

    `routing_key` may have fields; with `as_topic` it is written as an MQTT topic.
    """

    key: str
    exchange: str
    routing_key: Template
    as_topic: bool = False

    @property
    def to_queue(self) -> bool:
        """Whether it names a queue: a message that finds none there is kept, not dropped."""
        return self.exchange == DEFAULT_EXCHANGE

    @property
    def queue(self) -> str | None:
        """The one queue that all messages go to; None where there is no such."""
        return self.routing_key.constant if self.to_queue else None

    def address(self, incoming: Incoming) -> Address:
        text = self.routing_key.render(incoming.message, incoming.captures)
        return Address(self.exchange, swap_separators(text) if self.as_topic else text)


class Ingress:
    """Takes messages from one queue of a backend and publishes them, as a publisher of the gateway's own."""

    def __init__(
        self,
        rule: IngressRule,
        inlet: Inlet,
        hub: Hub,
        backend: Backend,
        queue: Target,
        spec: QueueSpec,
        *,
        sending: BatchPolicy,
        receiving: ReceivePolicy,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._rule = rule
        self._inlet = inlet
        self._hub = hub
        self._backend = backend
        self._queue = queue
        self._spec = spec
        self._health = health
        self._resource = f"{rule.key} ({queue.kind} {queue.name})"
        self._loop = asyncio.get_running_loop()
        self._settler = Settler(backend, queue, policy=sending, metrics=metrics)
        self._receiver = Receiver(
            backend, queue, self._settler, policy=receiving, metrics=metrics, health=health, keeper=self
        )
        consume = Consume(tag=rule.key, queue=queue.queue, prefetch=PREFETCH, token=None)
        self._subscription = Subscription(consume, self._receiver, self)
        self._refused: dict[Delivery, asyncio.TimerHandle] = {}
        self._pauses: set[object] = set()
        self._stopped = False

    async def run(self) -> None:
        """Find or make the queue, have messages come to it, and take them. Never ends: what is removed is made anew."""
        await self._attach()
        if not self._stopped:
            log.info("ingress_attached", rule=self._rule.key, queue=self._queue.name)
            self._receiver.subscribe(self._subscription)
        while True:
            await asyncio.sleep(LOOK)
            await self._attach()

    async def _attach(self) -> None:
        """Tried again until it succeeds."""
        failures = 0
        while True:
            try:
                await self._backend.ensure(self._queue, self._spec)
                await self._inlet.attach()
                break
            except BackendError as error:
                failures += 1
                if not error.retriable or failures >= FAILURES_TO_REPORT:
                    self._health.report(self._resource, error)
            await asyncio.sleep(ATTACHING.backoff(failures))
        self._health.clear(self._resource)

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:  # noqa: ARG002 - there is only one
        incoming = self._inlet.take(delivery.message)
        if incoming is None:
            self._receiver.settle(delivery, Outcome.ACCEPTED)
            return
        message = incoming.message
        address = self._rule.address(incoming)
        routed = Message(address, message.body, message.properties, message.headers, message.origin)
        self._hub.publish(routed, self, delivery)

    def cancelled(self, subscription: Subscription) -> None:
        """It goes on when the queue is back, and so is never cancelled."""

    def screen(self, delivery: Delivery) -> bool:  # noqa: ARG002 - the port's
        """Take every message."""
        return False

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        """Tell the backend."""
        self._settler.settle(delivery, outcome)

    def idle(self) -> None:
        """The only consumer never leaves."""

    def answer(self, token: object, result: Result) -> None:
        """The hub's result for a delivery."""
        assert isinstance(token, Delivery)
        if result.outcome is ACCEPTED.outcome and (result.routed or not self._rule.to_queue):
            self._receiver.settle(token, Outcome.ACCEPTED)
            return
        problem = str(result.error) if result.routed else "nobody has declared the queue that it is for"
        log.warning("ingress_not_accepted", rule=self._rule.key, attempt=token.attempt, problem=problem)
        if self._stopped:
            self._receiver.settle(token, Outcome.RELEASED)
            return
        token.unload()
        self._refused[token] = self._loop.call_later(AGAIN.backoff(token.attempt), self._release, token)

    def _release(self, delivery: Delivery) -> None:
        del self._refused[delivery]
        self._receiver.settle(delivery, Outcome.RELEASED)

    def pause(self, reason: object) -> None:
        """Take no more messages until every reason was resumed."""
        self._pauses.add(reason)
        self._subscription.blocked = True

    def resume(self, reason: object) -> None:
        self._pauses.discard(reason)
        if not self._pauses and self._subscription.blocked and not self._stopped:
            self._subscription.unblock()

    def stop(self) -> None:
        """Take nothing new, and give back what was refused. What the hub still has under way is settled."""
        self._stopped = True
        self._receiver.stop()
        self._subscription.blocked = True
        for delivery, timer in list(self._refused.items()):
            timer.cancel()
            self._release(delivery)

    async def drain(self) -> None:
        """Wait for the polls under way, and until the backend has answered for every settlement."""
        await self._receiver.finish()
        await self._settler.drain()

    async def aclose(self) -> None:
        """Abandon what is under way: it comes back after its visibility timeout."""
        self.stop()
        await self._receiver.aclose()
        await self._settler.aclose()
