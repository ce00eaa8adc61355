"""Bodies that are too large for a queue or a topic: they go to S3, and a pointer to them is sent in their place.

The format is that of the Amazon SQS and SNS extended client libraries for Java and Python: the body is
`["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":…,"s3Key":…}]`, and the attribute
`ExtendedPayloadSize` has the size of what is in S3. The object holds the text that would have been the body.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, TypeAlias, cast

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field

from adapters.aws.api import AwsClient
from adapters.aws.wire import LEGACY_PAYLOAD_SIZE, PAYLOAD_SIZE, Attribute, encode_body
from gateway.core.errors import BackendError
from gateway.core.outcome import Outcome, Result

MAX_PAYLOAD: Final = 128 * 1024 * 1024
"""Bytes of a body, as large as RabbitMQ 3 takes by default (`max_message_size`)."""

POINTER_CLASS: Final = "software.amazon.payloadoffloading.PayloadS3Pointer"
LEGACY_POINTER_CLASS: Final = "com.amazon.sqs.javamessaging.MessageS3Pointer"
_POINTER_CLASSES: Final = frozenset({POINTER_CLASS, LEGACY_POINTER_CLASS})

Send: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[Result]]]
"""Sends encoded messages; one result for each."""

_log = structlog.get_logger("mqlift.payloads")


class LargePayloadSettings(BaseModel):
    """Where bodies go that are too large for a queue or a topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    threshold: Annotated[int, Field(ge=1)] | None = None
    """Bytes of a message, attributes included, above which its body goes to S3. None: the limit of the service."""
    remove_after_ack: bool = False
    """Whether the object is removed when its message was acknowledged. Not where several queues get the message."""
    also_read: tuple[str, ...] = ()
    """Other buckets that pointers may name."""


class Pointer(NamedTuple):
    """Where a body is in S3."""

    bucket: str
    key: str

    @property
    def text(self) -> str:
        """The body that is sent in place of the real one."""
        return orjson.dumps([POINTER_CLASS, {"s3BucketName": self.bucket, "s3Key": self.key}]).decode()


class LargePayload:
    """A body on its way to S3."""

    __slots__ = ("content", "encoding", "pointer", "stored")

    def __init__(self, pointer: Pointer, body: bytes) -> None:
        text, self.encoding = encode_body(body)
        self.pointer = pointer
        self.content = text.encode() if self.encoding else body
        self.stored = False

    @property
    def size_attribute(self) -> Attribute:
        return Attribute(PAYLOAD_SIZE, "Number", str(len(self.content)))


class LargeEntry:
    """The `Entry.payload` of a message whose body is in S3: what is sent, and what has to be stored before."""

    __slots__ = ("fields", "payload")

    def __init__(self, fields: bytes, payload: LargePayload) -> None:
        self.fields = fields
        self.payload = payload


class LargePayloads:
    """The large bodies of one service. Without `LargePayloadSettings`, there is no such object."""

    def __init__(self, aws: AwsClient, settings: LargePayloadSettings, limit: int) -> None:
        """`limit`: bytes of a message that the service takes."""
        self._aws = aws
        self._bucket = settings.bucket
        self._readable = frozenset({settings.bucket, *settings.also_read})
        self.threshold = min(limit, settings.threshold or limit)
        self.remove_after_ack = settings.remove_after_ack

    def payload(self, body: bytes) -> LargePayload:
        """A body, with a name of its own in the bucket."""
        return LargePayload(Pointer(self._bucket, str(uuid.uuid4())), body)

    async def store(self, payloads: Sequence[object], results: Sequence[Result | None]) -> Sequence[Result | None]:
        """Put the bodies of the entries without a result into S3; still None for each that can be sent now."""
        return await asyncio.gather(*map(self._store, payloads, results))

    async def _store(self, payload: object, result: Result | None) -> Result | None:
        if result is not None or not isinstance(payload, LargeEntry) or payload.payload.stored:
            return result
        large = payload.payload
        try:
            await self._aws.objects.put(*large.pointer, large.content)
        except BackendError as error:
            return Result(Outcome.REJECTED if error.permanent else Outcome.RELEASED, error)
        large.stored = True
        return None

    def pointer(self, text: str | bytes, attributes: Mapping[str, object]) -> Pointer | None:
        """The pointer that a received body is, if it is one to a bucket that may be read.

        Anybody who may send to the queue can write a pointer, so that other buckets are not read.
        """
        if PAYLOAD_SIZE not in attributes and LEGACY_PAYLOAD_SIZE not in attributes:
            return None
        pointer = parse_pointer(text)
        return pointer if pointer is not None and pointer.bucket in self._readable else None

    async def fetch(self, pointer: Pointer) -> bytes:
        """What is in S3. Raises `BackendError`."""
        return await self._aws.objects.get(*pointer, MAX_PAYLOAD)

    async def remove(self, pointers: Sequence[Pointer]) -> None:
        """Remove bodies whose messages have ended; what fails is told in the log, and stays in the bucket."""
        await asyncio.gather(*map(self._remove, pointers))

    async def _remove(self, pointer: Pointer) -> None:
        try:
            await self._aws.objects.delete(*pointer)
        except BackendError as error:
            _log.warning("large_payload_not_removed", key=pointer.key, problem=str(error))


async def send_rest(payloads: Sequence[object], results: Sequence[Result | None], send: Send) -> Sequence[Result]:
    """Send the entries that have no result yet, and put all results together."""
    waiting = [fields_of(payload) for payload, result in zip(payloads, results, strict=True) if result is None]
    sent = iter(await send(waiting) if waiting else ())
    return [next(sent) if result is None else result for result in results]


def fields_of(payload: object) -> bytes:
    """What is sent of an entry."""
    return payload.fields if isinstance(payload, LargeEntry) else cast("bytes", payload)


def parse_pointer(text: str | bytes) -> Pointer | None:
    """Read the pointer of any of the extended clients; None for another text."""
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    match parsed:
        case [str(name), {"s3BucketName": str(bucket), "s3Key": str(key)}] if name in _POINTER_CLASSES and key:
            return Pointer(bucket, key)
    return None
