"""The 15 control packets of MQTT as values, with the fields of all three versions.

Plain slotted classes: a frozen dataclass costs three times as much to make, and one is made for each message. Nobody
changes a packet after it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from gateway.protocols.mqtt.properties import NO_PROPERTIES, Properties


class Level(IntEnum):
    """The protocol level in CONNECT."""

    V3_1 = 3
    V3_1_1 = 4
    V5 = 5


V5: Final = Level.V5.value
"""The level that most differences depend on, for what is read with each message: a member costs 0.1 µs in 3.11."""

PROTOCOL_NAMES: Final[Mapping[int, str]] = {Level.V3_1: "MQIsdp", Level.V3_1_1: "MQTT", Level.V5: "MQTT"}


class PacketType(IntEnum):
    """The high half of a packet's first byte (3.1.1 §2.2.1)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


@dataclass(slots=True)
class Publish:
    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    """0 at QoS 0."""
    retain: bool = False
    dup: bool = False
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Acknowledgement:
    """What the four acknowledgements of PUBLISH share. The last two fields exist in 5.0 only."""

    packet_id: int
    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Puback(Acknowledgement):
    pass


@dataclass(slots=True)
class Pubrec(Acknowledgement):
    pass


@dataclass(slots=True)
class Pubrel(Acknowledgement):
    pass


@dataclass(slots=True)
class Pubcomp(Acknowledgement):
    pass


@dataclass(slots=True, kw_only=True)
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True, kw_only=True)
class Connect:
    client_id: str
    level: int = Level.V3_1_1
    clean_start: bool = True
    """Clean Session of 3.1 and 3.1.1."""
    keep_alive: int = 0
    """Seconds; 0: none."""
    will: Will | None = None
    username: str | None = None
    password: bytes | None = None
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Connack:
    session_present: bool
    code: int
    """A return code in 3.1 and 3.1.1 (§3.2.2.3), a reason code in 5.0."""
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Subscription:
    """One filter of a SUBSCRIBE. All after `qos` exists in 5.0 only."""

    topic_filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Suback:
    packet_id: int
    codes: tuple[int, ...]
    """Return codes in 3.1.1 (0x80: failure), reason codes in 5.0."""
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Unsuback:
    packet_id: int
    codes: tuple[int, ...] = ()
    """Empty before 5.0."""
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Pingreq:
    pass


@dataclass(slots=True)
class Pingresp:
    pass


@dataclass(slots=True)
class Disconnect:
    """Nothing but the type exists before 5.0."""

    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Auth:
    """5.0 only."""

    reason_code: int = 0
    properties: Properties = NO_PROPERTIES


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
