"""Transformations: what is sent in place of a message, byte for byte, and each mistake in a rule."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import ConfigError
from gateway.core.message import NO_PROPERTIES, Address, HeaderValue, Message, Origin, Properties
from gateway.core.transform import (
    NESTING_LIMIT,
    Compression,
    Transform,
    envelope,
    plain,
    transformed,
    transformed_body,
)

AT = 1_793_872_800.25


def clock() -> float:
    return AT


def message(body: bytes = b"21.5", properties: Properties = NO_PROPERTIES, **headers: HeaderValue) -> Message:
    origin = Origin("mqtt", client_id="device-7", user="alice")
    return Message(Address("amq.topic", "sensors.hall/1.temperature"), body, properties, headers, origin)


def enveloped(given: Message) -> dict[str, object]:
    document: dict[str, object] = orjson.loads(envelope(given, clock))
    return document


def test_without_a_transformation_nothing_is_made() -> None:
    original = message()
    assert transformed(None, original) is original
    assert transformed_body(None, original) is original.body
    assert transformed_body(None, original, b"\n") == b"21.5\n"


class TestEnvelope:
    def test_a_message_of_a_topic(self) -> None:
        assert enveloped(message()) == {
            "v": 1,
            "exchange": "amq.topic",
            "topic": "sensors/hall.1/temperature",
            "client": "device-7",
            "time": "2026-11-05T10:00:00.250Z",
            "body": "21.5",
        }

    def test_the_key_of_another_exchange_stays_as_it_is(self) -> None:
        document = enveloped(Message(Address("logs", "app.error"), b""))
        assert (document["exchange"], document["topic"], document["body"]) == ("logs", "app.error", "")

    @pytest.mark.parametrize(
        ("timestamp", "text"),
        [(0, "1970-01-01T00:00:00.000Z"), (1_793_872_800, "2026-11-05T10:00:00.000Z"), (10**18, str(10**18))],
    )
    def test_the_publishers_time_wins(self, timestamp: int, text: str) -> None:
        assert enveloped(message(properties=Properties(timestamp=timestamp)))["time"] == text

    def test_bytes_that_are_no_text(self) -> None:
        document = enveloped(message(b"\xff\x00"))
        assert document["body_base64"] == "/wA="
        assert "body" not in document

    def test_properties_and_headers(self) -> None:
        properties = Properties(content_type="text/plain", correlation_id=b"\x00", priority=4, timestamp=1)
        document = enveloped(message(b"x", properties, a=1, b={"c": [b"\xff", Decimal("1.10")]}))
        assert document["properties"] == {"content_type": "text/plain", "correlation_id": "AA==", "priority": 4}
        assert document["headers"] == {"a": 1, "b": {"c": ["/w==", "1.10"]}}

    def test_it_is_one_line(self) -> None:
        assert b"\n" not in envelope(message(b'{\n  "a": 1\n}'), clock)

    @pytest.mark.parametrize("headers", [{"a": "\ud800"}, {"a": object()}])
    def test_what_json_cannot_hold(self, headers: Mapping[str, HeaderValue]) -> None:
        with pytest.raises(ValueError, match="cannot be written as JSON"):
            envelope(Message(Address("", "q"), b"", headers=headers), clock)

    @given(st.binary())
    def test_any_body_can_be_had_back(self, body: bytes) -> None:
        document = enveloped(message(body))
        if "body" in document:
            assert str(document["body"]).encode() == body
        else:
            assert base64.b64decode(str(document["body_base64"])) == body


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**53 - 1, 2**53 - 1),
        (2**53, str(2**53)),
        (-(2**70), str(-(2**70))),
        (1.5, 1.5),
        ("text", "text"),
        (b"\xff", "/w=="),
        (Decimal("1.10"), "1.10"),
        (datetime(2026, 11, 5, tzinfo=UTC), "2026-11-05T00:00:00+00:00"),
        ([1, b""], [1, ""]),
        ({"a": {"b": None}}, {"a": {"b": None}}),
    ],
)
def test_plain_values(value: HeaderValue, shown: object) -> None:
    assert plain(value) == shown


def test_what_is_nested_too_deeply() -> None:
    value: HeaderValue = None
    for _ in range(NESTING_LIMIT):
        value = [value]
    assert plain(value) is not None
    with pytest.raises(ValueError, match="more than 64 levels"):
        plain([value])


class TestCompression:
    def test_gzip(self) -> None:
        transform = Transform(compression=Compression.GZIP)
        body = transform.body(message(b"x" * 1000))
        assert gzip.decompress(body) == b"x" * 1000
        assert len(body) < 100
        assert body == transform.body(message(b"x" * 1000)), "the same bytes each time"

    def test_zstd(self) -> None:
        body = Transform(compression=Compression.ZSTD).body(message(b"x" * 1000))
        assert zstandard.decompress(body) == b"x" * 1000
        assert len(body) < 100

    def test_an_ending_is_inside_so_that_joined_records_are_apart(self) -> None:
        transform = Transform(compression=Compression.GZIP)
        joined = b"".join(transformed_body(transform, message(body), b"\n") for body in (b"one", b"two"))
        assert gzip.decompress(joined) == b"one\ntwo\n"

    def test_the_envelope_is_inside(self) -> None:
        body = Transform(envelope=True, compression=Compression.GZIP).body(message(), b"\n", clock)
        assert gzip.decompress(body) == envelope(message(), clock) + b"\n"


@pytest.mark.parametrize(
    ("transform", "properties", "content_type", "content_encoding"),
    [
        (Transform(content_type="text/csv"), Properties(content_type="a/b", content_encoding="br"), "text/csv", "br"),
        (Transform(envelope=True), Properties(content_type="a/b", content_encoding="br"), "application/json", None),
        (Transform(envelope=True, content_type="a/c"), Properties(content_type="a/b"), "a/c", None),
        (Transform(compression=Compression.GZIP), Properties(content_type="a/b"), "a/b", "gzip"),
        (Transform(compression=Compression.ZSTD), Properties(content_encoding="br"), None, "br, zstd"),
    ],
)
def test_what_the_message_says_of_its_body(
    transform: Transform, properties: Properties, content_type: str | None, content_encoding: str | None
) -> None:
    original = message(b"body", properties, a=1)
    sent = transform.apply(original, clock)
    assert (sent.properties.content_type, sent.properties.content_encoding) == (content_type, content_encoding)
    assert (sent.address, sent.headers, sent.origin) == (original.address, original.headers, original.origin)
    assert sent.body == transform.body(original, clock=clock)


@pytest.mark.parametrize(
    ("options", "parsed"),
    [
        ({}, None),
        ({"partition_key": "x", "best_effort": True}, None),
        ({"envelope": "json"}, Transform(envelope=True)),
        ({"compression": "gzip"}, Transform(compression=Compression.GZIP)),
        ({"compression": "zstd", "content_type": "a/b"}, Transform(compression=Compression.ZSTD, content_type="a/b")),
    ],
)
def test_parse(options: Mapping[str, object], parsed: Transform | None) -> None:
    assert Transform.parse(options) == parsed
    assert hash(Transform.parse(options)) == hash(parsed)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"envelope": "xml"}, "envelope: 'xml' is not one of the choices; write json, or leave it out"),
        ({"envelope": True}, "envelope: True is not one of the choices; write json, or leave it out"),
        ({"compression": "lz4"}, "compression: 'lz4' is not one of the choices; write gzip or zstd, or leave it out"),
        ({"content_type": ""}, "content_type: '' is not a content type; write one such as application/json"),
        ({"content_type": "a\nb"}, "content_type: 'a\\nb' is not a content type; write one such as application/json"),
        ({"content_type": 5}, "content_type: 5 is not a content type; write one such as application/json"),
    ],
)
def test_mistakes(options: Mapping[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Transform.parse(options)
    assert str(caught.value) == line


def test_as_people_read_it() -> None:
    assert str(Transform(envelope=True, compression=Compression.ZSTD)) == "envelope = json, compression = zstd"
    assert str(Transform(content_type="a/b")) == "content_type = a/b"
