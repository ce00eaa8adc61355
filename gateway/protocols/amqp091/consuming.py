"""Consumers, basic.get and acknowledgements of one channel."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

from gateway.core.backend import QueueSpec
from gateway.core.commands import Cancel, ChangePrefetch, Consume, DeclareQueue, DeleteQueue, Get, Got, Prefetch
from gateway.core.delivery import Delivery
from gateway.core.errors import InUse
from gateway.core.outcome import Outcome, Result
from gateway.protocols.amqp091.content import write_content
from gateway.protocols.amqp091.errors import ReplyCode
from gateway.protocols.amqp091.fields import write_short_string
from gateway.protocols.amqp091.link import UNWAITED, Link
from gateway.protocols.amqp091.methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicNack,
    BasicQos,
    BasicQosOk,
    BasicRecover,
    BasicRecoverAsync,
    BasicRecoverOk,
    BasicReject,
    Method,
)
from gateway.protocols.amqp091.names import REPLY_TO, new_consumer_tag, new_reply_name
from gateway.protocols.amqp091.procedures import Procedure
from gateway.protocols.amqp091.publishing import Publishing, type_name
from gateway.protocols.amqp091.refusals import channel_error, connection_error, refusal
from gateway.protocols.amqp091.topology import Topology
from gateway.protocols.amqp091.transactions import Settlement
from gateway.protocols.amqp091.unacknowledged import Unacknowledged
from gateway.protocols.amqp091.writer import fit_count, fit_short_string, write_deliver, write_with_content

DELIVERY_COUNT: Final = "x-delivery-count"
"""Header: deliveries before this one, of a message that comes again. RabbitMQ sets it for quorum queues."""

PRIORITY: Final = "x-priority"

_REPLIES: Final = QueueSpec(durable=False, exclusive=True)

_ACCEPTED: Final = Outcome.ACCEPTED
_RELEASED: Final = Outcome.RELEASED
_REJECTED: Final = Outcome.REJECTED

_numbers = itertools.count(1)


class Consumer:
    """One consumer of the channel."""

    __slots__ = (
        "_begun",
        "_channel",
        "_ended",
        "_link",
        "_no_wait",
        "_tag_field",
        "_unacknowledged",
        "hub_tag",
        "no_ack",
        "queue",
        "tag",
    )

    def __init__(
        self,
        link: Link,
        channel: int,
        unacknowledged: Unacknowledged,
        method: BasicConsume,
        tag: str,
        queue: str,
        ended: Callable[[Consumer], None],
    ) -> None:
        """`ended`: called when its queue is gone, and it with it."""
        self.tag = tag
        self.queue = queue
        self.no_ack = method.no_ack
        self.hub_tag = f"{channel}.{next(_numbers)}"
        self._link = link
        self._channel = channel
        self._unacknowledged = unacknowledged
        self._tag_field = write_short_string(tag)
        self._no_wait = method.no_wait
        self._begun = False
        self._ended = ended

    def begin(self) -> None:
        """Say that it consumes: before its first delivery, which may come before the hub's answer."""
        if not self._begun:
            self._begun = True
            if not self._no_wait:
                self._link.write(self._channel, BasicConsumeOk(consumer_tag=self.tag))

    def deliver(self, delivery: Delivery) -> bool:
        """As `core.session.Session.deliver`."""
        if not self._begun:
            self.begin()
        link = self._link
        message = delivery.message
        headers = message.headers
        attempt = delivery.attempt
        if attempt > 1:
            headers = {**headers, DELIVERY_COUNT: attempt - 1}
        unacknowledged = self._unacknowledged
        tag = unacknowledged.last = unacknowledged.last + 1
        link.out.append(
            write_deliver(
                self._channel,
                self._tag_field,
                tag,
                attempt > 1,
                link.write_address(message.address),
                write_content(message.properties, headers),
                message.body,
                link.frame_max,
            )
        )
        if self.no_ack:
            return False
        unacknowledged.held[tag] = delivery
        return True

    def cancelled(self) -> None:
        """The queue is gone (https://www.rabbitmq.com/docs/consumer-cancel)."""
        self._ended(self)
        if self._link.tells_cancel:
            self._link.write(self._channel, BasicCancel(consumer_tag=self.tag, no_wait=True))


class Consuming:
    """What one channel consumes."""

    __slots__ = (
        "_channel",
        "_consumers",
        "_link",
        "_prefetch",
        "_publishing",
        "_replies",
        "_shared",
        "_token",
        "_topology",
        "_unacknowledged",
    )

    def __init__(self, link: Link, channel: int, token: object, topology: Topology, publishing: Publishing) -> None:
        self._link = link
        self._channel = channel
        self._token = token
        self._topology = topology
        self._publishing = publishing
        self._prefetch = 0
        """Of consumers that come now; 0 for none."""
        self._shared = Prefetch()
        self._consumers: dict[str, Consumer] = {}
        self._replies: Consumer | None = None
        """The consumer of replies."""
        self._unacknowledged = Unacknowledged()

    # Consumers

    def qos(self, method: BasicQos) -> None:
        if method.prefetch_size:
            problem = f"prefetch_size!=0 ({method.prefetch_size})"
            raise connection_error(ReplyCode.NOT_IMPLEMENTED, problem, BasicQos)
        if method.is_global:
            # Of the channel; without it, of each consumer (https://www.rabbitmq.com/docs/consumer-prefetch).
            self._link.commands.append(ChangePrefetch(self._shared, method.prefetch_count))
        else:
            self._prefetch = method.prefetch_count
        self._link.write(self._channel, BasicQosOk())

    def consume(self, method: BasicConsume) -> Procedure:
        tag = method.consumer_tag or new_consumer_tag()
        if tag in self._consumers:
            raise connection_error(ReplyCode.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'", BasicConsume)
        self._check_room(BasicConsume)
        if method.queue == REPLY_TO:
            return self._consume_replies(method, tag)
        return self._consume(method, tag, self._topology.queue_of(method.queue, BasicConsume))

    def _consume(self, method: BasicConsume, tag: str, queue: str) -> Procedure:
        priority = self._priority(method, queue)
        consumer = self._add(method, tag, queue)
        result = yield from self._topology.with_queue(queue, self._consume_command(consumer, method, priority))
        if result.outcome is not _ACCEPTED:
            self._remove(consumer)
            if isinstance(result.error, InUse):
                problem = f"queue '{queue}' in vhost '{self._link.host.name}' in exclusive use"
                raise channel_error(ReplyCode.ACCESS_REFUSED, problem, BasicConsume)
            raise self._refusal(result, BasicConsume, queue)
        consumer.begin()

    def _consume_command(self, consumer: Consumer, method: BasicConsume, priority: int) -> Consume:
        settings = self._link.settings
        prefetch = 0 if method.no_ack else self._prefetch
        return Consume(
            consumer.hub_tag,
            self._link.host.queue(consumer.queue),
            min(prefetch, settings.max_prefetch) or settings.unlimited_prefetch,
            self._token,
            exclusive=method.exclusive,
            priority=priority,
            # What is not acknowledged counts towards no limit of the client's.
            shared=None if method.no_ack else self._shared,
            cancellable=True,
            arguments=method.arguments,
            acknowledges=not method.no_ack,
            unlimited=not method.no_ack and not prefetch,
        )

    def _priority(self, method: BasicConsume, queue: str) -> int:
        priority = method.arguments.get(PRIORITY, 0)
        if isinstance(priority, bool) or not isinstance(priority, int):
            problem = f"invalid arg '{PRIORITY}' for queue '{queue}' in vhost '{self._link.host.name}': "
            problem += f'"expected integer, got {type_name(priority)}"'
            raise channel_error(ReplyCode.PRECONDITION_FAILED, problem, BasicConsume)
        return priority

    def _consume_replies(self, method: BasicConsume, tag: str) -> Procedure:
        """Direct reply-to: a queue of this connection's own, in memory, that stands behind a name."""
        if not method.no_ack:
            raise channel_error(ReplyCode.PRECONDITION_FAILED, "reply consumer cannot acknowledge", BasicConsume)
        if self._publishing.reply_to is not None:
            raise channel_error(ReplyCode.PRECONDITION_FAILED, "reply consumer already set", BasicConsume)
        name = new_reply_name()
        queue = self._link.host.queue(name)
        try:
            declared = yield DeclareQueue(queue, _REPLIES, self._token)
        except GeneratorExit:  # the channel has ended meanwhile, and nobody will remove it
            self._link.ask(DeleteQueue(queue, UNWAITED))
            raise
        if declared.outcome is not _ACCEPTED:
            raise self._refusal(declared, BasicConsume, REPLY_TO)
        self._publishing.reply_to = name
        consumer = self._replies = self._add(method, tag, name)
        result = yield self._consume_command(consumer, method, 0)
        if result.outcome is not _ACCEPTED:
            self._remove(consumer)
            raise self._refusal(result, BasicConsume, REPLY_TO)
        consumer.begin()

    def cancel(self, method: BasicCancel) -> Procedure:
        consumer = self._consumers.get(method.consumer_tag)
        if consumer is not None:
            yield Cancel(consumer.hub_tag, self._token)
            if consumer is self._replies:  # who replies after cancel-ok is told that nobody is there
                self._replies = None
                self._publishing.reply_to = None
                yield DeleteQueue(self._link.host.queue(consumer.queue), self._token)
            self._remove(consumer)
        if not method.no_wait:
            self._link.write(self._channel, BasicCancelOk(consumer_tag=method.consumer_tag))

    def _add(self, method: BasicConsume, tag: str, queue: str) -> Consumer:
        consumer = Consumer(self._link, self._channel, self._unacknowledged, method, tag, queue, self._remove)
        self._consumers[tag] = self._link.consumers[consumer.hub_tag] = consumer
        return consumer

    def _remove(self, consumer: Consumer) -> None:
        self._consumers.pop(consumer.tag, None)
        self._link.consumers.pop(consumer.hub_tag, None)
        if consumer is self._replies:
            self._replies = None
            self._publishing.reply_to = None
            self._link.ask(DeleteQueue(self._link.host.queue(consumer.queue), UNWAITED))

    def _check_room(self, method: type[Method]) -> None:
        settings = self._link.settings
        problem = ""
        if len(self._unacknowledged) >= settings.max_unacknowledged:
            problem = f"{len(self._unacknowledged)} deliveries of this channel are not acknowledged"
        elif method is BasicConsume and len(self._link.consumers) >= settings.max_consumers:
            problem = f"there are {settings.max_consumers} consumers, the limit of a connection"
        if problem:
            raise channel_error(ReplyCode.RESOURCE_ERROR, problem, method)

    # Getting

    def get(self, method: BasicGet) -> Procedure:
        queue = self._topology.queue_of(method.queue, BasicGet)
        self._check_room(BasicGet)
        result = yield from self._topology.with_queue(queue, Get(self._link.host.queue(queue), self._token))
        if not isinstance(result, Got):
            raise self._refusal(result, BasicGet, queue)
        if result.delivery is None:
            self._link.write(self._channel, BasicGetEmpty())
        else:
            self._give(result.delivery, result.remaining, no_ack=method.no_ack)

    def _give(self, delivery: Delivery, remaining: int, *, no_ack: bool) -> None:
        link, message, attempt = self._link, delivery.message, delivery.attempt
        unacknowledged = self._unacknowledged
        tag = unacknowledged.last = unacknowledged.last + 1
        exchange, routing_key = link.host.local(message.address)
        method = BasicGetOk(
            delivery_tag=tag,
            redelivered=attempt > 1,
            exchange=fit_short_string(exchange),
            routing_key=fit_short_string(routing_key),
            message_count=fit_count(remaining),
        )
        headers = {**message.headers, DELIVERY_COUNT: attempt - 1} if attempt > 1 else message.headers
        content = write_content(message.properties, headers)
        link.out.append(write_with_content(self._channel, method, content, message.body, link.frame_max))
        if no_ack:
            link.later.append((delivery, _ACCEPTED))
        else:
            unacknowledged.held[tag] = delivery

    # Acknowledging

    def ack(self, method: BasicAck) -> None:
        if method.multiple or self._publishing.transaction is not None:
            self._settle(method, _ACCEPTED, multiple=method.multiple)
            return
        delivery = self._unacknowledged.held.pop(method.delivery_tag, None)
        if delivery is None:
            raise _unknown(method)
        self._link.settle((delivery,), _ACCEPTED)

    def nack(self, method: BasicNack) -> None:
        self._settle(method, _RELEASED if method.requeue else _REJECTED, multiple=method.multiple)

    def reject(self, method: BasicReject) -> None:
        self._settle(method, _RELEASED if method.requeue else _REJECTED, multiple=False)

    def _settle(self, method: BasicAck | BasicNack | BasicReject, outcome: Outcome, *, multiple: bool) -> None:
        try:
            deliveries = self._unacknowledged.take(method.delivery_tag, multiple=multiple)
        except KeyError:
            raise _unknown(method) from None
        transaction = self._publishing.transaction
        if transaction is not None:
            transaction.settlements.append(Settlement(deliveries, outcome))
        elif deliveries:
            self._link.settle(deliveries.values(), outcome)

    def restore(self, settlements: list[Settlement]) -> None:
        """Acknowledgements that were rolled back: the deliveries are unacknowledged again."""
        for settlement in settlements:
            self._unacknowledged.restore(settlement.deliveries)

    def recover(self, method: BasicRecover | BasicRecoverAsync) -> None:
        if not method.requeue:
            raise connection_error(ReplyCode.NOT_IMPLEMENTED, "requeue=false", type(method))
        self._release(self._unacknowledged.take_all())
        if isinstance(method, BasicRecover):
            self._link.write(self._channel, BasicRecoverOk())

    # The end

    def end(self) -> None:
        """The channel ends: its consumers stop, and what they hold goes back."""
        for consumer in list(self._consumers.values()):
            self._link.ask(Cancel(consumer.hub_tag, UNWAITED))
            self._remove(consumer)
        transaction = self._publishing.transaction
        if transaction is not None:
            self.restore(transaction.take_settlements())
        self._release(self._unacknowledged.take_all())

    def _release(self, deliveries: dict[int, Delivery]) -> None:
        if deliveries:
            self._link.settle(deliveries.values(), _RELEASED)

    def unsettled(self) -> list[Delivery]:
        """What the client has neither acknowledged nor given back for good."""
        transaction = self._publishing.transaction
        settlements = [] if transaction is None else transaction.settlements
        kept = [delivery for each in settlements for delivery in each.deliveries.values()]
        return [*self._unacknowledged.held.values(), *kept]

    def _refusal(self, result: Result, method: type[Method], queue: str) -> Exception:
        return refusal(result.error, method, self._link.host, f"queue '{queue}'", self._link.user)


def _unknown(method: BasicAck | BasicNack | BasicReject) -> Exception:
    return channel_error(ReplyCode.PRECONDITION_FAILED, f"unknown delivery tag {method.delivery_tag}", type(method))
