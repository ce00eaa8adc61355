"""From bytes to frames (spec §4.2.3); `arguments` and `content` read their payloads, `writer` is the way back."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from gateway.protocols.amqp091.arguments import read_method
from gateway.protocols.amqp091.content import read_content
from gateway.protocols.amqp091.errors import (
    ConnectionException,
    ProtocolHeaderMismatch,
    ReplyCode,
    frame_error,
    syntax_error,
)
from gateway.protocols.amqp091.frames import (
    BASIC,
    CONTENT_HEAD_BYTES,
    FRAME_END,
    FRAME_HEAD,
    FRAME_OVERHEAD,
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
from gateway.protocols.amqp091.methods import BasicAck, BasicPublish

INITIAL_FRAME_MAX: Final = 8192
"""Bytes of a frame before `connection.tune-ok`: as RabbitMQ 4.1, for tokens that stand for passwords."""

CACHED_PUBLISH_BYTES: Final = 256
CACHED_PUBLISHES: Final = 4096
"""Publish methods that are kept once read: a publisher sends to few addresses, again and again."""

_METHOD: Final = FrameType.METHOD.value
_HEADER: Final = FrameType.HEADER.value
_BODY: Final = FrameType.BODY.value
_HEARTBEAT: Final = FrameType.HEARTBEAT.value

_CONTENT: Final = struct.Struct(">HHQ")
"""Of a header's payload: class, weight, size of the body."""

_HEADER_HEAD: Final = struct.Struct(">BHIHHQ")
"""The head of a header's frame, and of its payload."""

_PUBLISH_KEY: Final = b"\x00\x3c\x00\x28"
_ACK_KEY: Final = b"\x00\x3c\x00\x50"
_ACK_BYTES = 13
_ACK: Final = struct.Struct(">QB")
_MULTIPLE = 1


def _too_large(size: int, limit: int) -> ConnectionException:
    return frame_error(f"a frame of {size + FRAME_OVERHEAD} bytes; frame-max is {limit + FRAME_OVERHEAD}")


def _no_frame_end(byte: int) -> ConnectionException:
    return frame_error(f"a frame ends with 0x{byte:02X}, not with 0x{FRAME_END:02X}")


def _read_publish(payload: bytes) -> BasicPublish:
    method = read_method(payload)
    assert isinstance(method, BasicPublish)
    return method


_cached_publish = lru_cache(CACHED_PUBLISHES)(_read_publish)


def _read_header(channel: int, payload: bytes) -> HeaderFrame:
    if len(payload) < CONTENT_HEAD_BYTES:
        raise syntax_error("a content header that is cut off")
    class_id, _, body_size = _CONTENT.unpack_from(payload)
    if class_id != BASIC:
        problem = f"expected content header for class {BASIC}, got one for class {class_id} instead"
        raise ConnectionException(ReplyCode.UNEXPECTED_FRAME, problem, BasicPublish.CLASS_ID, BasicPublish.METHOD_ID)
    return HeaderFrame(channel, body_size, read_content(payload[CONTENT_HEAD_BYTES:]))


class Decoder:
    """Cuts a client's stream of bytes, fed in any pieces, into frames.

    Incomplete frames are collected once and parsed once, whatever the pieces: the work is linear in the bytes. After a
    `ConnectionException` the stream is lost, and the decoder must not be used any more.
    """

    __slots__ = ("_begun", "_data", "_max_payload", "_need", "_pos", "_rest")

    def __init__(self, frame_max: int = INITIAL_FRAME_MAX) -> None:
        self.frame_max = frame_max
        self._begun = False
        self._data = b""
        self._pos = 0
        self._rest: bytearray | None = None
        self._need = 0

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that is taken. Set it to what was negotiated; never 0, which would be no limit."""
        return self._max_payload + FRAME_OVERHEAD

    @frame_max.setter
    def frame_max(self, size: int) -> None:
        self._max_payload = size - FRAME_OVERHEAD

    def feed(self, data: bytes) -> None:
        """Take bytes. They are not copied, unless frames are still unread or an incomplete one waits."""
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            self._rest = None
        elif self._pos != len(self._data):
            data = self._data[self._pos :] + data
        self._data = data
        self._pos = 0

    def next_frame(self) -> Frame | None:
        """The next complete frame, or None when more bytes are needed.

        Raises `ProtocolHeaderMismatch` before the first frame, and `ConnectionException`: 501 for what is no frame, 502
        for what its payload cannot be, 505 for a content header of another class, 540 for methods that do not exist.
        """
        if not self._begun:
            return self._protocol_header()
        data = self._data
        start = self._pos + FRAME_HEAD.size
        if start > len(data):
            return self._wait(FRAME_HEAD.size)
        kind, channel, size = FRAME_HEAD.unpack_from(data, self._pos)
        if size > self._max_payload:
            raise _too_large(size, self._max_payload)
        end = start + size
        if end >= len(data):
            return self._wait(size + FRAME_OVERHEAD)
        if data[end] != FRAME_END:
            raise _no_frame_end(data[end])
        self._pos = end + 1
        if kind == _METHOD:
            return self._method(channel, data[start:end])
        return _read_frame(kind, channel, data[start:end])

    def _protocol_header(self) -> ProtocolHeader | None:
        received = self._data[self._pos : self._pos + len(PROTOCOL_HEADER)]
        if received == PROTOCOL_HEADER:
            self._pos += len(PROTOCOL_HEADER)
            self._begun = True
            return ProtocolHeader()
        if not PROTOCOL_HEADER.startswith(received):
            raise ProtocolHeaderMismatch(received)
        self._wait(len(received) + 1)
        return None

    def _wait(self, need: int) -> Frame | None:
        """Keep the beginning of a frame until `need` bytes of it are there. An idle connection keeps no buffer."""
        if self._pos != len(self._data):
            self._rest = bytearray(self._data[self._pos :])
            self._need = need
        self._data = b""
        self._pos = 0
        return None

    def _method(self, channel: int, payload: bytes) -> Frame:
        key = payload[:4]
        if key == _PUBLISH_KEY:
            publish = _cached_publish(payload) if len(payload) <= CACHED_PUBLISH_BYTES else _read_publish(payload)
            return self._publication(channel, publish) or MethodFrame(channel, publish)
        if key == _ACK_KEY and len(payload) == _ACK_BYTES:
            delivery_tag, bits = _ACK.unpack_from(payload, 4)
            return MethodFrame(channel, BasicAck(delivery_tag=delivery_tag, multiple=bits & _MULTIPLE == 1))
        return MethodFrame(channel, read_method(payload))

    def _publication(self, channel: int, publish: BasicPublish) -> Publication | None:
        """With the content, where a header and at most one body frame follow in the bytes that are there.

        None for all that is different, right or wrong: it is read frame by frame.
        """
        data, pos = self._data, self._pos
        if pos + _HEADER_HEAD.size > len(data):
            return None
        kind, on, size, class_id, _, body_size = _HEADER_HEAD.unpack_from(data, pos)
        end = pos + FRAME_HEAD.size + size
        if kind != _HEADER or on != channel or class_id != BASIC or size > self._max_payload or end >= len(data):
            return None
        body_end = end if body_size == 0 else self._body_end(channel, end + 1, body_size)
        if body_end < 0 or data[end] != FRAME_END:
            return None
        content = read_content(data[pos + _HEADER_HEAD.size : end])
        self._pos = body_end + 1
        return Publication(channel, publish, content, data[body_end - body_size : body_end])

    def _body_end(self, channel: int, pos: int, body_size: int) -> int:
        """Where the frame ends that holds the whole body; -1 when that is not what comes next."""
        data = self._data
        end = pos + FRAME_HEAD.size + body_size
        if end >= len(data) or body_size > self._max_payload or data[end] != FRAME_END:
            return -1
        return end if FRAME_HEAD.unpack_from(data, pos) == (_BODY, channel, body_size) else -1


def _read_frame(kind: int, channel: int, payload: bytes) -> Frame:
    if kind == _HEADER:
        return _read_header(channel, payload)
    if kind == _BODY:
        return BodyFrame(channel, payload)
    if kind != _HEARTBEAT:
        raise frame_error(f"a frame of unknown type {kind}")
    if channel != 0 or payload:
        raise frame_error("a heartbeat on a channel, or with a payload")  # spec §4.2.7
    return Heartbeat()
