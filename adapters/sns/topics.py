"""Which SNS topic a target is: its ARN, found or created once, and remembered as long as it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from adapters.aws.api import AwsClient
from adapters.aws.batches import text_of
from adapters.aws.directory import Remembered, Resource, missing, now
from adapters.aws.names import NAME_TAG, tag_value
from adapters.aws.query import form, map_fields, quote
from adapters.sns.naming import TopicReference, parse_reference, topic_arn
from gateway.core.backend import Provision
from gateway.core.errors import BackendError, CredentialsInvalid, NotFound, Unavailable
from gateway.core.fanout import TOLD

# Deduplication ids are unique to each publish, so the limits can be those of a group (SNS guide, "High throughput FIFO
# topics").
_FIFO_ATTRIBUTES: Final = {
    "FifoTopic": "true",
    "ContentBasedDeduplication": "false",
    "FifoThroughputScope": "MessageGroup",
}

_log = structlog.get_logger("mqlift.sns")


class Topic(Resource):
    """What is known of one topic. `arn` is None until it was found, and after SNS said that it is gone.

    `life` counts how often that was: another topic of the same name does not have the subscriptions of the one before.
    """

    __slots__ = ("absent_until", "arn", "batch_head", "fans_out", "life", "reference")

    def __init__(self, reference: TopicReference) -> None:
        super().__init__(f"sns topic {reference.name}", reference.region)
        self.reference = reference
        self.arn: str | None = None
        self.life = 0
        self.fans_out = False
        """Whether gateways rely on its subscriptions."""
        self.absent_until = 0.0
        """Not to be made again before, on the event loop's clock."""
        self.batch_head = b""
        if reference.arn:
            self.locate(reference.arn)

    def locate(self, arn: str) -> None:
        self.arn = arn
        self.batch_head = b"TopicArn=" + quote(arn.encode())
        self.failure = None

    def forget(self) -> None:
        # The ARN that a configuration gave is all that will ever be known of that topic.
        self.arn = self.reference.arn or None
        self.life += 1
        if self.fans_out:
            self.absent_until = now() + TOLD


class TopicDirectory:
    """All topics that this gateway has used. Callers that want the same topic at the same time share one request."""

    def __init__(self, aws: AwsClient, provision: Provision) -> None:
        self._aws = aws
        self._provision = provision
        self._topics = Remembered("sns topic", lambda name: Topic(parse_reference(name)))
        self.find = self._topics.find
        self._caller = ""

    def creates(self, topic: Topic) -> bool:
        """Whether the gateway may create it: an ARN names a topic that somebody else made."""
        return self._provision == "auto" and topic.reference.ours

    async def arn(self, topic: Topic) -> str:
        """The topic's ARN; the topic is made where it is missing and that is allowed."""
        if topic.arn is not None:
            return topic.arn
        async with topic.lock:
            # Whoever held the lock before may have found the topic, or found out that there is none.
            if topic.arn is not None:
                return topic.arn
            topic.raise_recent()
            try:
                arn = await self._find_or_create(topic)
            except BackendError as error:
                topic.fail(error)
                raise
            topic.locate(arn)
            return arn

    async def _find_or_create(self, topic: Topic) -> str:
        try:
            return await self.look_up(topic)
        except NotFound:
            if not self.creates(topic):
                raise
        if now() < topic.absent_until:
            # Other gateways name queues to it that the next one of its name does not have: they are being told.
            problem = "the topic is gone, and made again when the other gateways know"
            raise Unavailable(problem, resource=topic.resource, action="sns:CreateTopic")
        return await self._create(topic)

    async def look_up(self, topic: Topic) -> str:
        """Ask SNS for the topic, whatever is remembered. Raises `NotFound` with what would help."""
        arn = topic.reference.arn or await self.own_arn(topic)
        try:
            await self.call(topic, "GetTopicAttributes", {"TopicArn": arn})
        except NotFound:
            raise self.missing(topic, "sns:GetTopicAttributes") from None
        return arn

    async def own_arn(self, topic: Topic) -> str:
        """The ARN that a topic has, or would have. SNS finds topics by ARN only, so the account has to be known."""
        if topic.reference.arn:
            return topic.reference.arn
        if not self._caller:
            self._caller = await self._aws.caller()
        try:
            return topic_arn(topic.reference.name, self._aws.region, self._caller)
        except ValueError as error:
            raise CredentialsInvalid(str(error), resource=topic.resource, action="sts:GetCallerIdentity") from None

    async def _create(self, topic: Topic) -> str:
        reference = topic.reference
        fields = {
            "Name": reference.name,
            "Tags.member.1.Key": NAME_TAG,
            "Tags.member.1.Value": tag_value(reference.name),
        }
        if reference.fifo:
            fields |= map_fields("Attributes", _FIFO_ATTRIBUTES)
        arn = text_of(await self.call(topic, "CreateTopic", fields), "TopicArn")
        _log.info("topic_created", name=reference.name)
        return arn

    async def call(self, topic: Topic, action: str, fields: Mapping[str, str]) -> bytes:
        """A call about a topic that is not for a message."""
        return await self._aws.call("sns", action, form(fields), resource=topic.resource, region=topic.region)

    def missing(self, topic: Topic, action: str) -> NotFound:
        creating = "sns:CreateTopic and sns:TagResource" if self._provision == "never" and topic.reference.ours else ""
        return missing("topic", topic, topic.region or self._aws.region, action, creating)

    def gone(self, topic: Topic, action: str) -> BackendError:
        """What to raise after SNS denied knowing the ARN: the next use looks the topic up again, or creates it."""
        topic.forget()
        if self.creates(topic):
            return Unavailable("the topic is gone, and looked up again", resource=topic.resource, action=action)
        return self.missing(topic, action)
