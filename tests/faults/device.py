"""An MQTT device that does exactly what a test tells it to: packet by packet, with the identifiers that the test wants.

For what client libraries do by themselves, or not at all: repeat a PUBLISH after a restart, keep a PUBREL back, die.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tests.bench.mqtt_load import mqtt_string
from tests.faults.wire import PINGREQ, Wire, mqtt_packet
from tests.rig.waiting import wait_for

V3_1: Final = 3
V3_1_1: Final = 4
V5: Final = 5

CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
PUBREC: Final = 5
PUBREL: Final = 6
PUBCOMP: Final = 7
SUBACK: Final = 9
UNSUBACK: Final = 11
PINGRESP: Final = 13
DISCONNECT: Final = 14

TAKEN_OVER: Final = 0x8E
NOT_AUTHORIZED: Final = 0x87
QUOTA_EXCEEDED: Final = 0x97
DISCONNECT_WITH_WILL: Final = 0x04

_SESSION_EXPIRY: Final = 0x11
_WILL_DELAY: Final = 0x18
_MESSAGE_EXPIRY: Final = 0x02


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the gateway says for a device that is gone. `delay`: seconds, for MQTT 5."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    delay: int = 0


@dataclass(frozen=True, slots=True)
class Packet:
    """What came: the packet's type, the flags beside it, and the rest."""

    kind: int
    flags: int
    body: bytes

    @property
    def packet_id(self) -> int:
        """Of an acknowledgement."""
        return int.from_bytes(self.body[:2], "big")

    @property
    def reason(self) -> int:
        """Of an acknowledgement: 0 when the packet leaves it out (5.0 §3.4.2.1)."""
        return self.body[2] if len(self.body) > 2 else 0


@dataclass(frozen=True, slots=True)
class Message:
    """A PUBLISH that came."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    dup: bool
    retain: bool
    expiry: int | None = None


class Refused(Exception):
    """CONNACK said no."""

    def __init__(self, code: int) -> None:
        super().__init__(f"CONNACK with {code:#04x}")
        self.code = code


class Device:
    """Connected from the beginning. Leaving the context closes the socket, without a DISCONNECT.

    `expiry`: seconds that the session is kept; older versions know only whether it is (`clean`).
    """

    def __init__(
        self,
        port: int,
        client_id: str,
        *,
        version: int = V5,
        clean: bool = False,
        expiry: int = 600,
        keep_alive: int = 60,
        will: Will | None = None,
        username: str = "",
    ) -> None:
        self.port = port
        self.version = version
        self._packet_id = 0
        self._inbox: deque[Packet] = deque()
        self.wire = Wire(port)
        try:
            self.wire.send(_connect(client_id, version, clean, 0 if clean else expiry, keep_alive, will, username))
            connack = self.expect(CONNACK)
        except BaseException:
            self.drop()
            raise
        if connack.body[1]:
            self.drop()
            raise Refused(connack.body[1])
        self.session_present = bool(connack.body[0] & 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drop()

    # What it sends

    def drop(self) -> None:
        """Be gone, without a word."""
        self.wire.__exit__(None, None, None)

    def disconnect(self, reason: int = 0, *, expiry: int | None = None) -> None:
        """DISCONNECT, then wait until the gateway has closed the connection."""
        body = b""
        if self.version >= V5 and (reason or expiry is not None):
            said = b"" if expiry is None else bytes([_SESSION_EXPIRY]) + struct.pack("!I", expiry)
            body = bytes([reason, len(said)]) + said
        self.wire.send(mqtt_packet(DISCONNECT << 4, body))
        with contextlib.suppress(socket.timeout):
            self.wire.receive_all()
        self.drop()

    def subscribe(self, topic_filter: str, qos: int = 1) -> int:
        """SUBSCRIBE; the code of SUBACK."""
        packet_id = self.next_id()
        options = mqtt_string(topic_filter) + bytes([qos])
        self._send(0x82, struct.pack("!H", packet_id), options)
        suback = self.expect(SUBACK)
        assert suback.packet_id == packet_id
        return suback.body[-1]

    def unsubscribe(self, topic_filter: str) -> None:
        self._send(0xA2, struct.pack("!H", self.next_id()), mqtt_string(topic_filter))
        self.expect(UNSUBACK)

    def send_publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 1,
        *,
        packet_id: int = 0,
        dup: bool = False,
        retain: bool = False,
        expiry: int | None = None,
    ) -> int:
        """PUBLISH, without waiting; its packet identifier. `expiry`: seconds that it may wait, for MQTT 5."""
        packet_id = packet_id or (self.next_id() if qos else 0)
        head = 0x30 | dup << 3 | qos << 1 | retain
        variable = mqtt_string(topic) + (struct.pack("!H", packet_id) if qos else b"")
        self._send(head, variable, payload, _four_bytes(_MESSAGE_EXPIRY, expiry or 0))
        return packet_id

    def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, expiry: int | None = None
    ) -> int:
        """PUBLISH, and what follows until the gateway has it; the reason code of PUBACK or PUBREC."""
        packet_id = self.send_publish(topic, payload, qos, retain=retain, expiry=expiry)
        if qos == 0:
            return 0
        answer = self.expect(PUBACK if qos == 1 else PUBREC)
        assert answer.packet_id == packet_id
        if qos == 2 and answer.reason < 0x80:
            self.release(packet_id)
        return answer.reason

    def release(self, packet_id: int) -> None:
        """PUBREL, and PUBCOMP."""
        self.send_acknowledgement(PUBREL, packet_id)
        assert self.expect(PUBCOMP).packet_id == packet_id

    def send_acknowledgement(self, kind: int, packet_id: int) -> None:
        self.wire.send(mqtt_packet(kind << 4 | (2 if kind == PUBREL else 0), struct.pack("!H", packet_id)))

    def accept(self, message: Message) -> None:
        """Acknowledge a message, to the end of its QoS."""
        if message.qos == 1:
            self.send_acknowledgement(PUBACK, message.packet_id)
        elif message.qos == 2:
            self.send_acknowledgement(PUBREC, message.packet_id)
            assert self.expect(PUBREL).packet_id == message.packet_id
            self.send_acknowledgement(PUBCOMP, message.packet_id)

    def next_id(self) -> int:
        self._packet_id += 1
        return self._packet_id

    def _send(self, head: int, variable: bytes, payload: bytes, properties: bytes = b"\0") -> None:
        self.wire.send(mqtt_packet(head, variable + (properties if self.version >= V5 else b"") + payload))

    # What it gets

    def expect(self, kind: int) -> Packet:
        """The next packet, which has to be of a kind; messages may come before it, and are kept for `message`.

        `ConnectionError` when the connection ends first.
        """
        packet = self._next_packet()
        while packet.kind == PUBLISH != kind:
            self._inbox.append(packet)
            packet = self._next_packet()
        assert packet.kind == kind, f"{packet} came, of kind {packet.kind} and not {kind}"
        return packet

    def _next_packet(self) -> Packet:
        (head,) = self.wire.receive(1)
        size, shift = 0, 0
        while True:
            (digit,) = self.wire.receive(1)
            size |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return Packet(head >> 4, head & 0x0F, self.wire.receive(size))

    def message(self) -> Message:
        """The next message that came, or will come. Nothing is acknowledged."""
        return _message(self._inbox.popleft() if self._inbox else self.expect(PUBLISH), self.version)

    def messages(self, number: int) -> list[bytes]:
        """The payloads of the next messages; each is acknowledged."""
        payloads = []
        for _ in range(number):
            message = self.message()
            self.accept(message)
            payloads.append(message.payload)
        return payloads

    def take_messages(self) -> list[Message]:
        """The messages that have come by now; all are acknowledged."""
        self.ping()
        messages = []
        while self._inbox:
            messages.append(self.message())
            self.accept(messages[-1])
        return messages

    def disconnect_reason(self) -> int:
        """Why the gateway ends the connection, which has to come next."""
        packet = self.expect(DISCONNECT)
        return packet.body[0] if packet.body else 0

    def ping(self) -> None:
        """PINGREQ and PINGRESP: what was sent before has been read."""
        self.wire.send(PINGREQ)
        self.expect(PINGRESP)


def _message(packet: Packet, version: int) -> Message:
    body = packet.body
    size = int.from_bytes(body[:2], "big")
    topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
    qos = packet.flags >> 1 & 3
    packet_id = 0
    if qos:
        packet_id, rest = int.from_bytes(rest[:2], "big"), rest[2:]
    expiry = None
    if version >= V5:
        expiry, rest = _message_expiry(rest[1 : 1 + rest[0]]), rest[1 + rest[0] :]
    return Message(topic, rest, qos, packet_id, bool(packet.flags & 8), bool(packet.flags & 1), expiry)


def connect_again(port: int, client_id: str, *, version: int = V5, clean: bool = False) -> Device:
    """Connect as soon as the gateway lets it."""

    def attempt() -> Device | None:
        with contextlib.suppress(OSError):
            return Device(port, client_id, version=version, clean=clean)
        return None

    return wait_for(attempt, f"{client_id} is connected again")


def _connect(
    client_id: str, version: int, clean: bool, expiry: int, keep_alive: int, will: Will | None, username: str
) -> bytes:
    flags = clean << 1
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
    if username:
        flags |= 0x80
    name = mqtt_string("MQIsdp" if version == V3_1 else "MQTT")
    body = name + bytes([version, flags]) + struct.pack("!H", keep_alive)
    if version >= V5:
        body += _four_bytes(_SESSION_EXPIRY, expiry)
    body += mqtt_string(client_id)
    if will is not None:
        body += _four_bytes(_WILL_DELAY, will.delay) if version >= V5 else b""
        body += mqtt_string(will.topic) + struct.pack("!H", len(will.payload)) + will.payload
    if username:
        body += mqtt_string(username)
    return mqtt_packet(0x10, body)


def _four_bytes(identifier: int, value: int) -> bytes:
    """Properties with one of four bytes in them, and none for 0, which is what leaving it out says."""
    return bytes([5, identifier]) + struct.pack("!I", value) if value else b"\0"


def _message_expiry(properties: bytes) -> int | None:
    """The first property, if it is the message expiry interval: the gateway writes it there."""
    if properties[:1] == bytes([_MESSAGE_EXPIRY]):
        return int.from_bytes(properties[1:5], "big")
    return None
