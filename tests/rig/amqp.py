"""An AMQP 0-9-1 client of somebody else's (pika), in the few ways that tests use it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import AMQPError

from tests.rig.processes import HOST

PATIENCE = 15.0
"""Seconds that something is waited for."""
PUMP = 0.05
PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class Got:
    """One message, delivered or taken."""

    octets: bytes
    properties: pika.BasicProperties
    routing_key: str
    redelivered: bool
    tag: int
    channel: Any
    """The one that it came on."""

    @property
    def body(self) -> str:
        return self.octets.decode()

    def ack(self) -> None:
        self.channel.basic_ack(self.tag)

    def nack(self, *, requeue: bool) -> None:
        self.channel.basic_nack(self.tag, requeue=requeue)

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}


class AmqpClient:
    """One connection with one channel that confirms. Use it as a context manager; it is connected inside."""

    def __init__(self, port: int, **parameters: Any) -> None:
        self._parameters = pika.ConnectionParameters(
            HOST, port, **{"heartbeat": 0, "blocked_connection_timeout": PATIENCE} | parameters
        )
        self.received: list[Got] = []
        self.cancelled: list[str] = []
        """Tags of consumers that the server has ended."""

    def __enter__(self) -> Self:
        self.connection = pika.BlockingConnection(self._parameters)
        self.channel: Any = self.connection.channel()
        self.channel.confirm_delivery()
        self.channel.add_on_cancel_callback(lambda frame: self.cancelled.append(frame.method.consumer_tag))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.connection.is_open:
            self.connection.close()

    def declare(self, queue: str = "", **arguments: Any) -> str:
        """A durable queue, or an exclusive one that the server names; its name."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        declared = self.channel.queue_declare(queue, durable=bool(queue), exclusive=not queue, arguments=named)
        return str(declared.method.queue)

    def publish(self, routing_key: str, body: str | bytes, exchange: str = "", **properties: Any) -> None:
        """Publish, and wait for the confirm. pika raises `NackError` and `UnroutableError`."""
        about = pika.BasicProperties(**{"delivery_mode": PERSISTENT} | properties)
        octets = body if isinstance(body, bytes) else body.encode()
        self.channel.basic_publish(exchange, routing_key, octets, about, mandatory=True)

    def consume(self, queue: str, *, prefetch: int = 0, no_ack: bool = False, tag: str = "c") -> None:
        if prefetch:
            self.channel.basic_qos(prefetch_count=prefetch)

        def receive(channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
            self.received.append(_got(channel, method, properties, body))

        self.channel.basic_consume(queue, receive, auto_ack=no_ack, consumer_tag=tag)

    def take(self, queue: str, patience: float = PATIENCE) -> Got:
        """`basic.get` until there is a message, which is acknowledged."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            method, properties, body = self.channel.basic_get(queue, auto_ack=True)
            if method is not None:
                return _got(self.channel, method, properties, body)
        raise AssertionError(f"no message in {queue} within {patience:g} s")

    def wait_received(self, number: int) -> list[Got]:
        """Wait until so many deliveries have come in all."""
        self.pump(lambda: len(self.received) >= number, f"{number} deliveries, not {len(self.received)}")
        return self.received

    def pump(self, done: Any, what: str) -> None:
        """Take in what comes until something is the case."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {PATIENCE:g} s: {what}")
            self.connection.process_data_events(PUMP)

    def drop(self) -> None:
        """Lose the connection without a word."""
        self.connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(AMQPError):
            self.connection.process_data_events(PATIENCE)


def _got(channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> Got:
    return Got(body, properties, method.routing_key, method.redelivered, method.delivery_tag, channel)
