"""What SQS answers (JSON protocol, service model 2012-11-05), read without trusting it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from adapters.aws.batches import SHAPE_ERRORS, unreadable
from gateway.core.backend import Depth, LargeBody, Received
from gateway.core.message import Message

COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
REDRIVE: Final = ("RedrivePolicy",)

Decode: TypeAlias = Callable[[str | bytes, Mapping[str, Mapping[str, str]], Mapping[str, str], str], Message]

_NOTHING: Mapping[str, Any] = {}


class Unread(NamedTuple):
    """A message of an answer, before it is decoded."""

    body: str | bytes
    """The text that SQS has."""
    attributes: Mapping[str, Mapping[str, str]]
    system: Mapping[str, str]
    handle: str
    uid: str
    large: LargeBody | None = None
    """What fetches a body that is not in the answer."""


def unread(answer: bytes) -> list[Unread]:
    """The messages of a `ReceiveMessage` answer, none where there are none."""
    try:
        return [
            Unread(
                message["Body"],
                message.get("MessageAttributes") or _NOTHING,
                message.get("Attributes") or _NOTHING,
                message["ReceiptHandle"],
                message.get("MessageId", ""),
            )
            for message in orjson.loads(answer).get("Messages") or ()
        ]
    except SHAPE_ERRORS as error:
        raise unreadable(error) from None


def received(messages: Sequence[Unread], decode: Decode, queue: str) -> list[Received]:
    """Decode what a queue has given; `queue` is the hub's name of it."""
    try:
        return [
            Received(
                decode(body, attributes, system, queue),
                handle,
                int(system.get("ApproximateReceiveCount", 1)),
                uid,
                int(system.get("SentTimestamp", 0)) / 1000,
                large,
            )
            for body, attributes, system, handle, uid, large in messages
        ]
    except SHAPE_ERRORS as error:
        raise unreadable(error) from None


def redriven_after(answer: bytes) -> int | None:
    """The `maxReceiveCount` in the answer of `GetQueueAttributes`; None for a queue without a redrive policy."""
    try:
        policy = (orjson.loads(answer).get("Attributes") or _NOTHING).get("RedrivePolicy")
        return int(orjson.loads(policy)["maxReceiveCount"]) if policy else None
    except SHAPE_ERRORS as error:
        raise unreadable(error) from None


def depth(answer: bytes) -> Depth:
    """The counts in the answer of `GetQueueAttributes`."""
    try:
        attributes = orjson.loads(answer)["Attributes"]
        ready, unsettled, delayed = (int(attributes[name]) for name in COUNTS)
    except SHAPE_ERRORS as error:
        raise unreadable(error) from None
    return Depth(ready=ready, unsettled=unsettled, delayed=delayed)
