"""Answers of services that report on the records of a batch by their place in it: Kinesis and Firehose. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import orjson

from gateway.core.errors import BackendError, Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result, failed

Refuse: TypeAlias = Callable[[str, str], BackendError]
"""The error of a record that failed with this code and text."""


def record_results(answer: bytes, member: str, identity: str, count: int, refuse: Refuse) -> list[Result]:
    """One result for each of `count` records, in their order.

    `member` is the list in the answer; a record with `identity` in it, and no error code, is stored. Raises
    `Unavailable` for an answer that is not about these records.
    """
    try:
        records = orjson.loads(answer)[member]
        results = [
            ACCEPTED if record.get(identity) and not record.get("ErrorCode") else _failed(record, refuse)
            for record in records
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(f"an answer that cannot be read: {type(error).__name__} {error}") from None
    if len(results) != count:
        raise Unavailable(f"an answer about {len(results)} records to a request with {count}")
    return results


def _failed(record: Mapping[str, Any], refuse: Refuse) -> Result:
    code = record.get("ErrorCode")
    if not code:
        return Result(Outcome.RELEASED, Unavailable("nothing was said about this record of the batch"))
    return failed(refuse(str(code), str(record.get("ErrorMessage") or "")))
