"""One SUBSCRIBE: what it delivers, and what of it is unacknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from gateway.core.message import Address
from gateway.core.session import Delivery
from gateway.protocols.stomp.codec import NUL, Frame
from gateway.protocols.stomp.convert import message_headers
from gateway.protocols.stomp.dialects import Dialect
from gateway.protocols.stomp.errors import BadHeader
from gateway.protocols.stomp.ledger import NOTHING, CumulativeLedger, IndividualLedger, Ledger
from gateway.protocols.stomp.versions import Version

ACK_SEPARATOR = "@@"
"""Between the parts of a message id, as in RabbitMQ's."""


class AckMode(Enum):
    """Who acknowledges, and how ([STOMP 1.2, SUBSCRIBE ack Header])."""

    AUTO = "auto"
    CLIENT = "client"
    CLIENT_INDIVIDUAL = "client-individual"


def ack_mode(frame: Frame) -> AckMode:
    """The mode that a SUBSCRIBE asks for. Raises `BadHeader`."""
    value = frame.headers.get("ack", AckMode.AUTO.value)
    try:
        return AckMode(value)
    except ValueError:
        raise BadHeader("ack is none of auto, client and client-individual") from None


def _ledger(mode: AckMode) -> Ledger | None:
    if mode is AckMode.AUTO:
        return None
    return CumulativeLedger() if mode is AckMode.CLIENT else IndividualLedger()


class Subscription:
    """A consumer of one queue. `binding` is what has to be undone when it ends, of a live subscription.

    `tag` names it towards the hub and begins the ids of its messages. It holds the session's id, so that an ACK that
    was meant for an earlier connection of the same client settles nothing here.
    """

    __slots__ = (
        "_address",
        "_destination_line",
        "_dialect",
        "_head",
        "_ledger",
        "_number",
        "_version",
        "active",
        "binding",
        "id",
        "queue",
        "tag",
    )

    def __init__(
        self, subscription_id: str, tag: str, queue: str, mode: AckMode, dialect: Dialect, version: Version
    ) -> None:
        self.id = subscription_id
        self.tag = tag
        self.queue = queue
        self.binding: Address | None = None
        self.active = True
        self._ledger = _ledger(mode)
        self._number = 0
        self._dialect = dialect
        self._version = version
        self._head = f"MESSAGE\nsubscription:{version.escape(subscription_id)}\n"
        self._address: Address | None = None
        self._destination_line = ""

    def deliver(self, delivery: Delivery, out: list[bytes]) -> bool:
        """Append a MESSAGE frame to `out`. Returns whether the delivery is held until the client settles it."""
        message = delivery.message
        if message.address != self._address:
            self._locate(message.address)
        self._number = number = self._number + 1
        message_id = f"{self.tag}{ACK_SEPARATOR}{number}"
        ledger = self._ledger
        ack = ""
        if ledger is not None:
            ledger.hold(number, delivery)
            ack = f"ack:{message_id}\n"
        redelivered = "true" if delivery.redelivered else "false"
        lines = message_headers(message, self._dialect, self._version)
        body = message.body
        head = (
            f"{self._head}{self._destination_line}message-id:{message_id}\n{ack}redelivered:{redelivered}\n"
            f"{lines}content-length:{len(body)}\n\n"
        )
        out += (head.encode(errors="replace"), body, NUL)
        return ledger is not None

    def settle(self, number: str) -> Sequence[Delivery]:
        """What the last part of an ack id speaks of; empty if that is nothing that is held here."""
        ledger = self._ledger
        if ledger is None or not number.isdecimal() or len(number) > len(str(self._number)):
            return NOTHING
        return ledger.settle(int(number))

    def held(self) -> Sequence[Delivery]:
        """What is unacknowledged, oldest first."""
        return NOTHING if self._ledger is None else self._ledger.held()

    def _locate(self, address: Address) -> None:
        # The messages of one subscription mostly have one address.
        self._address = address
        self._destination_line = f"destination:{self._version.escape(self._dialect.format(address))}\n"
