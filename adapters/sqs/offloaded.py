"""Received messages whose bodies are in S3: fetched before they are delivered, removed after they were deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from adapters.aws.payloads import MAX_PAYLOAD, LargePayloads, Pointer
from adapters.aws.wire import LEGACY_PAYLOAD_SIZE, PAYLOAD_SIZE
from adapters.sqs.answers import Unread
from gateway.core.errors import BackendError

ANSWER_BYTES: Final = MAX_PAYLOAD
"""Bytes that are fetched for the messages of one answer; others are released, and taken by a later poll."""

# A receipt of such a message is bucket, slash, key and line break before what SQS gave. Handles of SQS are base64.
_MARK: Final = "\n"

_log = structlog.get_logger("mqlift.sqs")


class Fetched(NamedTuple):
    """What became of the messages of an answer."""

    whole: Sequence[Unread]
    """Those that have their bodies."""
    postponed: Sequence[str]
    """The receipt handles of those that were too many bytes at once."""
    error: BackendError | None
    """Why others are in neither, where there are any: the last of several reasons."""


async def fetch(messages: Sequence[Unread], payloads: LargePayloads) -> Fetched:
    """Put the bodies from S3, one after the other, in the places of the pointers to them."""
    whole: list[Unread] = []
    postponed: list[str] = []
    error: BackendError | None = None
    held: set[str] = set()
    room = ANSWER_BYTES
    for message in messages:
        pointer = payloads.pointer(message.body, message.attributes)
        group = message.system.get("MessageGroupId", "")
        if group in held or (pointer is not None and room < ANSWER_BYTES and _announced(message) > room):
            postponed.append(message.handle)
        elif pointer is None:
            whole.append(message)
            continue
        else:
            try:
                body = await payloads.fetch(pointer)
            except BackendError as failure:
                error = failure
                _log.warning("large_payload_not_fetched", key=pointer.key, problem=str(failure))
            else:
                room -= len(body)
                whole.append(message._replace(body=body, handle=marked(message.handle, pointer)))
                continue
        if group:
            held.add(group)  # what comes later in a group is not delivered before
    return Fetched(whole, postponed, error)


def _announced(message: Unread) -> int:
    """The size of a body in S3, as its sender says; 0 where that cannot be read."""
    attribute = message.attributes.get(PAYLOAD_SIZE) or message.attributes[LEGACY_PAYLOAD_SIZE]
    text = attribute.get("StringValue", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def marked(handle: str, pointer: Pointer) -> str:
    """A receipt that remembers where the body is."""
    return f"{pointer.bucket}/{pointer.key}{_MARK}{handle}"


def handle_of(receipt: str) -> str:
    """What SQS knows a delivery by."""
    return receipt.rpartition(_MARK)[2]


def pointer_of(receipt: str) -> Pointer | None:
    """Where the body of a delivery is, if it was fetched."""
    place, mark, _ = receipt.rpartition(_MARK)
    if not mark:
        return None
    bucket, _, key = place.partition("/")
    return Pointer(bucket, key)
