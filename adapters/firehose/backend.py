"""The Firehose backend: one attempt of each of the hub's requests, over a signed client. Written to only."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Final, cast

import orjson

from adapters.aws.api import AwsClient
from adapters.aws.delays import refuse_delay
from adapters.aws.errors import classify, code_of
from adapters.aws.records import record_results
from adapters.aws.sendonly import SendOnly
from adapters.firehose.settings import DEFAULT_OPTIONS, NAME, FirehoseOptions
from gateway.core.backend import Entry, Limits, Provision, QueueSpec, Target
from gateway.core.errors import BackendError, Invalid, NotFound, Throttled, TooLarge, Unavailable
from gateway.core.message import Message
from gateway.core.outcome import Result
from gateway.core.transform import transformed_body

# "Each PutRecordBatch request supports up to 500 records. Each record in the request can be as large as 1,000 KB
# (before base64 encoding), up to a limit of 4 MB for the entire request."
# (https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html; the model says 1,024,000)
BATCH_ENTRIES: Final = 500
BATCH_BYTES: Final = 4 * 1024 * 1024
RECORD_BYTES: Final = 1_024_000

# How Firehose says that its quota of records, requests or bytes a second is passed: with "Slow down." as its text.
_THROTTLE: Final = "ServiceUnavailableException"


def open_backend(aws: AwsClient, *, prefix: str, provision: Provision) -> FirehoseBackend:  # noqa: ARG001
    """How this folder offers itself. Delivery streams are never created here: each needs a role and a destination."""
    return FirehoseBackend(aws)


class FirehoseBackend(SendOnly):
    """Implements `gateway.core.backend.Backend`. The client is shared, and closed by who opened it."""

    service = "firehose delivery stream"
    limits = Limits(batch_entries=BATCH_ENTRIES, batch_bytes=BATCH_BYTES, entry_bytes=RECORD_BYTES, receive_entries=0)

    def __init__(self, aws: AwsClient) -> None:
        self._aws = aws

    def encode(self, target: Target, message: Message) -> Entry:
        options = target.options if isinstance(target.options, FirehoseOptions) else DEFAULT_OPTIONS
        refuse_delay(message, self.service, target.name)
        try:
            data = transformed_body(target.transform, message, options.delimiter.encode())
        except ValueError as error:
            raise Invalid(str(error), resource=_resource(target)) from None
        if len(data) > RECORD_BYTES:
            problem = f"the message has {len(data)} bytes as it is sent; Firehose takes {RECORD_BYTES}"
            raise TooLarge(problem, resource=_resource(target))
        return Entry(b'{"Data":"%b"}' % b2a_base64(data, newline=False), len(data))

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        _check_name(target)
        records = b",".join(cast("list[bytes]", [entry.payload for entry in entries]))
        body = b'{"DeliveryStreamName":%b,"Records":[%b]}' % (orjson.dumps(target.name), records)
        answer = await self._call(target, "PutRecordBatch", body)

        def refuse(code: str, text: str) -> BackendError:
            return _as_throttle(classify("firehose", "PutRecordBatch", code, text, _resource(target)))

        return record_results(answer, "RequestResponses", "RecordId", len(entries), refuse)

    async def ensure(self, target: Target, spec: QueueSpec) -> None:  # noqa: ARG002 - it is what it is
        await self.probe(target)

    async def probe(self, target: Target) -> None:
        _check_name(target)
        request = {"DeliveryStreamName": target.name}
        answer = await self._call(target, "DescribeDeliveryStream", orjson.dumps(request))
        status = _status(answer)
        if status != "ACTIVE":
            action = "firehose:DescribeDeliveryStream"
            problem = f"the delivery stream is {status.lower().replace('_', ' ')}"
            error = Unavailable if status == "CREATING" else BackendError
            raise error(problem, resource=_resource(target), action=action)

    async def _call(self, target: Target, action: str, body: bytes) -> bytes:
        try:
            return await self._aws.call("firehose", action, body, resource=_resource(target))
        except NotFound as error:
            problem = f"the delivery stream does not exist in {self._aws.region}; create it, mqlift never does"
            raise NotFound(problem, resource=_resource(target), action=error.action) from None
        except Unavailable as error:
            raise _as_throttle(error) from None

    async def aclose(self) -> None:
        """Nothing here is open but the client, which others share."""


def _as_throttle(error: BackendError) -> BackendError:
    if code_of(error) != _THROTTLE:
        return error
    return Throttled(error.problem, resource=error.resource, action=error.action)


def _check_name(target: Target) -> None:
    """What a client's name was captured into may be too long."""
    if not NAME.fullmatch(target.name):
        problem = "not the name of a delivery stream: A-Z a-z 0-9 _ . - and 64 characters at most"
        raise Invalid(problem, resource=_resource(target))


def _resource(target: Target) -> str:
    return f"firehose delivery stream {target.name}"


def _status(answer: bytes) -> str:
    try:
        description: Mapping[str, object] = orjson.loads(answer)["DeliveryStreamDescription"]
        return str(description["DeliveryStreamStatus"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"an answer that is not Firehose's: {type(error).__name__} {error}") from None
