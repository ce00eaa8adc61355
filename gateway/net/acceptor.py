"""Takes connections from a port, and brings them to where a protocol begins: PROXY header first, then TLS.

Not a server of asyncio's: that one reads ahead of a PROXY header, and keeps one TLS context for good.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from gateway.net.proxy import Introduced, NobodySpoke, ProxyHeaderError, Source, read_header
from gateway.net.quotas import Seat
from gateway.net.tls import ServerTls
from gateway.net.transports import Refused, shown
from gateway.net.transports import address as address_of

log = structlog.get_logger("mqlift.listener")

BACKLOG: Final = 1_024
"""Connections that the operating system accepts for us while we are busy, as a site's devices all come back at once."""

ACCEPTS_A_TURN: Final = 64
"""Connections taken in one turn of the event loop, so that those that are there already are served too."""

ACCEPT_REST: Final = 1.0
"""Seconds of not accepting when the operating system has nothing left for one more connection, such as a descriptor."""

TLS_HANDSHAKE: Final = 10.0
"""Seconds that a peer has for the TLS handshake, unless it has less for all that comes before it is let in."""

PROXY_HEADER: Final = "proxy_header"
TLS: Final = "tls_handshake"


class Acceptor:
    """Owns the listening sockets of one port, and what is accepted until `make` is asked for its protocol.

    Every connection takes the context of `tls` that is current when it begins. `admit` says whether there is room for
    one more, and `seat` whether there is for one from an address, when that is known; what it gives is left again
    unless the protocol has taken it. `refused` is told why a connection was cut, by one of the reasons above.
    """

    def __init__(
        self,
        make: Callable[[Seat], asyncio.Protocol],
        *,
        tls: ServerTls | None,
        proxy_protocol: bool,
        reuse_port: bool = False,
        patience: float,
        admit: Callable[[int], bool],
        seat: Callable[[str], Seat | None],
        refused: Refused,
    ) -> None:
        """`reuse_port`: other processes listen there, too. `patience`: seconds for the PROXY header, and for the TLS
        handshake. `admit` takes the number of those that are on their way.
        """
        self._make = make
        self._tls = tls
        self._proxy_protocol = proxy_protocol
        self._reuse_port = reuse_port
        self._patience = patience
        self._admit = admit
        self._seat = seat
        self._refused = refused
        self._sockets: list[socket.socket] = []
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._arriving: dict[asyncio.Task[None], socket.socket] = {}
        self._unowned: set[socket.socket] = set()
        """Accepted, and not a transport's yet."""
        self._watch: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where clients connect, once listening."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    async def start(self, host: str, port: int) -> None:
        """Listen on every address of the host, on all of this machine's for an empty one. Raises `OSError`."""
        self._loop = asyncio.get_running_loop()
        found = await self._loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, protocol, _, address in dict.fromkeys(found):
            try:
                self._sockets.append(_listen(family, protocol, address, reuse_port=self._reuse_port))
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and len(found) > 1:
                    continue  # a name with addresses of both families, on a machine with one
                self.close()
                raise
        for listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)
        self._watch_tls()

    def change(self, tls: ServerTls | None, patience: float) -> None:
        """Take the context of another one, and another patience, for the connections that begin from now on."""
        self._patience = patience
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._tls = tls
        if self._sockets:
            self._watch_tls()

    def _watch_tls(self) -> None:
        if self._tls is not None:
            self._watch = self._loop.create_task(self._tls.watch())
            self._watch.add_done_callback(_tell_failure)

    def close(self) -> None:
        """Listen no longer, and give up those that are on their way. Idempotent."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        for timer in self._resting.values():
            timer.cancel()
        self._sockets.clear()
        self._resting.clear()
        if self._watch is not None:
            self._watch.cancel()
        for task, sock in self._arriving.items():
            # Not one whose protocol may have been told of its connection: uvloop would never tell it of the end.
            if self._tls is not None or sock in self._unowned:
                task.cancel()

    async def wait_closed(self) -> None:
        """Until nobody is on the way any more, after `close`."""
        tasks = [*self._arriving, *([] if self._watch is None else [self._watch])]
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(listening, error)
                return
            if self._admit(len(self._arriving)):
                sock.setblocking(False)
                task = self._loop.create_task(self._welcome(sock, address))
                self._arriving[task] = sock
                self._unowned.add(sock)
                task.add_done_callback(partial(self._welcomed, sock))
            else:
                sock.close()

    def _rest(self, listening: socket.socket, error: OSError) -> None:
        """A socket that cannot be accepted stays readable: leave it alone for a moment, or do nothing else."""
        log.error("cannot_accept", problem=error.strerror, pause=ACCEPT_REST)
        self._loop.remove_reader(listening)
        self._resting[listening] = self._loop.call_later(
            ACCEPT_REST, self._loop.add_reader, listening, self._accept, listening
        )

    async def _welcome(self, sock: socket.socket, address: object) -> None:
        try:
            source = await self._source(sock) if self._proxy_protocol else None
        except NobodySpoke:
            log.debug("nobody_spoke")
        except ProxyHeaderError as error:
            self._refused(PROXY_HEADER, str(error), shown(address))
        else:
            seat = self._seat(address_of(source or address))
            if seat is None:
                return
            try:
                await self._hand_over(sock, source, address, seat)
            finally:
                if not seat.taken:
                    seat.leave()

    def _welcomed(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        """It came to its protocol, or did not: also when it was cancelled before it began."""
        del self._arriving[task]
        if sock in self._unowned:
            self._unowned.discard(sock)
            sock.close()
        _tell_failure(task)

    async def _source(self, sock: socket.socket) -> Source | None:
        """Raises `ProxyHeaderError`, also for one that did not come."""
        try:
            async with asyncio.timeout(self._patience):
                return await read_header(sock)
        except TimeoutError:
            raise ProxyHeaderError("no PROXY header came in time") from None
        except OSError as error:
            raise ProxyHeaderError(f"the connection broke: {error.strerror}") from error

    async def _hand_over(self, sock: socket.socket, source: Source | None, address: object, seat: Seat) -> None:
        protocol = self._make(seat) if source is None else Introduced(self._make(seat), source)
        tls = self._tls
        self._unowned.discard(sock)  # a transport owns it from here on, and closes it when a handshake fails
        if tls is None:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
            return
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=tls.context, ssl_handshake_timeout=min(TLS_HANDSHAKE, self._patience)
            )
        except ssl.SSLError as error:
            self._refused(TLS, error.reason or str(error), shown(source or address))
        except OSError as error:
            log.debug("tls_handshake_ended", problem=str(error))


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("listener_failed_unexpectedly", exc_info=error)


def _listen(family: int, protocol: int, address: tuple[object, ...], *, reuse_port: bool) -> socket.socket:
    """Raises `OSError`."""
    # Accepted sockets inherit the protocol, without which asyncio would leave them their delay (TCP_NODELAY).
    listening = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        # As asyncio's own servers: a restart need not wait for old connections, and IPv4 has a socket of its own.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
