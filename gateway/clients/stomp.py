"""Send to a queue and read from one in STOMP 1.2, through stomp.py, whose thread hands frames over in a queue."""

from __future__ import annotations

import itertools
import queue
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final, Literal, NamedTuple, Protocol, Self, TypeAlias

import stomp
from stomp.exception import StompException

from gateway.clients.port import ANSWER_TIMEOUT, ClientError, Incoming, Server, reason_of

PUBLISH_TIMEOUT: Final = 60.0
"""Seconds that a RECEIPT may take: longer than a gateway keeps retrying before it gives up and says so."""

HEARTBEAT: Final = 10_000
"""Milliseconds, both ways, so that a server that fell silent is noticed."""

MAX_PREFETCH: Final = 100
"""Messages that may wait here unprinted. Named as RabbitMQ names it: `prefetch-count`."""

RESERVED_HEADERS: Final = frozenset({"content-length", "destination", "id", "receipt", "transaction"})
"""Headers of SEND that are not for the user to choose here."""

_SUBSCRIPTION: Final = "1"


class _Frame(Protocol):
    """As stomp.py parses it."""

    headers: Mapping[str, str]
    body: bytes


_Kind: TypeAlias = Literal["connected", "message", "receipt", "error", "disconnected"]


class _Event(NamedTuple):
    kind: _Kind
    headers: Mapping[str, str] = {}
    body: bytes = b""


class _Listener:
    """Called by stomp.py from its own thread, by these names."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()

    def on_connected(self, frame: _Frame) -> None:
        self.events.put(_Event("connected", frame.headers, frame.body))

    def on_message(self, frame: _Frame) -> None:
        self.events.put(_Event("message", frame.headers, frame.body))

    def on_receipt(self, frame: _Frame) -> None:
        self.events.put(_Event("receipt", frame.headers, frame.body))

    def on_error(self, frame: _Frame) -> None:
        self.events.put(_Event("error", frame.headers, frame.body))

    def on_disconnected(self) -> None:
        self.events.put(_Event("disconnected"))


class StompConnection:
    """A connection and the events that came over it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = _Listener()
        self._messages: deque[_Event] = deque()
        """Messages that were not asked for yet; at most as many as the prefetch."""
        self._connection = stomp.Connection12(
            [(server.host, server.port)],
            prefer_localhost=False,
            try_loopback_connect=False,
            reconnect_attempts_max=1,
            timeout=ANSWER_TIMEOUT,
            heartbeats=(HEARTBEAT, HEARTBEAT),
            vhost="/",  # RabbitMQ's default; to others a name without meaning
            auto_decode=False,
        )
        self._connection.set_listener("mqlift", self._listener)

    def __enter__(self) -> Self:
        try:
            self._connection.connect(self._server.user, self._server.password)
            self._await("connected", ANSWER_TIMEOUT)
        except (StompException, OSError) as error:
            raise self._server.unreachable(_why(self._server)) from error
        except ClientError as error:
            self._drop()
            raise self._server.unreachable(str(error)) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, /, *rest: object) -> None:
        """Leave after the server has seen everything; at once when something went wrong."""
        if kind is None:
            with suppress(StompException, OSError, ClientError):
                self._connection.disconnect()
                self._await("disconnected", ANSWER_TIMEOUT)
        self._drop()

    def _drop(self) -> None:
        # When the server closes at this very moment, stomp.py's thread takes the socket away under this call.
        with suppress(AttributeError):
            self._connection.transport.disconnect_socket()

    def _await(self, wanted: _Kind, timeout: float | None) -> None:
        """Wait for an event, keeping messages. Raises `ClientError` for ERROR, a lost connection, and silence."""
        while True:
            try:
                event = self._listener.events.get(timeout=timeout)
            except queue.Empty:
                raise ClientError(f"no answer within {timeout:.0f} s") from None
            if event.kind == "message":
                self._messages.append(event)
            if event.kind == wanted:
                return
            if event.kind == "error":
                raise ClientError(_text_of(event))
            if event.kind == "disconnected":
                raise _lost()


class StompPublisher(StompConnection):
    """Sends to one queue, each message with a receipt."""

    def __init__(self, server: Server, name: str, headers: Mapping[str, str]) -> None:
        _check_headers(headers)
        super().__init__(server)
        self._destination = _destination(name)
        self._headers = dict(headers)
        self._receipts = itertools.count(1)

    def publish(self, body: bytes) -> None:
        """Returns on RECEIPT. Raises `ClientError`."""
        try:
            self._connection.send(self._destination, body, headers=self._headers, receipt=str(next(self._receipts)))
        except (StompException, OSError) as error:
            raise _lost() from error
        self._await("receipt", PUBLISH_TIMEOUT)


class StompSubscriber(StompConnection):
    """Reads one queue in `client-individual` mode: a message is acknowledged when the next one is asked for."""

    def __init__(self, server: Server, name: str, count: int | None) -> None:
        super().__init__(server)
        self._destination = _destination(name)
        self._count = count

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._subscribe(MAX_PREFETCH if self._count is None else min(self._count, MAX_PREFETCH))
        except (StompException, OSError) as error:
            raise _lost() from error
        except ClientError:
            self._drop()
            raise
        return self

    def messages(self) -> Iterator[Incoming]:
        for _ in itertools.count() if self._count is None else range(self._count):
            message = self._next()
            yield Incoming(message.body, message.headers)
            try:
                self._connection.ack(message.headers["ack"])
            except (StompException, OSError) as error:
                raise _lost() from error

    def _subscribe(self, prefetch: int) -> None:
        headers = {"prefetch-count": str(prefetch), "receipt": "subscribe"}
        self._connection.subscribe(self._destination, _SUBSCRIPTION, ack="client-individual", headers=headers)
        self._await("receipt", ANSWER_TIMEOUT)

    def _next(self) -> _Event:
        if not self._messages:
            self._await("message", None)
        return self._messages.popleft()


def _destination(name: str) -> str:
    """With slashes escaped, and nothing else, as the rules of RabbitMQ have it."""
    return f"/queue/{name.replace('/', '%2F')}"


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if name in RESERVED_HEADERS:
            raise ClientError(f"header {name!r} cannot be set here")
        if any(character in name for character in ":\r\n\0") or "\0" in value:
            raise ClientError(f"header {name!r} has a character that STOMP does not allow")


def _text_of(error: _Event) -> str:
    """The `message` header of an ERROR frame, or the first line of its body (STOMP 1.2, ERROR)."""
    text = error.headers.get("message")
    if text:
        return text
    lines = error.body.decode(errors="replace").splitlines()
    return lines[0] if lines else "the server answered ERROR"


def _lost() -> ClientError:
    return ClientError("the server closed the connection")


def _why(server: Server) -> str:
    """stomp.py keeps the reason of a failed connection to itself: look for it once more."""
    try:
        socket.create_connection((server.host, server.port), ANSWER_TIMEOUT).close()
    except OSError as error:
        return reason_of(error)
    return "the server closed the connection"
