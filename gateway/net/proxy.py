"""The PROXY protocol, versions 1 and 2: a load balancer says whom it speaks for, before the first byte of the peer.

The header is read byte-exactly from the socket, so that what follows it (a ClientHello in the same segment) is still
there for whoever comes next. `missing` and `source` know the format and do no I/O.
Specification: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import struct
from typing import Final, TypeAlias, cast

from gateway.core.errors import ProtocolError
from gateway.net.transports import TransportOver

Source: TypeAlias = tuple[str, int] | str
"""Address and port of a peer, or the path of its UNIX socket: what `get_extra_info("peername")` gives."""

MAX_LINE: Final = 107
"""Bytes of a header of version 1 (§2.1), CR LF included."""

MAX_BLOCK: Final = 4_096
"""Bytes of addresses and TLVs of version 2. The format allows 65,535; 536 fit in the smallest segment (§2), and load
balancers send a few hundred, a certificate's name included."""

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16
"""Bytes of version 2 before the addresses: signature, version and command, family and transport, length."""
_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
"""Bytes of the shortest header, of either version."""

_WORD: Final = b"PROXY "
_LINE: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]+) [0-9A-Fa-f:.]+ (\d{1,5}) \d{1,5}\r\n")
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN[ \r]")
_IP_VERSIONS: Final = {b"TCP4": 4, b"TCP6": 6}
_MAX_PORT: Final = 65_535

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPECIFIED: Final = 0x00
_TCP4: Final = struct.Struct("!4s4sHH")
_TCP6: Final = struct.Struct("!16s16sHH")
_UNIX: Final = struct.Struct("!108s108s")
_ADDRESSES: Final = {0x11: _TCP4, 0x21: _TCP6, 0x31: _UNIX}
"""Address family and transport (§2.2), of streams: nothing else is accepted from a socket."""


class ProxyHeaderError(ProtocolError):
    """There is no header of the PROXY protocol, or a garbled one."""


class NobodySpoke(ProxyHeaderError):
    """The connection ended before its first byte, as health checks of load balancers do."""


async def read_header(sock: socket.socket) -> Source | None:
    """Take the header, and not a byte more, from a non-blocking socket; gives `source` of it.

    Raises `ProxyHeaderError`, and `OSError` as the socket does. The caller limits the time.
    """
    loop = asyncio.get_running_loop()
    header = b""
    while count := missing(header):
        data = await loop.sock_recv(sock, count)
        if not data:
            raise ProxyHeaderError("the connection ended in the header") if header else NobodySpoke("nobody spoke")
        header += data
    return source(header)


def missing(header: bytes) -> int:
    """How many more bytes belong to the header for certain; 0 when it is whole. Raises `ProxyHeaderError`."""
    length = len(header)
    if not header:
        return _SHORTEST
    if header.startswith(_SIGNATURE[:length]):
        return _FIXED - length if length < _FIXED else _missing_block(header)
    if not header.startswith(_WORD[:length]):
        raise ProxyHeaderError("does not begin with a PROXY header")
    if length < _SHORTEST:
        return _SHORTEST - length
    if header.endswith(b"\r\n"):
        return 0
    if length >= MAX_LINE:
        raise ProxyHeaderError(f"the line is longer than {MAX_LINE} bytes")
    return 1 if header.endswith(b"\r") else 2


def _missing_block(header: bytes) -> int:
    block = int.from_bytes(header[_FIXED - 2 : _FIXED], "big")
    if block > MAX_BLOCK:
        raise ProxyHeaderError(f"the header has {block} bytes, over {MAX_BLOCK}")
    return _FIXED + block - len(header)


def source(header: bytes) -> Source | None:
    """Who the peer is; None where the header leaves that to the socket. Raises `ProxyHeaderError`."""
    if header.startswith(_SIGNATURE):
        return _source_of_block(header)
    if _UNKNOWN.match(header):
        # [§2.1] "the receiver must ignore anything presented before the CRLF"
        return None
    line = _LINE.fullmatch(header)
    if line is None:
        raise ProxyHeaderError("the line is garbled")
    family, address, port = line.groups()
    try:
        ip = ipaddress.ip_address(address.decode())
    except ValueError:
        raise ProxyHeaderError("the line has no address") from None
    if ip.version != _IP_VERSIONS[family] or int(port) > _MAX_PORT:
        raise ProxyHeaderError("the line has an address of another family, or no port")
    return str(ip), int(port)


def _source_of_block(header: bytes) -> Source | None:
    command, family = header[12], header[13]
    if command == _LOCAL:
        # [§2.2] the proxy's own connection, a health check: its addresses are those of the socket
        return None
    if command != _PROXY:
        raise ProxyHeaderError(f"unknown version or command 0x{command:02x}")
    if family == _UNSPECIFIED:
        return None
    addresses = _ADDRESSES.get(family)
    if addresses is None:
        raise ProxyHeaderError(f"unknown address family or transport 0x{family:02x}")
    if len(header) < _FIXED + addresses.size:
        raise ProxyHeaderError("the addresses are cut off")
    # Behind the addresses stand TLVs. Nothing of them is used; a checksum among them may be left alone (§2.2.3).
    if addresses is _UNIX:
        path: bytes = addresses.unpack_from(header, _FIXED)[0].partition(b"\0")[0]
        return path.decode(errors="backslashreplace") or None
    packed, _, port, _ = addresses.unpack_from(header, _FIXED)
    return str(ipaddress.ip_address(packed)), port


class Introduced(asyncio.Protocol):
    """Gives a protocol a transport whose peer is the one of the header, then stands aside: data comes past it."""

    __slots__ = ("_protocol", "_source")

    def __init__(self, protocol: asyncio.Protocol, source: Source) -> None:
        self._protocol = protocol
        self._source = source

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        below = cast("asyncio.Transport", transport)
        below.set_protocol(self._protocol)
        self._protocol.connection_made(_IntroducedTransport(below, self._source))


class _IntroducedTransport(TransportOver):
    __slots__ = ("_source",)

    def __init__(self, transport: asyncio.Transport, source: Source) -> None:
        super().__init__()
        self._transport = transport
        self._source = source

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._source if name == "peername" else super().get_extra_info(name, default)
