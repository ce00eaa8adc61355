"""The SQS backend: one attempt of each of the hub's requests, over a signed client."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import orjson
import structlog

from adapters.aws.api import AwsClient
from adapters.aws.batches import batch_results
from adapters.aws.delays import refuse_delay
from adapters.aws.errors import classify, code_of
from adapters.aws.groups import DeduplicationIds, legal_id, message_group
from adapters.aws.names import is_fifo
from adapters.aws.payloads import MAX_PAYLOAD, LargeEntry, LargePayloads, fields_of, send_rest
from adapters.sqs.answers import COUNTS, REDRIVE, Unread, depth, received, redriven_after, unread
from adapters.sqs.encoding import TRACE_HEADER, Decoder, Encoder, encode_pointer
from adapters.sqs.naming import queue_name
from adapters.sqs.offloaded import handle_of, offloaded, pointer_of
from adapters.sqs.queues import MAX_RETENTION, MIN_RETENTION, Queue, QueueDirectory
from adapters.sqs.settings import DEFAULT_OPTIONS, DEFAULT_SETTINGS, KIND, Settings, SqsOptions
from gateway.core.backend import Depth, Entry, Limits, Provision, QueueSpec, Received, Target
from gateway.core.errors import Invalid, NotFound, TooLarge
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.templates import Template
from gateway.core.transform import transformed

# "The maximum allowed individual message size and the maximum total payload size (the sum of the individual lengths of
# all of the batched messages) are both 1 MiB" and "up to 10 messages"
# (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html)
BATCH_ENTRIES: Final = 10
MAX_BYTES: Final = 1_048_576

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
MAX_WAIT: Final = 20
MAX_VISIBILITY: Final = 43_200

RECEIVE_MARGIN: Final = 10.0
"""Seconds beyond the long poll that its answer may take."""

REPORTED_LIMIT: Final = 1000
"""Queues whose unreadable messages are logged: once each."""

# Delays of a message end after 15 minutes at the latest (API_SendMessage); what is to wait longer goes in stretches.
MAX_DELAY: Final = 900

_SYSTEM_ATTRIBUTES: Final = ("ApproximateReceiveCount", "MessageGroupId", "SentTimestamp", TRACE_HEADER)
_ENTRY_HEADS: Final = tuple(b'{"Id":"%d",' % index for index in range(BATCH_ENTRIES))

_log = structlog.get_logger("mqlift.sqs")


def open_backend(
    aws: AwsClient, *, prefix: str, provision: Provision, settings: Settings = DEFAULT_SETTINGS
) -> SqsBackend:
    """How this folder offers itself. `prefix` begins the names that are made from legacy names."""
    return SqsBackend(aws, prefix=prefix, provision=provision, settings=settings)


class SqsBackend:
    """Implements `gateway.core.backend.Backend` and `Redriving`. The client is shared, and closed by who opened it."""

    limits = Limits(
        batch_entries=BATCH_ENTRIES,
        batch_bytes=MAX_BYTES,
        entry_bytes=MAX_BYTES,
        receive_entries=10,
        max_wait=float(MAX_WAIT),
        max_hold=float(MAX_VISIBILITY),
    )

    def __init__(
        self,
        aws: AwsClient,
        *,
        prefix: str = "",
        provision: Provision = "auto",
        settings: Settings = DEFAULT_SETTINGS,
    ) -> None:
        self._aws = aws
        self._payloads: LargePayloads | None = None
        self._threshold = MAX_BYTES
        """Bytes above which a message cannot be sent with its body in it."""
        if settings.large_payloads is not None:
            self._payloads = LargePayloads(aws, settings.large_payloads, MAX_BYTES)
            self._threshold = self._payloads.threshold
            self.limits = replace(self.limits, entry_bytes=MAX_PAYLOAD)
        self._prefix = prefix
        self._queues = QueueDirectory(aws, provision)
        self._encoder = Encoder()
        self._decoder = Decoder(self._report)
        self._deduplication_ids = DeduplicationIds()
        self._reported: set[str] = set()
        self.unreadable = 0
        """Messages whose `mqlift` attributes could not be read, and which were delivered as native ones."""

    def home(self, queue: str, spec: QueueSpec) -> Target:
        if not queue:
            raise Invalid("a queue cannot have an empty name")
        try:
            name = queue_name(self._prefix + queue, fifo=spec.arguments.get("x-fifo") in (True, "true"))
        except ValueError as error:
            raise Invalid(str(error)) from None
        return Target(kind=KIND, name=name, queue=queue, options=_home_options(spec))

    def encode(self, target: Target, message: Message) -> Entry:
        options = target.options if isinstance(target.options, SqsOptions) else DEFAULT_OPTIONS
        try:
            message = transformed(target.transform, message)
            if len(message.body) > self._threshold:  # known without another copy of the body
                return self._large_entry(target, options, message, len(message.body))
            fields, size = self._encoder.encode(message, options.attributes)
            if size > self._threshold:
                return self._large_entry(target, options, message, size)
        except ValueError as error:
            raise Invalid(str(error), resource=f"sqs queue {target.name}") from None
        return self._entry(target, options, message, fields, size)

    def _large_entry(self, target: Target, options: SqsOptions, message: Message, size: int) -> Entry:
        """An entry with the body in S3. It has the size of that body: that is what it takes of the gateway's memory."""
        if self._payloads is None or len(message.body) > MAX_PAYLOAD:
            limit = MAX_BYTES if self._payloads is None else MAX_PAYLOAD
            problem = f"the message has {size} bytes with its attributes; the limit is {limit}"
            raise TooLarge(problem, resource=f"sqs queue {target.name}")
        payload = self._payloads.payload(message.body)
        fields, pointer_size = encode_pointer(message, options.attributes, payload)
        if pointer_size > MAX_BYTES:
            problem = f"the message has {pointer_size} bytes without its body; SQS takes {MAX_BYTES}"
            raise TooLarge(problem, resource=f"sqs queue {target.name}")
        entry = self._entry(target, options, message, fields, max(pointer_size, payload.content.size))
        entry.payload = LargeEntry(fields_of(entry.payload), payload)
        return entry

    def _entry(self, target: Target, options: SqsOptions, message: Message, fields: bytes, size: int) -> Entry:
        if is_fifo(target.name):
            return self._ordered_entry(target, options, message, fields, size)
        if message.not_before:
            fields += _delay_field(message)
        if options.group_id is not None and (group := options.group_id.render(message, target.captures)):
            # On a standard queue it makes the queue a fair one, and orders nothing.
            fields += b',"MessageGroupId":' + orjson.dumps(legal_id(group))
        return Entry(fields + b"}", size)

    def _ordered_entry(self, target: Target, options: SqsOptions, message: Message, fields: bytes, size: int) -> Entry:
        # "you can't set a timer on individual messages" of a FIFO queue (SQS guide, "Delay queues").
        refuse_delay(message, "FIFO sqs queue", target.name)
        group = message_group(options.group_id, message, target.captures)
        deduplication_id = self._deduplication_ids.make(options.deduplication_id, message, target.captures)
        payload = b'%b,"MessageGroupId":%b,"MessageDeduplicationId":%b}' % (
            fields,
            orjson.dumps(group),
            orjson.dumps(deduplication_id),
        )
        return Entry(payload, size, group)

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        queue = self._queues.find(target)
        if queue.url is None:
            await self._queues.url(queue, target, create=True)
        payloads = [entry.payload for entry in entries]
        if self._payloads is None:
            return await self._send(queue, cast("list[bytes]", payloads))
        deadline = max(entry.deadline for entry in entries)
        stored = await self._payloads.store(payloads, [None] * len(payloads), deadline)
        return await send_rest(payloads, stored, lambda rest: self._send(queue, rest))

    async def _send(self, queue: Queue, payloads: Sequence[bytes]) -> Sequence[Result]:
        joined = b",".join([_ENTRY_HEADS[index] + payload for index, payload in enumerate(payloads)])
        answer = await self._call(queue, "SendMessageBatch", queue.send_head + joined + b"]}", creating=True)
        return _results(queue, "SendMessage", answer, len(payloads))

    async def receive(self, target: Target, limit: int, wait: float, visibility: float) -> Sequence[Received]:
        queue = self._queues.find(target)
        seconds = min(int(wait), MAX_WAIT)
        request = {
            "QueueUrl": await self._queues.url(queue, target, create=False),
            "MaxNumberOfMessages": limit,
            "WaitTimeSeconds": seconds,
            "VisibilityTimeout": _whole_seconds(visibility),
            "MessageSystemAttributeNames": _SYSTEM_ATTRIBUTES,
            "MessageAttributeNames": ("All",),
        }
        answer = await self._call(queue, "ReceiveMessage", orjson.dumps(request), read_timeout=seconds + RECEIVE_MARGIN)
        messages: Sequence[Unread] = unread(answer)
        if self._payloads is not None:
            messages = offloaded(messages, self._payloads, ordered=is_fifo(target.name))
        return received(messages, self._decoder.decode, target.queue)

    async def settle(self, target: Target, receipts: Sequence[str], outcome: Outcome) -> Sequence[Result]:
        if outcome is Outcome.RELEASED:
            return await self._change_visibility(target, receipts, 0)
        entries = [{"Id": str(index), "ReceiptHandle": handle_of(receipt)} for index, receipt in enumerate(receipts)]
        results = await self._change(target, "DeleteMessage", entries)
        if self._payloads is not None and self._payloads.remove_after_ack:
            # What is still in SQS keeps its body.
            ended = [receipt for receipt, result in zip(receipts, results, strict=True) if result is ACCEPTED]
            await self._payloads.remove([pointer for pointer in map(pointer_of, ended) if pointer is not None])
        return results

    async def extend(self, target: Target, receipts: Sequence[str], visibility: float) -> Sequence[Result]:
        return await self._change_visibility(target, receipts, _whole_seconds(visibility))

    async def _change_visibility(self, target: Target, receipts: Sequence[str], seconds: int) -> Sequence[Result]:
        entries = [
            {"Id": str(index), "ReceiptHandle": handle_of(receipt), "VisibilityTimeout": seconds}
            for index, receipt in enumerate(receipts)
        ]
        return await self._change(target, "ChangeMessageVisibility", entries)

    async def _change(self, target: Target, action: str, entries: Sequence[object]) -> Sequence[Result]:
        queue = self._queues.find(target)
        request = {"QueueUrl": await self._queues.url(queue, target, create=False), "Entries": entries}
        answer = await self._call(queue, f"{action}Batch", orjson.dumps(request))
        return _results(queue, action, answer, len(entries))

    async def ensure(self, target: Target, spec: QueueSpec) -> None:
        queue = self._queues.find(target)
        if queue.reference.url:
            await self._attributes(queue, queue.reference.url, ("QueueArn",))
        else:
            await self._queues.url(queue, target, create=True, retention=_retention(spec))

    async def probe(self, target: Target) -> None:
        queue = self._queues.find(target)
        await self._attributes(queue, await self._queues.look_up(queue), ("QueueArn",))

    async def remove(self, target: Target) -> None:
        queue = self._queues.find(target)
        try:
            url = await self._queues.url(queue, target, create=False)
            await self._call(queue, "DeleteQueue", orjson.dumps({"QueueUrl": url}))
        except NotFound:
            return  # there is none, as was wished
        queue.forget()

    async def depth(self, target: Target) -> Depth:
        queue = self._queues.find(target)
        return depth(await self._attributes(queue, await self._queues.url(queue, target, create=False), COUNTS))

    async def redriven_after(self, target: Target) -> int | None:
        """As `gateway.core.backend.Redriving`."""
        queue = self._queues.find(target)
        url = await self._queues.url(queue, target, create=False)
        return redriven_after(await self._attributes(queue, url, REDRIVE))

    async def _attributes(self, queue: Queue, url: str, names: Sequence[str]) -> bytes:
        return await self._call(queue, "GetQueueAttributes", orjson.dumps({"QueueUrl": url, "AttributeNames": names}))

    async def _call(
        self, queue: Queue, action: str, body: bytes, *, creating: bool = False, read_timeout: float | None = None
    ) -> bytes:
        try:
            return await self._aws.call(
                "sqs", action, body, resource=queue.resource, region=queue.region, read_timeout=read_timeout
            )
        except NotFound as error:
            if code_of(error).startswith("Kms"):
                raise  # the queue is there, its encryption key is not
            raise self._queues.gone(queue, error.action, creating=creating) from None

    def _report(self, queue: str, problem: str) -> None:
        self.unreadable += 1
        if queue not in self._reported and len(self._reported) < REPORTED_LIMIT:
            self._reported.add(queue)
            _log.warning("message_taken_for_native", queue=queue, problem=problem)

    async def aclose(self) -> None:
        """Nothing here is open but the client, which others share."""


def _home_options(spec: QueueSpec) -> SqsOptions:
    """A queue may be declared with the template of its message groups: the argument `x-group-id`."""
    template = spec.arguments.get("x-group-id")
    if template is None:
        return DEFAULT_OPTIONS
    try:
        return SqsOptions(group_id=Template.parse(str(template), frozenset()))
    except ValueError as error:
        raise Invalid(f"x-group-id: {error}") from None


def _retention(spec: QueueSpec) -> int:
    """Seconds that SQS itself keeps messages: not longer than they live, where nobody wants to have the dead ones."""
    ttl = spec.arguments.get("x-message-ttl")
    if not isinstance(ttl, int) or "x-dead-letter-exchange" in spec.arguments:
        return MAX_RETENTION
    # SQS counts from the sending, and a delayed message begins to live when its delay is over.
    return min(max(math.ceil(ttl / 1000) + MAX_DELAY, MIN_RETENTION), MAX_RETENTION)


def _delay_field(message: Message) -> bytes:
    seconds = math.ceil(message.not_before - time.time())
    return b',"DelaySeconds":%d' % min(seconds, MAX_DELAY) if seconds > 0 else b""


def _results(queue: Queue, action: str, answer: bytes, count: int) -> Sequence[Result]:
    # `SenderFault` decides nothing: SQS says it too of a key that an operator has disabled, and that is no reason to
    # reject a message for good.
    return batch_results(answer, count, lambda code, text: classify("sqs", action, code, text, queue.resource))


def _whole_seconds(visibility: float) -> int:
    return min(math.ceil(visibility), MAX_VISIBILITY)
