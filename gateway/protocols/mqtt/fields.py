"""The field types of MQTT (3.1.1 §1.5, 5.0 §1.5): integers, strings, binary data, both ways."""

from __future__ import annotations

import struct
from typing import Final

from gateway.protocols.mqtt.errors import PacketError, malformed

MAX_VARIABLE_INT: Final = 268_435_455
"""The largest Variable Byte Integer: four bytes of seven bits (3.1.1 §2.2.3)."""

MAX_FIELD_BYTES: Final = 65_535
"""Strings and binary data have a length of two bytes (3.1.1 §1.5.3)."""

UINT32_MAX: Final = 0xFFFF_FFFF

UINT16: Final = struct.Struct(">H")
UINT32: Final = struct.Struct(">I")


def read_text(raw: bytes) -> str:
    """Decode a UTF-8 string. Raises `PacketError`."""
    try:
        text = raw.decode()  # strict: refuses surrogates and overlong forms [MQTT-1.5.3-1], keeps U+FEFF [MQTT-1.5.3-3]
    except UnicodeDecodeError as error:
        raise malformed("a string is not UTF-8") from error
    if "\0" in text:
        raise malformed("a string contains U+0000")  # [MQTT-1.5.3-2]
    return text


def write_text(text: str) -> bytes:
    """A UTF-8 string with its length. Raises `PacketError` where the protocol has no form for it."""
    if "\0" in text:
        raise malformed("a string contains U+0000")
    try:
        return write_binary(text.encode())
    except UnicodeEncodeError as error:
        raise malformed("a string contains surrogates") from error


def write_binary(data: bytes) -> bytes:
    """Binary data with its length. Raises `PacketError` over 65,535 bytes."""
    if len(data) > MAX_FIELD_BYTES:
        raise malformed(f"a field of {len(data)} bytes; it can have {MAX_FIELD_BYTES}")
    return UINT16.pack(len(data)) + data


def write_variable_int(value: int) -> bytes:
    """A Variable Byte Integer in its shortest form [MQTT-1.5.5-1]. Raises `PacketError` when it has no form."""
    if value < 0x80:
        return bytes((value,))
    if value > MAX_VARIABLE_INT:
        raise malformed(f"{value} is over the largest variable byte integer")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _cut_off() -> PacketError:
    return malformed("the packet ends inside a field")


class FieldReader:
    """Takes fields from a packet's body, one after the other. Every method raises `PacketError`."""

    __slots__ = ("_data", "_end", "_pos")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self._pos = start
        self._end = end

    @property
    def remaining(self) -> int:
        """Bytes that were not taken yet."""
        return self._end - self._pos

    def _advance(self, count: int) -> int:
        start = self._pos
        if count > self._end - start:
            raise _cut_off()
        self._pos = start + count
        return start

    def byte(self) -> int:
        pos = self._pos
        if pos >= self._end:
            raise _cut_off()
        self._pos = pos + 1
        return self._data[pos]

    def uint16(self) -> int:
        start = self._advance(2)
        return self._data[start] << 8 | self._data[start + 1]

    def uint32(self) -> int:
        start = self._advance(4)
        return int.from_bytes(self._data[start : start + 4], "big")

    def variable_int(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise malformed("a variable byte integer is longer than it needs to be")  # [MQTT-1.5.5-1]
                return value
        raise malformed("a variable byte integer of more than four bytes")

    def raw(self, count: int) -> bytes:
        start = self._advance(count)
        return self._data[start : start + count]

    def binary(self) -> bytes:
        length_at = self._pos
        start = length_at + 2
        if start > self._end:
            raise _cut_off()
        end = start + (self._data[length_at] << 8 | self._data[length_at + 1])
        if end > self._end:
            raise _cut_off()
        self._pos = end
        return self._data[start:end]

    def text(self) -> str:
        return read_text(self.binary())

    def packet_id(self) -> int:
        packet_id = self.uint16()
        if packet_id == 0:
            raise malformed("packet identifier 0")  # [MQTT-2.3.1-1]
        return packet_id

    def section(self, count: int) -> FieldReader:
        """The next `count` bytes as a body of their own."""
        start = self._advance(count)
        return FieldReader(self._data, start, start + count)

    def finish(self) -> None:
        """Nothing may be left."""
        if self._pos != self._end:
            raise malformed("bytes after the last field of the packet")
