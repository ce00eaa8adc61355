"""Listeners on real sockets, with asyncio's loop and with uvloop: limits, endings, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.backend import Limits, QueueSpec
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Close, Command, Consume, DeclareQueue, Settle
from gateway.core.errors import ConfigError
from gateway.core.health import Health
from gateway.core.outcome import Outcome
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Routes
from gateway.core.topology import Topology
from gateway.net import acceptor as acceptor_module
from gateway.net.limits import ConnectionLimits
from gateway.net.listener import Listener, ListenerOptions
from gateway.net.quotas import Quotas
from gateway.net.tls import ServerTls, TlsOptions
from tests.rig.certificates import Authority
from tests.rig.connections import FakeTransport, ScriptedSession
from tests.rig.loops import PATIENCE, on_both_loops, until
from tests.rig.scripted import LIMITS, ScriptedBackend, new_metrics


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity()


class EchoSession(ScriptedSession):
    """Says what it hears; `quit` ends it, `consume` consumes `orders` with automatic acknowledgements."""

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        if data == b"quit":
            return (Close("quit"),)
        if data == b"consume":
            self.automatic = True
            return (DeclareQueue("orders", QueueSpec(), "declare"), Consume("tag", "orders", 250, "consume"))
        if data == b"hold":
            return (DeclareQueue("orders", QueueSpec(), "declare"), Consume("tag", "orders", 250, "consume"))
        if data == b"ack":
            held, self.held = self.held, []
            return (Settle(held, Outcome.ACCEPTED),)
        self.output += data
        return ()

    def shutdown(self) -> Sequence[Command]:
        self.output += b"goodbye"
        return (Close("shutdown"),)


class Rig:
    """A listener on a free port, and its clients."""

    def __init__(
        self,
        *,
        max_connections: int = 100,
        tls: ServerTls | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.backend = ScriptedBackend(limits)
        self.metrics = new_metrics()
        self.broker = Broker(
            topology=Topology(),
            routes=Routes(),
            backends={"scripted": self.backend},
            home="scripted",
            authenticator=Anyone(),
            sending=BatchPolicy(),
            receiving=ReceivePolicy(),
            limits=BrokerLimits(),
            store=MemoryStore(),
            metrics=self.metrics,
            health=Health(),
        )
        self.sessions: list[EchoSession] = []
        options = ListenerOptions(
            protocol="test", host="127.0.0.1", port=0, max_connections=max_connections, tls=tls,
            limits=ConnectionLimits(connect_timeout=60.0),
        )  # fmt: skip
        self.listener = Listener(options, self._open_session, self.broker, self.metrics)

    def _open_session(self, peer: str, now: float) -> EchoSession:
        self.sessions.append(EchoSession())
        return self.sessions[-1]

    @property
    def port(self) -> int:
        return self.listener.port

    async def connect(self, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = "localhost" if tls else None
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mqlift_{name}", {"protocol": "test", **labels}) or 0.0

    @property
    def connections(self) -> int:
        return len(self.listener._connections)


@contextlib.asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    await rig.listener.start()
    try:
        yield rig
    finally:
        rig.listener.stop_listening()
        await rig.listener.shutdown(0.0)
        assert rig.connections == 0
        with capture_logs():
            await rig.broker.aclose()


async def say(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, text: bytes) -> None:
    """Say something and hear it back."""
    writer.write(text)
    assert await reader.readexactly(len(text)) == text


async def hang_up(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@on_both_loops
async def test_connections_are_served_counted_and_forgotten() -> None:
    async with running(Rig()) as rig:
        pairs = [await rig.connect() for _ in range(3)]
        for reader, writer in pairs:
            await say(writer, reader, b"hello")
        assert rig.sample("connections") == 3
        assert rig.sample("received_bytes_total") == rig.sample("sent_bytes_total") == 15
        pairs[0][1].write(b"quit")
        assert await pairs[0][0].read() == b""
        await hang_up(*(writer for _, writer in pairs))
        await until(lambda: rig.sample("connections") == 0, "all are gone")
        assert rig.connections == 0
        assert [session.times_ended for session in rig.sessions] == [1, 1, 1]


@on_both_loops
async def test_over_the_limit_a_connection_is_closed_and_later_there_is_room_again() -> None:
    async with running(Rig(max_connections=2)) as rig:
        pairs = [await rig.connect() for _ in range(2)]
        for reader, writer in pairs:
            await say(writer, reader, b"hello")
        with capture_logs() as lines:
            for _ in range(3):
                reader, writer = await rig.connect()
                assert await reader.read() == b""
                await hang_up(writer)
        assert [line["event"] for line in lines] == ["too_many_connections"], "one line for all of them"
        assert rig.sample("connections_refused_total", reason="max_connections") == 3
        await hang_up(pairs[0][1])
        await until(lambda: rig.connections == 1, "one has gone")
        reader, writer = await rig.connect()
        await say(writer, reader, b"room")
        await hang_up(writer, pairs[1][1])


@on_both_loops
async def test_a_burst_is_held_to_the_limit_too() -> None:
    async with running(Rig(max_connections=5)) as rig:
        sockets = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(20)]  # none is accepted yet
        await until(lambda: rig.sample("connections_refused_total", reason="max_connections") == 15, "15 are refused")
        await until(lambda: rig.connections == 5, "5 stay")
        for one in sockets:
            one.close()
        await until(lambda: rig.connections == 0, "all are gone")


@on_both_loops
async def test_a_taken_port_is_a_line_that_names_it() -> None:
    async with running(Rig()) as rig:
        options = ListenerOptions(protocol="test", host="127.0.0.1", port=rig.port)
        other = Listener(options, rig._open_session, rig.broker, new_metrics())
        with pytest.raises(ConfigError) as caught:
            await other.start()
        assert str(caught.value) == (
            f"listeners: port 127.0.0.1:{rig.port} for test is taken; a free port, or stop what listens there"
        )


@on_both_loops
async def test_an_address_of_another_machine_is_a_line_that_names_it() -> None:
    rig = Rig()
    options = ListenerOptions(protocol="test", host="192.0.2.1", port=4711)
    with pytest.raises(
        ConfigError, match=r"listeners: cannot listen on 192.0.2.1:4711: .+; an address of this machine"
    ):
        await Listener(options, rig._open_session, rig.broker, new_metrics()).start()


@on_both_loops
async def test_stopping_takes_no_new_connection_and_reads_nothing_more() -> None:
    async with running(Rig()) as rig:
        reader, writer = await rig.connect()
        await say(writer, reader, b"hello")
        port = rig.port
        rig.listener.stop_listening()
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"too late")
        await writer.drain()
        ending = asyncio.create_task(rig.listener.shutdown(PATIENCE))
        assert await reader.read() == b"goodbye"
        await hang_up(writer)
        await ending
        assert rig.connections == 0


@on_both_loops
async def test_the_last_words_reach_a_peer_that_is_still_sending() -> None:
    async with running(Rig()) as rig:
        reader, writer = await rig.connect()
        await say(writer, reader, b"hello")
        (connection,) = rig.listener._connections
        connection.pause("busy")
        writer.write(b"x" * 100_000)
        await writer.drain()
        connection.shutdown()
        assert await reader.read() == b"goodbye"
        await hang_up(writer)
        await until(lambda: rig.connections == 0, "it is gone")
        assert rig.sample("reading_paused") == 0


@on_both_loops
async def test_a_connection_that_was_accepted_before_the_stop_and_made_after_it_is_closed() -> None:
    async with running(Rig()) as rig:
        connection = rig.listener._accept(Quotas().seat(""))
        rig.listener.stop_listening()
        transport = FakeTransport(connection)
        connection.connection_made(transport)
        await until(lambda: rig.sessions[0].times_ended, "it is gone")
        assert rig.connections == 0


@on_both_loops
async def test_who_does_not_read_the_goodbye_is_aborted_and_what_it_held_is_released() -> None:
    large = Limits(batch_entries=10, batch_bytes=10**9, entry_bytes=10**8)
    async with running(Rig(limits=large)) as rig:
        reader, writer = await rig.connect()
        writer.write(b"hold")
        body = b"x" * 20_000_000
        await until(lambda: rig.backend.polls, "it consumes")
        rig.backend.arrive(body)
        await until(lambda: rig.sessions[0].held, "it holds")
        rig.listener.stop_listening()
        with capture_logs() as lines:
            await rig.listener.shutdown(0.05)
        assert "connections_aborted" in [line["event"] for line in lines]
        assert rig.connections == 0
        rig.broker.stop_polling()
        await until(lambda: rig.backend.released, "it is released")
        with contextlib.suppress(OSError):
            await reader.read()
        await hang_up(writer)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def tls_rig(authority: Authority, **options: object) -> Rig:
    certificate, key = authority.issue("localhost")
    tls = ServerTls(TlsOptions(certificate=certificate, key=key, client_ca=authority.path, **options))  # type: ignore[arg-type]
    return Rig(tls=tls, limits=Limits(batch_entries=10, batch_bytes=10**9, entry_bytes=10**8))


@on_both_loops
async def test_tls_both_ways_and_an_orderly_end(authority: Authority) -> None:
    async with running(tls_rig(authority)) as rig:
        reader, writer = await rig.connect(authority.client_context())
        await say(writer, reader, b"hello")
        await say(writer, reader, b"x" * 1000)
        writer.write(b"quit")
        assert await reader.read() == b""
        await hang_up(writer)
        await until(lambda: rig.connections == 0, "it is gone")
        assert rig.sample("connections") == 0


@on_both_loops
async def test_a_handshake_that_fails_leaves_nothing_behind(authority: Authority) -> None:
    async with running(tls_rig(authority)) as rig:
        reader, writer = await rig.connect()
        writer.write(b"this is no ClientHello\r\n\r\n")
        with contextlib.suppress(OSError):
            await reader.read()
        await hang_up(writer)
        with pytest.raises(ssl.SSLError):
            await rig.connect(ssl.create_default_context())  # does not trust our authority
        reader, writer = await rig.connect(authority.client_context())
        await say(writer, reader, b"hello")
        assert rig.connections == 1
        assert len(rig.sessions) == 1
        assert rig.sample("connections_opened_total") == 1
        await hang_up(writer)


@on_both_loops
async def test_who_never_begins_the_handshake_is_dropped(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "TLS_HANDSHAKE", 0.1)
    async with running(tls_rig(authority)) as rig:
        reader, writer = await rig.connect()
        with contextlib.suppress(OSError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        await hang_up(writer)
        assert not rig.sessions


@on_both_loops
async def test_a_client_certificate_that_is_required(authority: Authority) -> None:
    async with running(tls_rig(authority, client_certificates="required")) as rig:
        anonymous = authority.client_context()
        with contextlib.suppress(OSError):
            reader, writer = await rig.connect(anonymous)
            # With TLS 1.3 the client learns of it only when it reads.
            writer.write(b"hello")
            assert await reader.read() == b""
            await hang_up(writer)
        assert not rig.sessions
        known = authority.client_context()
        known.load_cert_chain(*authority.issue("device"))
        reader, writer = await rig.connect(known)
        await say(writer, reader, b"hello")
        await hang_up(writer)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@on_both_loops
async def test_automatic_acknowledgements_wait_for_a_slow_reader_and_then_all_come(
    authority: Authority, secure: bool
) -> None:
    rig = tls_rig(authority)
    if not secure:
        rig = Rig(limits=Limits(batch_entries=10, batch_bytes=10**9, entry_bytes=10**8))
    async with running(rig):
        reader, writer = await rig.connect(authority.client_context() if secure else None)
        writer.write(b"consume")
        await until(lambda: rig.backend.polls, "it consumes")
        size, count = 1_000_000, 30
        rig.backend.arrive(*(b"%06d" % number + b"x" * (size - 6) for number in range(count)))
        await until(lambda: rig.sessions[0].delivered, "deliveries")
        (connection,) = rig.listener._connections
        await until(lambda: connection._executor.peer.blocked, "the socket is full")
        accepted = len(rig.backend.deleted)
        assert accepted < count
        greeting = len(b"[declare:ACCEPTED][consume:ACCEPTED]")
        data = await reader.readexactly(greeting + size * count)
        assert [data[greeting + size * number :][:6] for number in range(count)] == [b"%06d" % n for n in range(count)]
        await until(lambda: len(rig.backend.deleted) == count, "all are accepted")
        assert rig.backend.settled.count(([], Outcome.RELEASED)) == 0
        await hang_up(writer)


@on_both_loops
async def test_a_reset_connection_gives_back_what_it_had_not_taken() -> None:
    rig = Rig(limits=Limits(batch_entries=10, batch_bytes=10**9, entry_bytes=10**8))
    async with running(rig):
        _, writer = await rig.connect()
        writer.write(b"consume")
        await until(lambda: rig.backend.polls, "it consumes")
        rig.backend.arrive(*(b"%d" % number + b"x" * 2_000_000 for number in range(10)))
        await until(lambda: rig.sessions[0].delivered, "deliveries")
        (connection,) = rig.listener._connections
        await until(lambda: connection._executor.peer.blocked, "the socket is full")
        writer.transport.abort()
        await until(lambda: rig.connections == 0, "it is gone")
        delivered = {delivery.receipt for delivery in rig.sessions[0].delivered}
        await until(lambda: set(rig.backend.released) | set(rig.backend.deleted) == delivered, "all are settled")
        assert rig.backend.released
        assert not set(rig.backend.released) & set(rig.backend.deleted)
