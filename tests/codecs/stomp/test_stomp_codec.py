"""The STOMP codec: each case whole, byte by byte, at every prefix, and with something behind it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import stomp.utils
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.stomp.codec import Frame, FrameLimits, FrameParser, encode_frame
from gateway.protocols.stomp.errors import BadHeader, FrameTooLarge, MalformedFrame, StompError
from gateway.protocols.stomp.versions import UNESCAPED, V1_0, V1_1, V1_2, Version

LIMITS = FrameLimits(headers=20, header_line=256, header_section=1024, body=4096)

NEXT = b"ACK\nid:next\n\n\0"

HEAD_OF_1024_BYTES = b"SEND" + (b"\na:" + b"x" * 201) * 5

FRAMES = {
    "no headers": (b"DISCONNECT\n\n\0", ("DISCONNECT", {}, b"")),
    "body ends at NUL": (b"SEND\ndestination:/queue/a\n\nhello\0", ("SEND", {"destination": "/queue/a"}, b"hello")),
    "CR LF everywhere": (b"SEND\r\nx:1\r\ny:2\r\n\r\nhello\0", ("SEND", {"x": "1", "y": "2"}, b"hello")),
    "CR LF sometimes": (b"SEND\r\nx:1\ny:2\r\n\nhello\0", ("SEND", {"x": "1", "y": "2"}, b"hello")),
    "LF, then CR LF": (b"SEND\nx:1\n\r\nhello\0", ("SEND", {"x": "1"}, b"hello")),
    "body looks like the end of headers": (b"SEND\r\nx:1\r\n\r\na\n\nb\0", ("SEND", {"x": "1"}, b"a\n\nb")),
    "body begins with a line end": (b"SEND\nx:1\n\n\nhello\0", ("SEND", {"x": "1"}, b"\nhello")),
    "content-length": (b"SEND\ncontent-length:5\n\nhello\0", ("SEND", {"content-length": "5"}, b"hello")),
    "content-length 0": (b"SEND\ncontent-length:0\n\n\0", ("SEND", {"content-length": "0"}, b"")),
    "NUL bytes within content-length": (
        b"SEND\ncontent-length:6\n\na\0b\n\n\0\0",
        ("SEND", {"content-length": "6"}, b"a\0b\n\n\0"),
    ),
    "every octet": (
        b"SEND\ncontent-length:256\n\n" + bytes(range(256)) + b"\0",
        ("SEND", {"content-length": "256"}, bytes(range(256))),
    ),
    "first of repeated headers": (b"SEND\nfoo:World\nfoo:Hello\n\n\0", ("SEND", {"foo": "World"}, b"")),
    "escapes of 1.2": (b"SEND\na\\cb:1\\n2\\r3\\\\4\n\n\0", ("SEND", {"a:b": "1\n2\r3\\4"}, b"")),
    "escaped backslash before c": (b"SEND\na:\\\\c\n\n\0", ("SEND", {"a": "\\c"}, b"")),
    "repeated only once unescaped": (b"SEND\na\\cb:1\na\\cb:2\n\n\0", ("SEND", {"a:b": "1"}, b"")),
    "colon in a value": (b"SEND\nurl:http://h:1/\n\n\0", ("SEND", {"url": "http://h:1/"}, b"")),
    "empty value": (b"SEND\na:\n\n\0", ("SEND", {"a": ""}, b"")),
    "spaces stay": (b"SEND\n a : b \n\n\0", ("SEND", {" a ": " b "}, b"")),
    "UTF-8": ("SEND\nmünze:€ 𝄞\n\n\0".encode(), ("SEND", {"münze": "€ 𝄞"}, b"")),
    "CONNECT does not escape": (b"CONNECT\npasscode:a\\nb\\\n\n\0", ("CONNECT", {"passcode": "a\\nb\\"}, b"")),
    "STOMP does not escape": (b"STOMP\npasscode:\\t\n\n\0", ("STOMP", {"passcode": "\\t"}, b"")),
    "line ends before the frame": (b"\n\r\n\nACK\nid:1\n\n\0", ("ACK", {"id": "1"}, b"")),
    "unknown command": (b"HELLO\n\n\0", ("HELLO", {}, b"")),
}


SHARED = ["CR LF everywhere", "first of repeated headers", "colon in a value", "spaces stay", "UTF-8", "empty value"]


def parts(frame: Frame) -> tuple[str, dict[str, str], bytes]:
    return frame.command, frame.headers, frame.body


def drain(parser: FrameParser) -> list[tuple[str, dict[str, str], bytes]]:
    frames = []
    while (frame := parser.next_frame()) is not None:
        frames.append(parts(frame))
    return frames


def parse(
    *chunks: bytes, version: Version = V1_2, limits: FrameLimits = LIMITS
) -> list[tuple[str, dict[str, str], bytes]]:
    parser = FrameParser(limits, version)
    frames = []
    for chunk in chunks:
        parser.receive_data(chunk)
        frames += drain(parser)
    return frames


@pytest.fixture(params=FRAMES.values(), ids=FRAMES.keys())
def case(request):
    return request.param


class TestFrames:
    def test_whole(self, case):
        data, expected = case
        assert parse(data) == [expected]

    def test_byte_by_byte(self, case):
        data, expected = case
        assert parse(*(bytes([octet]) for octet in data)) == [expected]

    def test_every_prefix_is_unfinished_and_every_rest_finishes_it(self, case):
        data, expected = case
        for cut in range(len(data)):
            assert parse(data[:cut]) == []
            assert parse(data[:cut], data[cut:]) == [expected]

    def test_with_a_frame_behind_it(self, case):
        data, expected = case
        assert parse(data + NEXT) == [expected, ("ACK", {"id": "next"}, b"")]
        assert parse(data + b"\n\r\n" + NEXT + b"\n") == [expected, ("ACK", {"id": "next"}, b"")]
        assert parse(data + NEXT[:5], NEXT[5:]) == [expected, ("ACK", {"id": "next"}, b"")]

    # stomp.py splits frames elsewhere, does not mix line ends, and escapes CONNECT as well.
    @pytest.mark.parametrize("name", [name for name in FRAMES if "escape" in name and "not" not in name] + SHARED)
    def test_as_stomp_py_reads_it(self, name):
        data, expected = FRAMES[name]
        theirs = stomp.utils.parse_frame(data.removesuffix(b"\0"))
        assert (theirs.cmd, theirs.headers, theirs.body) == expected


MALFORMED = {
    "no colon": (b"SEND\ndestination\n\n\0", MalformedFrame),
    "no name": (b"SEND\n:value\n\n\0", MalformedFrame),
    "header name is not UTF-8": (b"SEND\n\xff:1\n\n\0", MalformedFrame),
    "header value is cut UTF-8": (b"SEND\na:\xe2\x82\n\n\0", MalformedFrame),
    "command is not UTF-8": (b"\xc3\x28\n\n\0", MalformedFrame),
    "undefined escape": (b"SEND\na:\\t\n\n\0", MalformedFrame),
    "undefined escape in a name": (b"SEND\n\\t:a\n\n\0", MalformedFrame),
    "escape without a character": (b"SEND\na:b\\\n\n\0", MalformedFrame),
    "upper-case escape": (b"SEND\na:\\N\n\n\0", MalformedFrame),
    "carriage return within a line": (b"SEND\na:b\rc\n\n\0", MalformedFrame),
    "two carriage returns at the end": (b"SEND\na:b\r\r\n\n\0", MalformedFrame),
    "NUL before the empty line": (b"SEND\na:b\0", MalformedFrame),
    "NUL before the empty line of the next frame": (b"SEND\na:b\0SEND\n\n\0", MalformedFrame),
    "NUL within a line": (b"SEND\na:b\0c\n\n\0", MalformedFrame),
    "body longer than content-length": (b"SEND\ncontent-length:3\n\nhello\0", MalformedFrame),
    "content-length is no number": (b"SEND\ncontent-length:five\n\n", BadHeader),
    "content-length is negative": (b"SEND\ncontent-length:-1\n\n", BadHeader),
    "content-length is empty": (b"SEND\ncontent-length:\n\n", BadHeader),
    "content-length in other digits": ("SEND\ncontent-length:\u0663\n\n".encode(), BadHeader),
    "content-length over the limit, before the body": (b"SEND\ncontent-length:4097\n\n", FrameTooLarge),
    "content-length of a thousand digits": (b"SEND\ncontent-length:" + b"9" * 200 + b"\n\n", FrameTooLarge),
    "unfinished body over the limit": (b"SEND\n\n" + b"x" * 4097, FrameTooLarge),
    "finished body over the limit": (b"SEND\n\n" + b"x" * 4097 + b"\0", FrameTooLarge),
    "unfinished line over the limit": (b"SEND\na:" + b"x" * 255, FrameTooLarge),
    "finished line over the limit": (b"SEND\na:" + b"x" * 255 + b"\nb:c\n\n\0", FrameTooLarge),
    "command over the limit": (b"S" * 257, FrameTooLarge),
    "unfinished headers over the limit": (b"SEND\n" + (b"a:" + b"x" * 200 + b"\n") * 6, FrameTooLarge),
    "finished headers over the limit": (b"SEND\n" + (b"a:" + b"x" * 200 + b"\n") * 6 + b"\n\0", FrameTooLarge),
    "headers one byte over the limit": (HEAD_OF_1024_BYTES + b"x\n\n\0", FrameTooLarge),
    "too many headers, unfinished": (b"SEND\n" + b"a:b\n" * 21, FrameTooLarge),
    "too many headers, finished": (b"SEND\n" + b"a:b\n" * 21 + b"\n\0", FrameTooLarge),
    "a TLS client": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), MalformedFrame),
}


class TestMalformed:
    @pytest.mark.parametrize(("data", "error"), MALFORMED.values(), ids=MALFORMED.keys())
    def test_whole(self, data, error):
        with pytest.raises(error):
            parse(data)

    @pytest.mark.parametrize(("data", "error"), MALFORMED.values(), ids=MALFORMED.keys())
    def test_byte_by_byte(self, data, error):
        with pytest.raises(error):
            parse(*(bytes([octet]) for octet in data))

    @pytest.mark.parametrize(("data", "error"), MALFORMED.values(), ids=MALFORMED.keys())
    def test_frames_before_it_are_given_first(self, data, error):
        parser = FrameParser(LIMITS)
        parser.receive_data(NEXT + b"\n" + data)
        frame = parser.next_frame()
        assert frame is not None
        assert parts(frame) == ("ACK", {"id": "next"}, b"")
        with pytest.raises(error):
            parser.next_frame()


class TestLimits:
    @pytest.mark.parametrize(
        "data",
        [
            b"SEND\n" + b"a:b\n" * 20 + b"\n\0",
            b"SEND\na:" + b"x" * 254 + b"\n\n\0",
            HEAD_OF_1024_BYTES + b"\n\n\0",
            HEAD_OF_1024_BYTES + b"\n\r\n\0",
            b"SEND\n\n" + b"x" * 4096 + b"\0",
            b"SEND\ncontent-length:4096\n\n" + b"x" * 4096 + b"\0",
        ],
    )
    def test_just_within(self, data):
        assert len(parse(data)) == 1
        assert len(parse(*(bytes([octet]) for octet in data))) == 1

    @pytest.mark.parametrize("size", [1, 100])
    def test_a_section_may_be_shorter_than_a_line(self, size):
        limits = LIMITS._replace(header_line=1024, header_section=256)
        data = b"SEND\n" + b"a:b\n" * 10 + b"a:" + b"x" * 250 + b"\n\n\0"
        for chunks in ([data], [data[start : start + size] for start in range(0, len(data), size)]):
            with pytest.raises(FrameTooLarge):
                parse(*chunks, limits=limits)

    def test_line_ends_between_frames_are_not_kept(self):
        parser = FrameParser(LIMITS)
        for _ in range(3):
            parser.receive_data(b"\r\n" * 100_000)
            assert parser.next_frame() is None
            assert parser.buffered == 0

    def test_what_is_parsed_is_let_go(self):
        parser = FrameParser(LIMITS)
        parser.receive_data(NEXT * 1000 + b"ACK\nid")
        assert len(drain(parser)) == 1000
        assert parser.buffered == 6

    def test_a_body_in_tiny_pieces_is_not_kept_in_as_many(self):
        limits = LIMITS._replace(body=1 << 20)
        body = b"xy" * 50_000
        for head in (b"SEND\n\n", f"SEND\ncontent-length:{len(body)}\n\n".encode()):
            parser = FrameParser(limits)
            parser.receive_data(head)
            assert parser.next_frame() is None
            for start in range(0, len(body), 2):
                parser.receive_data(body[start : start + 2])
                assert parser.next_frame() is None
                assert len(parser._late) <= 1024
            parser.receive_data(b"\0")
            frame = parser.next_frame()
            assert frame is not None
            assert frame.body == body


class TestHeldBack:
    def test_data_that_comes_before_the_last_was_looked_at(self):
        parser = FrameParser(LIMITS)
        parser.receive_data(NEXT + NEXT)
        assert parser.next_frame() is not None
        parser.receive_data(b"A")  # finishes nothing, and a whole frame lies before it
        parser.receive_data(b"CK")
        assert len(drain(parser)) == 1
        parser.receive_data(b"\nid:1\n\n\0")
        assert drain(parser) == [("ACK", {"id": "1"}, b"")]

    def test_buffered_counts_what_is_not_yet_a_frame(self):
        parser = FrameParser(LIMITS)
        parser.receive_data(b"SEND\na:")
        assert parser.next_frame() is None
        parser.receive_data(b"12")
        assert parser.buffered == 9


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "written", "value"),
        [
            (V1_0, b"a\\nb\\c\\", "a\\nb\\c\\"),
            (V1_1, b"a\\nb\\c\\\\", "a\nb:\\"),
            (V1_2, b"a\\nb\\c\\\\\\r", "a\nb:\\\r"),
        ],
    )
    def test_escapes_that_are_read(self, version, written, value):
        assert parse(b"SEND\nh:" + written + b"\n\n\0", version=version) == [("SEND", {"h": value}, b"")]

    def test_1_1_does_not_know_the_escaped_carriage_return(self):
        with pytest.raises(MalformedFrame):
            parse(b"SEND\nh:\\r\n\n\0", version=V1_1)

    @pytest.mark.parametrize("version", [V1_0, V1_1, V1_2], ids=lambda version: version.name)
    @pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\n", "a\r", "x\nother:1\n\nbody\0SEND\n\n"])
    def test_no_value_breaks_out_of_its_line(self, version, value):
        data = encode_frame("MESSAGE", [("h", value), ("last", "1")], version)
        ((command, headers, body),) = parse(data, version=version)
        assert (command, list(headers), body) == ("MESSAGE", ["h", "last"], b"")

    def test_1_1_and_1_0_write_what_they_cannot_say_as_unknown(self):
        assert V1_1.escape("a\rb\0") == "a\ufffdb\ufffd"
        assert V1_0.escape("a\nb:\\") == "a\ufffdb:\\"

    def test_a_lone_surrogate_does_not_stop_a_frame(self):
        assert encode_frame("MESSAGE", [("h", "\ud800")], V1_2) == b"MESSAGE\nh:?\n\n\0"

    def test_the_version_may_change_between_frames(self):
        parser = FrameParser(LIMITS)
        parser.receive_data(b"CONNECT\na:\\t\n\n\0SEND\nh:\\c\n\n\0")
        assert parser.next_frame() is not None
        parser.version = V1_0
        assert drain(parser) == [("SEND", {"h": "\\c"}, b"")]


class TestEncoding:
    def test_a_body_brings_its_length(self):
        data = encode_frame("ERROR", [("message", "bad: it")], V1_2, b"a\0b")
        assert data == b"ERROR\nmessage:bad\\c it\ncontent-length:3\n\na\0b\0"

    def test_no_body_no_length(self):
        assert encode_frame("CONNECTED", [("server", "a:1")], UNESCAPED) == b"CONNECTED\nserver:a:1\n\n\0"


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
headers_of_frames = st.dictionaries(names, values, max_size=8).filter(lambda headers: "content-length" not in headers)
commands = st.sampled_from(["SEND", "MESSAGE", "ERROR"])


class TestRoundTrip:
    @given(commands, headers_of_frames, st.binary(max_size=200), st.lists(st.integers(0, 2000), max_size=5))
    def test_1_2_however_it_is_cut(self, command, headers, body, cuts):
        data = encode_frame(command, headers.items(), V1_2, body)
        expected = headers | ({"content-length": str(len(body))} if body else {})
        edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        chunks = [data[start:end] for start, end in pairwise(edges)]
        assert parse(*chunks, limits=FrameLimits(20, 4096, 65536, 4096)) == [(command, expected, body)]

    @given(commands, headers_of_frames)
    def test_1_2_as_stomp_py_reads_it(self, command, headers):
        theirs = stomp.utils.parse_frame(encode_frame(command, headers.items(), V1_2).removesuffix(b"\0"))
        # stomp.py splits lines at "\n" and "\r\n" only, as the specification says.
        assert (theirs.cmd, theirs.headers) == (command, headers)

    @given(commands, headers_of_frames)
    def test_1_1_but_carriage_returns(self, command, headers):
        told = {name.replace("\r", "-"): value.replace("\r", "-") for name, value in headers.items()}
        assert parse(
            encode_frame(command, told.items(), V1_1), version=V1_1, limits=FrameLimits(20, 4096, 65536, 4096)
        ) == [(command, told, b"")]

    @given(st.binary(max_size=300), st.integers(0, 300))
    def test_any_bytes_give_frames_or_a_documented_error(self, data, cut):
        whole, pieces = outcome(data), outcome(data[:cut], data[cut:])
        assert whole == pieces


def outcome(*chunks: bytes) -> list[object]:
    """Frames and the class of the error that ended them, if any."""
    parser = FrameParser(LIMITS)
    found: list[object] = []
    for chunk in chunks:
        parser.receive_data(chunk)
        try:
            found += drain_into(parser, found)
        except StompError as error:
            return [*found, type(error)]
    return found


def drain_into(parser: FrameParser, found: list[object]) -> list[object]:
    while (frame := parser.next_frame()) is not None:
        found.append(parts(frame))
    return []
