"""Turns: what one read has brought is parsed piece by piece, and other connections have theirs in between.

The event loop reads up to 256 KiB at once: thousands of small messages, which would take tens of milliseconds of
everybody else's time.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

import structlog

from gateway.net.transports import TransportOver

log = structlog.get_logger("mqlift.connection")

TURN_BYTES: Final = 16 * 1024
"""Bytes of one connection that are parsed in one turn of the event loop: some 150 messages of 100 bytes, 3 ms."""


class TakesTurns(TransportOver, asyncio.Protocol):
    """A protocol to the socket's transport, and a transport to the protocol above.

    While some of a read is left, nothing more is read. A protocol above that pauses gets none of it before it resumes;
    only at the connection's end it gets the rest, because that had been taken from the peer.
    """

    __slots__ = ("_above", "_loop", "_next", "_paused", "_position", "_rest", "_stopped")

    def __init__(self, above: asyncio.Protocol) -> None:
        super().__init__()
        self._above = above
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._position = 0
        """Where in `_rest` the next turn begins."""
        self._next: asyncio.Handle | None = None
        self._paused = False
        """By the protocol above."""
        self._stopped = False
        """Whether the socket is not read."""

    # The socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._above.connection_made(self)

    def data_received(self, data: bytes) -> None:
        if self._rest:  # TLS may have more, though it is not read
            self._rest = self._rest[self._position :] + data
            self._position = 0
        elif len(data) <= TURN_BYTES:
            self._above.data_received(data)
        else:
            self._rest = data
            self._adjust()
            self._take_turn()

    def eof_received(self) -> bool | None:
        self._give_rest()
        return self._above.eof_received()

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_rest()
        self._above.connection_lost(exc)

    # The protocol's side

    def pause_reading(self) -> None:
        self._paused = True
        self._adjust()

    def resume_reading(self) -> None:
        self._paused = False
        self._adjust()
        self._go_on()

    # Turns

    def _take_turn(self) -> None:
        self._next = None
        if self._paused or not self._rest:
            return
        start = self._position
        self._position = stop = start + TURN_BYTES
        piece = self._rest[start:stop]
        if stop >= len(self._rest):
            self._forget()
        try:
            self._above.data_received(piece)
        except Exception:
            # In a turn of ours there is no transport that would end the connection for it.
            log.exception("session_failed")
            self._forget()
            self._transport.abort()
            return
        self._adjust()
        self._go_on()

    def _go_on(self) -> None:
        if self._rest and not self._paused and self._next is None:
            self._next = self._loop.call_soon(self._take_turn)

    def _give_rest(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._rest:
            rest = self._rest[self._position :]
            self._forget()
            self._above.data_received(rest)

    def _forget(self) -> None:
        self._rest = b""
        self._position = 0

    def _adjust(self) -> None:
        """Read the socket, or do not."""
        stop = self._paused or bool(self._rest)
        if stop == self._stopped or self._transport.is_closing():
            return
        self._stopped = stop
        if stop:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
