"""Queues that SNS hands messages to for the gateway: their subscriptions, each filtered by the queue's own name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import orjson

from adapters.aws.api import AwsClient
from adapters.aws.batches import SHAPE_ERRORS, text_of, unreadable
from adapters.aws.names import is_fifo
from adapters.aws.query import map_fields
from adapters.aws.wire import QUEUES
from adapters.sns.queues import QueueFacts, SubscribedQueues, with_statement
from adapters.sns.settings import Settings
from adapters.sns.topics import TopicDirectory
from gateway.core.backend import Target
from gateway.core.errors import Invalid, NotFound

SUBSCRIPTIONS: Final = 200
"""Of one topic. "Filter policies per topic: 200" (AWS General Reference, "Amazon SNS quotas", Filter policies)."""

_SQS: Final = "sqs"


def open_subscriber(aws: AwsClient, *, settings: Settings, usual: object) -> SnsSubscriber:
    """How this folder offers itself. `usual` are the options of a queue in SQS that no rule changes."""
    return SnsSubscriber(aws, settings=settings, usual=usual)


class SnsSubscriber:
    """Implements `gateway.core.fanout.Subscriber`. The client is shared, and closed by who opened it."""

    limit = SUBSCRIPTIONS

    def __init__(self, aws: AwsClient, *, settings: Settings, usual: object) -> None:
        # "Additions or changes to a subscription filter policy require up to 15 minutes to fully take effect" (SNS
        # guide, "Amazon SNS message filtering").
        self.wait = settings.fanout_wait
        self._topics = TopicDirectory(aws, "auto")
        self._queues = SubscribedQueues(aws)
        self._usual = usual

    def objection(self, topic: Target, queue: Target) -> str:
        if queue.kind != _SQS:
            return f"a queue that lives in {queue.kind}, which SNS does not send to"
        if is_fifo(topic.name) or is_fifo(queue.name):
            # What is sent to the queue on another way has no order with what comes through a topic.
            return "a FIFO queue keeps its order"
        if ":" in queue.name:
            return "a queue that is named by ARN or URL: its policy is somebody else's"
        if queue.transform is not None or queue.options not in (None, self._usual):
            return "a queue whose rule says more of its messages than its name"
        return ""

    async def subscribe(self, topic: Target, queue: Target) -> str:
        found = self._topics.find(topic)
        arn = await self._topics.arn(found)
        facts = await self._queues.find(queue.name)
        _check(arn, facts, queue)
        await self._queues.allow(queue.name, facts, arn, statement_id(arn))
        fields = {"TopicArn": arn, "Protocol": _SQS, "Endpoint": facts.arn, "ReturnSubscriptionArn": "true"}
        answer = await self._topics.call(found, "Subscribe", fields | map_fields("Attributes", _attributes(queue)))
        return text_of(answer, "SubscriptionArn")

    async def holds(self, topic: Target, queue: Target, subscription: str) -> bool:
        found = self._topics.find(topic)
        try:
            facts = await self._queues.find(queue.name)
            answer = await self._topics.call(found, "GetSubscriptionAttributes", {"SubscriptionArn": subscription})
        except NotFound:
            return False
        try:
            said: Mapping[str, str] = orjson.loads(answer)["Attributes"]
            arn = said["TopicArn"]
            right = all(said.get(name) == value for name, value in _attributes(queue).items())
        except SHAPE_ERRORS as error:
            raise unreadable(error) from None
        return right and not facts.key and with_statement(facts.policy, facts.arn, arn, statement_id(arn)) is None

    async def unsubscribe(self, topic: Target, queue: Target, subscription: str) -> None:
        found = self._topics.find(topic)
        await self._topics.call(found, "Unsubscribe", {"SubscriptionArn": subscription})
        try:
            facts = await self._queues.find(queue.name)
            await self._queues.forbid(queue.name, facts, statement_id(await self._topics.own_arn(found)))
        except NotFound:
            return  # the queue has gone, and its policy with it


def statement_id(topic: str) -> str:
    """The `Sid` in a queue's policy for one topic, by ARN."""
    return f"mqlift-fanout-{hashlib.sha256(topic.encode()).hexdigest()[:16]}"


def _attributes(queue: Target) -> Mapping[str, str]:
    """Of a subscription. Its filter never changes: what a message goes by is in the message."""
    return {"RawMessageDelivery": "true", "FilterPolicy": orjson.dumps({QUEUES: [queue.name]}).decode()}


def _check(topic: str, queue: QueueFacts, target: Target) -> None:
    """Raises `Invalid` for what SNS would not bring, and would not tell."""
    resource = f"sqs queue {target.name}"
    if topic.split(":")[3:5] != queue.arn.split(":")[3:5]:
        raise Invalid(f"the topic {topic} is in another account or region", resource=resource)
    if queue.key:
        raise Invalid("it is encrypted with a KMS key, which SNS may not be allowed to use", resource=resource)
