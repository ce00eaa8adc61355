"""Connections and the pool, against a server that misbehaves on request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.aws import http, pool
from adapters.aws.http import Answer, ExchangeFailed
from adapters.aws.lean import tls_context
from adapters.aws.pool import Pool
from tests.adapters.aws.scripted_server import (
    HOST,
    ScriptedServer,
    answer_bytes,
    answers,
    make_authority,
    sends,
    sends_and_closes,
    sends_and_resets,
    waits_for,
)

CHUNKED = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{"a"\r\n3;x=y\r\n:1}\r\n0\r\n\r\n'


def request(body: bytes = b"{}") -> bytes:
    return b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@contextlib.asynccontextmanager
async def open_pool(
    port: int,
    *,
    host: str = HOST,
    tls: ssl.SSLContext | None = None,
    max_connections: int = 4,
    connect: float = 5.0,
    repeats: bool = True,
) -> AsyncIterator[Pool]:
    opened = Pool(host, port, tls, max_connections=max_connections, connect_timeout=connect, repeats=repeats)
    try:
        yield opened
    finally:
        await opened.aclose()


async def exchange(opened: Pool, body: bytes = b"{}", read_timeout: float = 5.0) -> Answer:
    return await opened.exchange(request(body), read_timeout)


def test_on_uvloop(tmp_path: Path) -> None:
    """Its transports are not asyncio's: plain and TLS, kept alive, closed by the server, timed out."""
    uvloop = pytest.importorskip("uvloop", reason="not made for this platform")
    authority = make_authority(tmp_path, HOST)

    async def exchanges(server: ScriptedServer, tls: ssl.SSLContext | None) -> None:
        async with open_pool(server.port, tls=tls) as opened:
            await asyncio.gather(*(exchange(opened) for _ in range(10)))
            server.steps += [sends_and_closes(), answers(b"again"), waits_for(asyncio.Event(), answers())]
            assert (await exchange(opened, bytes(1_000_000))).body == b"again"
            with pytest.raises(ExchangeFailed, match="in time"):
                await exchange(opened, read_timeout=0.02)
        assert opened._open == 0

    async def both() -> None:
        for server_tls, client_tls in ((None, None), (authority.server, tls_context(authority.ca_file))):
            server = ScriptedServer(answers())
            async with server.running(server_tls):
                await exchanges(server, client_tls)

    uvloop.run(both())


# --- answers in all their forms


@pytest.mark.parametrize("whole", [answer_bytes(b'{"a":1}', 200, "X-One: 1"), CHUNKED], ids=["length", "chunked"])
async def test_answers_cut_anywhere(server: ScriptedServer, whole: bytes) -> None:
    cuts = [sends(whole), sends(*(bytes([byte]) for byte in whole))]
    cuts += [sends(whole[:cut], whole[cut:]) for cut in range(1, len(whole))]
    server.steps += cuts
    async with open_pool(server.port) as opened:
        for _ in cuts:
            answer = await exchange(opened)
            assert (answer.status, answer.body) == (200, b'{"a":1}')
    assert server.connections == 1


@pytest.mark.parametrize("status", [200, 400, 404, 500, 503])
async def test_status_headers_and_body(server: ScriptedServer, status: int) -> None:
    server.steps.append(answers(b"some body", status, "X-Amzn-RequestId: 123"))
    async with open_pool(server.port) as opened:
        answer = await exchange(opened)
    assert (answer.status, answer.body) == (status, b"some body")
    assert answer.header("x-amzn-requestid") == "123"
    assert answer.header("x-amzn-query-error") == ""


async def test_interim_answers_are_skipped(server: ScriptedServer) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    server.steps += [sends(interim + interim + answer_bytes(b"one")), sends(interim, answer_bytes(b"two"))]
    async with open_pool(server.port) as opened:
        assert (await exchange(opened)).body == b"one"
        assert (await exchange(opened)).body == b"two"
    assert server.connections == 1


async def test_big_bodies_both_ways(server: ScriptedServer) -> None:
    body = bytes(range(256)) * 8192
    server.steps.append(answers(body))
    async with open_pool(server.port) as opened:
        assert (await exchange(opened, body)).body == body
    assert server.requests[0].body == body


@pytest.mark.parametrize(
    "junk",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_not_http_fails(server: ScriptedServer, junk: bytes) -> None:
    server.steps.append(sends(junk))
    async with open_pool(server.port) as opened:
        with pytest.raises(ExchangeFailed, match="not an HTTP answer"):
            await exchange(opened)
        assert (await exchange(opened)).status == 200
    assert server.connections == 2


async def test_answers_are_limited(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 10_000)
    server.steps += [answers(bytes(9_900)), answers(bytes(10_000)), sends(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 20_000)]
    async with open_pool(server.port) as opened:
        assert len((await exchange(opened)).body) == 9_900
        for _ in range(2):
            with pytest.raises(ExchangeFailed, match="more than 10000 bytes"):
                await exchange(opened)


async def test_headers_are_limited(server: ScriptedServer) -> None:
    endless = [b"x-a: b\r\n" * 1000] * 20
    server.steps.append(sends(b"HTTP/1.1 200 OK\r\n", *endless))
    async with open_pool(server.port) as opened:
        with pytest.raises(ExchangeFailed, match="headers of more than 65536 bytes"):
            await exchange(opened)


# --- keep-alive


async def test_connections_are_used_again(server: ScriptedServer) -> None:
    async with open_pool(server.port) as opened:
        for _ in range(5):
            await exchange(opened)
    assert [each.connection for each in server.requests] == [0, 0, 0, 0, 0]


async def test_the_connection_used_last_is_used_next(server: ScriptedServer) -> None:
    async with open_pool(server.port) as opened:
        await asyncio.gather(*(exchange(opened) for _ in range(3)))
        assert server.connections == 3
        before = len(server.requests)
        for _ in range(3):
            await exchange(opened)
    assert len({each.connection for each in server.requests[before:]}) == 1


@pytest.mark.parametrize(
    "last",
    [answer_bytes(b"{}", 200, "connection: close"), b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}"],
    ids=["close", "1.0"],
)
async def test_a_closing_answer_ends_the_connection(server: ScriptedServer, last: bytes) -> None:
    server.steps.append(sends(last))
    async with open_pool(server.port) as opened:
        assert (await exchange(opened)).body == b"{}"
        assert (await exchange(opened)).body == b"{}"
    assert [each.connection for each in server.requests] == [0, 1]


async def test_a_second_answer_ends_the_connection(server: ScriptedServer) -> None:
    server.steps.append(sends(answer_bytes(b"mine") + answer_bytes(b"not asked for")))
    async with open_pool(server.port) as opened:
        assert (await exchange(opened)).body == b"mine"
        assert (await exchange(opened)).body == b"{}"
    assert [each.connection for each in server.requests] == [0, 1]


async def test_bytes_between_requests_end_the_connection(server: ScriptedServer) -> None:
    async with open_pool(server.port) as opened:
        await exchange(opened)
        (writer,) = server.writers
        writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await server.wait_for(lambda: not server.writers)
        assert (await exchange(opened)).status == 200
    assert server.connections == 2


async def test_idle_connections_are_closed(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_LIMIT", 0.05)
    async with open_pool(server.port) as opened:
        await exchange(opened)
        await server.wait_for(lambda: not server.writers)
        await exchange(opened)
    assert server.connections == 2


# --- connections that die


async def test_a_stale_connection_is_replaced_at_once(server: ScriptedServer) -> None:
    """The server closes an idle connection just when the next request is on its way."""
    server.steps += [answers(b"one"), sends_and_closes(), answers(b"two")]
    async with open_pool(server.port) as opened:
        assert (await exchange(opened)).body == b"one"
        assert (await exchange(opened, b"again")).body == b"two"
    assert [(each.connection, each.body) for each in server.requests] == [(0, b"{}"), (0, b"again"), (1, b"again")]


async def test_a_pool_that_does_not_repeat_tells_of_a_stale_connection(server: ScriptedServer) -> None:
    server.steps += [answers(), sends_and_closes()]
    async with open_pool(server.port, repeats=False) as opened:
        await exchange(opened)
        with pytest.raises(ExchangeFailed, match="closed by the server"):
            await exchange(opened)
        await exchange(opened)
    assert len(server.requests) == 3


async def test_a_stale_connection_is_replaced_when_all_slots_are_taken(server: ScriptedServer) -> None:
    """The replacement is a new connection, for which the one that was idle for longest makes room."""
    async with open_pool(server.port, max_connections=2) as opened:
        await asyncio.gather(exchange(opened), exchange(opened))
        server.steps += [sends_and_resets(), answers(b"new")]
        assert (await exchange(opened)).body == b"new"
        assert server.requests[-1].connection == 2


async def test_a_stale_connection_is_replaced_only_once(server: ScriptedServer) -> None:
    server.steps += [answers(), sends_and_closes(), sends_and_closes()]
    async with open_pool(server.port) as opened:
        await exchange(opened)
        with pytest.raises(ExchangeFailed, match="closed by the server"):
            await exchange(opened)
    assert len(server.requests) == 3


async def test_a_new_connection_that_dies_is_reported(server: ScriptedServer) -> None:
    server.steps.append(sends_and_closes())
    async with open_pool(server.port) as opened:
        with pytest.raises(ExchangeFailed, match="closed by the server"):
            await exchange(opened)
    assert len(server.requests) == 1


@pytest.mark.parametrize("cut", [1, 12, 30, -1])
async def test_an_answer_that_breaks_off_is_reported(server: ScriptedServer, cut: int) -> None:
    """The request was carried out, perhaps: the caller has to decide."""
    server.steps += [answers(), sends_and_resets(answer_bytes(b'{"a":1}')[:cut])]
    async with open_pool(server.port) as opened:
        await exchange(opened)
        with pytest.raises(ExchangeFailed, match="in mid-answer"):
            await exchange(opened)
        await exchange(opened)
    assert len(server.requests) == 3


@pytest.mark.parametrize("begin", [b"", answer_bytes(b"{}")[:-1]], ids=["silence", "half"])
async def test_answers_have_a_time_limit(server: ScriptedServer, begin: bytes) -> None:
    server.steps += [answers(), sends(begin) if begin else waits_for(asyncio.Event(), answers())]
    async with open_pool(server.port) as opened:
        await exchange(opened)
        with pytest.raises(ExchangeFailed, match="in time"):
            await exchange(opened, read_timeout=0.05)
        assert (await exchange(opened)).status == 200
    assert [each.connection for each in server.requests] == [0, 0, 1]


async def test_each_request_has_its_own_time_limit(server: ScriptedServer) -> None:
    """The timer that an earlier, more patient request left behind does not count."""
    never = asyncio.Event()
    server.steps += [answers(), waits_for(never, answers())]
    async with open_pool(server.port) as opened, asyncio.timeout(5):
        await exchange(opened, read_timeout=3600.0)
        with pytest.raises(ExchangeFailed, match="in time"):
            await exchange(opened, read_timeout=0.05)


async def test_nobody_listens(unused_tcp_port: int) -> None:
    async with open_pool(unused_tcp_port) as opened:
        for _ in range(6):  # more than there are slots
            with pytest.raises(ExchangeFailed, match="no connection"):
                await exchange(opened)


async def test_connecting_has_a_time_limit() -> None:
    """A server that takes the connection and never shakes hands."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        async with open_pool(port, tls=ssl.create_default_context(), max_connections=1, connect=0.05) as opened:
            for _ in range(3):
                with pytest.raises(ExchangeFailed, match=r"no connection within 0\.05 s"):
                    await exchange(opened)


async def test_all_addresses_of_a_name_are_tried(server: ScriptedServer) -> None:
    """`localhost` may be ::1 first, where nobody listens."""
    async with open_pool(server.port, host="localhost") as opened:
        assert (await exchange(opened)).status == 200


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "does-not-exist.invalid"])
async def test_a_name_that_does_not_resolve(host: str) -> None:
    async with open_pool(80, host=host) as opened:
        with pytest.raises(ExchangeFailed, match="no connection"):
            await exchange(opened)


# --- the bound, the line, and giving up


async def test_requests_over_the_bound_wait_in_line(server: ScriptedServer) -> None:
    go = asyncio.Event()
    server.steps += [waits_for(go, answers())] * 2
    async with open_pool(server.port, max_connections=2) as opened:
        numbers = [str(number).encode() for number in range(8)]
        calls = [asyncio.ensure_future(exchange(opened, number)) for number in numbers]
        await server.wait_for(lambda: len(server.requests) == 2)
        assert server.connections == 2
        go.set()
        await asyncio.gather(*calls)
    assert server.connections == 2
    assert [each.body for each in server.requests][2:] == numbers[2:]


async def test_the_line_moves_on_when_connections_die(server: ScriptedServer) -> None:
    """A waiting request opens a connection in the place of one that was lost."""
    go = asyncio.Event()
    server.steps += [waits_for(go, sends_and_resets()), answers(b"next")]
    async with open_pool(server.port, max_connections=1) as opened:
        first = asyncio.ensure_future(exchange(opened))
        await server.wait_for(lambda: len(server.requests) == 1)
        second = asyncio.ensure_future(exchange(opened))
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(ExchangeFailed):
            await first
        assert (await second).body == b"next"


async def test_waiting_in_line_has_a_time_limit(server: ScriptedServer) -> None:
    go = asyncio.Event()
    server.steps.append(waits_for(go, answers(b"first")))
    async with open_pool(server.port, max_connections=1) as opened:
        first = asyncio.ensure_future(exchange(opened))
        await server.wait_for(lambda: len(server.requests) == 1)
        with pytest.raises(ExchangeFailed, match="all 1 connections are busy"):
            await exchange(opened, read_timeout=0.02)
        go.set()
        assert (await first).body == b"first"
        await exchange(opened)
    assert server.connections == 1


async def test_the_line_is_bounded(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_LINE", 1)
    go = asyncio.Event()
    server.steps.append(waits_for(go, answers()))
    async with open_pool(server.port, max_connections=1) as opened:
        calls = [asyncio.ensure_future(exchange(opened)) for _ in range(2)]
        await server.wait_for(lambda: len(server.requests) == 1)
        with pytest.raises(ExchangeFailed, match="1 requests wait"):
            await exchange(opened)
        go.set()
        await asyncio.gather(*calls)


async def test_cancelling_a_request_closes_its_connection(server: ScriptedServer) -> None:
    server.steps += [answers(), sends(answer_bytes(b"late")[:20])]
    async with open_pool(server.port, max_connections=1) as opened:
        await exchange(opened)
        call = asyncio.ensure_future(exchange(opened))
        await server.wait_for(lambda: len(server.requests) == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await exchange(opened)).body == b"{}"
    assert [each.connection for each in server.requests] == [0, 0, 1]


async def test_cancelling_one_in_line_leaves_the_others(server: ScriptedServer) -> None:
    go = asyncio.Event()
    server.steps.append(waits_for(go, answers()))
    async with open_pool(server.port, max_connections=1) as opened:
        first, second, third = (asyncio.ensure_future(exchange(opened, body)) for body in (b"1", b"2", b"3"))
        await server.wait_for(lambda: len(server.requests) == 1)
        second.cancel()
        go.set()
        await asyncio.gather(first, third)
        assert second.cancelled()
    assert [each.body for each in server.requests] == [b"1", b"3"]


async def test_cancelling_at_the_moment_of_being_served_gives_the_connection_back(server: ScriptedServer) -> None:
    go = asyncio.Event()
    server.steps.append(waits_for(go, answers()))
    async with open_pool(server.port, max_connections=1) as opened:
        first = asyncio.ensure_future(exchange(opened, b"1"))
        await server.wait_for(lambda: len(server.requests) == 1)
        second = asyncio.ensure_future(exchange(opened, b"2"))
        await asyncio.sleep(0)
        first.add_done_callback(lambda _: second.cancel())
        go.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (await exchange(opened, b"3")).status == 200


async def test_cancelling_while_connecting_frees_the_slot(server: ScriptedServer) -> None:
    async with open_pool(server.port, max_connections=1) as opened:
        call = asyncio.ensure_future(exchange(opened))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await exchange(opened)).status == 200


async def test_closing_fails_what_is_in_flight_and_in_line(server: ScriptedServer) -> None:
    server.steps.append(waits_for(asyncio.Event(), answers()))
    opened = Pool(HOST, server.port, None, max_connections=1, connect_timeout=5.0)
    calls = [asyncio.ensure_future(exchange(opened)) for _ in range(2)]
    await server.wait_for(lambda: len(server.requests) == 1)
    await opened.aclose()
    await opened.aclose()
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in failures] == [ExchangeFailed, ExchangeFailed]
    with pytest.raises(ExchangeFailed, match="closed"):
        await exchange(opened)
    assert opened._open == 0


async def test_closing_while_connecting(server: ScriptedServer) -> None:
    opened = Pool(HOST, server.port, None, max_connections=1, connect_timeout=5.0)
    call = asyncio.ensure_future(exchange(opened))
    await asyncio.sleep(0)
    await opened.aclose()
    with pytest.raises(ExchangeFailed, match="closed"):
        await call


async def test_many_requests_on_few_connections(server: ScriptedServer) -> None:
    """Every answer goes to its own request, with connections dying and callers giving up all the time."""

    async def echo(asked: object, writer: asyncio.StreamWriter) -> None:
        body = server.requests[-1].body
        number = int(body)
        if number % 17 == 0:
            writer.transport.abort()
            return
        writer.write(answer_bytes(body, 200, *(["connection: close"] if number % 13 == 0 else [])))

    server.otherwise = echo

    async def one(opened: Pool, number: int) -> bool:
        body = str(number).encode()
        try:
            async with asyncio.timeout(0 if number % 11 == 0 else None):
                return (await exchange(opened, body)).body == body
        except (ExchangeFailed, TimeoutError):
            return number % 17 == 0 or number % 11 == 0

    async with open_pool(server.port, max_connections=5) as opened:
        assert all(await asyncio.gather(*(one(opened, number) for number in range(400))))
        await asyncio.gather(*(exchange(opened, b"1") for _ in range(10)))
    assert opened._open == 0  # every slot was given back


# --- TLS


async def test_tls_with_our_own_authority(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, HOST)
    server = ScriptedServer(answers(b"private"))
    async with server.running(authority.server), open_pool(server.port, tls=tls_context(authority.ca_file)) as opened:
        for _ in range(3):
            assert (await exchange(opened, bytes(100_000))).body == b"private"
        (writer,) = server.writers
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert server.connections == 1


@pytest.mark.parametrize(("name", "trusted"), [("somebody-else.example", True), (HOST, False)])
async def test_tls_refuses_the_wrong_server(tmp_path: Path, name: str, trusted: bool) -> None:
    authority = make_authority(tmp_path, name)
    context = tls_context(authority.ca_file) if trusted else ssl.create_default_context()
    server = ScriptedServer(answers())
    async with server.running(authority.server), open_pool(server.port, tls=context, max_connections=1) as opened:
        for _ in range(2):
            with pytest.raises(ExchangeFailed, match="certificate is not trusted"):
                await exchange(opened)
    assert server.requests == []
