"""gmqtt, 3.1.1 and 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import gmqtt  # type: ignore[import-untyped]
from gmqtt.storage import PersistentStorage  # type: ignore[import-untyped]

from tests.interop.mqtt.client import (
    KEEP_ALIVE,
    SESSION_EXPIRY,
    Client,
    Message,
    Setup,
    Version,
    unless_ended,
    until,
)
from tests.rig.processes import HOST

_NEVER_AGAIN = {"reconnect_retries": -2}
"""-1 is without end, and 0 is once."""
_UNDER_WAY = 100
"""It raises for publishes beyond the server's receive maximum, which is 1,000."""


class GmqttClient(Client):
    """Publishes are acknowledged when gmqtt's storage of publishes under way is empty again."""

    hears_refusals: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._ended = False
        self._granted: dict[int, Sequence[int]] = {}
        self._under_way = PersistentStorage()
        expiry = {"session_expiry_interval": SESSION_EXPIRY} if setup.kept and setup.version == Version.V5 else {}
        self._client = gmqtt.Client(
            setup.client_id,
            clean_session=not setup.kept,
            will_message=None if setup.will is None else _gmqtt_message(setup.will),
            persistent_storage=self._under_way,
            **expiry,
        )
        self._client.set_config(_NEVER_AGAIN)
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_disconnect = self._on_disconnect

    @property
    def ended(self) -> bool:
        return self._ended

    async def connect(self) -> None:
        await self._client.connect(HOST, self.setup.port, keepalive=KEEP_ALIVE, version=int(self.setup.version))

    async def subscribe(self, filters: Sequence[str], qos: int) -> None:
        mid = self._client.subscribe([gmqtt.Subscription(each, qos=qos) for each in filters])
        await until(lambda: mid in self._granted or self.ended, "SUBACK")
        assert list(self._granted[mid]) == [qos] * len(filters)

    async def publish(self, message: Message) -> None:
        await self.publish_all([message])

    async def publish_all(self, messages: Sequence[Message]) -> None:
        for first in range(0, len(messages), _UNDER_WAY):
            for message in messages[first : first + _UNDER_WAY]:
                self._client.publish(_gmqtt_message(message))
            await unless_ended(self, self._under_way.wait_empty())

    async def disconnect(self) -> None:
        await self._client.disconnect()
        await self.wait_ended()

    async def drop(self) -> None:
        self._client._connection._transport.abort()
        await self.wait_ended()

    async def close(self) -> None:
        if not self._ended:
            await self.disconnect()

    def _on_message(
        self, _client: object, topic: str, payload: bytes, qos: int, properties: Mapping[str, object]
    ) -> int:
        content_type, response_topic = _first(properties, "content_type"), _first(properties, "response_topic")
        correlation_data, pairs = _first(properties, "correlation_data"), properties.get("user_property")
        self.received.append(
            Message(
                topic=topic,
                payload=payload,
                qos=qos,
                retain=bool(properties["retain"]),
                content_type=content_type if isinstance(content_type, str) else None,
                response_topic=response_topic if isinstance(response_topic, str) else None,
                correlation_data=correlation_data if isinstance(correlation_data, bytes) else None,
                user_properties=tuple(pairs) if isinstance(pairs, list) else (),
            )
        )
        return 0

    def _on_subscribe(self, _client: object, mid: int, granted: Sequence[int], _properties: object) -> None:
        self._granted[mid] = granted

    def _on_disconnect(self, _client: object, _packet: object, _error: object = None) -> None:
        self._ended = True


def _gmqtt_message(message: Message) -> gmqtt.Message:
    said = {
        "content_type": message.content_type,
        "response_topic": message.response_topic,
        "correlation_data": message.correlation_data,
        "user_property": list(message.user_properties) or None,
    }
    properties = {name: value for name, value in said.items() if value is not None}
    return gmqtt.Message(message.topic, message.payload, qos=message.qos, retain=message.retain, **properties)


def _first(properties: Mapping[str, object], name: str) -> object:
    values = properties.get(name)
    return values[0] if isinstance(values, list) else None
