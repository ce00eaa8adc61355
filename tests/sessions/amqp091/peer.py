"""Both sides of a session in a test: the client, whose frames pamqp writes and reads, and the connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pamqp import frame as pamqp_frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Connection
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from gateway.core.auth import Identity
from gateway.core.backend import Received
from gateway.core.commands import (
    Aside,
    Authenticate,
    Authenticated,
    ChangePrefetch,
    Close,
    Command,
    Consume,
    Counted,
    DeclareQueue,
    DeleteQueue,
    Get,
    Got,
    Publish,
    PurgeQueue,
    Settle,
)
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import SessionContext
from gateway.protocols.amqp091.session import open_session
from gateway.protocols.amqp091.settings import Settings

HEADER = b"AMQP\0\0\x09\x01"
CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}

Kind = TypeVar("Kind")


class Queue:
    name = "q"

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        raise AssertionError("a session settles by its commands")


def delivery(body: bytes = b"hi", exchange: str = "", key: str = "q", attempt: int = 1, **message: Any) -> Delivery:
    return Delivery(Received(Message(Address(exchange, key), body, **message), "receipt", attempt), Queue())


def refused(error: MqliftError) -> Result:
    return Result(Outcome.REJECTED, error)


def accepted(command: Command) -> Result:
    """What the hub says when nothing is wrong."""
    match command:
        case Authenticate():
            return Authenticated(Identity(user=command.credentials.username or ""))
        case DeclareQueue() | DeleteQueue() | PurgeQueue():
            return Counted(0)
        case Get():
            return Got(None)
        case _:
            return ACCEPTED


class Peer:
    """A client, and a hub that answers at once, unless the class of a command is in `hold`."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        context = SessionContext(peer="192.0.2.1:4711", server="mqlift/test", settings=Settings(**settings))
        self.session = open_session(context, self.now)
        self.done: list[Command] = []
        """Commands that were executed, without their `Aside`."""
        self.hold: tuple[type, ...] = ()
        self.held: deque[Command] = deque()
        self.publishes: deque[Publish] = deque()
        """Without a result."""
        self.answers: dict[type, Result | Callable[[Any], Result]] = {}
        self.close: Close | None = None
        self._inbox = b""

    # The client

    def feed(self, data: bytes, piece: int = 0) -> None:
        """All at once, or in pieces of so many bytes."""
        size = piece or len(data) or 1
        for start in range(0, len(data), size):
            self.run(self.session.receive_data(data[start : start + size], self.now))

    def send(self, channel: int, *methods: Any) -> None:
        self.feed(b"".join(pamqp_frame.marshal(method, channel) for method in methods))

    def publish(self, *args: Any, **kwargs: Any) -> None:
        self.feed(published(*args, **kwargs))

    def received(self) -> list[tuple[int, Any]]:
        """What the client has got since the last call: methods with their channel; contents follow theirs."""
        data = self._inbox + self.session.data_to_send()
        frames: list[tuple[int, Any]] = []
        while data:
            count, channel, value = pamqp_frame.unmarshal(data)
            data = data[count:]
            frames.append((channel, value))
        return frames

    def methods(self) -> list[Any]:
        """Like `received`, without channels, contents and heartbeats."""
        return [value for _, value in self.received() if not isinstance(value, ContentHeader | ContentBody | Heartbeat)]

    def only(self, kind: type[Kind]) -> Kind:
        """The one method that the client has got."""
        (method,) = self.methods()
        assert isinstance(method, kind), (type(method), dict(method))
        return method

    def contents(self) -> list[tuple[Any, Any, bytes]]:
        """Methods with content: with their properties and bodies."""
        found: list[tuple[Any, Any, bytes]] = []
        for _, value in self.received():
            if isinstance(value, ContentHeader):
                method = found.pop()[0]
                found.append((method, value.properties, b""))
            elif isinstance(value, ContentBody):
                method, properties, body = found.pop()
                found.append((method, properties, body + value.value))
            else:
                found.append((value, None, b""))
        return found

    def start_ok(self, capabilities: Any = CAPABILITIES, **kwargs: Any) -> Connection.StartOk:
        properties = {"capabilities": capabilities, "connection_name": "test"}
        return Connection.StartOk(properties, **({"mechanism": "PLAIN", "response": "\0guest\0secret"} | kwargs))

    def connect(
        self, vhost: str = "/", capabilities: Any = CAPABILITIES, tune: tuple[int, int, int] = (2047, 131072, 60)
    ) -> None:
        self.feed(HEADER)
        self.send(0, self.start_ok(capabilities))
        self.send(0, Connection.TuneOk(*tune), Connection.Open(vhost))
        assert [type(each) for each in self.methods()] == [Connection.Start, Connection.Tune, Connection.OpenOk]
        assert self.session.established
        self.done.clear()

    def open(self, *channels: int) -> None:
        for channel in channels:
            self.send(channel, Channel.Open())
            self.only(Channel.OpenOk)

    # The hub

    def run(self, commands: Sequence[Command]) -> None:
        for command in commands:
            self._execute(command)

    def _execute(self, command: Command) -> None:
        if isinstance(command, Aside):
            command = command.command
        if self.close is not None:
            assert isinstance(command, Settle), f"{command} after Close"
        self.done.append(command)
        if isinstance(command, Close):
            self.close = command
        elif isinstance(command, Publish):
            self.publishes.append(command)
        elif isinstance(command, self.hold):
            self.held.append(command)
        elif not isinstance(command, Settle | ChangePrefetch):
            self.answer(command)

    def answer(self, command: Any, result: Result | None = None) -> None:
        if result is None:
            answer = self.answers.get(type(command))
            result = answer(command) if callable(answer) else answer or accepted(command)
        self.run(self.session.answer(command.token, result, self.now))

    def release(self, result: Result | None = None) -> None:
        """Answer the first command that is held."""
        self.answer(self.held.popleft(), result)

    def settle_publishes(self, result: Result = ACCEPTED) -> list[Message]:
        """Give each publish its result."""
        publishes, self.publishes = self.publishes, deque()
        for each in publishes:
            self.answer(each, result)
        return [each.message for each in publishes]

    def take(self, kind: type[Kind]) -> list[Kind]:
        """Commands of a kind that were executed since the last call."""
        taken = [command for command in self.done if isinstance(command, kind)]
        self.done = [command for command in self.done if not isinstance(command, kind)]
        return taken

    def settled(self) -> list[tuple[bytes, Outcome]]:
        return [(each.message.body, settle.outcome) for settle in self.take(Settle) for each in settle.deliveries]

    def consume(self, channel: int = 1, queue: str = "q", tag: str = "c", **kwargs: Any) -> str:
        """The hub's tag."""
        self.send(channel, Basic.Consume(queue=queue, consumer_tag=tag, **kwargs))
        if not kwargs.get("nowait"):
            assert self.only(Basic.ConsumeOk).consumer_tag == tag
        return self.take(Consume)[-1].tag

    def deliver(self, tag: str, *bodies: bytes, **kwargs: Any) -> list[bool]:
        return [self.session.deliver(tag, delivery(body, **kwargs)) for body in bodies]

    def tick(self) -> None:
        """Time has passed the deadline."""
        self.now = max(self.now, self.session.deadline)
        self.run(self.session.tick(self.now))

    def closed_channel(self, code: int, text: str, method: Any) -> None:
        """The client is told that its channel is closed; it answers."""
        ((channel, close),) = self.received()
        assert isinstance(close, Channel.Close), dict(close)
        assert (close.reply_code, close.reply_text) == (code, text)
        assert (close.class_id, close.method_id) == (method.index >> 16, method.index & 0xFFFF)
        self.send(channel, Channel.CloseOk())
        assert self.close is None

    def closed_connection(self, code: int, text: str, method: Any = None) -> None:
        close = self.methods()[-1]
        assert isinstance(close, Connection.Close), dict(close)
        assert (close.reply_code, close.reply_text) == (code, text)
        ids = (0, 0) if method is None else (method.index >> 16, method.index & 0xFFFF)
        assert (close.class_id, close.method_id) == ids
        assert self.close is not None
        assert self.close.error is not None


def published(
    channel: int = 1,
    key: str = "q",
    body: bytes = b"hi",
    *,
    exchange: str = "",
    mandatory: bool = False,
    immediate: bool = False,
    pieces: int = 1,
    **properties: Any,
) -> bytes:
    """The frames of a publish, its body in so many."""
    size = -(-len(body) // pieces) or 1
    frames = [
        Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory, immediate=immediate),
        ContentHeader(body_size=len(body), properties=Basic.Properties(**properties)),
        *(ContentBody(body[start : start + size]) for start in range(0, len(body), size)),
    ]
    return b"".join(pamqp_frame.marshal(each, channel) for each in frames)


def connected(*channels: int, **settings: Any) -> Peer:
    """A client with open channels; number 1 if none is said."""
    peer = Peer(**settings)
    peer.connect()
    peer.open(*(channels or (1,)))
    return peer
