"""A STOMP session without a socket: the test is the client and the hub."""

from __future__ import annotations

from collections import deque

import pytest

from gateway.core.backend import Received
from gateway.core.commands import (
    Authenticate,
    Bind,
    Cancel,
    ClaimClientId,
    Close,
    Consume,
    DeclareQueue,
    DeleteQueue,
    Rebind,
    Settle,
)
from gateway.core.delivery import Delivery
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import SessionContext
from gateway.protocols.stomp.codec import FrameLimits, FrameParser
from gateway.protocols.stomp.session import open_session
from gateway.protocols.stomp.settings import Settings
from gateway.protocols.stomp.versions import OFFERED, UNESCAPED

CONTROL = (Authenticate, ClaimClientId, DeclareQueue, DeleteQueue, Bind, Rebind, Consume, Cancel)


class Queue:
    name = "q"

    def settle(self, delivery, outcome):
        raise AssertionError("only the connection settles")


class Line:
    """Executes commands as a connection does: in order, control commands one by one, publishes without waiting.

    `hold` is a class of control commands that stay unanswered until `release`.
    """

    def __init__(self, **settings):
        self.now = 100.0
        context = SessionContext(
            peer="192.0.2.1:5", server="mqlift/1", settings=Settings(**settings), time=lambda: 1_700_000_000.25
        )
        self.session = open_session(context, self.now)
        self.hold = ()
        self.refuse = {}
        self.done = []
        self.waiting = deque()
        self.held = None
        self.closed = None
        self._parser = FrameParser(FrameLimits(1000, 1 << 20, 1 << 20, 1 << 24))

    # The client

    def send(self, data):
        commands = self.session.receive_data(data, self.now)
        self.run(commands)
        return commands

    def frame(self, command, body=b"", /, **headers):
        lines = "".join(f"{name.replace('_', '-')}:{value}\n" for name, value in headers.items())
        return self.send(f"{command}\n{lines}\n".encode() + body + b"\0")

    def frames(self):
        """What the client has got since the last call."""
        data = self.session.data_to_send()
        if data.startswith(b"CONNECTED"):
            self._parser.version = UNESCAPED
        self._parser.receive_data(data)
        frames = []
        while (frame := self._parser.next_frame()) is not None:
            frames.append(frame)
            if frame.command == "CONNECTED":
                self._parser.version = OFFERED[frame.headers["version"]]
        return frames

    def only(self, command):
        """The one frame that the client has got."""
        (frame,) = self.frames()
        assert frame.command == command, (frame.command, frame.headers, frame.body)
        return frame

    def connect(self, **headers):
        self.frame(
            "CONNECT",
            **(
                {"accept_version": "1.2", "host": "h"}
                | {name.replace("-", "_"): value for name, value in headers.items()}
            ),
        )
        return self.only("CONNECTED")

    def subscribe(self, destination="/queue/q", id="0", **headers):  # noqa: A002
        """The tag of the Consume."""
        self.frame("SUBSCRIBE", destination=destination, id=id, **headers)
        return [command for command in self.done if isinstance(command, Consume)][-1].tag

    # The hub

    def run(self, commands):
        if self.held is not None:
            self.waiting.extend(commands)
            return
        commands = deque(commands)
        while commands:
            command = commands.popleft()
            if self.closed is not None and not isinstance(command, Settle):
                continue
            self.done.append(command)
            if isinstance(command, Close):
                self.closed = command
            elif isinstance(command, CONTROL):
                if isinstance(command, self.hold):
                    self.held, self.waiting = command, commands
                    return
                result = self.refuse.get(type(command), ACCEPTED)
                commands.extendleft(reversed(self.session.answer(command.token, result, self.now)))

    def release(self, result=ACCEPTED):
        """Answer the command that is held."""
        command, self.held = self.held, None
        followers = [*self.session.answer(command.token, result, self.now), *self.waiting]
        self.run(followers)

    def take(self, kind):
        """Commands of a kind that were executed since the last call."""
        taken = [command for command in self.done if isinstance(command, kind)]
        self.done = [command for command in self.done if not isinstance(command, kind)]
        return taken

    def answer(self, publish, outcome=Outcome.ACCEPTED, error=None):
        self.run(self.session.answer(publish.token, Result(outcome, error), self.now))

    def deliver(self, tag, *bodies, attempt=1, address=Address("", "q"), **message):  # noqa: B008
        """Deliveries, and what the session said to each."""
        deliveries = [
            Delivery(Received(Message(address, body, **message), f"receipt {body!r}", attempt), Queue())
            for body in bodies
        ]
        return deliveries, [self.session.deliver(tag, delivery) for delivery in deliveries]


@pytest.fixture
def open_line():
    return Line


@pytest.fixture
def line():
    """A client that is connected."""
    line = Line()
    line.connect()
    line.done.clear()
    return line
