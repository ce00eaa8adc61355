"""Quotas at the door: closed at once, counted by reason, told rarely, and room again when somebody leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Command
from gateway.core.health import Health
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Routes
from gateway.core.topology import Topology
from gateway.net.listener import Listener, ListenerOptions
from gateway.net.quotas import ADDRESS_ATTEMPTS, ADDRESS_CONNECTIONS, GATEWAY_CONNECTIONS, QuotaLimits, Quotas
from gateway.net.tls import ServerTls, TlsOptions
from gateway.net.turns import TURN_BYTES
from tests.rig.certificates import Authority
from tests.rig.connections import ScriptedSession
from tests.rig.loops import on_both_loops, until
from tests.rig.scripted import ScriptedBackend, new_metrics

HOST = "127.0.0.1"


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity()


class Echo(ScriptedSession):
    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        self.output += data
        return ()


class Rig:
    """Two listeners that share their quotas."""

    def __init__(self, limits: QuotaLimits, **options: object) -> None:
        self.metrics = new_metrics()
        self.quotas = Quotas(limits)
        self.broker = Broker(
            topology=Topology(),
            routes=Routes(),
            backends={"scripted": ScriptedBackend()},
            home="scripted",
            authenticator=Anyone(),
            sending=BatchPolicy(),
            receiving=ReceivePolicy(),
            limits=BrokerLimits(),
            store=MemoryStore(),
            metrics=self.metrics,
            health=Health(),
        )
        self.listeners = [
            Listener(
                ListenerOptions(protocol="test", host=HOST, port=0, **options),  # type: ignore[arg-type]
                lambda peer, now: Echo(),
                self.broker,
                self.metrics,
                self.quotas,
            )
            for _ in range(2)
        ]

    def refused(self, reason: str) -> float:
        labels = {"protocol": "test", "reason": reason}
        return self.metrics.registry.get_sample_value("mqlift_connections_refused_total", labels) or 0.0

    async def connect(
        self, listener: int = 0, header: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self.listeners[listener].port)
        writer.write(header)
        return reader, writer

    async def is_let_in(self, listener: int = 0, header: bytes = b"") -> bool:
        """Whether it is served; it stays if it is."""
        reader, writer = await self.connect(listener, header)
        writer.write(b"hello")
        with contextlib.suppress(ConnectionError):
            if await reader.read(5) == b"hello":
                self.writers.append(writer)
                return True
        writer.close()
        return False

    writers: list[asyncio.StreamWriter]

    async def hang_up(self) -> None:
        for writer in self.writers:
            writer.close()
        self.writers.clear()


@contextlib.asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    rig.writers = []
    for listener in rig.listeners:
        await listener.start()
    try:
        yield rig
    finally:
        await rig.hang_up()
        for listener in rig.listeners:
            listener.stop_listening()
            await listener.shutdown(0.0)
        assert rig.quotas.connections == 0
        await rig.broker.aclose()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (QuotaLimits(connections=2), GATEWAY_CONNECTIONS),
        (QuotaLimits(address_connections=2), ADDRESS_CONNECTIONS),
    ],
)
@on_both_loops
async def test_all_listeners_together_have_so_much_room(limits: QuotaLimits, reason: str) -> None:
    async with running(Rig(limits)) as rig:
        assert await rig.is_let_in(0)
        assert await rig.is_let_in(1)
        with capture_logs() as lines:
            assert [await rig.is_let_in(number % 2) for number in range(10)] == [False] * 10
        assert rig.refused(reason) == 10
        assert [line["event"] for line in lines] == 2 * ["too_many_connections"], "one for each listener"
        assert {line["peer"] for line in lines} == {HOST}
        await rig.hang_up()
        await until(lambda: rig.quotas.connections == 0, "all have left")
        assert await rig.is_let_in(1)


@on_both_loops
async def test_attempts_are_counted_whatever_comes_of_them() -> None:
    async with running(Rig(QuotaLimits(address_attempts=0.5))) as rig:
        let_in = [await rig.is_let_in() for _ in range(20)]
        assert let_in == [True] * 5 + [False] * 15
        assert rig.refused(ADDRESS_ATTEMPTS) == 15


@on_both_loops
async def test_behind_a_load_balancer_it_is_the_address_of_the_header_that_counts() -> None:
    def header(host: int) -> bytes:
        return b"PROXY TCP4 203.0.113.%d 10.0.0.1 56324 1883\r\n" % host

    async with running(Rig(QuotaLimits(address_connections=1), proxy_protocol=True)) as rig:
        assert await rig.is_let_in(0, header(1))
        assert await rig.is_let_in(0, header(2))
        assert not await rig.is_let_in(0, header(1))
        assert rig.refused(ADDRESS_CONNECTIONS) == 1


@on_both_loops
async def test_a_handshake_that_fails_gives_its_seat_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    certificate, key = Authority(tmp_path_factory.mktemp("seats")).issue("localhost")
    tls = ServerTls(TlsOptions(certificate=certificate, key=key))
    async with running(Rig(QuotaLimits(address_connections=3), tls=tls)) as rig:
        for _ in range(10):
            _, writer = await rig.connect()
            writer.write(b"no ClientHello")
            writer.close()
            await until(lambda: rig.quotas.connections == 0, "it has left")
        waiting = [await rig.connect() for _ in range(3)]
        await until(lambda: rig.quotas.connections == 3, "they count from the beginning")
        reader, writer = await rig.connect()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert rig.refused(ADDRESS_CONNECTIONS) == 1
        for _, each in (*waiting, (reader, writer)):
            each.close()


@on_both_loops
async def test_a_large_read_comes_whole_through_a_listener() -> None:
    async with running(Rig(QuotaLimits())) as rig:
        reader, writer = await rig.connect()
        sent = bytes(number % 251 for number in range(40 * TURN_BYTES))
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()
