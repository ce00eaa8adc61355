"""Connections on a broker, without sockets, protocols or a backend: for tests of what hosts a session."""

from __future__ import annotations

import asyncio

from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.backend import QueueSpec
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Consume, DeclareQueue
from gateway.core.errors import MqliftError
from gateway.core.health import Health
from gateway.core.outcome import Outcome
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Routes
from gateway.core.topology import Topology
from gateway.net.connection import Connection
from gateway.net.limits import ConnectionLimits
from gateway.net.metrics import ConnectionMetrics
from gateway.net.quotas import Quotas
from tests.rig.clock import at_end, settle_down
from tests.rig.connections import FakeTransport, ScriptedSession
from tests.rig.scripted import ScriptedBackend, new_metrics


class Door:
    """An authenticator that a test opens."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.error: MqliftError | None = None

    async def authenticate(self, credentials: Credentials) -> Identity:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return Identity()


class Rig:
    """A broker, and connections to it."""

    def __init__(self, limits: ConnectionLimits | None = None, **broker_limits: int) -> None:
        self.backend = ScriptedBackend()
        self.door = Door()
        self.metrics = new_metrics()
        self.broker = Broker(
            topology=Topology(),
            routes=Routes(),
            backends={"scripted": self.backend},
            home="scripted",
            authenticator=self.door,
            sending=BatchPolicy(timeout=5.0, backoff_base=0.1, backoff_cap=0.5),
            receiving=ReceivePolicy(),
            limits=BrokerLimits(**broker_limits),
            store=MemoryStore(),
            metrics=self.metrics,
            health=Health(),
        )
        at_end(self.broker.aclose)
        self.limits = limits or ConnectionLimits()
        self.connection_metrics = ConnectionMetrics(self.metrics, "test")
        self.quotas = Quotas()
        self.open: set[Connection] = set()

    def connect(self, kind: type[FakeTransport] = FakeTransport) -> Peer:
        session = ScriptedSession()
        connection = Connection(
            lambda peer, now: session,
            self.broker,
            self.connection_metrics,
            self.limits,
            self.quotas.seat("192.0.2.1"),
            self.open.add,
            self.open.remove,
        )
        transport = kind(connection)
        connection.connection_made(transport)
        return Peer(session, connection, transport)

    async def arrive(self, *bodies: bytes) -> None:
        """Messages come into the queue, and everything that follows from that happens."""
        self.backend.arrive(*bodies)
        await settle_down()

    async def declare(self, *queues: str) -> None:
        for queue in queues:
            await self.broker.declare_queue(queue, QueueSpec(), self.connect().connection)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mqlift_{name}", labels) or 0.0


class Peer:
    """One connection from both sides."""

    def __init__(self, session: ScriptedSession, connection: Connection, transport: FakeTransport) -> None:
        self.session = session
        self.connection = connection
        self.transport = transport

    async def sends(self, *commands: object) -> None:
        """Data that the session takes for these commands, in one read."""
        assert self.transport.reading, "nobody reads"
        self.session.script[b"data"] = commands  # type: ignore[assignment]
        self.connection.data_received(b"data")
        await settle_down()

    async def consumes(self, queue: str, prefetch: int = 10, *, automatic: bool = False) -> None:
        self.session.automatic = automatic
        await self.sends(DeclareQueue(queue, QueueSpec(), "declare"), Consume("tag", queue, prefetch, "consume"))
        await settle_down()
        self.transport.written = b""

    @property
    def answered(self) -> list[object]:
        return [token for token, _ in self.session.answers]

    def outcome_of(self, token: object) -> Outcome:
        (result,) = (result for known, result in self.session.answers if known == token)
        return result.outcome

    @property
    def gone(self) -> bool:
        return self.session.times_ended > 0


def connected(limits: ConnectionLimits | None = None, **broker_limits: int) -> tuple[Rig, Peer]:
    """A broker with one connection."""
    rig = Rig(limits, **broker_limits)
    return rig, rig.connect()


async def consuming(prefetch: int = 10, *, automatic: bool = False) -> tuple[Rig, Peer]:
    """A broker with one connection, which consumes the queue `orders`."""
    rig, peer = connected()
    await peer.consumes("orders", prefetch, automatic=automatic)
    return rig, peer
