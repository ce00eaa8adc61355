"""From bytes to packets: framing, first bytes, and PUBLISH; `reader` has the other bodies, `writer` the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.protocols.mqtt.errors import PacketError, ReasonCode, malformed, violation
from gateway.protocols.mqtt.fields import FieldReader
from gateway.protocols.mqtt.packets import V5, Connect, Level, Packet, PacketType, Puback, Publish
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Place, read_properties
from gateway.protocols.mqtt.reader import read_body
from gateway.protocols.mqtt.topics import CACHED_TOPIC_LENGTH, read_cached_topic_name, read_topic_name
from gateway.protocols.mqtt.writer import write_packet

__all__ = ["UNKNOWN_LEVEL", "Decoder", "encode"]

encode = write_packet
"""The way back, under the name that goes with `Decoder`."""

UNKNOWN_LEVEL: Final = 0
"""Of a decoder that has not seen CONNECT."""

# QoS 3 does not exist [MQTT-3.3.1-4], and there is no DUP at QoS 0 [MQTT-3.3.1-2].
_PUBLISH_BYTES: Final = frozenset(
    0x30 | dup << 3 | qos << 1 | retain for dup in (0, 1) for qos in (0, 1, 2) for retain in (0, 1) if qos or not dup
)
_CONTROL_BYTES: Final = frozenset({0x10, 0x20, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0})
_AUTH_BYTE: Final = 0xF0
_REPEATED: Final = frozenset({0x6A, 0x8A, 0xAA})
"""3.1 has DUP on PUBREL, SUBSCRIBE and UNSUBSCRIBE too (3.1 §2.1)."""

_FIRST_BYTES: Final[Mapping[int, frozenset[int]]] = {
    UNKNOWN_LEVEL: frozenset({0x10}),
    Level.V3_1: _PUBLISH_BYTES | _CONTROL_BYTES | _REPEATED,
    Level.V3_1_1: _PUBLISH_BYTES | _CONTROL_BYTES,  # [MQTT-2.2.2-2]
    Level.V5: _PUBLISH_BYTES | _CONTROL_BYTES | {_AUTH_BYTE},
}


def _refuse_first_byte(first: int, level: int) -> PacketError:
    if level == UNKNOWN_LEVEL:
        return violation("the first packet is not CONNECT")  # [MQTT-3.1.0-1]
    try:
        name = PacketType(first >> 4).name
    except ValueError:
        return malformed("packet type 0")
    if first == _AUTH_BYTE:
        return malformed("AUTH before MQTT 5")
    return malformed(f"reserved flags 0x{first & 0x0F:X} of {name}")


def _too_large(size: int, limit: int) -> PacketError:
    return PacketError(ReasonCode.PACKET_TOO_LARGE, f"a packet of {size} bytes; the limit is {limit}")


def _long_length(data: bytes, pos: int, length: int) -> tuple[int, int]:
    """Go on with a remaining length of two to four bytes; -1 when they have not all come.

    Forms that are longer than they need to be are taken, from small devices that reserve the bytes: [MQTT-1.5.5-1]
    binds who writes.
    """
    shift = 7
    while pos < len(data):
        byte = data[pos]
        pos += 1
        if byte < 0x80:
            return length | byte << shift, pos
        if shift == 21:
            raise malformed("a remaining length of more than four bytes")  # 3.1.1 §2.2.3
        length |= (byte & 0x7F) << shift
        shift += 7
    return -1, pos


def _read_topic(raw: bytes) -> str:
    return read_cached_topic_name(raw) if len(raw) <= CACHED_TOPIC_LENGTH else read_topic_name(raw)


def _read_publish(data: bytes, first: int, pos: int, end: int, level: int) -> Publish:
    topic_start = pos + 2
    if topic_start > end:
        raise malformed("PUBLISH ends inside its topic")
    topic_end = topic_start + (data[pos] << 8 | data[pos + 1])
    qos = first >> 1 & 3
    payload_start = topic_end + 2 if qos else topic_end
    if payload_start > end:
        raise malformed("PUBLISH ends before its payload")
    packet_id = 0
    if qos:
        packet_id = data[topic_end] << 8 | data[topic_end + 1]
        if packet_id == 0:
            raise malformed("packet identifier 0")  # [MQTT-2.3.1-1]
    raw = data[topic_start:topic_end]
    if level == V5:
        return _read_publish_v5(data, first, raw, packet_id, payload_start, end)
    return Publish(_read_topic(raw), data[payload_start:end], qos, packet_id, first & 1 == 1, first & 8 == 8)


def _read_publish_v5(data: bytes, first: int, raw: bytes, packet_id: int, pos: int, end: int) -> Publish:
    properties = NO_PROPERTIES
    if pos < end and data[pos] == 0:
        pos += 1
    else:
        fields = FieldReader(data, pos, end)
        properties = read_properties(fields, Place.PUBLISH)
        pos = end - fields.remaining
    if not raw and properties.topic_alias is None:
        raise violation("PUBLISH without a topic and without a topic alias")  # 5.0 §3.3.2.1
    topic = _read_topic(raw) if raw else ""
    return Publish(topic, data[pos:end], first >> 1 & 3, packet_id, first & 1 == 1, first & 8 == 8, properties)


class Decoder:
    """Cuts a stream of bytes, fed in any pieces, into packets.

    A server's decoder starts without a level and takes it from CONNECT; a client's is told. Incomplete packets are
    collected once and parsed once, whatever the pieces: the work is linear in the bytes. After a `PacketError` the
    stream is lost, and the decoder must not be used any more.
    """

    __slots__ = ("_data", "_first_bytes", "_level", "_max_packet_size", "_need", "_pos", "_rest")

    def __init__(self, max_packet_size: int, level: int = UNKNOWN_LEVEL) -> None:
        """`max_packet_size`: bytes of a packet, fixed header included."""
        self._max_packet_size = max_packet_size
        self._level = level
        self._first_bytes = _FIRST_BYTES[level]
        self._data = b""
        self._pos = 0
        self._rest: bytearray | None = None
        self._need = 0

    @property
    def level(self) -> int:
        """The protocol level that packets are read at."""
        return self._level

    @property
    def assembling(self) -> int:
        """Bytes that an unfinished packet has."""
        return 0 if self._rest is None else self._need

    def feed(self, data: bytes) -> None:
        """Take bytes. They are not copied, unless packets are still unread or an incomplete one waits."""
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            self._rest = None
        elif self._pos != len(self._data):
            data = self._data[self._pos :] + data
        self._data = data
        self._pos = 0

    def next_packet(self) -> Packet | None:
        """The next complete packet, or None when more bytes are needed. Raises `PacketError`."""
        data = self._data
        start = self._pos
        if len(data) - start < 2:
            return self._wait(2)
        first = data[start]
        if first not in self._first_bytes:
            raise _refuse_first_byte(first, self._level)
        length = data[start + 1]
        body = start + 2
        if length >= 0x80:
            length, body = _long_length(data, body, length & 0x7F)
            if length < 0:
                return self._wait(len(data) - start + 1)
        end = body + length
        if end - start > self._max_packet_size:
            raise _too_large(end - start, self._max_packet_size)
        if end > len(data):
            return self._wait(end - start)
        self._pos = end
        if first & 0xF0 == 0x30:
            return _read_publish(data, first, body, end, self._level)
        return self._control(data, first, body, end)

    def _wait(self, need: int) -> Packet | None:
        """Keep the beginning of a packet until `need` bytes of it are there. An idle connection keeps no buffer."""
        if self._pos != len(self._data):
            self._rest = bytearray(self._data[self._pos :])
            self._need = need
        self._data = b""
        self._pos = 0
        return None

    def _control(self, data: bytes, first: int, body: int, end: int) -> Packet:
        if first == 0x40 and end - body == 2:
            packet_id = data[body] << 8 | data[body + 1]
            if packet_id:
                return Puback(packet_id)
        packet = read_body(first >> 4, self._level, data, body, end)
        if self._level == UNKNOWN_LEVEL and type(packet) is Connect:
            self._level = packet.level
            self._first_bytes = _FIRST_BYTES[packet.level]
        return packet
