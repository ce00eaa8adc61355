"""Bytes on a socket, for what no well-behaved client library can be made to do."""

from __future__ import annotations

import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

from tests.bench.mqtt_load import mqtt_string, remaining_length
from tests.rig.processes import HOST

TIMEOUT = 20.0
READ_BYTES = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, of no time: closing sends a reset (socket(7), tcp(7))."""

CONNACK = b"\x20\x02\x00\x00"
PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"
DISCONNECT = b"\xe0\x00"

STOMP_CONNECT = b"CONNECT\naccept-version:1.2\nhost:/\n\n\0"


class Wire:
    """A TCP connection. Use it as a context manager; it is closed at the end, whatever was on its way."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        if receive_buffer:  # has to be set before the connection is made (tcp(7))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect((HOST, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_until_stuck(self, data: bytes, patience: float = 1.0) -> int:
        """Send until nothing more is taken for so many seconds; how much was taken."""
        sent = 0
        self._socket.settimeout(patience)
        with contextlib.suppress(TimeoutError):
            while sent < len(data):
                sent += self._socket.send(data[sent : sent + READ_BYTES])
        self._socket.settimeout(TIMEOUT)
        return sent

    def receive(self, size: int) -> bytes:
        """Exactly so many bytes. `ConnectionError` when the connection ends before."""
        data = b""
        while len(data) < size:
            read = self._socket.recv(size - len(data))
            if not read:
                raise ConnectionError(f"closed after {data!r}")
            data += read
        return data

    def receive_until(self, end: bytes) -> bytes:
        """What comes up to and with `end`, byte by byte."""
        data = b""
        while not data.endswith(end):
            data += self.receive(1)
        return data

    def receive_all(self) -> bytes:
        """What comes until the gateway closes or resets the connection. `TimeoutError` when it does not."""
        data = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while read := self._socket.recv(READ_BYTES):
                data += read
        return data

    def closed(self) -> bool:
        """Whether the gateway has closed it by now; what has come is thrown away."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(READ_BYTES):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self._socket.settimeout(TIMEOUT)
        return True

    def end_sending(self) -> None:
        """Send FIN; what comes can still be read."""
        with contextlib.suppress(OSError):  # the gateway may have ended it before
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End it so that the gateway sees a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._socket.close()


def mqtt_packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + remaining_length(len(body)) + body


def mqtt_connect(client_id: str, *, keep_alive: int = 60, will: tuple[str, bytes] | None = None) -> bytes:
    """CONNECT of 3.1.1, clean session; the will at QoS 1."""
    flags = 0x02 if will is None else 0x02 | 0x04 | 0x08
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + struct.pack("!H", keep_alive) + mqtt_string(client_id)
    if will is not None:
        topic, payload = will
        body += mqtt_string(topic) + struct.pack("!H", len(payload)) + payload
    return mqtt_packet(0x10, body)


def mqtt_publish(topic: str, payload: bytes, packet_id: int) -> bytes:
    """PUBLISH at QoS 1."""
    return mqtt_packet(0x32, mqtt_string(topic) + struct.pack("!H", packet_id) + payload)


def mqtt_puback(packet_id: int) -> bytes:
    return b"\x40\x02" + struct.pack("!H", packet_id)


def mqtt_pubacks(count: int) -> bytes:
    """The answers to the packet ids 1 to `count`, in their order [MQTT-4.6.0-2]."""
    return b"".join(map(mqtt_puback, range(1, count + 1)))


def connected_mqtt(port: int, connect: bytes) -> Wire:
    """A connection that has been let in."""
    wire = Wire(port)
    wire.send(connect)
    answer = wire.receive(len(CONNACK))
    if answer != CONNACK:
        raise AssertionError(f"refused: {answer!r}")
    return wire


def connected_stomp(port: int, *, receive_buffer: int = 0) -> Wire:
    """A connection that has been let in."""
    wire = Wire(port, receive_buffer=receive_buffer)
    wire.send(STOMP_CONNECT)
    answer = wire.receive_until(b"\0")
    if not answer.startswith(b"CONNECTED\n"):
        raise AssertionError(f"refused: {answer!r}")
    return wire


def stomp_frame(command: str, body: bytes = b"", **headers: str) -> bytes:
    """Underscores in names of headers stand for hyphens."""
    lines = "".join(f"{name.replace('_', '-')}:{value}\n" for name, value in headers.items())
    return f"{command}\n{lines}\n".encode() + body + b"\0"
