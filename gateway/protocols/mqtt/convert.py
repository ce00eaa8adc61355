"""MQTT topics and packets as the hub's addresses and messages, and back. Pure.

`/` and `.` change places, as in RabbitMQ: topic `a/b.c` is the key `a.b/c` on `amq.topic`. In filters `+` is `*`, and
`#` is itself. On the way out the exchange does not matter: what was published to another exchange, or to a queue, is
delivered under its routing key. Two things have no counterpart:

- a routing key that is no topic name once converted (empty, with `+` or `#`, or over 65,535 bytes);
- a filter with a level that is exactly `*`, which the hub would take for a wildcard; within a longer level it is fine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from gateway.core.message import (
    NO_HEADERS,
    PERSISTENT,
    TOPIC_EXCHANGE,
    TRANSIENT,
    Address,
    Message,
    Origin,
)
from gateway.core.topology import swap_separators
from gateway.protocols.mqtt.errors import PacketError
from gateway.protocols.mqtt.fields import write_text
from gateway.protocols.mqtt.packets import Publish, Will
from gateway.protocols.mqtt.topics import CACHED_TOPIC_LENGTH, CACHED_TOPICS, is_topic_name


class OutgoingTopic(NamedTuple):
    """A topic on its way to clients: as text, and as the field of a PUBLISH."""

    name: str
    field: bytes


def _address(topic: str) -> Address:
    return Address(TOPIC_EXCHANGE, swap_separators(topic))


_cached_address = lru_cache(CACHED_TOPICS)(_address)


def address_of(topic: str) -> Address:
    """Where a topic lives in the hub."""
    return _cached_address(topic) if len(topic) <= CACHED_TOPIC_LENGTH else _address(topic)


def _outgoing_topic(routing_key: str) -> OutgoingTopic | None:
    name = swap_separators(routing_key)
    if not is_topic_name(name):
        return None
    try:
        return OutgoingTopic(name, write_text(name))
    except PacketError:
        return None


_cached_outgoing_topic = lru_cache(CACHED_TOPICS)(_outgoing_topic)


def outgoing_topic(routing_key: str) -> OutgoingTopic | None:
    """The topic that a routing key stands for; None when it has none."""
    if len(routing_key) <= CACHED_TOPIC_LENGTH:
        return _cached_outgoing_topic(routing_key)
    return _outgoing_topic(routing_key)


def pattern_of(topic_filter: str) -> str | None:
    """The hub's pattern for a well-formed filter; None when it has none."""
    if "*" in topic_filter and "*" in topic_filter.split("/"):
        return None
    return swap_separators(topic_filter).replace("+", "*") if "+" in topic_filter else swap_separators(topic_filter)


def message_of(packet: Publish | Will, origin: Origin) -> Message:
    """What a client publishes, now or when it is gone."""
    properties = PERSISTENT if packet.qos else TRANSIENT
    return Message(address_of(packet.topic), packet.payload, properties, NO_HEADERS, origin)
