"""What is known of streams: nothing is asked before it is needed, as `PutRecords` takes names and ARNs as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar

import orjson
import structlog

from adapters.aws.api import AwsClient
from adapters.aws.errors import code_of
from adapters.kinesis.naming import StreamReference, parse_reference
from adapters.kinesis.settings import RECORD_BYTES, KinesisOptions
from gateway.core.backend import Target
from gateway.core.errors import BackendError, Invalid, NotFound, Unavailable

Provision: TypeAlias = Literal["auto", "never"]

T = TypeVar("T")

STREAM_LIMIT: Final = 10_000
"""Streams that are remembered; there is little to remember of one."""

NEGATIVE_SECONDS: Final = 1.0
"""How long a stream that is missing or not ready is not asked for again: DescribeStreamSummary may be called 20 times
a second in an account (Kinesis guide, "Quotas and limits")."""

_USABLE: Final = frozenset({"ACTIVE", "UPDATING"})

_log = structlog.get_logger("mqlift.kinesis")


class Finding:
    """Something in AWS that is looked for when it is missed. Who misses it at the same time shares the requests."""

    __slots__ = ("_failed_until", "_failure", "_lock")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._failure: BackendError | None = None
        self._failed_until = 0.0

    def raise_recent(self) -> None:
        """Raise what was found out a moment ago, instead of asking again."""
        if self._failure is not None and _now() < self._failed_until:
            raise self._failure.with_traceback(None)

    async def look(self, find: Callable[[], Awaitable[T]]) -> T:
        """Find it, one at a time. Raises what `find` raises, also when that was a moment ago."""
        async with self._lock:
            # Whoever held the lock before may have found out.
            self.raise_recent()
            try:
                found = await find()
            except BackendError as error:
                self._failure, self._failed_until = error, _now() + NEGATIVE_SECONDS
                raise
            self._failure = None
            return found

    def forget_failure(self) -> None:
        self._failure = None


class Stream(Finding):
    """One stream. `arn` is empty until it is known."""

    __slots__ = ("arn", "reference", "region", "resource", "send_head")

    def __init__(self, reference: StreamReference) -> None:
        super().__init__()
        self.reference = reference
        self.arn = reference.arn
        self.region = reference.region or None
        self.resource = f"kinesis stream {reference.name}"
        member, value = reference.member
        self.send_head = b'{"%b":%b,"Records":[' % (member.encode(), orjson.dumps(value))


class StreamDirectory:
    """All streams that this gateway has used. Callers that miss the same one at the same time share the requests."""

    def __init__(self, aws: AwsClient, provision: Provision) -> None:
        self._aws = aws
        self._provision = provision
        self._streams: dict[str, Stream] = {}

    def find(self, target: Target) -> Stream:
        """Raises `Invalid` for a name that cannot be a stream's."""
        stream = self._streams.get(target.name)
        if stream is None:
            try:
                stream = Stream(parse_reference(target.name))
            except ValueError as error:
                raise Invalid(str(error), resource="kinesis stream") from None
            if len(self._streams) >= STREAM_LIMIT:
                del self._streams[next(iter(self._streams))]
            self._streams[target.name] = stream
        return stream

    async def ready(self, stream: Stream, target: Target) -> None:
        """Find the stream, or create it where that is allowed. Raises `Unavailable` until it can be written to."""
        await stream.look(lambda: self._find_or_create(stream, target))

    async def _find_or_create(self, stream: Stream, target: Target) -> None:
        try:
            await self.look_up(stream)
        except NotFound:
            if self._provision == "never" or not stream.reference.ours:
                raise
            await self._create(stream, target)
            await self.look_up(stream)

    async def look_up(self, stream: Stream) -> None:
        """Ask for the stream. Raises `NotFound` with what would help, and `Unavailable` for one that is not ready."""
        member, value = stream.reference.member
        try:
            answer = await self._call(stream, "DescribeStreamSummary", {member: value})
        except NotFound:
            raise self._missing(stream) from None
        status, arn = _summary(answer)
        if status not in _USABLE:
            raise Unavailable(
                f"the stream is {status.lower()}", resource=stream.resource, action="kinesis:DescribeStreamSummary"
            )
        stream.arn = arn

    async def arn(self, stream: Stream) -> str:
        """Its ARN, asked for once. Raises as `look_up`."""
        if not stream.arn:
            await self.look_up(stream)
        return stream.arn

    async def _create(self, stream: Stream, target: Target) -> None:
        request: dict[str, object] = {
            "StreamName": stream.reference.name,
            "StreamModeDetails": {"StreamMode": "ON_DEMAND"},
        }
        options = target.options
        if isinstance(options, KinesisOptions) and options.max_record_bytes > RECORD_BYTES:
            request["MaxRecordSizeInKiB"] = -(-options.max_record_bytes // 1024)
        try:
            await self._call(stream, "CreateStream", request)
        except BackendError as error:
            if code_of(error) != "ResourceInUseException":
                raise
            return  # somebody else has created it in this moment
        _log.info("stream_created", name=stream.reference.name)

    async def delete(self, stream: Stream) -> None:
        """Delete a stream. One that is not there is deleted already."""
        try:
            await self._call(stream, "DeleteStream", {"StreamName": stream.reference.name})
        except NotFound:
            return
        finally:
            stream.forget_failure()

    def _missing(self, stream: Stream) -> NotFound:
        region = stream.region or self._aws.region
        problem = f"the stream does not exist in {region}; create it"
        if self._provision == "never" and stream.reference.ours:
            problem += ", or set `provision: auto`, which needs the permission kinesis:CreateStream"
        return NotFound(problem, resource=stream.resource, action="kinesis:DescribeStreamSummary")

    async def _call(self, stream: Stream, action: str, request: Mapping[str, object]) -> bytes:
        body = orjson.dumps(request)
        return await self._aws.call("kinesis", action, body, resource=stream.resource, region=stream.region)


def _summary(answer: bytes) -> tuple[str, str]:
    """Status and ARN."""
    try:
        summary = orjson.loads(answer)["StreamDescriptionSummary"]
        return str(summary["StreamStatus"]), str(summary["StreamARN"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"an answer that is not Kinesis's: {type(error).__name__} {error}") from None


def _now() -> float:
    return asyncio.get_running_loop().time()
