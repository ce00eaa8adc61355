"""One request on a connection of its own, whose answer goes on and is read as fast as its reader likes.

What is not read is not taken from the network either: TCP tells the other side to wait.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

import httptools

from adapters.aws.http import MAX_HEAD, Answer, ExchangeFailed

READ_AHEAD: Final = 256 * 1024
"""Bytes that wait to be read before no more are taken from the network; one read of the socket may come on top."""

MAX_FAULT: Final = 64 * 1024
"""Bytes of an answer that is read as a whole, because it says what is wrong."""


class StreamingConnection(asyncio.Protocol):
    """Used once: `begin`, `read` until the end, `close`. One caller waits at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: Answer | None = None
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._held = 0
        self._paused = False
        self._ended = False
        self._problem = ""
        self.closed = False

    async def begin(self, request: bytes, seconds: float) -> Answer:
        """Send the request; its answer without the body. `seconds` for it. Raises `ExchangeFailed`."""
        assert self._transport is not None
        self._transport.write(request)
        deadline = self._loop.time() + seconds
        while self._head is None:
            self._raise_problem()
            await self._wait(deadline)
        return self._head

    async def read(self, seconds: float) -> bytes:
        """What has come of the body; empty at its end. `seconds` for it. Raises `ExchangeFailed`."""
        deadline = self._loop.time() + seconds
        while not self._pieces:
            if self._ended:
                return b""
            self._raise_problem()
            await self._wait(deadline)
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._paused and not self.closed and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def read_fault(self, seconds: float) -> bytes:
        """The body of an answer that says what is wrong, `MAX_FAULT` bytes of it at most. Raises `ExchangeFailed`."""
        body = b""
        while len(body) < MAX_FAULT and (data := await self.read(seconds)):
            body += data
        return body[:MAX_FAULT]

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._fail("the client is closed")

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._ended:
            return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"not an HTTP answer: {error}")
        if self._head is None and self._head_bytes > MAX_HEAD:
            self._fail(f"answer with headers of more than {MAX_HEAD} bytes")
        if self._held > READ_AHEAD and not self._paused and not self.closed and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._parser = None  # it refers to us
        self._problem = self._problem or (f"connection lost: {exc}" if exc else "connection closed by the server")
        self._wake()

    # --- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:  # RFC 9110 §15.2: interim answers may come before the final one
            self._head = Answer(status, self._headers, b"")
        self._headers = []

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._held += len(body)

    def on_message_complete(self) -> None:
        self._ended = self._head is not None

    # --- waiting

    async def _wait(self, deadline: float) -> None:
        self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout_at(deadline):
                await self._waiter
        except TimeoutError:
            raise ExchangeFailed("no answer in time" if self._head is None else "nothing more came in time") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise_problem(self) -> None:
        if self._problem:
            raise ExchangeFailed(self._problem)

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem
        if self._transport is not None and not self.closed:
            self._transport.abort()
