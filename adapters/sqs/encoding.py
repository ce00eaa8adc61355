"""Messages as SQS carries them: the public contract of `docs/wire-format.md`. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import orjson

from adapters.aws.payloads import LargePayload
from adapters.aws.wire import (
    ATTRIBUTE_LIMIT,
    ENCODING,
    GROUP_HEADER,
    INGRESS_QUEUE,
    KEY,
    LEGACY_PAYLOAD_SIZE,
    META,
    ORIGIN,
    PAYLOAD_SIZE,
    QUEUES,
    Attribute,
    decode_body,
    encode_body,
    header_value,
    shown_attributes,
    text_attribute,
)
from gateway.core.message import DEFAULT_EXCHANGE, Address, Headers, HeaderValue, Message
from gateway.core.packing import Meta, pack_meta, unpack_meta

TRACEPARENT: Final = "traceparent"
TRACE_HEADER: Final = "AWSTraceHeader"
EXPOSED_LIMIT: Final = ATTRIBUTE_LIMIT - 2
"""Headers that a rule may show; `mqlift.meta` and `mqlift.encoding` need a place too."""

CACHED_MESSAGES: Final = 4096
CACHED_LENGTH: Final = 512
"""Longer ones are not kept, so that a cache holds a few MiB at most."""


_NATIVE_OWN: Final = frozenset({ENCODING, KEY, QUEUES, PAYLOAD_SIZE, LEGACY_PAYLOAD_SIZE})
_OWN: Final = _NATIVE_OWN | {META}
"""Attributes that say how to read a message; they are no headers of it."""

Attributes: TypeAlias = Mapping[str, Mapping[str, str]]
"""`MessageAttributes` of a received message."""

_Fragment: TypeAlias = tuple[bytes, int]
"""A piece of an entry's JSON, and the bytes that SQS counts for it."""


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


def encode_pointer(message: Message, exposed: Sequence[str], payload: LargePayload) -> _Fragment:
    """As `Encoder.encode`, for a message whose body is in S3. The size of that body takes the place of one header."""
    shown = exposed[: EXPOSED_LIMIT - 1]
    attributes, size = _attributes_fragment(message, payload.encoding, shown, payload.size_attribute)
    return b'"MessageBody":' + orjson.dumps(payload.pointer.text) + attributes, size + len(payload.pointer.text)


def _attributes_fragment(
    message: Message, encoding: str, exposed: Sequence[str], payload_size: Attribute | None = None
) -> _Fragment:
    attributes = [text_attribute(META, pack_meta(message))]
    if encoding:
        attributes.append(text_attribute(ENCODING, encoding))
    if payload_size is not None:
        attributes.append(payload_size)
    attributes += shown_attributes(message.headers, exposed)
    fields = b",".join([_field(attribute) for attribute in attributes])
    fragment = b',"MessageAttributes":{' + fields + b"}" + _trace_fragment(message.headers)
    return fragment, sum([attribute.size for attribute in attributes])


def _field(attribute: Attribute) -> bytes:
    name, data_type, value = attribute
    if isinstance(value, bytes):
        head, encoded = f'"{name}":{{"DataType":"{data_type}","BinaryValue":"', base64.b64encode(value)
        return head.encode() + encoded + b'"}'
    return f'"{name}":{{"DataType":"{data_type}","StringValue":'.encode() + orjson.dumps(value) + b"}"


class Decoder:
    """Turns received messages into the hub's.

    `report` is told the queue and, in one line, why a message that looked like one of ours is taken for a native one.
    Its payload and its attributes are delivered nevertheless.
    """

    __slots__ = ("_metas", "_report")

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._metas: dict[str, Meta] = {}

    def decode(self, text: str | bytes, attributes: Attributes, system: Mapping[str, str], queue: str) -> Message:
        """`text` is the body, or what was fetched from S3 in its place; `system` are the message's system attributes;
        `queue` is the hub's name of the queue it came from.
        """
        body = self._body(text, attributes, queue)
        meta = self._meta(attributes[META], queue) if META in attributes else None
        if meta is None:
            return Message(Address(DEFAULT_EXCHANGE, queue), body, headers=_native_headers(attributes, system))
        address, properties, headers, origin, not_before = meta
        if len(attributes) > 2 or TRACE_HEADER in system or (len(attributes) == 2 and ENCODING not in attributes):
            headers = _added_headers(headers, attributes, system)
            # Handed over by SNS for the gateway. Only where messages come in does it matter whose they are.
            if QUEUES in attributes and not queue.startswith(INGRESS_QUEUE):
                headers = {name: value for name, value in headers.items() if name != ORIGIN}
        return Message(address, body, properties, headers, origin, not_before)

    def _body(self, text: str | bytes, attributes: Attributes, queue: str) -> bytes:
        if ENCODING in attributes:
            try:
                return decode_body(text, attributes[ENCODING].get("StringValue", ""))
            except ValueError as error:
                self._report(queue, str(error))
        return text if isinstance(text, bytes) else text.encode()

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
    headers = {name: header_value(fields) for name, fields in attributes.items() if name not in _NATIVE_OWN}
    if (group := system.get("MessageGroupId")) is not None:
        headers.setdefault(GROUP_HEADER, group)
    if (traceparent := _traceparent(system)) is not None:
        headers.setdefault(TRACEPARENT, traceparent)
    return headers


def _added_headers(headers: Headers, attributes: Attributes, system: Mapping[str, str]) -> Headers:
    """What somebody added to one of our messages on its way; what `mqlift.meta` has already is not taken twice."""
    added = {
        name: header_value(fields)
        for name, fields in attributes.items()
        if (name not in headers and name not in _OWN) or name == ORIGIN
    }
    if TRACEPARENT not in headers and (traceparent := _traceparent(system)) is not None:
        added[TRACEPARENT] = traceparent
    return {**headers, **added} if added else headers


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
