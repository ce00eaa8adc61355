"""A queue that is a stream in memory, and consumers that remember what they were given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from adapters.memory.store import MemoryStore
from gateway.core.backend import QueueSpec, Target
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.health import Health
from gateway.core.message import HeaderValue
from gateway.core.outcome import Outcome
from gateway.core.sender import Sender
from gateway.core.streams.queue import StreamQueue
from gateway.core.subscription import Subscription
from tests.rig.clock import at_end, settle_down, until
from tests.rig.scripted import Consumer, new_metrics
from tests.rig.stream_log import StreamLog

STREAM: Final = QueueSpec(arguments={"x-queue-type": "stream"})


class Told(Consumer):
    """Remembers also everything that it was ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Delivery] = []
        self.gone = False

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        super().deliver(subscription, delivery)
        self.given.append(delivery)

    def cancelled(self, subscription: Subscription) -> None:
        self.gone = True

    @property
    def texts(self) -> list[str]:
        return [delivery.message.body.decode() for delivery in self.given]

    def offset(self, text: str) -> str:
        """The header of the message with this body."""
        (found,) = (each for each in self.given if each.message.body.decode() == text)
        value = found.message.headers["x-stream-offset"]
        assert isinstance(value, str)
        return value

    def settle_first(self, outcome: Outcome = Outcome.ACCEPTED) -> None:
        delivery = self.deliveries.pop(0)
        delivery.source.settle(delivery, outcome)


class StreamRig:
    """One gateway. `arguments` are those of its consumers, unless they say others."""

    def __init__(
        self,
        log: StreamLog,
        target: Target,
        arguments: Mapping[str, HeaderValue],
        *,
        store: MemoryStore | None = None,
        health: Health | None = None,
    ) -> None:
        self.log = log
        self.health = health or Health()
        self._arguments = arguments
        self.queue = StreamQueue(
            target,
            STREAM,
            log,
            open_sender=_no_sender,
            store=store or MemoryStore(),
            metrics=new_metrics(),
            health=self.health,
            wall=lambda: log.now,
        )
        at_end(self.queue.aclose)

    async def consume(
        self, arguments: Mapping[str, HeaderValue] | None = None, prefetch: int = 100, *, cancellable: bool = True
    ) -> Told:
        consumer = Told()
        wanted = self._arguments if arguments is None else arguments
        self.subscription = self.queue.consume(
            Consume("tag", "s", prefetch, None, arguments=wanted, cancellable=cancellable), consumer
        )
        assert self.subscription.begun is not None
        await self.subscription.begun
        return consumer


def _no_sender(target: Target) -> Sender:
    raise AssertionError("nothing is sent")


async def given(consumer: Told, *texts: str) -> None:
    """Wait until it has got these, and nothing else."""
    await until(lambda: len(consumer.given) >= len(texts), f"{len(texts)} messages")
    await settle_down()
    assert consumer.texts == list(texts)
