"""What SQS answers (JSON protocol, service model 2012-11-05), read without trusting it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import orjson

from gateway.core.backend import Depth, Received
from gateway.core.errors import BackendError, Unavailable
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Outcome, Result

COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)

Refuse: TypeAlias = Callable[[str, str], BackendError]
"""The error of an entry that failed with this code and text."""

Decode: TypeAlias = Callable[[str, Mapping[str, Mapping[str, str]], Mapping[str, str], str], Message]

_NOTHING: Mapping[str, Any] = {}

# What reading JSON of an unexpected shape raises.
_SHAPE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def batch_results(answer: bytes, count: int, refuse: Refuse) -> list[Result]:
    """One result for each of `count` entries, whose ids are their indices; an entry left out has not succeeded."""
    results: list[Result | None] = [None] * count
    try:
        parsed = orjson.loads(answer)
        for entry in parsed.get("Successful") or ():
            results[int(entry["Id"])] = ACCEPTED
        for entry in parsed.get("Failed") or ():
            error = refuse(str(entry["Code"]), str(entry.get("Message") or ""))
            results[int(entry["Id"])] = Result(Outcome.REJECTED if error.permanent else Outcome.RELEASED, error)
    except _SHAPE_ERRORS as error:
        raise _unreadable(error) from None
    return [result or _unanswered() for result in results]


def _unanswered() -> Result:
    return Result(Outcome.RELEASED, Unavailable("SQS said nothing about this entry of the batch"))


def received(answer: bytes, decode: Decode, queue: str) -> list[Received]:
    """The messages of a `ReceiveMessage` answer, none where there are none."""
    try:
        messages = orjson.loads(answer).get("Messages") or ()
        return [_received(message, decode, queue) for message in messages]
    except _SHAPE_ERRORS as error:
        raise _unreadable(error) from None


def _received(message: Mapping[str, Any], decode: Decode, queue: str) -> Received:
    system = message.get("Attributes") or _NOTHING
    decoded = decode(message["Body"], message.get("MessageAttributes") or _NOTHING, system, queue)
    attempt = int(system.get("ApproximateReceiveCount", 1))
    stored_at = int(system.get("SentTimestamp", 0)) / 1000
    return Received(decoded, message["ReceiptHandle"], attempt, message.get("MessageId", ""), stored_at)


def queue_url(answer: bytes) -> str:
    """The URL in the answer of `GetQueueUrl` or `CreateQueue`."""
    try:
        return str(orjson.loads(answer)["QueueUrl"])
    except _SHAPE_ERRORS as error:
        raise _unreadable(error) from None


def depth(answer: bytes) -> Depth:
    """The counts in the answer of `GetQueueAttributes`."""
    try:
        attributes = orjson.loads(answer)["Attributes"]
        ready, unsettled, delayed = (int(attributes[name]) for name in COUNTS)
    except _SHAPE_ERRORS as error:
        raise _unreadable(error) from None
    return Depth(ready=ready, unsettled=unsettled, delayed=delayed)


def _unreadable(error: Exception) -> Unavailable:
    return Unavailable(f"an answer that is not SQS's: {type(error).__name__} {error}")
