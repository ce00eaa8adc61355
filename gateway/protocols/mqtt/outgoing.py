"""How a message becomes a PUBLISH for one client: flags, properties, topic alias, and what its limits leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.message import RETAIN, RETAINED, Message
from gateway.core.metrics import Count
from gateway.protocols.mqtt.aliases import OutgoingAliases
from gateway.protocols.mqtt.client import Client
from gateway.protocols.mqtt.convert import OutgoingTopic, publish_fields, seconds_left
from gateway.protocols.mqtt.fields import UINT16, write_variable_int
from gateway.protocols.mqtt.packets import V5
from gateway.protocols.mqtt.subscriptions import Grant
from gateway.protocols.mqtt.writer import RETAIN as RETAIN_FLAG
from gateway.protocols.mqtt.writer import write_publish

TOPIC_ALIAS: Final = b"\x23"
"""The identifier of the property of this name (5.0 table 2-4)."""

_NO_TOPIC: Final = b"\0\0"


class PublishWriter:
    """Writes the PUBLISHes of one connection, in the order in which they are sent."""

    __slots__ = ("_aliases", "_clock", "_discarded", "_level", "_maximum_packet_size")

    def __init__(self, client: Client, clock: Callable[[], float], discarded: Count) -> None:
        """`discarded` counts what is not written because it has expired, or is larger than the client takes."""
        self._level = client.level
        self._maximum_packet_size = client.maximum_packet_size
        self._aliases = OutgoingAliases(client.topic_alias_maximum) if client.topic_alias_maximum else None
        self._clock = clock
        self._discarded = discarded

    def write(
        self,
        first: int,
        message: Message,
        topic: OutgoingTopic,
        grant: Grant,
        packet_id: int,
        *,
        sent_before: bool = False,
    ) -> bytes | None:
        """A PUBLISH with the flags of `first` and, if it has to be, RETAIN.

        None when the message has expired or is too large for the client: then it is over, as if it had been delivered
        [MQTT-3.3.2-5] [MQTT-3.1.2-25]. What the client was sent before does not expire any more [MQTT-4.3.3-7]. Raises
        `PacketError` when MQTT has no form for it.
        """
        headers = message.headers
        if headers and (headers.get(RETAINED) or (grant.retain_as_published and headers.get(RETAIN))):
            first |= RETAIN_FLAG  # [MQTT-3.3.1-8] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        left = None
        if message.properties.expiration is not None:
            left = seconds_left(message, self._clock)
            if left is not None and left <= 0:
                if not sent_before:
                    self._discarded.count += 1
                    return None
                left = 0
        if self._level < V5:
            return write_publish(first, topic.field, packet_id, b"", message.body)
        return self._write_v5(first, message, topic.field, grant.identifiers + publish_fields(message, left), packet_id)

    def _write_v5(self, first: int, message: Message, topic: bytes, fields: bytes, packet_id: int) -> bytes | None:
        new_alias = 0
        field = topic
        if self._aliases is not None:
            alias = self._aliases.alias_of(topic)
            if alias:
                field = _NO_TOPIC
            else:
                alias = new_alias = self._aliases.next_free()
            if alias:
                fields += TOPIC_ALIAS + UINT16.pack(alias)
        properties = write_variable_int(len(fields)) + fields if fields else b"\0"
        packet = write_publish(first, field, packet_id, properties, message.body)
        if len(packet) > self._maximum_packet_size:  # [MQTT-3.1.2-24]
            self._discarded.count += 1
            return None
        if self._aliases is not None and new_alias:
            self._aliases.sent(topic, new_alias)
        return packet
