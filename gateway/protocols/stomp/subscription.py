"""One SUBSCRIBE: what it delivers, and what of it is unacknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from gateway.core.delivery import Delivery
from gateway.core.message import DEFAULT_EXCHANGE, Address
from gateway.protocols.stomp.codec import NUL, Frame
from gateway.protocols.stomp.dialect import NOBODY, Dialect, Owner, Source
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
    """What one SUBSCRIBE asked for. `sources` are its queues, by the tags that name its consumers towards the hub.

    `tag` is the first of these, and begins the ids of all messages. It holds the session's id, so that an ACK that was
    meant for an earlier connection of the same client settles nothing here.
    """

    __slots__ = (
        "_acks",
        "_address",
        "_destination_line",
        "_dialect",
        "_head",
        "_ledger",
        "_number",
        "_owner",
        "_redelivered_lines",
        "_version",
        "_written_tag",
        "active",
        "id",
        "queue",
        "sources",
        "tag",
    )

    def __init__(
        self,
        subscription_id: str | None,
        tag: str,
        queue: str,
        mode: AckMode,
        dialect: Dialect,
        version: Version,
        owner: Owner = NOBODY,
    ) -> None:
        """`subscription_id` is None for a client that gave none; `queue` is the first of them."""
        self.id = subscription_id
        self.tag = tag
        self.queue = queue
        self.sources: dict[str, Source] = {}
        self.active = True
        self._ledger = _ledger(mode)
        # [STOMP 1.2, MESSAGE] Earlier versions acknowledge by the message-id.
        self._acks = self._ledger is not None and version.ack_header == "id"
        self._number = 0
        self._dialect = dialect
        self._redelivered_lines = dialect.redelivered_lines
        self._version = version
        self._owner = owner
        self._written_tag = version.escape(tag) + ACK_SEPARATOR
        subscription = "" if subscription_id is None else f"subscription:{version.escape(subscription_id)}\n"
        self._head = f"MESSAGE\n{subscription}"
        self._address: Address | None = None
        self._destination_line = ""

    @property
    def acknowledges(self) -> bool:
        """Whether the client says what it is done with."""
        return self._ledger is not None

    def deliver(self, delivery: Delivery, out: list[bytes]) -> bool:
        """Append a MESSAGE frame to `out`. Returns whether the delivery is held until the client settles it."""
        message = delivery.message
        if message.address != self._address:
            self._locate(message.address)
        self._number = number = self._number + 1
        message_id = f"{self._written_tag}{number}"
        ledger = self._ledger
        if ledger is not None:
            ledger.hold(number, delivery)
        ack = f"ack:{message_id}\n" if self._acks else ""
        redelivered = self._redelivered_lines[delivery.redelivered]
        lines = self._dialect.message_lines(message, self._version, self._owner)
        head = f"{self._head}{self._destination_line}message-id:{message_id}\n{redelivered}{ack}{lines}\n"
        out += (head.encode(errors="replace"), message.body, NUL)
        return ledger is not None

    def settle(self, number: str, *, alone: bool = False) -> Sequence[Delivery]:
        """What the last part of an ack id speaks of, or `alone` names; empty if that is nothing that is held here."""
        ledger = self._ledger
        if ledger is None or not number.isdecimal() or len(number) > len(str(self._number)):
            return NOTHING
        return ledger.settle_one(int(number)) if alone else ledger.settle(int(number))

    def held(self) -> Sequence[Delivery]:
        """What is unacknowledged, oldest first."""
        return NOTHING if self._ledger is None else self._ledger.held()

    def _locate(self, address: Address) -> None:
        # The messages of one subscription mostly have one address.
        self._address = address
        original = self._dialect.original(address, self.queue)
        if original is None:
            self._destination_line = f"destination:{self._written(address)}\n"
        else:
            shown = Address(DEFAULT_EXCHANGE, self.queue)
            self._destination_line = (
                f"destination:{self._written(shown)}\noriginal-destination:{self._written(original)}\n"
            )

    def _written(self, address: Address) -> str:
        return self._version.escape(self._dialect.format(address, self._owner))
