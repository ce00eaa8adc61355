"""Reads the bodies of all packets but PUBLISH, which `codec` reads itself because every message is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from gateway.protocols.mqtt.errors import PacketError, ReasonCode, UnsupportedVersion, malformed, violation
from gateway.protocols.mqtt.fields import FieldReader
from gateway.protocols.mqtt.packets import (
    PROTOCOL_NAMES,
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Level,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Place, Properties, read_properties
from gateway.protocols.mqtt.topics import SHARED_PREFIX, check_topic_name

# The bits of CONNECT's flags (3.1.1 §3.1.2.3 to 3.1.2.9).
RESERVED: Final = 0x01
CLEAN: Final = 0x02
WILL: Final = 0x04
WILL_QOS_SHIFT: Final = 3
WILL_RETAIN: Final = 0x20
PASSWORD: Final = 0x40
USERNAME: Final = 0x80

# The bits of a subscription's options (5.0 §3.8.3.1).
NO_LOCAL: Final = 0x04
RETAIN_AS_PUBLISHED: Final = 0x08
RETAIN_HANDLING_SHIFT: Final = 4

MAX_QOS: Final = 2

MAX_FILTERS: Final = 20_000
"""In one SUBSCRIBE or UNSUBSCRIBE. One takes 4 bytes on the wire, 90 in memory and a microsecond: the packet size
bounds too little."""

_PUBLISH_REASONS: Final = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_RELEASE_REASONS: Final = frozenset({0x00, 0x92})
_CONNACK_REASONS: Final = frozenset(
    {0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}
)
_RETURN_CODES: Final = frozenset(range(6))
_SUBACK_REASONS: Final = frozenset({0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2})
_SUBACK_CODES: Final[Mapping[int, frozenset[int]]] = {
    Level.V3_1: frozenset({0, 1, 2}),
    Level.V3_1_1: frozenset({0, 1, 2, 0x80}),  # [MQTT-3.9.3-2]
    Level.V5: _SUBACK_REASONS,
}
_UNSUBACK_REASONS: Final = frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91})
_DISCONNECT_REASONS: Final = frozenset(
    {0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3)}
)
_AUTH_REASONS: Final = frozenset({0x00, 0x18, 0x19})


def _code(code: int, allowed: frozenset[int], place: Place) -> int:
    if code not in allowed:
        raise malformed(f"code 0x{code:02X} in {place.value}")
    return code


def _properties(fields: FieldReader, level: int, place: Place) -> Properties:
    return read_properties(fields, place) if level >= V5 else NO_PROPERTIES


def _read_level(fields: FieldReader) -> int:
    name = fields.text()
    if name not in PROTOCOL_NAMES.values():
        raise violation("the protocol name is not MQTT's")  # [MQTT-3.1.2-1]
    level = fields.byte()
    if PROTOCOL_NAMES.get(level) != name:
        raise UnsupportedVersion(level)
    return level


def _check_connect_flags(flags: int, level: int) -> None:
    if flags & RESERVED and level > Level.V3_1:
        raise malformed("the reserved flag of CONNECT is set")  # [MQTT-3.1.2-3]
    will_qos = flags >> WILL_QOS_SHIFT & 3
    if will_qos > MAX_QOS:
        raise malformed("a will with QoS 3")  # [MQTT-3.1.2-14]
    if not flags & WILL and flags & (WILL_RETAIN | 3 << WILL_QOS_SHIFT):
        raise malformed("flags of a will, and no will")  # [MQTT-3.1.2-13] [MQTT-3.1.2-15]
    if flags & PASSWORD and not flags & USERNAME and level < V5:
        raise malformed("a password without a user name")  # [MQTT-3.1.2-22]; 5.0 allows it


def _read_will(fields: FieldReader, flags: int, level: int) -> Will | None:
    if not flags & WILL:
        return None
    properties = _properties(fields, level, Place.WILL)
    return Will(
        topic=check_topic_name(fields.text()),
        payload=fields.binary(),
        qos=flags >> WILL_QOS_SHIFT & 3,
        retain=bool(flags & WILL_RETAIN),
        properties=properties,
    )


def _read_connect(fields: FieldReader, _level: int) -> Connect:
    level = _read_level(fields)
    flags = fields.byte()
    _check_connect_flags(flags, level)
    keep_alive = fields.uint16()
    properties = _properties(fields, level, Place.CONNECT)
    client_id = fields.text()
    will = _read_will(fields, flags, level)
    # 3.1 §3.1: the remaining length goes before the flags, the fields that they announce may be missing.
    lenient = level == Level.V3_1
    has_username = flags & USERNAME and not (lenient and not fields.remaining)
    username = fields.text() if has_username else None
    has_password = flags & PASSWORD and not (lenient and not fields.remaining)
    password = fields.binary() if has_password else None
    return Connect(
        client_id=client_id,
        level=level,
        clean_start=bool(flags & CLEAN),
        keep_alive=keep_alive,
        will=will,
        username=username,
        password=password,
        properties=properties,
    )


def _read_connack(fields: FieldReader, level: int) -> Connack:
    flags = fields.byte()
    if flags > 1 and level > Level.V3_1:
        raise malformed("reserved flags of CONNACK are set")  # 3.1.1 §3.2.2.1
    allowed = _CONNACK_REASONS if level >= V5 else _RETURN_CODES
    code = _code(fields.byte(), allowed, Place.CONNACK)
    session_present = bool(flags & 1) and level > Level.V3_1
    if session_present and code:
        raise violation("CONNACK refuses, and tells of a session")  # [MQTT-3.2.2-4]
    return Connack(session_present, code, _properties(fields, level, Place.CONNACK))


def _acknowledgement(
    kind: type[Puback | Pubrec | Pubrel | Pubcomp], place: Place, reasons: frozenset[int]
) -> Callable[[FieldReader, int], Packet]:
    def read(fields: FieldReader, level: int) -> Packet:
        packet_id = fields.packet_id()
        if level < V5 or not fields.remaining:
            return kind(packet_id)
        code = _code(fields.byte(), reasons, place)
        return kind(packet_id, code, read_properties(fields, place) if fields.remaining else NO_PROPERTIES)

    return read


def _read_subscription(fields: FieldReader, level: int) -> Subscription:
    topic_filter = fields.text()
    options = fields.byte()
    qos = options & 3
    if qos > MAX_QOS:
        raise malformed("a subscription with QoS 3")  # [MQTT-3.8.3-4]
    if level == Level.V3_1:  # 3.1 §3.8: the upper six bits are not used
        return Subscription(topic_filter, qos)
    if level < V5:
        if options > MAX_QOS:
            raise malformed("reserved bits of a subscription are set")  # [MQTT-3.8.3-4]
        return Subscription(topic_filter, qos)
    retain_handling = options >> RETAIN_HANDLING_SHIFT & 3
    if options > 0x3F or retain_handling > MAX_QOS:
        raise malformed("reserved bits of a subscription are set")  # 5.0 [MQTT-3.8.3-5]
    no_local = bool(options & NO_LOCAL)
    if no_local and topic_filter.startswith(SHARED_PREFIX):
        raise violation("a shared subscription with No Local")  # 5.0 [MQTT-3.8.3-4]
    return Subscription(topic_filter, qos, no_local, bool(options & RETAIN_AS_PUBLISHED), retain_handling)


def _check_count(filters: Sequence[object]) -> None:
    """Raises `PacketError` when there is no room for another."""
    if len(filters) >= MAX_FILTERS:
        raise PacketError(ReasonCode.QUOTA_EXCEEDED, f"more than {MAX_FILTERS} filters in one packet")


def _read_subscribe(fields: FieldReader, level: int) -> Subscribe:
    packet_id = fields.packet_id()
    properties = _properties(fields, level, Place.SUBSCRIBE)
    subscriptions: list[Subscription] = []
    while fields.remaining:
        _check_count(subscriptions)
        subscriptions.append(_read_subscription(fields, level))
    if not subscriptions:
        raise violation("SUBSCRIBE without a filter")  # [MQTT-3.8.3-3]
    return Subscribe(packet_id, tuple(subscriptions), properties)


def _read_codes(fields: FieldReader, allowed: frozenset[int], place: Place) -> tuple[int, ...]:
    codes = tuple(fields.raw(fields.remaining))
    if not codes:
        raise malformed(f"{place.value} without a code")
    for code in codes:
        _code(code, allowed, place)
    return codes


def _read_suback(fields: FieldReader, level: int) -> Suback:
    packet_id = fields.packet_id()
    properties = _properties(fields, level, Place.SUBACK)
    return Suback(packet_id, _read_codes(fields, _SUBACK_CODES[level], Place.SUBACK), properties)


def _read_unsubscribe(fields: FieldReader, level: int) -> Unsubscribe:
    packet_id = fields.packet_id()
    properties = _properties(fields, level, Place.UNSUBSCRIBE)
    topic_filters: list[str] = []
    while fields.remaining:
        _check_count(topic_filters)
        topic_filters.append(fields.text())
    if not topic_filters:
        raise violation("UNSUBSCRIBE without a filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, tuple(topic_filters), properties)


def _read_unsuback(fields: FieldReader, level: int) -> Unsuback:
    packet_id = fields.packet_id()
    if level < V5:
        return Unsuback(packet_id)
    properties = read_properties(fields, Place.UNSUBACK)
    return Unsuback(packet_id, _read_codes(fields, _UNSUBACK_REASONS, Place.UNSUBACK), properties)


def _read_pingreq(_fields: FieldReader, _level: int) -> Pingreq:
    return Pingreq()


def _read_pingresp(_fields: FieldReader, _level: int) -> Pingresp:
    return Pingresp()


def _read_disconnect(fields: FieldReader, level: int) -> Disconnect:
    if level < V5 or not fields.remaining:
        return Disconnect()
    code = _code(fields.byte(), _DISCONNECT_REASONS, Place.DISCONNECT)
    return Disconnect(code, read_properties(fields, Place.DISCONNECT) if fields.remaining else NO_PROPERTIES)


def _read_auth(fields: FieldReader, _level: int) -> Auth:
    if not fields.remaining:
        return Auth(ReasonCode.SUCCESS)
    code = _code(fields.byte(), _AUTH_REASONS, Place.AUTH)
    return Auth(code, read_properties(fields, Place.AUTH) if fields.remaining else NO_PROPERTIES)


_BodyReader: TypeAlias = "Callable[[FieldReader, int], Packet]"

_READERS: Final[Mapping[int, _BodyReader]] = {
    PacketType.CONNECT: _read_connect,
    PacketType.CONNACK: _read_connack,
    PacketType.PUBACK: _acknowledgement(Puback, Place.PUBACK, _PUBLISH_REASONS),
    PacketType.PUBREC: _acknowledgement(Pubrec, Place.PUBREC, _PUBLISH_REASONS),
    PacketType.PUBREL: _acknowledgement(Pubrel, Place.PUBREL, _RELEASE_REASONS),
    PacketType.PUBCOMP: _acknowledgement(Pubcomp, Place.PUBCOMP, _RELEASE_REASONS),
    PacketType.SUBSCRIBE: _read_subscribe,
    PacketType.SUBACK: _read_suback,
    PacketType.UNSUBSCRIBE: _read_unsubscribe,
    PacketType.UNSUBACK: _read_unsuback,
    PacketType.PINGREQ: _read_pingreq,
    PacketType.PINGRESP: _read_pingresp,
    PacketType.DISCONNECT: _read_disconnect,
    PacketType.AUTH: _read_auth,
}


def read_body(packet_type: int, level: int, data: bytes, start: int, end: int) -> Packet:
    """Read the packet whose variable header begins at `start` and whose last byte is before `end`.

    `level` is ignored for CONNECT, which says its own. Raises `PacketError`.
    """
    fields = FieldReader(data, start, end)
    packet = _READERS[packet_type](fields, level)
    fields.finish()
    return packet
