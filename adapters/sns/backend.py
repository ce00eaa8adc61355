"""The SNS backend: one attempt of each publish, over a signed client. A topic keeps nothing, so nothing is received."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from adapters.aws.api import AwsClient
from adapters.aws.batches import batch_results
from adapters.aws.delays import refuse_delay
from adapters.aws.errors import classify, is_of_key
from adapters.aws.groups import DeduplicationIds, legal_id, message_group
from adapters.aws.names import is_fifo
from adapters.aws.payloads import MAX_PAYLOAD, LargeEntry, LargePayload, LargePayloads, send_rest
from adapters.aws.query import quote
from adapters.aws.sendonly import SendOnly
from adapters.sns.encoding import Encoder, legal_subject
from adapters.sns.settings import DEFAULT_OPTIONS, DEFAULT_SETTINGS, Settings, SnsOptions
from adapters.sns.topics import Topic, TopicDirectory
from gateway.core.backend import Entry, Limits, Provision, QueueSpec, Target
from gateway.core.errors import BackendError, Invalid, NotFound, TooLarge
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Result, failed
from gateway.core.transform import transformed

# "up to ten messages to the specified topic in a single batch […] The maximum allowed individual message size and the
# maximum total payload size (the sum of the individual lengths of all of the batched messages) are both 256 KB"
# (https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html)
BATCH_ENTRIES: Final = 10

FROM_TOPIC: Final = "sns"
"""The protocol in the origin of a message that came from a topic; the client id is the topic's ARN."""

_PATHS: Final = tuple(
    f"&PublishBatchRequestEntries.member.{number}.".encode() for number in range(1, BATCH_ENTRIES + 1)
)


def origin_name(prefix: str) -> str:
    """The name that a gateway and its replicas publish under: those that share the names of their queues."""
    return prefix or "mqlift"


def open_backend(
    aws: AwsClient, *, prefix: str, provision: Provision, settings: Settings = DEFAULT_SETTINGS
) -> SnsBackend:
    """How this folder offers itself. `prefix` tells the messages of this gateway from those of others."""
    return SnsBackend(aws, prefix=prefix, provision=provision, settings=settings)


class CameFromTopic:
    """The `Entry.payload` of a message that came from a topic: that topic has it already."""

    __slots__ = ("arn", "payload")

    def __init__(self, arn: str, payload: object) -> None:
        self.arn = arn
        self.payload = payload


class ForQueues:
    """The `Entry.payload` of a message that names queues: for the topic that has their subscriptions, and no later one
    of its name.
    """

    __slots__ = ("life", "payload")

    def __init__(self, life: int, payload: object) -> None:
        self.life = life
        self.payload = payload


class SnsBackend(SendOnly):
    """Implements `gateway.core.backend.Backend`. The client is shared, and closed by who opened it."""

    service = "sns topic"

    def __init__(
        self,
        aws: AwsClient,
        *,
        prefix: str = "",
        provision: Provision = "auto",
        settings: Settings = DEFAULT_SETTINGS,
    ) -> None:
        self._aws = aws
        self._topics = TopicDirectory(aws, provision)
        self._encoder = Encoder(origin_name(prefix))
        self._deduplication_ids = DeduplicationIds()
        self._limit = self._threshold = settings.message_bytes
        self._payloads: LargePayloads | None = None
        if settings.large_payloads is not None:
            self._payloads = LargePayloads(aws, settings.large_payloads, self._limit)
            self._threshold = self._payloads.threshold
        self.limits = Limits(
            batch_entries=BATCH_ENTRIES,
            batch_bytes=self._limit,
            entry_bytes=self._limit if self._payloads is None else MAX_PAYLOAD,
            receive_entries=0,
        )

    def encode(self, target: Target, message: Message) -> Entry:
        options = target.options if isinstance(target.options, SnsOptions) else DEFAULT_OPTIONS
        refuse_delay(message, self.service, target.name)
        try:
            message = transformed(target.transform, message)
            if len(message.body) > self._threshold:  # known without another copy of the body
                return self._large_entry(target, options, message, len(message.body))
            fields, size = self._encoder.encode(message, options.attributes, target.fanout or ())
            if size > self._threshold:
                return self._large_entry(target, options, message, size)
        except ValueError as error:
            raise Invalid(str(error), resource=f"sns topic {target.name}") from None
        return self._entry(target, options, message, fields, size)

    def _large_entry(self, target: Target, options: SnsOptions, message: Message, size: int) -> Entry:
        """An entry with the body in S3. It has the size of that body: that is what it takes of the gateway's memory."""
        if self._payloads is None or len(message.body) > MAX_PAYLOAD:
            limit = self._limit if self._payloads is None else MAX_PAYLOAD
            problem = f"the message has {size} bytes with its attributes; the limit is {limit}"
            raise TooLarge(problem, resource=f"sns topic {target.name}")
        payload = self._payloads.payload(message.body)
        fields, pointer_size = self._encoder.encode_pointer(message, options.attributes, payload)
        if pointer_size > self._limit:
            problem = f"the message has {pointer_size} bytes without its body; SNS takes {self._limit}"
            raise TooLarge(problem, resource=f"sns topic {target.name}")
        return self._entry(target, options, message, fields, max(pointer_size, payload.content.size), payload)

    def _entry(
        self,
        target: Target,
        options: SnsOptions,
        message: Message,
        fields: bytes,
        size: int,
        large: LargePayload | None = None,
    ) -> Entry:
        """Add what the topic and the rule say to the fields of the message itself."""
        captures = target.captures
        key: str | None = None
        if options.subject is not None and (subject := legal_subject(options.subject.render(message, captures))):
            fields += b"&Subject=" + quote(subject.encode())
        if is_fifo(target.name):
            key = message_group(options.group_id, message, captures)
            deduplication_id = self._deduplication_ids.make(options.deduplication_id, message, captures)
            fields = b"%b&MessageGroupId=%b&MessageDeduplicationId=%b" % (
                fields,
                quote(key.encode()),
                quote(deduplication_id.encode()),
            )
        elif options.group_id is not None and (group := options.group_id.render(message, captures)):
            # On a standard topic it makes the queues behind it fair ones, and orders nothing.
            fields += b"&MessageGroupId=" + quote(legal_id(group).encode())
        payload: object = fields if large is None else LargeEntry(fields, large)
        if message.origin.protocol == FROM_TOPIC:
            payload = CameFromTopic(message.origin.client_id, payload)
        elif target.fanout is not None:
            topic = self._topics.find(target)
            topic.fans_out = True
            if target.fanout:
                payload = ForQueues(topic.life, payload)
        return Entry(payload, size, key)

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        topic = self._topics.find(target)
        arn = topic.arn or await self._topics.arn(topic)
        life = topic.life
        results: Sequence[Result | None] = [_known_result(entry.payload, topic, arn) for entry in entries]
        payloads = [_unwrapped(entry.payload) for entry in entries]
        if self._payloads is not None:
            deadline = max(entry.deadline for entry in entries)
            results = await self._payloads.store(payloads, results, deadline)
        try:
            return await send_rest(payloads, results, lambda rest: self._publish(topic, rest))
        except BackendError as error:
            known = [_known_result(entry.payload, topic, arn) for entry in entries]
            if topic.life == life or not any(known):
                raise
            # Told at once: what is published from now on must not name its queues to the topic that comes next.
            return [result or failed(error) for result in known]

    async def _publish(self, topic: Topic, payloads: Sequence[bytes]) -> Sequence[Result]:
        parts = [topic.batch_head]
        for index, payload in enumerate(payloads):
            # No value has an ampersand that is not quoted, so each begins a field.
            path = _PATHS[index]
            parts.append(b"%bId=%d%b%b" % (path, index, path, payload.replace(b"&", path)))
        answer = await self._call(topic, "PublishBatch", b"".join(parts))
        return batch_results(
            answer, len(payloads), lambda code, text: classify("sns", "Publish", code, text, topic.resource)
        )

    async def _call(self, topic: Topic, action: str, body: bytes) -> bytes:
        try:
            return await self._aws.call("sns", action, body, resource=topic.resource, region=topic.region)
        except NotFound as error:
            if is_of_key(error):
                raise  # the topic is there
            raise self._topics.gone(topic, error.action) from None

    async def ensure(self, target: Target, spec: QueueSpec) -> None:  # noqa: ARG002 - the name says standard or FIFO
        topic = self._topics.find(target)
        if topic.reference.arn:
            await self._topics.look_up(topic)
        else:
            await self._topics.arn(topic)

    async def probe(self, target: Target) -> None:
        await self._topics.look_up(self._topics.find(target))

    async def aclose(self) -> None:
        """Nothing here is open but the client, which others share."""


def _known_result(payload: object, topic: Topic, arn: str) -> Result | None:
    """The result of what is not sent: a message that came from this very topic, whose subscribers have it, and one for
    queues that were subscribed to a topic which is gone.
    """
    if isinstance(payload, CameFromTopic) and payload.arn == arn:
        return ACCEPTED
    if isinstance(payload, ForQueues) and payload.life != topic.life:
        problem = "the topic was deleted, and the subscriptions of its queues with it"
        return failed(NotFound(problem, resource=topic.resource, action="sns:Publish"))
    return None


def _unwrapped(payload: object) -> object:
    return payload.payload if isinstance(payload, (CameFromTopic, ForQueues)) else payload
