"""What can go wrong with SNS and S3, which speak other protocols than SQS."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode

from tests.rig.fault_endpoint import FaultEndpoint, Stored
from tests.rig.faults import Answer, Call, Connection, Fault, Forward

XML = {"Content-Type": "text/xml"}


@dataclass(frozen=True, slots=True)
class QueryError:
    """The service answers with an error; the request had no effect."""

    status: int
    code: str

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        body = (
            '<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
            f"<Code>{self.code}</Code><Message>injected</Message></Error><RequestId>r</RequestId></ErrorResponse>"
        )
        return Answer(self.status, body.encode(), XML)


SNS_THROTTLED = QueryError(400, "Throttling")
SNS_INTERNAL = QueryError(500, "InternalError")


@dataclass(frozen=True, slots=True)
class PublishFailures:
    """Some entries of a `PublishBatch` fail, the others are forwarded. Other calls pass untouched.

    `positions` count from 0; those beyond the batch mean nothing. With `applied`, the failing entries are forwarded
    too: the service did the work and says that it failed. Without a `code`, nothing is said of them.
    """

    positions: Collection[int]
    code: str = "InternalError"
    applied: bool = False

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        if call.action != "PublishBatch":
            return await forward(call)
        fields, entries = batch_of(call)
        passing = [entry for position, entry in enumerate(entries) if position not in self.positions]
        failing = [entry["Id"] for position, entry in enumerate(entries) if position in self.positions and self.code]
        forwarded = entries if self.applied else passing
        if forwarded:
            upstream = await forward(replace(call, body=_form(fields, forwarded)))
            if not upstream.ok:
                return upstream
        done = "".join(f"<member><Id>{entry['Id']}</Id><MessageId>m</MessageId></member>" for entry in passing)
        failed = "".join(
            f"<member><Id>{each}</Id><Code>{self.code}</Code><Message>injected</Message></member>" for each in failing
        )
        result = f"<Successful>{done}</Successful><Failed>{failed}</Failed>"
        body = f"<PublishBatchResponse><PublishBatchResult>{result}</PublishBatchResult></PublishBatchResponse>"
        return Answer(HTTPStatus.OK, body.encode(), XML)


def published(endpoint: FaultEndpoint, topic: str) -> list[Stored]:
    """Every message that a topic has taken through the endpoint, whatever the gateway was told."""
    return [
        Stored(topic, entry["Message"], at)
        for exchange in endpoint.calls("PublishBatch")
        for call, answer, at in exchange.forwarded
        if answer.ok and batch_of(call)[0]["TopicArn"].endswith(f":{topic}")
        for entry in batch_of(call)[1]
    ]


@dataclass(frozen=True, slots=True)
class StorageFault:
    """A fault that only requests with this method to one bucket of S3 meet; all others pass."""

    fault: Fault
    bucket: str
    method: str

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer | None:
        if call.method == self.method and call.path.startswith(f"/{self.bucket}/"):
            return await self.fault.serve(call, forward, connection)
        return await forward(call)


def batch_of(call: Call) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The fields of a `PublishBatch` outside of its entries, and those of each entry."""
    fields: dict[str, str] = {}
    entries: dict[int, dict[str, str]] = {}
    for path, value in parse_qsl(call.body.decode(), keep_blank_values=True):
        head, _, rest = path.partition(".member.")
        if rest:
            number, _, name = rest.partition(".")
            entries.setdefault(int(number), {})[name] = value
        else:
            fields[head] = value
    return fields, [entry for _, entry in sorted(entries.items())]


def _form(fields: dict[str, str], entries: list[dict[str, str]]) -> bytes:
    numbered = {
        f"PublishBatchRequestEntries.member.{number}.{name}": value
        for number, entry in enumerate(entries, 1)
        for name, value in entry.items()
    }
    return urlencode(fields | numbered).encode()
