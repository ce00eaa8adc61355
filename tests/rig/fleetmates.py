"""Brokers of several gateways in one process, with one store and one backend, as they would have DynamoDB and SQS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from adapters.memory.backend import MemoryBackend
from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import BrokerLimits
from gateway.core.fleet.broker import FleetBroker
from gateway.core.health import Health
from gateway.core.message import Message
from gateway.core.outcome import Result
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Routes, Rule
from gateway.core.topology import Topology
from tests.rig.clock import at_end, until
from tests.rig.scripted import Consumer, new_metrics
from tests.rig.sharedstore import SharedStore


class Service(MemoryBackend):
    """Stays when a gateway ends."""

    async def aclose(self) -> None:
        """There are others."""


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity(user=credentials.username or "")


class Mate:
    """One gateway of a fleet, with one client."""

    def __init__(self, common: MemoryStore, service: Service, rules: Sequence[Rule] = ()) -> None:
        self.store = SharedStore(common)
        self.topology = Topology()
        self.metrics = new_metrics()
        self.broker = FleetBroker(
            topology=self.topology,
            routes=Routes(rules),
            backends={"memory": service},
            home="memory",
            authenticator=Anyone(),
            sending=BatchPolicy(timeout=5.0, backoff_base=0.1, backoff_cap=0.5),
            receiving=ReceivePolicy(),
            limits=BrokerLimits(),
            store=self.store,
            metrics=self.metrics,
            health=Health(),
        )
        self.client = Consumer()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Mate:
        await self.broker.restore()
        self.thaw()
        at_end(self.stop)
        return self

    async def freeze(self) -> None:
        """Nothing that the broker does by itself is done any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def thaw(self) -> None:
        self._task = asyncio.ensure_future(self.broker.watch())

    async def kill(self) -> None:
        """As `kill -9`: nothing more reaches the store."""
        self.store.fail()
        await self.freeze()

    async def stop(self) -> None:
        await self.freeze()
        if not self.store.closed:
            await self.broker.aclose()

    async def publish(self, message: Message) -> Result:
        """Publish and wait for the answer."""
        known = len(self.client.answers)
        self.broker.publish(message, self.client, "token")
        await until(lambda: len(self.client.answers) > known, "an answer")
        _, result = self.client.answers[known]
        return result


async def fleet(*rules: Rule, count: int = 2) -> list[Mate]:
    common, service = MemoryStore(), Service()
    return [await Mate(common, service, rules).start() for _ in range(count)]
