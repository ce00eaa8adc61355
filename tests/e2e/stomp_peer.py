"""A STOMP connection frame by frame, and a gateway with a listener of each dialect."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.conftest import keeping_config
from tests.interop.stomp.frames import Frame, FrameReader, written
from tests.rig.processes import HOST, Gateway, free_port

TIMEOUT = 20.0
CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a gateway speaks what."""

    mqtt: int
    rabbitmq: int
    activemq: int


def dialects_gateway(endpoint_url: str, directory: Path, **settings: object) -> tuple[Gateway, Ports]:
    """A gateway that keeps its state, not yet started."""
    ports = Ports(free_port(), free_port(), free_port())
    stomp = {"protocol": "stomp", "host": HOST}
    listeners = [
        {"protocol": "mqtt", "host": HOST, "port": ports.mqtt},
        stomp | {"port": ports.rabbitmq, "dialect": "rabbitmq"},
        stomp | {"port": ports.activemq, "dialect": "activemq"},
    ]
    config: Mapping[str, object] = keeping_config(
        endpoint_url, directory / "state.db", listeners=listeners, routes=[], **settings
    )
    return Gateway(config, directory), ports


class Peer:
    """A connection that has been greeted. MESSAGEs that come before they are asked for are kept."""

    def __init__(self, port: int, version: str = "1.2", **headers: str) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=TIMEOUT)
        self._reader = FrameReader()
        self._messages: list[Frame] = []
        self._receipts = 0
        accept = {} if version == "1.0" else {"accept-version": version}
        self.sends("CONNECT", **accept, host="/", **headers)
        self.greeting = self._next()
        if (self.greeting.command, self.greeting.header("version")) != ("CONNECTED", version):
            self.cut()
            raise AssertionError(self.greeting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut()

    def sends(self, command: str, body: bytes = b"", /, **headers: str) -> None:
        """Underscores in names of headers stand for hyphens, but those in capitals."""
        lines = [f"{name.replace('_', '-') if name.islower() else name}:{value}" for name, value in headers.items()]
        self._socket.sendall(written(command, lines, body))

    def asks(self, command: str, body: bytes = b"", /, **headers: str) -> None:
        """Send a frame, and wait for its RECEIPT. `AssertionError` for anything else but MESSAGEs."""
        self._receipts += 1
        receipt = f"r-{self._receipts}"
        self.sends(command, body, **headers, receipt=receipt)
        self.gets_receipt(receipt)

    def gets_receipt(self, receipt: str) -> None:
        frame = self._next_but_messages()
        assert (frame.command, frame.header("receipt-id")) == ("RECEIPT", receipt), frame

    def gets_error(self) -> Frame:
        frame = self._next_but_messages()
        assert frame.command == "ERROR", frame
        return frame

    def subscribes(self, destination: str, subscription: str = "0", ack: str = "auto", **headers: str) -> None:
        self.asks("SUBSCRIBE", id=subscription, destination=destination, ack=ack, **headers)

    def gets(self, count: int) -> list[Frame]:
        """The next MESSAGEs."""
        while len(self._messages) < count:
            frame = self._next()
            assert frame.command == "MESSAGE", frame
            self._messages.append(frame)
        taken, self._messages = self._messages[:count], self._messages[count:]
        return taken

    def gets_bodies(self, count: int) -> list[bytes]:
        """Of the next MESSAGEs, sorted: most queues promise no order."""
        return sorted(frame.body for frame in self.gets(count))

    def acks(self, frame: Frame, command: str = "ACK", **headers: str) -> None:
        self.asks(command, id=frame.header("ack"), **headers)

    def leaves(self) -> None:
        self.asks("DISCONNECT")
        self.cut()

    def cut(self) -> None:
        """End it without a word."""
        self._socket.close()

    def _next_but_messages(self) -> Frame:
        while (frame := self._next()).command == "MESSAGE":
            self._messages.append(frame)
        return frame

    def _next(self) -> Frame:
        while (frame := self._reader.next()) is None:
            data = self._socket.recv(CHUNK)
            assert data, "the connection has ended"
            self._reader.feed(data)
        return frame


def what_is_left(port: int, queue: str) -> list[bytes]:
    """Take everything that a queue holds, up to a message of ours; bodies, sorted."""
    with Peer(port) as peer:
        peer.asks("SEND", b"the end", destination=queue)
        peer.subscribes(queue)
        bodies: list[bytes] = []
        while b"the end" not in bodies:
            bodies += [frame.body for frame in peer.gets(1)]
        peer.leaves()
    return sorted(body for body in bodies if body != b"the end")
