"""exchange.* and queue.* on one channel (spec §1.6, §1.7)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Final

from gateway.core.backend import QueueSpec
from gateway.core.commands import (
    Bind,
    BindExchange,
    Consume,
    Counted,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Get,
    Presence,
    PurgeQueue,
    Unbind,
    UnbindExchange,
)
from gateway.core.errors import InvalidArgument, Locked
from gateway.core.exchanges import ALTERNATE, ExchangeSpec, ExchangeType
from gateway.core.message import DEFAULT_EXCHANGE, HeaderValue
from gateway.core.outcome import Outcome, Result
from gateway.core.topology import PREDECLARED, UnknownQueue
from gateway.protocols.amqp091.errors import AmqpError, ReplyCode
from gateway.protocols.amqp091.link import Link
from gateway.protocols.amqp091.methods import (
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    ExchangeUnbind,
    ExchangeUnbindOk,
    Method,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
)
from gateway.protocols.amqp091.names import REPLY_TO, RESERVED_PREFIX, new_queue_name
from gateway.protocols.amqp091.procedures import Procedure
from gateway.protocols.amqp091.publishing import type_name
from gateway.protocols.amqp091.refusals import channel_error, connection_error, refusal
from gateway.protocols.amqp091.writer import fit_count

_ACCEPTED: Final = Outcome.ACCEPTED
_ANY_QUEUE: Final = QueueSpec()
_ANY_EXCHANGE: Final = ExchangeSpec(type=ExchangeType.DIRECT)
_MATCH: Final = "x-match"


class Topology:
    """What one channel declares."""

    __slots__ = ("_channel", "_last_queue", "_link", "_token")

    def __init__(self, link: Link, channel: int, token: object) -> None:
        self._link = link
        self._channel = channel
        self._token = token
        self._last_queue = ""

    def _write(self, method: Method) -> None:
        self._link.write(self._channel, method)

    def _refusal(self, result: Result, method: type[Method], resource: str) -> AmqpError:
        return refusal(result.error, method, self._link.host, resource, self._link.user)

    # Exchanges

    def declare_exchange(self, method: ExchangeDeclare) -> Procedure:
        exchange = method.exchange
        self._check_not_default(exchange, ExchangeDeclare)
        if method.passive:
            spec, presence = _ANY_EXCHANGE, Presence.REQUIRED
        else:
            spec, presence = self._exchange_spec(method), Presence.EQUIVALENT
            if exchange.startswith(RESERVED_PREFIX) and exchange not in PREDECLARED:
                raise _reserved("exchange", exchange, ExchangeDeclare)
        result = yield DeclareExchange(self._link.host.exchange(exchange), spec, self._token, presence)
        if result.outcome is not _ACCEPTED:
            raise self._refusal(result, ExchangeDeclare, f"exchange '{exchange}'")
        if not method.no_wait:
            self._write(ExchangeDeclareOk())

    def _exchange_spec(self, method: ExchangeDeclare) -> ExchangeSpec:
        try:
            kind = ExchangeType(method.type)
        except ValueError:
            problem = f"unknown exchange type '{method.type}'"
            raise connection_error(ReplyCode.COMMAND_INVALID, problem, ExchangeDeclare) from None
        alternate = method.arguments.get(ALTERNATE, "")
        if not isinstance(alternate, str):
            problem = (
                f"invalid type '{type_name(alternate)}' for arg '{ALTERNATE}' in exchange '{method.exchange}' "
                f"in vhost '{self._link.host.name}'"
            )
            raise channel_error(ReplyCode.PRECONDITION_FAILED, problem, ExchangeDeclare)
        return ExchangeSpec(
            type=kind,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            arguments=self._link.host.arguments(method.arguments),
        )

    def delete_exchange(self, method: ExchangeDelete) -> Procedure:
        exchange = method.exchange
        self._check_not_default(exchange, ExchangeDelete)
        if exchange in PREDECLARED:
            problem = f"deletion of system exchange '{exchange}' in vhost '{self._link.host.name}' not allowed"
            raise channel_error(ReplyCode.ACCESS_REFUSED, problem, ExchangeDelete)
        result = yield DeleteExchange(self._link.host.exchange(exchange), self._token, method.if_unused)
        if result.outcome is not _ACCEPTED:
            raise self._refusal(result, ExchangeDelete, f"exchange '{exchange}'")
        if not method.no_wait:
            self._write(ExchangeDeleteOk())

    def bind_exchange(self, method: ExchangeBind) -> Procedure:
        yield from self._bind_exchange(method, BindExchange)
        if not method.no_wait:
            self._write(ExchangeBindOk())

    def unbind_exchange(self, method: ExchangeUnbind) -> Procedure:
        yield from self._bind_exchange(method, UnbindExchange)
        if not method.no_wait:
            self._write(ExchangeUnbindOk())

    def _bind_exchange(
        self, method: ExchangeBind | ExchangeUnbind, command: type[BindExchange | UnbindExchange]
    ) -> Procedure:
        for exchange in (method.source, method.destination):
            self._check_not_default(exchange, type(method))
        host = self._link.host
        result = yield command(
            host.exchange(method.destination),
            host.exchange(method.source),
            method.routing_key,
            self._token,
            method.arguments,
        )
        if result.outcome is not _ACCEPTED:
            raise self._binding_refusal(result, method, f"exchange '{method.source}'")

    def _check_not_default(self, exchange: str, method: type[Method]) -> None:
        if exchange == DEFAULT_EXCHANGE:
            problem = "operation not permitted on the default exchange"
            raise channel_error(ReplyCode.ACCESS_REFUSED, problem, method)

    # Queues

    def queue_of(self, queue: str, method: type[Method]) -> str:
        """The queue that a method means: without a name, the one that was declared last (spec §1.7.2.3)."""
        if queue or self._last_queue:
            return queue or self._last_queue
        raise channel_error(ReplyCode.NOT_FOUND, "no previously declared queue", method)

    def with_queue(
        self, queue: str, command: Bind | PurgeQueue | Consume | Get
    ) -> Generator[Bind | PurgeQueue | Consume | Get | DeclareQueue, Result, Result]:
        """Execute a command that needs a queue. One that is not known yet may be there all the same, in AWS."""
        result = yield command
        if isinstance(result.error, UnknownQueue):
            found = yield DeclareQueue(self._link.host.queue(queue), _ANY_QUEUE, self._token, Presence.REQUIRED)
            result = found if found.outcome is not _ACCEPTED else (yield command)
        return result

    def declare_queue(self, method: QueueDeclare) -> Procedure:
        queue = method.queue
        if queue.startswith(REPLY_TO):
            return self._declare_replies(method)
        if method.passive:
            return self._declare(method, queue, Presence.REQUIRED)
        if not queue:
            return self._declare(method, new_queue_name(), Presence.EQUIVALENT)
        if queue.startswith(RESERVED_PREFIX):
            return self._declare_reserved(method)
        return self._declare(method, queue, Presence.EQUIVALENT)

    def _declare(self, method: QueueDeclare, queue: str, presence: Presence) -> Procedure:
        result = yield DeclareQueue(self._link.host.queue(queue), self._queue_spec(method), self._token, presence)
        if result.outcome is not _ACCEPTED:
            raise self._refusal(result, QueueDeclare, f"queue '{queue}'")
        self._declared(method, queue, result)

    def _declared(self, method: QueueDeclare, queue: str, result: Result) -> None:
        self._last_queue = queue
        if method.no_wait:
            return
        messages, consumers = (result.messages, result.consumers) if isinstance(result, Counted) else (0, 0)
        self._write(QueueDeclareOk(queue=queue, message_count=fit_count(messages), consumer_count=consumers))

    def _queue_spec(self, method: QueueDeclare) -> QueueSpec:
        arguments: Mapping[str, HeaderValue] = self._link.host.arguments(method.arguments)
        return QueueSpec(
            durable=method.durable, exclusive=method.exclusive, auto_delete=method.auto_delete, arguments=arguments
        )

    def _declare_reserved(self, method: QueueDeclare) -> Procedure:
        """A name of the server's may be declared again, and not made."""
        queue = method.queue
        found = yield DeclareQueue(self._link.host.queue(queue), _ANY_QUEUE, self._token, Presence.REQUIRED)
        if isinstance(found.error, UnknownQueue):
            raise _reserved("queue", queue, QueueDeclare)
        yield from self._declare(method, queue, Presence.EQUIVALENT)

    def _declare_replies(self, method: QueueDeclare) -> Procedure:
        """Whether somebody still waits for a reply (https://www.rabbitmq.com/docs/direct-reply-to)."""
        there = method.queue == REPLY_TO
        if not there:
            name = self._link.host.queue(method.queue)
            result = yield DeclareQueue(name, _ANY_QUEUE, self._token, Presence.REQUIRED)
            there = result.outcome is _ACCEPTED or isinstance(result.error, Locked)
            if not there:
                raise self._refusal(result, QueueDeclare, f"queue '{method.queue}'")
        if not method.no_wait:
            self._write(QueueDeclareOk(queue=method.queue, message_count=0, consumer_count=1))

    def bind_queue(self, method: QueueBind) -> Procedure:
        queue = self.queue_of(method.queue, QueueBind)
        self._check_not_default(method.exchange, QueueBind)
        host = self._link.host
        # The name of the queue that is left out is the routing key that is left out, too (spec §1.7.2.3).
        key = method.routing_key or ("" if method.queue else queue)
        command = Bind(host.queue(queue), host.exchange(method.exchange), key, self._token, method.arguments)
        result = yield from self.with_queue(queue, command)
        if result.outcome is not _ACCEPTED:
            raise self._binding_refusal(result, method, f"queue '{queue}'")
        if not method.no_wait:
            self._write(QueueBindOk())

    def unbind_queue(self, method: QueueUnbind) -> Procedure:
        queue = self.queue_of(method.queue, QueueUnbind)
        self._check_not_default(method.exchange, QueueUnbind)
        host = self._link.host
        key = method.routing_key or ("" if method.queue else queue)
        result = yield Unbind(host.queue(queue), host.exchange(method.exchange), key, self._token, method.arguments)
        if result.outcome is not _ACCEPTED:
            raise self._binding_refusal(result, method, f"queue '{queue}'")
        self._write(QueueUnbindOk())

    def _binding_refusal(
        self, result: Result, method: ExchangeBind | ExchangeUnbind | QueueBind | QueueUnbind, resource: str
    ) -> AmqpError:
        if isinstance(result.error, InvalidArgument) and result.error.argument == _MATCH:
            match = method.arguments.get(_MATCH)
            if isinstance(match, str):
                problem = f'Invalid x-match field value <<"{match}">>; expected all, any, all-with-x, or any-with-x'
            else:
                problem = f"Invalid x-match field type {type_name(match)} (value {match!r}); expected longstr"
            return channel_error(ReplyCode.PRECONDITION_FAILED, problem, type(method))
        return self._refusal(result, type(method), resource)

    def purge_queue(self, method: QueuePurge) -> Procedure:
        queue = self.queue_of(method.queue, QueuePurge)
        result = yield from self.with_queue(queue, PurgeQueue(self._link.host.queue(queue), self._token))
        if result.outcome is not _ACCEPTED:
            raise self._refusal(result, QueuePurge, f"queue '{queue}'")
        if not method.no_wait:
            self._write(QueuePurgeOk(message_count=fit_count(_count(result))))

    def delete_queue(self, method: QueueDelete) -> Procedure:
        queue = self.queue_of(method.queue, QueueDelete)
        result = yield DeleteQueue(self._link.host.queue(queue), self._token, method.if_unused, method.if_empty)
        if result.outcome is not _ACCEPTED:
            raise self._refusal(result, QueueDelete, f"queue '{queue}'")
        if not method.no_wait:
            self._write(QueueDeleteOk(message_count=fit_count(_count(result))))


def _count(result: Result) -> int:
    return result.messages if isinstance(result, Counted) else 0


def _reserved(what: str, name: str, method: type[Method]) -> AmqpError:
    problem = f"{what} name '{name}' contains reserved prefix 'amq.*'"
    return channel_error(ReplyCode.ACCESS_REFUSED, problem, method)
