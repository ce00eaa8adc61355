"""pika: its blocking connection, and the one on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import AMQPError, NackError, UnroutableError
from pika.spec import Basic, BasicProperties

from tests.interop.amqp.client import (
    HEARTBEAT,
    PASSWORD,
    PUMP_INTERVAL,
    USER,
    BlockingClient,
    Client,
    Message,
    Refused,
    until,
)
from tests.rig.processes import HOST

_PERSISTENT = 2


class PikaBlockingClient(BlockingClient):
    """`BlockingConnection`."""

    lost: ClassVar[tuple[type[Exception], ...]] = (AMQPError,)

    def do_connect(self) -> None:
        self._connection = pika.BlockingConnection(parameters(self.port))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def do_declare(self, queue: str) -> str:
        declared = self._channel.queue_declare(queue, durable=bool(queue), exclusive=not queue)
        return str(declared.method.queue)

    def do_publish(self, queue: str, message: Message) -> None:
        try:
            self._channel.basic_publish("", queue, message.body, properties(message), mandatory=True)
        except (AMQPError, NackError, UnroutableError) as error:
            raise Refused(repr(error)) from error

    def do_consume(self, queue: str, *, acknowledge: bool) -> None:
        def receive(channel: BlockingChannel, method: Basic.Deliver, about: BasicProperties, body: bytes) -> None:
            self.received.append(received(method, about, body))
            if acknowledge:
                channel.basic_ack(method.delivery_tag)

        self._channel.basic_consume(queue, receive)

    def do_pump(self) -> None:
        self._connection.process_data_events(PUMP_INTERVAL)

    def do_close(self) -> None:
        if self._connection.is_open:
            self._connection.close()


class PikaAsyncioClient(Client):
    """`AsyncioConnection`, which tells everything by callbacks."""

    async def connect(self) -> None:
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._published = 0
        self._returned = 0
        opened: asyncio.Future[AsyncioConnection] = asyncio.get_running_loop().create_future()
        self._connection = AsyncioConnection(
            parameters(self.port),
            on_open_callback=opened.set_result,
            on_open_error_callback=lambda _, error: opened.set_exception(Refused(str(error))),
            on_close_callback=self._on_close,
        )
        await opened
        self._channel: Channel = await self._ask(lambda done: self._connection.channel(on_open_callback=done))
        self._channel.add_on_return_callback(self._on_return)
        await self._ask(lambda done: self._channel.confirm_delivery(self._on_confirm, callback=done))

    async def declare(self, queue: str = "") -> str:
        declared = await self._ask(
            lambda done: self._channel.queue_declare(queue, durable=bool(queue), exclusive=not queue, callback=done)
        )
        return str(declared.method.queue)

    async def publish(self, queue: str, message: Message) -> None:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._published += 1
        self._answers[self._published] = answer
        self._channel.basic_publish("", queue, message.body, properties(message), mandatory=True)
        returned = self._returned
        if not await answer or self._returned > returned:
            raise Refused("not confirmed")

    async def consume(self, queue: str, *, acknowledge: bool = True) -> None:
        def receive(channel: Channel, method: Basic.Deliver, about: BasicProperties, body: bytes) -> None:
            self.received.append(received(method, about, body))
            if acknowledge:
                channel.basic_ack(method.delivery_tag)

        await self._ask(lambda done: self._channel.basic_consume(queue, receive, callback=done))

    async def wait_lost(self) -> None:
        await until(lambda: self._connection.is_closed, "the connection is lost")

    async def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
        await until(lambda: self._connection.is_closed, "the connection is closed")

    async def _ask(self, call: Callable[[Callable[[Any], None]], object]) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call(answer.set_result)
        return await answer

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        first = min(self._answers) if method.multiple else method.delivery_tag
        for tag in range(first, method.delivery_tag + 1):
            self._answers.pop(tag).set_result(isinstance(method, Basic.Ack))

    def _on_return(self, *_: object) -> None:
        self._returned += 1

    def _on_close(self, _connection: object, error: Exception) -> None:
        for answer in self._answers.values():
            answer.set_exception(Refused(str(error)))
        self._answers.clear()


def parameters(port: int) -> pika.ConnectionParameters:
    credentials = pika.PlainCredentials(USER, PASSWORD)
    return pika.ConnectionParameters(HOST, port, credentials=credentials, heartbeat=HEARTBEAT)


def properties(message: Message) -> BasicProperties:
    return BasicProperties(
        delivery_mode=_PERSISTENT,
        reply_to=message.reply_to,
        correlation_id=message.correlation_id,
        content_type=message.content_type,
        headers=dict(message.headers) or None,
    )


def received(method: Basic.Deliver, about: BasicProperties, body: bytes) -> Message:
    return Message(
        body=body,
        reply_to=about.reply_to,
        correlation_id=about.correlation_id,
        content_type=about.content_type,
        headers=about.headers or {},
        redelivered=method.redelivered,
    )
