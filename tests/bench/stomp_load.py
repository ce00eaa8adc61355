"""STOMP 1.2 consumers that acknowledge each message by itself and remember which ones they have seen."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from tests.bench.mqtt_load import LoadError

CONNECT = b"CONNECT\naccept-version:1.2\nhost:/\nheart-beat:0,0\n\n\0"
# The endpoint's bodies start with the message's number, and hold no NUL.
MESSAGE = re.compile(rb"\nack:([^\r\n]+)\r?\n(?:[^\r\n]+\r?\n)*\r?\n(\d{12})")
ACK = b"ACK\nid:%b\n\n\0"


class Consumer(asyncio.Protocol):
    """Subscribes as soon as it is connected, and acknowledges everything at once."""

    def __init__(self, queue: str, prefetch: int, seen: Seen) -> None:
        self._subscribe = (
            f"SUBSCRIBE\nid:0\ndestination:/queue/{queue}\nack:client-individual\nprefetch-count:{prefetch}\n\n\0"
        ).encode()
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
        acks = []
        for ack, number in MESSAGE.findall(frames):
            self._seen.add(int(number))
            acks.append(ACK % ack)
        if len(acks) != frames.count(b"\0"):
            self._fail(f"not a MESSAGE: {frames[:200]!r}")
            return
        self._transport.write(b"".join(acks))

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
