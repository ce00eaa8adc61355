"""Both sides of a session in a test: the client that sends packets, and the connection that executes commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from gateway.core.backend import Received
from gateway.core.message import TOPIC_EXCHANGE, Address, Message, Properties
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import (
    Authenticate,
    Bind,
    Claim,
    Close,
    Command,
    Consume,
    DeclareQueue,
    Delivery,
    Publish,
    SessionContext,
    Settle,
    Unbind,
)
from gateway.protocols.mqtt.codec import Decoder, encode
from gateway.protocols.mqtt.packets import Connack, Connect, Level, Packet, Suback, Subscribe, Subscription
from gateway.protocols.mqtt.session import open_session
from gateway.protocols.mqtt.settings import Settings

CommandKind = TypeVar("CommandKind", bound=Command)

Answered = Authenticate | Claim | DeclareQueue | Bind | Unbind | Consume


class Source:
    name = "mqtt-subscription"

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        raise AssertionError("a session settles by its commands")


class Peer:
    def __init__(self, settings: Settings | None = None, level: int = Level.V3_1_1) -> None:
        context = SessionContext(peer="192.0.2.1:4711", server="mqlift/test", settings=settings or Settings())
        self.now = 1000.0
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
        self._take(self.session.answer(token, result, self.now))

    def tick(self) -> None:
        self._take(self.session.tick(self.now))

    def _take(self, commands: Sequence[Command]) -> None:
        self.commands += commands

    def taken(self, kind: type[CommandKind]) -> list[CommandKind]:
        """Take the commands of one kind out of those that wait."""
        found = [command for command in self.commands if isinstance(command, kind)]
        self.commands = [command for command in self.commands if not isinstance(command, kind)]
        return found

    def execute(self, *results: Result) -> list[Answered]:
        """Answer the control commands that wait, and those that follow, one by one; without results ACCEPTED."""
        done: list[Answered] = []
        answers = iter(results)
        while waiting := [command for command in self.commands if isinstance(command, Answered)]:
            command = waiting[0]
            self.commands.remove(command)
            done.append(command)
            self.answer(command.token, next(answers, ACCEPTED))
        return done

    def connect(self, packet: Connect | None = None) -> None:
        self.send(packet or Connect(client_id="c"))
        self.execute()
        assert self.received() == [Connack(False, 0)]
        assert self.session.established

    def subscribe(self, *filters: tuple[str, int]) -> None:
        self.send(Subscribe(1, tuple(Subscription(*pair) for pair in filters)))
        self.execute()
        assert self.received() == [Suback(1, tuple(min(qos, 1) for _, qos in filters))]

    def published(self) -> list[Message]:
        return [command.message for command in self.taken(Publish)]

    def settled(self) -> list[tuple[Delivery, Outcome]]:
        return [(delivery, settle.outcome) for settle in self.taken(Settle) for delivery in settle.deliveries]

    def closed(self) -> Close:
        """The close, which must be the last command."""
        close = self.commands.pop()
        assert isinstance(close, Close)
        assert not any(isinstance(command, Close) for command in self.commands)
        return close


def message(key: str, body: bytes = b"hi", mode: int | None = 2, exchange: str = TOPIC_EXCHANGE) -> Message:
    return Message(Address(exchange, key), body, Properties(delivery_mode=mode))


def delivery(of: Message, attempt: int = 1) -> Delivery:
    return Delivery(Received(of, "receipt", attempt), Source())
