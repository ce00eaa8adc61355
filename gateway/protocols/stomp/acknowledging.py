"""ACK and NACK, in the form of each version."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.commands import DeclareQueue
from gateway.core.deadletter import Reason, dead_letter
from gateway.core.delivery import Delivery
from gateway.core.message import DEFAULT_EXCHANGE
from gateway.core.outcome import Outcome
from gateway.protocols.stomp.client import Client, Step
from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.dialect import DURABLE
from gateway.protocols.stomp.errors import BadHeader, UnknownMessage, quoted
from gateway.protocols.stomp.headers import required
from gateway.protocols.stomp.heartbeat import NEVER
from gateway.protocols.stomp.ledger import NOTHING
from gateway.protocols.stomp.subscribing import Subscribing
from gateway.protocols.stomp.subscription import ACK_SEPARATOR
from gateway.protocols.stomp.transactions import Acknowledgement, Settlement, Transaction, Transactions


class Acknowledging:
    """Settles what the subscriptions hold."""

    __slots__ = ("_buried", "_client", "_subscribing", "_transactions")

    def __init__(self, client: Client, transactions: Transactions, subscribing: Subscribing) -> None:
        self._client = client
        self._transactions = transactions
        self._subscribing = subscribing
        self._buried = False  # whether the queue of dead letters has been declared

    def ack(self, frame: Frame) -> None:
        """Raises `StompError` or `Refused`."""
        acknowledgement = self._read(frame, Outcome.ACCEPTED)
        if "transaction" in frame.headers:
            self._transactions.acknowledge(frame, acknowledgement)
        else:
            self._settle(frame, acknowledgement)

    def nack(self, frame: Frame) -> Transaction | None:
        """What is left to be done: a message that goes to the dead letters is moved, in a transaction of its own.

        Raises `StompError` or `Refused`.
        """
        moves = self._client.dialect.dead_letter_queue is not None
        # RabbitMQ's extension: requeue:false is for good (dead-lettered where the queue has a dead-letter target).
        rejected = moves or frame.headers.get("requeue") == "false"
        acknowledgement = self._read(frame, Outcome.REJECTED if rejected else Outcome.RELEASED)
        if "transaction" in frame.headers:
            self._transactions.acknowledge(frame, acknowledgement)
            return None
        if not moves:
            self._settle(frame, acknowledgement)
            return None
        transaction = Transaction(NEVER)
        transaction.acknowledgements.append(acknowledgement)
        return transaction

    def resolve(self, transaction: Transaction) -> list[Settlement]:
        """Take from the subscriptions what a transaction speaks of, and add the dead letters to what it publishes.

        Raises `UnknownMessage`, and then takes nothing.
        """
        taken: list[Settlement] = []
        try:
            for each in transaction.acknowledgements:
                taken.append((self._take(each), each.outcome))  # noqa: PERF401 - what was taken has to be known
        except UnknownMessage:
            for deliveries, _ in taken:
                self._client.settle(deliveries, Outcome.RELEASED)
            raise
        if self._client.dialect.dead_letter_queue is None:
            return taken
        return [self._bury(each, transaction, self._client.dialect.dead_letter_queue) for each in taken]

    def _read(self, frame: Frame, outcome: Outcome) -> Acknowledgement:
        headers = frame.headers
        name = self._client.version.ack_header
        ack_id = headers.get(name) or required(frame, name)
        if ack_id.count(ACK_SEPARATOR) < 2:  # between session, subscription and number
            raise BadHeader(f'"{frame.command}" must include a valid "{name}" header\n')
        return Acknowledgement(ack_id, headers.get("subscription"), outcome)

    def _settle(self, frame: Frame, acknowledgement: Acknowledgement) -> None:
        self._client.settle(self._take(acknowledgement), acknowledgement.outcome)
        receipt = frame.headers.get("receipt")
        if receipt is not None:
            self._client.write_receipt(receipt)

    def _take(self, acknowledgement: Acknowledgement) -> Sequence[Delivery]:
        ack_id, subscription_id, outcome = acknowledgement
        tag, _, number = ack_id.rpartition(ACK_SEPARATOR)
        subscription = self._subscribing.find(tag)
        if subscription is None or (subscription_id is not None and subscription_id != subscription.id):
            deliveries = NOTHING
        else:
            alone = outcome is Outcome.REJECTED and self._client.dialect.dead_letter_queue is not None
            deliveries = subscription.settle(number, alone=alone)
            self._subscribing.forget_if_settled(subscription)
        if not deliveries:
            raise UnknownMessage(f"Message with id {quoted(ack_id)} has no subscription that holds it")
        return deliveries

    def _bury(self, settlement: Settlement, transaction: Transaction, queue: str) -> Settlement:
        """What was refused is published to the queue of dead letters; once it is there, it may be deleted here."""
        deliveries, outcome = settlement
        if outcome is not Outcome.REJECTED:
            return settlement
        client = self._client
        if not self._buried:
            self._buried = True
            client.ask(DeclareQueue(queue, DURABLE, Step("Queue not available", None, last=False)))
        now = client.sender.clock()
        for each in deliveries:
            letter = dead_letter(each.message, each.source.name, Reason.REJECTED, now, DEFAULT_EXCHANGE, queue)
            transaction.messages.append(letter)
        return deliveries, Outcome.ACCEPTED
