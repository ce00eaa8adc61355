"""What the parts of a session share: whom they serve, what they ask of the hub, and what they write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway.core.commands import NO_COMMANDS, Command, Settle
from gateway.core.delivery import Delivery
from gateway.core.errors import Locked, MqliftError, Refused
from gateway.core.message import Origin
from gateway.core.outcome import ACCEPTED, Outcome, Result, worse
from gateway.protocols.stomp.dialect import Dialect, Owner, Sender
from gateway.protocols.stomp.settings import Settings
from gateway.protocols.stomp.versions import V1_2, Version

PROTOCOL: Final = "stomp"


class Step:
    """The token of a control command: one of those that a frame needs. The last one answers the frame."""

    __slots__ = ("last", "may_be_locked", "receipt", "title")

    def __init__(self, title: str, receipt: str | None, *, last: bool, may_be_locked: bool = False) -> None:
        """`may_be_locked`: whether a queue will do that is another connection's own."""
        self.title = title
        self.receipt = receipt
        self.last = last
        self.may_be_locked = may_be_locked

    def failed(self, result: Result) -> bool:
        """Whether the frame has failed with this command."""
        if result.outcome is Outcome.ACCEPTED:
            return False
        return not (self.may_be_locked and isinstance(result.error, Locked))


class Together:
    """The token of publishes that are answered as one: of a composite destination, or of a COMMIT.

    What is in `settlements` was taken from its subscriptions, and is settled when all has been accepted: a client that
    consumes and publishes in one transaction loses nothing when a part fails. It sees messages again then.
    """

    __slots__ = ("missing", "receipt", "receipts", "result", "settlements")

    def __init__(self, missing: int, receipt: str | None) -> None:
        self.missing = missing
        self.receipt = receipt
        self.receipts: list[str] = []
        """More of them, before `receipt`."""
        self.result = ACCEPTED
        self.settlements: list[tuple[Sequence[Delivery], Outcome]] = []

    def answered(self, result: Result) -> bool:
        """Whether all have been answered; then `result` is the worst."""
        self.result = worse(self.result, result)
        self.missing -= 1
        return self.missing == 0


class Client:
    """One connection's own. `commands` and `out` are what the session gives to its host next."""

    __slots__ = (
        "commands",
        "dialect",
        "out",
        "owner",
        "sender",
        "settings",
        "unanswered",
        "version",
    )

    def __init__(self, settings: Settings, dialect: Dialect, owner: Owner, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.dialect = dialect
        self.owner = owner
        self.sender = Sender(Origin(PROTOCOL), clock, owner.session_id)
        self.version: Version = V1_2
        self.commands: list[Command] = []
        self.out: list[bytes] = []
        self.unanswered = 0

    def introduce(self, version: Version, client_id: str, user: str) -> None:
        """What CONNECT has said."""
        self.version = version
        self.sender.origin = Origin(PROTOCOL, client_id, user)
        self.owner = Owner(self.owner.session_id, client_id)

    def ask(self, command: Command) -> None:
        """Give a command that will be answered."""
        self.commands.append(command)
        self.unanswered += 1

    def take_commands(self) -> Sequence[Command]:
        commands = self.commands
        if not commands:
            return NO_COMMANDS
        self.commands = []
        return commands

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Consecutive ACKs of one read become one command."""
        commands = self.commands
        last = commands[-1] if commands else None
        if isinstance(last, Settle) and last.outcome is outcome and isinstance(last.deliveries, list):
            last.deliveries.extend(deliveries)
        else:
            commands.append(Settle(list(deliveries), outcome))

    def write_receipt(self, receipt: str) -> None:
        self.out.append(self.receipt_frame(receipt))

    def receipt_frame(self, receipt: str) -> bytes:
        return f"RECEIPT\nreceipt-id:{self.version.escape(receipt)}\n\n\0".encode()


def error_of(result: Result) -> MqliftError:
    return result.error or Refused("no reason was given")
