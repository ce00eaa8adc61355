"""One port: accepts connections of one protocol, counts them, and ends them in an orderly way."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway.core.broker import Broker
from gateway.core.errors import ConfigError
from gateway.core.metrics import Metrics
from gateway.core.session import Session
from gateway.net.connection import Connection, ConnectionLimits, ConnectionMetrics

log = structlog.get_logger("mqlift.listener")

BACKLOG: Final = 1_024
"""Connections that the operating system accepts for us while we are busy, as a site's devices all come back at once."""

TLS_HANDSHAKE: Final = 10.0
"""Seconds that a peer has for the TLS handshake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """Where a listener listens, and what it allows."""

    protocol: str
    host: str
    port: int
    max_connections: int = 10_000
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    tls: ssl.SSLContext | None = None


class Listener:
    """Owns the listening socket of one port and every connection accepted there."""

    def __init__(
        self,
        options: ListenerOptions,
        open_session: Callable[[str, float], Session],
        broker: Broker,
        metrics: Metrics,
    ) -> None:
        self.options = options
        self._open_session = open_session
        self._broker = broker
        self._connection_metrics = ConnectionMetrics(metrics, options.protocol)
        self._refused = metrics.connections_refused.labels(options.protocol, "max_connections")
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._full = False
        self._stopped = False
        self._all_gone = asyncio.Event()

    async def start(self) -> None:
        """Listen. Raises `ConfigError` when the port cannot be had."""
        options = self.options
        handshake = TLS_HANDSHAKE if options.tls else None
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._accept,
                options.host,
                options.port,
                backlog=BACKLOG,
                ssl=options.tls,
                ssl_handshake_timeout=handshake,
            )
        except OSError as error:
            where = f"{options.host}:{options.port}"
            if error.errno == errno.EADDRINUSE:
                problem, remedy = (
                    f"port {where} for {options.protocol} is taken",
                    "a free port, or stop what listens there",
                )
            else:
                problem, remedy = f"cannot listen on {where}: {error.strerror or error}", "an address of this machine"
            raise ConfigError("listeners", problem, remedy) from error
        log.info("listening", protocol=options.protocol, host=options.host, port=options.port, tls=bool(options.tls))

    def stop_listening(self) -> None:
        """No new connections, and nothing more from those that are there."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.stop_reading()

    async def shutdown(self, patience: float) -> None:
        """End every connection, the slow ones by force after `patience` seconds."""
        for connection in list(self._connections):
            connection.shutdown()
        if self._connections:
            self._all_gone.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._all_gone.wait()
            except TimeoutError:
                log.warning("connections_aborted", protocol=self.options.protocol, count=len(self._connections))
                for connection in list(self._connections):
                    connection.abort()
                await self._all_gone.wait()

    def _accept(self) -> asyncio.Protocol:
        if len(self._connections) >= self.options.max_connections:
            self._refuse()
            return _Refusal()
        self._full = False
        return Connection(
            self._open_session,
            self._broker,
            self._connection_metrics,
            self.options.limits,
            self._made,  # not before the TLS handshake: one that fails never ends as a connection
            self._lost,
        )

    def _made(self, connection: Connection) -> None:
        """Count a connection. Others that were accepted with it, or a stop, may have come first."""
        self._connections.add(connection)
        if len(self._connections) > self.options.max_connections:
            self._refuse()
            connection.abort()
        elif self._stopped:
            connection.abort()

    def _refuse(self) -> None:
        self._refused.inc()
        if not self._full:
            self._full = True
            log.warning("too_many_connections", protocol=self.options.protocol, limit=self.options.max_connections)

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()


class _Refusal(asyncio.Protocol):
    """A connection over the limit: closed at once, before any byte of it is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
