"""MQTT 3.1.1 load beside QoS 1 publishes: publishers at QoS 0 and 2, subscribers, and idle ones."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final

from tests.bench.mqtt_load import (
    CYCLE,
    PINGREQ,
    PINGRESP,
    IdleConnection,
    MqttConnection,
    mqtt_string,
    remaining_length,
)
from tests.bench.payload import telemetry

ACKNOWLEDGEMENT_BYTES: Final = 4
SUBACK_BYTES: Final = 5
GRANTED_QOS_1: Final = b"\x90\x03\x00\x01\x01"
_PUBREC: Final = 0x50
_PUBCOMP: Final = 0x70
_PUBREL: Final = 0x62


def subscribe_packet(topic_filter: str, qos: int) -> bytes:
    body = struct.pack("!H", 1) + mqtt_string(topic_filter) + bytes([qos])
    return b"\x82" + remaining_length(len(body)) + body


def publish_packet(topic: str, payload: bytes, qos: int, packet_id: int = 0) -> bytes:
    variable = mqtt_string(topic) + (struct.pack("!H", packet_id) if qos else b"")
    return bytes([0x30 | qos << 1]) + remaining_length(len(variable) + len(payload)) + variable + payload


class FencedPublisher(MqttConnection):
    """QoS 0, `window` publishes at a time: a PINGREQ behind each window says when all of it was read."""

    def __init__(self, client_id: str, topic: str, payload_bytes: int, window: int) -> None:
        super().__init__(client_id)
        self._block = b"".join(publish_packet(topic, telemetry(each, payload_bytes), 0) for each in range(window))
        self._window = window
        self._stopped = False
        self._pong = b""
        self.acked = 0
        """Publishes that were read."""

    def start(self) -> None:
        self._send()

    def stop(self) -> None:
        """Send no more; `ended` is done when the last window was read."""
        self._stopped = True

    def answered(self, data: bytes) -> None:
        self._pong += data
        if self._pong != PINGRESP:
            if not PINGRESP.startswith(self._pong):
                self.fail(f"{self.client_id}: {self._pong.hex()} for a PINGREQ")
            return
        self._pong = b""
        self.acked += self._window
        if not self._stopped:
            self._send()
        elif not self.ended.done():
            self.ended.set_result(None)

    def _send(self) -> None:
        if self.transport is not None:
            self.transport.write(self._block + PINGREQ)


class TwofoldPublisher(MqttConnection):
    """QoS 2, `window` publishes between PUBLISH and PUBCOMP."""

    def __init__(self, client_id: str, topic: str, payload_bytes: int, window: int) -> None:
        super().__init__(client_id)
        self._packets = [publish_packet(topic, telemetry(each, payload_bytes), 2, each) for each in range(1, CYCLE + 1)]
        self._window = window
        self._next = 0
        self._received = 0
        self._stopped = False
        self._rest = b""
        self.sent = 0
        self.acked = 0
        """Publishes with a PUBCOMP."""

    def start(self) -> None:
        self._send(self._window)

    def stop(self) -> None:
        """Send no more; `ended` is done when all is complete."""
        self._stopped = True
        self._end_when_quiet()

    def answered(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % ACKNOWLEDGEMENT_BYTES
        self._rest = data[whole:]
        releases = bytearray()
        before = self.acked
        for head, length, packet_id in struct.iter_unpack("!BBH", data[:whole]):
            if head == _PUBREC and length == 2 and packet_id == self._received % CYCLE + 1:
                self._received += 1
                releases += struct.pack("!BBH", _PUBREL, 2, packet_id)
            elif head == _PUBCOMP and length == 2 and packet_id == self.acked % CYCLE + 1:
                self.acked += 1
            else:
                self.fail(f"{self.client_id}: {head:#x} for {packet_id}, out of order")
                return
        if releases and self.transport is not None:
            self.transport.write(bytes(releases))
        if not self._stopped:
            self._send(self.acked - before)
        else:
            self._end_when_quiet()

    def _send(self, number: int) -> None:
        packets = [self._packets[(self._next + each) % CYCLE] for each in range(number)]
        self._next = (self._next + number) % CYCLE
        self.sent += number
        if packets and self.transport is not None:
            self.transport.write(b"".join(packets))

    def _end_when_quiet(self) -> None:
        if self.acked == self.sent and not self.ended.done():
            self.ended.set_result(None)


class Subscriber(MqttConnection):
    """Counts the messages of one topic, and acknowledges those at QoS 1. All of them have the same length."""

    def __init__(self, client_id: str, topic: str, payload_bytes: int, qos: int, received: Callable[[], None]) -> None:
        super().__init__(client_id)
        self._topic, self._qos, self._on_received = topic, qos, received
        self._packet = publish_packet(topic, telemetry(0, payload_bytes), qos)
        self._id_at = len(self._packet) - payload_bytes - 2
        self._rest = b""
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = 0

    def subscribe(self) -> None:
        if self.transport is not None:
            self.transport.write(subscribe_packet(self._topic, self._qos))

    def answered(self, data: bytes) -> None:
        data = self._rest + data
        if not self.subscribed.done():
            if len(data) < SUBACK_BYTES:
                self._rest = data
                return
            if data[:SUBACK_BYTES] != b"\x90\x03\x00\x01" + bytes([self._qos]):
                self.fail(f"{self.client_id}: {data.hex()} for a SUBSCRIBE")
                return
            self.subscribed.set_result(None)
            data = data[SUBACK_BYTES:]
        size = len(self._packet)
        number = len(data) // size
        self._rest = data[number * size :]
        if any(data[each * size] & 0xF6 != self._packet[0] for each in range(number)):
            self.fail(f"{self.client_id}: not the message that was expected")
        elif number:
            self._take(data, number)

    def _take(self, data: bytes, number: int) -> None:
        if self._qos and self.transport is not None:
            starts = range(self._id_at, self._id_at + number * len(self._packet), len(self._packet))
            self.transport.write(b"".join(b"\x40\x02" + data[at : at + 2] for at in starts))
        self.received += number
        self._on_received()


class Fan:
    """One publisher and its subscribers: a further window is published when everybody has all before it.

    A live subscriber that does not keep up loses messages, so its publisher waits for it.
    """

    def __init__(self, publisher: FanPublisher, window: int) -> None:
        self._publisher = publisher
        self._window = window
        self._stopped = False
        self.subscribers: list[Subscriber] = []
        self.published = 0
        self.quiet: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def delivered(self) -> int:
        return sum(each.received for each in self.subscribers)

    def start(self) -> None:
        self.published += self._window
        self._publisher.publish(self._window)

    def stop(self) -> None:
        """Publish no more; `quiet` is done when everybody has everything."""
        self._stopped = True

    def received(self) -> None:
        """A subscriber has more than before."""
        if any(each.received < self.published for each in self.subscribers):
            return
        if not self._stopped:
            self.start()
        elif not self.quiet.done():
            self.quiet.set_result(None)


class FanPublisher(MqttConnection):
    """Publishes when it is told to; PUBACKs are only counted."""

    def __init__(self, client_id: str, topic: str, payload_bytes: int, qos: int) -> None:
        super().__init__(client_id)
        self._packets = [
            publish_packet(topic, telemetry(each, payload_bytes), qos, each) for each in range(1, CYCLE + 1)
        ]
        self._next = 0
        self.answered_bytes = 0

    def publish(self, number: int) -> None:
        packets = [self._packets[(self._next + each) % CYCLE] for each in range(number)]
        self._next = (self._next + number) % CYCLE
        if self.transport is not None:
            self.transport.write(b"".join(packets))

    def answered(self, data: bytes) -> None:
        self.answered_bytes += len(data)


class IdleSubscriber(IdleConnection):
    """Has one subscription of its own, and stays."""

    def __init__(self, client_id: str) -> None:
        super().__init__(client_id)
        self._suback = b""

    def ping(self) -> None:
        """SUBSCRIBE, and ping when that is answered."""
        if self.transport is not None:
            self.transport.write(subscribe_packet(f"devices/{self.client_id}/commands", 1))

    def answered(self, data: bytes) -> None:
        if len(self._suback) == SUBACK_BYTES:
            super().answered(data)
            return
        self._suback += data
        if self._suback == GRANTED_QOS_1:
            super().ping()
        elif not GRANTED_QOS_1.startswith(self._suback):
            self.fail(f"{self.client_id}: {self._suback.hex()} for a SUBSCRIBE")
