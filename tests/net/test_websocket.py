"""WebSockets: handshakes and frames as bytes on a transport that a test holds, then real clients on sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.uri import parse_uri

from gateway.net import websocket as websocket_module
from gateway.net.large import UNCOUNTED
from gateway.net.tls import ServerTls, TlsOptions
from gateway.net.websocket import FRAME_MARGIN, HANDSHAKE_BYTES, SENT_FRAME, WebSocket, WebSocketOptions
from tests.rig.certificates import Authority
from tests.rig.echoing import HOST, Echo, EchoPort
from tests.rig.loops import on_both_loops, until

MQTT = WebSocketOptions(
    paths=("/mqtt",), subprotocols=("mqtt", "mqttv3.1"), subprotocol_required=True, text=False, max_packet=100_000
)
STOMP = WebSocketOptions(
    paths=("/stomp", "/ws"),
    subprotocols=("v12.stomp", "v11.stomp", "v10.stomp"),
    subprotocol_required=False,
    text=True,
    max_packet=100_000,
)
MAX_MESSAGE = MQTT.max_packet + FRAME_MARGIN
MASK = b"\x37\xfa\x21\x3d"


def request(
    line: str = "GET /mqtt HTTP/1.1", *more: str, without: Sequence[str] = (), subprotocol: str | None = "mqtt"
) -> bytes:
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    if subprotocol is not None:
        headers["Sec-WebSocket-Protocol"] = subprotocol
    lines = [line, *(f"{name}: {value}" for name, value in headers.items() if name not in without), *more, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def frame(payload: bytes = b"", opcode: Opcode = Opcode.BINARY, *, fin: bool = True, mask: bool = True) -> bytes:
    """A frame of a client."""
    size = len(payload)
    head = bytes((opcode | 0x80 * fin,))
    bit = 0x80 * mask
    if size < 126:
        head += bytes((size | bit,))
    elif size < 65_536:
        head += struct.pack("!BH", 126 | bit, size)
    else:
        head += struct.pack("!BQ", 127 | bit, size)
    if not mask:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))


def close_frame(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(b"" if code is None else struct.pack("!H", code) + reason, Opcode.CLOSE)


class HeldTransport(asyncio.Transport):
    """Keeps what is written, and tells nobody of its end until a test does."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.writes = 0
        self.events: list[str] = []
        self.eof = True
        """Whether it can be half-closed."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert "close" not in self.events
        assert "abort" not in self.events
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.events.append("close")

    def abort(self) -> None:
        self.events.append("abort")

    def write_eof(self) -> None:
        self.events.append("write_eof")

    def can_write_eof(self) -> bool:
        return self.eof

    def is_closing(self) -> bool:
        return "close" in self.events or "abort" in self.events

    def pause_reading(self) -> None:
        self.events.append("pause_reading")

    def resume_reading(self) -> None:
        self.events.append("resume_reading")

    def get_write_buffer_size(self) -> int:
        return len(self.written)


@dataclass
class Held:
    """A WebSocket between a transport and an echo."""

    options: WebSocketOptions = MQTT

    def __post_init__(self) -> None:
        self.transport = HeldTransport()
        self.echo = Echo([])
        self.refused: list[tuple[str, str]] = []
        self.websocket = WebSocket(
            self.echo, self.options, lambda reason, problem, peer: self.refused.append((reason, problem))
        )
        self.websocket.connection_made(self.transport)

    def open(self, subprotocol: str | None = "mqtt") -> Held:
        self.receive(request(f"GET {self.options.paths[0]} HTTP/1.1", subprotocol=subprotocol))
        assert self.taken().startswith(b"HTTP/1.1 101 ")
        return self

    def receive(self, data: bytes) -> None:
        self.websocket.data_received(data)

    def taken(self) -> bytes:
        written = bytes(self.transport.written)
        self.transport.written.clear()
        return written

    def frames(self) -> list[Frame]:
        """Frames that were written since the last look."""
        return client_frames(self.taken())

    @property
    def sent_close(self) -> tuple[int, str]:
        """Code and reason of the last frame, which has to be a close frame."""
        *_, last = self.frames()
        assert last.opcode is Opcode.CLOSE
        return struct.unpack("!H", last.data[:2])[0], bytes(last.data[2:]).decode()


def client_frames(data: bytes) -> list[Frame]:
    client = ClientProtocol(parse_uri("ws://localhost/mqtt"), state=websockets.State.OPEN, max_size=None)
    client.receive_data(data)
    return [event for event in client.events_received() if isinstance(event, Frame)]


@pytest.fixture
def held() -> Held:
    return Held().open()


def every_way(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two pieces at some places."""
    yield [data]
    yield [data[index : index + 1] for index in range(len(data))]
    for cut in range(1, len(data), max(1, len(data) // 20)):
        yield [data[:cut], data[cut:]]


class Gathering(Echo):
    """An echo that answers for the memory of frames."""

    def __init__(self) -> None:
        super().__init__([])
        self.gathered: list[tuple[int, int]] = []

    def gather(self, size: int, received: int) -> None:
        self.gathered.append((size, received))

    def data_received(self, data: bytes) -> None:
        self.gathered.append((-1, len(data)))


def test_a_large_frame_counts_as_the_largest_packet_until_it_is_complete() -> None:
    held = Held(replace(MQTT, max_packet=8 * UNCOUNTED)).open()
    echo = held.websocket._above = Gathering()
    whole = frame(b"x" * 4 * UNCOUNTED)
    largest = held.options.max_packet
    for start in range(0, len(whole), UNCOUNTED):
        held.receive(whole[start : start + UNCOUNTED])
    rest = len(whole) % UNCOUNTED
    more = (largest, UNCOUNTED)
    assert echo.gathered == [more, more, more, (-1, 4 * UNCOUNTED), (0, rest)]


def test_small_frames_are_not_counted() -> None:
    held = Held(replace(MQTT, max_packet=8 * UNCOUNTED)).open()
    echo = held.websocket._above = Gathering()
    for _ in range(5):
        held.receive(frame(b"x" * (UNCOUNTED // 2))[:-1])
        held.receive(frame(b"x" * (UNCOUNTED // 2))[-1:])
    assert echo.gathered == [(-1, UNCOUNTED // 2)] * 5


# Handshakes


@pytest.mark.parametrize(
    ("options", "line", "offered", "chosen"),
    [
        (MQTT, "GET /mqtt HTTP/1.1", "mqtt", "mqtt"),
        (MQTT, "GET /mqtt?token=1 HTTP/1.1", "mqtt", "mqtt"),
        (MQTT, "GET /mqtt HTTP/1.1", "mqttv3.1", "mqttv3.1"),
        (MQTT, "GET /mqtt HTTP/1.1", "x, mqttv3.1, mqtt", "mqtt"),  # [MQTT-6.0.0-4]
        (STOMP, "GET /stomp HTTP/1.1", "v10.stomp, v11.stomp, v12.stomp", "v10.stomp"),
        (STOMP, "GET /ws HTTP/1.1", "v13.stomp, v12.stomp, v11.stomp", "v12.stomp"),
        (STOMP, "GET /ws HTTP/1.1", "v11.stomp", "v11.stomp"),
        (STOMP, "GET /ws HTTP/1.1", "v13.stomp", None),
        (STOMP, "GET /ws HTTP/1.1", None, None),
    ],
)
def test_a_handshake_is_accepted(options: WebSocketOptions, line: str, offered: str | None, chosen: str | None) -> None:
    for pieces in every_way(request(line, "Cookie: \xe4", subprotocol=offered)):
        held = Held(options)
        for piece in pieces:
            assert not held.transport.written
            held.receive(piece)
        head = held.taken().decode()
        assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
        assert "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head  # [RFC 6455 §1.3]
        assert (f"\r\nSec-WebSocket-Protocol: {chosen}\r\n" in head) == (chosen is not None)
        assert ("Sec-WebSocket-Protocol" in head) == (chosen is not None)
        assert not held.refused
        assert not held.transport.events


async def test_compression_is_not_agreed_to() -> None:
    held = Held()
    held.receive(request("GET /mqtt HTTP/1.1", "Sec-WebSocket-Extensions: permessage-deflate"))
    answer = held.taken()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"xtensions" not in answer
    held.receive(bytes((0xC2, 0x80)) + MASK)  # as if it had been
    assert held.sent_close[0] == CloseCode.PROTOCOL_ERROR


def test_frames_right_behind_the_handshake_are_taken() -> None:
    held = Held()
    held.receive(request() + frame(b"early") + frame(b"bird"))
    head, _, rest = held.taken().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert held.echo.reads == [b"earlybird"]
    assert [each.data for each in client_frames(rest)] == [b"earlybird"]


ORIGINS = replace(MQTT, origins=("https://example.com",))
REFUSED: dict[str, tuple[WebSocketOptions, bytes, int]] = {
    "another path": (MQTT, request("GET /stomp HTTP/1.1"), 404),
    "the root": (MQTT, request("GET / HTTP/1.1"), 404),
    "a path that goes on": (MQTT, request("GET /mqtt/x HTTP/1.1"), 404),
    "a path that is not ASCII": (MQTT, request("GET /mqtt\xff HTTP/1.1"), 404),
    "a plain request": (MQTT, request(without=("Upgrade", "Connection")), 426),
    "an upgrade to something else": (MQTT, request("GET /mqtt HTTP/1.1", "Upgrade: h2c", without=("Upgrade",)), 426),
    "no connection upgrade": (
        MQTT,
        request("GET /mqtt HTTP/1.1", "Connection: keep-alive", without=("Connection",)),
        426,
    ),
    "no key": (MQTT, request(without=("Sec-WebSocket-Key",)), 400),
    "a short key": (
        MQTT,
        request("GET /mqtt HTTP/1.1", "Sec-WebSocket-Key: AAAA", without=("Sec-WebSocket-Key",)),
        400,
    ),
    "a key that is not ASCII": (
        MQTT,
        request("GET /mqtt HTTP/1.1", "Sec-WebSocket-Key: \xff", without=("Sec-WebSocket-Key",)),
        400,
    ),
    "two keys": (MQTT, request("GET /mqtt HTTP/1.1", "Sec-WebSocket-Key: AAAA"), 400),
    "no version": (MQTT, request(without=("Sec-WebSocket-Version",)), 400),
    "another version": (
        MQTT,
        request("GET /mqtt HTTP/1.1", "Sec-WebSocket-Version: 8", without=("Sec-WebSocket-Version",)),
        400,
    ),
    "a version that is not ASCII": (
        MQTT,
        request("GET /mqtt HTTP/1.1", "Sec-WebSocket-Version: \xff", without=("Sec-WebSocket-Version",)),
        400,
    ),
    "no subprotocol": (MQTT, request(subprotocol=None), 400),  # [MQTT-6.0.0-3]
    "another subprotocol": (MQTT, request(subprotocol="v12.stomp"), 400),
    "a garbled subprotocol": (MQTT, request(subprotocol="mqtt mqtt"), 400),
    "another origin": (ORIGINS, request("GET /mqtt HTTP/1.1", "Origin: https://example.org"), 403),
    "an origin that is not ASCII": (ORIGINS, request("GET /mqtt HTTP/1.1", "Origin: https://\xff"), 400),
    "two origins": (ORIGINS, request("GET /mqtt HTTP/1.1", *2 * ("Origin: https://example.com",)), 400),
    "POST": (MQTT, request("POST /mqtt HTTP/1.1"), 400),
    "HTTP/1.0": (MQTT, request("GET /mqtt HTTP/1.0"), 400),
    "HTTP/2": (MQTT, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a body": (MQTT, request("GET /mqtt HTTP/1.1", "Content-Length: 5"), 400),
    "a chunked body": (MQTT, request("GET /mqtt HTTP/1.1", "Transfer-Encoding: chunked"), 400),
    "a header without colon": (MQTT, request("GET /mqtt HTTP/1.1", "nonsense"), 400),
    "a control character in a header": (MQTT, request("GET /mqtt HTTP/1.1", "X: \x01"), 400),
    "no request line": (MQTT, b"\r\n\r\n", 400),
    "bare line feeds": (MQTT, request().replace(b"\r\n", b"\n") + b"\r\n\r\n", 400),
    "MQTT as it is, with a line feed": (MQTT, b"\x10\x0d\0\4MQTT\4\2\0\0\0\1\n", 400),
    "a line that is too long": (MQTT, request("GET /mqtt HTTP/1.1", f"X: {'x' * 9_000}"), 400),
    "too many headers": (MQTT, request("GET /mqtt HTTP/1.1", *(f"X{number}: 1" for number in range(200))), 400),
    "too many bytes": (MQTT, request("GET /mqtt HTTP/1.1", *(f"X{n}: {'x' * 5_000}" for n in range(4))), 431),
}


@pytest.mark.parametrize(("options", "data", "status"), REFUSED.values(), ids=REFUSED)
async def test_a_handshake_is_refused_once_and_told_of(options: WebSocketOptions, data: bytes, status: int) -> None:
    for pieces in every_way(data):
        held = Held(options)
        for piece in pieces:
            held.receive(piece)
        held.receive(b"more\r\n\r\n" + request())
        answer = held.taken()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert answer.count(b"\r\nContent-Length: ") == 1
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in answer  # [RFC 6455 §4.4]
        assert (b"\r\nUpgrade: websocket\r\n" in answer) == (status == 426)
        ((reason, problem),) = held.refused
        assert reason == "websocket_handshake"
        assert problem.startswith(f"{status}: ")
        assert problem.isascii()
        assert problem.isprintable()
        assert held.transport.events == ["write_eof", "resume_reading"]
        assert not held.echo.heard
        held.websocket.connection_lost(None)


async def test_a_request_without_an_end_is_refused_at_the_limit() -> None:
    held = Held()
    head = request()[:-2]
    lines = b"".join(b"X%d: %s\r\n" % (number, b"x" * 990) for number in range(100))
    held.receive((head + lines)[:HANDSHAKE_BYTES])
    assert not held.taken()
    held.receive(lines[-10:])
    assert held.taken().startswith(b"HTTP/1.1 431 ")
    held.websocket.connection_lost(None)


def test_every_part_of_a_request_waits_for_the_rest() -> None:
    data = request()
    for length in range(len(data)):
        held = Held()
        held.receive(data[:length])
        assert not held.taken()
        assert not held.refused
        assert held.websocket.eof_received() is False
        held.websocket.connection_lost(None)
        assert held.echo.lost


def test_an_origin_that_may_connect_and_no_origin_at_all() -> None:
    for origin in (["Origin: https://example.com"], []):
        held = Held(ORIGINS)
        held.receive(request("GET /mqtt HTTP/1.1", *origin))
        assert held.taken().startswith(b"HTTP/1.1 101 ")


@given(st.binary(max_size=200))
async def test_random_bytes_instead_of_a_handshake_do_no_harm(data: bytes) -> None:
    held = Held()
    held.receive(data)
    held.receive(b"\r\n\r\n")
    assert [reason for reason, _ in held.refused] == ["websocket_handshake"]
    assert held.taken().startswith(b"HTTP/1.1 400 ")
    held.websocket.connection_lost(None)


@given(st.binary(max_size=30), st.integers(0, len(request()) - 1))
async def test_a_mutated_handshake_does_no_harm(junk: bytes, place: int) -> None:
    data = request()
    held = Held()
    held.receive(data[:place] + junk + data[place + len(junk) :])
    if answer := held.taken():
        status = int(answer.split()[1])
        assert status in (101, 400, 404, 426)
        assert len(held.refused) == (status != 101)
    held.websocket.connection_lost(None)


def test_a_protocol_above_that_closes_or_writes_before_the_handshake_is_over() -> None:
    held = Held()
    held.receive(request()[:20])
    held.websocket.write(b"too early")
    held.websocket.close()
    held.receive(request()[20:])
    assert held.transport.events == ["close"]
    assert not held.taken()
    assert held.websocket.is_closing()


# Frames from the client


def test_what_came_in_one_read_is_given_on_as_one_piece(held: Held) -> None:
    held.receive(b"".join(frame(b"%d " % number) for number in range(100)))
    assert held.echo.reads == [b"".join(b"%d " % number for number in range(100))]
    assert [each.data for each in held.frames()] == held.echo.reads
    assert held.transport.writes == 2, "the handshake, and all that was echoed"


def test_packets_may_span_frames_and_frames_may_span_packets(held: Held) -> None:
    # [MQTT-6.0.0-2]
    for piece in (b"\x30\x09\0", b"\1axy", b"zpq\x30\x03\0\1a"):
        held.receive(frame(piece))
    assert bytes(held.echo.heard) == b"\x30\x09\0\1axyzpq\x30\x03\0\1a"


def test_a_fragmented_message_with_a_ping_between(held: Held) -> None:
    data = (
        frame(b"one ", fin=False)
        + frame(b"two ", Opcode.CONT, fin=False)
        + frame(b"are you there", Opcode.PING)
        + frame(b"", Opcode.CONT, fin=False)
        + frame(b"three", Opcode.CONT)
    )
    for pieces in every_way(data):
        other = Held().open()
        for piece in pieces:
            other.receive(piece)
        assert bytes(other.echo.heard) == b"one two three"
        frames = other.frames()
        assert [each.data for each in frames if each.opcode is Opcode.PONG] == [b"are you there"]
        assert b"".join(each.data for each in frames if each.opcode is Opcode.BINARY) == b"one two three"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MQTT.max_packet, MAX_MESSAGE])
def test_frames_of_any_size_up_to_the_limit(held: Held, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    held.receive(frame(payload[:size]))
    assert bytes(held.echo.heard) == payload[:size]
    assert b"".join(each.data for each in held.frames()) == payload[:size]
    assert not held.refused


FAILING: dict[str, tuple[bytes, int]] = {
    "a frame over the limit": (frame(b"x" * (MAX_MESSAGE + 1))[:20], 1009),
    "an absurd length": (b"\x82\xff" + b"\x7f" * 8 + MASK, 1009),
    "a message over the limit": (
        frame(b"x" * MAX_MESSAGE, fin=False) + frame(b"x", Opcode.CONT),
        1009,
    ),
    "text": (frame(b"text", Opcode.TEXT), 1003),
    "fragmented text": (frame(b"te", Opcode.TEXT, fin=False) + frame(b"xt", Opcode.CONT), 1003),
    "no mask": (frame(b"hello", mask=False), 1002),
    "a reserved bit": (b"\xc2\x80" + MASK, 1002),
    "a reserved opcode": (b"\x83\x80" + MASK, 1002),
    "a continuation of nothing": (frame(b"x", Opcode.CONT), 1002),
    "a message within a message": (frame(b"x", fin=False) + frame(b"y"), 1002),
    "a fragmented ping": (frame(b"x", Opcode.PING, fin=False), 1002),
    "a long ping": (frame(b"x" * 126, Opcode.PING), 1002),
    "a close frame of one byte": (frame(b"x", Opcode.CLOSE), 1002),
    "a close code that may not be sent": (close_frame(1005), 1002),
    "a reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
    "a close frame within a message": (frame(b"x", fin=False) + close_frame(), 1002),
}


@pytest.mark.parametrize(("data", "code"), FAILING.values(), ids=FAILING)
async def test_a_frame_that_may_not_be_ends_the_connection(data: bytes, code: int) -> None:
    # [MQTT-6.0.0-1] among them
    for ways in every_way(data) if len(data) < 1_000 else [[data]]:
        held = Held().open()
        before = frame(b"before")
        held.receive(before)
        held.frames()
        for piece in ways:
            held.receive(piece)
        assert held.sent_close[0] == code
        ((reason, problem),) = held.refused
        assert reason == "websocket_frames"
        assert problem.startswith(str(code))
        assert held.transport.events == ["write_eof", "resume_reading"], "what follows is read, and dropped"
        assert bytes(held.echo.heard).startswith(b"before")
        heard = len(held.echo.heard)
        held.receive(frame(b"after") * 3)
        held.websocket.write(b"too late")
        held.websocket.close()
        assert not held.taken()
        assert len(held.echo.heard) == heard
        assert held.transport.events == ["write_eof", "resume_reading"]
        held.websocket.connection_lost(None)


async def test_what_came_before_a_frame_that_may_not_be_is_taken() -> None:
    held = Held().open()
    held.receive(frame(b"before") + frame(b"text", Opcode.TEXT) + frame(b"after"))
    assert held.echo.reads == [b"before"]
    assert held.sent_close == (1003, "only binary frames are taken")
    held.websocket.connection_lost(None)


async def test_tls_is_closed_at_once_because_it_has_no_half() -> None:
    held = Held().open()
    held.transport.eof = False
    held.receive(frame(b"text", Opcode.TEXT))
    assert held.transport.events == ["close"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (close_frame(1000, b"done"), 1000),
        (close_frame(1001), 1001),
        (close_frame(4711, b"mine"), 4711),
        (close_frame(None), None),
    ],
)
async def test_the_close_of_a_client_is_answered_and_ends_the_connection(
    held: Held, data: bytes, code: int | None
) -> None:
    held.receive(frame(b"before") + data + frame(b"after"))
    assert held.echo.reads == [b"before"]
    last = held.frames()[-1]
    assert last.opcode is Opcode.CLOSE
    assert last.data[:2] == (b"" if code is None else struct.pack("!H", code))
    assert held.transport.events == ["close"]
    assert not held.refused
    held.receive(b"\xff" * 100)
    held.websocket.write(b"too late")
    held.websocket.close()
    held.websocket.abort()
    assert not held.taken()


async def test_who_closes_in_the_protocol_and_the_websocket_at_once_is_answered(held: Held) -> None:
    held.receive(frame(b"quit") + close_frame(1000))
    assert [each.opcode for each in held.frames()] == [Opcode.CLOSE]
    assert held.transport.events == ["close"]


def test_a_protocol_that_aborts_has_the_last_word(held: Held) -> None:
    held.receive(frame(b"abort") + frame(b"text", Opcode.TEXT))
    assert held.transport.events == ["abort"]
    assert not held.taken()


@given(
    st.lists(st.tuples(st.sampled_from("bcp"), st.binary(max_size=300), st.booleans()), max_size=20),
    st.lists(st.integers(1, 40), min_size=1, max_size=50),
)
def test_payloads_come_through_however_they_are_cut(parts: list[tuple[str, bytes, bool]], cuts: list[int]) -> None:
    data, sent, pings, open_message = b"", b"", [], False
    for kind, payload, fin in parts:
        if kind == "p":
            data += frame(payload[:125], Opcode.PING)
            pings.append(payload[:125])
        else:
            data += frame(payload, Opcode.CONT if open_message else Opcode.BINARY, fin=fin)
            sent += payload
            open_message = not fin
    held = Held().open()
    start = 0
    for number in range(len(data)):
        size = cuts[number % len(cuts)]
        held.receive(data[start : start + size])
        start += size
        if start >= len(data):
            break
    frames = held.frames()
    assert bytes(held.echo.heard) == sent == b"".join(each.data for each in frames if each.opcode is Opcode.BINARY)
    assert [each.data for each in frames if each.opcode is Opcode.PONG] == pings
    assert not held.refused


# Text


def test_a_client_gets_the_frames_that_it_sends() -> None:
    held = Held(STOMP).open("v12.stomp")
    for opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.TEXT):
        held.receive(frame("größer".encode(), opcode))
        assert [(each.opcode, each.data) for each in held.frames()] == [(opcode, "größer".encode())]


def test_a_fragmented_message_counts_as_what_it_began_as() -> None:
    held = Held(STOMP).open()
    held.receive(frame(b"a", Opcode.BINARY, fin=False))
    held.receive(frame(b"ping", Opcode.PING) + frame(b"b", Opcode.CONT))
    assert [each.opcode for each in held.frames() if each.opcode is not Opcode.PONG] == [Opcode.BINARY] * 2


def test_a_client_that_has_sent_nothing_gets_text_wherever_that_is_possible() -> None:
    held = Held(STOMP).open()
    held.websocket.write("größer".encode())
    held.websocket.write(b"\xff\0")
    assert [each.opcode for each in held.frames()] == [Opcode.TEXT, Opcode.BINARY]


def test_what_is_not_utf8_goes_to_a_client_of_text_in_binary_frames() -> None:
    held = Held(STOMP).open()
    held.receive(frame(b"text", Opcode.TEXT))
    held.websocket.write(b"\xff\0")
    assert [each.opcode for each in held.frames()] == [Opcode.TEXT, Opcode.BINARY]


def test_what_is_one_piece_to_the_protocol_may_come_in_several_messages() -> None:
    held = Held(STOMP).open()
    held.receive(frame(b"SEND\ndestin", Opcode.TEXT) + frame(b"ation:a\n\nbo", Opcode.TEXT))
    held.receive(frame(b"dy\0", Opcode.TEXT))
    assert bytes(held.echo.heard) == b"SEND\ndestination:a\n\nbody\0"
    assert not held.refused


def test_a_character_may_be_cut_by_fragments() -> None:
    held = Held(STOMP).open()
    euro = "€".encode()
    held.receive(frame(euro[:1], Opcode.TEXT, fin=False) + frame(euro[1:2], Opcode.CONT, fin=False))
    held.receive(frame(b"ping", Opcode.PING) + frame(euro[2:], Opcode.CONT) + frame(b"\xff"))
    assert bytes(held.echo.heard) == euro + b"\xff"
    assert not held.refused


@pytest.mark.parametrize(
    "data",
    [
        frame(b"\xff", Opcode.TEXT),
        frame(b"\xe2\x82", Opcode.TEXT),
        frame(b"\xe2", Opcode.TEXT, fin=False) + frame(b"x", Opcode.CONT),
        frame(b"ok", Opcode.TEXT, fin=False) + frame(b"\xe2", Opcode.CONT),
    ],
)
async def test_text_that_is_not_utf8_ends_the_connection(data: bytes) -> None:
    held = Held(STOMP).open()
    held.receive(data)
    assert held.sent_close[0] == CloseCode.INVALID_DATA
    assert [reason for reason, _ in held.refused] == ["websocket_frames"]
    held.websocket.connection_lost(None)


# Frames to the client


@pytest.mark.parametrize("size", [1, SENT_FRAME, SENT_FRAME + 1, 3 * SENT_FRAME + 7])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_large_text_is_cut_between_characters(size: int, before: int) -> None:
    held = Held(STOMP).open()
    text = "x" * before + "€" * (size // 3 + 1)
    held.websocket.write(text.encode())
    frames = held.frames()
    assert all(each.opcode is Opcode.TEXT and each.fin and len(each.data) <= SENT_FRAME for each in frames)
    assert "".join(bytes(each.data).decode() for each in frames) == text


@pytest.mark.parametrize("size", [1, SENT_FRAME, SENT_FRAME + 1, 3 * SENT_FRAME + 7])
def test_a_large_piece_is_cut_into_frames_that_clients_take(held: Held, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    held.websocket.write(data[:size])
    frames = held.frames()
    assert all(each.opcode is Opcode.BINARY and each.fin and len(each.data) <= SENT_FRAME for each in frames)
    assert len(frames) == -(-size // SENT_FRAME)
    assert b"".join(each.data for each in frames) == data[:size]
    assert held.transport.writes == 2, "the handshake, and one for all frames"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whatever_holds_bytes_can_be_written(
    held: Held, kind: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    held.websocket.write(kind(b"hello"))
    held.websocket.write(kind(b""))
    assert [each.data for each in held.frames()] == [b"hello"]


def test_a_client_that_pings_and_does_not_read_fills_no_buffer(held: Held) -> None:
    held.websocket.pause_writing()
    assert held.echo.write_paused
    for number in range(1000):
        held.receive(frame(b"%d" % number, Opcode.PING))
    assert not held.taken()
    held.websocket.resume_writing()
    assert not held.echo.write_paused
    # [RFC 6455 §5.5.3]
    assert [(each.opcode, each.data) for each in held.frames()] == [(Opcode.PONG, b"999")]
    held.receive(frame(b"last", Opcode.PING))
    assert [each.data for each in held.frames()] == [b"last"]


async def test_closing_says_so_and_waits_for_the_answer() -> None:
    held = Held().open()
    held.websocket.pause_reading()
    held.websocket.close()
    assert held.sent_close == (1000, "")
    assert held.websocket.is_closing()
    assert held.transport.events == ["pause_reading", "resume_reading"], "the answer has to be read"
    held.websocket.pause_reading()
    held.websocket.resume_reading()
    held.websocket.close()
    held.websocket.write(b"too late")
    held.receive(frame(b"on its way") + frame(b"ping", Opcode.PING))
    assert not held.echo.heard
    held.receive(close_frame(1000))
    assert held.transport.events == ["pause_reading", "resume_reading", "close"]
    held.websocket.connection_lost(None)
    assert held.echo.lost


async def test_who_does_not_answer_a_close_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_module, "LINGER", 0.01)
    for end in (
        lambda held: held.websocket.close(),
        lambda held: held.receive(frame(b"", Opcode.TEXT)),
        lambda held: held.receive(close_frame()),  # and reads nothing, so that the transport cannot close
    ):
        held = Held().open()
        end(held)
        await until(lambda: "abort" in held.transport.events, "it is aborted")  # noqa: B023 - awaited right here


def test_a_websocket_has_no_half_to_close(held: Held) -> None:
    assert not held.websocket.can_write_eof()


# Real clients


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def server_tls(authority: Authority, **options: object) -> ServerTls:
    certificate, key = authority.issue("localhost")
    return ServerTls(TlsOptions(certificate=certificate, key=key, client_ca=authority.path, **options))  # type: ignore[arg-type]


def connecting(port: EchoPort, context: ssl.SSLContext | None = None, **options: object) -> websockets.connect:
    host = "localhost" if context else HOST
    options = {"subprotocols": [websockets.Subprotocol("mqtt")], "max_size": None, **options}
    scheme = "wss" if context else "ws"
    return websockets.connect(f"{scheme}://{host}:{port.port}/mqtt", host=HOST, ssl=context, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@on_both_loops
async def test_a_client_sends_receives_pings_and_closes(authority: Authority, secure: bool) -> None:
    tls = server_tls(authority) if secure else None
    async with EchoPort(websocket=MQTT, tls=tls) as port:
        async with connecting(port, authority.client_context() if secure else None) as client:
            assert client.subprotocol == "mqtt"
            await client.send(b"hello")
            assert await client.recv() == b"hello"
            await (await client.ping())
            large = b"x" * MAX_MESSAGE
            await client.send([large[:1000], large[1000:50_000], large[50_000:]])
            received = b""
            while len(received) < len(large):
                received += await client.recv()  # type: ignore[operator]
            assert received == large
        assert client.close_code == 1000
        await until(lambda: port.echoes[0].lost, "it is gone")
        assert port.echoes[0].error is None
        assert port.refused == []


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@on_both_loops
async def test_the_gateway_closes_with_a_code_that_the_client_sees(authority: Authority, secure: bool) -> None:
    tls = server_tls(authority) if secure else None
    async with EchoPort(websocket=MQTT, tls=tls) as port:
        for sent, code in (
            (frame(b"quit"), 1000),
            (frame(b"text", Opcode.TEXT), 1003),
            (frame(b"x" * 8_000_000), 1009),  # still on its way when the gateway has seen enough
        ):
            reader, writer = await port.connect(authority.client_context() if secure else None)
            writer.write(request() + sent)
            await reader.readuntil(b"\r\n\r\n")
            data = b""
            while not (frames := client_frames(data)) or frames[-1].opcode is not Opcode.CLOSE:
                received = await reader.read(65_536)
                assert received, "it ended without a close frame"
                data += received
            assert struct.unpack("!H", frames[-1].data[:2])[0] == code
            writer.write(close_frame(code))
            with contextlib.suppress(ConnectionError):  # TLS has no half that could be left open to what is on its way
                assert await reader.read() == b""
            writer.close()
        await until(lambda: all(echo.lost for echo in port.echoes), "all are gone")
        assert port.reasons == ["websocket_frames"] * 2


@on_both_loops
async def test_a_refused_client_reads_why_and_the_end() -> None:
    async with EchoPort(websocket=MQTT) as port:
        reader, writer = await port.connect()
        writer.write(request("GET /nowhere HTTP/1.1"))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert answer.endswith(b"\r\n\r\nThere is nothing at this path.\n")
        host, number = writer.get_extra_info("sockname")
        assert port.refused_peers == [f"{host}:{number}"]
        writer.close()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connecting(port, subprotocols=None)
        assert refused.value.response.status_code == 400


@on_both_loops
async def test_a_reset_is_told_to_the_protocol() -> None:
    async with EchoPort(websocket=MQTT) as port:
        _, writer = await port.connect()
        writer.write(request() + frame(b"hello"))
        await until(lambda: port.echoes and port.echoes[0].heard, "it is open")
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(lambda: port.echoes[0].lost, "it is gone")


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@on_both_loops
async def test_a_client_that_does_not_read_stops_the_writing_and_gets_all_in_the_end(
    authority: Authority, secure: bool
) -> None:
    tls = server_tls(authority) if secure else None
    async with EchoPort(websocket=MQTT, tls=tls) as port:
        context = authority.client_context() if secure else None
        async with connecting(port, context, max_queue=1, ping_interval=None) as client:
            await client.send(b"hello")
            assert await client.recv() == b"hello"
            (echo,) = port.echoes
            echo.transport.set_write_buffer_limits(high=1 if secure else 0, low=0)
            count, piece = 0, b"x" * 400_000
            while not echo.write_paused:
                echo.transport.write(piece)
                count += 1
                assert count < 1000
                await asyncio.sleep(0)
            assert echo.transport.get_write_buffer_size() > 0
            received = 0
            while received < count * len(piece):
                received += len(await client.recv())
            assert received == count * len(piece)
            await until(lambda: not echo.write_paused, "it may write again")


@on_both_loops
async def test_a_protocol_that_pauses_is_sent_nothing_until_it_goes_on() -> None:
    async with EchoPort(websocket=MQTT) as port:
        _, writer = await port.connect()
        writer.write(request() + frame(b"hello"))
        await until(lambda: port.echoes and port.echoes[0].heard, "it is open")
        (echo,) = port.echoes
        echo.silent = True
        echo.transport.pause_reading()
        piece, sent = frame(b"y" * 100_000), 0
        while not writer.transport.get_write_buffer_size():
            writer.write(piece)
            sent += 100_000
            assert sent < 1_000_000_000
        for _ in range(100):  # turns in which it would be read
            await asyncio.sleep(0)
        assert bytes(echo.heard) == b"hello"
        assert writer.transport.get_write_buffer_size()
        echo.transport.resume_reading()
        await until(lambda: len(echo.heard) == sent + len(b"hello"), "all is heard")
        writer.close()


@on_both_loops
async def test_the_certificate_of_a_client_is_there_for_the_protocol(authority: Authority) -> None:
    async with EchoPort(websocket=MQTT, tls=server_tls(authority, client_certificates="required")) as port:
        context = authority.client_context()
        context.load_cert_chain(*authority.issue("device"))
        async with connecting(port, context) as client:
            await client.send(b"hello")
            assert await client.recv() == b"hello"
            certificate = port.echoes[0].transport.get_extra_info("peercert")
            assert certificate["subject"] == ((("commonName", "device"),),)
        with pytest.raises((OSError, websockets.InvalidMessage, websockets.ConnectionClosed)):
            await connecting(port, authority.client_context())
        await until(lambda: port.refused, "it was seen")
        assert port.reasons == ["tls_handshake"]
        assert len(port.echoes) == 1
