import base64
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.aws.wire import ENCODING, META, decode_body, encode_body
from adapters.sqs.encoding import CACHED_LENGTH, CACHED_MESSAGES, Attributes, Decoder, Encoder
from gateway.core.message import NATIVE, NO_HEADERS, NO_PROPERTIES, Address, Headers, Message, Origin, Properties

TEXT = st.text(st.characters(codec="utf-8"))  # no surrogates
# What is kept is the offset. A zone's name is not, and times that a zone has twice equal nothing in another (PEP 495).
OFFSETS = st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | OFFSETS)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PROPERTIES = st.builds(
    Properties,
    content_type=st.none() | TEXT,
    content_encoding=st.none() | TEXT,
    delivery_mode=st.sampled_from((None, 1, 2)),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | TEXT | st.binary(),
    reply_to=st.none() | TEXT,
    expiration=st.none() | st.integers(0, 2**63),
    message_id=st.none() | TEXT,
    timestamp=st.none() | st.integers(0, 2**64),
    type=st.none() | TEXT,
    user_id=st.none() | TEXT,
    app_id=st.none() | TEXT,
)
MESSAGES = st.builds(
    Message,
    st.builds(Address, TEXT, TEXT),
    st.binary() | TEXT.map(str.encode),
    PROPERTIES,
    st.dictionaries(TEXT, VALUES, max_size=5),
    st.builds(Origin, TEXT, TEXT, TEXT),
)


class Reports:
    """What a decoder complained about."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, queue: str, problem: str) -> None:
        assert queue == "orders"
        self.texts.append(problem)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def decoder(reports: Reports) -> Decoder:
    return Decoder(reports)


def entry_of(message: Message, *exposed: str) -> dict[str, object]:
    fields, _ = Encoder().encode(message, exposed)
    entry: dict[str, object] = orjson.loads(b"{" + fields + b"}")
    return entry


def attributes_of(entry: Mapping[str, object]) -> dict[str, dict[str, str]]:
    attributes = entry["MessageAttributes"]
    assert isinstance(attributes, dict)
    return attributes


def decode(decoder: Decoder, entry: Mapping[str, object], system: Mapping[str, str] | None = None) -> Message:
    body = entry["MessageBody"]
    assert isinstance(body, str)
    return decoder.decode(body, attributes_of(entry), system or {}, "orders")


def text_attribute(value: str, data_type: str = "String") -> dict[str, str]:
    return {"DataType": data_type, "StringValue": value}


def message(body: bytes = b"hello", headers: Headers = NO_HEADERS) -> Message:
    return Message(Address("amq.topic", "a.b"), body, Properties(delivery_mode=2), headers, Origin("mqtt", "dev-1"))


@pytest.mark.parametrize(
    ("body", "text", "encoding"),
    [
        (b"hello", "hello", ""),
        (b" ", " ", ""),
        (b"-", "-", ""),
        (b"\t\n\r", "\t\n\r", ""),
        (b"\x7f", "\x7f", ""),
        ("grüße \U0001f600".encode(), "grüße \U0001f600", ""),
        ("\U0001fffe".encode(), "\U0001fffe", ""),
        ("\ufffd".encode(), "\ufffd", ""),
        (b"", "-", "empty"),
        (b"\x00", "AA==", "base64"),
        (b"a\x1fb", "YR9i", "base64"),
        (b"\xff\xfe", "//4=", "base64"),
        ("\ufffe".encode(), "77++", "base64"),
        ("\uffff".encode(), "77+/", "base64"),
        (b"\xed\xa0\x80", "7aCA", "base64"),  # a surrogate is no UTF-8
        (b"\xc3", "ww==", "base64"),
    ],
)
def test_bodies(body: bytes, text: str, encoding: str) -> None:
    assert encode_body(body) == (text, encoding)
    if encoding:
        assert decode_body(text, encoding) == body
    else:
        assert text.encode() == body


@pytest.mark.parametrize("code", [*range(0x20), 0x7F, 0x85, 0xFFFE, 0xFFFF])
def test_every_control_is_carried_as_sqs_allows(code: int) -> None:
    encoding = encode_body(chr(code).encode())[1]
    assert encoding == ("" if code in (0x09, 0x0A, 0x0D, 0x7F, 0x85) else "base64")


@given(MESSAGES)
def test_round_trip(original: Message) -> None:
    reports = Reports()
    assert decode(Decoder(reports), entry_of(original)) == original
    assert reports.texts == []


@given(MESSAGES)
def test_the_size_is_what_sqs_counts_and_everything_is_allowed(original: Message) -> None:
    fields, size = Encoder().encode(original, ["tenant"])
    entry = orjson.loads(b"{" + fields + b"}")
    counted = len(entry["MessageBody"].encode())
    for name, attribute in entry["MessageAttributes"].items():
        value = attribute.get("StringValue", "").encode() + base64.b64decode(attribute.get("BinaryValue", ""))
        counted += len(name) + len(attribute["DataType"]) + len(value)
        assert value
    assert size == counted
    texts = [entry["MessageBody"], *(item.get("StringValue", "") for item in entry["MessageAttributes"].values())]
    assert not any((ord(c) < 0x20 and c not in "\t\n\r") or c in "\ufffe\uffff" for text in texts for c in text)


@pytest.mark.parametrize("value", [float("nan"), Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), -0.0])
def test_values_that_equal_nothing_or_too_much(decoder: Decoder, value: float | Decimal) -> None:
    found = decode(decoder, entry_of(message(headers={"n": value}))).headers["n"]
    assert type(found) is type(value)
    assert str(found) == str(value)


def test_times_keep_their_offset(decoder: Decoder) -> None:
    moment = datetime(2026, 11, 5, 10, 0, 0, 1, timezone(timedelta(hours=5, minutes=30)))
    found = decode(decoder, entry_of(message(headers={"t": moment}))).headers["t"]
    assert isinstance(found, datetime)
    assert found == moment
    assert found.utcoffset() == timedelta(hours=5, minutes=30)


def test_the_attribute_as_it_is_documented() -> None:
    original = Message(
        Address("amq.topic", "a.b"),
        b"hello",
        Properties(delivery_mode=2, correlation_id=b"\x00", expiration=2**60),
        {
            "s": "x",
            "i": 1,
            "big": 2**53,
            "f": 1.5,
            "nan": float("nan"),
            "b": b"\xff",
            "d": Decimal("1.10"),
            "t": datetime(2026, 11, 5, tzinfo=UTC),
            "l": [True, None],
            "m": {"b": "not a tag"},
        },
        Origin("mqtt", "dev-1", "alice"),
    )
    assert orjson.loads(attributes_of(entry_of(original))[META]["StringValue"]) == {
        "v": 1,
        "x": "amq.topic",
        "k": "a.b",
        "p": {"dm": 2, "ci": {"b": "AA=="}, "ex": {"i": "1152921504606846976"}},
        "h": {
            "s": "x",
            "i": 1,
            "big": {"i": "9007199254740992"},
            "f": 1.5,
            "nan": {"f": "nan"},
            "b": {"b": "/w=="},
            "d": {"d": "1.10"},
            "t": {"t": "2026-11-05T00:00:00+00:00"},
            "l": [True, None],
            "m": {"m": {"b": "not a tag"}},
        },
        "o": ["mqtt", "dev-1", "alice"],
    }


def nested(levels: int) -> Headers:
    value: list[object] = [b"x"]
    for _ in range(levels - 1):
        value = [value]
    return {"deep": value}  # type: ignore[dict-item]


def test_nesting_is_limited(decoder: Decoder) -> None:
    deepest = message(headers=nested(64))
    assert decode(decoder, entry_of(deepest)) == deepest
    with pytest.raises(ValueError, match="64 levels"):
        entry_of(message(headers=nested(65)))


@pytest.mark.parametrize("headers", [{"x": "\ud800"}, {"\udfff": "x"}, {1: "x"}, {"x": object()}, {"x": 10**5000}])
def test_what_cannot_be_kept_is_refused(headers: Headers) -> None:
    with pytest.raises(ValueError, match=r"."):
        entry_of(message(headers=headers))


def test_equal_attributes_are_built_once() -> None:
    encoder = Encoder()
    first, _ = encoder.encode(message(b"1"), ())
    second, _ = encoder.encode(message(b"2"), ())
    binary, _ = encoder.encode(message(b"\x00"), ())
    assert second == first.replace(b'"1"', b'"2"')
    assert ENCODING.encode() in binary
    assert ENCODING.encode() not in second


def test_caches_are_bounded(decoder: Decoder) -> None:
    encoder = Encoder()
    for number in range(CACHED_MESSAGES + 10):
        original = Message(Address("x", str(number)), b"-")
        fields, _ = encoder.encode(original, ())
        assert decode(decoder, orjson.loads(b"{" + fields + b"}")) == original
    long = Message(Address("x", "k" * CACHED_LENGTH), b"-")
    encoder.encode(long, ())
    decode(decoder, entry_of(long))
    assert len(encoder._fragments) == 10
    assert len(decoder._metas) == 10


@pytest.mark.parametrize(
    ("value", "attribute"),
    [
        ("blue", text_attribute("blue")),
        (True, text_attribute("true")),
        (False, text_attribute("false")),
        (7, text_attribute("7", "Number")),
        (-1.5, text_attribute("-1.5", "Number")),
        (Decimal("1.10"), text_attribute("1.10", "Number")),
        (10**38, text_attribute(str(10**38))),
        (1e300, text_attribute("1e+300")),
        (b"\x00\xff", {"DataType": "Binary", "BinaryValue": "AP8="}),
        (datetime(2026, 11, 5, tzinfo=UTC), text_attribute("2026-11-05T00:00:00+00:00")),
        ("", None),
        (b"", None),
        ("a\x00b", None),
        ("\ufffe", None),
        (None, None),
        (math.inf, None),
        ([1], None),
        ({"a": 1}, None),
    ],
)
def test_exposed_headers(decoder: Decoder, value: object, attribute: dict[str, str] | None) -> None:
    original = message(headers={"color": value, "other": "x"})  # type: ignore[dict-item]
    entry = entry_of(original, "color", "absent")
    assert attributes_of(entry).get("color") == attribute
    assert set(attributes_of(entry)) - {"color"} == {META}
    assert decode(decoder, entry) == original


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (text_attribute("x"), "x"),
        (text_attribute("x", "String.json"), "x"),
        (text_attribute("12", "Number"), 12),
        (text_attribute("-12", "Number.int"), -12),
        (text_attribute("1.5", "Number"), 1.5),
        (text_attribute("1.10", "Number"), 1.1),
        (text_attribute("0.1234567890123456789", "Number"), Decimal("0.1234567890123456789")),
        (text_attribute("1e400", "Number"), Decimal("1e400")),
        (text_attribute("twelve", "Number"), "twelve"),
        (text_attribute("9" * 5000, "Number"), Decimal("9" * 5000)),
        ({"DataType": "Binary", "BinaryValue": "AP8="}, b"\x00\xff"),
        ({"DataType": "Binary.png", "BinaryValue": "AP8="}, b"\x00\xff"),
        ({"DataType": "Binary", "BinaryValue": "é"}, "é"),
    ],
)
def test_native_attributes_become_headers(
    decoder: Decoder, reports: Reports, attribute: dict[str, str], value: object
) -> None:
    found = decoder.decode("hello", {"x": attribute}, {}, "orders")
    assert found == Message(Address("", "orders"), b"hello", headers={"x": value})  # type: ignore[dict-item]
    assert type(found.headers["x"]) is type(value)
    assert found.properties is NO_PROPERTIES
    assert found.origin is NATIVE
    assert reports.texts == []


def test_native_messages_show_their_group(decoder: Decoder) -> None:
    found = decoder.decode("hello", {}, {"MessageGroupId": "g"}, "orders")
    assert found.headers == {"JMSXGroupID": "g"}
    named = decoder.decode("hello", {"JMSXGroupID": text_attribute("own")}, {"MessageGroupId": "g"}, "orders")
    assert named.headers == {"JMSXGroupID": "own"}
    ours = message()
    assert decode(decoder, entry_of(ours), {"MessageGroupId": "mqlift"}) == ours


@pytest.mark.parametrize(
    "meta",
    [
        "",
        "{",
        "[]",
        "1",
        "{}",
        '{"v":2,"x":"","k":"q","o":["a","b","c"]}',
        '{"v":"1","x":"","k":"q","o":["a","b","c"]}',
        '{"v":1,"k":"q","o":["a","b","c"]}',
        '{"v":1,"x":"","k":1,"o":["a","b","c"]}',
        '{"v":1,"x":"","k":"q"}',
        '{"v":1,"x":"","k":"q","o":["a","b"]}',
        '{"v":1,"x":"","k":"q","o":["a","b",1]}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":[]}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"b":"AA==","d":"1"}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"z":"1"}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"b":"é"}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"b":1}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"d":"abc"}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"t":"yesterday"}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"f":"1.5"}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"i":"1.5"}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":{"m":[]}}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":{"x":' + "[" * 70 + "]" * 70 + "}}",
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"h":' + '{"x":' * 5000 + "1" + "}" * 5001,
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"p":{"dm":"2"}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"p":{"dm":true}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"p":{"ct":1}}',
        '{"v":1,"x":"","k":"q","o":["a","b","c"],"p":{"ct":{"b":"AA=="}}}',
    ],
)
def test_broken_and_newer_messages_are_native_ones(decoder: Decoder, reports: Reports, meta: str) -> None:
    attributes: Attributes = {META: text_attribute(meta), "tenant": text_attribute("t1")}
    found = decoder.decode("hello", attributes, {}, "orders")
    assert found == Message(Address("", "orders"), b"hello", headers={META: meta, "tenant": "t1"})
    assert len(reports.texts) == 1
    assert "\n" not in reports.texts[0]


@given(st.text(max_size=200) | st.recursive(st.none() | TEXT | st.integers(), lambda inner: st.lists(inner)).map(repr))
def test_no_attribute_raises(meta: str) -> None:
    Decoder(Reports()).decode("hello", {META: text_attribute(meta)}, {}, "orders")


def test_unknown_members_of_the_same_version_are_left_alone(decoder: Decoder, reports: Reports) -> None:
    meta = '{"v":1,"x":"e","k":"q","o":["a","b","c"],"p":{"zz":[1],"dm":2},"new":{"a":{"b":{}}}}'
    found = decoder.decode("hello", {META: text_attribute(meta)}, {}, "orders")
    assert found == Message(Address("e", "q"), b"hello", Properties(delivery_mode=2), origin=Origin("a", "b", "c"))
    assert reports.texts == []


@pytest.mark.parametrize(("text", "encoding"), [("AA=", "base64"), ("é", "base64"), ("hello", "gzip"), ("hello", "")])
def test_a_body_that_is_not_what_it_says_is_delivered_as_it_is(
    decoder: Decoder, reports: Reports, text: str, encoding: str
) -> None:
    found = decoder.decode(text, {ENCODING: text_attribute(encoding)}, {}, "orders")
    assert found == Message(Address("", "orders"), text.encode())
    assert len(reports.texts) == 1


def test_a_binary_body_survives_a_newer_attribute(decoder: Decoder, reports: Reports) -> None:
    attributes = {META: text_attribute('{"v":2}'), ENCODING: text_attribute("base64")}
    assert decoder.decode("AP8=", attributes, {}, "orders").body == b"\x00\xff"
    assert len(reports.texts) == 1


def test_attributes_that_were_added_on_the_way_become_headers(decoder: Decoder) -> None:
    original = message(headers={"color": "blue"})
    entry = entry_of(original, "color")
    attributes = attributes_of(entry) | {"added": text_attribute("1", "Number"), "color": text_attribute("red")}
    found = decode(decoder, entry | {"MessageAttributes": attributes})
    assert found.headers == {"color": "blue", "added": 1}
    plain = attributes_of(entry_of(message())) | {"added": text_attribute("x")}
    assert decoder.decode("hello", plain, {}, "orders").headers == {"added": "x"}


PARENT = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


def test_the_trace_is_shown_to_xray() -> None:
    entry = entry_of(message(headers={"traceparent": PARENT}))
    assert entry["MessageSystemAttributes"] == {"AWSTraceHeader": text_attribute(TRACE)}
    unsampled = entry_of(message(headers={"traceparent": PARENT[:-2] + "00"}))
    assert unsampled["MessageSystemAttributes"] == {"AWSTraceHeader": text_attribute(TRACE[:-1] + "0")}


@pytest.mark.parametrize(
    "value", ["", "x", PARENT[:-1], PARENT.upper(), f"00-{'0' * 32}-53995c3f42cd8ad8-01", 1, f"ff{PARENT[2:]}"]
)
def test_what_is_no_trace_is_not_shown(value: str | int) -> None:
    assert "MessageSystemAttributes" not in entry_of(message(headers={"traceparent": value}))


def test_a_trace_of_aws_is_shown_to_consumers(decoder: Decoder) -> None:
    system = {"AWSTraceHeader": TRACE}
    assert decoder.decode("hello", {}, system, "orders").headers == {"traceparent": PARENT}
    assert decode(decoder, entry_of(message()), system).headers == {"traceparent": PARENT}
    reordered = {"AWSTraceHeader": "Self=1-67891234-12456789abcdef012345678;" + ";".join(TRACE.split(";")[::-1][1:])}
    assert decoder.decode("hello", {}, reordered, "orders").headers == {"traceparent": PARENT[:-1] + "0"}


def test_the_publishers_own_trace_wins(decoder: Decoder) -> None:
    original = message(headers={"traceparent": PARENT, "tracestate": "a=b"})
    other = {"AWSTraceHeader": TRACE.replace("5399", "0000")}
    assert decode(decoder, entry_of(original), other) == original


@pytest.mark.parametrize(
    "header", ["", "Root=1-5759e988-bd862e3fe1be46a994272793", "Parent=53995c3f42cd8ad8", "Root=x"]
)
def test_half_a_trace_is_none(decoder: Decoder, header: str) -> None:
    assert decoder.decode("hello", {}, {"AWSTraceHeader": header}, "orders").headers == {}
