"""One client that sends as fast as it can does not hold up another: counted in messages and turns, not in time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from adapters.memory.backend import MemoryBackend
from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Command, Publish
from gateway.core.health import Health
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Routes
from gateway.core.session import Session, SessionContext
from gateway.core.topology import Topology
from gateway.net.limits import ConnectionLimits
from gateway.net.listener import Listener, ListenerOptions
from gateway.net.turns import TURN_BYTES
from gateway.protocols.mqtt.session import open_session
from gateway.protocols.mqtt.settings import Settings
from tests.faults.wire import CONNACK, PINGREQ, PINGRESP, mqtt_connect, mqtt_packet
from tests.rig.loops import on_both_loops
from tests.rig.scripted import new_metrics

HOST = "127.0.0.1"
PAYLOAD = b"x" * 20
FLOOD_PUBLISH = mqtt_packet(0x30, b"\x00\x05flood" + PAYLOAD)
"""At QoS 0, which no window holds."""
TURN_MESSAGES = -(-TURN_BYTES // len(FLOOD_PUBLISH)) + 1
PINGS = 30


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity()


class Counting:
    """A session that tells what it was asked for, in the order of the whole gateway."""

    def __init__(self, inner: Session, order: list[str]) -> None:
        self._inner = inner
        self._order = order

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        commands = self._inner.receive_data(data, now)
        self._order += ["flood" for command in commands if isinstance(command, Publish)]
        if PINGREQ in data and len(data) == len(PINGREQ):
            self._order.append("ping")
        return commands


@contextlib.asynccontextmanager
async def gateway(order: list[str]) -> AsyncIterator[int]:
    """A gateway for MQTT; gives its port."""
    metrics = new_metrics()
    broker = Broker(
        topology=Topology(),
        routes=Routes(),
        backends={"memory": MemoryBackend()},
        home="memory",
        authenticator=Anyone(),
        sending=BatchPolicy(),
        receiving=ReceivePolicy(),
        limits=BrokerLimits(),
        store=MemoryStore(),
        metrics=metrics,
        health=Health(),
    )

    def opened(peer: str, now: float) -> Session:
        inner = open_session(SessionContext(peer=peer, server="test", settings=Settings()), now)
        return Counting(inner, order)  # type: ignore[return-value]

    options = ListenerOptions(protocol="mqtt", host=HOST, port=0, limits=ConnectionLimits(inflight=10_000_000))
    listener = Listener(options, opened, broker, metrics)
    await listener.start()
    try:
        yield listener.port
    finally:
        listener.stop_listening()
        await listener.shutdown(0.0)
        await broker.aclose()


async def connected(port: int, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(mqtt_connect(name))
    assert await reader.readexactly(len(CONNACK)) == CONNACK
    return reader, writer


class Flood:
    """Always has more on its way than the gateway has read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = FLOOD_PUBLISH * 20_000
        self._position = 0

    def pour(self) -> None:
        """As much as the operating system takes, now; each message whole, sooner or later."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._position += self._sock.send(self._data[self._position :])
                self._position %= len(self._data)

    def close(self) -> None:
        self._sock.close()


async def flood(port: int, name: str) -> Flood:
    loop = asyncio.get_running_loop()
    sock = socket.create_connection((HOST, port))
    sock.setblocking(False)
    await loop.sock_sendall(sock, mqtt_connect(name))
    assert await loop.sock_recv(sock, len(CONNACK)) == CONNACK
    return Flood(sock)


def between_pings(order: list[str]) -> list[int]:
    """Messages of the flood that were taken before each ping, since the one before."""
    counts, count = [], 0
    for each in order:
        if each == "ping":
            counts.append(count)
            count = 0
        else:
            count += 1
    return counts


@pytest.mark.parametrize("floods", [1, 3])
@on_both_loops
async def test_a_ping_waits_for_a_turn_of_each_and_no_longer(floods: int) -> None:
    order: list[str] = []
    async with gateway(order) as port:
        flooding = [await flood(port, f"flood-{number}") for number in range(floods)]
        reader, writer = await connected(port, "polite")
        for _ in range(PINGS):
            for each in flooding:
                each.pour()
            writer.write(PINGREQ)
            assert await reader.readexactly(len(PINGRESP)) == PINGRESP
        writer.close()
        for each in flooding:
            each.close()
    counts = between_pings(order)
    assert len(counts) == PINGS
    assert sum(counts) > PINGS * TURN_MESSAGES // 2, "or there was no flood"
    # The client's own turns are in the same loop: to write, to be read, to be answered, to read.
    assert max(counts[1:]) <= 6 * floods * TURN_MESSAGES
