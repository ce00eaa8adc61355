"""A client that shows every frame: it sends what a scenario tells it to, right or wrong, and records what comes."""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from pamqp import frame as frames
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Connection, Queue
from pamqp.common import FieldTable
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from tests.interop.amqp.recording import Log, described, described_content
from tests.rig.processes import HOST

TIMEOUT = 10.0
"""Seconds that a scenario waits for a frame."""

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
FRAME_MAX = 131_072
CHANNEL_MAX = 2_047
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
_FRAME_OVERHEAD = 8
_RECEIVE = 65_536

CAPABILITIES: FieldTable = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Ended(Exception):
    """The server has closed the channel or the connection that a scenario waits on; its lines say so."""


@dataclass(frozen=True, slots=True)
class Content:
    """A method that carries a message, and the message."""

    method: Frame
    properties: Basic.Properties
    body: bytes


@dataclass(slots=True)
class _Assembly:
    """A message that is still coming in."""

    method: Frame
    header: ContentHeader | None = None
    body: bytearray = field(default_factory=bytearray)

    @property
    def complete(self) -> bool:
        return self.header is not None and len(self.body) >= self.header.body_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How a connection is opened."""

    user: str = "guest"
    password: str = "guest"
    mechanism: str = "PLAIN"
    response: str | None = None
    """Instead of the one that user and password give."""
    vhost: str = "/"
    heartbeat: int = 0
    """Seconds; 0 for none."""
    channel_max: int = CHANNEL_MAX
    frame_max: int = FRAME_MAX
    capabilities: FieldTable = field(default_factory=lambda: dict(CAPABILITIES))

    @property
    def sasl(self) -> str:
        return f"\0{self.user}\0{self.password}" if self.response is None else self.response


class PeerChannel:
    """One channel. `channel.close` is answered by itself."""

    def __init__(self, connection: Peer, number: int) -> None:
        self.number = number
        self.closed = False
        self._connection = connection
        self._unread: deque[Frame | Content] = deque()
        self._assembly: _Assembly | None = None
        self._confirmed: dict[int, str] = {}
        self._awaited: set[int] = set()

    def open(self) -> Self:
        self.closed = False
        self._confirmed.clear()
        self._awaited.clear()
        self.call(Channel.Open(), quiet=True)
        return self

    def send(self, method: Frame) -> None:
        self._connection.send(self.number, method)

    def call(self, method: Frame, *, quiet: bool = False) -> Frame | Content:
        """Send, and wait for the answer. `quiet`: it is not recorded. Raises `Ended` when it is refused."""
        with self._connection.unrecorded(*(method.valid_responses if quiet else ())):
            self.send(method)
            return self.wait(*method.valid_responses)

    def attempt(self, method: Frame) -> None:
        """Send, and wait for the answer or the channel's end, after which it is opened again."""
        try:
            self.call(method)
        except Ended:
            if self._connection.closed:
                raise
            self.open()

    def declare_passively(self, queue: str) -> None:
        """`queue.declare` for a name that pamqp takes for none, and its answer."""
        name = queue.encode()
        payload = bytes.fromhex("0032000a 0000") + bytes([len(name)]) + name + bytes.fromhex("01 00000000")
        self._connection.send_frame(METHOD, self.number, payload)
        self.wait("Queue.DeclareOk")

    def publish(
        self,
        routing_key: str,
        body: bytes | str = b"",
        *,
        exchange: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        properties: Basic.Properties | None = None,
    ) -> None:
        content = body.encode() if isinstance(body, str) else body
        room = FRAME_MAX - _FRAME_OVERHEAD
        parts = [content[start : start + room] for start in range(0, len(content), room)]
        method = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory, immediate=immediate)
        header = ContentHeader(body_size=len(content), properties=properties)
        self._connection.send(self.number, method, header, *map(ContentBody, parts))

    def publish_all(self, queue: str, bodies: Sequence[str]) -> None:
        """Publish to a queue, and wait for each confirm before the next; nothing is recorded."""
        with self._connection.unrecorded("Basic.Ack"):
            for body in bodies:
                self.publish(queue, body)
                self.confirmed()

    def wait(self, *names: str) -> Frame | Content:
        """The next method of these names, as pamqp writes them, that nobody has waited for yet."""
        while True:
            for each in self._unread:
                if (each.method if isinstance(each, Content) else each).name in names:
                    self._unread.remove(each)
                    return each
            if self.closed or self._connection.closed:
                raise Ended
            self._connection.read(f"channel {self.number}: {' or '.join(names)}")

    def wait_closed(self) -> None:
        """Wait until the server closes this channel. Raises `Ended` when it closes the connection."""
        while not self.closed:
            if self._connection.closed:
                raise Ended
            self._connection.read(f"channel {self.number} is closed")

    def take(self, queue: str, *, no_ack: bool = True) -> Content:
        """`basic.get`, again and again until there is a message; only that is recorded."""
        deadline = time.monotonic() + TIMEOUT
        with self._connection.unrecorded("Basic.GetEmpty"):
            while time.monotonic() < deadline:
                got = self.call(Basic.Get(queue=queue, no_ack=no_ack))
                if isinstance(got, Content):
                    return got
        raise TimeoutError(f"message in {queue}")

    def deliveries(self, count: int) -> list[Content]:
        contents = [self.wait("Basic.Deliver") for _ in range(count)]
        return [each for each in contents if isinstance(each, Content)]

    def bodies(self, queue: str, count: int) -> list[str]:
        """Consume so many messages without acknowledgements; nothing is recorded."""
        with self._connection.unrecorded("Basic.Deliver"):
            self.call(Basic.Consume(queue=queue, no_ack=True), quiet=True)
            return [each.body.decode() for each in self.deliveries(count)]

    def confirms(self, count: int) -> None:
        """Wait until so many publishes are acknowledged, in however few frames; recorded as a summary."""
        with self._connection.unrecorded("Basic.Ack", "Basic.Nack"):
            new = self._answers(count)
        self.note(f"confirmed {' '.join(f'{tag}:{self._confirmed[tag]}' for tag in new)}")

    def confirmed(self) -> None:
        """Wait until a publish is acknowledged or refused; recorded in the order in which it comes with others."""
        self._answers(1)

    def _answers(self, count: int) -> list[int]:
        """Wait until so many publishes are answered that nobody has waited for yet; their numbers."""
        while len(self._confirmed) < len(self._awaited) + count:
            if self.closed or self._connection.closed:
                raise Ended
            self._connection.read(f"channel {self.number}: {count} confirms")
        new = sorted(self._confirmed.keys() - self._awaited)
        self._awaited.update(new)
        return new

    def depth(self, queue: str, expected: int) -> None:
        """Wait until a queue has so many messages ready; what is asked meanwhile is not recorded."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self.call(Queue.Declare(queue=queue, passive=True), quiet=True)
            assert isinstance(answer, Queue.DeclareOk)
            found = answer.message_count
            if found == expected or time.monotonic() > deadline:
                break
        self.note(f"depth of {queue}: {found}")

    def gone(self, queue: str) -> None:
        """Wait until a queue is not there any more, without asking for it, which would be a use; with confirms."""
        deadline = time.monotonic() + TIMEOUT
        with self._connection.unrecorded("Basic.Ack", "Basic.Return"):
            while time.monotonic() < deadline:
                self.publish(queue, mandatory=True)
                self.confirmed()
                if any(isinstance(each, Content) for each in self._unread):
                    self.note(f"{queue} is gone")
                    return
        raise TimeoutError(f"end of {queue}")

    def note(self, line: str) -> None:
        self._connection.log.add(self._connection.number, self.number, line)

    def received(self, frame: object) -> None:
        """A frame of this channel."""
        match frame:
            case Basic.Deliver() | Basic.GetOk() | Basic.Return():
                self._assembly = _Assembly(frame)
            case ContentHeader() if self._assembly is not None:
                self._assembly.header = frame
            case ContentBody() if self._assembly is not None:
                self._assembly.body += frame.value
            case Channel.Close():
                self._record(frame)
                self.closed = True
                self.send(Channel.CloseOk())
                return
            case Basic.Ack() | Basic.Nack():
                self._confirm(frame)
                return
            case Frame():
                self._record(frame)
                self._unread.append(frame)
                return
            case _:
                self.note(f"unexpected {frame!r}")
        self._complete()

    def _complete(self) -> None:
        assembly = self._assembly
        if assembly is None or assembly.header is None or not assembly.complete:
            return
        self._assembly = None
        content = Content(assembly.method, assembly.header.properties, bytes(assembly.body))
        if content.method.name not in self._connection.quiet:
            self.note(f"{described(content.method)} {described_content(content.properties, content.body)}")
        self._unread.append(content)

    def _confirm(self, method: Basic.Ack | Basic.Nack) -> None:
        """Note which publishes it answers: in how many frames it is said is the server's choice."""
        answer = "ack" if isinstance(method, Basic.Ack) else "nack"
        for tag in range(1 if method.multiple else method.delivery_tag, method.delivery_tag + 1):
            if tag not in self._confirmed:
                self._confirmed[tag] = answer
                if method.name not in self._connection.quiet:
                    self.note(f"confirmed {tag}:{answer}")

    def _record(self, method: Frame) -> None:
        if method.name not in self._connection.quiet:
            self.note(described(method))


class Peer:
    """One connection."""

    def __init__(self, port: int, log: Log, number: int) -> None:
        self.log = log
        self.number = number
        self.closed = False
        self.quiet: frozenset[str] = frozenset()
        """Names of methods that are not recorded now."""
        self._channels: dict[int, PeerChannel] = {}
        self._unread: deque[Frame] = deque()
        self._buffer = bytearray()
        self._heartbeats = 0
        self._socket = socket.create_connection((HOST, port), TIMEOUT)
        # Not to be delayed by an acknowledgement that is not there yet: many scenarios send small frames one by one.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drop()

    def open(self, login: Login) -> Self:
        """The whole handshake, of which only refusals are recorded. Raises `Ended` when it is refused."""
        with self.unrecorded("Connection.Start", "Connection.Tune", "Connection.OpenOk"):
            self.start(login)
            self.wait("Connection.Tune")
            self.send(0, Connection.TuneOk(login.channel_max, login.frame_max, login.heartbeat))
            self.send(0, Connection.Open(virtual_host=login.vhost))
            self.wait("Connection.OpenOk")
        return self

    @contextmanager
    def unrecorded(self, *names: str) -> Iterator[None]:
        """Methods of these names, as pamqp writes them, are not recorded inside."""
        before = self.quiet
        self.quiet = before | set(names)
        try:
            yield
        finally:
            self.quiet = before

    def start(self, login: Login) -> None:
        """The handshake up to `connection.start-ok`."""
        self.send_raw(PROTOCOL_HEADER)
        self.wait("Connection.Start")
        client: FieldTable = {"product": "scenarios", "capabilities": login.capabilities}
        self.send(0, Connection.StartOk(client, login.mechanism, login.sasl))

    def channel(self, number: int = 1) -> PeerChannel:
        """A channel that is open. The number may be that of one that was closed."""
        return self.unopened(number).open()

    def unopened(self, number: int) -> PeerChannel:
        """A channel on which nothing has been sent."""
        self._channels[number] = PeerChannel(self, number)
        return self._channels[number]

    def send(self, channel: int, *sent: frames.FrameTypes) -> None:
        self.send_raw(b"".join(frames.marshal(each, channel) for each in sent))

    def send_raw(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            # The server has had enough. What it said before is read by whoever waits for an answer.
            return

    def send_frame(
        self, kind: int, channel: int, payload: bytes, *, size: int | None = None, end: int = FRAME_END
    ) -> None:
        """A frame as it never comes from pamqp."""
        header = struct.pack(">BHI", kind, channel, len(payload) if size is None else size)
        self.send_raw(header + payload + bytes([end]))

    def wait(self, *names: str) -> Frame:
        """The next method of channel 0 of these names. Raises `Ended` when the connection is closed instead."""
        while True:
            for each in self._unread:
                if each.name in names:
                    self._unread.remove(each)
                    return each
            if self.closed:
                raise Ended
            self.read(" or ".join(names))

    def wait_closed(self) -> None:
        """Wait until the server has closed the connection."""
        while not self.closed:
            self.read("the end")

    def wait_heartbeat(self) -> None:
        """Wait for a heartbeat, and record that there was one, not how many."""
        while not self._heartbeats and not self.closed:
            self.read("heartbeat")
        self._note("heartbeat" if self._heartbeats else "no heartbeat")

    def close(self) -> None:
        """`connection.close`, and wait for the answer."""
        with self.unrecorded("Connection.CloseOk"):
            self.send(0, Connection.Close(200, "done", 0, 0))
            self.wait("Connection.CloseOk")
        self.drop()

    def drop(self) -> None:
        """Close the socket and nothing else. Can be called twice."""
        self.closed = True
        self._socket.close()

    def read(self, what: str) -> None:
        """Read until something has come. Raises `TimeoutError` that says what was waited for."""
        try:
            data = self._socket.recv(_RECEIVE)
        except TimeoutError:
            raise TimeoutError(f"no {what}") from None
        except ConnectionError:
            data = b""
        if not data:
            self._end()
            return
        self._buffer += data
        while not self.closed and (frame := self._next()) is not None:
            self._received(*frame)

    def _next(self) -> tuple[int, object] | None:
        if self._buffer.startswith(b"AMQP"):
            self._note(f"protocol header {bytes(self._buffer[4:8]).hex()}")
            del self._buffer[:8]
        if len(self._buffer) < _FRAME_OVERHEAD:
            return None
        size = int.from_bytes(self._buffer[3:7])
        if len(self._buffer) < size + _FRAME_OVERHEAD:
            return None
        _, channel, frame = frames.unmarshal(bytes(self._buffer[: size + _FRAME_OVERHEAD]))
        del self._buffer[: size + _FRAME_OVERHEAD]
        return channel, frame

    def _received(self, channel: int, frame: object) -> None:
        if isinstance(frame, Heartbeat):
            self._heartbeats += 1
        elif channel in self._channels:
            self._channels[channel].received(frame)
        elif isinstance(frame, Frame):
            self._received_method(frame)
        else:
            self._note(f"unexpected {frame!r} on channel {channel}")

    def _received_method(self, method: Frame) -> None:
        if method.name not in self.quiet:
            self._note(described(method))
        if isinstance(method, Connection.Close):
            self.send(0, Connection.CloseOk())
            self._end()
        else:
            self._unread.append(method)

    def _end(self) -> None:
        self._note("the connection ends")
        self.drop()

    def _note(self, line: str) -> None:
        self.log.add(self.number, 0, line)
