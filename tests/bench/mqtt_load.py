"""MQTT 3.1.1 load: windowed and paced QoS 1 publishers, and connections that only stay.

Everything that is sent is built before the clock starts, and acknowledgements are compared as a stream of bytes: so
one core of load can drive several of gateway, and still each packet id is checked, in order.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

from tests.bench.payload import telemetry

CYCLE = 1000
"""Packet ids that a publisher uses before it starts again at 1; more than any window."""
PUBACK_BYTES = 4
CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"
KEEP_ALIVE = 600


class LoadError(Exception):
    """The gateway did not do what the load counts on; the run is void."""


def remaining_length(length: int) -> bytes:
    """The variable byte integer of MQTT 3.1.1 §2.2.3."""
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | 0x80 if length else digit)
        if not length:
            return bytes(encoded)


def connect_packet(client_id: str) -> bytes:
    body = b"\x00\x04MQTT\x04\x02" + struct.pack("!H", KEEP_ALIVE) + mqtt_string(client_id)
    return b"\x10" + remaining_length(len(body)) + body


def mqtt_string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("!H", len(encoded)) + encoded


def publish_packets(topics: Sequence[str], payload_bytes: int) -> tuple[bytes, int]:
    """`CYCLE` QoS 1 PUBLISH packets with packet ids from 1, and the length of each one.

    They go to the topics, which are equally long, one after the other.
    """
    heads = [mqtt_string(topic) for topic in topics]
    length = remaining_length(len(heads[0]) + 2 + payload_bytes)
    packets = [
        b"\x32" + length + heads[number % len(heads)] + struct.pack("!H", number) + telemetry(number, payload_bytes)
        for number in range(1, CYCLE + 1)
    ]
    return b"".join(packets), len(packets[0])


PUBACKS = b"".join(b"\x40\x02" + struct.pack("!H", number) for number in range(1, CYCLE + 1))


class MqttConnection(asyncio.Protocol):
    """A connection that has been accepted once `established` is done."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport | None = None
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(connect_packet(self.client_id))

    def data_received(self, data: bytes) -> None:
        if self.established.done():
            self.answered(data)
            return
        self._head += data
        if len(self._head) < len(CONNACK_ACCEPTED):
            return
        answer, rest = self._head[: len(CONNACK_ACCEPTED)], self._head[len(CONNACK_ACCEPTED) :]
        if answer != CONNACK_ACCEPTED:
            self.fail(f"{self.client_id}: refused with {answer.hex()}")
            return
        self.established.set_result(None)
        if rest:
            self.answered(rest)

    def answered(self, data: bytes) -> None:
        """Bytes after the CONNACK."""
        raise NotImplementedError

    def fail(self, problem: str) -> None:
        error = LoadError(problem)
        for waiter in (self.established, self.ended):
            if not waiter.done():
                waiter.set_exception(error)
        self.close()

    def close(self) -> None:
        """Disconnect; not an error from here on."""
        if not self.ended.done():
            self.ended.set_result(None)
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.fail(f"{self.client_id}: connection lost ({exc})")


class Publisher(MqttConnection):
    """Keeps `window` QoS 1 publishes unacknowledged until it is told to stop."""

    def __init__(self, client_id: str, topics: Sequence[str], payload_bytes: int, window: int) -> None:
        """`topics` as for `publish_packets`."""
        super().__init__(client_id)
        packets, self._packet_bytes = publish_packets(topics, payload_bytes)
        self._packets = memoryview(packets)
        self._window = window
        self._next = 0
        self._expected = 0
        self._ack_bytes = 0
        self._stopped = False
        self.sent = 0

    @property
    def acked(self) -> int:
        return self._ack_bytes // PUBACK_BYTES

    def start(self) -> None:
        self._send(self._window)

    def stop(self) -> None:
        """Send no more; `ended` is done when all is acknowledged."""
        self._stopped = True
        self._end_when_quiet()

    def answered(self, data: bytes) -> None:
        before = self.acked
        if not self._as_expected(data):
            self.fail(f"{self.client_id}: PUBACK out of order or not a PUBACK, after {before}")
            return
        self._ack_bytes += len(data)
        if self.acked > self.sent:
            self.fail(f"{self.client_id}: PUBACK of what was not sent")
            return
        self.acknowledged(self.acked - before)
        if self._stopped:
            self._end_when_quiet()

    def acknowledged(self, number: int) -> None:
        """So many more messages have been acknowledged."""
        if not self._stopped:
            self._send(number)

    def _as_expected(self, data: bytes) -> bool:
        """Whether the PUBACKs come in the order of the PUBLISHes [MQTT-4.6.0-2]."""
        start = 0
        while start < len(data):
            part = PUBACKS[self._expected : self._expected + len(data) - start]
            if data[start : start + len(part)] != part:
                return False
            start += len(part)
            self._expected = (self._expected + len(part)) % len(PUBACKS)
        return True

    def _send(self, number: int) -> None:
        self.sent += number
        while number and self.transport is not None:
            part = min(number, CYCLE - self._next)
            start = self._next * self._packet_bytes
            self.transport.write(self._packets[start : start + part * self._packet_bytes])
            self._next = (self._next + part) % CYCLE
            number -= part

    def _end_when_quiet(self) -> None:
        if self.acked == self.sent and not self.ended.done():
            self.ended.set_result(None)


class PacedPublisher(Publisher):
    """Publishes when it is told to, and keeps the seconds from each PUBLISH to its PUBACK."""

    def __init__(self, client_id: str, topic: str, payload_bytes: int) -> None:
        super().__init__(client_id, [topic], payload_bytes, window=0)
        self._sent_at: deque[float] = deque()
        self.round_trips: list[float] = []

    def publish(self) -> None:
        self._sent_at.append(time.perf_counter())
        self._send(1)

    def acknowledged(self, number: int) -> None:
        now = time.perf_counter()
        for _ in range(number):
            self.round_trips.append(now - self._sent_at.popleft())


class IdleConnection(MqttConnection):
    """Stays connected; `ponged` is done when it has been seen to be alive."""

    def __init__(self, client_id: str) -> None:
        super().__init__(client_id)
        self.ponged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pong = b""

    def ping(self) -> None:
        if self.transport is not None:
            self.transport.write(PINGREQ)

    def answered(self, data: bytes) -> None:
        self._pong += data
        if self._pong == PINGRESP:
            self.ponged.set_result(None)
        elif not PINGRESP.startswith(self._pong):
            self.fail(f"{self.client_id}: {self._pong.hex()} for a PINGREQ")
