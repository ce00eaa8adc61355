"""STOMP frames: bytes to frames, cut anywhere, and frames to bytes.

https://stomp.github.io/stomp-specification-1.2.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from gateway.protocols.stomp.errors import BadHeader, FrameTooLarge, MalformedFrame
from gateway.protocols.stomp.versions import UNESCAPED, V1_2, Version

NUL = b"\0"

CONNECT_COMMANDS = frozenset({"CONNECT", "STOMP"})
"""[STOMP 1.2, CONNECT or STOMP Frame] Two names of one frame."""

_HEADER_END = re.compile(rb"\n\r?\n")
_CUT_END = 2  # bytes of it that may have come when it has not
# Only line ends belong between frames. Brokers also pass over a stray NUL there, and a stray carriage return does no
# harm; one class is one fast loop.
_BETWEEN_FRAMES = re.compile(rb"[\r\n\0]*")
_MEANINGLESS = frozenset(b"\r\n\0")
# `int` is quadratic in the digits: nothing longer can be within any limit.
_MAX_CONTENT_LENGTH_DIGITS = 18

UNANNOUNCED = 64 * 1024
"""Bytes of a body that may have come without a content-length before it counts as one of the largest."""

_MAX_PIECES = 1024
"""Pieces of an unfinished frame before they are joined: each costs some 40 bytes besides its own."""


class FrameLimits(NamedTuple):
    """How large a frame may be. Over any of them, parsing raises `FrameTooLarge` without waiting for the rest."""

    headers: int
    """Header lines."""
    header_line: int
    """Bytes of the longest line, without its end."""
    header_section: int
    """Bytes of command and headers together."""
    body: int
    """Bytes of the body."""


class Frame:
    """One frame. `headers` holds the first of repeated ones, as [STOMP 1.2, Repeated Header Entries] says."""

    __slots__ = ("body", "command", "headers")

    def __init__(self, command: str, headers: dict[str, str], body: bytes = b"") -> None:
        self.command = command
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"Frame({self.command!r}, {sorted(self.headers)}, {len(self.body)} bytes)"  # values may be secret


class FrameParser:
    """Cuts a stream into frames. After it has raised, the stream is lost.

    Set `version` once it is known. What has arrived of an unfinished frame is kept in pieces, and looked at again only
    when a piece may finish it, so that a peer that sends byte by byte costs no more than its bytes.
    """

    __slots__ = (
        "_buffer",
        "_frame",
        "_late",
        "_late_size",
        "_limits",
        "_position",
        "_scanned",
        "_small_head",
        "_starved",
        "_wanted",
        "version",
    )

    def __init__(self, limits: FrameLimits, version: Version = V1_2) -> None:
        self.version = version
        self._limits = limits
        self._small_head = min(limits.header_line, limits.header_section)  # within both, whatever its lines are
        self._buffer = b""
        self._position = 0  # everything before it is done with
        self._scanned = 0  # no terminator begins before it
        self._starved = False  # `_buffer` has been looked at, and holds no whole frame
        self._late: list[bytes] = []  # what came after it, and cannot finish its frame
        self._late_size = 0
        self._frame: Frame | None = None  # its headers are read, its body is not
        self._wanted = 0  # bytes of that body and its NUL, when the frame said how many

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer; `next_frame` gives what they complete."""
        if self._position == len(self._buffer):
            self._buffer = data
            self._position = self._scanned = 0
            self._starved = False
            return
        self._late.append(data)
        self._late_size += len(data)
        if not self._starved or len(self._late) >= _MAX_PIECES or self._worth_a_look(data):
            self._buffer = b"".join((self._buffer[self._position :], *self._late))
            self._scanned = max(0, self._scanned - self._position)
            self._position = 0
            self._starved = False
            self._late.clear()
            self._late_size = 0

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None. Raises `MalformedFrame`, `FrameTooLarge`, or `BadHeader` (content-length)."""
        if self._late:
            return None
        frame = self._frame
        if frame is None:
            frame = self._read_head()
            if frame is None:
                return None
        return self._read_body(frame)

    @property
    def buffered(self) -> int:
        """Bytes that no frame was made of yet."""
        return len(self._buffer) - self._position + self._late_size

    @property
    def assembling(self) -> int:
        """Bytes that the body of an unfinished frame has; at most, where it has not said how many."""
        if self._frame is None:
            return 0
        if self._wanted:
            return self._wanted - 1
        return self._limits.body if self.buffered > UNANNOUNCED else 0

    def _worth_a_look(self, data: bytes) -> bool:
        size = len(self._buffer) - self._position + self._late_size
        if self._wanted:
            return size >= self._wanted
        if self._frame is not None:
            return NUL in data or size > self._limits.body
        return b"\n" in data or NUL in data or size > self._small_head

    def _read_head(self) -> Frame | None:
        buffer = self._buffer
        start = self._position
        if start == len(buffer):
            self._starve(start)
            return None
        if buffer[start] in _MEANINGLESS:
            # [STOMP 1.2, Heart-beating] and after every NUL: line ends mean nothing here.
            start = _skip_meaningless(buffer, start)
            if start == len(buffer):
                self._starve(start)
                return None
        end = _HEADER_END.search(buffer, max(start, self._scanned))
        if end is None:
            self._check_unfinished_head(start)
            return None
        frame = self._parse_head(buffer[start : end.start()])
        self._position = self._scanned = end.end()
        self._frame = frame
        return frame

    def _check_unfinished_head(self, start: int) -> None:
        buffer, limits = self._buffer, self._limits
        if buffer.find(NUL, max(start, self._scanned)) >= 0:
            raise MalformedFrame("a NUL byte before the empty line that ends the headers")
        if len(buffer) - start > limits.header_section + _CUT_END:
            raise FrameTooLarge(f"command and headers are over {limits.header_section} bytes")
        if buffer.count(b"\n", start) > limits.headers + 1:
            raise FrameTooLarge(f"more than {limits.headers} headers")
        if len(buffer) - max(start, buffer.rfind(b"\n", start) + 1) > limits.header_line:
            raise FrameTooLarge(f"a header line is over {limits.header_line} bytes")
        self._scanned = max(start, len(buffer) - _CUT_END)
        self._starve(start)

    def _parse_head(self, head: bytes) -> Frame:
        limits = self._limits
        if len(head) > self._small_head:
            _check_head_size(head, limits)
        try:
            text = head.decode()
        except UnicodeDecodeError:
            raise MalformedFrame("a header is not UTF-8") from None
        if "\r" in text:
            text = _without_carriage_returns(text)
        if "\0" in text:
            raise MalformedFrame("a NUL byte before the empty line that ends the headers")
        command, _, section = text.partition("\n")
        if section.count("\n") >= limits.headers:
            raise FrameTooLarge(f"more than {limits.headers} headers")
        version = UNESCAPED if command in CONNECT_COMMANDS else self.version
        headers = _parse_headers(section, version) if section else {}
        length = headers.get("content-length")
        self._wanted = 0 if length is None else self._body_size(length) + 1
        return Frame(command, headers)

    def _body_size(self, content_length: str) -> int:
        if not (content_length.isascii() and content_length.isdigit()):
            raise BadHeader("content-length is not a number of bytes")
        limit = self._limits.body
        if len(content_length) > _MAX_CONTENT_LENGTH_DIGITS or (size := int(content_length)) > limit:
            raise FrameTooLarge(f"the body is over {limit} bytes")
        return size

    def _read_body(self, frame: Frame) -> Frame | None:
        buffer = self._buffer
        start = self._position
        if self._wanted:
            end = start + self._wanted - 1
            if end >= len(buffer):
                self._starve(start)
                return None
            if buffer[end]:
                raise MalformedFrame("the body is longer than content-length says: no NUL byte after it")
        else:
            end = buffer.find(NUL, self._scanned)
            if (end if end >= 0 else len(buffer)) - start > self._limits.body:
                raise FrameTooLarge(f"the body is over {self._limits.body} bytes")
            if end < 0:
                self._scanned = len(buffer)
                self._starve(start)
                return None
        frame.body = buffer[start:end]
        self._frame = None
        self._wanted = 0
        self._position = self._scanned = end + 1
        return frame

    def _starve(self, start: int) -> None:
        """Wait for more, keeping only what is from `start` on: an idle connection does not hold its last read."""
        self._starved = True
        self._buffer = self._buffer[start:]
        self._position = 0
        self._scanned = max(0, self._scanned - start)


def _skip_meaningless(buffer: bytes, start: int) -> int:
    found = _BETWEEN_FRAMES.match(buffer, start)
    return start if found is None else found.end()


def _check_head_size(head: bytes, limits: FrameLimits) -> None:
    if len(head) > limits.header_section:
        raise FrameTooLarge(f"command and headers are over {limits.header_section} bytes")
    if max(map(len, head.split(b"\n"))) > limits.header_line:
        raise FrameTooLarge(f"a header line is over {limits.header_line} bytes")


def _without_carriage_returns(text: str) -> str:
    # [STOMP 1.2, STOMP Frames] "an optional carriage return (octet 13) followed by a REQUIRED line feed"
    text = text.replace("\r\n", "\n").removesuffix("\r")
    if "\r" in text:
        raise MalformedFrame("a carriage return inside a header line")
    return text


def _parse_headers(section: str, version: Version) -> dict[str, str]:
    escaped = "\\" in section
    trims = version.trims
    headers: dict[str, str] = {}
    for line in section.split("\n"):
        # A colon in a value is read as it stands: clients of version 1.0 write them.
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise MalformedFrame("a header line without a name and a colon")
        if escaped:
            name = version.unescape(name)
            value = version.unescape(value)
        if trims:
            value = value.lstrip(" ")
        if name not in headers:  # [STOMP 1.2, Repeated Header Entries]
            headers[name] = value
    return headers


def encode_headers(headers: Iterable[tuple[str, str]], version: Version) -> str:
    """Header lines, escaped, each with its line feed."""
    escape = version.escape
    return "".join([f"{escape(name)}:{escape(value)}\n" for name, value in headers])


def encode_frame(command: str, headers: Iterable[tuple[str, str]], version: Version, body: bytes = b"") -> bytes:
    """One frame. A body gets its content-length, so that it may hold anything.

    A lone surrogate, which UTF-8 cannot write, becomes a question mark.
    """
    length = f"content-length:{len(body)}\n" if body else ""
    head = f"{command}\n{encode_headers(headers, version)}{length}\n"
    return b"".join((head.encode(errors="replace"), body, NUL))
