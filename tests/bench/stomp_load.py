"""STOMP 1.2 load: SENDs with receipts in a window, and consumers that remember which messages they have seen."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from tests.bench.mqtt_load import CYCLE, LoadError
from tests.bench.payload import telemetry

CONNECT = b"CONNECT\naccept-version:1.2\nhost:/\nheart-beat:0,0\n\n\0"
# The endpoint's bodies start with the message's number, and hold no NUL.
MESSAGE = re.compile(rb"\nack:([^\r\n]+)\r?\n(?:[^\r\n]+\r?\n)*\r?\n(\d{12})")
ACK = b"ACK\nid:%b\n\n\0"
RECEIPT = re.compile(rb"RECEIPT\r?\nreceipt-id:(\d+)\r?\n\r?\n\0")


def send_frames(queue: str, payload_bytes: int) -> list[bytes]:
    """`CYCLE` SENDs, whose receipts are their numbers from 0."""
    head = f"SEND\ndestination:/queue/{queue}\ncontent-type:application/json\ncontent-length:{payload_bytes}\n"
    return [
        f"{head}receipt:{number}\n\n".encode() + telemetry(number, payload_bytes) + b"\0" for number in range(CYCLE)
    ]


class Sender(asyncio.Protocol):
    """Keeps `window` SENDs without a RECEIPT until it is told to stop."""

    def __init__(self, queue: str, payload_bytes: int, window: int) -> None:
        self._frames = send_frames(queue, payload_bytes)
        self._window = window
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._next = 0
        self._waiting: set[int] = set()
        self._stopped = False
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.acked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(CONNECT)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end = data.rfind(b"\0") + 1
        self._rest = data[end:]
        if not end:
            return
        if not self.established.done():
            if data.startswith(b"CONNECTED"):
                self.established.set_result(None)
            else:
                self._fail(f"not let in: {data[:200]!r}")
            return
        self._receipts(data[:end])

    def _receipts(self, frames: bytes) -> None:
        numbers = {int(number) for number in RECEIPT.findall(frames)}
        if len(numbers) != frames.count(b"\0") or not numbers <= self._waiting:
            self._fail(f"not the RECEIPTs of what was sent: {frames[:200]!r}")
            return
        self._waiting -= numbers
        self.acked += len(numbers)
        if not self._stopped:
            self._send(len(numbers))
        elif not self._waiting and not self.ended.done():
            self.ended.set_result(None)

    def start(self) -> None:
        self._send(self._window)

    def _send(self, count: int) -> None:
        numbers = [(self._next + each) % CYCLE for each in range(count)]
        if not self._waiting.isdisjoint(numbers):
            self._fail(f"the RECEIPT of one SEND came later than {CYCLE} others")
            return
        self._waiting.update(numbers)
        self._next = (self._next + count) % CYCLE
        if self._transport is not None:
            self._transport.write(b"".join([self._frames[number] for number in numbers]))

    def stop(self) -> None:
        """Send no more; `ended` is done when all receipts have come."""
        self._stopped = True
        if not self._waiting and not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, problem: str) -> None:
        error = LoadError(problem)
        for waiter in (self.established, self.ended):
            if not waiter.done():
                waiter.set_exception(error)
        self.close()

    def close(self) -> None:
        """Disconnect; not an error from here on."""
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"connection lost ({exc})")


class Consumer(asyncio.Protocol):
    """Subscribes as soon as it is connected.

    `together` is how many messages it acknowledges with one ACK, cumulatively; with 1, each has an ACK of its own, at
    once.
    """

    def __init__(self, queue: str, prefetch: int, seen: Seen, together: int = 1) -> None:
        ack = "client-individual" if together == 1 else "client"
        self._subscribe = (
            f"SUBSCRIBE\nid:0\ndestination:/queue/{queue}\nack:{ack}\nprefetch-count:{prefetch}\n\n\0"
        ).encode()
        self._together = together
        self._held: list[bytes] = []
        self._seen = seen
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._connected = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(CONNECT)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end = data.rfind(b"\0") + 1
        self._rest = data[end:]
        frames = data[:end]
        if not self._connected and frames:
            frames = self._greeted(frames)
        if not frames or self._transport is None:
            return
        messages = MESSAGE.findall(frames)
        if len(messages) != frames.count(b"\0"):
            self._fail(f"not a MESSAGE: {frames[:200]!r}")
            return
        for ack, number in messages:
            self._seen.add(int(number))
            self._held.append(ack)
        due = len(self._held) // self._together * self._together
        acks = self._held[self._together - 1 : due : self._together]
        del self._held[:due]
        if acks:
            self._transport.write(b"".join([ACK % ack for ack in acks]))

    def finish(self) -> None:
        """Acknowledge what is not enough for an ACK of many."""
        if self._held and self._transport is not None:
            self._transport.write(ACK % self._held[-1])
            self._held.clear()

    def _greeted(self, frames: bytes) -> bytes:
        """Take the CONNECTED frame; what follows it is left."""
        greeting, _, frames = frames.partition(b"\0")
        if not greeting.startswith(b"CONNECTED") or self._transport is None:
            self._fail(f"not let in: {greeting[:200]!r}")
            return b""
        self._connected = True
        self._transport.write(self._subscribe)
        return frames

    def _fail(self, problem: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(LoadError(problem))
        self.close()

    def close(self) -> None:
        """Disconnect; not an error from here on."""
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"connection lost ({exc})")


class Seen:
    """Which message numbers have come, over all consumers."""

    def __init__(self) -> None:
        self._numbers = bytearray()
        self.messages = 0
        self.distinct = 0

    def add(self, number: int) -> None:
        self.messages += 1
        missing = number + 1 - len(self._numbers)
        if missing > 0:
            self._numbers.extend(bytes(missing))
        if not self._numbers[number]:
            self._numbers[number] = 1
            self.distinct += 1
