"""What is known of streams: nothing is asked before it is needed, as `PutRecords` takes names and ARNs as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
import structlog

from adapters.aws.api import AwsClient
from adapters.aws.directory import Remembered, Resource, now
from adapters.aws.errors import code_of
from adapters.kinesis.naming import StreamReference, parse_reference
from adapters.kinesis.reading import broken
from adapters.kinesis.settings import RECORD_BYTES, KinesisOptions
from gateway.core.backend import Provision, Target
from gateway.core.errors import BackendError, NotFound, Unavailable

NEGATIVE_SECONDS: Final = 1.0
"""How long a stream that is missing or not ready is not asked for again: DescribeStreamSummary may be called 20 times
a second in an account (Kinesis guide, "Quotas and limits")."""

_USABLE: Final = frozenset({"ACTIVE", "UPDATING"})

_log = structlog.get_logger("mqlift.kinesis")


class Stream(Resource):
    """What is known of one stream, and how requests that write to it begin. `arn` is empty until it is known."""

    __slots__ = ("arn", "reference", "send_head")

    def __init__(self, reference: StreamReference) -> None:
        super().__init__(f"kinesis stream {reference.name}", reference.region)
        self.reference = reference
        self.arn = reference.arn
        member, value = reference.member
        self.send_head = b'{"%b":%b,"Records":[' % (member.encode(), orjson.dumps(value))

    def fail(self, error: BackendError) -> None:
        self.failure, self.failed_until = error, now() + NEGATIVE_SECONDS


class StreamDirectory:
    """All streams that this gateway has used. Callers that miss the same one at the same time share the requests."""

    def __init__(self, aws: AwsClient, provision: Provision) -> None:
        self._aws = aws
        self._provision = provision
        self._streams = Remembered("kinesis stream", lambda name: Stream(parse_reference(name)))
        self.find = self._streams.find

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
            answer = await self.call(stream, "DescribeStreamSummary", {member: value})
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
            await self.call(stream, "CreateStream", request)
        except BackendError as error:
            if code_of(error) != "ResourceInUseException":
                raise
            return  # somebody else has created it in this moment
        _log.info("stream_created", name=stream.reference.name)

    async def delete(self, stream: Stream) -> None:
        """Delete a stream. One that is not there is deleted already."""
        try:
            await self.call(stream, "DeleteStream", {"StreamName": stream.reference.name})
        except NotFound:
            return
        finally:
            stream.failure = None

    def _missing(self, stream: Stream) -> NotFound:
        region = stream.region or self._aws.region
        problem = f"the stream does not exist in {region}; create it"
        if self._provision == "never" and stream.reference.ours:
            problem += ", or set `provision: auto`, which needs the permission kinesis:CreateStream"
        return NotFound(problem, resource=stream.resource, action="kinesis:DescribeStreamSummary")

    async def call(self, stream: Stream, action: str, request: Mapping[str, object]) -> bytes:
        """A call about a stream, where it is. Raises `BackendError`."""
        body = orjson.dumps(request)
        return await self._aws.call("kinesis", action, body, resource=stream.resource, region=stream.region)


def _summary(answer: bytes) -> tuple[str, str]:
    """Status and ARN."""
    try:
        summary = orjson.loads(answer)["StreamDescriptionSummary"]
        return str(summary["StreamStatus"]), str(summary["StreamARN"])
    except (KeyError, TypeError, ValueError) as error:
        raise broken(error) from None
