"""Faults of services that report on records by their place in the batch: Kinesis and Firehose."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from http import HTTPStatus

from adapters.kinesis.aggregation import deaggregate
from tests.rig.fault_endpoint import FaultEndpoint, Stored
from tests.rig.faults import Answer, Call, Connection, Document, ErrorAnswer, Forward

JSON_CONTENT = "application/x-amz-json-1.1"
THROTTLED = "ProvisionedThroughputExceededException"
ALL_HASHES = 2**128

RESULTS = {"PutRecords": "Records", "PutRecordBatch": "RequestResponses"}
"""By action, the member of the answer that has a result for each record."""

STREAM_THROTTLED = ErrorAnswer(400, THROTTLED, "Rate exceeded for stream")
ARCHIVE_THROTTLED = ErrorAnswer(503, "ServiceUnavailableException", "Slow down.")


@dataclass(frozen=True, slots=True)
class RecordFailures:
    """Some records of a batch fail, the others are forwarded.

    `positions` count from 0; those beyond the batch mean nothing. With `applied`, the failing records are forwarded
    too: the service did the work and says that it failed.
    """

    positions: Collection[int]
    code: str = THROTTLED
    applied: bool = False

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        records = call.document.get("Records", [])
        failing = {position for position in self.positions if position < len(records)}
        return await _serve(call, forward, failing, self.code, self.applied)


@dataclass(frozen=True, slots=True)
class ShardFailures:
    """One of `shards` equal shards fails all that is sent to it; the others work."""

    shard: int
    shards: int
    code: str = THROTTLED

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        records = call.document.get("Records", [])
        failing = {position for position, record in enumerate(records) if self._shard_of(record) == self.shard}
        return await _serve(call, forward, failing, self.code, applied=False)

    def _shard_of(self, record: Document) -> int:
        key = hashlib.md5(record["PartitionKey"].encode()).digest()
        return int.from_bytes(key, "big") * self.shards // ALL_HASHES


async def _serve(call: Call, forward: Forward, failing: Collection[int], code: str, applied: bool) -> Answer:
    document = call.document
    records = document["Records"]
    member = RESULTS[call.action]
    passing = [record for position, record in enumerate(records) if applied or position not in failing]
    stored: list[Document] = []
    if passing:
        upstream = await forward(replace(call, body=json.dumps(document | {"Records": passing}).encode()))
        if not upstream.ok:
            return upstream
        stored = upstream.document[member]
    results = [{"ErrorCode": code, "ErrorMessage": "injected"}] * len(records)
    forwarded = (position for position in range(len(records)) if applied or position not in failing)
    for position, result in zip(forwarded, stored, strict=True):
        if position not in failing:
            results[position] = result
    answer = {member: results, "FailedRecordCount": len(failing), "FailedPutCount": len(failing)}
    return Answer(HTTPStatus.OK, json.dumps(answer).encode(), {"Content-Type": JSON_CONTENT})


def put_records(endpoint: FaultEndpoint, resource: str) -> list[Stored]:
    """Every message that the emulator has put there through the endpoint, whatever the gateway was told."""
    return [
        Stored(resource, record.data.decode(), at)
        for exchange in endpoint.calls(*RESULTS)
        for call, answer, at in exchange.forwarded
        if answer.ok and resource in (call.document.get("StreamName"), call.document.get("DeliveryStreamName"))
        for sent, result in zip(call.document["Records"], answer.document[RESULTS[call.action]], strict=True)
        if not result.get("ErrorCode")
        for record in deaggregate(sent.get("PartitionKey", ""), base64.b64decode(sent["Data"]))
    ]
