"""What a connection is made of on the wire (spec §4.2.3), as values.

Plain slotted classes: one or more is made for each message. Nobody changes a frame after it was made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from gateway.protocols.amqp091.content import Content
from gateway.protocols.amqp091.methods import BasicPublish, Method

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
"""What a client begins with, and a server answers that speaks nothing else (spec §4.2.2)."""

MIN_FRAME_MAX: Final = 4096
"""Bytes of the largest frame that everybody has to take (spec §1.2, frame-min-size)."""

FRAME_OVERHEAD: Final = 8
"""Bytes of a frame besides its payload: type, channel, size; and the frame end."""

FRAME_END: Final = 0xCE

FRAME_HEAD: Final = struct.Struct(">BHI")
"""Type, channel, size of the payload (spec §2.3.5)."""

BASIC: Final = BasicPublish.CLASS_ID
"""The one class with content."""

CONTENT_HEAD_BYTES: Final = 12
"""Of a header's payload, before the flags: class, weight, size of the body (spec §4.2.6.1)."""


class FrameType(IntEnum):
    """Spec §1.2 (constants)."""

    METHOD = 1
    HEADER = 2
    BODY = 3
    HEARTBEAT = 8


@dataclass(slots=True)
class ProtocolHeader:
    """The client wants AMQP 0-9-1; it waits for `connection.start`."""


@dataclass(slots=True)
class MethodFrame:
    channel: int
    method: Method


@dataclass(slots=True)
class HeaderFrame:
    """Of the content of a method before it."""

    channel: int
    body_size: int
    """Bytes, of all body frames together."""
    content: Content


@dataclass(slots=True)
class BodyFrame:
    channel: int
    payload: bytes


@dataclass(slots=True)
class Heartbeat:
    pass


@dataclass(slots=True)
class Publication:
    """`basic.publish` with its header and its whole body, where their frames arrived together, on one channel."""

    channel: int
    method: BasicPublish
    content: Content
    body: bytes


Frame: TypeAlias = Publication | MethodFrame | HeaderFrame | BodyFrame | Heartbeat | ProtocolHeader
