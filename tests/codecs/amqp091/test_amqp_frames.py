"""Frames: each case whole, byte by byte, at every prefix and among others; what is no frame; what a server writes."""

from __future__ import annotations

import itertools
import struct

import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
import pika.frame
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message import NO_HEADERS, NO_PROPERTIES, Address, Headers, Properties
from gateway.protocols.amqp091.codec import INITIAL_FRAME_MAX, Decoder
from gateway.protocols.amqp091.content import Content, write_content
from gateway.protocols.amqp091.errors import AmqpError, ConnectionException, ProtocolHeaderMismatch, ReplyCode
from gateway.protocols.amqp091.fields import write_short_string
from gateway.protocols.amqp091.frames import (
    FRAME_OVERHEAD,
    MIN_FRAME_MAX,
    PROTOCOL_HEADER,
    BodyFrame,
    Frame,
    FrameType,
    HeaderFrame,
    Heartbeat,
    MethodFrame,
    ProtocolHeader,
    Publication,
)
from gateway.protocols.amqp091.methods import (
    BasicAck,
    BasicGetOk,
    BasicNack,
    BasicPublish,
    BasicReturn,
    ChannelOpen,
    ConnectionTune,
    QueueDeclare,
)
from gateway.protocols.amqp091.writer import (
    HEARTBEAT,
    write_ack,
    write_address,
    write_deliver,
    write_frame,
    write_method,
    write_nack,
    write_with_content,
)

JSON = Properties(content_type="application/json", delivery_mode=2)
HEADERS: Headers = {"tenant": "a", "n": 7}
CONTENT = Content(NO_PROPERTIES, NO_HEADERS, None)


def theirs(frame: object, channel: int = 1) -> bytes:
    return pamqp.frame.marshal(frame, channel)


def publish(
    body: bytes, *sizes: int, channel: int = 1, properties: pamqp.commands.Basic.Properties | None = None
) -> bytes:
    """The body in frames of these sizes; in one when there are none."""
    edges = list(itertools.accumulate(sizes, initial=0)) if sizes else [0, len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(edges)] if body else []
    return b"".join(
        (
            theirs(pamqp.commands.Basic.Publish(exchange="x", routing_key="a.b", mandatory=True), channel),
            theirs(pamqp.header.ContentHeader(0, len(body), properties or pamqp.commands.Basic.Properties()), channel),
            *(theirs(pamqp.body.ContentBody(piece), channel) for piece in pieces),
        )
    )


PUBLISH = BasicPublish(exchange="x", routing_key="a.b", mandatory=True)

FRAMES: dict[str, tuple[bytes, list[Frame]]] = {
    "method": (theirs(pamqp.commands.Channel.Open(), 7), [MethodFrame(7, ChannelOpen(reserved_1="0"))]),
    "method with arguments": (
        theirs(pamqp.commands.Queue.Declare(queue="q", durable=True, arguments={"x-max-length": 5})),
        [MethodFrame(1, QueueDeclare(queue="q", durable=True, arguments={"x-max-length": 5}))],
    ),
    "ack": (
        theirs(pamqp.commands.Basic.Ack(2**62, True)),
        [MethodFrame(1, BasicAck(delivery_tag=2**62, multiple=True))],
    ),
    "ack of one": (theirs(pamqp.commands.Basic.Ack(1, False)), [MethodFrame(1, BasicAck(delivery_tag=1))]),
    "nack": (
        theirs(pamqp.commands.Basic.Nack(9, False, False)),
        [MethodFrame(1, BasicNack(delivery_tag=9, multiple=False, requeue=False))],
    ),
    "heartbeat": (HEARTBEAT, [Heartbeat()]),
    "publish": (publish(b"hello"), [Publication(1, PUBLISH, CONTENT, b"hello")]),
    "publish with properties": (
        publish(
            b"{}",
            channel=65_535,
            properties=pamqp.commands.Basic.Properties(
                content_type="application/json", delivery_mode=2, headers=dict(HEADERS)
            ),
        ),
        [Publication(65_535, PUBLISH, Content(JSON, HEADERS, None), b"{}")],
    ),
    "publish with a bad expiration": (
        publish(b"1", properties=pamqp.commands.Basic.Properties(expiration="soon")),
        [Publication(1, PUBLISH, Content(NO_PROPERTIES, NO_HEADERS, "soon"), b"1")],
    ),
    "publish of nothing": (publish(b""), [Publication(1, PUBLISH, CONTENT, b"")]),
    "body with frame ends": (publish(b"\xce" * 20), [Publication(1, PUBLISH, CONTENT, b"\xce" * 20)]),
    "body in two frames": (
        publish(b"hello", 2, 3),
        [MethodFrame(1, PUBLISH), HeaderFrame(1, 5, CONTENT), BodyFrame(1, b"he"), BodyFrame(1, b"llo")],
    ),
    "body with an empty frame": (
        publish(b"hello", 0, 5),
        [MethodFrame(1, PUBLISH), HeaderFrame(1, 5, CONTENT), BodyFrame(1, b""), BodyFrame(1, b"hello")],
    ),
    "channels in between": (
        theirs(pamqp.commands.Basic.Publish(exchange="x", routing_key="a.b", mandatory=True), 1)
        + publish(b"2", channel=2),
        [MethodFrame(1, PUBLISH), Publication(2, PUBLISH, CONTENT, b"2")],
    ),
    "header of another channel": (
        theirs(pamqp.commands.Basic.Publish(exchange="x", routing_key="a.b", mandatory=True), 1)
        + theirs(pamqp.header.ContentHeader(0, 0), 2),
        [MethodFrame(1, PUBLISH), HeaderFrame(2, 0, CONTENT)],
    ),
    "body of another channel": (
        publish(b"hello", channel=1)[: -len(theirs(pamqp.body.ContentBody(b"hello")))]
        + theirs(pamqp.body.ContentBody(b"hello"), 2),
        [MethodFrame(1, PUBLISH), HeaderFrame(1, 5, CONTENT), BodyFrame(2, b"hello")],
    ),
}


def drain(decoder: Decoder) -> list[Frame]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def decoder_of(frame_max: int = 131_072) -> Decoder:
    decoder = Decoder(frame_max)
    decoder.feed(PROTOCOL_HEADER)
    assert drain(decoder) == [ProtocolHeader()]
    return decoder


def apart(frames: list[Frame]) -> list[Frame]:
    """As they are read when they do not arrive together."""
    out: list[Frame] = []
    for frame in frames:
        if isinstance(frame, Publication):
            out += [
                MethodFrame(frame.channel, frame.method),
                HeaderFrame(frame.channel, len(frame.body), frame.content),
            ]
            out += [BodyFrame(frame.channel, frame.body)] if frame.body else []
        else:
            out.append(frame)
    return out


@pytest.fixture(params=FRAMES.values(), ids=FRAMES.keys())
def case(request: pytest.FixtureRequest) -> tuple[bytes, list[Frame]]:
    value: tuple[bytes, list[Frame]] = request.param
    return value


class TestFrames:
    def test_whole(self, case: tuple[bytes, list[Frame]]) -> None:
        decoder = decoder_of()
        decoder.feed(case[0])
        assert drain(decoder) == case[1]

    def test_byte_by_byte(self, case: tuple[bytes, list[Frame]]) -> None:
        decoder = decoder_of()
        frames = []
        for byte in case[0]:
            decoder.feed(bytes((byte,)))
            frames += drain(decoder)
        assert frames == apart(case[1])

    def test_in_two_pieces(self, case: tuple[bytes, list[Frame]]) -> None:
        wire, expected = case
        for cut in range(len(wire) + 1):
            decoder = decoder_of()
            decoder.feed(wire[:cut])
            frames = drain(decoder)
            decoder.feed(wire[cut:])
            assert apart(frames + drain(decoder)) == apart(expected)

    def test_nothing_comes_of_a_prefix(self, case: tuple[bytes, list[Frame]]) -> None:
        wire, expected = case
        for length in range(len(wire)):
            decoder = decoder_of()
            decoder.feed(wire[:length])
            frames = drain(decoder)
            assert len(apart(frames)) < len(apart(expected))
            assert apart(frames) == apart(expected)[: len(apart(frames))]

    def test_with_something_behind_it(self, case: tuple[bytes, list[Frame]]) -> None:
        decoder = decoder_of()
        decoder.feed(case[0] + HEARTBEAT + case[0] + HEARTBEAT[:-1])
        assert drain(decoder) == [*case[1], Heartbeat(), *case[1]]
        decoder.feed(HEARTBEAT[-1:])
        assert drain(decoder) == [Heartbeat()]

    def test_unread_frames_wait(self, case: tuple[bytes, list[Frame]]) -> None:
        decoder = decoder_of()
        decoder.feed(case[0])
        decoder.feed(case[0])
        assert drain(decoder) == case[1] * 2

    def test_the_same_publish_is_read_once(self) -> None:
        decoder = decoder_of()
        decoder.feed(publish(b"1") + publish(b"2"))
        one, two = drain(decoder)
        assert isinstance(one, Publication)
        assert isinstance(two, Publication)
        assert one.method is two.method


class TestProtocolHeader:
    def test_byte_by_byte(self) -> None:
        decoder = Decoder()
        for byte in PROTOCOL_HEADER[:-1]:
            decoder.feed(bytes((byte,)))
            assert decoder.next_frame() is None
        decoder.feed(PROTOCOL_HEADER[-1:] + HEARTBEAT)
        assert drain(decoder) == [ProtocolHeader(), Heartbeat()]

    @pytest.mark.parametrize(
        "data", [b"G", b"GET / HTTP/1.1\r\n", b"AMQP\x00\x01\x00\x00", b"AMQP\x03", b"AMQP\x00\x00\x09\x02", HEARTBEAT]
    )
    def test_others_are_told(self, data: bytes) -> None:
        decoder = Decoder()
        decoder.feed(data)
        with pytest.raises(ProtocolHeaderMismatch) as caught:
            decoder.next_frame()
        assert caught.value.received == data[:8]


def raw(kind: int, channel: int, payload: bytes, end: int = 0xCE) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes((end,))


BASIC_HEADER = struct.pack(">HHQ", 60, 0, 5)

BAD = {
    "type 0": (raw(0, 0, b""), ReplyCode.FRAME_ERROR),
    "type 4": (raw(4, 1, b""), ReplyCode.FRAME_ERROR),
    "type 255": (raw(255, 1, b"abc"), ReplyCode.FRAME_ERROR),
    "heartbeat on a channel": (raw(8, 1, b""), ReplyCode.FRAME_ERROR),
    "heartbeat with a payload": (raw(8, 0, b"x"), ReplyCode.FRAME_ERROR),
    "no frame end": (raw(8, 0, b"", 0xCD), ReplyCode.FRAME_ERROR),
    "no frame end of a publish": (publish(b"hello")[:-1] + b"\0", ReplyCode.FRAME_ERROR),
    "no frame end of its header": (publish(b"")[:-1] + b"\0", ReplyCode.FRAME_ERROR),
    "no frame end of its method": (publish(b"hello").replace(b"\xce", b"\0", 1), ReplyCode.FRAME_ERROR),
    "too large": (struct.pack(">BHI", 3, 1, 131_065), ReplyCode.FRAME_ERROR),
    "4 GiB": (b"\x03\0\1\xff\xff\xff\xff", ReplyCode.FRAME_ERROR),
    "too large among a publish": (publish(b"hello" * 30_000), ReplyCode.FRAME_ERROR),
    "empty method": (raw(1, 1, b""), ReplyCode.SYNTAX_ERROR),
    "method without fields": (raw(1, 1, b"\0\x3c\0\x28"), ReplyCode.SYNTAX_ERROR),
    "ack cut": (raw(1, 1, b"\0\x3c\0\x50" + bytes(8)), ReplyCode.SYNTAX_ERROR),
    "ack with more": (raw(1, 1, b"\0\x3c\0\x50" + bytes(10)), ReplyCode.SYNTAX_ERROR),
    "unknown method": (raw(1, 1, b"\0\x3c\0\x29"), ReplyCode.NOT_IMPLEMENTED),
    "header cut": (raw(2, 1, BASIC_HEADER[:-1]), ReplyCode.SYNTAX_ERROR),
    "header without flags": (raw(2, 1, BASIC_HEADER), ReplyCode.SYNTAX_ERROR),
    "header of a publish without flags": (publish(b"")[:-22] + raw(2, 1, BASIC_HEADER), ReplyCode.SYNTAX_ERROR),
    "header of another class": (raw(2, 1, struct.pack(">HHQH", 50, 0, 5, 0)), ReplyCode.UNEXPECTED_FRAME),
}


class TestMalformed:
    @pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
    def test_it_has_a_reply_code(self, case: tuple[bytes, ReplyCode]) -> None:
        for pieces in ([case[0]], [bytes((byte,)) for byte in case[0][:400]] + [case[0][400:]]):
            decoder = decoder_of()
            with pytest.raises(ConnectionException) as caught:  # noqa: PT012 - somewhere in these bytes
                for piece in pieces:
                    decoder.feed(piece)
                    drain(decoder)
            assert caught.value.reply_code is case[1]

    def test_texts(self) -> None:
        decoder = decoder_of(4096)
        decoder.feed(struct.pack(">BHI", 3, 1, 4089))
        with pytest.raises(AmqpError) as caught:
            decoder.next_frame()
        assert caught.value.reply_text == "FRAME_ERROR - a frame of 4097 bytes; frame-max is 4096"
        assert len(AmqpError(ReplyCode.NOT_FOUND, "ü" * 300).reply_text.encode()) <= 255

    def test_frame_max_is_what_was_negotiated_last(self) -> None:
        decoder = decoder_of(INITIAL_FRAME_MAX)
        large = raw(3, 1, bytes(INITIAL_FRAME_MAX - FRAME_OVERHEAD))
        decoder.feed(large)
        assert drain(decoder) == [BodyFrame(1, bytes(INITIAL_FRAME_MAX - FRAME_OVERHEAD))]
        decoder.frame_max = MIN_FRAME_MAX
        assert decoder.frame_max == MIN_FRAME_MAX
        decoder.feed(large)
        with pytest.raises(ConnectionException):
            decoder.next_frame()

    def test_what_came_before_is_read(self) -> None:
        decoder = decoder_of()
        decoder.feed(publish(b"hello") + raw(4, 1, b""))
        assert decoder.next_frame() == Publication(1, PUBLISH, CONTENT, b"hello")
        with pytest.raises(ConnectionException):
            decoder.next_frame()


class TestWriting:
    """What a server sends, read by pika, whose decoder takes one frame at a time."""

    @staticmethod
    def read(data: bytes) -> list[object]:
        frames = []
        while data:
            consumed, frame = pika.frame.decode_frame(data)
            assert consumed, "not a whole frame"
            frames.append(frame)
            data = data[consumed:]
        return frames

    @pytest.mark.parametrize("frame_max", [MIN_FRAME_MAX, 131_072])
    @pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 20_000])
    def test_deliver(self, size: int, frame_max: int) -> None:
        body = bytes(range(256)) * (size // 256) + bytes(size % 256)
        data = write_deliver(
            3,
            write_short_string("ctag"),
            2**40,
            True,
            write_address(Address("x", "größe.%")),
            write_content(JSON, HEADERS),
            body,
            frame_max,
        )
        method, header, *bodies = self.read(data)
        assert isinstance(method, pika.frame.Method)
        deliver = method.method
        assert (method.channel_number, deliver.consumer_tag, deliver.delivery_tag) == (3, "ctag", 2**40)
        assert (deliver.redelivered, deliver.exchange, deliver.routing_key) == (True, "x", "größe.%")
        assert isinstance(header, pika.frame.Header)
        assert (header.channel_number, header.body_size) == (3, size)
        assert (header.properties.content_type, header.properties.headers) == ("application/json", HEADERS)
        assert b"".join(frame.fragment for frame in bodies) == body
        assert all(0 < len(frame.fragment) <= frame_max - FRAME_OVERHEAD for frame in bodies)
        assert len(bodies) == -(-size // (frame_max - FRAME_OVERHEAD))

    def test_return_and_get_ok(self) -> None:
        content = write_content(NO_PROPERTIES, NO_HEADERS)
        returned = BasicReturn(reply_code=312, reply_text="NO_ROUTE", exchange="x", routing_key="k")
        got = BasicGetOk(delivery_tag=5, exchange="x", routing_key="k", message_count=9)
        data = write_with_content(1, returned, content, b"a", 4096) + write_with_content(1, got, content, b"", 4096)
        one, _, body, two, header = self.read(data)
        assert isinstance(one, pika.frame.Method)
        assert (one.method.reply_code, one.method.reply_text) == (312, "NO_ROUTE")
        assert isinstance(body, pika.frame.Body)
        assert body.fragment == b"a"
        assert isinstance(two, pika.frame.Method)
        assert (two.method.delivery_tag, two.method.message_count) == (5, 9)
        assert isinstance(header, pika.frame.Header)
        assert header.body_size == 0

    @pytest.mark.parametrize("multiple", [True, False])
    def test_acknowledgements(self, multiple: bool) -> None:
        assert write_ack(9, 2**62, multiple) == theirs(pamqp.commands.Basic.Ack(2**62, multiple), 9)
        assert write_nack(9, 7, multiple) == theirs(pamqp.commands.Basic.Nack(7, multiple, False), 9)

    def test_methods_and_heartbeats(self) -> None:
        assert write_method(0, ConnectionTune(channel_max=2047, frame_max=131_072, heartbeat=60)) == theirs(
            pamqp.commands.Connection.Tune(2047, 131_072, 60), 0
        )
        assert write_frame(FrameType.HEARTBEAT, 0, b"") == HEARTBEAT
        assert self.read(HEARTBEAT)[0].__class__ is pika.frame.Heartbeat

    def test_keys_that_are_too_long_are_cut(self) -> None:
        field = write_address(Address("", "ü" * 200))
        assert field == b"\0" + write_short_string("ü" * 127)


bodies = st.binary(max_size=40)
frames = st.one_of(
    st.builds(publish, bodies, channel=st.integers(1, 3)),
    st.builds(
        lambda body, cut: publish(body, cut, len(body) - cut), st.binary(min_size=9, max_size=30), st.integers(0, 9)
    ),
    st.builds(
        lambda tag, multiple: theirs(pamqp.commands.Basic.Ack(tag, multiple)), st.integers(0, 2**63 - 1), st.booleans()
    ),
    st.just(HEARTBEAT),
    st.just(theirs(pamqp.commands.Queue.Declare(queue="q", arguments={"a": [1]}))),
)


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 600), max_size=8))
def test_pieces_do_not_matter(wires: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(wires)
    whole = decoder_of()
    whole.feed(wire)
    pieces = decoder_of()
    read = []
    for start, end in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]):
        pieces.feed(wire[start:end])
        read += drain(pieces)
    assert apart(read) == apart(drain(whole))


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_frames_or_an_error(data: bytes, begun: bool) -> None:
    decoder = decoder_of() if begun else Decoder()
    decoder.feed(data)
    try:
        drain(decoder)
    except ConnectionException as error:
        assert error.reply_text.startswith(error.reply_code.name)  # noqa: PT017 - or nothing is raised
