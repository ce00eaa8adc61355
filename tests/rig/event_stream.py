"""Messages of AWS's event streams, as services write them: https://smithy.io/2.0/aws/amazon-eventstream.html."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

CONTENT = "application/vnd.amazon.eventstream"
_STRING = 7


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message. All values of headers are texts."""
    fields = bytearray()
    for name, value in headers.items():
        encoded = value.encode()
        fields += bytes((len(name.encode()),)) + name.encode() + bytes((_STRING,))
        fields += len(encoded).to_bytes(2, "big") + encoded
    prelude = (len(fields) + len(payload) + 16).to_bytes(4, "big") + len(fields).to_bytes(4, "big")
    head = prelude + zlib.crc32(prelude).to_bytes(4, "big") + bytes(fields) + payload
    return head + zlib.crc32(head).to_bytes(4, "big")


def event(kind: str, document: object) -> bytes:
    headers = {":message-type": "event", ":event-type": kind, ":content-type": "application/json"}
    return message(headers, json.dumps(document).encode())


def initial() -> bytes:
    """What comes first when a call was accepted."""
    return event("initial-response", {})


def fault(code: str, text: str) -> bytes:
    """The service ends the stream."""
    headers = {":message-type": "exception", ":exception-type": code, ":content-type": "application/json"}
    return message(headers, json.dumps({"message": text}).encode())
