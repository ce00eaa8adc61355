"""Accepting: addresses, descriptors that run out, and ends at any moment."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket

import pytest
from structlog.testing import capture_logs

from gateway.net import acceptor as acceptor_module
from gateway.net.acceptor import Acceptor
from gateway.net.quotas import Quotas
from tests.rig.echoing import HOST, Echo, EchoPort
from tests.rig.loops import on_both_loops, until


def acceptor(echoes: list[Echo]) -> Acceptor:
    return Acceptor(
        lambda seat: Echo(echoes),
        tls=None,
        proxy_protocol=False,
        patience=60.0,
        admit=lambda arriving: True,
        seat=Quotas().seat,
        refused=lambda reason, problem, peer: pytest.fail(problem),
    )


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "::1", "::", "0.0.0.0"])
@on_both_loops
async def test_it_listens_on_every_address_of_a_host(host: str) -> None:
    echoes: list[Echo] = []
    ours = acceptor(echoes)
    try:
        await ours.start(host, 0)
    except OSError as error:
        if ":" in host and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            pytest.skip("this machine has no IPv6")
        raise
    for count, listening in enumerate(ours._sockets, start=1):
        there = "::1" if listening.family == socket.AF_INET6 else HOST
        _, writer = await asyncio.open_connection(there, listening.getsockname()[1])
        writer.close()
        await until(lambda count=count: len(echoes) == count, "it is accepted")  # type: ignore[misc]
    assert ours.port == ours._sockets[0].getsockname()[1]
    ours.close()
    ours.close()
    await ours.wait_closed()
    await until(lambda: all(echo.lost for echo in echoes), "all are gone")


@on_both_loops
async def test_a_port_that_is_taken_leaves_nothing_open() -> None:
    async with EchoPort() as port:
        other = acceptor([])
        with pytest.raises(OSError, match="in use"):
            await other.start(HOST, port.port)
        assert not other._sockets


@on_both_loops
async def test_writes_are_not_held_back_for_larger_segments() -> None:
    async with EchoPort() as port:
        _, writer = await port.connect()
        await until(lambda: port.echoes, "it is accepted")
        sock = port.echoes[0].transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


@on_both_loops
async def test_without_descriptors_it_rests_and_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "ACCEPT_REST", 0.01)
    async with EchoPort() as port:
        with socket.socket() as sock, capture_logs() as lines:
            sock.setblocking(False)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(sock.fileno())
            os.close(lowest)  # the next one that would be used
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                sock.connect_ex((HOST, port.port))
                await until(lambda: len(lines) >= 2, "it could not accept, and tried again")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert {(line["event"], line["log_level"]) for line in lines} == {("cannot_accept", "error")}
            await until(lambda: port.echoes, "it is accepted in the end")


@on_both_loops
async def test_a_connection_that_is_accepted_at_the_moment_of_the_end_is_closed() -> None:
    async with EchoPort() as port:
        with socket.create_connection((HOST, port.port)) as sock:
            port.acceptor._accept(port.acceptor._sockets[0])
            port.acceptor.close()
            await port.acceptor.wait_closed()
            sock.settimeout(10)
            assert sock.recv(1) == b""
    assert port.echoes == []


@on_both_loops
async def test_a_connection_that_is_made_at_the_moment_of_the_end_is_told_of_its_own() -> None:
    async with EchoPort() as port:
        with socket.create_connection((HOST, port.port)):
            for _ in range(100):  # no turn of the loop more than it takes
                if port.echoes:
                    break
                await asyncio.sleep(0)
            port.acceptor.close()
            await port.acceptor.wait_closed()
            port.echoes[0].transport.abort()
            await until(lambda: port.echoes[0].lost, "it is told")


@on_both_loops
async def test_a_burst_is_accepted_in_turns() -> None:
    async with EchoPort(room=1000) as port:
        socks = [socket.create_connection((HOST, port.port)) for _ in range(2 * acceptor_module.ACCEPTS_A_TURN + 5)]
        await until(lambda: len(port.echoes) == len(socks), "all are accepted")
        for sock in socks:
            sock.close()


@on_both_loops
async def test_a_fault_of_ours_is_told_and_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EchoPort() as port:

        def fail() -> Echo:
            raise RuntimeError("a bug")

        monkeypatch.setattr(port.acceptor, "_make", fail)
        with capture_logs() as lines:
            reader, writer = await port.connect()
            assert await reader.read() == b""
            writer.close()
        assert [line["event"] for line in lines] == ["listener_failed_unexpectedly"]
