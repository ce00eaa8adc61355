"""A server's frames as bytes: those of deliveries and acknowledgements by hand, the others from their methods."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from gateway.core.message import Address
from gateway.protocols.amqp091.arguments import method_payload
from gateway.protocols.amqp091.errors import cut_text
from gateway.protocols.amqp091.fields import MAX_SHORT_STRING, write_short_string
from gateway.protocols.amqp091.frames import BASIC, CONTENT_HEAD_BYTES, FRAME_END, FRAME_HEAD, FRAME_OVERHEAD, FrameType
from gateway.protocols.amqp091.methods import BasicGetOk, BasicReturn, Method

HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

MAX_LONG: Final = 2**32 - 1

CACHED_ADDRESS_LENGTH: Final = 255
"""Characters of an address that is kept once written: what other protocols publish to may be long."""

CACHED_ADDRESSES: Final = 4096
"""Addresses that are kept once written: deliveries come from few, again and again."""

_METHOD: Final = FrameType.METHOD.value
_HEADER: Final = FrameType.HEADER.value
_BODY: Final = FrameType.BODY.value
_END: Final = bytes((FRAME_END,))

_CONTENT_HEAD: Final = struct.Struct(">BBHIHHQ")
"""The end of the method's frame, and the beginning of the header's."""

_BODY_HEAD: Final = struct.Struct(">BBHI")
"""The end of the header's frame, or of a body's, and the beginning of a body's."""

_DELIVER_KEY: Final = b"\x00\x3c\x00\x3c"
_DELIVERY: Final = struct.Struct(">QB")
_ACKNOWLEDGEMENT: Final = struct.Struct(">BHIHHQBB")
_ACK_BYTES = 13
_ACK_METHOD = 80
_NACK_METHOD = 120


def write_frame(kind: FrameType, channel: int, payload: bytes) -> bytes:
    """Any frame, with a payload that was written already."""
    return b"".join((FRAME_HEAD.pack(kind, channel, len(payload)), payload, _END))


def write_method(channel: int, method: Method) -> bytes:
    """A frame with a method that has no content. Raises `ValueError` for names over 255 bytes."""
    return write_frame(FrameType.METHOD, channel, method_payload(method))


def write_ack(channel: int, delivery_tag: int, multiple: bool = False) -> bytes:
    """`basic.ack`: confirms publishes up to `delivery_tag`, or that one."""
    return _ACKNOWLEDGEMENT.pack(_METHOD, channel, _ACK_BYTES, BASIC, _ACK_METHOD, delivery_tag, multiple, FRAME_END)


def write_nack(channel: int, delivery_tag: int, multiple: bool = False) -> bytes:
    """`basic.nack`: publishes that the gateway could not take. `requeue`, which means nothing here, is not set."""
    return _ACKNOWLEDGEMENT.pack(_METHOD, channel, _ACK_BYTES, BASIC, _NACK_METHOD, delivery_tag, multiple, FRAME_END)


def _write_address(address: Address) -> bytes:
    exchange, routing_key = address
    return write_short_string(fit_short_string(exchange)) + write_short_string(fit_short_string(routing_key))


_cached_address = lru_cache(CACHED_ADDRESSES)(_write_address)


def write_address(address: Address) -> bytes:
    """Exchange and routing key as two fields. MQTT and STOMP have longer keys than AMQP: they are cut."""
    if len(address.exchange) + len(address.routing_key) <= CACHED_ADDRESS_LENGTH:
        return _cached_address(address)
    return _write_address(address)


def fit_short_string(text: str) -> str:
    """As much of a name as a short string holds."""
    return cut_text(text, MAX_SHORT_STRING)


def fit_count(count: int) -> int:
    """A number of messages in 32 bits; a queue in SQS has no bound."""
    return min(count, MAX_LONG)


def write_deliver(
    channel: int,
    consumer_tag: bytes,
    delivery_tag: int,
    redelivered: bool,
    address: bytes,
    content: bytes,
    body: bytes,
    frame_max: int,
) -> bytes:
    """`basic.deliver` with its content.

    `consumer_tag`: a field, of `write_short_string`; `address`: of `write_address`; `content`: of `write_content`.
    """
    payload = b"".join((_DELIVER_KEY, consumer_tag, _DELIVERY.pack(delivery_tag, redelivered), address))
    return _write_with_content(channel, payload, content, body, frame_max)


def write_with_content(
    channel: int, method: BasicReturn | BasicGetOk, content: bytes, body: bytes, frame_max: int
) -> bytes:
    """`basic.return` or `basic.get-ok`, its content from `write_content`. Raises `ValueError` like `write_method`."""
    return _write_with_content(channel, method_payload(method), content, body, frame_max)


def _write_with_content(channel: int, method: bytes, content: bytes, body: bytes, frame_max: int) -> bytes:
    size = len(body)
    head = FRAME_HEAD.pack(_METHOD, channel, len(method))
    middle = _CONTENT_HEAD.pack(FRAME_END, _HEADER, channel, CONTENT_HEAD_BYTES + len(content), BASIC, 0, size)
    limit = frame_max - FRAME_OVERHEAD
    if 0 < size <= limit:
        body_head = _BODY_HEAD.pack(FRAME_END, _BODY, channel, size)
        return b"".join((head, method, middle, content, body_head, body, _END))
    parts: list[bytes | memoryview] = [head, method, middle, content]
    view = memoryview(body)
    for start in range(0, size, limit):  # no frame for an empty body (spec §4.2.6)
        piece = view[start : start + limit]
        parts += (_BODY_HEAD.pack(FRAME_END, _BODY, channel, len(piece)), piece)
    parts.append(_END)
    return b"".join(parts)
