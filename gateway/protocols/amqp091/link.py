"""What the channels of one connection share: where their bytes and commands go, who the client is, what is bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from gateway.core.commands import Aside, Command, ControlCommand, Settle
from gateway.core.delivery import Delivery
from gateway.core.message import Address, Origin
from gateway.core.outcome import Outcome
from gateway.protocols.amqp091.codec import INITIAL_FRAME_MAX
from gateway.protocols.amqp091.methods import Method
from gateway.protocols.amqp091.names import VirtualHost
from gateway.protocols.amqp091.settings import Settings
from gateway.protocols.amqp091.writer import write_address, write_method

PROTOCOL: Final = "amqp091"

UNWAITED: Final = object()
"""The token of commands whose answer nobody waits for."""


class Consumer(Protocol):
    """What takes the deliveries of one hub tag."""

    def deliver(self, delivery: Delivery) -> bool:
        """As `core.session.Session.deliver`."""

    def cancelled(self) -> None:
        """Its queue is gone."""


class Confirming(Protocol):
    """Something that gathers confirms."""

    def write_confirms(self) -> None:
        """Write what has gathered in this turn."""


class Link:
    """One connection, as its channels see it."""

    __slots__ = (
        "_settle",
        "_settled",
        "commands",
        "confirming",
        "consumers",
        "frame_max",
        "held",
        "host",
        "later",
        "origin",
        "out",
        "settings",
        "tells_cancel",
        "unfinished",
        "user",
        "waiting",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.out: list[bytes] = []
        self.commands: list[Command] = []
        """What the hub is asked for by what is being handled now."""
        self.confirming: list[Confirming] = []
        self.consumers: dict[str, Consumer] = {}
        """By the hub's tag."""
        self.later: list[tuple[Delivery, Outcome]] = []
        """To be settled once the bytes that were written before are gone."""
        self.frame_max = INITIAL_FRAME_MAX
        self.host = VirtualHost("", "")
        self.origin = Origin(PROTOCOL)
        self.user = ""
        """As whom the client has logged in; where everybody may, what it calls itself."""
        self.tells_cancel = False
        """Whether the client wants to know that a consumer's queue is gone (`consumer_cancel_notify`)."""
        self.held = 0
        """Bytes of frames that wait on their channels."""
        self.unfinished = 0
        """Bytes of bodies that were announced and are not complete."""
        self.waiting = 0
        """Channels that wait for an answer."""
        self._settle: Settle | None = None
        self._settled: list[Delivery] = []

    def write(self, channel: int, method: Method) -> None:
        """Send a method without content."""
        self.out.append(write_method(channel, method))

    def write_address(self, address: Address) -> bytes:
        """As two fields, in the client's names."""
        return write_address(self.host.local(address)) if self.host.prefix else write_address(address)

    def ask(self, command: ControlCommand) -> None:
        """Have a control command executed beside those of other channels."""
        self.commands.append(Aside(command))

    def settle(self, deliveries: Iterable[Delivery], outcome: Outcome) -> None:
        """End deliveries; those that follow each other become one command."""
        commands = self.commands
        settle = self._settle
        if settle is None or not commands or commands[-1] is not settle or settle.outcome is not outcome:
            self._settled = []
            settle = self._settle = Settle(self._settled, outcome)
            commands.append(settle)
        self._settled += deliveries

    def take_commands(self) -> list[Command]:
        """What has gathered."""
        commands = self.commands
        if commands:
            self.commands = []
            self._settle = None
        return commands
