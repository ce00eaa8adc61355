"""Writes packets of every version. What a version has no form for raises `PacketError`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.protocols.mqtt.errors import PacketError, ReasonCode, violation
from gateway.protocols.mqtt.fields import (
    MAX_VARIABLE_INT,
    UINT16,
    write_binary,
    write_text,
    write_variable_int,
)
from gateway.protocols.mqtt.packets import (
    PROTOCOL_NAMES,
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Level,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Place, Properties, write_properties
from gateway.protocols.mqtt.reader import (
    CLEAN,
    NO_LOCAL,
    PASSWORD,
    RETAIN_AS_PUBLISHED,
    RETAIN_HANDLING_SHIFT,
    USERNAME,
    WILL,
    WILL_QOS_SHIFT,
    WILL_RETAIN,
)

PUBLISH: Final = 0x30
RETAIN: Final = 0x01
QOS_1: Final = 0x02
QOS_2: Final = 0x04
QOS_MASK: Final = 0x06
DUP: Final = 0x08

_ACK: Final = struct.Struct(">BBH")

PINGRESP: Final = b"\xd0\x00"


def fixed_header(first: int, length: int) -> bytes:
    """The first byte and the remaining length. Raises `PacketError` when the packet is too large for MQTT."""
    if length < 0x80:
        return bytes((first, length))
    if length < 0x4000:
        return bytes((first, length & 0x7F | 0x80, length >> 7))
    if length > MAX_VARIABLE_INT:
        raise PacketError(ReasonCode.PACKET_TOO_LARGE, f"a packet of {length} bytes; MQTT has {MAX_VARIABLE_INT}")
    return bytes((first,)) + write_variable_int(length)


def _packet(first: int, body: bytes) -> bytes:
    return fixed_header(first, len(body)) + body


def _given(properties: Properties) -> bool:
    return properties is not NO_PROPERTIES and properties != NO_PROPERTIES


def _properties(properties: Properties, place: Place, level: int) -> bytes:
    if level >= V5:
        return write_properties(properties, place)
    if _given(properties):
        raise violation(f"properties in {place.value} before MQTT 5")
    return b""


def write_puback(packet_id: int) -> bytes:
    """A PUBACK that reports success, in any version."""
    return _ACK.pack(0x40, 2, packet_id)


def write_pubrec(packet_id: int) -> bytes:
    """A PUBREC that reports success, in any version."""
    return _ACK.pack(0x50, 2, packet_id)


def write_pubrel(packet_id: int) -> bytes:
    """A PUBREL that reports success, in any version."""
    return _ACK.pack(0x62, 2, packet_id)


def write_pubcomp(packet_id: int) -> bytes:
    """A PUBCOMP that reports success, in any version."""
    return _ACK.pack(0x70, 2, packet_id)


def write_publish(first: int, topic: bytes, packet_id: int, properties: bytes, payload: bytes) -> bytes:
    """A PUBLISH from parts that are written already, for the way out.

    `first` is `PUBLISH` with its flags, `topic` has its length in front, `properties` are empty before 5.0.
    `packet_id` is only used when the flags say QoS 1 or 2. Raises `PacketError` when the packet is too large for MQTT.
    """
    length = len(topic) + len(properties) + len(payload)
    if first & QOS_MASK:
        return fixed_header(first, length + 2) + topic + UINT16.pack(packet_id) + properties + payload
    return fixed_header(first, length) + topic + properties + payload


def _write_publish(packet: Publish, level: int) -> bytes:
    first = PUBLISH | packet.qos << 1 | packet.retain * RETAIN | packet.dup * DUP
    properties = _properties(packet.properties, Place.PUBLISH, level)
    return write_publish(first, write_text(packet.topic), packet.packet_id, properties, packet.payload)


def _connect_flags(packet: Connect) -> int:
    flags = packet.clean_start * CLEAN
    if packet.will is not None:
        flags |= WILL | packet.will.qos << WILL_QOS_SHIFT | packet.will.retain * WILL_RETAIN
    if packet.username is not None:
        flags |= USERNAME
    if packet.password is not None:
        flags |= PASSWORD
    return flags


def _write_will(will: Will | None, level: int) -> bytes:
    if will is None:
        return b""
    return _properties(will.properties, Place.WILL, level) + write_text(will.topic) + write_binary(will.payload)


def _write_connect(packet: Connect, _level: int) -> bytes:
    level = Level(packet.level)
    return _packet(
        0x10,
        write_text(PROTOCOL_NAMES[level])
        + bytes((level, _connect_flags(packet)))
        + UINT16.pack(packet.keep_alive)
        + _properties(packet.properties, Place.CONNECT, level)
        + write_text(packet.client_id)
        + _write_will(packet.will, level)
        + (b"" if packet.username is None else write_text(packet.username))
        + (b"" if packet.password is None else write_binary(packet.password)),
    )


def _write_connack(packet: Connack, level: int) -> bytes:
    return _packet(
        0x20, bytes((packet.session_present, packet.code)) + _properties(packet.properties, Place.CONNACK, level)
    )


def _reason(code: int, properties: Properties, place: Place, level: int) -> bytes:
    """Reason code and properties, left out as far as they say nothing (5.0 §3.4.2.1)."""
    if code == 0 and not _given(properties):
        return b""
    if level < V5:
        raise violation(f"a reason in {place.value} before MQTT 5")
    if not _given(properties):
        return bytes((code,))
    return bytes((code,)) + write_properties(properties, place)


def _acknowledgement(first: int, place: Place) -> Callable[[Puback | Pubrec | Pubrel | Pubcomp, int], bytes]:
    def write(packet: Puback | Pubrec | Pubrel | Pubcomp, level: int) -> bytes:
        reason = _reason(packet.reason_code, packet.properties, place, level)
        return _packet(first, UINT16.pack(packet.packet_id) + reason)

    return write


def _write_subscription(subscription: Subscription, level: int) -> bytes:
    options = subscription.qos
    options |= subscription.no_local * NO_LOCAL
    options |= subscription.retain_as_published * RETAIN_AS_PUBLISHED
    options |= subscription.retain_handling << RETAIN_HANDLING_SHIFT
    if level < V5 and options != subscription.qos:
        raise violation("subscription options before MQTT 5")
    return write_text(subscription.topic_filter) + bytes((options,))


def _write_subscribe(packet: Subscribe, level: int) -> bytes:
    head = UINT16.pack(packet.packet_id) + _properties(packet.properties, Place.SUBSCRIBE, level)
    return _packet(0x82, head + b"".join(_write_subscription(item, level) for item in packet.subscriptions))


def _write_suback(packet: Suback, level: int) -> bytes:
    head = UINT16.pack(packet.packet_id) + _properties(packet.properties, Place.SUBACK, level)
    return _packet(0x90, head + bytes(packet.codes))


def _write_unsubscribe(packet: Unsubscribe, level: int) -> bytes:
    head = UINT16.pack(packet.packet_id) + _properties(packet.properties, Place.UNSUBSCRIBE, level)
    return _packet(0xA2, head + b"".join(write_text(topic_filter) for topic_filter in packet.topic_filters))


def _write_unsuback(packet: Unsuback, level: int) -> bytes:
    if packet.codes and level < V5:
        raise violation("codes in UNSUBACK before MQTT 5")
    head = UINT16.pack(packet.packet_id) + _properties(packet.properties, Place.UNSUBACK, level)
    return _packet(0xB0, head + bytes(packet.codes))


def _write_pingreq(_packet: Pingreq, _level: int) -> bytes:
    return b"\xc0\x00"


def _write_pingresp(_packet: Pingresp, _level: int) -> bytes:
    return PINGRESP


def _write_disconnect(packet: Disconnect, level: int) -> bytes:
    return _packet(0xE0, _reason(packet.reason_code, packet.properties, Place.DISCONNECT, level))


def _write_auth(packet: Auth, level: int) -> bytes:
    if level < V5:
        raise violation("AUTH before MQTT 5")
    return _packet(0xF0, _reason(packet.reason_code, packet.properties, Place.AUTH, level))


# Each writer takes its own type of packet: the key says which.
_WRITERS: Final[Mapping[type[Packet], Callable[[Any, int], bytes]]] = {
    Connect: _write_connect,
    Connack: _write_connack,
    Publish: _write_publish,
    Puback: _acknowledgement(0x40, Place.PUBACK),
    Pubrec: _acknowledgement(0x50, Place.PUBREC),
    Pubrel: _acknowledgement(0x62, Place.PUBREL),
    Pubcomp: _acknowledgement(0x70, Place.PUBCOMP),
    Subscribe: _write_subscribe,
    Suback: _write_suback,
    Unsubscribe: _write_unsubscribe,
    Unsuback: _write_unsuback,
    Pingreq: _write_pingreq,
    Pingresp: _write_pingresp,
    Disconnect: _write_disconnect,
    Auth: _write_auth,
}


def write_packet(packet: Packet, level: int) -> bytes:
    """The bytes of a packet at this protocol level; a CONNECT is written at its own. Raises `PacketError`."""
    return _WRITERS[type(packet)](packet, level)
