"""Publish to a topic and read from one in MQTT 3.1.1, through amqtt's client.

The event loop runs only inside the calls, so standard input may be read between them without a thread.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Self
from urllib.parse import quote

from amqtt.client import MQTTClient
from amqtt.errors import AMQTTError, ConnectError, MQTTError, NoDataError, ProtocolHandlerError
from amqtt.errors import ClientError as LibraryError
from amqtt.mqtt.constants import QOS_1

from gateway.clients.port import ANSWER_TIMEOUT, ClientError, Incoming, Server, reason_of

KEEP_ALIVE: Final = 30
"""Seconds; what a subscriber promises to be heard in."""

CONNACK_REASONS: Final = {
    1: "unacceptable protocol version",
    2: "client id rejected",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}
"""MQTT 3.1.1, table 3.1."""

SUBSCRIPTION_REFUSED: Final = 0x80
"""A SUBACK return code, MQTT 3.1.1 §3.9.3."""

_FAILURES: Final = (LibraryError, AMQTTError, MQTTError, NoDataError, ProtocolHandlerError, OSError)
"""What amqtt raises when a connection breaks; some of it depends on the moment."""


class MqttConnection:
    """A connection with a clean session and a client id of its own."""

    def __init__(self, server: Server, *, keep_alive: int) -> None:
        self._server = server
        self._config = {"keep_alive": keep_alive, "ping_delay": 0, "auto_reconnect": False, "plugins": {}}
        self._runner = asyncio.Runner()
        self._client: MQTTClient | None = None

    def __enter__(self) -> Self:
        try:
            self._client = self._runner.run(self._connect())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, /, *rest: object) -> None:
        with self._runner as runner:
            runner.run(self._disconnect())

    async def _connect(self) -> MQTTClient:
        # [MQTT-3.1.3-5]: 23 letters and digits at most are accepted by every server.
        client = MQTTClient(client_id=f"mqlift{secrets.token_hex(8)}", config=self._config)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await client.connect(self._uri(), cleansession=True)
        except ConnectError as error:
            _pass_on_cancellation()
            raise self._server.unreachable(_connect_reason(error)) from error
        except _FAILURES as error:
            raise self._server.unreachable("it does not speak MQTT 3.1.1") from error
        return client

    def _uri(self) -> str:
        server = self._server
        host = f"[{server.host}]" if ":" in server.host else server.host
        if server.user is None:
            return f"mqtt://{host}:{server.port}"
        return f"mqtt://{quote(server.user, safe='')}:{quote(server.password or '', safe='')}@{host}:{server.port}"

    async def _disconnect(self) -> None:
        """What was to be said has been said: a connection that breaks now is as good as closed."""
        with suppress(*_FAILURES):
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._connected().disconnect()

    def _connected(self) -> MQTTClient:
        if self._client is None:
            raise RuntimeError("not connected; use the client in a `with` statement")
        return self._client


class MqttPublisher(MqttConnection):
    """Publishes to one topic with QoS 1."""

    def __init__(self, server: Server, topic: str) -> None:
        if "+" in topic or "#" in topic:
            raise ClientError(f"topic {topic!r} has a wildcard; publish to one topic")  # [MQTT-3.3.2-2]
        # No keep-alive: the loop, which would send the pings, stands still while standard input is waited for.
        super().__init__(server, keep_alive=0)
        self._topic = topic

    def publish(self, body: bytes) -> None:
        """Returns on PUBACK. Raises `ClientError`, also when it does not come within amqtt's 5 seconds."""
        self._runner.run(self._publish(body))

    async def _publish(self, body: bytes) -> None:
        try:
            await self._connected().publish(self._topic, body, qos=QOS_1)
        except TimeoutError as error:
            raise ClientError(
                f"no acknowledgement for topic {self._topic}; the message may have been stored"
            ) from error
        except asyncio.CancelledError as error:
            _pass_on_cancellation()  # or else it is amqtt's way to say that the connection was closed
            raise self._lost() from error
        except (
            *_FAILURES,
            AttributeError,
        ) as error:  # amqtt 0.12 trips over what it cleared when the connection closed
            raise self._lost() from error

    def _lost(self) -> ClientError:
        return ClientError(f"the server closed the connection before it took the message for topic {self._topic}")


class MqttSubscriber(MqttConnection):
    """Reads what is published to the topics that a filter matches, from now on.

    amqtt acknowledges a message when it arrives, so one that was not printed yet when the program ends is lost.
    """

    def __init__(self, server: Server, topic_filter: str, count: int | None) -> None:
        super().__init__(server, keep_alive=KEEP_ALIVE)
        self._filter = topic_filter
        self._count = count

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._runner.run(self._subscribe())
        except BaseException:
            self._runner.close()
            raise
        return self

    def messages(self) -> Iterator[Incoming]:
        for _ in itertools.count() if self._count is None else range(self._count):
            yield self._runner.run(self._next())

    async def _subscribe(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                granted = await self._connected().subscribe([(self._filter, QOS_1)])
        except TimeoutError as error:
            raise ClientError(f"no answer to the subscription to topic {self._filter}") from error
        except _FAILURES as error:
            raise ClientError("the server closed the connection") from error
        if SUBSCRIPTION_REFUSED in granted:
            raise ClientError(f"the server refused the subscription to topic {self._filter}")

    async def _next(self) -> Incoming:
        try:
            message = await self._connected().deliver_message()
        except _FAILURES as error:
            raise ClientError("the server closed the connection") from error
        if message is None:
            _pass_on_cancellation()
            raise ClientError("the server closed the connection")
        return Incoming(bytes(message.data), {"topic": str(message.topic), "qos": str(message.qos)})


def _connect_reason(error: ConnectError) -> str:
    if error.return_code is not None:
        return CONNACK_REASONS.get(error.return_code, f"refused with code {error.return_code}")
    cause = error.__cause__
    if isinstance(cause, asyncio.CancelledError | TimeoutError):
        return f"no answer within {ANSWER_TIMEOUT:.0f} s"
    if isinstance(cause, OSError) and cause.args:
        return reason_of(cause)
    return "the server closed the connection"


def _pass_on_cancellation() -> None:
    """Amqtt turns cancellation into errors of its own and errors into cancellation; the task knows which it was."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
