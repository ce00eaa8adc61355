"""Content headers: properties both ways, beside pika and pamqp."""

from __future__ import annotations

from dataclasses import fields

import pamqp.header
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message import NO_HEADERS, NO_PROPERTIES, Headers, Properties
from gateway.protocols.amqp091.content import Content, read_content, read_expiration, write_content
from gateway.protocols.amqp091.errors import ConnectionException, ReplyCode

ALL = Properties(
    content_type="application/json",
    content_encoding="gzip",
    delivery_mode=2,
    priority=5,
    correlation_id="c-1",
    reply_to="amq.rabbitmq.reply-to",
    expiration=60_000,
    message_id="m-1",
    timestamp=1_764_000_000,
    type="order",
    user_id="guest",
    app_id="shop",
)
HEADERS: Headers = {"a": 1, "b": "text", "c": [None, True], "d": {"e": b"\xff"}}


def theirs(properties: Properties, headers: Headers) -> bytes:
    values = {each.name: getattr(properties, each.name) for each in fields(properties)}
    if values["expiration"] is not None:
        values["expiration"] = str(values["expiration"])
    return b"".join(pika.spec.BasicProperties(**values, headers=dict(headers) or None).encode())


class TestProperties:
    @pytest.mark.parametrize("headers", [NO_HEADERS, HEADERS], ids=["without headers", "with headers"])
    @pytest.mark.parametrize("name", [each.name for each in fields(ALL)])
    def test_each_alone(self, name: str, headers: Headers) -> None:
        properties = Properties(**{name: getattr(ALL, name)})
        wire = write_content(properties, headers)
        assert wire == theirs(properties, headers)
        content = read_content(wire)
        assert (content.properties, dict(content.headers)) == (properties, dict(headers))

    def test_all_together(self) -> None:
        wire = write_content(ALL, HEADERS)
        assert wire == theirs(ALL, HEADERS)
        assert read_content(wire) == Content(ALL, HEADERS, "60000")

    def test_pamqp_reads_them(self) -> None:
        header = pamqp.header.ContentHeader()
        header.unmarshal(b"\0\x3c\0\0" + (11).to_bytes(8, "big") + write_content(ALL, HEADERS))
        read = header.properties
        assert header.body_size == 11
        assert (read.content_type, read.message_type, read.app_id) == ("application/json", "order", "shop")
        assert (read.priority, read.expiration, read.correlation_id) == (5, "60000", "c-1")
        assert int(read.timestamp.timestamp()) == ALL.timestamp
        assert read.headers == HEADERS

    def test_none(self) -> None:
        assert write_content(NO_PROPERTIES, NO_HEADERS) == b"\0\0"
        content = read_content(b"\0\0")
        assert content.properties is NO_PROPERTIES
        assert content.headers is NO_HEADERS
        assert content.expiration is None

    def test_empty_text_and_zero_are_values(self) -> None:
        properties = Properties(content_type="", priority=0, timestamp=0, expiration=0)
        assert read_content(write_content(properties, NO_HEADERS)).properties == properties

    def test_binary_correlation_id(self) -> None:
        properties = Properties(correlation_id=b"\xff\x00")
        assert read_content(write_content(properties, NO_HEADERS)).properties == properties

    def test_cluster_id_is_read_and_not_kept(self) -> None:
        assert read_content(b"\x00\x0c\x01a\x01c") == Content(Properties(app_id="a"), NO_HEADERS, None)

    def test_the_same_bytes_are_read_once(self) -> None:
        wire = write_content(ALL, HEADERS)
        assert read_content(wire) is read_content(bytes(bytearray(wire)))

    def test_large_ones_are_not_kept(self) -> None:
        wire = write_content(NO_PROPERTIES, {"a": "x" * 300})
        assert read_content(wire) is not read_content(wire)


class TestMalformed:
    def test_every_prefix(self) -> None:
        wire = write_content(ALL, HEADERS)
        for length in range(len(wire)):
            with pytest.raises(ConnectionException) as caught:
                read_content(wire[:length])
            assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR

    @pytest.mark.parametrize(
        "wire",
        [b"\0\0\0", b"\x00\x01", b"\x00\x02", b"\x80\x00\x01\xff", b"\x20\x00\0\0\0\x03\1az", b"\x00\x01\x80\x00"],
        ids=["trailing", "more flags", "unknown flag", "not UTF-8", "bad header", "second word of flags"],
    )
    def test_it_is_a_syntax_error(self, wire: bytes) -> None:
        with pytest.raises(ConnectionException) as caught:
            read_content(wire)
        assert caught.value.reply_code is ReplyCode.SYNTAX_ERROR


class TestExpiration:
    @pytest.mark.parametrize(
        ("text", "milliseconds"), [("0", 0), ("60000", 60_000), ("4294967295", 2**32 - 1), ("007", 7)]
    )
    def test_milliseconds(self, text: str, milliseconds: int) -> None:
        assert read_expiration(text) == milliseconds

    @pytest.mark.parametrize("text", ["", "-1", "4294967296", "1.5", "10s", " 1", "1 ", "+1", "٣", "1" * 255])
    def test_what_is_not(self, text: str) -> None:
        raw = text.encode()
        content = read_content(b"\x01\x00" + bytes((len(raw),)) + raw)
        assert content == Content(NO_PROPERTIES, NO_HEADERS, text)


class TestWhatDoesNotFit:
    def test_it_becomes_a_header(self) -> None:
        properties = Properties(
            content_type="text/plain", correlation_id=b"\xff" * 256, message_id="ü" * 128, priority=256, timestamp=-1
        )
        content = read_content(write_content(properties, {"a": 1}))
        assert content.properties == Properties(content_type="text/plain")
        assert content.headers == {
            "a": 1,
            "x-correlation-id": b"\xff" * 256,
            "x-message-id": "ü" * 128,
            "x-priority": 256,
            "x-timestamp": -1,
        }

    def test_what_just_fits(self) -> None:
        properties = Properties(correlation_id=b"\xff" * 255, message_id="m" * 255, priority=255, timestamp=2**64 - 1)
        assert read_content(write_content(properties, NO_HEADERS)).properties == properties


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
octets = st.none() | st.integers(0, 255)
properties_of_any_kind = st.builds(
    Properties,
    content_type=texts,
    content_encoding=texts,
    delivery_mode=octets,
    priority=octets,
    correlation_id=texts | st.binary(max_size=40).map(lambda raw: raw + b"\xff"),
    reply_to=texts,
    expiration=st.none() | st.integers(0, 2**32 - 1),
    message_id=texts,
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    type=texts,
    user_id=texts,
    app_id=texts,
)


@given(properties_of_any_kind, st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=20), st.integers(-9, 9)))
def test_what_was_written_is_read(properties: Properties, headers: Headers) -> None:
    content = read_content(write_content(properties, headers))
    assert (content.properties, dict(content.headers)) == (properties, headers)


@given(st.binary(max_size=120))
def test_any_bytes_are_properties_or_a_syntax_error(data: bytes) -> None:
    try:
        read_content(data)
    except ConnectionException as error:
        assert error.reply_code is ReplyCode.SYNTAX_ERROR  # noqa: PT017 - or nothing is raised
