"""BEGIN, COMMIT and ABORT: what is kept between them, and how much of it.

A COMMIT is not atomic: its messages go to the backend one by one, and when one fails the others may have been taken.
The client is told by an ERROR then; nothing that it acknowledged in the transaction is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from gateway.core.commands import Publish
from gateway.core.delivery import Delivery
from gateway.core.errors import Refused
from gateway.core.message import Message
from gateway.core.outcome import Outcome
from gateway.protocols.stomp.client import Client, Together
from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.errors import BadTransaction, MissingTransaction, quoted, shown
from gateway.protocols.stomp.heartbeat import NEVER

_ACTION_BYTES: Final = 200
"""What a SEND, ACK or NACK costs in memory besides its own bytes."""


Settlement: TypeAlias = tuple[Sequence[Delivery], Outcome]
"""Deliveries that were taken from their subscriptions, and what becomes of them."""


class Acknowledgement(NamedTuple):
    """An ACK or NACK: of what, and what becomes of it. `subscription` is its header, for messages of version 1.1."""

    ack_id: str
    subscription: str | None
    outcome: Outcome


class Transaction:
    """What was done between a BEGIN and now."""

    __slots__ = ("acknowledgements", "actions", "messages", "receipts", "size", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.actions = 0
        self.size = 0
        self.messages: list[Message] = []
        self.acknowledgements: list[Acknowledgement] = []
        self.receipts: list[str] = []


class Transactions:
    """The open transactions of a connection, oldest first, and what was committed and is not answered."""

    __slots__ = ("_client", "_committed", "_open", "_size")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._open: dict[str, Transaction] = {}
        self._size = 0
        self._committed: set[Together] = set()

    @property
    def deadline(self) -> float:
        """When the oldest one has lasted too long."""
        return next(iter(self._open.values())).until if self._open else NEVER

    def check_time(self, now: float) -> None:
        """Raises `BadTransaction` when a transaction has lasted too long."""
        if now >= self.deadline:
            name, limit = next(iter(self._open)), self._client.settings.transaction_timeout
            raise BadTransaction(f"transaction {shown(name)} has lasted for over {limit:g} seconds")

    def begin(self, frame: Frame, now: float) -> None:
        """Raises `BadTransaction`, `MissingTransaction` or `Refused`."""
        name = _name(frame)
        settings = self._client.settings
        if name in self._open:
            raise BadTransaction(f"transaction {shown(name)} was begun already")
        if len(self._open) >= settings.max_transactions:
            raise Refused(f"more than {settings.max_transactions} transactions")
        self._open[name] = Transaction(now + settings.transaction_timeout)
        self._answer(frame)

    def abort(self, frame: Frame) -> None:
        """Raises `BadTransaction` or `MissingTransaction`."""
        self._take(frame)
        self._answer(frame)

    def send(self, frame: Frame, messages: Sequence[Message]) -> None:
        """Keep a SEND. Raises `BadTransaction` or `Refused`."""
        transaction = self._find(frame)
        self._grow(transaction, frame, len(messages))
        transaction.messages.extend(messages)
        receipt = frame.headers.get("receipt")
        if receipt is not None and not self._client.dialect.early_receipts:
            transaction.receipts.append(receipt)
        else:
            self._answer(frame)

    def acknowledge(self, frame: Frame, acknowledgement: Acknowledgement) -> None:
        """Keep an ACK or NACK. Raises `BadTransaction` or `Refused`."""
        transaction = self._find(frame)
        self._grow(transaction, frame, 1)
        transaction.acknowledgements.append(acknowledgement)
        self._answer(frame)

    def take(self, frame: Frame) -> Transaction:
        """What a COMMIT is to do. Raises `BadTransaction`, `MissingTransaction`, or `Refused` when it is too early."""
        limit = self._client.settings.max_unanswered
        if self._client.unanswered + len(self._find(frame).messages) > limit:
            raise Refused(f"more than {limit} messages wait for a result")
        return self._take(frame)

    def commit(self, transaction: Transaction, settlements: Sequence[Settlement], receipt: str | None) -> Together:
        """Publish. What is returned has `missing` results to wait for, perhaps none."""
        together = Together(len(transaction.messages), receipt)
        together.receipts = transaction.receipts
        together.settlements.extend(settlements)
        if transaction.messages:
            self._committed.add(together)
        for message in transaction.messages:
            self._client.ask(Publish(message, together))
        return together

    def finished(self, together: Together) -> None:
        """It was answered: what it holds is somebody else's now."""
        self._committed.discard(together)

    def unsettled(self) -> list[Delivery]:
        """What was acknowledged in transactions that are being committed."""
        return [
            delivery
            for together in self._committed
            for deliveries, _ in together.settlements
            for delivery in deliveries
        ]

    def _find(self, frame: Frame) -> Transaction:
        name = _name(frame)
        transaction = self._open.get(name)
        if transaction is None:
            raise BadTransaction(f"Invalid transaction identifier: {quoted(name)}\n")
        return transaction

    def _take(self, frame: Frame) -> Transaction:
        transaction = self._find(frame)
        del self._open[_name(frame)]
        self._size -= transaction.size
        return transaction

    def _grow(self, transaction: Transaction, frame: Frame, actions: int) -> None:
        settings = self._client.settings
        transaction.actions += actions
        if transaction.actions > settings.max_transaction_actions:
            raise Refused(f"a transaction of more than {settings.max_transaction_actions} SEND, ACK and NACK frames")
        size = _ACTION_BYTES * actions + len(frame.body)
        size += sum(len(name) + len(value) for name, value in frame.headers.items())
        transaction.size += size
        self._size += size
        if self._size > settings.max_transaction_bytes:
            raise Refused(f"transactions of over {settings.max_transaction_bytes} bytes")

    def _answer(self, frame: Frame) -> None:
        receipt = frame.headers.get("receipt")
        if receipt is not None:
            self._client.write_receipt(receipt)


def _name(frame: Frame) -> str:
    name = frame.headers.get("transaction")
    if name is None:
        raise MissingTransaction(f"\"{frame.command}\" must include a 'transaction' header\n")
    return name
