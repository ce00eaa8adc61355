"""The backends of one gateway, as its queues and publishers use them: senders, receivers, and where queues live."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.arguments import SELECTOR, QueuePolicy, is_stream
from gateway.core.backend import Backend, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import NotSupported, Refused
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.metrics import Metrics
from gateway.core.priority import Levels, PriorityBackend, with_levels
from gateway.core.receiver import Keeper, ReceivePolicy, Receiver
from gateway.core.retrying import retried
from gateway.core.routes import Routes
from gateway.core.sender import Sender
from gateway.core.settler import Settler
from gateway.core.shared import SESSION, SUBSCRIPTION
from gateway.core.store import StateStore
from gateway.core.streams.port import StreamBackend
from gateway.core.streams.queue import StreamQueue
from gateway.core.tracing import Tracer

SESSION_LABEL: Final = "(sessions)"
"""What metrics call the queues of all kept sessions together: there may be thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Homes:
    """The kinds of backends that queues live in which no rule maps."""

    queues: str
    streams: str = ""
    """Empty: a stream is an error."""


class BackendResources:
    """What queues and publishes need of the backends. Implements `queuetable.Resources`."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        routes: Routes,
        homes: Homes,
        *,
        sending: BatchPolicy,
        receiving: ReceivePolicy,
        inflight: Watermark,
        destinations: int,
        store: StateStore,
        metrics: Metrics,
        health: Health,
    ) -> None:
        """`destinations`: senders that there may be at most."""
        self.backends = backends
        self.routes = routes
        self.destinations = destinations
        self.store = store
        self.health = health
        self.tracer: Tracer | None = None
        self._homes = homes
        self._sending = sending
        self._receiving = receiving
        self._inflight = inflight
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._senders: dict[tuple[str, str], Sender] = {}
        self._levels = Levels()

    def home(self, queue: str, spec: QueueSpec) -> Target:
        """Where a durable queue lives. Raises `Invalid`, and `NotSupported` for a stream where none can live."""
        target = self.routes.home(queue) or self._own_home(queue, spec)
        if is_stream(spec) and not isinstance(self.backends[target.kind], StreamBackend):
            raise NotSupported(f"x-queue-type: queue '{queue}' lives in {target.kind}, which has no streams")
        return replace(target, label=SESSION_LABEL) if spec.arguments.get(SESSION) else target

    def _own_home(self, queue: str, spec: QueueSpec) -> Target:
        backend = self.backends[self._default_home(spec)]
        subscription = spec.arguments.get(SUBSCRIPTION)
        if not subscription:
            return backend.home(queue, spec)
        # One with another selector is another subscription, too.
        selector = f":{spec.arguments[SELECTOR]}" if SELECTOR in spec.arguments else ""
        return replace(backend.home(f"{queue}:{subscription}{selector}", spec), queue=queue)

    def _default_home(self, spec: QueueSpec) -> str:
        return self._homes.streams if self._homes.streams and is_stream(spec) else self._homes.queues

    def backend(self, target: Target, policy: QueuePolicy) -> Backend:
        """What a queue lives in: its backend, or for one with priorities several queues of that.

        Raises `InvalidArgument`.
        """
        return self._levels.keep(target, self._made_for(target, policy))

    def _made_for(self, target: Target, policy: QueuePolicy) -> Backend:
        backend = self._backend_of(target)
        if not policy.max_priority or isinstance(backend, PriorityBackend):
            return backend
        ruled = self.routes.home(target.queue) is not None
        return with_levels(backend, target, policy.max_priority, by_name=ruled)

    def _backend_of(self, target: Target) -> Backend:
        return self._levels.find(target) or self.backends[target.kind]

    async def ensure(self, target: Target, spec: QueueSpec, policy: QueuePolicy) -> None:
        """Find or create a queue, trying again while that may help."""
        backend = self._made_for(target, policy)
        deadline = self._loop.time() + self._sending.timeout
        await retried(lambda: backend.ensure(target, spec), deadline, self._sending)

    async def remove(self, target: Target) -> None:
        """Remove a queue in its backend, once what was sent to it has its answer. Raises `BackendError`."""
        await self._stop_sending_to(target)  # an entry that came later than the deletion would make the queue anew
        await self._backend_of(target).remove(target)
        await self._levels.forget(target)

    async def forget(self, target: Target) -> None:
        """Keep nothing open for a queue that somebody else has removed."""
        await self._stop_sending_to(target)
        await self._levels.forget(target)

    async def _stop_sending_to(self, target: Target) -> None:
        sender = self._senders.pop((target.kind, target.name), None)
        if sender is not None:
            await sender.drain()
            await sender.aclose()

    def sender(self, target: Target) -> Sender:
        """What sends to a resource. Raises `Refused` at the limit."""
        key = (target.kind, target.name)
        sender = self._senders.get(key)
        if sender is None:
            limit = self.destinations
            if len(self._senders) >= limit:
                raise Refused(
                    f"{target.kind} '{target.name}': {limit} destinations are in use, the limit of this gateway"
                )
            sender = self._senders[key] = Sender(
                self._backend_of(target),
                target,
                policy=self._sending,
                inflight=self._inflight,
                metrics=self._metrics,
                health=self.health,
                tracer=self.tracer,
            )
        return sender

    def receiver(self, target: Target, keeper: Keeper, policy: QueuePolicy) -> Receiver:
        """What polls a queue."""
        backend = self._backend_of(target)
        return Receiver(
            backend,
            target,
            Settler(backend, target, policy=self._sending, metrics=self._metrics),
            policy=self._receiving,
            metrics=self._metrics,
            health=self.health,
            keeper=keeper,
            single=policy.single_active_consumer,
        )

    def stream(self, target: Target) -> StreamQueue:
        """A stream that nobody has declared, to be read for its topics."""
        backend = self.backends[target.kind]
        assert isinstance(backend, StreamBackend)
        return StreamQueue(
            target,
            QueueSpec(),
            backend,
            open_sender=self.sender,
            store=self.store,
            metrics=self._metrics,
            health=self.health,
        )

    def senders(self) -> Iterator[Sender]:
        return iter(list(self._senders.values()))

    async def answered(self) -> None:
        """Wait until everything that was sent has its result."""
        await asyncio.gather(*(sender.drain() for sender in self._senders.values()))

    async def drain(self) -> None:
        """Wait for the polls of queues with priorities, and give back what nobody takes any more."""
        await self._levels.drain()

    async def stop_sending(self) -> None:
        """Give back what is not answered."""
        for sender in self._senders.values():
            await sender.aclose()

    async def aclose(self) -> None:
        """Close the backends."""
        await self._levels.aclose()
        for backend in self.backends.values():
            await backend.aclose()
