"""One request at a time on one keep-alive connection: the HTTP/1.1 client side, as much of it as AWS needs.

A `Connection` writes a request that is already bytes and parses the answer (httptools, the parser of node.js). It
knows nothing of AWS; `pool` owns connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import httptools

MAX_HEAD: Final = 64 * 1024
"""Bytes of an answer's status line and headers. AWS stays under 2 KiB; node.js takes 16 KiB, IIS 16, tomcat 8."""

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of an answer. The largest legal ones are ten messages of 1 MiB from SQS, where JSON may escape every byte as
up to six, and 10 MiB of Kinesis records in base64."""

IDLE_LIMIT: Final = 15.0
"""Seconds that a connection may stay unused. Under what AWS endpoints keep open (the AWS SDK for Java takes 60), so
that requests seldom meet a connection that is being closed by the other side."""


class ExchangeFailed(Exception):
    """No answer, or no usable one. `stale`: not one byte of it came, and the connection had been used before."""

    def __init__(self, problem: str, *, stale: bool = False) -> None:
        super().__init__(problem)
        self.stale = stale


class Answer:
    """A whole answer. Header names are as the server wrote them."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str:
        """Return a header's value, empty when it is not there. `name` is in lower case."""
        wanted = name.encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), "")


class Connection(asyncio.Protocol):
    """One connection to an endpoint. `lost` is called once, with the connection, when an adopted one is gone."""

    __slots__ = (
        "_answer",
        "_body",
        "_deadline",
        "_headers",
        "_in_head",
        "_loop",
        "_lost",
        "_parser",
        "_received",
        "_timer",
        "_transport",
        "closed",
        "reusable",
        "used",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._lost: Callable[[Connection], None] | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._received = 0
        self._in_head = True
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.used = False
        """Whether a request has been answered on it."""
        self.reusable = True
        """Whether it may take another request."""
        self.closed = False

    # --- what the pool calls

    def adopt(self, lost: Callable[[Connection], None]) -> None:
        """Have a caller who is told when the connection is gone."""
        self._lost = lost

    def exchange(self, request: bytes, timeout: float) -> asyncio.Future[Answer]:
        """Write a request; the future gets the whole answer, or `ExchangeFailed`. `timeout` is in seconds.

        One at a time, and only while `reusable`. Whoever stops waiting calls `abort`.
        """
        assert self._transport is not None
        assert self._answer is None
        answer = self._answer = self._loop.create_future()
        self._headers = []
        self._body = []
        self._received = 0
        self._in_head = True
        self._set_deadline(self._loop.time() + timeout)
        self._transport.write(request)
        return answer

    def rest(self) -> None:
        """Wait for the next request, at most `IDLE_LIMIT` seconds."""
        self._set_deadline(self._loop.time() + IDLE_LIMIT)

    def abort(self) -> None:
        """Close at once; a half-read answer is gone with it."""
        self.reusable = False
        if self._transport is not None and not self.closed:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._parser is None:
            self.abort()  # bytes that nobody asked for
            return
        self._received += len(data)
        if self._received > MAX_ANSWER:
            self._fail(ExchangeFailed(f"answer of more than {MAX_ANSWER} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ExchangeFailed(f"not an HTTP answer: {error}"))
            return
        if self._in_head and self._received > MAX_HEAD:
            self._fail(ExchangeFailed(f"answer with headers of more than {MAX_HEAD} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.reusable = False
        self._parser = None  # it refers to us
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        stale = self.used and self._received == 0
        problem = f"connection lost: {exc}" if exc else "connection closed by the server"
        self._fail(ExchangeFailed(problem if self._received == 0 else f"{problem}, in mid-answer", stale=stale))
        if self._lost is not None:
            self._lost(self)

    # --- httptools

    def on_message_begin(self) -> None:
        if self._answer is None:
            self.reusable = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:  # RFC 9110 §15.2: interim answers may come before the final one
            self._headers = []
            self._in_head = True
            return
        answer, self._answer = self._answer, None
        self.used = True
        if not self._parser.should_keep_alive():
            self.reusable = False
        if answer is not None and not answer.done():
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            answer.set_result(Answer(status, self._headers, body))

    # --- endings

    def _fail(self, error: ExchangeFailed) -> None:
        answer, self._answer = self._answer, None
        self.abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _set_deadline(self, deadline: float) -> None:
        """Give up at `deadline`. The timer is left as it is when it comes earlier: it then looks again.

        So a connection under load makes one timer each few seconds, not one for each request.
        """
        self._deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._set_deadline(self._deadline)
        else:
            self._fail(ExchangeFailed("no answer in time" if self._received == 0 else "no whole answer in time"))
