"""ACK and NACK, in the form of each version."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.outcome import Outcome
from gateway.core.session import Delivery
from gateway.protocols.stomp.client import Client
from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.errors import UnknownMessage, shown
from gateway.protocols.stomp.headers import required
from gateway.protocols.stomp.ledger import NOTHING
from gateway.protocols.stomp.subscribing import Subscribing
from gateway.protocols.stomp.subscription import ACK_SEPARATOR
from gateway.protocols.stomp.transactions import Acknowledgement, Transactions


class Acknowledging:
    """Settles what the subscriptions hold."""

    __slots__ = ("_client", "_subscribing", "_transactions")

    def __init__(self, client: Client, transactions: Transactions, subscribing: Subscribing) -> None:
        self._client = client
        self._transactions = transactions
        self._subscribing = subscribing

    def ack(self, frame: Frame) -> None:
        """Raises `StompError` or `Refused`."""
        self._acknowledge(frame, Outcome.ACCEPTED)

    def nack(self, frame: Frame) -> None:
        """Raises `StompError` or `Refused`."""
        # RabbitMQ's extension: requeue:false is for good (dead-lettered where the queue has a dead-letter target).
        self._acknowledge(frame, Outcome.REJECTED if frame.headers.get("requeue") == "false" else Outcome.RELEASED)

    def resolve(self, acknowledgements: Sequence[Acknowledgement]) -> list[tuple[Sequence[Delivery], Outcome]]:
        """Take from the subscriptions what a transaction speaks of. Raises `UnknownMessage`, and then takes nothing."""
        taken: list[tuple[Sequence[Delivery], Outcome]] = []
        try:
            for each in acknowledgements:
                taken.append((self._take(each), each.outcome))  # noqa: PERF401 - what was taken has to be known
        except UnknownMessage:
            for deliveries, _ in taken:
                self._client.settle(deliveries, Outcome.RELEASED)
            raise
        return taken

    def _acknowledge(self, frame: Frame, outcome: Outcome) -> None:
        headers = frame.headers
        name = self._client.version.ack_header
        ack_id = headers.get(name) or required(frame, name)
        acknowledgement = Acknowledgement(ack_id, headers.get("subscription"), outcome)
        if "transaction" in headers:
            self._transactions.acknowledge(frame, acknowledgement)
            return
        self._client.settle(self._take(acknowledgement), outcome)
        receipt = headers.get("receipt")
        if receipt is not None:
            self._client.write_receipt(receipt)

    def _take(self, acknowledgement: Acknowledgement) -> Sequence[Delivery]:
        ack_id, subscription_id, _ = acknowledgement
        tag, _, number = ack_id.rpartition(ACK_SEPARATOR)
        subscription = self._subscribing.find(tag)
        if subscription is None or (subscription_id is not None and subscription_id != subscription.id):
            deliveries = NOTHING
        else:
            deliveries = subscription.settle(number)
            self._subscribing.forget_if_settled(subscription)
        if not deliveries:
            raise UnknownMessage(f"Message with id {shown(ack_id)} has no subscription that holds it")
        return deliveries
