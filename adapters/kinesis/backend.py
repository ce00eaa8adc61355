"""The Kinesis backend: one attempt of each of the hub's requests, over a signed client."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, cast

import orjson

from adapters.aws.api import AwsClient
from adapters.aws.delays import refuse_delay
from adapters.aws.errors import classify, code_of, is_of_key
from adapters.aws.records import record_results
from adapters.aws.sendonly import SendOnly
from adapters.kinesis.consumers import ConsumerDirectory
from adapters.kinesis.encoding import AggregatedEntry, encode
from adapters.kinesis.naming import stream_name
from adapters.kinesis.reading import (
    iterator_request,
    read_event,
    read_iterator,
    read_page,
    read_shards,
    subscription_request,
)
from adapters.kinesis.settings import DEFAULT_OPTIONS, KIND, OWN_OPTIONS, RECORD_BYTES, KinesisOptions
from adapters.kinesis.streams import Stream, StreamDirectory
from gateway.core.backend import Entry, Limits, Provision, QueueSpec, Target
from gateway.core.errors import BackendError, Invalid, NotFound, Unavailable
from gateway.core.message import Message
from gateway.core.outcome import Result
from gateway.core.streams.port import NEXT, Page, Position, PositionLost, ReadLimits, Shard, Whence
from gateway.core.transform import Transform

# "Each PutRecords request can support up to 500 records. Each record in the request can be as large as 10 MiB, up to a
# limit of 10 MiB for the entire request, including partition keys."
# (https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html)
BATCH_ENTRIES: Final = 500
BATCH_BYTES: Final = 10_485_760

# "Each shard can support up to five read transactions per second […] up to a maximum total data read rate of 2 MiB per
# second" (Kinesis guide, "Quotas and limits"). One of the five is left to others. "If you call SubscribeToShard again
# with the same ConsumerARN and ShardId within 5 seconds of a successful call, you'll get a ResourceInUseException."
# (https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html)
READ_LIMITS: Final = ReadLimits(
    reads_per_second=4.0, bytes_per_second=2 * 1024 * 1024, page_records=1_000, subscription_seconds=5.0
)

SILENCE_SECONDS: Final = 30.0
"""After so long without an event a subscription is taken for dead: Kinesis sends empty ones, every few seconds."""

SHARD_PAGES: Final = 20
"""Answers of `ListShards` that are put together at most: each has 1,000 shards, which is more than an account has."""

# "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis."
_IN_THE_FUTURE: Final = "timestampInMillis"

OWN_TRANSFORM: Final = Transform(envelope=True)
"""Streams that clients declare carry whole messages, with their properties and headers."""


def open_backend(aws: AwsClient, *, prefix: str, provision: Provision) -> KinesisBackend:
    """How this folder offers itself."""
    return KinesisBackend(aws, prefix=prefix, provision=provision, hostname=socket.gethostname())


class KinesisBackend(SendOnly):
    """Implements `gateway.core.backend.Backend`, and `gateway.core.streams.port.StreamBackend` for what is read.

    The client is shared, and closed by who opened it.

    Entries of one partition key have that key, so the hub sends one at a time: `PutRecords` keeps no order among the
    records of a request, and each may fail alone.
    """

    service = "kinesis stream"
    limits = Limits(batch_entries=BATCH_ENTRIES, batch_bytes=BATCH_BYTES, entry_bytes=RECORD_BYTES, receive_entries=0)
    """`entry_bytes` without the option `max_record_bytes`."""
    read_limits = READ_LIMITS

    def __init__(
        self, aws: AwsClient, *, prefix: str = "", provision: Provision = "auto", hostname: str = "localhost"
    ) -> None:
        self._aws = aws
        self._prefix = prefix
        self._streams = StreamDirectory(aws, provision)
        self._consumers = ConsumerDirectory(self._streams, provision, hostname)

    def home(self, queue: str, spec: QueueSpec) -> Target:  # noqa: ARG002 - all streams are alike
        name = stream_name(self._prefix + queue)
        return Target(kind=KIND, name=name, queue=queue, options=OWN_OPTIONS, transform=OWN_TRANSFORM)

    def encode(self, target: Target, message: Message) -> Entry:
        options = target.options if isinstance(target.options, KinesisOptions) else DEFAULT_OPTIONS
        refuse_delay(message, self.service, target.name)
        return encode(target, options, message)

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        stream = self._streams.find(target)
        stream.raise_recent()
        body = b"%b%b]}" % (stream.send_head, b",".join([_record(entry) for entry in entries]))
        try:
            answer = await self._aws.call("kinesis", "PutRecords", body, resource=stream.resource, region=stream.region)
        except NotFound as error:
            if is_of_key(error):
                raise  # the stream is there
            await self._streams.ready(stream, target)
            # It is there by now; Kinesis may need a moment to know it everywhere.
            raise Unavailable("the stream was missed and is there again", resource=stream.resource) from None
        return record_results(
            answer,
            "Records",
            "SequenceNumber",
            len(entries),
            lambda code, text: classify("kinesis", "PutRecords", code, text, stream.resource),
        )

    async def ensure(self, target: Target, spec: QueueSpec) -> None:  # noqa: ARG002 - a stream is what it is
        await self._streams.ready(self._streams.find(target), target)

    async def probe(self, target: Target) -> None:
        await self._streams.look_up(self._streams.find(target))

    async def remove(self, target: Target) -> None:
        """Streams that clients declare are deleted with their queues; what a rule names is not ours to delete."""
        if target.options is not OWN_OPTIONS:
            await super().remove(target)
            return
        await self._streams.delete(self._streams.find(target))

    # Reading

    async def shards(self, target: Target) -> Sequence[Shard]:
        """As `StreamBackend.shards`."""
        stream = self._streams.find(target)
        member, value = stream.reference.member
        request: dict[str, object] = {member: value}
        shards: list[Shard] = []
        for _ in range(SHARD_PAGES):
            answer = await self._call(target, "ListShards", request)
            page, token = read_shards(answer)
            shards += page
            if not token:
                break
            request = {"NextToken": token}  # which names the stream as well, and may not stand beside its name
        return shards

    async def seek(self, target: Target, shard: str, position: Position) -> str:
        """As `StreamBackend.seek`."""
        member, value = self._streams.find(target).reference.member
        request = iterator_request(shard, position) | {member: value}
        try:
            answer = await self._call(target, "GetShardIterator", request)
        except Invalid as error:
            if not _is_ahead(position, error):
                raise
            return await self.seek(target, shard, NEXT)
        return read_iterator(answer)

    async def read(self, target: Target, shard: str, iterator: str, limit: int) -> Page:  # noqa: ARG002 - the iterator's
        """As `StreamBackend.read`."""
        reference = self._streams.find(target).reference
        request: dict[str, object] = {"ShardIterator": iterator, "Limit": limit}
        if reference.arn:
            request["StreamARN"] = reference.arn  # for streams of other accounts
        try:
            answer = await self._call(target, "GetRecords", request)
        except BackendError as error:
            if code_of(error) != "ExpiredIteratorException":
                raise
            raise PositionLost(error.problem, resource=error.resource, action=error.action) from None
        return read_page(answer, target)

    # Records that are brought: enhanced fan-out

    async def enroll(self, target: Target, consumer: str) -> None:
        """As `StreamBackend.enroll`."""
        await self._consumers.find(self._streams.find(target), consumer)

    @asynccontextmanager
    async def subscribe(
        self, target: Target, consumer: str, shard: str, position: Position
    ) -> AsyncIterator[AsyncIterator[Page]]:
        """As `StreamBackend.subscribe`."""
        stream = self._streams.find(target)
        arn = await self._consumers.find(stream, consumer)
        async with AsyncExitStack() as stack:
            try:
                yield Events(await self._begin(stack, stream, arn, shard, position), target)
            except NotFound:
                self._consumers.forget(stream, consumer)  # for all that is known, it was the consumer that is gone
                raise

    async def _begin(
        self, stack: AsyncExitStack, stream: Stream, arn: str, shard: str, position: Position
    ) -> AsyncIterator[bytes]:
        """The events of a subscription that ends with the stack. `arn`: of the consumer."""
        body = orjson.dumps({"ConsumerARN": arn, **subscription_request(shard, position)})
        events = self._aws.events(
            "kinesis", "SubscribeToShard", body, silence=SILENCE_SECONDS, resource=stream.resource, region=stream.region
        )
        try:
            return await stack.enter_async_context(events)
        except Invalid as error:
            if not _is_ahead(position, error):
                raise
            return await self._begin(stack, stream, arn, shard, NEXT)

    async def _call(self, target: Target, action: str, request: dict[str, object]) -> bytes:
        return await self._streams.call(self._streams.find(target), action, request)

    async def aclose(self) -> None:
        """Nothing here is open but the client, which others share."""


class Events:
    """The pages of a subscription."""

    __slots__ = ("_events", "_target")

    def __init__(self, events: AsyncIterator[bytes], target: Target) -> None:
        self._events = events
        self._target = target

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Page:
        """Raises `BackendError`."""
        return read_event(await anext(self._events), self._target)


def _is_ahead(position: Position, error: Invalid) -> bool:
    """Whether the gateway's clock is ahead of Kinesis's: nothing that is there by now is meant."""
    return position.whence is Whence.TIME and _IN_THE_FUTURE in error.problem


def _record(entry: Entry) -> bytes:
    return entry.record() if isinstance(entry, AggregatedEntry) else cast("bytes", entry.payload)
