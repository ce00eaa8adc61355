"""Keep-alive connections to one endpoint, shared by all requests to it."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from adapters.aws.http import Answer, Connection, ExchangeFailed

MAX_LINE: Final = 10_000
"""Requests that may wait for a connection; senders and receivers keep far fewer in flight."""

_CLOSED = "the client is closed"

P = TypeVar("P", bound=asyncio.Protocol)


class Pool:
    """At most `max_connections` connections; the one used last is used next, so that the others may go.

    Requests over that number wait in a line, first come, first served.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        *,
        max_connections: int,
        connect_timeout: float,
        repeats: bool = True,
    ) -> None:
        """`repeats`: whether a request that met a connection closed meanwhile is sent once more by itself."""
        self._host = host
        self._port = port
        self._tls = tls
        self._max_connections = max_connections
        self._connect_timeout = connect_timeout
        self._repeats = repeats
        self._open = 0  # slots taken: connections, and those being made
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._line: deque[asyncio.Future[Connection | None]] = deque()  # they get a connection, or a slot (None)
        self._closed = False
        self._empty: asyncio.Future[None] | None = None

    async def exchange(self, request: bytes, read_timeout: float) -> Answer:
        """Send a request and wait `read_timeout` seconds at most for its answer. Raises `ExchangeFailed`.

        A connection that has been idle may be gone without our knowing. When it turns out so, before any byte of an
        answer, a pool that repeats sends the request once more on a new one (RFC 9112 §9.3.1). The server may have got
        the first one: a call can be carried out twice, as with any client that repeats a call which got no answer.
        """
        connection = self._idle.pop() if self._idle else await self._next_connection(read_timeout)
        try:
            return await self._exchange_on(connection, request, read_timeout)
        except ExchangeFailed as error:
            if not (error.stale and self._repeats):
                raise
        connection = await self._new_connection(read_timeout)
        return await self._exchange_on(connection, request, read_timeout)

    async def aclose(self) -> None:
        """Abandon what is in flight and close every connection. Idempotent."""
        self._closed = True
        for waiter in self._line:
            if not waiter.done():
                waiter.set_exception(ExchangeFailed(_CLOSED))
        self._line.clear()
        self._idle.clear()
        for connection in tuple(self._connections):
            connection.abort()
        if self._connections:
            self._empty = self._empty or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._empty)

    async def _exchange_on(self, connection: Connection, request: bytes, read_timeout: float) -> Answer:
        try:
            answer = await connection.exchange(request, read_timeout)
        except asyncio.CancelledError:
            connection.abort()  # its answer would be taken for that of the next request
            raise
        self._release(connection)
        return answer

    def _release(self, connection: Connection) -> None:
        if not connection.reusable:
            connection.abort()
            return
        waiter = self._next_in_line()
        if waiter is not None:
            waiter.set_result(connection)
            return
        connection.rest()
        self._idle.append(connection)

    # --- getting a connection

    async def _next_connection(self, read_timeout: float) -> Connection:
        if self._closed:
            raise ExchangeFailed(_CLOSED)
        if self._open < self._max_connections:
            self._open += 1
            return await self._connect()
        connection = await self._wait_in_line(read_timeout)
        return await self._connect() if connection is None else connection

    async def _new_connection(self, read_timeout: float) -> Connection:
        """Prefer a connection that has never been idle: close the one that has been so for longest, if need be."""
        if self._open >= self._max_connections and self._idle:
            self._idle.pop(0).abort()
        return await self._next_connection(read_timeout)

    async def _wait_in_line(self, read_timeout: float) -> Connection | None:
        """Wait for a connection, or for a slot to open one in (None)."""
        if len(self._line) >= MAX_LINE:
            raise ExchangeFailed(f"{MAX_LINE} requests wait for a connection")
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._line.append(waiter)
        try:
            async with asyncio.timeout(read_timeout):
                return await waiter
        except TimeoutError:
            self._leave_line(waiter)
            raise ExchangeFailed(f"all {self._max_connections} connections are busy") from None
        except asyncio.CancelledError:
            self._leave_line(waiter)
            raise

    def _leave_line(self, waiter: asyncio.Future[Connection | None]) -> None:
        if waiter in self._line:
            self._line.remove(waiter)
        if waiter.cancelled() or waiter.exception() is not None:
            return
        connection = waiter.result()  # it came in the same moment
        if connection is None:
            self._free_slot()
        else:
            self._release(connection)

    def _next_in_line(self) -> asyncio.Future[Connection | None] | None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                return waiter
        return None

    # --- opening and closing

    async def _connect(self) -> Connection:
        """Open a connection in a slot that the caller has taken."""
        try:
            connection = await self.dial(Connection)
        except BaseException:
            self._free_slot()
            raise
        if connection.closed:  # before it was ours, so that nobody was told
            self._free_slot()
            raise ExchangeFailed("connection closed by the server")
        self._connections.add(connection)
        connection.adopt(self._lost)
        if self._closed:
            connection.abort()
            raise ExchangeFailed(_CLOSED)
        return connection

    async def dial(self, factory: Callable[[], P]) -> P:
        """Open a connection that is none of the pool's, and its caller's to close. Raises `ExchangeFailed`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(factory, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise ExchangeFailed(f"no connection within {self._connect_timeout:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise ExchangeFailed(f"TLS: the server's certificate is not trusted: {error.verify_message}") from error
        except (OSError, UnicodeError) as error:
            raise ExchangeFailed(f"no connection: {error}") from error
        return connection

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._free_slot()
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def _free_slot(self) -> None:
        waiter = self._next_in_line()
        if waiter is None:
            self._open -= 1
        else:
            waiter.set_result(None)  # the slot stays taken, by the one who waited for it
