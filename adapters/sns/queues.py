"""Queues in SQS as SNS sees them: what they are, and which topics their policies let send to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from adapters.aws.api import AwsClient
from adapters.aws.batches import SHAPE_ERRORS, text_of, unreadable


class QueueFacts(NamedTuple):
    """One queue. `key` is the KMS key that encrypts it; empty for none, or SQS's own."""

    url: str
    arn: str
    policy: str
    key: str


class SubscribedQueues:
    """Reads the attributes of queues in the gateway's own account, and lets topics send to them."""

    def __init__(self, aws: AwsClient) -> None:
        self._aws = aws

    async def find(self, name: str) -> QueueFacts:
        """Raises `BackendError`."""
        url = text_of(await self._call(name, "GetQueueUrl", {"QueueName": name}), "QueueUrl")
        names = ("QueueArn", "Policy", "KmsMasterKeyId")
        answer = await self._call(name, "GetQueueAttributes", {"QueueUrl": url, "AttributeNames": names})
        try:
            attributes: Mapping[str, str] = orjson.loads(answer)["Attributes"]
            said = [attributes["QueueArn"], attributes.get("Policy", ""), attributes.get("KmsMasterKeyId", "")]
        except SHAPE_ERRORS as error:
            raise unreadable(error) from None
        return QueueFacts(url, *said)

    async def allow(self, name: str, queue: QueueFacts, topic: str, sid: str) -> None:
        """See that its policy lets a topic, by ARN, send to it. Raises `BackendError`."""
        policy = with_statement(queue.policy, queue.arn, topic, sid)
        if policy is not None:
            await self._set_policy(name, queue, policy)

    async def forbid(self, name: str, queue: QueueFacts, sid: str) -> None:
        """Take back what `allow` has added. Raises `BackendError`."""
        policy = without_statement(queue.policy, sid)
        if policy is not None:
            await self._set_policy(name, queue, policy)

    async def _set_policy(self, name: str, queue: QueueFacts, policy: str) -> None:
        request = {"QueueUrl": queue.url, "Attributes": {"Policy": policy}}
        await self._call(name, "SetQueueAttributes", request)

    async def _call(self, name: str, action: str, request: Mapping[str, object]) -> bytes:
        return await self._aws.call("sqs", action, orjson.dumps(request), resource=f"sqs queue {name}")


def with_statement(policy: str, queue_arn: str, topic: str, sid: str) -> str | None:
    """A queue's policy that lets a topic send to it, besides all that it says already; None where it says so, too.

    Raises `Unavailable` for a policy that is none.
    """
    statement = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    parsed, others, found = _taken_apart(policy, sid)
    if found == [statement]:
        return None
    return orjson.dumps(parsed | {"Statement": [*others, statement]}).decode()


def without_statement(policy: str, sid: str) -> str | None:
    """A queue's policy without one statement; None where it is not there. Empty where nothing is left of the policy.

    Raises `Unavailable` for a policy that is none.
    """
    parsed, others, found = _taken_apart(policy, sid)
    if not found:
        return None
    return orjson.dumps(parsed | {"Statement": others}).decode() if others else ""


def _taken_apart(policy: str, sid: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """A policy, its other statements, and those with this `Sid`."""
    try:
        parsed: dict[str, Any] = orjson.loads(policy) if policy else {"Version": "2012-10-17", "Statement": []}
        found = parsed["Statement"]
        statements = found if isinstance(found, list) else [found]
        others = [each for each in statements if each.get("Sid") != sid]
        return parsed, others, [each for each in statements if each.get("Sid") == sid]
    except SHAPE_ERRORS as error:
        raise unreadable(error) from None
