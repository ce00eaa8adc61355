"""What an object in S3 consists of, cut into parts and put together from them. Pure.

An object holds the text that would have been the body of a message: the payload itself, or its base64. That text is
never made as a whole: parts are cut so that each can be encoded, and decoded, by itself.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Final

from adapters.aws.wire import BASE64, EMPTY, EMPTY_BODY, encoding_of

PART_BYTES: Final = 8 * 1024 * 1024
"""Of an object. S3 takes 5 MiB and more of every part but the last, and 10,000 parts (S3 user guide, "Amazon S3
multipart upload limits"): here 22 at most. Larger ones would take more memory, smaller ones more requests."""

_PAYLOAD_BYTES: Final = PART_BYTES // 4 * 3
"""Of a payload whose base64 fills a part: three bytes become four characters, so that parts fit without padding."""


def payload_bytes(size: int, *, base64: bool) -> int:
    """Bytes of the payload in an object of this size, padding included."""
    return size // 4 * 3 if base64 else size


def parts_of(size: int) -> int:
    """How many parts an object of this size has."""
    return max(1, -(-size // PART_BYTES))


class Content:
    """An object to be written: the text of a payload."""

    __slots__ = ("_body", "_view", "encoding", "size")

    def __init__(self, body: bytes) -> None:
        self.encoding = encoding_of(body)
        """The value of `mqlift.encoding`, empty where the payload is its own text."""
        self._body = EMPTY_BODY.encode() if self.encoding == EMPTY else body
        self._view = memoryview(self._body)
        self.size = -(-len(body) // 3) * 4 if self.encoding == BASE64 else len(self._body)
        """Bytes of the object."""

    @property
    def parts(self) -> int:
        return parts_of(self.size)

    def part(self, number: int) -> bytes:
        """One of the parts, from 0. Made each time: nobody keeps them."""
        if self.encoding == BASE64:
            return base64.b64encode(self._view[number * _PAYLOAD_BYTES : (number + 1) * _PAYLOAD_BYTES])
        if self.parts == 1:
            return self._body
        return bytes(self._view[number * PART_BYTES : (number + 1) * PART_BYTES])


class Payload:
    """A payload that is put together from the parts of an object, which may come in any order."""

    __slots__ = ("_base64", "_buffer", "_last")

    def __init__(self, size: int, *, base64: bool) -> None:
        """`size`: bytes of the object. `base64`: whether that is what it holds."""
        self._base64 = base64
        self._last = parts_of(size) - 1
        self._buffer = BytesIO()
        expected = payload_bytes(size, base64=base64)
        if expected:  # all at once: no larger buffer on the way, and no copy at the end
            self._buffer.seek(expected - 1)
            self._buffer.write(b"\0")

    def add(self, number: int, part: bytes | bytearray) -> None:
        """One of the parts, from 0. Raises `ValueError` for what is not base64."""
        if not self._base64:
            self._write(number * PART_BYTES, part)
            return
        decoded = base64.b64decode(part, validate=True)
        if number == self._last:
            self._write(number * _PAYLOAD_BYTES, decoded)
            self._buffer.truncate()  # what padding stood for
        elif len(decoded) == _PAYLOAD_BYTES:
            self._write(number * _PAYLOAD_BYTES, decoded)
        else:
            raise ValueError("padding before the end")

    def _write(self, start: int, piece: bytes | bytearray) -> None:
        self._buffer.seek(start)
        self._buffer.write(piece)

    def body(self) -> bytes:
        """When all parts are there."""
        return self._buffer.getvalue()
