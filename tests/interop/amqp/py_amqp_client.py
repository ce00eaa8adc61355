"""py-amqp, which Celery speaks through, and kombu on top of it."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import amqp
import kombu
from amqp.exceptions import AMQPError

from tests.interop.amqp.client import HEARTBEAT, PASSWORD, PUMP_INTERVAL, USER, BlockingClient, Message, Refused
from tests.rig.processes import HOST

_PERSISTENT = 2
_LOST = (AMQPError, OSError)


class PyAmqpClient(BlockingClient):
    """`amqp.Connection`."""

    lost: ClassVar[tuple[type[Exception], ...]] = _LOST
    _connection: amqp.Connection | None = None

    def do_connect(self) -> None:
        if self._connection is not None:
            self._connection.collect()
        self._connection = amqp.Connection(
            f"{HOST}:{self.port}", USER, PASSWORD, heartbeat=HEARTBEAT, confirm_publish=True
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._returned = 0
        self._channel.events["basic_return"].add(self._on_return)

    def do_declare(self, queue: str) -> str:
        declared = self._channel.queue_declare(queue, durable=bool(queue), exclusive=not queue, auto_delete=False)
        return str(declared.queue)

    def do_publish(self, queue: str, message: Message) -> None:
        sent = amqp.Message(
            message.body,
            delivery_mode=_PERSISTENT,
            reply_to=message.reply_to,
            correlation_id=message.correlation_id,
            content_type=message.content_type,
            application_headers=dict(message.headers),
        )
        returned = self._returned
        try:
            self._channel.basic_publish_confirm(sent, "", queue, mandatory=True)
        except _LOST as error:
            raise Refused(repr(error)) from error
        if self._returned > returned:
            raise Refused("returned")

    def do_consume(self, queue: str, *, acknowledge: bool) -> None:
        def receive(message: amqp.Message) -> None:
            self.received.append(_received(message))
            if acknowledge:
                self._channel.basic_ack(message.delivery_tag)

        self._channel.basic_consume(queue, callback=receive)

    def do_pump(self) -> None:
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=PUMP_INTERVAL)

    def do_close(self) -> None:
        self._connection.collect()

    def _on_return(self, *_: object) -> None:
        self._returned += 1


class KombuClient(BlockingClient):
    """`kombu.Connection`, with its producer and consumer."""

    lost: ClassVar[tuple[type[Exception], ...]] = _LOST
    _connection: kombu.Connection | None = None

    def do_connect(self) -> None:
        if self._connection is not None:
            self._connection.collect()
        self._connection = kombu.Connection(
            f"pyamqp://{USER}:{PASSWORD}@{HOST}:{self.port}//",
            heartbeat=HEARTBEAT,
            transport_options={"confirm_publish": True},
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._producer = kombu.Producer(self._channel, on_return=self._on_return)
        self._returned = 0

    def do_declare(self, queue: str) -> str:
        declared = kombu.Queue(
            queue, durable=bool(queue), exclusive=not queue, auto_delete=False, channel=self._channel
        )
        declared.declare()
        return str(declared.name)

    def do_publish(self, queue: str, message: Message) -> None:
        returned = self._returned
        properties = {"reply_to": message.reply_to, "correlation_id": message.correlation_id}
        try:
            self._producer.publish(
                message.body,
                routing_key=queue,
                headers=dict(message.headers),
                content_type=message.content_type or "application/data",
                content_encoding="binary",
                mandatory=True,
                **{name: value for name, value in properties.items() if value is not None},
            )
        except _LOST as error:
            raise Refused(repr(error)) from error
        if self._returned > returned:
            raise Refused("returned")

    def do_consume(self, queue: str, *, acknowledge: bool) -> None:
        def receive(message: kombu.Message) -> None:
            self.received.append(_received_by_kombu(message))
            if acknowledge:
                message.ack()

        found = kombu.Queue(queue, no_declare=True)
        self._consumer = kombu.Consumer(self._channel, [found], on_message=receive, auto_declare=False)
        self._consumer.consume()

    def do_pump(self) -> None:
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=PUMP_INTERVAL)

    def do_close(self) -> None:
        self._connection.release()

    def _on_return(self, *_: object) -> None:
        self._returned += 1


def _received(message: amqp.Message) -> Message:
    properties = message.properties
    body = message.body
    return Message(
        body=body.encode() if isinstance(body, str) else bytes(body),
        reply_to=properties.get("reply_to"),
        correlation_id=properties.get("correlation_id"),
        content_type=properties.get("content_type"),
        headers=properties.get("application_headers") or {},
        redelivered=message.delivery_info["redelivered"],
    )


def _received_by_kombu(message: kombu.Message) -> Message:
    body = message.body
    return Message(
        body=body.encode() if isinstance(body, str) else bytes(body),
        reply_to=message.properties.get("reply_to"),
        correlation_id=message.properties.get("correlation_id"),
        content_type=message.content_type,
        headers=message.headers,
        redelivered=message.delivery_info["redelivered"],
    )
