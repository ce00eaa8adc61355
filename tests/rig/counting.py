"""Counting messages: what a queue still holds, and the two sums that every fault test ends with."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from tests.rig.fault_endpoint import Ended, Stored

SqsClient: TypeAlias = Any  # boto3 makes its clients at run time
MAX_SHOWN = 10


def depth(sqs: SqsClient, queue_url: str) -> tuple[int, int]:
    """How many messages are waiting, and how many are with a consumer. Exact on an emulator."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return int(counts[names[0]]), int(counts[names[1]])


def drain(sqs: SqsClient, queue_url: str, timeout: float = 60.0) -> Counter[str]:
    """Take everything out of a queue, waiting for what is hidden until now; the bodies with how often each came.

    `AssertionError` when something is still hidden after `timeout` seconds.
    """
    bodies: Counter[str] = Counter()
    deadline = time.monotonic() + timeout
    while True:
        messages = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages")
        if messages:
            bodies.update(message["Body"] for message in messages)
            _delete(sqs, queue_url, messages)
        elif depth(sqs, queue_url) == (0, 0):
            return bodies
        elif time.monotonic() > deadline:
            raise AssertionError(f"{depth(sqs, queue_url)} (waiting, hidden) left after {timeout:g} s")


def _delete(sqs: SqsClient, queue_url: str, messages: list[Mapping[str, str]]) -> None:
    entries = [
        {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)
    ]
    failed = sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries).get("Failed")
    if failed:
        raise AssertionError(f"not deleted: {failed}")


def assert_nothing_lost(acknowledged: Iterable[str], found: Iterable[str]) -> None:
    """Promise 1: each body that a publisher was told to be safe is there, at least as often as it was acknowledged."""
    missing = _counted(acknowledged) - _counted(found)
    if missing:
        raise AssertionError(f"acknowledged and not there: {missing.total()} messages, such as {_shown(missing)}")


def assert_exactly(expected: Iterable[str], found: Iterable[str]) -> None:
    """Where no retry can have made duplicates: the same bodies, each as often."""
    wanted, there = _counted(expected), _counted(found)
    if wanted != there:
        raise AssertionError(
            f"{(wanted - there).total()} missing, such as {_shown(wanted - there)}; "
            f"{(there - wanted).total()} too many, such as {_shown(there - wanted)}"
        )


def assert_stored_before_acknowledged(acknowledged: Mapping[str, float], stored: Iterable[Stored]) -> None:
    """Promise 1 in time: each body's acknowledgement came after the backend had taken it (`time.monotonic`).

    A client reads its acknowledgement after it was sent, so this never blames a correct gateway.
    """
    first: dict[str, float] = {}
    for each in stored:
        first[each.body] = min(each.at, first.get(each.body, each.at))
    early = {body: at for body, at in acknowledged.items() if body not in first or at < first[body]}
    if early:
        raise AssertionError(f"acknowledged before they were stored: {len(early)} messages, such as {_shown(early)}")


def assert_deleted_after_ack(acknowledged: Mapping[str, float], deleted: Iterable[Ended]) -> None:
    """Promise 2: each delete was asked for after the consumer had sent its acknowledgement (`time.monotonic`).

    The consumer notes the time before it sends, so this never blames a correct gateway.
    """
    early = {each.body: each.at for each in deleted if each.at < acknowledged.get(each.body, float("inf"))}
    if early:
        raise AssertionError(f"deleted before their acknowledgement: {len(early)} messages, such as {_shown(early)}")


def _counted(bodies: Iterable[str]) -> Counter[str]:
    """How often each body is there: what `drain` gives as it is, the keys of any other mapping once each."""
    # Counter would take the values of a mapping, such as the times of acknowledgements, for counts.
    return bodies if isinstance(bodies, Counter) else Counter(iter(bodies))


def _shown(bodies: Iterable[str]) -> list[str]:
    return sorted(bodies)[:MAX_SHOWN]
