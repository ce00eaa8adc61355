"""The Kinesis backend: one attempt of each of the hub's requests, over a signed client. Streams are written to only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from adapters.aws.api import AwsClient
from adapters.aws.delays import refuse_delay
from adapters.aws.errors import classify, code_of
from adapters.aws.records import record_results
from adapters.aws.sendonly import SendOnly
from adapters.kinesis.encoding import AggregatedEntry, encode
from adapters.kinesis.settings import DEFAULT_OPTIONS, RECORD_BYTES, KinesisOptions
from adapters.kinesis.streams import Provision, StreamDirectory
from gateway.core.backend import Entry, Limits, QueueSpec, Target
from gateway.core.errors import NotFound, Unavailable
from gateway.core.message import Message
from gateway.core.outcome import Result

# "Each PutRecords request can support up to 500 records. Each record in the request can be as large as 10 MiB, up to a
# limit of 10 MiB for the entire request, including partition keys."
# (https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html)
BATCH_ENTRIES: Final = 500
BATCH_BYTES: Final = 10_485_760


def open_backend(aws: AwsClient, *, prefix: str, provision: Provision) -> KinesisBackend:  # noqa: ARG001
    """How this folder offers itself. Only rules name streams, so there is nothing for a prefix."""
    return KinesisBackend(aws, provision=provision)


class KinesisBackend(SendOnly):
    """Implements `gateway.core.backend.Backend`. The client is shared, and closed by who opened it.

    Entries of one partition key have that key, so the hub sends one at a time: `PutRecords` keeps no order among the
    records of a request, and each may fail alone.
    """

    service = "kinesis stream"
    limits = Limits(batch_entries=BATCH_ENTRIES, batch_bytes=BATCH_BYTES, entry_bytes=RECORD_BYTES, receive_entries=0)
    """`entry_bytes` without the option `max_record_bytes`."""

    def __init__(self, aws: AwsClient, *, provision: Provision = "auto") -> None:
        self._aws = aws
        self._streams = StreamDirectory(aws, provision)

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
            if code_of(error).upper().startswith("KMS"):
                raise  # the stream is there, its encryption key is not
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

    async def aclose(self) -> None:
        """Nothing here is open but the client, which others share."""


def _record(entry: Entry) -> bytes:
    return entry.record() if isinstance(entry, AggregatedEntry) else cast("bytes", entry.payload)
