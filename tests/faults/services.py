"""The services that messages go to, each with what can go wrong in it: one table for all tests of faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from tests.conftest import sqs_client
from tests.rig.counting import SqsClient, depth
from tests.rig.fault_endpoint import FaultEndpoint, Stored
from tests.rig.faults import (
    BAD_GATEWAY,
    INTERNAL_FAILURE,
    REQUEST_THROTTLED,
    SERVICE_UNAVAILABLE,
    THROTTLING,
    CutAnswer,
    EntryFailures,
    Fault,
    MissingEntries,
    Reset,
    Slow,
)
from tests.rig.query_faults import SNS_INTERNAL, SNS_THROTTLED, PublishFailures, StorageFault, published
from tests.rig.record_faults import ARCHIVE_THROTTLED, STREAM_THROTTLED, RecordFailures, ShardFailures, put_records
from tests.rig.streams import Client, aws_client, bodies_by_key, delivered_objects, make_delivery_stream
from tests.rig.topics import new_topic, subscribed_queue

BUCKET: Final = "mqlift-faults-services"
LARGE: Final = 5_000
"""Bytes of a body that goes to S3."""
LARGE_PAYLOADS: Final = {"bucket": BUCKET, "threshold": LARGE // 2}
SHARDS: Final = 4

ROUTES: list[object] = [
    {"match": {"topic": "queue/{name}/#"}, "to": [{"queue": "{name}"}]},
    {"match": {"topic": "queue.fifo/{name}/{device}"}, "to": [{"sqs": "{name}.fifo", "group_id": "{device}"}]},
    {"match": {"topic": "topic/{name}/#"}, "to": [{"sns": "{name}"}]},
    {"match": {"topic": "topic.fifo/{name}/{device}"}, "to": [{"sns": "{name}.fifo", "group_id": "{device}"}]},
    {"match": {"topic": "stream/{name}/{device}"}, "to": [{"kinesis": "{name}", "partition_key": "{device}"}]},
    {
        "match": {"topic": "aggregate/{name}/{device}"},
        "to": [{"kinesis": "{name}", "partition_key": "{device}", "aggregate": True}],
    },
    {"match": {"topic": "archive/{name}/#"}, "to": [{"firehose": "{name}"}]},
    {
        "match": {"topic": "several/{name}/{device}"},
        "to": [
            {"queue": "{name}"},
            {"sns": "{name}-topic"},
            {"kinesis": "{name}", "partition_key": "{device}"},
            {"firehose": "{name}", "best_effort": True},
        ],
    },
]

LOST_ANSWERS: Final = "lost answers"
NETWORK: Final[Sequence[Fault]] = (
    Reset(),
    Reset(applied=True),
    CutAnswer(),
    Slow(0.2, before=True),
)

HARMLESS: Final = frozenset({"entries fail", "throttles", "server errors", "one shard fails"})
"""Kinds of faults that leave no trace in the service."""


class Failures(Protocol):
    """Some entries of a batch fail, in a service's own words."""

    def __call__(self, positions: Sequence[int], *, applied: bool = False) -> Fault: ...


class Account:
    """The emulator's services, past gateway and faults."""

    def __init__(self, url: str) -> None:
        self.sqs: SqsClient = sqs_client(url)
        self.sns: Client = aws_client("sns", url)
        self.kinesis: Client = aws_client("kinesis", url)
        self.firehose: Client = aws_client("firehose", url)
        self.s3: Client = aws_client("s3", url)
        self.s3.create_bucket(Bucket=BUCKET)

    def close(self) -> None:
        for client in (self.sqs, self.sns, self.kinesis, self.firehose, self.s3):
            client.close()

    def taken_from(self, queue: str) -> list[str]:
        """Everything in a queue, in the order that it comes out; it is empty then."""
        url = self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        bodies: list[str] = []
        while depth(self.sqs, url) != (0, 0):
            for message in self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", ()):
                bodies.append(self.body(message["Body"]))
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return bodies

    def body(self, text: str) -> str:
        """A body, or what it points to."""
        if not text.startswith('["software.amazon.payloadoffloading.'):
            return text
        pointer = json.loads(text)[1]
        content = self.s3.get_object(Bucket=pointer["s3BucketName"], Key=pointer["s3Key"])["Body"].read()
        return str(content.decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One row: what is published to `topic`/NAME/DEVICE ends in `found(account, NAME)`."""

    topic: str
    actions: Sequence[str]
    faults: Mapping[str, Sequence[Fault]]
    make: Callable[[Account, str], object]
    found: Callable[[Account, str], list[str]]
    stored: Callable[[FaultEndpoint, str], list[Stored]]
    ordered: bool = False
    """Whether what has one key stays in order."""
    deduplicated: bool = False
    """Whether a retry of what was stored is stored once."""
    size: int = 0
    """Bytes of a body at least."""
    chance: float = 0.6
    """Of a call to meet a fault: less where each message is a call of its own."""


def _faults(entries: Failures, throttles: Sequence[Fault], errors: Sequence[Fault]) -> dict[str, Sequence[Fault]]:
    return {
        "entries fail": (
            *(entries((position,)) for position in range(10)),
            *(entries(range(size)) for size in range(2, 11)),
            *(entries(range(first, 500, 2)) for first in (0, 1)),
        ),
        "entries fail and are done": (*(entries(each, applied=True) for each in ((0, 3, 7), (1, 2), (4, 5, 9))),),
        "throttles": throttles,
        "server errors": errors,
        LOST_ANSWERS: NETWORK,
    }


def _sqs_entries(positions: Sequence[int], *, applied: bool = False) -> Fault:
    return EntryFailures(tuple(positions), applied=applied)


def _sns_entries(positions: Sequence[int], *, applied: bool = False) -> Fault:
    return PublishFailures(tuple(positions), applied=applied)


def _records(positions: Sequence[int], *, applied: bool = False) -> Fault:
    return RecordFailures(tuple(positions), "InternalFailure", applied)


def _stored_in(suffix: str = "") -> Callable[[FaultEndpoint, str], list[Stored]]:
    return lambda endpoint, name: endpoint.stored(name + suffix)


def _published_to(suffix: str = "") -> Callable[[FaultEndpoint, str], list[Stored]]:
    return lambda endpoint, name: published(endpoint, name + suffix)


def _make_queue(account: Account, name: str, **attributes: str) -> None:
    account.sqs.create_queue(QueueName=name, Attributes=attributes)


def _make_fifo_queue(account: Account, name: str) -> None:
    _make_queue(account, f"{name}.fifo", FifoQueue="true", DeduplicationScope="messageGroup")


def _make_topic(account: Account, name: str) -> None:
    subscribed_queue(account.sns, account.sqs, new_topic(account.sns, name), name)


def _stream_records(account: Account, name: str) -> list[str]:
    return [body for bodies in bodies_by_key(account.kinesis, name).values() for body in bodies]


SQS_FAULTS: Final = _faults(
    _sqs_entries,
    (REQUEST_THROTTLED, THROTTLING, EntryFailures(range(10), "RequestThrottled")),
    (INTERNAL_FAILURE, SERVICE_UNAVAILABLE, BAD_GATEWAY),
)
SNS_FAULTS: Final = _faults(
    _sns_entries, (SNS_THROTTLED, PublishFailures(range(10), "Throttled")), (SNS_INTERNAL, BAD_GATEWAY)
)
STREAM_FAULTS: Final = _faults(
    _records, (STREAM_THROTTLED, RecordFailures(range(500))), (INTERNAL_FAILURE, SERVICE_UNAVAILABLE, BAD_GATEWAY)
) | {"one shard fails": (ShardFailures(1, SHARDS), ShardFailures(1, SHARDS, "InternalFailure"))}
ARCHIVE_FAULTS: Final = _faults(
    _records,
    (ARCHIVE_THROTTLED, RecordFailures(range(500), "ServiceUnavailableException")),
    (INTERNAL_FAILURE, BAD_GATEWAY),
)
STORAGE_FAULTS: Final[Mapping[str, Sequence[Fault]]] = {
    "throttles": (SERVICE_UNAVAILABLE,),
    "server errors": (BAD_GATEWAY,),
    LOST_ANSWERS: NETWORK,
}


def _both(faults: Mapping[str, Sequence[Fault]]) -> dict[str, Sequence[Fault]]:
    """What S3 does wrong before the service does."""
    stored = {kind: [StorageFault(each, BUCKET, "PUT") for each in plan] for kind, plan in STORAGE_FAULTS.items()}
    return {**faults, **stored}


QUEUE: Final = Service(
    topic="queue",
    actions=["SendMessageBatch"],
    faults=SQS_FAULTS | {"entries are left out": (MissingEntries((0, 2, 5)),)},
    make=_make_queue,
    found=Account.taken_from,
    stored=_stored_in(),
)
TOPIC: Final = Service(
    topic="topic",
    actions=["PublishBatch"],
    faults=SNS_FAULTS | {"entries are left out": (PublishFailures((0, 2, 5), "", applied=True),)},
    make=_make_topic,
    found=Account.taken_from,
    stored=_published_to(),
)
STREAM: Final = Service(
    topic="stream",
    actions=["PutRecords"],
    faults=STREAM_FAULTS,
    make=lambda account, name: account.kinesis.create_stream(StreamName=name, ShardCount=SHARDS),
    found=_stream_records,
    stored=put_records,
    ordered=True,
)
SERVICES: Final[Mapping[str, Service]] = {
    "SQS": QUEUE,
    "SQS FIFO": replace(
        QUEUE,
        topic="queue.fifo",
        make=_make_fifo_queue,
        found=lambda account, name: account.taken_from(f"{name}.fifo"),
        stored=_stored_in(".fifo"),
        ordered=True,
        deduplicated=True,
    ),
    "SQS and S3": replace(QUEUE, actions=["", "SendMessageBatch"], faults=_both(SQS_FAULTS), size=LARGE, chance=0.2),
    "SNS": TOPIC,
    "SNS FIFO": replace(
        TOPIC,
        topic="topic.fifo",
        make=lambda account, name: _make_topic(account, f"{name}.fifo"),
        found=lambda account, name: account.taken_from(f"{name}.fifo"),
        stored=_published_to(".fifo"),
        ordered=True,
        deduplicated=True,
    ),
    "SNS and S3": replace(TOPIC, actions=["", "PublishBatch"], faults=_both(SNS_FAULTS), size=LARGE, chance=0.2),
    "Kinesis": STREAM,
    "Kinesis aggregated": replace(STREAM, topic="aggregate"),
    "Firehose": Service(
        topic="archive",
        actions=["PutRecordBatch"],
        faults=ARCHIVE_FAULTS,
        make=lambda account, name: make_delivery_stream(account.firehose, account.s3, name),
        found=lambda account, name: [body.decode() for body in delivered_objects(account.s3, name)],
        stored=put_records,
    ),
}
