"""aiomqtt: paho-mqtt on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Sequence
from typing import ClassVar

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes

from tests.interop.mqtt.client import Client, Message, Refused, Setup, Version, unless_ended
from tests.interop.mqtt.paho_client import connect_properties, cut, message_properties, received_message
from tests.rig.processes import HOST


class AiomqttClient(Client):
    """One task keeps what comes."""

    hears_refusals: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._client: aiomqtt.Client | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self._reading is not None and self._reading.done()

    @property
    def _connection(self) -> aiomqtt.Client:
        assert self._client is not None
        return self._client

    async def connect(self) -> None:
        self._client = self._make(self.setup)
        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as error:
            raise Refused(str(error)) from error
        self._reading = asyncio.create_task(self._read(self._client))

    def _make(self, setup: Setup) -> aiomqtt.Client:
        v5 = setup.version == Version.V5
        return aiomqtt.Client(
            HOST,
            setup.port,
            identifier=setup.client_id,
            protocol=aiomqtt.ProtocolVersion(setup.version),
            transport="websockets" if setup.transport == "websocket" else "tcp",
            websocket_path="/mqtt",
            clean_session=None if v5 else not setup.kept,
            clean_start=not setup.kept if v5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=connect_properties(setup),
            will=None if setup.will is None else _will(setup.will),
            timeout=math.inf,
        )

    async def _read(self, client: aiomqtt.Client) -> None:
        with contextlib.suppress(aiomqtt.MqttError):  # the connection's end
            async for each in client.messages:
                assert isinstance(each.payload, bytes)
                self.received.append(
                    received_message(each.topic.value, each.payload, each.qos, each.retain, each.properties)
                )

    async def subscribe(self, filters: Sequence[str], qos: int) -> None:
        granted = await self._connection.subscribe([(each, qos) for each in filters])
        assert [each if isinstance(each, int) else each.value for each in granted] == [qos] * len(filters)

    async def publish(self, message: Message) -> None:
        await unless_ended(self, self._published(message))

    async def publish_all(self, messages: Sequence[Message]) -> None:
        await unless_ended(self, asyncio.gather(*map(self._published, messages)))

    def _published(self, message: Message) -> Awaitable[object]:
        return self._connection.publish(
            message.topic,
            message.payload,
            message.qos,
            message.retain,
            message_properties(message, PacketTypes.PUBLISH),
        )

    async def disconnect(self) -> None:
        await self._connection.__aexit__(None, None, None)
        await self.wait_ended()

    async def drop(self) -> None:
        cut(self._connection._client)
        await self.wait_ended()

    async def close(self) -> None:
        if self._client is not None and not self.ended:
            await self.disconnect()


def _will(message: Message) -> aiomqtt.Will:
    properties = message_properties(message, PacketTypes.WILLMESSAGE)
    return aiomqtt.Will(message.topic, message.payload, message.qos, message.retain, properties)
