"""What a peer must not send: an ERROR that says so, and the end of the connection; never an exception."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.commands import Authenticate, Close
from gateway.core.outcome import ACCEPTED
from gateway.core.session import SessionContext
from gateway.protocols.stomp.codec import FrameLimits, FrameParser
from gateway.protocols.stomp.errors import BadCommand, BadHeader, FrameTooLarge, MalformedFrame
from gateway.protocols.stomp.session import open_session
from gateway.protocols.stomp.settings import Settings

BAD = {
    "unknown command": (b"HELLO\n\n\0", BadCommand, "Bad command"),
    "a server's command": (b"MESSAGE\n\n\0", BadCommand, "Bad command"),
    "lower case": (b"send\ndestination:/queue/q\n\n\0", BadCommand, "Bad command"),
    "command in UTF-8": ("SÉND\n\n\0".encode(), BadCommand, "Bad command"),
    "an HTTP request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0", BadCommand, "Bad command"),
    "bad UTF-8": (b"SEND\ndestination:/queue/\xff\n\n\0", MalformedFrame, "Malformed frame"),
    "no colon": (b"SEND\ndestination\n\n\0", MalformedFrame, "Malformed frame"),
    "undefined escape": (b"SEND\na:\\t\n\n\0", MalformedFrame, "Malformed frame"),
    "no empty line": (b"SEND\ndestination:/queue/q\0", MalformedFrame, "Malformed frame"),
    "body too long for its length": (b"SEND\ncontent-length:1\n\nbody\0", MalformedFrame, "Malformed frame"),
    "length is no number": (b"SEND\ncontent-length:x\n\nbody\0", BadHeader, "Invalid header"),
    "announced body over the limit": (b"SEND\ncontent-length:1025\n\n", FrameTooLarge, "Frame too large"),
    "body over the limit": (b"SEND\n\n" + b"x" * 1025, FrameTooLarge, "Frame too large"),
    "header over the limit": (b"SEND\na:" + b"x" * 10_240, FrameTooLarge, "Frame too large"),
    "too many headers": (b"SEND\n" + b"a:1\n" * 12, FrameTooLarge, "Frame too large"),
}
LIMITS = {"max_body": 1024, "max_headers": 10}


@pytest.mark.parametrize(("data", "error", "title"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
def test_once_connected(open_line, cut, data, error, title):
    line = open_line(**LIMITS)
    line.connect()
    line.done.clear()
    for piece in [data] if cut == "whole" else [bytes([octet]) for octet in data]:
        line.send(piece)
    answer = line.only("ERROR")
    assert answer.headers["message"] == title
    assert answer.body
    assert isinstance(line.closed.error, error)
    assert line.done == [line.closed]
    assert line.send(b"SEND\ndestination:/topic/a\n\n\0") == ()
    assert line.frames() == []


@pytest.mark.parametrize("between", [b"\0", b"\n\0\r\n\0"], ids=["NUL", "line ends"])
def test_a_stray_nul_between_frames_means_nothing(line, between):
    line.send(between + b"BEGIN\ntransaction:t\nreceipt:r\n\n\0" + between)
    assert line.only("RECEIPT").headers == {"receipt-id": "r"}


def test_a_body_where_none_may_be_means_nothing(line):
    line.send(b"BEGIN\ntransaction:t\nreceipt:r\n\na body\0")
    assert line.only("RECEIPT").headers == {"receipt-id": "r"}


@pytest.mark.parametrize(("data", "error", "title"), BAD.values(), ids=BAD.keys())
def test_instead_of_connect(open_line, data, error, title):
    line = open_line(**LIMITS)
    line.send(data)
    line.only("ERROR")
    assert line.done == [line.closed]
    assert line.closed.error is not None
    assert not line.session.established


def test_the_frames_before_it_count(open_line):
    line = open_line()
    line.connect()
    line.send(b"SEND\ndestination:/topic/a\n\n1\0SEND\nno colon\n\n\0")
    assert [type(command).__name__ for command in line.done[-2:]] == ["Publish", "Close"]


@st.composite
def streams(draw):
    """Bytes that are nearly STOMP, in pieces."""
    lines = st.sampled_from(
        [b"SEND", b"ACK", b"NACK", b"SUBSCRIBE", b"UNSUBSCRIBE", b"DISCONNECT", b"BEGIN", b"STOMP", b"id:0", b"id:",
         b"destination:/queue/q", b"destination:/topic/#", b"destination:/exchange/", b"ack:client", b"receipt:r",
         b"content-length:2", b"accept-version:1.2", b"heart-beat:1,1", b"", b"\0", b"body\0", b"a:\\c", b"\\", b"\xff"]
    )  # fmt: skip
    text = b"".join(line + draw(st.sampled_from([b"\n", b"\r\n", b""])) for line in draw(st.lists(lines, max_size=25)))
    size = draw(st.integers(1, 40))
    return [text[start : start + size] for start in range(0, len(text), size)]


@given(st.booleans(), streams() | st.lists(st.binary(min_size=1, max_size=50), max_size=10))
def test_any_bytes(connected, pieces):
    context = SessionContext(peer="p", server="s", settings=Settings())
    session = open_session(context, 0.0)
    if connected:
        pieces = [b"CONNECT\naccept-version:1.2\n\n\0", *pieces]
    closes = 0
    for piece in pieces:
        for command in session.receive_data(piece, 0.0):
            closes += isinstance(command, Close)
            if isinstance(command, Authenticate):
                closes += sum(isinstance(more, Close) for more in session.answer(command.token, ACCEPTED, 0.0))
    assert closes <= 1
    parser = FrameParser(FrameLimits(100, 1 << 16, 1 << 16, 1 << 16))
    parser.receive_data(session.data_to_send())
    errors = 0
    while (frame := parser.next_frame()) is not None:
        errors += frame.command == "ERROR"
    assert parser.buffered == 0
    assert errors == 1 if closes and not session.established else errors <= 1
