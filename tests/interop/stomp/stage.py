"""Where a scenario plays: a server, connections to it, and a transcript of what the server says."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tests.interop.stomp.frames import Frame, FrameReader, written
from tests.rig.processes import HOST

Dialect = Literal["rabbitmq", "activemq"]

PATIENCE = 5.0
"""Seconds until a frame that does not come is written down as silence."""
CHUNK = 65_536

LOGIN: Final = ("login:guest", "passcode:guest")

_VOLATILE: Final = frozenset({"message-id", "session", "server", "amqp-message-id", "timestamp"})
"""Headers whose values differ from run to run, or from product to product."""

_PATTERNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"ID(?::|\\c)[\w.]+-\d+-\d+-\d+(?::|\\c)\d+(?:(?::|\\c)-?\d+)*"), "<id>"),
    (re.compile(r"(?:ID:)?[\w-]{12}@@\d+@@\d+"), "<id>"),
    (re.compile(r"stomp-temp-[\w-]+"), "<generated>"),
    (re.compile(r"\b1\d{9}\b"), "<seconds>"),
    (re.compile(r"session-[\w-]{20,}"), "<session>"),
    (re.compile(r"amq\.gen-[\w-]+"), "<generated>"),
    (re.compile(r"stomp-subscription-[\w-]+"), "<subscription queue>"),
    (re.compile(r"\b1\d{12}\b"), "<milliseconds>"),
    (re.compile(r"\btcp://[\d.]+:\d+|127\.0\.0\.1:\d+"), "<address>"),
)


@dataclass(frozen=True, slots=True)
class Server:
    """A STOMP listener, and whose habits are expected of it."""

    dialect: Dialect
    port: int


class Connection:
    """One connection of a scenario. What it gets goes to the transcript in the order in which it was awaited."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._name = name
        self._socket = socket.create_connection((HOST, stage.server.port), timeout=PATIENCE)
        self._reader = FrameReader()
        self._waiting: list[Frame] = []
        self._ended = False
        """Whether the server has closed it."""
        self.last = Frame("", (), b"")
        """The last frame that was awaited."""

    def sends(self, command: str, *headers: str, body: bytes = b"") -> None:
        """Send a frame of these header lines, `{}` in which stands for the scenario's own names."""
        self.writes(written(command, [self._stage.named(header) for header in headers], body))

    def writes(self, data: bytes) -> None:
        """Send bytes. A server that has closed the connection is noticed when it is read."""
        with contextlib.suppress(OSError):
            self._socket.sendall(data)

    def gets(self, *commands: str) -> Frame:
        """Wait for a frame of each of these commands; the last of them."""
        for command in commands:
            frame = self._wait_for(command)
            if frame is None:
                self._stage.says(self._name, f"(no {command}: {'the end' if self._ended else 'silence'})")
                continue
            self.last = frame
            self._stage.heard(self._name, frame)
        return self.last

    def gets_until(self, body: bytes) -> None:
        """Wait for MESSAGEs up to one with this body, which is not written down.

        mqlift's poll for the consumer before may still stand when that message is sent; then it is redelivered.
        """
        while (frame := self._wait_for("MESSAGE")) is not None and frame.body != body:
            self._stage.heard(self._name, frame)
        if frame is None:
            self._stage.says(self._name, f"(no MESSAGE {body!r}: {'the end' if self._ended else 'silence'})")

    def gets_in_any_order(self, count: int) -> list[Frame]:
        """Wait for so many MESSAGEs whose order nobody promises; they are written down sorted."""
        frames = [frame for frame in (self._wait_for("MESSAGE") for _ in range(count)) if frame is not None]
        lines = sorted(self._stage.line(frame) for frame in frames)
        missing = [f"({count - len(frames)} MESSAGEs are missing)"] if len(frames) < count else []
        for line in lines + missing:
            self._stage.says(self._name, line)
        return frames

    def has_nothing_more(self) -> None:
        """Write down whether more has come than was awaited: a SEND's receipt shows that the server had its chance."""
        self.sends("SEND", "destination:/queue/{}-elsewhere", "receipt:chance")
        self._next(lambda frame: frame.header("receipt-id") == "chance")
        self._stage.says(self._name, f"(more has come: {[frame.command for frame in self._waiting]})")

    def acknowledges(self, command: str, version: str, *headers: str, frame: Frame | None = None) -> None:
        """ACK or NACK a MESSAGE, the last one by default, in the form of a version of STOMP."""
        frame = frame or self.last
        message_id, subscription = frame.header("message-id"), frame.header("subscription")
        lines = {
            "1.0": [f"message-id:{message_id}", *([f"subscription:{subscription}"] if subscription else [])],
            "1.1": [f"message-id:{message_id}", f"subscription:{subscription}"],
            "1.2": [f"id:{frame.header('ack')}"],
        }
        self.sends(command, *lines[version], *headers)

    def ends(self) -> None:
        """Wait until the server closes the connection; whatever comes until then."""
        while (frame := self._next(lambda _: True)) is not None:
            self._stage.heard(self._name, frame)
        self._stage.says(self._name, "(the end)" if self._ended else "(still open)")
        self.cut()

    def leaves(self) -> None:
        """DISCONNECT, and write down whatever has not been awaited."""
        self.sends("DISCONNECT", "receipt:bye")
        while (frame := self._next(lambda _: True)) is not None:
            if frame.command == "RECEIPT" and frame.header("receipt-id") == "bye":
                break
            self._stage.heard(self._name, frame)
        else:
            self._stage.says(self._name, "(the end)" if self._ended else "(no answer to DISCONNECT)")
        self.cut()

    def cut(self) -> None:
        """Close the connection, without a DISCONNECT."""
        self._socket.close()

    def _wait_for(self, command: str) -> Frame | None:
        """The next frame of a command. An ERROR instead is taken for it, and so is the end."""
        return self._next(lambda frame: frame.command in (command, "ERROR"))

    def _next(self, wanted: Callable[[Frame], bool]) -> Frame | None:
        deadline = time.monotonic() + self._stage.patience
        while True:
            for index, frame in enumerate(self._waiting):
                if wanted(frame):
                    return self._waiting.pop(index)
            if not self._read(deadline):
                return None

    def _read(self, deadline: float) -> bool:
        """Take what has come. False when the connection has ended, or nothing comes until `deadline`."""
        left = deadline - time.monotonic()
        if left <= 0 or self._ended:
            return False
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(CHUNK)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        self._ended = not data
        self._reader.feed(data)
        while (frame := self._reader.next()) is not None:
            self._waiting.append(frame)
        return True


class Stage:
    """A server with the connections of one scenario, whose names nobody else uses."""

    def __init__(self, server: Server, patience: float = PATIENCE) -> None:
        self.server = server
        self.patience = patience
        self._token = f"t{uuid.uuid4().hex[:8]}"
        self._names = itertools.count()
        self._connections: list[Connection] = []
        self.transcript: list[str] = []

    def named(self, text: str) -> str:
        """A text with this scenario's own name for each `{}`."""
        return text.replace("{}", self._token)

    def opens(self) -> Connection:
        """A connection without any frame."""
        connection = Connection(self, chr(ord("a") + next(self._names)))
        self._connections.append(connection)
        return connection

    def connects(self, version: str = "1.2", *headers: str) -> Connection:
        """A connection that has been greeted, which is not written down."""
        connection = self.opens()
        accept = [] if version == "1.0" else [f"accept-version:{version}"]
        connection.sends("CONNECT", *accept, "host:/", *LOGIN, *headers)
        written_down = len(self.transcript)
        if connection.gets("CONNECTED").command == "CONNECTED":
            del self.transcript[written_down:]
        return connection

    def notes(self, text: str) -> None:
        """A heading for what follows."""
        self.transcript.append(f"# {text}")

    def says(self, connection: str, text: str) -> None:
        self.transcript.append(f"{connection}: {text}")

    def heard(self, connection: str, frame: Frame) -> None:
        self.says(connection, self.line(frame))

    def line(self, frame: Frame) -> str:
        """A frame as the transcript has it."""
        headers = sorted((name, self._settled(name, value)) for name, value in frame.headers)
        lines = " ".join(f"{name}:{value!r}" for name, value in headers)
        body = f" | {self._readable(frame)}" if frame.body else ""
        return f"{frame.command} {lines}{body}"

    def close(self) -> None:
        for connection in self._connections:
            connection.cut()

    def _settled(self, name: str, value: str) -> str:
        volatile = name in _VOLATILE or (name == "ack" and value not in ("auto", "client", "client-individual"))
        return f"<{name}>" if volatile else self._comparable(value)

    def _readable(self, frame: Frame) -> str:
        body = frame.body
        if frame.command == "ERROR":  # ActiveMQ shows its stack
            return repr(self._comparable(body.decode("utf-8", "replace").partition("\n\tat ")[0]))
        return repr(body) if len(body) <= 200 else f"{len(body)} bytes"

    def _comparable(self, text: str) -> str:
        text = text.replace(self._token, "{}")
        for pattern, name in _PATTERNS:
            text = pattern.sub(name, text)
        return text


@contextlib.contextmanager
def staged(server: Server, patience: float = PATIENCE) -> Iterator[Stage]:
    """A stage whose connections are closed at the end."""
    stage = Stage(server, patience)
    try:
        yield stage
    finally:
        stage.close()
