"""The answers to batch requests of SQS and SNS, read without trusting them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import orjson

from gateway.core.errors import BackendError, Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result, failed

Refuse: TypeAlias = Callable[[str, str], BackendError]
"""The error of an entry that failed with this code and text."""

SHAPE_ERRORS: Final = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What reading JSON of an unexpected shape raises."""


def batch_results(answer: bytes, count: int, refuse: Refuse) -> list[Result]:
    """One result for each of `count` entries, whose ids are their indices; an entry left out has not succeeded."""
    results: list[Result | None] = [None] * count
    try:
        parsed = orjson.loads(answer)
        for entry in parsed.get("Successful") or ():
            results[int(entry["Id"])] = ACCEPTED
        for entry in parsed.get("Failed") or ():
            results[int(entry["Id"])] = failed(refuse(str(entry["Code"]), str(entry.get("Message") or "")))
    except SHAPE_ERRORS as error:
        raise unreadable(error) from None
    return [result or _unanswered() for result in results]


def text_of(answer: bytes, name: str) -> str:
    """One text in an answer."""
    try:
        return str(orjson.loads(answer)[name])
    except SHAPE_ERRORS as error:
        raise unreadable(error) from None


def unreadable(error: Exception) -> Unavailable:
    """The error for an answer of an unexpected shape."""
    return Unavailable(f"an answer that is not the service's: {type(error).__name__} {error}")


def _unanswered() -> Result:
    return Result(Outcome.RELEASED, Unavailable("the service said nothing about this entry of the batch"))
