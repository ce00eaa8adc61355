"""Both sides of a session in a test: the client that sends packets, and the connection that executes commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from gateway.core.auth import Identity
from gateway.core.backend import Received
from gateway.core.commands import (
    Authenticate,
    Authenticated,
    Bind,
    Cancel,
    Close,
    Command,
    Consume,
    DeclareQueue,
    DeleteQueue,
    EndSession,
    KeepInflight,
    KeepSession,
    Opened,
    OpenSession,
    Publish,
    SendRetained,
    SessionRecord,
    Settle,
    Unbind,
)
from gateway.core.delivery import Delivery
from gateway.core.message import TOPIC_EXCHANGE, Address, Headers, Message, Properties
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import SessionContext
from gateway.protocols.mqtt.codec import Decoder, encode
from gateway.protocols.mqtt.packets import Connack, Connect, Level, Packet, Suback, Subscribe, Subscription
from gateway.protocols.mqtt.session import open_session
from gateway.protocols.mqtt.settings import Settings

CommandKind = TypeVar("CommandKind", bound=Command)

Control = (
    Authenticate
    | OpenSession
    | KeepSession
    | DeclareQueue
    | DeleteQueue
    | Bind
    | Unbind
    | Consume
    | Cancel
    | SendRetained
)

WALL_CLOCK = 1_700_000_000.0


class Source:
    name = "mqtt-subscription"

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        raise AssertionError("a session settles by its commands")


class Peer:
    def __init__(self, settings: Settings | None = None, level: int = Level.V3_1_1) -> None:
        self.now = 1000.0
        self.wall = WALL_CLOCK
        context = SessionContext(
            peer="192.0.2.1:4711", server="mqlift/test", settings=settings or Settings(), time=lambda: self.wall
        )
        self.discarded = context.discarded
        self._settings = settings
        self.record: SessionRecord | None = None
        """What the hub has kept of the session."""
        self.session = open_session(context, self.now)
        self.commands: list[Command] = []
        self._decoder = Decoder(1 << 28, level)
        self._level = level

    def feed(self, data: bytes) -> None:
        self._take(self.session.receive_data(data, self.now))

    def send(self, *packets: Packet) -> None:
        self.feed(b"".join(encode(packet, self._level) for packet in packets))

    def received(self) -> list[Packet]:
        self._decoder.feed(self.session.data_to_send())
        packets = []
        while (packet := self._decoder.next_packet()) is not None:
            packets.append(packet)
        return packets

    def answer(self, token: object, result: Result = ACCEPTED) -> None:
        """What the session says to a result comes before what waits, as in a connection."""
        self.commands[:0] = self.session.answer(token, result, self.now)

    def tick(self) -> None:
        self._take(self.session.tick(self.now))

    def _take(self, commands: Sequence[Command]) -> None:
        self.commands += commands

    def taken(self, kind: type[CommandKind]) -> list[CommandKind]:
        """Take the commands of one kind out of those that wait."""
        found: list[CommandKind] = [command for command in self.commands if isinstance(command, kind)]
        self.commands = [command for command in self.commands if not isinstance(command, kind)]
        return found

    def execute(self, *results: Result) -> list[Control]:
        """Answer the control commands that wait, and those that follow, one by one; without results ACCEPTED."""
        done: list[Control] = []
        answers = iter(results)
        while any(isinstance(command, Control) for command in self.commands):
            done.append(self.step(next(answers, None)))
        return done

    def step(self, result: Result | None = None) -> Control:
        """Answer the next control command; without a result ACCEPTED."""
        command = next(command for command in self.commands if isinstance(command, Control))
        self.commands.remove(command)
        self.answer(command.token, result or self.accepted(command))
        return command

    def lose(self) -> None:
        """The socket is gone; what the session leaves behind is kept."""
        self.commands = [*self.session.connection_lost()]
        for keep in self.taken(KeepInflight):
            self._keep_inflight(keep)

    def again(self, packet: Connect | None = None, level: int | None = None) -> Peer:
        """The session on its next connection."""
        peer = Peer(self._settings, self._level if level is None else level)
        peer.record = self.record
        peer.connect(packet or Connect(client_id="c", clean_start=False), session_present=True)
        return peer

    def _keep_inflight(self, keep: KeepInflight) -> None:
        assert self.record is not None
        self.record = replace(self.record, inflight=keep.inflight)

    def accepted(self, command: Control) -> Result:
        """What the hub says when nothing is wrong."""
        if isinstance(command, Authenticate):
            return Authenticated(Identity(user=command.credentials.username or ""))
        if isinstance(command, OpenSession):
            return Opened(None if command.clean else self.record)
        if isinstance(command, KeepSession):
            inflight = b"" if self.record is None else self.record.inflight
            self.record = replace(command.record, inflight=inflight)
        return ACCEPTED

    def connect(self, packet: Connect | None = None, *, session_present: bool = False) -> Connack:
        self.send(packet or Connect(client_id="c", level=self._level))
        self.execute()
        connack, *rest = self.received()
        assert isinstance(connack, Connack)
        assert not rest
        assert (connack.session_present, connack.code) == (session_present, 0)
        assert self.session.established
        return connack

    def subscribe(self, *filters: tuple[str, int]) -> None:
        self.send(Subscribe(1, tuple(Subscription(*pair) for pair in filters)))
        self.execute()
        assert self.received() == [Suback(1, tuple(qos for _, qos in filters))]

    def published(self) -> list[Message]:
        return [command.message for command in self.taken(Publish)]

    def settled(self) -> list[tuple[Delivery, Outcome]]:
        return [(delivery, settle.outcome) for settle in self.taken(Settle) for delivery in settle.deliveries]

    def ended(self) -> EndSession:
        """The only end of the session."""
        (end,) = self.taken(EndSession)
        return end

    def kept_inflight(self) -> list[KeepInflight]:
        """Keep what is in flight, until nothing more is to be kept."""
        done = []
        while waiting := self.taken(KeepInflight):
            (keep,) = waiting
            done.append(keep)
            self._keep_inflight(keep)
            self.answer(keep.token)
        return done

    def closed(self) -> Close:
        """The close, which must be the last command."""
        close = self.commands.pop()
        assert isinstance(close, Close)
        assert not any(isinstance(command, Close) for command in self.commands)
        return close


def message(
    key: str, body: bytes = b"hi", mode: int | None = 2, exchange: str = TOPIC_EXCHANGE, headers: Headers | None = None
) -> Message:
    return Message(Address(exchange, key), body, Properties(delivery_mode=mode), headers or {})


def delivery(of: Message, attempt: int = 1, uid: str = "") -> Delivery:
    return Delivery(Received(of, "receipt", attempt, uid), Source())
