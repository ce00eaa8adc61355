"""The PROXY protocol: headers as a table, read byte-exactly; and with TLS and WebSockets behind them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct

import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.net.proxy import MAX_BLOCK, MAX_LINE, ProxyHeaderError, Source, missing, read_header, source
from gateway.net.tls import ServerTls, TlsOptions
from gateway.net.websocket import WebSocketOptions
from tests.rig.certificates import Authority
from tests.rig.echoing import HOST, EchoPort
from tests.rig.loops import on_both_loops, until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
WEBSOCKET = WebSocketOptions(
    paths=("/mqtt",), subprotocols=("mqtt",), subprotocol_required=True, text=False, max_packet=100_000
)


def block(command: int, family: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(body) if length is None else length) + body


def tcp4(host: str, port: int, tlvs: bytes = b"") -> bytes:
    packed = ipaddress.ip_address(host).packed + ipaddress.ip_address("10.0.0.1").packed
    return block(0x21, 0x11, packed + struct.pack("!HH", port, 1883) + tlvs)


def tcp6(host: str, port: int, tlvs: bytes = b"") -> bytes:
    packed = ipaddress.ip_address(host).packed + ipaddress.ip_address("::1").packed
    return block(0x21, 0x21, packed + struct.pack("!HH", port, 1883) + tlvs)


def unix(path: bytes) -> bytes:
    return block(0x21, 0x31, path.ljust(108, b"\0") + b"/gateway".ljust(108, b"\0"))


TLVS = b"\x02\x00\x0bexample.com" + b"\xea\x00\x05\x01vpce" + b"\x04\x00\x00"

GOOD: list[tuple[bytes, Source | None]] = [
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 1883\r\n", ("203.0.113.7", 56324)),
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 0 65535\r\n", ("1.2.3.4", 0)),
    (b"PROXY TCP6 2001:DB8::1 ::1 1 1\r\n", ("2001:db8::1", 1)),
    (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 65535 1\r\n", ("::ffff:102:304", 65535)),
    (
        # the longest that [§2.1] knows
        b"PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace(
            b"f...f", b"ffff:ffff:ffff:ffff:ffff:ffff"
        ),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    ),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:: whatever, even \xff\r\n", None),
    (b"PROXY UNKNOWN ".ljust(MAX_LINE - 2, b"x") + b"\r\n", None),
    (tcp4("203.0.113.7", 56324), ("203.0.113.7", 56324)),
    (tcp4("203.0.113.7", 56324, TLVS), ("203.0.113.7", 56324)),
    (tcp6("2001:db8::1", 443), ("2001:db8::1", 443)),
    (tcp6("2001:db8::1", 443, TLVS), ("2001:db8::1", 443)),
    (unix(b"/run/client"), "/run/client"),
    (unix(b"/run/\xff"), "/run/\\xff"),
    (unix(b"x" * 108), "x" * 108),
    (unix(b"\0abstract"), None),
    (block(0x20, 0x00), None),
    (block(0x20, 0x11, b"\1" * 12), None),  # LOCAL: the addresses are to be ignored
    (block(0x20, 0x00, TLVS), None),
    (block(0x21, 0x00), None),
    (block(0x21, 0x00, TLVS), None),
    (tcp4("1.2.3.4", 5, b"\0" * (MAX_BLOCK - 12)), ("1.2.3.4", 5)),
]

BAD = {
    "another protocol": b"\x10\x0c\0\4MQTT\4\2\0\0\0\0",
    "a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a request": b"GET / HTTP/1.1\r\n",
    "a word that is not it": b"PROXX",
    "lower case": b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "no family": b"PROXY \r\n       \r\n",
    "another family": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "an unknown word": b"PROXY UNKNOWNS 1.2.3.4\r\n",
    "two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n",
    "a missing port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "a field too many": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
    "a port out of range": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
    "a signed port": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
    "an address out of range": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n",
    "a name": b"PROXY TCP4 localhost 1.2.3.4 1 1\r\n",
    "IPv6 as TCP4": b"PROXY TCP4 ::1 1.2.3.4 1 1\r\n",
    "IPv4 as TCP6": b"PROXY TCP6 1.2.3.4 ::1 1 1\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
    "CR LF within": b"PROXY TCP4 1.2.3\r\n 1.2.3.4 1 1\r\n",
    "a line without end": b"PROXY TCP4 ".ljust(MAX_LINE, b"1"),
    "a signature that differs": b"\r\n\r\n\0\r\nQUIX",
    "version 1 in a block": block(0x11, 0x11, b"\0" * 12),
    "version 3": block(0x31, 0x11, b"\0" * 12),
    "an unknown command": block(0x22, 0x11, b"\0" * 12),
    "UDP": block(0x21, 0x12, b"\0" * 12),
    "an unknown family": block(0x21, 0x41, b"\0" * 12),
    "family without transport": block(0x21, 0x10, b"\0" * 12),
    "cut IPv4 addresses": block(0x21, 0x11, b"\0" * 11),
    "cut IPv6 addresses": block(0x21, 0x21, b"\0" * 35),
    "cut UNIX paths": block(0x21, 0x31, b"\0" * 215),
    "a block that is too long": block(0x21, 0x11, length=MAX_BLOCK + 1),
}


def take(data: bytes) -> tuple[bytes, int]:
    """What `missing` takes for the header of a stream, and in how many reads."""
    header, reads = b"", 0
    while count := missing(header):
        assert count > 0
        assert len(data) > len(header), "it waits for more than there is"
        header = data[: len(header) + count]
        reads += 1
    return header, reads


@pytest.mark.parametrize(("header", "peer"), GOOD)
def test_a_header_names_the_peer(header: bytes, peer: Source | None) -> None:
    assert missing(header) == 0
    assert source(header) == peer


@pytest.mark.parametrize(("header", "peer"), GOOD)
def test_what_follows_a_header_is_not_read(header: bytes, peer: Source | None) -> None:
    for follows in (b"", b"\r\n", b"\n", b"PROXY TCP4 9.9.9.9 9.9.9.9 9 9\r\n", b"\x16\x03\x01"):
        assert take(header + follows)[0] == header


@pytest.mark.parametrize(("header", "peer"), GOOD)
def test_every_part_of_a_header_is_incomplete(header: bytes, peer: Source | None) -> None:
    for length in range(len(header)):
        assert 0 < missing(header[:length]) <= len(header) - length


def test_a_header_takes_few_reads() -> None:
    assert take(tcp4("1.2.3.4", 5, TLVS))[1] == 3
    assert max(take(header)[1] for header, _ in GOOD) < MAX_LINE // 2


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_header_is_refused_and_no_later_than_at_its_end(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        source(take(data)[0])


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_not_whole(data: bytes) -> None:
    with contextlib.suppress(ProxyHeaderError):
        if missing(data) == 0:
            source(data)


@given(st.binary(max_size=40), st.integers(0, 255), st.integers(0, 255))
def test_random_blocks_are_refused_or_name_a_peer(body: bytes, command: int, family: int) -> None:
    header = block(command, family, body)
    assert missing(header) == 0
    with contextlib.suppress(ProxyHeaderError):
        found = source(header)
        assert found is None or isinstance(found, str) or (isinstance(found[0], str) and 0 <= found[1] <= 65_535)


@given(st.ip_addresses(), st.integers(0, 65_535), st.binary(max_size=200))
def test_addresses_survive(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, tlvs: bytes) -> None:
    binary = (tcp4 if address.version == 4 else tcp6)(str(address), port, tlvs)
    assert source(binary) == (str(address), port)
    line = f"PROXY TCP{address.version} {address} {address} {port} 1\r\n".encode()
    assert source(line) == (str(address), port)


# On sockets


@on_both_loops
async def test_the_socket_is_left_at_the_first_byte_behind_the_header() -> None:
    for header, peer in GOOD:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(header + b"behind")
            assert await read_header(ours) == peer
            assert ours.recv(100) == b"behind"


@on_both_loops
async def test_the_peer_is_that_of_the_header() -> None:
    async with EchoPort(proxy_protocol=True) as port:
        reader, writer = await port.connect()
        writer.write(tcp4("203.0.113.7", 56324, TLVS) + b"hello")
        assert await reader.readexactly(5) == b"hello"
        (echo,) = port.echoes
        assert echo.peer == ("203.0.113.7", 56324)
        assert echo.transport.get_extra_info("sockname")[1] == port.port
        writer.write(b"quit")
        assert await reader.read() == b"quit"
        writer.close()
    assert port.refused == []


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", block(0x20, 0x00), block(0x21, 0x00, TLVS), unix(b"")])
@on_both_loops
async def test_the_peer_stays_that_of_the_socket_when_the_header_names_none(header: bytes) -> None:
    async with EchoPort(proxy_protocol=True) as port:
        reader, writer = await port.connect()
        writer.write(header + b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert port.echoes[0].peer == writer.get_extra_info("sockname")
        writer.close()


@on_both_loops
async def test_a_header_may_come_in_any_pieces() -> None:
    async with EchoPort(proxy_protocol=True) as port:
        for header in (b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 1883\r\n", tcp6("2001:db8::1", 443, TLVS)):
            reader, writer = await port.connect()
            for byte in header + b"hello":
                await send_alone(writer, bytes((byte,)))
            assert await reader.readexactly(5) == b"hello"
            writer.close()
        assert [echo.peer for echo in port.echoes] == [("203.0.113.7", 56324), ("2001:db8::1", 443)]


async def send_alone(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Give the reader a turn of the loop before the next piece."""
    writer.write(piece)
    await writer.drain()
    await asyncio.sleep(0)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
@on_both_loops
async def test_who_sends_no_header_is_cut_and_told_of(data: bytes) -> None:
    async with EchoPort(proxy_protocol=True) as port:
        reader, writer = await port.connect()
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert port.reasons == ["proxy_header"]
        host, number = writer.get_extra_info("sockname")
        assert port.refused_peers == [f"{host}:{number}"]
        assert port.echoes == []


@on_both_loops
async def test_a_header_has_to_come_in_time() -> None:
    for part in (b"", b"PROXY TCP4 1.2.3.4", SIGNATURE):
        async with EchoPort(proxy_protocol=True, patience=0.05) as port:
            reader, writer = await port.connect()
            writer.write(part)
            assert await reader.read() == b""
            writer.close()
            assert port.refused == [("proxy_header", "no PROXY header came in time")]
            assert port.echoes == []


@on_both_loops
async def test_a_health_check_is_no_error_and_half_a_header_is() -> None:
    async with EchoPort(proxy_protocol=True) as port:
        with capture_logs() as lines:
            _, writer = await port.connect()
            writer.close()
            await until(lambda: lines, "it was seen")
        assert [(line["event"], line["log_level"]) for line in lines] == [("nobody_spoke", "debug")]
        assert port.refused == []
        _, writer = await port.connect()
        writer.write(b"PROXY TCP4")
        writer.close()
        await until(lambda: port.refused, "it was seen")
        assert port.refused == [("proxy_header", "the connection ended in the header")]


@on_both_loops
async def test_a_reset_within_the_header_is_told_of() -> None:
    async with EchoPort(proxy_protocol=True) as port:
        sock = socket.create_connection((HOST, port.port))
        sock.sendall(b"PROXY TCP4")
        await until(lambda: port.acceptor._arriving, "it is read")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        await until(lambda: port.refused, "it was seen")
        assert port.reasons == ["proxy_header"]


@on_both_loops
async def test_closing_the_port_cuts_those_without_a_header() -> None:
    async with EchoPort(proxy_protocol=True) as port:
        reader, writer = await port.connect()
        await until(lambda: port.acceptor._arriving, "it is read")
        port.acceptor.close()
        await port.acceptor.wait_closed()
        assert await reader.read() == b""
        writer.close()
        assert port.refused == []


@on_both_loops
async def test_there_is_no_room_for_any_number_without_a_header() -> None:
    async with EchoPort(proxy_protocol=True, room=3) as port:
        waiting = [await port.connect() for _ in range(3)]
        await until(lambda: len(port.acceptor._arriving) == 3, "three are read")
        reader, writer = await port.connect()
        assert await reader.read() == b""
        writer.close()
        waiting[0][1].write(tcp4("1.2.3.4", 5) + b"hello")
        assert await waiting[0][0].readexactly(5) == b"hello"
        for _, each in waiting:
            each.close()


# Under TLS and WebSockets


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ServerTls:
    certificate, key = authority.issue("localhost")
    return ServerTls(TlsOptions(certificate=certificate, key=key))


class MemoryTls:
    """A TLS client whose bytes a test sends as it likes."""

    def __init__(self, authority: Authority, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = authority.client_context()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                return

    async def ask(self, data: bytes) -> bytes:
        """Send, and read as much."""
        self._tls.write(data)
        answer = b""
        while len(answer) < len(data):
            try:
                answer += self._tls.read(len(data))
            except ssl.SSLWantReadError:
                await self._exchange()
        return answer

    async def _exchange(self) -> None:
        self._writer.write(self._outgoing.read())
        received = await self._reader.read(65_536)
        assert received, "the server has closed"
        self._incoming.write(received)


@on_both_loops
async def test_a_client_hello_in_the_segment_of_the_header_is_not_lost(authority: Authority, tls: ServerTls) -> None:
    async with EchoPort(proxy_protocol=True, tls=tls) as port:
        for header in (tcp4("203.0.113.7", 56324, TLVS), b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 1883\r\n"):
            reader, writer = await port.connect()
            client = MemoryTls(authority, reader, writer)
            writer.write(header + client.hello())
            await client.shake_hands()
            assert await client.ask(b"hello") == b"hello"
            assert port.echoes[-1].peer == ("203.0.113.7", 56324)
            assert port.echoes[-1].transport.get_extra_info("cipher") is not None
            writer.close()
        assert port.refused == []


@on_both_loops
async def test_header_and_client_hello_may_be_cut_anywhere(authority: Authority, tls: ServerTls) -> None:
    header = tcp4("203.0.113.7", 56324)
    async with EchoPort(proxy_protocol=True, tls=tls) as port:
        for cut in (*range(1, len(header) + 3), len(header) + 100):
            reader, writer = await port.connect()
            client = MemoryTls(authority, reader, writer)
            data = header + client.hello()
            await send_alone(writer, data[:cut])
            writer.write(data[cut:])
            await client.shake_hands()
            assert await client.ask(b"hello") == b"hello"
            writer.close()
        assert {echo.peer for echo in port.echoes} == {("203.0.113.7", 56324)}


@on_both_loops
async def test_a_handshake_that_fails_behind_a_header(tls: ServerTls) -> None:
    async with EchoPort(proxy_protocol=True, tls=tls) as port:
        reader, writer = await port.connect()
        writer.write(tcp4("1.2.3.4", 5) + b"this is no ClientHello\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        await until(lambda: port.refused, "it was seen")
        assert port.reasons == ["tls_handshake"]
        assert port.refused_peers == ["1.2.3.4:5"]


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@on_both_loops
async def test_a_websocket_behind_a_header(authority: Authority, tls: ServerTls, secure: bool) -> None:
    async with EchoPort(proxy_protocol=True, websocket=WEBSOCKET, tls=tls if secure else None) as port:
        sock = socket.create_connection((HOST, port.port))
        sock.sendall(tcp6("2001:db8::1", 443))
        async with websockets.connect(
            "wss://localhost/mqtt" if secure else "ws://localhost/mqtt",
            sock=sock,
            subprotocols=[websockets.Subprotocol("mqtt")],
            ssl=authority.client_context() if secure else None,
        ) as client:
            await client.send(b"hello")
            assert await client.recv() == b"hello"
        assert port.echoes[0].peer == ("2001:db8::1", 443)
