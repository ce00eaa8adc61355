"""The field types of AMQP 0-9-1 (spec §4.2.5) and RabbitMQ's table types, both ways.

Types of table values, and what becomes of them (RabbitMQ's, https://www.rabbitmq.com/amqp-0-9-1-errata section 3):

| Wire | Here | Back on the wire |
|---|---|---|
| `t` | bool | `t` |
| `b` `B` `s` `U` `u` `I` `i` `l` `L` | int | `I` when 32 bits hold it, else `l`: as RabbitMQ's clients write them |
| `f` `d` | float | `d` |
| `D` | Decimal | `D` |
| `S` | str; `LongString` when it is not UTF-8 | `S` |
| `x` | bytes | `x` |
| `A` `F` | list, dict | `A` `F` |
| `T` | datetime in UTC; int (seconds) after the year 9999 | `T`; `l` |
| `V` | None | `V` |

So values come out equal to what went in; the width of a number does not. What other protocols and native applications
put into headers and a table cannot hold (integers over 64 bits, decimals over 32 bits or 255 places, dates before
1970) is written as text. Names over 255 bytes cannot be written, and are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from gateway.core.message import HeaderValue, LongString
from gateway.protocols.amqp091.errors import ConnectionException, syntax_error

MAX_SHORT_STRING: Final = 255
"""Bytes: its length is one octet (spec §4.2.5.3)."""

MAX_NESTING: Final = 64
"""Levels of tables and arrays within a table; as much as a header may have in a backend (`docs/wire-format.md`)."""

MAX_LONG_LONG: Final = 2**64 - 1

_INT32 = range(-(2**31), 2**31)
_INT64 = range(-(2**63), 2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END_OF_TIME = int((datetime.max.replace(tzinfo=UTC) - _EPOCH).total_seconds())
_MAX_SCALE = 255
_MAX_DIGITS = 10  # of 32 bits

_SHORT: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">I")
_LONG_LONG: Final = struct.Struct(">Q")
_DECIMAL: Final = struct.Struct(">Bi")
_TAGGED_INT32: Final = struct.Struct(">ci")
_TAGGED_INT64: Final = struct.Struct(">cq")
_TAGGED_DOUBLE: Final = struct.Struct(">cd")
_TAGGED_DECIMAL: Final = struct.Struct(">cBi")
_TAGGED_TIMESTAMP: Final = struct.Struct(">cQ")

_NUMBERS: Final[Mapping[int, struct.Struct]] = {
    ord("b"): struct.Struct(">b"),
    ord("B"): struct.Struct(">B"),
    ord("s"): struct.Struct(">h"),
    ord("U"): struct.Struct(">h"),  # the specification's name of `s`
    ord("u"): struct.Struct(">H"),
    ord("I"): struct.Struct(">i"),
    ord("i"): struct.Struct(">I"),
    ord("l"): struct.Struct(">q"),
    ord("L"): struct.Struct(">q"),  # signed, as every client reads it
    ord("f"): struct.Struct(">f"),
    ord("d"): struct.Struct(">d"),
}


def _cut_off() -> ConnectionException:
    return syntax_error("a field is longer than what holds it")


class FieldReader:
    """Takes fields from a payload, one after the other. Every method raises `ConnectionException` (502)."""

    __slots__ = ("_bits", "_data", "_end", "_mask", "_pos")

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._data = data
        self._pos = start
        self._end = len(data)
        self._bits = 0
        self._mask = 0

    @property
    def remaining(self) -> int:
        """Bytes that were not taken yet."""
        return self._end - self._pos

    def _advance(self, count: int) -> int:
        start = self._pos
        if count > self._end - start:
            raise _cut_off()
        self._pos = start + count
        self._mask = 0
        return start

    def bit(self) -> bool:
        """Adjacent bits share an octet, from the lowest up (spec §4.2.5.2)."""
        mask = self._mask
        if not 0 < mask < 0x100:
            self._bits = self.octet()
            mask = 1
        self._mask = mask << 1
        return self._bits & mask != 0

    def octet(self) -> int:
        return self._data[self._advance(1)]

    def short(self) -> int:
        value: int = _SHORT.unpack_from(self._data, self._advance(2))[0]
        return value

    def long(self) -> int:
        value: int = _LONG.unpack_from(self._data, self._advance(4))[0]
        return value

    def long_long(self) -> int:
        value: int = _LONG_LONG.unpack_from(self._data, self._advance(8))[0]
        return value

    def short_bytes(self) -> bytes:
        """A short string as it stands."""
        start = self._pos + 1
        if start > self._end:
            raise _cut_off()
        end = start + self._data[start - 1]
        if end > self._end:
            raise _cut_off()
        self._pos = end
        self._mask = 0
        return self._data[start:end]

    def short_string(self) -> str:
        try:
            return self.short_bytes().decode()
        except UnicodeDecodeError:
            raise syntax_error("a short string is not UTF-8") from None

    def long_string(self) -> bytes:
        start = self._pos + 4
        if start > self._end:
            raise _cut_off()
        end = start + int.from_bytes(self._data[start - 4 : start], "big")
        if end > self._end:
            raise _cut_off()
        self._pos = end
        self._mask = 0
        return self._data[start:end]

    def table(self, depth: int = 0) -> dict[str, HeaderValue]:
        outer = self._enter()
        table = self.rest_as_table(depth)
        self._end = outer
        return table

    def rest_as_table(self, depth: int = 0) -> dict[str, HeaderValue]:
        """All that is left as a table: AMQPLAIN has no length before it. The last of repeated names counts."""
        table: dict[str, HeaderValue] = {}
        while self._pos < self._end:
            name = self.short_string()
            table[name] = self._value(depth)
        return table

    def finish(self) -> None:
        """Nothing may be left."""
        if self._pos != self._end:
            raise syntax_error("bytes after the last field")

    def _enter(self) -> int:
        """Go into a table or an array, which end where their length says. Returns where what is around them ends."""
        length = self.long()
        outer = self._end
        if length > outer - self._pos:
            raise _cut_off()
        self._end = self._pos + length
        return outer

    def _value(self, depth: int) -> HeaderValue:
        tag = self.octet()
        if tag == _STRING:
            return self._text()
        number = _NUMBERS.get(tag)
        if number is not None:
            value: int | float = number.unpack_from(self._data, self._advance(number.size))[0]
            return value
        if tag in (_TABLE, _ARRAY):
            if depth >= MAX_NESTING:
                raise syntax_error(f"a table is nested more than {MAX_NESTING} levels deep")
            return self.table(depth + 1) if tag == _TABLE else self._array(depth + 1)
        read = _OTHERS.get(tag)
        if read is None:
            raise syntax_error(f"a table value of unknown type {bytes((tag,))!r}")
        return read(self)

    def _array(self, depth: int) -> list[HeaderValue]:
        outer = self._enter()
        array: list[HeaderValue] = []
        while self._pos < self._end:
            array.append(self._value(depth))
        self._end = outer
        return array

    def _text(self) -> HeaderValue:
        raw = self.long_string()
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return LongString(raw)

    def _boolean(self) -> HeaderValue:
        return self.octet() != 0

    def _decimal(self) -> HeaderValue:
        scale, unscaled = _DECIMAL.unpack_from(self._data, self._advance(_DECIMAL.size))
        digits = tuple(map(int, str(abs(unscaled))))
        return Decimal((1 if unscaled < 0 else 0, digits, -scale))

    def _timestamp(self) -> HeaderValue:
        seconds = self.long_long()
        return _EPOCH + timedelta(seconds=seconds) if seconds <= _END_OF_TIME else _after_the_end(seconds)

    def _byte_array(self) -> HeaderValue:
        return self.long_string()

    def _void(self) -> HeaderValue:
        return None


def _after_the_end(seconds: int) -> int:
    """As an integer that a table can hold: clients write milliseconds, and -1."""
    return seconds if seconds in _INT64 else seconds - 2**64


_STRING = ord("S")
_TABLE = ord("F")
_ARRAY = ord("A")
_OTHERS: Final[Mapping[int, Callable[[FieldReader], HeaderValue]]] = {
    ord("t"): FieldReader._boolean,  # noqa: SLF001 - the class's own table
    ord("D"): FieldReader._decimal,  # noqa: SLF001
    ord("T"): FieldReader._timestamp,  # noqa: SLF001
    ord("x"): FieldReader._byte_array,  # noqa: SLF001
    ord("V"): FieldReader._void,  # noqa: SLF001
}


def write_short_string(text: str | bytes) -> bytes:
    """With its length. Raises `ValueError` over 255 bytes."""
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    return bytes((len(raw),)) + raw


def write_long_string(data: bytes) -> bytes:
    """With its length."""
    return _LONG.pack(len(data)) + data


def write_table(table: Mapping[str, HeaderValue]) -> bytes:
    """With its length. Raises `ValueError` for what is no `HeaderValue`, or is nested too deeply."""
    return write_long_string(_table_content(table, 0))


def _table_content(table: Mapping[str, HeaderValue], depth: int) -> bytes:
    parts: list[bytes] = []
    for name, value in table.items():
        raw = name.encode(errors="replace")
        if len(raw) <= MAX_SHORT_STRING:
            parts += (bytes((len(raw),)), raw, _write_value(value, depth))
    return b"".join(parts)


def _write_value(value: HeaderValue, depth: int) -> bytes:
    if isinstance(value, str):
        return _write_text(value)
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        return _write_integer(value)
    if isinstance(value, float):
        return _TAGGED_DOUBLE.pack(b"d", value)
    if value is None:
        return b"V"
    if isinstance(value, bytes):
        return (b"S" if isinstance(value, LongString) else b"x") + write_long_string(value)
    if isinstance(value, Decimal):
        return _write_decimal(value)
    if isinstance(value, datetime):
        return _write_timestamp(value)
    return _write_nested(value, depth + 1)


def _write_nested(value: list[HeaderValue] | dict[str, HeaderValue], depth: int) -> bytes:
    if depth > MAX_NESTING:
        raise ValueError(f"a table is nested more than {MAX_NESTING} levels deep")
    if isinstance(value, list):
        return b"A" + write_long_string(b"".join([_write_value(item, depth) for item in value]))
    if isinstance(value, dict):
        return b"F" + write_long_string(_table_content(value, depth))
    raise ValueError(f"a table cannot hold a {type(value).__name__}")


def _write_text(text: str) -> bytes:
    return b"S" + write_long_string(text.encode(errors="replace"))


def _write_integer(value: int) -> bytes:
    if value in _INT32:
        return _TAGGED_INT32.pack(b"I", value)
    if value in _INT64:
        return _TAGGED_INT64.pack(b"l", value)
    return _write_text(str(value))


def _write_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and -_MAX_SCALE <= exponent <= _MAX_DIGITS and len(digits) <= _MAX_DIGITS:
        unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0) * (-1 if sign else 1)
        if unscaled in _INT32 and (unscaled or not sign):  # there is no negative zero
            return _TAGGED_DECIMAL.pack(b"D", max(-exponent, 0), unscaled)
    return _write_text(str(value))


def _write_timestamp(value: datetime) -> bytes:
    """In whole seconds. A time without a zone is taken for UTC, as clients do."""
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if moment < _EPOCH:
        return _write_text(value.isoformat())
    return _TAGGED_TIMESTAMP.pack(b"T", (moment - _EPOCH) // timedelta(seconds=1))


class FieldWriter:
    """Puts fields behind each other. Raises `ValueError` (strings, tables) or `struct.error` for what does not fit."""

    __slots__ = ("_bit", "_out")

    def __init__(self, start: bytes = b"") -> None:
        self._out = bytearray(start)
        self._bit = 0

    def bit(self, value: bool) -> None:
        if not 0 < self._bit < 8:
            self._out.append(0)
            self._bit = 0
        if value:
            self._out[-1] |= 1 << self._bit
        self._bit += 1

    def octet(self, value: int) -> None:
        self._append(bytes((value,)))

    def short(self, value: int) -> None:
        self._append(_SHORT.pack(value))

    def long(self, value: int) -> None:
        self._append(_LONG.pack(value))

    def long_long(self, value: int) -> None:
        self._append(_LONG_LONG.pack(value))

    def short_string(self, value: str) -> None:
        self._append(write_short_string(value))

    def long_string(self, value: bytes) -> None:
        self._append(write_long_string(value))

    def table(self, value: Mapping[str, HeaderValue]) -> None:
        self._append(write_table(value))

    def getvalue(self) -> bytes:
        return bytes(self._out)

    def _append(self, field: bytes) -> None:
        self._bit = 0
        self._out += field
