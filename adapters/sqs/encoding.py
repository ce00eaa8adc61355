"""Messages as SQS carries them: the public contract of `docs/wire-format.md`. Pure."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

import orjson

from gateway.core.message import DEFAULT_EXCHANGE, Address, Headers, HeaderValue, Message
from gateway.core.packing import Meta, pack_meta, unpack_meta

META: Final = "mqlift.meta"
ENCODING: Final = "mqlift.encoding"
BASE64: Final = "base64"
EMPTY: Final = "empty"
EMPTY_BODY: Final = "-"
"""What stands for an empty payload, for SQS wants at least one character. Readers go by the attribute."""

TRACEPARENT: Final = "traceparent"
TRACE_HEADER: Final = "AWSTraceHeader"
GROUP_HEADER: Final = "JMSXGroupID"
"""The header that shows the message group of a native message, under JMS's name for it (JMS 2.0 §3.5.9)."""

ATTRIBUTE_LIMIT: Final = 10
"""Attributes of one message (SQS guide, "Amazon SQS message metadata")."""
EXPOSED_LIMIT: Final = ATTRIBUTE_LIMIT - 2

CACHED_MESSAGES: Final = 4096
CACHED_LENGTH: Final = 512
"""Longer ones are not kept, so that a cache holds a few MiB at most."""

# Allowed in bodies and attributes: #x9 #xA #xD, #x20 to #xD7FF, #xE000 to #xFFFD, #x10000 to #x10FFFF (SQS API
# reference, SendMessage). UTF-8 has no surrogates.
_ILLEGAL_BYTES = bytes(set(range(0x20)) - {0x09, 0x0A, 0x0D})
_ILLEGAL_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

# Numbers have up to 38 digits of precision, from 10^-128 to 10^126 (SQS guide, "Message attribute data types").
_NUMBER_DIGITS: Final = 38
_NUMBER_EXPONENTS: Final = range(-128, 127)
_INTEGER = re.compile(r"[+-]?[0-9]{1,38}")

Attributes: TypeAlias = Mapping[str, Mapping[str, str]]
"""`MessageAttributes` of a received message."""

_Fragment: TypeAlias = tuple[bytes, int]
"""A piece of an entry's JSON, and the bytes that SQS counts for it."""


def encode_body(body: bytes) -> tuple[str, str]:
    """The text that carries a payload, and the value of `mqlift.encoding` ("" where the text is the payload)."""
    if not body:
        return EMPTY_BODY, EMPTY
    if len(body.translate(None, _ILLEGAL_BYTES)) == len(body):
        try:
            text = body.decode()
        except UnicodeDecodeError:
            pass
        else:
            if text.isascii() or ("\ufffe" not in text and "\uffff" not in text):
                return text, ""
    return base64.b64encode(body).decode(), BASE64


def decode_body(text: str, encoding: str) -> bytes:
    """The payload. Raises `ValueError` where the text is not in that encoding, or the encoding is not known."""
    if encoding == BASE64:
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError(f"{ENCODING} is base64 and the body is not: {error}") from None
    if encoding == EMPTY:
        return b""
    raise ValueError(f"{ENCODING} has an unknown value")


class Encoder:
    """Turns messages into entries, and remembers the attributes of those that differ in their bodies only."""

    __slots__ = ("_fragments",)

    def __init__(self) -> None:
        self._fragments: dict[tuple[object, ...], _Fragment] = {}

    def encode(self, message: Message, exposed: Sequence[str]) -> _Fragment:
        """The fields of a `SendMessageBatch` entry from `MessageBody` on, without braces; and its size for SQS.

        `exposed` are headers that are shown as native attributes too. Raises `ValueError` for what JSON cannot hold.
        """
        text, encoding = encode_body(message.body)
        attributes, size = self._attributes(message, encoding, exposed)
        size += len(text) if encoding else len(message.body)
        return b'"MessageBody":' + orjson.dumps(text) + attributes, size

    def _attributes(self, message: Message, encoding: str, exposed: Sequence[str]) -> _Fragment:
        if message.headers or message.not_before:
            return _attributes_fragment(message, encoding, exposed)
        key = (message.address, message.properties, message.origin, encoding)
        fragment = self._fragments.get(key)
        if fragment is None:
            fragment = _attributes_fragment(message, encoding, ())
            if len(fragment[0]) <= CACHED_LENGTH:
                if len(self._fragments) >= CACHED_MESSAGES:
                    self._fragments.clear()
                self._fragments[key] = fragment
        return fragment


def _attributes_fragment(message: Message, encoding: str, exposed: Sequence[str]) -> _Fragment:
    headers = message.headers
    attributes = [_text_attribute(META, pack_meta(message))]
    if encoding:
        attributes.append(_text_attribute(ENCODING, encoding))
    native = [_native_attribute(name, headers[name]) for name in exposed if name in headers]
    attributes += [attribute for attribute in native if attribute is not None]
    fields = b",".join([field for field, _ in attributes])
    fragment = b',"MessageAttributes":{' + fields + b"}" + _trace_fragment(headers)
    return fragment, sum([size for _, size in attributes])


def _text_attribute(name: str, text: str, data_type: str = "String") -> _Fragment:
    # Name, type and value all count (SQS guide, "Amazon SQS message metadata").
    size = len(name) + len(data_type) + (len(text) if text.isascii() else len(text.encode()))
    return (f'"{name}":{{"DataType":"{data_type}","StringValue":').encode() + orjson.dumps(text) + b"}", size


def _bytes_attribute(name: str, value: bytes) -> _Fragment:
    encoded = base64.b64encode(value)
    return f'"{name}":{{"DataType":"Binary","BinaryValue":"'.encode() + encoded + b'"}', len(name) + 6 + len(value)


def _native_attribute(name: str, value: HeaderValue) -> _Fragment | None:
    """A header as an attribute that anybody can read. None: only `mqlift.meta` has it, for SQS has no place for it."""
    if isinstance(value, bool):
        return _text_attribute(name, "true" if value else "false")
    if isinstance(value, (int, float, Decimal)):
        return _number_attribute(name, value)
    if isinstance(value, datetime):
        return _text_attribute(name, value.isoformat())
    if isinstance(value, bytes):
        return _bytes_attribute(name, value) if value else None
    if isinstance(value, str) and value and not _ILLEGAL_TEXT.search(value):
        return _text_attribute(name, value)
    return None


def _number_attribute(name: str, value: float | Decimal) -> _Fragment | None:
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        return None
    if len(number.as_tuple().digits) > _NUMBER_DIGITS or (number and number.adjusted() not in _NUMBER_EXPONENTS):
        return _text_attribute(name, str(value))
    return _text_attribute(name, str(value), "Number")


class Decoder:
    """Turns received messages into the hub's.

    `report` is told the queue and, in one line, why a message that looked like one of ours is taken for a native one.
    Its payload and its attributes are delivered nevertheless.
    """

    __slots__ = ("_metas", "_report")

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._metas: dict[str, Meta] = {}

    def decode(self, text: str, attributes: Attributes, system: Mapping[str, str], queue: str) -> Message:
        """`system` are the message's system attributes; `queue` is the hub's name of the queue it came from."""
        body = self._body(text, attributes, queue)
        meta = self._meta(attributes[META], queue) if META in attributes else None
        if meta is None:
            return Message(Address(DEFAULT_EXCHANGE, queue), body, headers=_native_headers(attributes, system))
        address, properties, headers, origin, not_before = meta
        if len(attributes) > 2 or TRACE_HEADER in system or (len(attributes) == 2 and ENCODING not in attributes):
            headers = _added_headers(headers, attributes, system)
        return Message(address, body, properties, headers, origin, not_before)

    def _body(self, text: str, attributes: Attributes, queue: str) -> bytes:
        if ENCODING in attributes:
            try:
                return decode_body(text, attributes[ENCODING].get("StringValue", ""))
            except ValueError as error:
                self._report(queue, str(error))
        return text.encode()

    def _meta(self, attribute: Mapping[str, str], queue: str) -> Meta | None:
        packed = attribute.get("StringValue", "")
        meta = self._metas.get(packed)
        if meta is not None:
            return meta
        try:
            meta = unpack_meta(packed)
        except ValueError as error:
            self._report(queue, str(error))
            return None
        if len(packed) <= CACHED_LENGTH:
            if len(self._metas) >= CACHED_MESSAGES:
                self._metas.clear()
            self._metas[packed] = meta
        return meta


def _native_headers(attributes: Attributes, system: Mapping[str, str]) -> dict[str, HeaderValue]:
    headers = {name: _header_value(fields) for name, fields in attributes.items() if name != ENCODING}
    if (group := system.get("MessageGroupId")) is not None:
        headers.setdefault(GROUP_HEADER, group)
    if (traceparent := _traceparent(system)) is not None:
        headers.setdefault(TRACEPARENT, traceparent)
    return headers


def _added_headers(headers: Headers, attributes: Attributes, system: Mapping[str, str]) -> Headers:
    """What somebody added to one of our messages on its way; what `mqlift.meta` has already is not taken twice."""
    added = {
        name: _header_value(fields)
        for name, fields in attributes.items()
        if name not in headers and name not in (META, ENCODING)
    }
    if TRACEPARENT not in headers and (traceparent := _traceparent(system)) is not None:
        added[TRACEPARENT] = traceparent
    return {**headers, **added} if added else headers


def _header_value(fields: Mapping[str, str]) -> HeaderValue:
    # A type may carry a label, as in `Number.int` and `Binary.png`.
    kind = fields.get("DataType", "").partition(".")[0]
    if kind == "Binary":
        try:
            return base64.b64decode(fields.get("BinaryValue", ""), validate=True)
        except ValueError:
            return fields.get("BinaryValue")
    text = fields.get("StringValue", "")
    return _number(text) if kind == "Number" else text


def _number(text: str) -> HeaderValue:
    """An integer, else a float where it says exactly the same, else a decimal; text that is no number stays text."""
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        approximate = float(text)
        exact = Decimal(text)
    except (ValueError, InvalidOperation):
        return text
    return approximate if math.isfinite(approximate) and Decimal(repr(approximate)) == exact else exact


# https://www.w3.org/TR/trace-context/#traceparent-header, version 00; an all-zero trace id or parent is invalid.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{8})([0-9a-f]{24})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])")
# https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
_TRACE_ROOT = re.compile(r"(?:^|;)\s*Root=1-([0-9a-f]{8})-([0-9a-f]{24})")
_TRACE_PARENT = re.compile(r"(?:^|;)\s*Parent=([0-9a-f]{16})")
_TRACE_SAMPLED = re.compile(r"(?:^|;)\s*Sampled=1")


def _trace_fragment(headers: Headers) -> bytes:
    value = headers.get(TRACEPARENT) if headers else None
    if not isinstance(value, str) or (trace := _TRACEPARENT.fullmatch(value)) is None:
        return b""
    epoch, unique, parent, flags = trace.groups()
    header = f"Root=1-{epoch}-{unique};Parent={parent};Sampled={int(flags, 16) & 1}"
    fields = orjson.dumps({TRACE_HEADER: {"DataType": "String", "StringValue": header}})
    return b',"MessageSystemAttributes":' + fields


def _traceparent(system: Mapping[str, str]) -> str | None:
    header = system.get(TRACE_HEADER)
    if header is None:
        return None
    root, parent = _TRACE_ROOT.search(header), _TRACE_PARENT.search(header)
    if root is None or parent is None:
        return None
    sampled = "01" if _TRACE_SAMPLED.search(header) else "00"
    return f"00-{root.group(1)}{root.group(2)}-{parent.group(1)}-{sampled}"
