"""The adapters of services over clients that answer what a test decides, record by record."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from adapters.firehose.backend import FirehoseBackend
from adapters.firehose.settings import parse_target as parse_archive
from adapters.kinesis.aggregation import deaggregate
from adapters.kinesis.backend import KinesisBackend
from adapters.kinesis.settings import parse_target as parse_stream
from adapters.sns.backend import SnsBackend
from adapters.sns.settings import parse_target as parse_topic
from adapters.sqs.backend import SqsBackend
from adapters.sqs.settings import parse_target as parse_queue
from gateway.core.backend import Backend, Target
from gateway.core.message import Address, Message
from tests.adapters.sns.scripted_sns import ScriptedSns
from tests.adapters.sns.scripted_sns import entries as form_entries
from tests.adapters.sqs.scripted_aws import ScriptedAws as ScriptedSqs
from tests.rig.scripted_aws import ScriptedAws

Json: TypeAlias = "dict[str, Any]"


class Unit(NamedTuple):
    """One message as a service gets it."""

    key: str
    body: str


class Record(NamedTuple):
    """What a service stores whole or not at all. `form` is all that was sent of it, but for its place in the batch."""

    units: Sequence[Unit]
    form: str


Decide: TypeAlias = Callable[[Sequence[Record]], Sequence[str]]
"""The code that each record fails with, empty for what is stored. May raise instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedService:
    """How a service is opened, and what it says. `size`: records of a batch at most."""

    open: Callable[[Decide], tuple[Backend, Target]]
    size: int
    retriable: Sequence[str]
    permanent: str
    ordered: bool = False
    """Whether what has one key stays in order."""


def message(key: str, number: int) -> Message:
    return Message(Address("amq.topic", key), f"{key} {number}".encode(), headers={"JMSXGroupID": key})


def _open_sqs(name: str) -> Callable[[Decide], tuple[Backend, Target]]:
    def open_service(decide: Decide) -> tuple[Backend, Target]:
        def answer(request: Json) -> object:
            entries = request["Entries"]
            units = [Unit(each.get("MessageGroupId", ""), each["MessageBody"]) for each in entries]
            return _named_results(entries, decide(_records(entries, units)))

        aws = ScriptedSqs()
        aws.answers["SendMessageBatch"] = answer
        return SqsBackend(aws), parse_queue(name, {}, frozenset())

    return open_service


def _open_sns(name: str) -> Callable[[Decide], tuple[Backend, Target]]:
    def open_service(decide: Decide) -> tuple[Backend, Target]:
        def answer(request: dict[str, str]) -> object:
            entries = form_entries(request)
            units = [Unit(each.get("MessageGroupId", ""), each["Message"]) for each in entries]
            return _named_results(entries, decide(_records(entries, units)))

        aws = ScriptedSns()
        aws.answers["PublishBatch"] = answer
        return SnsBackend(aws), parse_topic(name, {}, frozenset())

    return open_service


def _records(entries: Sequence[Json], units: Sequence[Unit]) -> list[Record]:
    return [Record([unit], str(entry | {"Id": ""})) for entry, unit in zip(entries, units, strict=True)]


def _named_results(entries: Sequence[Json], codes: Sequence[str]) -> Json:
    return {
        "Successful": [{"Id": each["Id"]} for each, code in zip(entries, codes, strict=True) if not code],
        "Failed": [{"Id": each["Id"], "Code": code} for each, code in zip(entries, codes, strict=True) if code],
    }


def _open_kinesis(options: Mapping[str, object]) -> Callable[[Decide], tuple[Backend, Target]]:
    def open_service(decide: Decide) -> tuple[Backend, Target]:
        aws = ScriptedAws("kinesis")
        aws.answers["PutRecords"] = _by_place(decide, "Records", "SequenceNumber")
        return KinesisBackend(aws), parse_stream("s", options, frozenset())

    return open_service


def _open_firehose(decide: Decide) -> tuple[Backend, Target]:
    aws = ScriptedAws("firehose")
    aws.answers["PutRecordBatch"] = _by_place(decide, "RequestResponses", "RecordId")
    return FirehoseBackend(aws), parse_archive("s", {}, frozenset())


def _by_place(decide: Decide, member: str, identity: str) -> Callable[[Json], object]:
    def answer(request: Json) -> object:
        codes = decide([Record(_units(each), str(each)) for each in request["Records"]])
        return {member: [{"ErrorCode": code} if code else {identity: "1"} for code in codes]}

    return answer


def _units(record: Json) -> list[Unit]:
    parts = deaggregate(record.get("PartitionKey", ""), base64.b64decode(record["Data"]))
    return [Unit(part.partition_key, part.data.decode()) for part in parts]


_SQS: Final = ScriptedService(
    open=_open_sqs("orders"),
    size=10,
    retriable=("InternalError", "RequestThrottled", "ServiceUnavailable"),
    permanent="InvalidMessageContents",
)
_SNS: Final = ScriptedService(
    open=_open_sns("events"), size=10, retriable=("InternalError", "Throttled"), permanent="InvalidParameter"
)
_KINESIS: Final = ScriptedService(
    open=_open_kinesis({}),
    size=500,
    retriable=("ProvisionedThroughputExceededException", "InternalFailure", "ServiceUnavailableException"),
    permanent="InvalidArgumentException",
    ordered=True,
)
SERVICES: Final[Mapping[str, ScriptedService]] = {
    "SQS": _SQS,
    "SQS FIFO": ScriptedService(
        open=_open_sqs("orders.fifo"), size=10, retriable=_SQS.retriable, permanent=_SQS.permanent, ordered=True
    ),
    "SNS": _SNS,
    "SNS FIFO": ScriptedService(
        open=_open_sns("events.fifo"), size=10, retriable=_SNS.retriable, permanent=_SNS.permanent, ordered=True
    ),
    "Kinesis": _KINESIS,
    "Kinesis aggregated": ScriptedService(
        open=_open_kinesis({"aggregate": True}),
        size=500,
        retriable=_KINESIS.retriable,
        permanent=_KINESIS.permanent,
        ordered=True,
    ),
    "Firehose": ScriptedService(
        open=_open_firehose, size=500, retriable=_KINESIS.retriable, permanent="InvalidArgumentException"
    ),
}
