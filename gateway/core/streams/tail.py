"""Topics that are fed by a stream: what anybody writes to it reaches the live subscribers of the topic here.

What is published here to such a topic goes to the stream only, and to live subscribers by way of it. So nothing comes
twice, and everybody, on whatever gateway, sees what others and native producers wrote in the same order of each shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from gateway.core.backend import Target
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError
from gateway.core.message import Message
from gateway.core.outcome import Outcome
from gateway.core.streams.offset import STREAM_OFFSET
from gateway.core.streams.queue import StreamQueue
from gateway.core.subscription import Subscription

log = structlog.get_logger("mqlift.stream")

WINDOW = 1_000
"""Messages that are handed on in one turn of the event loop at most."""


class Tail:
    """Reads one stream at its end, for as long as the gateway runs."""

    def __init__(self, queue: StreamQueue, publish: Callable[[Message], None]) -> None:
        self.queue = queue
        self._publish = publish
        self._reading: Subscription | None = None

    async def start(self) -> None:
        """Begin at what is written from now on, if that has not been done. What fails is tried with the next call."""
        if self._reading is not None:
            return
        reading = self.queue.consume(Consume("tail", self.queue.name, WINDOW, None, cancellable=True), self)
        self._reading = reading
        try:
            if reading.begun is not None:
                await reading.begun
        except MqliftError as error:
            self._reading = None
            log.warning("tail_not_begun", stream=self.queue.target.name, problem=str(error))

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:  # noqa: ARG002 - there is one
        """As `Consumer.deliver`."""
        message = delivery.message
        headers = {name: value for name, value in message.headers.items() if name != STREAM_OFFSET}
        self._publish(Message(message.address, message.body, message.properties, headers, message.origin))
        delivery.source.settle(delivery, Outcome.ACCEPTED)

    def cancelled(self, subscription: Subscription) -> None:  # noqa: ARG002 - there is one
        """The stream is gone; it may come back."""
        self._reading = None


class Tails:
    """All streams that feed topics, each once."""

    def __init__(
        self, targets: Iterable[Target], open_queue: Callable[[Target], StreamQueue], publish: Callable[[Message], None]
    ) -> None:
        """`publish` hands a message to live subscribers. Two rules for one stream feed it once, as the first says."""
        named = {(target.kind, target.name): target for target in reversed(list(targets))}
        self._tails = [
            Tail(open_queue(replace(target, queue=f"(tail of {target.name})")), publish) for target in named.values()
        ]

    async def start(self) -> None:
        """Begin those that are not read yet."""
        await asyncio.gather(*(tail.start() for tail in self._tails))

    def stop_polling(self) -> None:
        for tail in self._tails:
            tail.queue.stop_polling()

    async def aclose(self) -> None:
        for tail in self._tails:
            await tail.queue.aclose()
