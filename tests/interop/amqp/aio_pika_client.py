"""aio-pika, which connects and consumes again by itself."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, DeliveryError

from tests.interop.amqp.client import HEARTBEAT, PASSWORD, TIMEOUT, USER, Client, Message, Refused, until
from tests.rig.processes import HOST

_RECONNECT_INTERVAL = 0.1


class AioPikaClient(Client):
    """`connect_robust`."""

    recovers: ClassVar[bool] = True

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._connection: aio_pika.abc.AbstractRobustConnection | None = None
        self._losses = 0

    async def connect(self) -> None:
        if self._connection is not None:
            await asyncio.wait_for(self._channel.ready(), TIMEOUT)
            return
        self._connection = await aio_pika.connect_robust(
            host=HOST,
            port=self.port,
            login=USER,
            password=PASSWORD,
            heartbeat=HEARTBEAT,
            reconnect_interval=_RECONNECT_INTERVAL,
        )
        self._connection.close_callbacks.add(self._on_loss)
        self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)

    async def declare(self, queue: str = "") -> str:
        declared = await self._channel.declare_queue(queue or None, durable=bool(queue), exclusive=not queue)
        return declared.name

    async def publish(self, queue: str, message: Message) -> None:
        sent = aio_pika.Message(
            message.body,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            reply_to=message.reply_to,
            correlation_id=message.correlation_id,
            content_type=message.content_type,
            headers=dict(message.headers),  # type: ignore[arg-type]
        )
        try:
            await self._channel.default_exchange.publish(sent, queue, mandatory=True, timeout=TIMEOUT)
        except (AMQPError, DeliveryError, ConnectionError) as error:
            raise Refused(repr(error)) from error

    async def consume(self, queue: str, *, acknowledge: bool = True) -> None:
        async def receive(message: AbstractIncomingMessage) -> None:
            self.received.append(_received(message))
            if acknowledge:
                await message.ack()

        found = await self._channel.get_queue(queue)
        await found.consume(receive)

    async def wait_lost(self) -> None:
        await until(lambda: self._losses, "the connection is lost")

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    def _on_loss(self, *_: object) -> None:
        self._losses += 1


def _received(message: AbstractIncomingMessage) -> Message:
    return Message(
        body=message.body,
        reply_to=message.reply_to,
        correlation_id=message.correlation_id,
        content_type=message.content_type,
        headers=dict(message.headers),
        redelivered=bool(message.redelivered),
    )
