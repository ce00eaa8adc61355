"""A port whose protocol says what it hears: to test what lies between a socket and a protocol."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

from gateway.net.acceptor import Acceptor
from gateway.net.quotas import Quotas, Seat
from gateway.net.tls import ServerTls
from gateway.net.websocket import WebSocket, WebSocketOptions
from tests.rig.loops import until

HOST = "127.0.0.1"


class Echo(asyncio.Protocol):
    """Says what it hears, unless `silent`; closes at `quit` and aborts at `abort`."""

    def __init__(self, made: list[Echo]) -> None:
        self._made = made
        self.heard = bytearray()
        self.reads: list[bytes] = []
        self.silent = False
        self.write_paused = False
        self.times_paused = 0
        self.lost = False
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.peer = transport.get_extra_info("peername")
        self._made.append(self)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.reads.append(data)
        if data.endswith(b"abort"):
            self.transport.abort()
            return
        if not self.silent:
            self.transport.write(data)
        if data.endswith(b"quit"):
            self.transport.close()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.write_paused = True
        self.times_paused += 1

    def resume_writing(self) -> None:
        self.write_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.lost
        self.lost = True
        self.error = exc


@dataclass
class EchoPort:
    """Listens while its context is entered; every connection has to be gone when it is left."""

    tls: ServerTls | None = None
    websocket: WebSocketOptions | None = None
    proxy_protocol: bool = False
    patience: float = 60.0
    room: int = 100
    quotas: Quotas = field(default_factory=Quotas)
    echoes: list[Echo] = field(default_factory=list)
    """Of every connection that was made."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    refused_peers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.acceptor = Acceptor(
            self._make,
            tls=self.tls,
            proxy_protocol=self.proxy_protocol,
            patience=self.patience,
            admit=lambda arriving: arriving < self.room,
            seat=self.quotas.seat,
            refused=self._refused,
        )

    @property
    def port(self) -> int:
        return self.acceptor.port

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.refused]

    async def __aenter__(self) -> Self:
        await self.acceptor.start(HOST, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.acceptor.close()
        await self.acceptor.wait_closed()
        for echo in self.echoes:
            if not echo.lost:
                echo.transport.abort()
        await until(lambda: all(echo.lost for echo in self.echoes), "every connection is gone")

    async def connect(self, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self.port, ssl=tls, server_hostname="localhost" if tls else None)

    def _make(self, seat: Seat) -> asyncio.Protocol:
        echo = Echo(self.echoes)
        if self.websocket is None:
            return echo
        return WebSocket(echo, self.websocket, self._refused)

    def _refused(self, reason: str, problem: str, peer: str) -> None:
        self.refused.append((reason, problem))
        self.refused_peers.append(peer)
