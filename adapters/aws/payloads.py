"""Bodies that are too large for a queue or a topic: they go to S3, and a pointer to them is sent in their place.

The format is that of the Amazon SQS and SNS extended client libraries for Java and Python: the body is
`["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":…,"s3Key":…}]`, and the attribute
`ExtendedPayloadSize` has the size of what is in S3. The object holds the text that would have been the body.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Final, NamedTuple, TypeAlias, cast

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field

from adapters.aws.api import AwsClient, Changed, ObjectStore, Version
from adapters.aws.content import Content, payload_bytes
from adapters.aws.wire import BASE64, LEGACY_PAYLOAD_SIZE, PAYLOAD_SIZE, Attribute
from gateway.core.budget import AwaitedShare
from gateway.core.errors import BackendError, TooLarge, Unavailable
from gateway.core.outcome import Result, failed

MAX_PAYLOAD: Final = 128 * 1024 * 1024
"""Bytes of a body, as large as RabbitMQ 3 takes by default (`max_message_size`)."""

POINTER_CLASS: Final = "software.amazon.payloadoffloading.PayloadS3Pointer"
LEGACY_POINTER_CLASS: Final = "com.amazon.sqs.javamessaging.MessageS3Pointer"
_POINTER_CLASSES: Final = frozenset({POINTER_CLASS, LEGACY_POINTER_CLASS})

_PADDING: Final = 2
"""Bytes that base64 may announce and not have."""

VERSIONS: Final = 3
"""Times that an object is begun to be read which is written again meanwhile."""

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

    __slots__ = ("content", "pointer", "stored")

    def __init__(self, pointer: Pointer, body: bytes) -> None:
        self.pointer = pointer
        self.content = Content(body)
        self.stored = False

    @property
    def encoding(self) -> str:
        """The value of `mqlift.encoding`."""
        return self.content.encoding

    @property
    def size_attribute(self) -> Attribute:
        return Attribute(PAYLOAD_SIZE, "Number", str(self.content.size))


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

    async def store(
        self, payloads: Sequence[object], results: Sequence[Result | None], deadline: float
    ) -> Sequence[Result | None]:
        """Put the bodies of the entries without a result into S3; still None for each that can be sent now.

        `deadline`: until when parts that fail are sent again, on the event loop's clock.
        """
        return await asyncio.gather(
            *(self._store(payload, result, deadline) for payload, result in zip(payloads, results, strict=True))
        )

    async def _store(self, payload: object, result: Result | None, deadline: float) -> Result | None:
        if result is not None or not isinstance(payload, LargeEntry) or payload.payload.stored:
            return result
        large = payload.payload
        try:
            await self._aws.objects.put(*large.pointer, large.content, deadline)
        except BackendError as error:
            return failed(error)
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

    def body(self, pointer: Pointer, encoding: str, *, ordered: bool) -> OffloadedBody:
        """A body that can be fetched. `encoding`: the value of `mqlift.encoding`; `ordered` as `LargeBody.ordered`."""
        return OffloadedBody(self._aws.objects, pointer, encoding, ordered=ordered)

    async def remove(self, pointers: Sequence[Pointer]) -> None:
        """Remove bodies whose messages have ended; what fails is told in the log, and stays in the bucket."""
        await asyncio.gather(*map(self._remove, pointers))

    async def _remove(self, pointer: Pointer) -> None:
        try:
            await self._aws.objects.delete(*pointer)
        except BackendError as error:
            _log.warning("large_payload_not_removed", key=pointer.key, problem=str(error))


class OffloadedBody:
    """A body in S3. Implements `gateway.core.backend.LargeBody`."""

    __slots__ = ("_base64", "_objects", "_pointer", "_share", "ordered")

    def __init__(self, objects: ObjectStore, pointer: Pointer, encoding: str, *, ordered: bool) -> None:
        self._objects = objects
        self._pointer = pointer
        self._base64 = encoding == BASE64
        self._share = AwaitedShare(objects.budget)
        self.ordered = ordered

    async def fetch(self) -> bytes:
        """As `LargeBody.fetch`."""
        try:
            return await self._fetch_one_version()
        except BaseException as error:
            self._share.drop()
            if isinstance(error, BackendError):
                _log.warning("large_payload_not_fetched", key=self._pointer.key, problem=str(error))
            raise

    async def _fetch_one_version(self) -> bytes:
        bucket, key = self._pointer
        for _ in range(VERSIONS):
            with suppress(Changed):
                return await self._fetch()
        raise Unavailable(f"the object {key} is written again and again", resource=f"s3 bucket {bucket}")

    async def _fetch(self) -> bytes:
        version = await self._objects.look(*self._pointer)
        if self._base64:
            try:
                return await self._get(version, base64=True)
            except ValueError:
                # As a body in SQS that is not what its attribute says: it is delivered as it is.
                _log.warning("large_payload_not_base64", key=self._pointer.key)
        return await self._get(version, base64=False)

    async def _get(self, version: Version, *, base64: bool) -> bytes:
        size, limit = payload_bytes(version.size, base64=base64), min(MAX_PAYLOAD, self._objects.budget.size)
        bucket, key = self._pointer
        if size - (_PADDING if base64 else 0) > limit:
            raise TooLarge(f"the object {key} has {size} bytes, more than {limit}", resource=f"s3 bucket {bucket}")
        self._share.drop()  # not to wait for more with something in hand
        await self._share.take(min(size, limit))
        return await self._objects.get(bucket, key, version, base64=base64)

    def forget(self) -> None:
        """As `LargeBody.forget`."""
        self._share.drop()


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
