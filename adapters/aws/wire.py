"""What messages look like in both SQS and SNS: bodies and attributes (`docs/wire-format.md`). Pure."""

from __future__ import annotations

import base64
import codecs
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple

from gateway.core.message import Headers, HeaderValue

META: Final = "mqlift.meta"
ENCODING: Final = "mqlift.encoding"
ORIGIN: Final = "mqlift.origin"
"""Which gateway published a message to SNS: what tells its own messages from those of others when they come back."""
KEY: Final = "mqlift.key"
"""The routing key of a message in SNS, for filter policies."""
QUEUES: Final = "mqlift.queues"
"""The SQS queues that SNS is to hand a message to: what the subscriptions of fan-out are filtered by."""
INGRESS_QUEUE: Final = "mqlift-ingress-"
"""How the queues are called that messages of a topic come in through."""
BASE64: Final = "base64"
EMPTY: Final = "empty"
EMPTY_BODY: Final = "-"
"""What stands for an empty payload, for AWS wants at least one character. Readers go by the attribute."""

PAYLOAD_SIZE: Final = "ExtendedPayloadSize"
LEGACY_PAYLOAD_SIZE: Final = "SQSLargePayloadSize"
"""The attributes by which the extended clients tell that a body is in S3: the present name and the former one."""

GROUP_HEADER: Final = "JMSXGroupID"
"""The header that shows the message group of a native message, under JMS's name for it (JMS 2.0 §3.5.9)."""

ATTRIBUTE_LIMIT: Final = 10
"""Attributes of one message (SQS guide, "Amazon SQS message metadata"; SNS guide, "Raw message delivery")."""

# Allowed in bodies and attributes: #x9 #xA #xD, #x20 to #xD7FF, #xE000 to #xFFFD, #x10000 to #x10FFFF (SQS API
# reference, SendMessage). UTF-8 has no surrogates.
_ILLEGAL_BYTES = bytes(set(range(0x20)) - {0x09, 0x0A, 0x0D})
_ILLEGAL_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

# Numbers have up to 38 digits of precision, from 10^-128 to 10^126 (SQS guide, "Message attribute data types").
_NUMBER_DIGITS: Final = 38
_NUMBER_EXPONENTS: Final = range(-128, 127)
_INTEGER = re.compile(r"[+-]?[0-9]{1,38}")


_SCANNED: Final = 256 * 1024
"""Bytes of a large payload that are looked at together."""
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Attribute(NamedTuple):
    """One attribute of a message: text for the types String and Number, bytes for Binary."""

    name: str
    data_type: str
    value: str | bytes

    @property
    def size(self) -> int:
        """The bytes that count: of name, type and value (SQS guide, "Amazon SQS message metadata")."""
        value = self.value
        length = len(value) if isinstance(value, bytes) or value.isascii() else len(value.encode())
        return len(self.name) + len(self.data_type) + length


def text_attribute(name: str, text: str) -> Attribute:
    return Attribute(name, "String", text)


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


def encoding_of(body: bytes) -> str:
    """The second that `encode_body` gives, without the text: for payloads that are too large to have another copy."""
    if not body:
        return EMPTY
    view = memoryview(body)
    decoder = _Utf8Decoder()
    for start in range(0, len(body), _SCANNED):
        piece = bytes(view[start : start + _SCANNED])
        if len(piece.translate(None, _ILLEGAL_BYTES)) != len(piece):
            return BASE64
        try:
            text = decoder.decode(piece, start + _SCANNED >= len(body))
        except UnicodeDecodeError:
            return BASE64
        if not text.isascii() and ("\ufffe" in text or "\uffff" in text):
            return BASE64
    return ""


def decode_body(text: str | bytes, encoding: str) -> bytes:
    """The payload. Raises `ValueError` where the text is not in that encoding, or the encoding is not known."""
    if encoding == BASE64:
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError(f"{ENCODING} is base64 and the body is not: {error}") from None
    if encoding == EMPTY:
        return b""
    raise ValueError(f"{ENCODING} has an unknown value")


def is_legal(text: str) -> bool:
    """Whether a body or an attribute may hold this text."""
    return not _ILLEGAL_TEXT.search(text)


def shown_attributes(headers: Headers, names: Sequence[str]) -> Iterator[Attribute]:
    """The headers of these names as attributes that anybody can read; those that AWS has no place for are left out."""
    for name in names:
        if name in headers:
            attribute = _shown(name, headers[name])
            if attribute is not None:
                yield attribute


def _shown(name: str, value: HeaderValue) -> Attribute | None:
    """None: only `mqlift.meta` has it."""
    if isinstance(value, bool):
        return text_attribute(name, "true" if value else "false")
    if isinstance(value, (int, float, Decimal)):
        return _number(name, value)
    if isinstance(value, datetime):
        return text_attribute(name, value.isoformat())
    if isinstance(value, bytes):
        return Attribute(name, "Binary", value) if value else None
    if isinstance(value, str) and value and is_legal(value):
        return text_attribute(name, value)
    return None


def _number(name: str, value: float | Decimal) -> Attribute | None:
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        return None
    if len(number.as_tuple().digits) > _NUMBER_DIGITS or (number and number.adjusted() not in _NUMBER_EXPONENTS):
        return text_attribute(name, str(value))
    return Attribute(name, "Number", str(value))


def header_value(fields: Mapping[str, str]) -> HeaderValue:
    """The header that a native attribute becomes; `fields` are those of a received message."""
    # A type may carry a label, as in `Number.int` and `Binary.png`.
    kind = fields.get("DataType", "").partition(".")[0]
    if kind == "Binary":
        try:
            return base64.b64decode(fields.get("BinaryValue", ""), validate=True)
        except ValueError:
            return fields.get("BinaryValue")
    text = fields.get("StringValue", "")
    return _parsed_number(text) if kind == "Number" else text


def _parsed_number(text: str) -> HeaderValue:
    """An integer, else a float where it says exactly the same, else a decimal; text that is no number stays text."""
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        approximate = float(text)
        exact = Decimal(text)
    except (ValueError, InvalidOperation):
        return text
    return approximate if math.isfinite(approximate) and Decimal(repr(approximate)) == exact else exact
