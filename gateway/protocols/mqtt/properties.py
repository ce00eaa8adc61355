"""The properties of MQTT 5 (5.0 §2.2.2): one table says identifier, type and packets of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias, cast

from gateway.protocols.mqtt.errors import PacketError, ReasonCode, malformed, violation
from gateway.protocols.mqtt.fields import (
    UINT16,
    UINT32,
    FieldReader,
    write_binary,
    write_text,
    write_variable_int,
)
from gateway.protocols.mqtt.topics import check_topic_name

MAX_USER_PROPERTIES: Final = 1000
"""Pairs in one packet. One takes 5 bytes on the wire and over 150 in memory: the packet size bounds too little."""

UserProperties: TypeAlias = tuple[tuple[str, str], ...]


# Not frozen, because that costs 4 µs for so many fields; nobody changes properties after they were made.
@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Properties:
    """What a packet says beside its own fields, under the specification's names. None: not given."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifier: tuple[int, ...] = ()
    session_expiry_interval: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_interval: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_property: UserProperties = ()
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


NO_PROPERTIES: Final = Properties()


class Place(Enum):
    """Where properties stand: one of the packets that have them, or the will in a CONNECT."""

    CONNECT = "CONNECT"
    WILL = "will"
    CONNACK = "CONNACK"
    PUBLISH = "PUBLISH"
    PUBACK = "PUBACK"
    PUBREC = "PUBREC"
    PUBREL = "PUBREL"
    PUBCOMP = "PUBCOMP"
    SUBSCRIBE = "SUBSCRIBE"
    SUBACK = "SUBACK"
    UNSUBSCRIBE = "UNSUBSCRIBE"
    UNSUBACK = "UNSUBACK"
    DISCONNECT = "DISCONNECT"
    AUTH = "AUTH"


_Value: TypeAlias = "int | str | bytes | tuple[str, str]"


class _Type(NamedTuple):
    read: Callable[[FieldReader], _Value]
    write: Callable[[_Value], bytes]


class _Property(NamedTuple):
    identifier: int
    name: str
    type: _Type
    places: frozenset[Place]


def _read_flag(fields: FieldReader) -> int:
    value = fields.byte()
    if value > 1:
        raise violation(f"a property has the value {value}; it can have 0 and 1")
    return value


def _read_positive(value: int) -> int:
    if value == 0:
        raise violation("a property that must not be 0 is 0")
    return value


def _read_alias(fields: FieldReader) -> int:
    value = fields.uint16()
    if value == 0:
        raise PacketError(ReasonCode.TOPIC_ALIAS_INVALID, "topic alias 0")  # [MQTT-3.3.2-8]
    return value


def _write_pair(value: _Value) -> bytes:
    key, text = cast("tuple[str, str]", value)
    return write_text(key) + write_text(text)


def _write_byte(value: _Value) -> bytes:
    return bytes((cast("int", value),))


def _write_uint16(value: _Value) -> bytes:
    return UINT16.pack(cast("int", value))


def _write_uint32(value: _Value) -> bytes:
    return UINT32.pack(cast("int", value))


def _write_text(value: _Value) -> bytes:
    return write_text(cast("str", value))


_FLAG: Final = _Type(_read_flag, _write_byte)
_UINT16: Final = _Type(FieldReader.uint16, _write_uint16)
_COUNT16: Final = _Type(lambda fields: _read_positive(fields.uint16()), _write_uint16)
_ALIAS: Final = _Type(_read_alias, _write_uint16)
_UINT32: Final = _Type(FieldReader.uint32, _write_uint32)
_COUNT32: Final = _Type(lambda fields: _read_positive(fields.uint32()), _write_uint32)
_COUNT: Final = _Type(
    lambda fields: _read_positive(fields.variable_int()), lambda value: write_variable_int(cast("int", value))
)
_TEXT: Final = _Type(FieldReader.text, _write_text)
_TOPIC: Final = _Type(lambda fields: check_topic_name(fields.text()), _write_text)  # [MQTT-3.3.2-14]
_BINARY: Final = _Type(FieldReader.binary, lambda value: write_binary(cast("bytes", value)))
_PAIR: Final = _Type(lambda fields: (fields.text(), fields.text()), _write_pair)

_CONNECT: Final = frozenset({Place.CONNECT})
_CONNACK: Final = frozenset({Place.CONNACK})
_MESSAGE: Final = frozenset({Place.PUBLISH, Place.WILL})
_OPENING: Final = frozenset({Place.CONNECT, Place.CONNACK})
_EVERYWHERE: Final = frozenset(Place)
_REASONED: Final = _EVERYWHERE - _CONNECT - _MESSAGE - {Place.SUBSCRIBE, Place.UNSUBSCRIBE}

_TABLE: Final = (  # 5.0 table 2-4
    _Property(0x01, "payload_format_indicator", _FLAG, _MESSAGE),
    _Property(0x02, "message_expiry_interval", _UINT32, _MESSAGE),
    _Property(0x03, "content_type", _TEXT, _MESSAGE),
    _Property(0x08, "response_topic", _TOPIC, _MESSAGE),
    _Property(0x09, "correlation_data", _BINARY, _MESSAGE),
    _Property(0x0B, "subscription_identifier", _COUNT, frozenset({Place.PUBLISH, Place.SUBSCRIBE})),
    _Property(0x11, "session_expiry_interval", _UINT32, _OPENING | {Place.DISCONNECT}),
    _Property(0x12, "assigned_client_identifier", _TEXT, _CONNACK),
    _Property(0x13, "server_keep_alive", _UINT16, _CONNACK),
    _Property(0x15, "authentication_method", _TEXT, _OPENING | {Place.AUTH}),
    _Property(0x16, "authentication_data", _BINARY, _OPENING | {Place.AUTH}),
    _Property(0x17, "request_problem_information", _FLAG, _CONNECT),
    _Property(0x18, "will_delay_interval", _UINT32, frozenset({Place.WILL})),
    _Property(0x19, "request_response_information", _FLAG, _CONNECT),
    _Property(0x1A, "response_information", _TEXT, _CONNACK),
    _Property(0x1C, "server_reference", _TEXT, _CONNACK | {Place.DISCONNECT}),
    _Property(0x1F, "reason_string", _TEXT, _REASONED),
    _Property(0x21, "receive_maximum", _COUNT16, _OPENING),
    _Property(0x22, "topic_alias_maximum", _UINT16, _OPENING),
    _Property(0x23, "topic_alias", _ALIAS, frozenset({Place.PUBLISH})),
    _Property(0x24, "maximum_qos", _FLAG, _CONNACK),
    _Property(0x25, "retain_available", _FLAG, _CONNACK),
    _Property(0x26, "user_property", _PAIR, _EVERYWHERE),
    _Property(0x27, "maximum_packet_size", _COUNT32, _OPENING),
    _Property(0x28, "wildcard_subscription_available", _FLAG, _CONNACK),
    _Property(0x29, "subscription_identifier_available", _FLAG, _CONNACK),
    _Property(0x2A, "shared_subscription_available", _FLAG, _CONNACK),
)

_REPEATABLE: Final = frozenset(
    {("user_property", place) for place in Place} | {("subscription_identifier", Place.PUBLISH)}
)
_TUPLES: Final = frozenset({"user_property", "subscription_identifier"})

_BY_IDENTIFIER: Final[Mapping[Place, Mapping[int, _Property]]] = {
    place: {entry.identifier: entry for entry in _TABLE if place in entry.places} for place in Place
}


def read_properties(fields: FieldReader, place: Place) -> Properties:
    """Take the property length and the properties. Raises `PacketError`."""
    length = fields.variable_int()
    if length == 0:
        return NO_PROPERTIES
    section = fields.section(length)
    known = _BY_IDENTIFIER[place]
    single: dict[str, _Value] = {}
    repeated: dict[str, list[_Value]] = {}
    while section.remaining:
        identifier = section.byte()  # a variable byte integer in name; none needs more than a byte
        entry = known.get(identifier)
        if entry is None:
            raise malformed(f"property 0x{identifier:02X} in {place.value}")  # 5.0 §2.2.2.2
        value = entry.type.read(section)
        if entry.name in _TUPLES:
            _append(repeated.setdefault(entry.name, []), value, entry.name, place)
        elif entry.name in single:
            raise violation(f"{entry.name} twice in {place.value}")
        else:
            single[entry.name] = value
    return _made(single, repeated)


def _append(values: list[_Value], value: _Value, name: str, place: Place) -> None:
    if values and (name, place) not in _REPEATABLE:
        raise violation(f"{name} twice in {place.value}")
    if len(values) >= MAX_USER_PROPERTIES:
        raise PacketError(ReasonCode.QUOTA_EXCEEDED, f"more than {MAX_USER_PROPERTIES} times {name} in {place.value}")
    values.append(value)


def _made(single: Mapping[str, _Value], repeated: Mapping[str, list[_Value]]) -> Properties:
    if "authentication_data" in single and "authentication_method" not in single:
        raise violation("authentication data without a method")  # 5.0 §3.1.2.11.10
    tuples = {name: tuple(values) for name, values in repeated.items()}
    # The table gives each name the type of its field; a test reads and writes every one of them.
    return Properties(**single, **tuples)  # type: ignore[arg-type]


def write_properties(properties: Properties, place: Place) -> bytes:
    """The properties with their length, in the order of their identifiers. Raises `PacketError`."""
    if properties is NO_PROPERTIES:
        return b"\0"
    fields = write_fields(properties, place)
    return write_variable_int(len(fields)) + fields


def write_fields(properties: Properties, place: Place) -> bytes:
    """The same without the length, for whoever has more to add. Raises `PacketError`."""
    out = bytearray()
    for identifier, name, kind, places in _TABLE:
        value = getattr(properties, name)
        if value is None or value == ():
            continue
        if place not in places:
            raise violation(f"{name} in {place.value}")
        values = value if name in _TUPLES else (value,)
        if len(values) > 1 and (name, place) not in _REPEATABLE:
            raise violation(f"{name} twice in {place.value}")
        for item in values:
            out.append(identifier)
            out += kind.write(item)
    return bytes(out)
