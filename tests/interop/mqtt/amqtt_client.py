"""amqtt's client, 3.1.1."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence

from amqtt.client import MQTTClient
from amqtt.contexts import ClientConfig, WillConfig
from amqtt.errors import ConnectError

from tests.interop.mqtt.client import KEEP_ALIVE, Client, Message, Refused, Setup, unless_ended

AT_ONCE = 100
"""Publishes; each has five seconds for its PUBACK, and they share one connection."""


class AmqttClient(Client):
    """One task takes what comes."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        will = setup.will
        self._reading: asyncio.Task[None] | None = None
        self._client = MQTTClient(
            setup.client_id,
            ClientConfig(
                keep_alive=KEEP_ALIVE,
                auto_reconnect=False,
                cleansession=not setup.kept,
                will=None if will is None else WillConfig(will.topic, will.payload.decode(), will.qos, will.retain),
            ),
        )

    @property
    def ended(self) -> bool:
        return self._reading is not None and self._reading.done()

    async def connect(self) -> None:
        try:
            await self._client.connect(self.setup.url)
        except ConnectError as error:
            raise Refused(str(error)) from error
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # amqtt cancels its own task when the connection ends
            while True:
                message = await self._client.deliver_message()
                assert message is not None
                assert message.qos is not None
                # Its RETAIN flag is in the packet only.
                retain = message.publish_packet is not None and bool(message.publish_packet.retain_flag)
                self.received.append(
                    Message(topic=message.topic, payload=bytes(message.data), qos=message.qos, retain=retain)
                )

    async def subscribe(self, filters: Sequence[str], qos: int) -> None:
        granted = await self._client.subscribe([(each, qos) for each in filters])
        assert list(granted) == [qos] * len(filters)

    async def publish(self, message: Message) -> None:
        await unless_ended(self, self._published(message))

    async def publish_all(self, messages: Sequence[Message]) -> None:
        for first in range(0, len(messages), AT_ONCE):
            batch = messages[first : first + AT_ONCE]
            await unless_ended(self, asyncio.gather(*map(self._published, batch)))

    def _published(self, message: Message) -> Awaitable[object]:
        return self._client.publish(message.topic, message.payload, message.qos, message.retain)

    async def disconnect(self) -> None:
        await self._client.disconnect()
        await self.wait_ended()

    async def drop(self) -> None:
        handler = self._client._handler
        assert handler is not None
        assert handler.writer is not None
        await handler.writer.close()
        await self.wait_ended()

    async def close(self) -> None:
        if self._reading is not None and not self.ended:
            await self.disconnect()
