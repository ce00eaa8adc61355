"""A transport on top of another one, for what stands between a socket and a protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

Refused: TypeAlias = Callable[[str, str, str], None]
"""Is told of a connection that was cut: the reason, one of few; the problem; and the peer."""


def shown(peer: object) -> str:
    """What `get_extra_info("peername")` gives, for a log line."""
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer)


def address(peer: object) -> str:
    """The same without the port: one for everybody who comes from there."""
    return str(peer[0]) if isinstance(peer, tuple) else str(peer or "")


class TransportOver(asyncio.Transport):
    """Passes on to `_transport` what a subclass does not do itself.

    Data does not come back through here: whoever makes it sees that the protocol above gets what is received.
    """

    __slots__ = ("_transport",)

    _transport: asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self._transport.write_eof()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._transport.get_extra_info(name, default)
