"""Messages as SNS carries them: the public contract of `docs/wire-format.md`, in the form of `PublishBatch`. Pure.

An entry's fields have paths relative to the entry; where it stands in a batch is put before them when that is known.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

import orjson

from adapters.aws.payloads import LargePayload
from adapters.aws.query import quote
from adapters.aws.wire import (
    ATTRIBUTE_LIMIT,
    ENCODING,
    KEY,
    META,
    ORIGIN,
    QUEUES,
    Attribute,
    encode_body,
    is_legal,
    shown_attributes,
    text_attribute,
)
from gateway.core.message import Message
from gateway.core.packing import pack_meta

EXPOSED_LIMIT: Final = ATTRIBUTE_LIMIT - 5
"""Headers that a rule may show: mqlift has `meta`, `origin`, `key`, `encoding`, and either the size of a payload in S3
or the queues of fan-out. With more than ten, SNS does not deliver to SQS queues (SNS guide, "Amazon SNS raw message
delivery")."""

CACHED_MESSAGES: Final = 4096
CACHED_LENGTH: Final = 1024
"""Bytes; longer ones are not kept, so that a cache holds a few MiB at most."""

# "Subjects must be UTF-8 text with no line breaks or control characters, and less than 100 characters long" (SNS API
# reference, Publish); those to email have to be ASCII.
SUBJECT_LIMIT: Final = 99
_ILLEGAL_IN_SUBJECT = re.compile(r"[^ -~]")

_Fragment: TypeAlias = tuple[bytes, int]
"""A piece of an entry, and the bytes that SNS counts for it."""


class Encoder:
    """Turns messages into entries, and remembers the attributes of those that differ in their bodies only."""

    __slots__ = ("_fragments", "_origin")

    def __init__(self, origin: str) -> None:
        """`origin` is the name that this gateway and its replicas publish under."""
        self._origin = origin
        self._fragments: dict[tuple[object, ...], _Fragment] = {}

    def encode(self, message: Message, exposed: Sequence[str], queues: Sequence[str] = ()) -> _Fragment:
        """The fields of an entry, `Message` first, and its size for SNS.

        `exposed` are headers that are shown as native attributes too; `queues` those that SNS is to hand it to. Raises
        `ValueError` for what JSON cannot hold.
        """
        text, encoding = encode_body(message.body)
        attributes, size = self._attributes(message, encoding, exposed, queues)
        body = text.encode() if encoding else message.body
        return b"Message=" + quote(body) + attributes, size + len(body)

    def encode_pointer(self, message: Message, exposed: Sequence[str], payload: LargePayload) -> _Fragment:
        """As `encode`, for a message whose body is in S3."""
        attributes, size = self._fragment(message, payload.encoding, exposed, (), payload.size_attribute)
        text = payload.pointer.text.encode()
        return b"Message=" + quote(text) + attributes, size + len(text)

    def _attributes(self, message: Message, encoding: str, exposed: Sequence[str], queues: Sequence[str]) -> _Fragment:
        if message.headers:
            return self._fragment(message, encoding, exposed, queues)
        key = (message.address, message.properties, message.origin, encoding, queues)
        fragment = self._fragments.get(key)
        if fragment is None:
            fragment = self._fragment(message, encoding, (), queues)
            if len(fragment[0]) <= CACHED_LENGTH:
                if len(self._fragments) >= CACHED_MESSAGES:
                    self._fragments.clear()
                self._fragments[key] = fragment
        return fragment

    def _fragment(
        self,
        message: Message,
        encoding: str,
        exposed: Sequence[str],
        queues: Sequence[str],
        payload_size: Attribute | None = None,
    ) -> _Fragment:
        attributes = [text_attribute(META, pack_meta(message)), text_attribute(ORIGIN, self._origin)]
        routing_key = message.address.routing_key
        if routing_key and is_legal(routing_key):
            attributes.append(text_attribute(KEY, routing_key))
        if encoding:
            attributes.append(text_attribute(ENCODING, encoding))
        if queues:
            attributes.append(Attribute(QUEUES, "String.Array", orjson.dumps(queues).decode()))
        elif payload_size is not None:
            attributes.append(payload_size)
        attributes += shown_attributes(message.headers, exposed)
        fields = b"".join([_fields(number, attribute) for number, attribute in enumerate(attributes, 1)])
        return fields, sum([attribute.size for attribute in attributes])


def _fields(number: int, attribute: Attribute) -> bytes:
    name, data_type, value = attribute
    path = f"&MessageAttributes.entry.{number}."
    head = f"{path}Name={name}{path}Value.DataType={data_type}{path}Value.".encode()
    if isinstance(value, bytes):
        return head + b"BinaryValue=" + quote(base64.b64encode(value))
    return head + b"StringValue=" + quote(value.encode())


def legal_subject(text: str) -> str:
    """A text as a subject, without what subjects may not have; empty for none."""
    return _ILLEGAL_IN_SUBJECT.sub(" ", text)[:SUBJECT_LIMIT].strip()
