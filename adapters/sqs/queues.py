"""Which SQS queue a target is: its URL, found or created once, and remembered as long as it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
import structlog

from adapters.aws.api import AwsClient
from adapters.aws.batches import text_of
from adapters.aws.directory import Remembered, Resource, missing, now
from adapters.aws.names import NAME_TAG, tag_value
from adapters.sqs.naming import QueueReference, parse_reference
from gateway.core.backend import Provision, Target
from gateway.core.errors import BackendError, NotFound, Unavailable

SETTLING_SECONDS: Final = 5.0
"""A queue that was just created may be unknown to a part of SQS for "at least one second" (API, CreateQueue)."""

# Seconds (SQS API reference, SetQueueAttributes). Brokers keep messages until they are consumed; SQS at most so long.
MIN_RETENTION: Final = 60
MAX_RETENTION: Final = 1_209_600

# Deduplication ids are unique to each publish, so the limits can be those of a group: up to 70,000 messages per second
# instead of 3,000 for the queue (SQS guide, "High throughput for FIFO queues").
_FIFO_ATTRIBUTES = {
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}

_log = structlog.get_logger("mqlift.sqs")


class Queue(Resource):
    """What is known of one queue. `url` is None until it was found, and after SQS said that it is gone."""

    __slots__ = ("created_at", "reference", "send_head", "url")

    def __init__(self, reference: QueueReference) -> None:
        super().__init__(f"sqs queue {reference.name}", reference.region)
        self.reference = reference
        self.created_at = float("-inf")
        self.url: str | None = None
        self.send_head = b""
        if reference.url:
            self.locate(reference.url)

    def locate(self, url: str) -> None:
        self.url = url
        self.send_head = b'{"QueueUrl":' + orjson.dumps(url) + b',"Entries":['
        self.failure = None

    def forget(self) -> None:
        # The URL that a configuration gave is all that will ever be known of that queue.
        self.url = self.reference.url or None


class QueueDirectory:
    """All queues that this gateway has used. Callers that want the same queue at the same time share one request."""

    def __init__(self, aws: AwsClient, provision: Provision) -> None:
        self._aws = aws
        self._provision = provision
        self._queues = Remembered("sqs queue", lambda name: Queue(parse_reference(name)))
        self.find = self._queues.find

    def creates(self, queue: Queue) -> bool:
        """Whether the gateway may create it: an ARN or a URL names a queue that somebody else made."""
        return self._provision == "auto" and queue.reference.ours

    async def url(self, queue: Queue, target: Target, *, create: bool, retention: int = MAX_RETENTION) -> str:
        """The queue's URL; with `create` the queue is made where it is missing and that is allowed.

        `retention`: seconds that one which is made keeps messages.
        """
        if queue.url is not None:
            return queue.url
        create = create and self.creates(queue)
        async with queue.lock:
            # Whoever held the lock before may have found the queue, or found out that there is none.
            if queue.url is not None:
                return queue.url
            queue.raise_recent(create=create)
            try:
                queue.locate(await self._find_or_create(queue, target, retention if create else None))
            except BackendError as error:
                queue.fail(error)
                raise
            assert queue.url is not None
            return queue.url

    async def _find_or_create(self, queue: Queue, target: Target, retention: int | None) -> str:
        try:
            return await self.look_up(queue)
        except NotFound:
            if retention is None:
                raise
        return await self._create(queue, target, retention)

    async def look_up(self, queue: Queue) -> str:
        """Ask SQS for the URL, whatever is remembered. Raises `NotFound` with what would help."""
        if queue.reference.url:
            return queue.reference.url
        request = {"QueueName": queue.reference.name}
        if queue.reference.account:
            request["QueueOwnerAWSAccountId"] = queue.reference.account
        try:
            return text_of(await self._call(queue, "GetQueueUrl", request), "QueueUrl")
        except NotFound:
            raise self.missing(queue, "sqs:GetQueueUrl") from None

    def missing(self, queue: Queue, action: str) -> NotFound:
        creating = "sqs:CreateQueue and sqs:TagQueue" if self._provision == "never" and queue.reference.ours else ""
        return missing("queue", queue, queue.region or self._aws.region, action, creating)

    async def _create(self, queue: Queue, target: Target, retention: int) -> str:
        reference = queue.reference
        kept = {"MessageRetentionPeriod": str(retention)}
        request = {
            "QueueName": reference.name,
            "Attributes": {**kept, **_FIFO_ATTRIBUTES} if reference.fifo else kept,
            "tags": {NAME_TAG: tag_value(target.queue or target.name)},
        }
        url = text_of(await self._call(queue, "CreateQueue", request), "QueueUrl")
        queue.created_at = now()
        _log.info("queue_created", queue=target.queue, name=reference.name)
        return url

    async def _call(self, queue: Queue, action: str, request: Mapping[str, object]) -> bytes:
        body = orjson.dumps(request)
        return await self._aws.call("sqs", action, body, resource=queue.resource, region=queue.region)

    def gone(self, queue: Queue, action: str, *, creating: bool) -> BackendError:
        """What to raise after SQS denied knowing the URL: the next use looks the queue up again.

        `creating`: that next use will create it where that is allowed, so the same request may succeed then.
        """
        queue.forget()
        if (creating and self.creates(queue)) or now() - queue.created_at < SETTLING_SECONDS:
            return Unavailable("the queue is gone, and looked up again", resource=queue.resource, action=action)
        return self.missing(queue, action)
