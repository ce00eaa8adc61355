"""Field tables: every type, its limits, what is malformed, and what other libraries make of it."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import amqp.serialization
import pamqp.decode
import pika.data
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message import HeaderValue, LongString
from gateway.protocols.amqp091.errors import ConnectionException, ReplyCode
from gateway.protocols.amqp091.fields import MAX_NESTING, FieldReader, write_table

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def table_of(value: bytes, name: bytes = b"k") -> bytes:
    content = bytes((len(name),)) + name + value
    return struct.pack(">I", len(content)) + content


def nested(depth: int, tag: bytes = b"A", core: bytes = b"") -> bytes:
    for _ in range(depth):
        core = (b"A" if tag == b"A" else b"F") + struct.pack(">I", len(core)) + core
        if tag == b"F":
            core = b"\0" + core
    return core[1:] if tag == b"F" else core


def read(data: bytes) -> dict[str, HeaderValue]:
    reader = FieldReader(data)
    table = reader.table()
    reader.finish()
    return table


def back(value: HeaderValue) -> bytes:
    """The value as it is written, with its tag."""
    return write_table({"k": value})[6:]


# On the wire, in Python, and on the wire again.
TYPES = {
    "t false": (b"t\0", False, b"t\0"),
    "t true": (b"t\1", True, b"t\1"),
    "t of 2": (b"t\2", True, b"t\1"),
    "b": (b"b\xff", -1, b"I\xff\xff\xff\xff"),
    "B": (b"B\xff", 255, b"I\0\0\0\xff"),
    "s": (b"s\x80\0", -32_768, b"I\xff\xff\x80\0"),
    "U": (b"U\xff\xff", -1, b"I\xff\xff\xff\xff"),
    "u": (b"u\xff\xff", 65_535, b"I\0\0\xff\xff"),
    "I": (b"I\x80\0\0\0", -(2**31), b"I\x80\0\0\0"),
    "I positive": (b"I\x7f\xff\xff\xff", 2**31 - 1, b"I\x7f\xff\xff\xff"),
    "i": (b"i\xff\xff\xff\xff", 2**32 - 1, b"l\0\0\0\0\xff\xff\xff\xff"),
    "l": (b"l\x80" + bytes(7), -(2**63), b"l\x80" + bytes(7)),
    "L": (b"L\xff\xff\xff\xff\xff\xff\xff\xfe", -2, b"I\xff\xff\xff\xfe"),
    "f": (b"f\x3f\xc0\0\0", 1.5, b"d\x3f\xf8" + bytes(6)),
    "d": (b"d\x3f\xf8" + bytes(6), 1.5, b"d\x3f\xf8" + bytes(6)),
    "d infinity": (b"d\x7f\xf0" + bytes(6), math.inf, b"d\x7f\xf0" + bytes(6)),
    "D": (b"D\x02\0\0\0\x6e", Decimal("1.10"), b"D\x02\0\0\0\x6e"),
    "D negative": (b"D\x01\xff\xff\xff\xff", Decimal("-0.1"), b"D\x01\xff\xff\xff\xff"),
    "D with 255 places": (b"D\xff\0\0\0\x01", Decimal("1E-255"), b"D\xff\0\0\0\x01"),
    "D zero": (b"D\x03\0\0\0\0", Decimal("0.000"), b"D\x03\0\0\0\0"),
    "S": (b"S\0\0\0\x03\xe2\x82\xac", "€", b"S\0\0\0\x03\xe2\x82\xac"),
    "S empty": (b"S\0\0\0\0", "", b"S\0\0\0\0"),
    "S not UTF-8": (b"S\0\0\0\x02\xff\0", b"\xff\0", b"S\0\0\0\x02\xff\0"),
    "x": (b"x\0\0\0\x02\xff\0", b"\xff\0", b"x\0\0\0\x02\xff\0"),
    "x that is UTF-8": (b"x\0\0\0\x01a", b"a", b"x\0\0\0\x01a"),
    "T": (b"T\0\0\0\0\x6a\0\0\0", EPOCH + timedelta(seconds=0x6A000000), b"T\0\0\0\0\x6a\0\0\0"),
    "T last": (
        b"T" + struct.pack(">Q", 253_402_300_799),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        b"T" + struct.pack(">Q", 253_402_300_799),
    ),
    "T in milliseconds": (
        b"T" + struct.pack(">Q", 1_764_000_000_000),
        1_764_000_000_000,
        b"l" + struct.pack(">Q", 1_764_000_000_000),
    ),
    "T -1": (b"T" + b"\xff" * 8, -1, b"I\xff\xff\xff\xff"),
    "V": (b"V", None, b"V"),
    "A": (b"A\0\0\0\x05t\1Vb\2", [True, None, 2], b"A\0\0\0\x08t\1VI\0\0\0\2"),
    "A empty": (b"A\0\0\0\0", [], b"A\0\0\0\0"),
    "F": (b"F\0\0\0\x06\1at\1\0V", {"a": True, "": None}, b"F\0\0\0\x06\1at\1\0V"),
    "F empty": (b"F\0\0\0\0", {}, b"F\0\0\0\0"),
}

MALFORMED = {
    "unknown type": table_of(b"z"),
    "type NUL": table_of(b"\0"),
    "no value": table_of(b""),
    "value cut": table_of(b"I\0\0\0"),
    "string cut": table_of(b"S\0\0\0\x05abcd"),
    "string of 4 GiB": table_of(b"S\xff\xff\xff\xff"),
    "byte array cut": table_of(b"x\0\0\0\x01"),
    "decimal cut": table_of(b"D\x02\0\0\0"),
    "name cut": b"\0\0\0\x02\x05a",
    "name not UTF-8": table_of(b"V", b"\xff"),
    "table longer than what is there": b"\0\0\0\x05\1aV",
    "table in a table longer than it": table_of(b"F\0\0\0\x01"),
    "array longer than its table": table_of(b"A\0\0\0\x02V"),
    "array with half a value": table_of(b"A\0\0\0\x01I") + b"\0\0\0\x01",
    "value beyond its table": b"\0\0\0\x04\1aI\0\0\0\x01",
    "1000 arrays": table_of(nested(1000)),
    "1000 tables": table_of(nested(1000, b"F")),
}


@pytest.fixture(params=TYPES.values(), ids=TYPES.keys())
def case(request: pytest.FixtureRequest) -> tuple[bytes, HeaderValue, bytes]:
    value: tuple[bytes, HeaderValue, bytes] = request.param
    return value


class TestTypes:
    def test_it_is_read(self, case: tuple[bytes, HeaderValue, bytes]) -> None:
        wire, value, _ = case
        table = read(table_of(wire))
        assert table == {"k": value}
        assert isinstance(table["k"], type(value))

    def test_it_comes_back(self, case: tuple[bytes, HeaderValue, bytes]) -> None:
        wire, _, again = case
        assert back(read(table_of(wire))["k"]) == again

    def test_something_may_follow(self, case: tuple[bytes, HeaderValue, bytes]) -> None:
        reader = FieldReader(table_of(case[0]) + b"\x07")
        assert reader.table() == {"k": case[1]}
        assert reader.octet() == 7
        reader.finish()

    def test_every_prefix_is_refused(self, case: tuple[bytes, HeaderValue, bytes]) -> None:
        whole = table_of(case[0])
        for length in range(len(whole)):
            with pytest.raises(ConnectionException):
                read(whole[:length])

    def test_a_long_string_is_told_from_a_byte_array(self) -> None:
        assert isinstance(read(table_of(b"S\0\0\0\1\xff"))["k"], LongString)
        assert not isinstance(read(table_of(b"x\0\0\0\1\xff"))["k"], LongString)

    def test_the_last_of_repeated_names_counts(self) -> None:
        assert read(b"\0\0\0\x08\1at\0\1at\1") == {"a": True}

    def test_nan(self) -> None:
        value = read(table_of(b"d\x7f\xf8" + bytes(6)))["k"]
        assert isinstance(value, float)
        assert math.isnan(value)


class TestMalformed:
    @pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
    def test_it_is_a_syntax_error(self, data: bytes) -> None:
        with pytest.raises(ConnectionException) as caught:
            read(data)
        assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR

    @pytest.mark.parametrize("tag", [b"A", b"F"])
    def test_depth(self, tag: bytes) -> None:
        value = read(table_of(nested(MAX_NESTING, tag)))["k"]
        assert write_table({"k": value}) == table_of(nested(MAX_NESTING, tag))
        with pytest.raises(ConnectionException, match="nested more than 64 levels"):
            read(table_of(nested(MAX_NESTING + 1, tag)))


class TestWriting:
    @pytest.mark.parametrize(
        ("value", "wire"),
        [
            (2**63, b"S\0\0\0\x139223372036854775808"),
            (Decimal(12345678901), b"S\0\0\0\x0b12345678901"),
            (Decimal("3E+9"), b"S\0\0\0\x043E+9"),
            (Decimal("1E-256"), b"S\0\0\0\x061E-256"),
            (Decimal("NaN"), b"S\0\0\0\x03NaN"),
            (Decimal("-0.0"), b"S\0\0\0\x04-0.0"),
            (Decimal("2E+9"), b"D\0" + struct.pack(">i", 2 * 10**9)),
            (datetime(1969, 12, 31, tzinfo=UTC), b"S\0\0\0\x191969-12-31T00:00:00+00:00"),
            (datetime(1970, 1, 1, 0, 0, 1, 999_999), b"T" + struct.pack(">Q", 1)),  # noqa: DTZ001 - others make these
            (datetime(1970, 1, 1, 2, 0, 1, tzinfo=timezone(timedelta(hours=2))), b"T" + struct.pack(">Q", 1)),
            ("\ud800", b"S\0\0\0\1?"),
        ],
    )
    def test_what_other_protocols_bring(self, value: HeaderValue, wire: bytes) -> None:
        assert back(value) == wire

    def test_names_that_are_too_long_are_left_out(self) -> None:
        assert read(write_table({"n" * 256: 1, "n" * 255: 2, "a": 3})) == {"n" * 255: 2, "a": 3}

    def test_too_deep(self) -> None:
        value: HeaderValue = []
        for _ in range(MAX_NESTING):
            value = [value]
        with pytest.raises(ValueError, match="nested"):
            write_table({"k": value})

    def test_what_is_no_header_value(self) -> None:
        with pytest.raises(ValueError, match="cannot hold a set"):
            write_table({"k": {1}})  # type: ignore[dict-item]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
decimals = st.builds(
    lambda unscaled, scale: Decimal(unscaled).scaleb(-scale), st.integers(-(2**31), 2**31 - 1), st.integers(0, 28)
)
moments = st.integers(0, 253_402_300_799).map(lambda seconds: EPOCH + timedelta(seconds=seconds))
not_text = st.binary(max_size=20).map(lambda data: LongString(data + b"\xff"))
simple = st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts | st.none()
plain = simple | st.binary(min_size=1, max_size=20)
floats = st.floats(allow_nan=False)


def tables(values: st.SearchStrategy[HeaderValue]) -> st.SearchStrategy[dict[str, HeaderValue]]:
    nest = st.recursive(
        values,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(texts, nest, max_size=6)


def same(one: HeaderValue, other: HeaderValue) -> bool:
    """Equal, and of the same types (`True == 1` in Python)."""
    return one == other and repr(one) == repr(other)


@given(tables(plain | floats | not_text | decimals | moments))
def test_what_was_written_is_read(table: dict[str, HeaderValue]) -> None:
    assert same(read(write_table(table)), table)


# pamqp takes decimals for unsigned, and times after 2106 for milliseconds.
@given(
    tables(
        plain
        | floats
        | decimals.filter(lambda number: number >= 0)
        | st.integers(0, 2**32 - 1).map(lambda n: EPOCH + timedelta(seconds=n))
    )
)
def test_pamqp_reads_the_same(table: dict[str, HeaderValue]) -> None:
    written = write_table(table)
    assert pamqp.decode.field_table(written) == (len(written), table)


# pika takes floats for integers.
@given(tables(plain | decimals | moments))
def test_pika_reads_and_writes_the_same(table: dict[str, HeaderValue]) -> None:
    written = write_table(table)
    assert pika.data.decode_table(written, 0) == (table, len(written))
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, table)
    assert read(b"".join(pieces)) == table


# py-amqp writes bytes as long strings.
@given(tables(simple | floats | not_text))
def test_py_amqp_reads_and_writes_the_same(table: dict[str, HeaderValue]) -> None:
    assert amqp.serialization.loads("F", write_table(table), 0)[0] == [table]
    assert same(read(amqp.serialization.dumps("F", [table])), table)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_syntax_error(data: bytes) -> None:
    try:
        table = read(data)
    except ConnectionException as error:
        assert error.reply_code is ReplyCode.SYNTAX_ERROR  # noqa: PT017 - or nothing is raised
    else:
        assert str(read(write_table(table))) == str(table)
