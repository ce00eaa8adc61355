"""paho-mqtt, in its own thread; and what aiomqtt, which is built upon it, shares with it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.interop.mqtt.client import (
    KEEP_ALIVE,
    SESSION_EXPIRY,
    Client,
    Message,
    Refused,
    Setup,
    Version,
    until,
)
from tests.rig.processes import HOST

_FIELDS = {
    "content_type": "ContentType",
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "user_properties": "UserProperty",
}
"""The properties of a message, and paho's names for them."""


def connect_properties(setup: Setup) -> Properties | None:
    if setup.version != Version.V5 or not setup.kept:
        return None
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY
    return properties


def message_properties(message: Message, packet_type: int) -> Properties | None:
    said = {paho_name: getattr(message, name) for name, paho_name in _FIELDS.items() if getattr(message, name)}
    if not said:
        return None
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in said.items():
        setattr(properties, name, list(value) if isinstance(value, tuple) else value)
    return properties


def received_message(
    topic: str, payload: bytes | bytearray, qos: int, retain: bool, properties: Properties | None
) -> Message:
    def said(name: str) -> object:
        return getattr(properties, name, None)

    content_type, response_topic = said("ContentType"), said("ResponseTopic")
    correlation_data, user_properties = said("CorrelationData"), said("UserProperty")
    return Message(
        topic=topic,
        payload=bytes(payload),
        qos=qos,
        retain=retain,
        content_type=content_type if isinstance(content_type, str) else None,
        response_topic=response_topic if isinstance(response_topic, str) else None,
        correlation_data=correlation_data if isinstance(correlation_data, bytes) else None,
        user_properties=tuple(user_properties) if isinstance(user_properties, list) else (),
    )


def cut(client: paho.Client) -> None:
    """End the TCP connection below paho, WebSocket or not."""
    connection = client.socket()
    assert connection is not None
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


class PahoClient(Client):
    """Callbacks run in paho's thread, and leave what they are told for the test's."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._connected: ReasonCode | None = None
        self._ended: ReasonCode | None = None
        self._granted: dict[int, list[ReasonCode]] = {}
        self._published: dict[int, ReasonCode] = {}
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            setup.client_id,
            clean_session=None if setup.version == Version.V5 else not setup.kept,
            protocol=MQTTProtocolVersion(setup.version),
            transport="websockets" if setup.transport == "websocket" else "tcp",
            reconnect_on_failure=False,
        )
        self._client.ws_set_options("/mqtt")
        will = setup.will
        if will is not None:
            properties = message_properties(will, PacketTypes.WILLMESSAGE)
            self._client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message

    @property
    def ended(self) -> bool:
        return self._ended is not None

    @property
    def end_reason(self) -> int | None:
        return None if self._ended is None else self._ended.value

    async def connect(self) -> None:
        setup = self.setup
        clean_start = not setup.kept if setup.version == Version.V5 else paho.MQTT_CLEAN_START_FIRST_ONLY
        self._client.connect(
            HOST, setup.port, KEEP_ALIVE, clean_start=clean_start, properties=connect_properties(setup)
        )
        self._client.loop_start()
        await until(lambda: self._connected or self.ended, "CONNACK")
        if self._connected is None or self._connected.is_failure:
            raise Refused(f"{self._connected or self._ended}")

    async def subscribe(self, filters: Sequence[str], qos: int) -> None:
        _, mid = self._client.subscribe([(each, qos) for each in filters])
        assert mid is not None
        await until(lambda: mid in self._granted or self.ended, "SUBACK")
        assert [each.value for each in self._granted[mid]] == [qos] * len(filters)

    async def publish(self, message: Message) -> None:
        await self.publish_all([message])

    async def publish_all(self, messages: Sequence[Message]) -> None:
        mids = [self._hand_over(message) for message in messages]
        await until(lambda: self._published.keys() >= set(mids) or self.ended, "all are acknowledged")
        for mid in mids:
            reason = self._published.get(mid)
            if reason is None or reason.is_failure:
                raise Refused(f"{reason or self._ended}")

    def _hand_over(self, message: Message) -> int:
        properties = message_properties(message, PacketTypes.PUBLISH)
        published = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if published.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise Refused(paho.error_string(published.rc))
        return published.mid

    async def disconnect(self) -> None:
        self._client.disconnect()
        await self.wait_ended()
        self._client.loop_stop()

    async def drop(self) -> None:
        cut(self._client)
        await self.wait_ended()
        self._client.loop_stop()

    async def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # The pair of sockets that wakes its thread would be left to the garbage collector.
        self._client._reset_sockets(sockpair_only=True)

    def _on_connect(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._connected = reason

    def _on_disconnect(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._ended = reason

    def _on_subscribe(
        self, _client: object, _data: object, mid: int, granted: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._granted[mid] = granted

    def _on_publish(
        self, _client: object, _data: object, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._published[mid] = reason

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.received.append(
            received_message(message.topic, message.payload, message.qos, message.retain, message.properties)
        )
