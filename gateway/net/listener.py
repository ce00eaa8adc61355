"""One port: accepts connections of one protocol, counts them, and ends them in an orderly way."""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway.core.broker import Broker
from gateway.core.errors import ConfigError
from gateway.core.metrics import Metrics
from gateway.core.session import Session
from gateway.net.acceptor import Acceptor
from gateway.net.connection import Connection
from gateway.net.limits import ConnectionLimits
from gateway.net.metrics import ConnectionMetrics
from gateway.net.quotas import Quotas, Seat
from gateway.net.tls import ServerTls
from gateway.net.turns import TakesTurns
from gateway.net.websocket import WebSocket, WebSocketOptions

log = structlog.get_logger("mqlift.listener")

TELL_INTERVAL: Final = 10.0
"""Seconds between two lines about connections that were refused for one reason: a flood is counted, not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """Where a listener listens, and what it allows."""

    protocol: str
    host: str
    port: int
    max_connections: int = 10_000
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    tls: ServerTls | None = None
    websocket: WebSocketOptions | None = None
    proxy_protocol: bool = False
    reuse_port: bool = False
    """Whether other processes listen on the same port."""


class Listener:
    """Owns the listening socket of one port and every connection accepted there."""

    def __init__(
        self,
        options: ListenerOptions,
        open_session: Callable[[str, float], Session],
        broker: Broker,
        metrics: Metrics,
        quotas: Quotas | None = None,
    ) -> None:
        """`quotas` are shared with other listeners; without, there are none."""
        self.options = options
        self._quotas = quotas or Quotas()
        self._open_session = open_session
        self._broker = broker
        self._connection_metrics = ConnectionMetrics(metrics, options.protocol)
        self._refused = metrics.connections_refused
        self._connections: set[Connection] = set()
        self._acceptor = Acceptor(
            self._accept,
            tls=options.tls,
            proxy_protocol=options.proxy_protocol,
            reuse_port=options.reuse_port,
            patience=options.limits.connect_timeout,
            admit=self._admit,
            seat=self._seat,
            refused=self._cut,
        )
        self._full = False
        self._told: dict[str, float] = {}
        """When a line was last written about refusals, by their reason."""
        self._stopped = False
        self._all_gone = asyncio.Event()

    @property
    def port(self) -> int:
        """Where clients connect, once started."""
        return self._acceptor.port

    async def start(self) -> None:
        """Listen. Raises `ConfigError` when the port cannot be had."""
        options = self.options
        try:
            await self._acceptor.start(options.host, options.port)
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
        log.info(
            "listening",
            protocol=options.protocol,
            host=options.host,
            port=self.port,
            tls=options.tls is not None,
            websocket=options.websocket is not None,
        )

    @property
    def connections(self) -> frozenset[Connection]:
        """Those that are open; to be looked at."""
        return frozenset(self._connections)

    def change(self, options: ListenerOptions, open_session: Callable[[str, float], Session]) -> None:
        """Take other options for the connections that begin from now on. Where it listens cannot change."""
        self.options = options
        self._open_session = open_session
        self._acceptor.change(options.tls, options.limits.connect_timeout)

    def stop_listening(self) -> None:
        """No new connections, and nothing more from those that are there."""
        self._stopped = True
        self._acceptor.close()
        for connection in self._connections:
            connection.stop_reading()

    async def shutdown(self, patience: float) -> None:
        """End every connection, the slow ones by force after `patience` seconds."""
        await self._acceptor.wait_closed()
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

    def _admit(self, arriving: int) -> bool:
        """Whether there is room for one more connection. Those that arrive are counted apart: most are soon made."""
        if max(len(self._connections), arriving) >= self.options.max_connections:
            self._refuse()
            return False
        self._full = False
        return True

    def _seat(self, address: str) -> Seat | None:
        now = asyncio.get_running_loop().time()
        reason = self._quotas.refusal(address, now)
        if not reason:
            return self._quotas.seat(address)
        self._refused.labels(self.options.protocol, reason).inc()
        if now >= self._told.get(reason, -math.inf) + TELL_INTERVAL:
            self._told[reason] = now
            log.warning("too_many_connections", protocol=self.options.protocol, reason=reason, peer=address)
        return None

    def _accept(self, seat: Seat) -> asyncio.Protocol:
        connection = Connection(
            self._open_session,
            self._broker,
            self._connection_metrics,
            self.options.limits,
            seat,
            self._made,  # not before the TLS handshake: one that fails never ends as a connection
            self._lost,
        )
        websocket = self.options.websocket
        return TakesTurns(connection if websocket is None else WebSocket(connection, websocket, self._cut))

    def _made(self, connection: Connection) -> None:
        """Count a connection. Others that were accepted with it, or a stop, may have come first."""
        connection.seat.taken = True
        self._connections.add(connection)
        if len(self._connections) > self.options.max_connections:
            self._refuse()
            connection.abort()
        elif self._stopped:
            connection.abort()

    def _refuse(self) -> None:
        self._refused.labels(self.options.protocol, "max_connections").inc()
        if not self._full:
            self._full = True
            log.warning("too_many_connections", protocol=self.options.protocol, limit=self.options.max_connections)

    def _cut(self, reason: str, problem: str, peer: str) -> None:
        """Tell of a peer that did not keep to what carries the protocol."""
        self._refused.labels(self.options.protocol, reason).inc()
        log.info("connection_refused", protocol=self.options.protocol, reason=reason, problem=problem, peer=peer)

    def _lost(self, connection: Connection) -> None:
        connection.seat.leave()
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()
