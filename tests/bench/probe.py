"""The endpoint's own latency: bare requests on kept connections, for what the gateway adds to it."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import orjson

from tests.bench.payload import telemetry

CONTENT_LENGTH = b"Content-Length: "


def send_request(payload_bytes: int) -> bytes:
    """A SendMessageBatch of one entry, which is what one paced publish becomes."""
    entry = {"Id": "0", "MessageBody": telemetry(0, payload_bytes).decode()}
    body = orjson.dumps({"QueueUrl": "http://127.0.0.1/000000000000/probe", "Entries": [entry]})
    head = (
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: AmazonSQS.SendMessageBatch\r\n"
        f"Content-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Probe(asyncio.Protocol):
    """One connection with at most one request under way, kept in `idle` between requests."""

    def __init__(self, request: bytes, idle: asyncio.Queue[Probe]) -> None:
        self._request = request
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        self._sent_at = 0.0
        self.round_trips: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def publish(self) -> None:
        if self._transport is not None:
            self._sent_at = time.perf_counter()
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, _, body = self._answer.partition(b"\r\n\r\n")
        length = head.partition(CONTENT_LENGTH)[2].partition(b"\r\n")[0]
        if length and len(body) == int(length):
            self.round_trips.append(time.perf_counter() - self._sent_at)
            self._answer = b""
            self._idle.put_nowait(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
