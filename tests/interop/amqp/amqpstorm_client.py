"""AMQPStorm."""

from __future__ import annotations

import time
from typing import ClassVar

import amqpstorm

from tests.interop.amqp.client import PASSWORD, PUMP_INTERVAL, USER, BlockingClient, Message, Refused
from tests.rig.processes import HOST

_PERSISTENT = 2
_HEARTBEAT = 1
"""Seconds; only missing heartbeats tell it that the connection is lost while it has nothing to send."""


class AmqpstormClient(BlockingClient):
    """`Connection`, with one `Channel`."""

    lost: ClassVar[tuple[type[Exception], ...]] = (amqpstorm.AMQPError,)

    def do_connect(self) -> None:
        self._connection = amqpstorm.Connection(HOST, USER, PASSWORD, port=self.port, heartbeat=_HEARTBEAT)
        self._channel = self._connection.channel()
        self._channel.confirm_deliveries()

    def do_declare(self, queue: str) -> str:
        declared = self._channel.queue.declare(queue, durable=bool(queue), exclusive=not queue)
        return str(declared["queue"])

    def do_publish(self, queue: str, message: Message) -> None:
        properties = {
            "delivery_mode": _PERSISTENT,
            "reply_to": message.reply_to,
            "correlation_id": message.correlation_id,
            "content_type": message.content_type,
            "headers": dict(message.headers),
        }
        present = {name: value for name, value in properties.items() if value is not None}
        try:
            confirmed = self._channel.basic.publish(message.body, queue, properties=present, mandatory=True)
        except amqpstorm.AMQPError as error:
            raise Refused(repr(error)) from error
        if not confirmed:
            raise Refused("nack")

    def do_consume(self, queue: str, *, acknowledge: bool) -> None:
        def receive(message: amqpstorm.Message) -> None:
            self.received.append(_received(message))
            if acknowledge:
                message.ack()

        self._channel.basic.consume(receive, queue)

    def do_pump(self) -> None:
        self._channel.check_for_errors()
        self._channel.process_data_events()
        time.sleep(PUMP_INTERVAL / 10)

    def do_close(self) -> None:
        self._connection.close()


def _received(message: amqpstorm.Message) -> Message:
    body = message.body
    return Message(
        body=body.encode() if isinstance(body, str) else body,
        reply_to=message.reply_to or None,
        correlation_id=message.correlation_id or None,
        content_type=message.properties.get("content_type") or None,
        headers=message.properties.get("headers") or {},
        redelivered=message.redelivered,
    )
