"""Received messages whose bodies are in S3: handed out with what fetches these, and removed after they were deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from adapters.aws.payloads import LargePayloads, Pointer
from adapters.aws.wire import BASE64, ENCODING
from adapters.sqs.answers import Unread

# A receipt of such a message is bucket, slash, key and line break before what SQS gave. Handles of SQS are base64.
_MARK: Final = "\n"


def offloaded(messages: Sequence[Unread], payloads: LargePayloads, *, ordered: bool) -> Sequence[Unread]:
    """Put what fetches a body in the place of each pointer. `ordered`: whether the queue keeps an order."""
    return [_offloaded(message, payloads, ordered=ordered) for message in messages]


def _offloaded(message: Unread, payloads: LargePayloads, *, ordered: bool) -> Unread:
    pointer = payloads.pointer(message.body, message.attributes)
    if pointer is None:
        return message
    encoding = message.attributes.get(ENCODING, _NO_ENCODING).get("StringValue", "")
    attributes = message.attributes
    if encoding == BASE64:  # which is undone while it is fetched
        attributes = {name: fields for name, fields in attributes.items() if name != ENCODING}
    return message._replace(
        body=b"",
        attributes=attributes,
        handle=marked(message.handle, pointer),
        large=payloads.body(pointer, encoding, ordered=ordered and "MessageGroupId" in message.system),
    )


_NO_ENCODING: Final[dict[str, str]] = {}


def marked(handle: str, pointer: Pointer) -> str:
    """A receipt that remembers where the body is."""
    return f"{pointer.bucket}/{pointer.key}{_MARK}{handle}"


def handle_of(receipt: str) -> str:
    """What SQS knows a delivery by."""
    return receipt.rpartition(_MARK)[2]


def pointer_of(receipt: str) -> Pointer | None:
    """Where the body of a delivery is, if it is in S3."""
    place, mark, _ = receipt.rpartition(_MARK)
    if not mark:
        return None
    bucket, _, key = place.partition("/")
    return Pointer(bucket, key)
