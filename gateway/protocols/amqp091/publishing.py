"""basic.publish on one channel: what is checked of a message, and what the client is told became of it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from gateway.core.commands import DeclareExchange, Presence, Publish
from gateway.core.errors import MqliftError, NotAuthorized
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.message import DEFAULT_EXCHANGE, NO_HEADERS, NO_PROPERTIES, Address, Headers, HeaderValue, Message
from gateway.core.outcome import Outcome, Result
from gateway.core.topology import InternalExchange, UnknownExchange
from gateway.protocols.amqp091.confirms import Confirms
from gateway.protocols.amqp091.content import Content, write_content
from gateway.protocols.amqp091.errors import ReplyCode
from gateway.protocols.amqp091.link import Link
from gateway.protocols.amqp091.methods import (
    BasicPublish,
    BasicReturn,
    ConfirmSelect,
    ConfirmSelectOk,
    TxCommit,
    TxCommitOk,
    TxRollback,
    TxRollbackOk,
    TxSelect,
    TxSelectOk,
)
from gateway.protocols.amqp091.names import REPLY_TO
from gateway.protocols.amqp091.procedures import Procedure
from gateway.protocols.amqp091.refusals import channel_error, connection_error, refusal
from gateway.protocols.amqp091.transactions import Pending, Settlement, Transaction
from gateway.protocols.amqp091.writer import write_with_content

NUMBER_BITS: Final = 40
"""Of a publish's token: its number on the channel. What is above them is the channel's own number."""

CC: Final = "CC"
BCC: Final = "BCC"
"""Headers with more routing keys (https://www.rabbitmq.com/docs/sender-selected); the second is not delivered."""

_ACCEPTED: Final = Outcome.ACCEPTED
"""Reading a member of an enumeration costs 0.1 µs in Python 3.11, and this one is read for each message."""

_SHUT: Final = (UnknownExchange, InternalExchange, NotAuthorized)
"""What closes the channel. Everything else a publisher without confirms cannot be told."""

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NO_CONTENT: Final = Content(NO_PROPERTIES, NO_HEADERS, None)
_ANY_EXCHANGE: Final = ExchangeSpec(type=ExchangeType.DIRECT)


class Publishing:
    """The publishes of one channel.

    Publishers mostly send to one address with one set of properties, and the codec gives equal ones as one object: so
    what was made of the last ones is kept beside them.
    """

    __slots__ = (
        "_address",
        "_base",
        "_committing",
        "_confirms",
        "_content",
        "_copies",
        "_gathering",
        "_headers",
        "_known",
        "_link",
        "_mandatory",
        "_method",
        "_number",
        "_properties",
        "_reply_to",
        "_token",
        "channel",
        "transaction",
    )

    def __init__(self, link: Link, channel: int, serial: int, token: object) -> None:
        """`serial`: a number that no other channel of the connection has, or has had. `token`: of its procedures."""
        self.channel = channel
        self._token = token
        self.transaction: Transaction | None = None
        self._link = link
        self._base = serial << NUMBER_BITS
        self._number = 0
        self._committing = 0
        """The first publish of the last commit: results of earlier ones are nobody's."""
        self._method: BasicPublish | None = None
        self._address = Address(DEFAULT_EXCHANGE, "")
        self._content = _NO_CONTENT
        self._properties = NO_PROPERTIES
        self._headers = NO_HEADERS
        self._copies: tuple[str, ...] = ()
        self._mandatory: dict[int, tuple[BasicPublish, Message]] = {}
        self._confirms: Confirms | None = None
        self._gathering = False
        self._reply_to: str | None = None
        self._known: set[str] = set()
        """Exchanges that were there when a transaction published to them."""

    @property
    def reply_to(self) -> str | None:
        """Where replies to this channel go, once it consumes them."""
        return self._reply_to

    @reply_to.setter
    def reply_to(self, name: str | None) -> None:
        self._reply_to = name
        self._content = _NO_CONTENT

    # What comes in

    def publish(self, method: BasicPublish, content: Content, body: bytes) -> Procedure | None:
        """A whole message. Raises `ChannelException`, and `ConnectionException` for `immediate`."""
        if method is not self._method:
            self._check_method(method)
        if content is not self._content:
            self._check_content(content)
        message = Message(self._address, body, self._properties, self._headers, self._link.origin)
        also = self._carbon_copies(method) if self._copies else ()
        if self.transaction is not None:
            return self._keep(self.transaction, Pending(method, message, also))
        self._send(method, message, also)
        return None

    def _send(self, method: BasicPublish, message: Message, also: tuple[str, ...]) -> None:
        self._number = number = self._number + 1
        if method.mandatory:
            self._mandatory[number] = method, message
        self._link.commands.append(Publish(message, self._base + number, also))

    def _check_method(self, method: BasicPublish) -> None:
        if method.immediate:
            raise connection_error(ReplyCode.NOT_IMPLEMENTED, "immediate=true", BasicPublish)
        self._address = self._link.host.address(method.exchange, method.routing_key)
        self._method = method

    def _check_content(self, content: Content) -> None:
        properties, headers, expiration = content
        if expiration is not None and properties.expiration is None:
            raise _precondition_failed(f"invalid expiration '{expiration}': {_expiration_problem(expiration)}")
        user = self._link.user
        if properties.user_id is not None and properties.user_id != user:
            problem = f"user_id property set to '{properties.user_id}' but authenticated user was '{user}'"
            raise _precondition_failed(problem)
        if properties.reply_to == REPLY_TO:
            if self._reply_to is None:
                raise _precondition_failed("fast reply consumer does not exist")
            properties = replace(properties, reply_to=self._reply_to)
        self._copies = (*_routing_keys(headers, CC), *_routing_keys(headers, BCC)) if headers else ()
        if BCC in headers:
            headers = {name: value for name, value in headers.items() if name != BCC}
        self._properties = properties
        self._headers = headers
        self._content = content

    def _carbon_copies(self, method: BasicPublish) -> tuple[str, ...]:
        address = self._link.host.address
        return tuple(address(method.exchange, key).routing_key for key in self._copies)

    # What became of it

    def answered(self, token: int, result: Result) -> Result | None:
        """The result of a publish: that of the whole transaction after the last one of it.

        Raises `ChannelException`.
        """
        number = token - self._base
        mandatory = self._mandatory.pop(number, None) if self._mandatory else None
        transaction = self.transaction
        if transaction is not None:
            if mandatory is not None and not result.routed:
                self._return(*mandatory)
            return transaction.answered(result) if number >= self._committing else None
        accepted = result.outcome is _ACCEPTED
        if not accepted and isinstance(result.error, _SHUT):
            raise self._refusal(result.error)
        if mandatory is not None and not result.routed:
            self._return(*mandatory)
        confirms = self._confirms
        if confirms is not None:
            if accepted:
                confirms.accepted(number)
            else:
                confirms.refused(number)
            if not self._gathering:
                self._gathering = True
                self._link.confirming.append(self)
        return None

    def _refusal(self, error: MqliftError | None) -> Exception:
        # With RabbitMQ's name of the default exchange.
        exchange = self._method.exchange if self._method is not None else ""
        resource = f"exchange '{exchange or 'amq.default'}'"
        return refusal(error, BasicPublish, self._link.host, resource, self._link.user)

    def _return(self, method: BasicPublish, message: Message) -> None:
        """Give back what had nowhere to go (spec §1.8.3.8)."""
        returned = BasicReturn(
            reply_code=ReplyCode.NO_ROUTE,
            reply_text=ReplyCode.NO_ROUTE.name,
            exchange=method.exchange,
            routing_key=method.routing_key,
        )
        content = write_content(message.properties, message.headers)
        self._link.out.append(write_with_content(self.channel, returned, content, message.body, self._link.frame_max))

    def write_confirms(self) -> None:
        self._gathering = False
        if self._confirms is not None:
            self._confirms.write(self.channel, self._link.out)

    def end(self) -> None:
        """The channel ends: what is known by now is still confirmed."""
        if self._gathering:
            self._link.confirming.remove(self)
            self.write_confirms()
        self._mandatory.clear()

    # Modes

    def confirm_select(self, method: ConfirmSelect) -> None:
        if self.transaction is not None:
            raise channel_error(ReplyCode.PRECONDITION_FAILED, "cannot switch from tx to confirm mode", ConfirmSelect)
        if self._confirms is None:
            self._confirms = Confirms(self._number)
        if not method.no_wait:
            self._link.write(self.channel, ConfirmSelectOk())

    def tx_select(self, _: TxSelect) -> None:
        if self._confirms is not None:
            raise channel_error(ReplyCode.PRECONDITION_FAILED, "cannot switch from confirm to tx mode", TxSelect)
        if self.transaction is None:
            self.transaction = Transaction(self._link.settings)
        self._link.write(self.channel, TxSelectOk())

    def _keep(self, transaction: Transaction, pending: Pending) -> Procedure | None:
        exchange = pending.method.exchange
        if exchange in self._known or exchange == DEFAULT_EXCHANGE:
            transaction.add(pending)
            return None
        return self._look_for_exchange(transaction, pending)

    def _look_for_exchange(self, transaction: Transaction, pending: Pending) -> Procedure:
        """A transaction learns at once that an exchange is not there, not at its end."""
        exchange = self._link.host.exchange(pending.method.exchange)
        result = yield DeclareExchange(exchange, _ANY_EXCHANGE, self._token, Presence.REQUIRED)
        if result.outcome is not _ACCEPTED:
            raise self._refusal(result.error)
        self._known.add(pending.method.exchange)
        transaction.add(pending)

    def tx_commit(self, _: TxCommit) -> Procedure:
        transaction = self._transaction(TxCommit)
        publishes = transaction.take_publishes()
        self._committing = self._number + 1
        for each in publishes:
            self._send(each.method, each.message, each.also)
        if publishes:
            result = yield None
            if result.outcome is not _ACCEPTED:
                method = BasicPublish if isinstance(result.error, _SHUT) else TxCommit
                raise refusal(result.error, method, self._link.host, "exchange", self._link.user)
        for settlement in transaction.take_settlements():
            self._link.settle(settlement.deliveries.values(), settlement.outcome)
        self._known.clear()
        self._link.write(self.channel, TxCommitOk())

    def tx_rollback(self, _: TxRollback) -> list[Settlement]:
        """Returns the acknowledgements that do not count."""
        transaction = self._transaction(TxRollback)
        transaction.forget_publishes()
        self._known.clear()
        self._link.write(self.channel, TxRollbackOk())
        return transaction.take_settlements()

    def _transaction(self, method: type[TxCommit | TxRollback]) -> Transaction:
        if self.transaction is None:
            raise channel_error(ReplyCode.PRECONDITION_FAILED, "channel is not transactional", method)
        return self.transaction


def _precondition_failed(problem: str) -> Exception:
    return channel_error(ReplyCode.PRECONDITION_FAILED, problem, BasicPublish)


def _expiration_problem(text: str) -> str:
    """In RabbitMQ's words."""
    number = _INTEGER.match(text)
    if number is None:
        return "no_integer"
    if number.end() < len(text):
        return f'{{leftover_string,"{text[number.end() :]}"}}'
    value = int(text)
    return f"{{value_negative,{value}}}" if value < 0 else f"{{value_too_large,{value}}}"


def _routing_keys(headers: Headers, name: str) -> tuple[str, ...]:
    """Of CC or BCC. Raises `ChannelException` when it is no array; what is no text in it does not count."""
    value = headers.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        problem = f'invalid message: {{unacceptable_type_in_header,"{name}",{type_name(value)}}}'
        raise _precondition_failed(problem)
    return tuple(key for key in value if isinstance(key, str))


_TYPE_NAMES: Final = {
    str: "longstr",
    bool: "bool",
    int: "signedint",
    float: "double",
    bytes: "binary",
    list: "array",
    dict: "table",
    type(None): "void",
}


def type_name(value: HeaderValue) -> str:
    """What RabbitMQ calls the type of a table's value. Integers are of many widths; clients mostly send this one."""
    return _TYPE_NAMES.get(type(value), "timestamp")
