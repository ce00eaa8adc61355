"""SEND: to one place, to several, and in a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.core.commands import Bind, DeclareQueue, Publish
from gateway.core.errors import Refused
from gateway.core.message import Address, Message
from gateway.protocols.stomp.client import Client, Step, Together
from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.dialect import PRIVATE, ReplyTo, Source, Target
from gateway.protocols.stomp.errors import BadHeader
from gateway.protocols.stomp.headers import required
from gateway.protocols.stomp.subscribing import Subscribing
from gateway.protocols.stomp.transactions import Transactions

MAX_KNOWN_DESTINATIONS: Final = 1024
"""Destinations of SENDs that are remembered. Over it all are forgotten: declaring a queue again does no harm."""

NO_RECEIPT: Final = object()
"""The token of a publish without a receipt; with one, the receipt's id is the token."""

_CHECKED: Final = frozenset({"message-id", "user-id", "reply-to", "transaction"})
_TITLE: Final = "Queue not available"


class Sending:
    """The publishing half of a session."""

    __slots__ = ("_client", "_known", "_limit", "_replies", "_subscribing", "_transactions")

    def __init__(self, client: Client, transactions: Transactions, subscribing: Subscribing) -> None:
        self._client = client
        self._limit = client.settings.max_unanswered
        self._transactions = transactions
        self._subscribing = subscribing
        self._known: dict[str, Sequence[Address]] = {}
        self._replies: set[str] = set()  # temporary queues that were named as reply-to

    def send(self, frame: Frame) -> None:
        """Raises `StompError` or `Refused`."""
        headers = frame.headers
        if _CHECKED.isdisjoint(headers):
            known = self._known.get(headers.get("destination", ""))
            if known is not None and len(known) == 1:
                client = self._client
                message = client.dialect.to_message(headers, known[0], frame.body, client.sender)
                self._publish_one(message, headers.get("receipt"))
                return
        self._send_with_care(frame)

    def _send_with_care(self, frame: Frame) -> None:
        """What not every SEND needs."""
        client = self._client
        headers = self._check(frame.headers)
        destination = required(frame, "destination")
        addresses = self._known.get(destination)
        targets: Sequence[Target] = ()
        if addresses is None:
            targets = client.dialect.targets(destination, headers, client.owner)
            addresses = [target.address for target in targets]
        messages = [client.dialect.to_message(headers, address, frame.body, client.sender) for address in addresses]
        if destination not in self._known:
            self._open(targets, headers.get("receipt"))
            self._remember(destination, addresses)
        if "transaction" in headers:
            self._transactions.send(frame, messages)
        else:
            self._publish(messages, headers.get("receipt"))

    def _publish_one(self, message: Message, receipt: str | None) -> None:
        client = self._client
        if client.unanswered >= self._limit:
            raise Refused(f"more than {self._limit} messages wait for a result")
        client.unanswered += 1
        client.commands.append(Publish(message, NO_RECEIPT if receipt is None else receipt))

    def _publish(self, messages: Sequence[Message], receipt: str | None) -> None:
        if len(messages) == 1:
            self._publish_one(messages[0], receipt)
            return
        together = Together(len(messages), receipt)
        for message in messages:
            if self._client.unanswered >= self._limit:
                raise Refused(f"more than {self._limit} messages wait for a result")
            self._client.ask(Publish(message, together))

    def _check(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers to go on with: a temporary `reply-to` becomes one that others can answer to."""
        client = self._client
        if "message-id" in headers and not client.dialect.message_id_prefix:
            # As RabbitMQ: the server gives it; a client's own is amqp-message-id.
            raise BadHeader("'message-id' is not allowed on 'SEND'.\n")
        user = client.sender.origin.user
        if headers.get("user-id", user) != user:
            raise BadHeader("user-id is not the name that this connection has logged in with")
        reply_to = client.dialect.reply_to(headers.get("reply-to", ""), client.owner)
        if reply_to is None:
            return headers
        self._open_reply(reply_to, headers)
        return {**headers, "reply-to": reply_to.text}

    def _open_reply(self, reply_to: ReplyTo, headers: Mapping[str, str]) -> None:
        if reply_to.queue is None:
            return
        source = Source(reply_to.queue, PRIVATE)
        receipt = headers.get("receipt")
        if reply_to.subscription is not None:
            self._subscribing.receive_replies(source, reply_to.subscription, receipt)
        elif source.queue not in self._replies:
            if len(self._replies) >= MAX_KNOWN_DESTINATIONS:
                self._replies.clear()
            self._replies.add(source.queue)
            self._declare(source, receipt)

    def _open(self, targets: Sequence[Target], receipt: str | None) -> None:
        """The first SEND to a destination sees to it that its queues exist."""
        for target in targets:
            if target.queue is not None:
                self._declare(target.queue, receipt)

    def _declare(self, source: Source, receipt: str | None) -> None:
        # A client of another protocol that is asked to answer may have named its exclusive queue.
        step = Step(_TITLE, receipt, last=False, may_be_locked=True)
        if source.spec is not None:
            self._client.ask(DeclareQueue(source.queue, source.spec, step))
        for exchange, key in source.bindings:
            self._client.ask(Bind(source.queue, exchange, key, step))

    def _remember(self, name: str, addresses: Sequence[Address]) -> None:
        if len(self._known) >= MAX_KNOWN_DESTINATIONS:
            self._known.clear()
        self._known[name] = addresses
