"""Correct MQTT packets of every version, with all their fields, and damage that keeps the frame around it whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from gateway.protocols.mqtt.fields import write_variable_int
from gateway.protocols.mqtt.packets import (
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
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Place, Properties
from tests.fuzz.cases import often
from tests.fuzz.mutations import mutate

LEVELS: Final[Mapping[int, float]] = {Level.V3_1: 1, Level.V3_1_1: 3, Level.V5: 3}
"""Versions, as often as they are tried."""

TOPICS: Final = (
    "a",
    "a/b",
    "a/b/c",
    "/",
    "a//b",
    "$SYS/x",
    "sensors/é/☃",
    "a.b/c.d",
    "*",
    "x" * 210,
    "/".join("y" * 40),
)
FILTERS: Final = (
    *TOPICS,
    "#",
    "+",
    "a/#",
    "+/b",
    "a/+/c",
    "+/+/#",
    "$share/g/a/#",
    "$share//a",
    "$SYS/#",
    "a/*",
    "a#",
    "",
    "/+",
)
TEXTS: Final = ("", "a", "text/plain", "ключ", "x" * 300, "\U0001f4a9", "\ufeff", "z" * 65_535)
PACKET_IDS: Final = (1, 1, 1, 2, 2, 3, 4, 5, 255, 256, 65_535)
"""Few, so that they meet again."""

Value: TypeAlias = "int | str | bytes | tuple[int, ...] | tuple[tuple[str, str], ...]"
AcknowledgementType: TypeAlias = type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]
Values: TypeAlias = Mapping[str, Callable[[random.Random], Value]]


def text(rng: random.Random) -> str:
    return often(rng, {"": 1, "a": 4, "c": 4, rng.choice(TEXTS): 1})


def payload(rng: random.Random) -> bytes:
    return rng.randbytes(often(rng, {0: 1, 3: 6, 40: 3, 130: 2, 1500: 0.3}))


def _flag(rng: random.Random) -> int:
    return rng.randint(0, 1)


def _positive(rng: random.Random) -> int:
    return rng.choice((1, 2, 10, 1000, 65_535))


def _seconds(rng: random.Random) -> int:
    return rng.choice((0, 1, 60, 2**32 - 1))


def _pairs(rng: random.Random) -> tuple[tuple[str, str], ...]:
    count = often(rng, {1: 10, 3: 3, 40: 0.5, 1001: 0.05})
    return tuple((text(rng)[:300], text(rng)[:300]) for _ in range(count))


def _identifiers(rng: random.Random) -> tuple[int, ...]:
    return (rng.choice((1, 127, 128, 268_435_455)),)


# 5.0 table 2-4, with values that are well formed.
_MESSAGE: Final[Values] = {
    "payload_format_indicator": _flag,
    "message_expiry_interval": _seconds,
    "content_type": text,
    "response_topic": lambda rng: rng.choice(TOPICS),
    "correlation_data": payload,
    "user_property": _pairs,
}
_SESSION: Final[Values] = {
    "session_expiry_interval": _seconds,
    "receive_maximum": _positive,
    "maximum_packet_size": lambda rng: rng.choice((1, 20, 100, 10_000, 2**32 - 1)),
    "topic_alias_maximum": lambda rng: rng.choice((0, 1, 10, 65_535)),
    "user_property": _pairs,
}
_REASON: Final[Values] = {"reason_string": text, "user_property": _pairs}
_VALUES: Final[Mapping[Place, Values]] = {
    Place.CONNECT: {**_SESSION, "request_problem_information": _flag, "request_response_information": _flag},
    Place.WILL: {**_MESSAGE, "will_delay_interval": _seconds},
    Place.PUBLISH: {**_MESSAGE, "topic_alias": _positive},
    Place.SUBSCRIBE: {"subscription_identifier": _identifiers, "user_property": _pairs},
    Place.UNSUBSCRIBE: {"user_property": _pairs},
    Place.CONNACK: {**_SESSION, **_REASON, "server_keep_alive": _positive, "maximum_qos": _flag},
    Place.DISCONNECT: {**_REASON, "session_expiry_interval": _seconds},
    Place.AUTH: {"authentication_method": text, "user_property": _pairs},
}


class PacketMaker:
    """Makes packets of one protocol level, as one client does: some never use QoS 2."""

    def __init__(self, rng: random.Random, level: int) -> None:
        self._rng = rng
        self._level = level
        self._max_qos = rng.choice((1, 2, 2))

    def connect(self) -> Connect:
        rng = self._rng
        username = text(rng) if rng.random() < 0.3 else None
        password = payload(rng) if username is not None and rng.random() < 0.7 else None
        return Connect(
            client_id=rng.choice(("", "c", "c1", "device-é")) if rng.random() < 0.95 else text(rng),
            level=self._level,
            clean_start=rng.random() < 0.7,
            keep_alive=rng.choice((0, 0, 1, 5, 60, 65_535)),
            will=self._will() if rng.random() < 0.4 else None,
            username=username,
            password=password,
            properties=self._properties(Place.CONNECT),
        )

    def client_packet(self) -> Packet:
        """One that a client sends when it is let in."""
        return often(self._rng, _CLIENT_PACKETS)(self)

    def server_packet(self) -> Packet:
        """One that only a server sends."""
        rng = self._rng
        codes = tuple(rng.choice((0, 1, 2)) for _ in range(rng.randint(1, 5)))
        v5 = self._level >= V5
        return rng.choice(
            (
                Connack(False, 0, self._properties(Place.CONNACK)),
                Suback(self._packet_id(), codes, self._properties(Place.SUBACK)),
                Unsuback(self._packet_id(), (0,) * len(codes) if v5 else (), self._properties(Place.UNSUBACK)),
                Pingresp(),
            )
        )

    def packet(self) -> Packet:
        """Any."""
        return often(self._rng, {self.client_packet: 10, self.server_packet: 3, self.connect: 1})()

    def publish(self) -> Packet:
        rng = self._rng
        qos = rng.randint(0, self._max_qos)
        packet_id = self._packet_id() if qos else 0
        dup = qos > 0 and rng.random() < 0.2
        properties = self._properties(Place.PUBLISH)
        topic = "" if properties.topic_alias is not None and rng.random() < 0.5 else rng.choice(TOPICS)
        return Publish(topic, payload(rng), qos, packet_id, rng.random() < 0.2, dup, properties)

    def acknowledgement(self) -> Packet:
        kinds: Mapping[AcknowledgementType, float] = {Puback: 4, Pubrec: 2, Pubrel: 3, Pubcomp: 2}
        kind = Puback if self._max_qos == 1 else often(self._rng, kinds)
        code = self._rng.choice((0x10, 0x80, 0x97) if kind in (Puback, Pubrec) else (0x92,))
        if self._level < V5 or self._rng.random() < 0.7:
            return kind(self._packet_id())
        return kind(self._packet_id(), code, self._properties(Place.PUBACK))

    def subscribe(self) -> Packet:
        rng = self._rng
        count = often(rng, {1: 6, 2: 3, 5: 2, 60: 0.2})
        subscriptions = tuple(self._subscription() for _ in range(count))
        return Subscribe(self._packet_id(), subscriptions, self._properties(Place.SUBSCRIBE))

    def unsubscribe(self) -> Packet:
        topic_filters = tuple(self._rng.choice(FILTERS) for _ in range(self._rng.randint(1, 4)))
        return Unsubscribe(self._packet_id(), topic_filters, self._properties(Place.UNSUBSCRIBE))

    def pingreq(self) -> Packet:
        return Pingreq()

    def disconnect(self) -> Packet:
        if self._level < V5:
            return Disconnect()
        return Disconnect(self._rng.choice((0, 4, 0x81)), self._properties(Place.DISCONNECT))

    def auth(self) -> Packet:
        return Auth(0x18, self._properties(Place.AUTH)) if self._level >= V5 else Pingreq()

    def _packet_id(self) -> int:
        return self._rng.choice(PACKET_IDS)

    def _subscription(self) -> Subscription:
        rng = self._rng
        topic_filter, qos = rng.choice(FILTERS), rng.randint(0, 2)
        if self._level < V5:
            return Subscription(topic_filter, qos)
        no_local = rng.random() < 0.3 and not topic_filter.startswith("$share/")
        return Subscription(topic_filter, qos, no_local, rng.random() < 0.3, rng.randint(0, 2))

    def _will(self) -> Will:
        rng = self._rng
        return Will(
            topic=rng.choice(TOPICS),
            payload=payload(rng),
            qos=rng.randint(0, 2),
            retain=rng.random() < 0.3,
            properties=self._properties(Place.WILL),
        )

    def _properties(self, place: Place) -> Properties:
        rng = self._rng
        if self._level < V5 or rng.random() < 0.6:
            return NO_PROPERTIES
        values = _VALUES.get(place, _REASON)
        names = rng.sample(list(values), rng.randint(0, min(4, len(values))))
        return Properties(**{name: values[name](rng) for name in names})  # type: ignore[arg-type]


_CLIENT_PACKETS: Final[Mapping[Callable[[PacketMaker], Packet], float]] = {
    PacketMaker.publish: 8,
    PacketMaker.acknowledgement: 4,
    PacketMaker.subscribe: 3,
    PacketMaker.unsubscribe: 1.5,
    PacketMaker.pingreq: 1,
    PacketMaker.disconnect: 0.1,
    PacketMaker.auth: 0.05,
}


def split(wire: bytes) -> tuple[int, bytes]:
    """First byte and body of one packet that is well formed."""
    start = 1
    while wire[start] >= 0x80:
        start += 1
    return wire[0], wire[start + 1 :]


def damage(rng: random.Random, wire: bytes, spare: bytes) -> bytes:
    """Anywhere; or in the body only, with the length put right, so that what is inside is read too."""
    if rng.random() < 0.4:
        return mutate(rng, wire, spare)
    first, body = split(wire)
    body = mutate(rng, body, spare) if body else rng.randbytes(rng.randint(1, 4))
    return bytes((first,)) + write_variable_int(len(body)) + body
