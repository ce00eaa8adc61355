"""What can go wrong between the gateway and AWS, each as a value that a test hands to `FaultEndpoint`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias

JSON_CONTENT = "application/x-amz-json-1.0"
BATCH_ENTRIES = 10
ALL_ENTRIES = range(BATCH_ENTRIES)

Document: TypeAlias = dict[str, Any]  # what JSON is: AWS's own shapes, which tests look into


@dataclass(frozen=True, slots=True)
class Call:
    """One request to AWS. `action` is the operation's name (`SendMessageBatch`), empty when it cannot be told."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    action: str

    @property
    def document(self) -> Document:
        """The request's JSON; empty for the protocols that use none."""
        return _document(self.body)

    @property
    def queue(self) -> str:
        """The name of the SQS queue that it concerns."""
        document = self.document
        return str(document.get("QueueUrl", document.get("QueueName", ""))).rpartition("/")[2]

    @property
    def entries(self) -> list[Document]:
        """The entries of a batch; a single SQS call counts as one entry."""
        document = self.document
        return list(document.get("Entries", [document] if document else []))


@dataclass(frozen=True, slots=True)
class Answer:
    """What AWS, or the fault in its place, answers."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def document(self) -> Document:
        return _document(self.body)

    @property
    def ok(self) -> bool:
        return self.status == HTTPStatus.OK


def _document(body: bytes) -> Document:
    if not body.startswith(b"{"):
        return {}
    document: Document = json.loads(body)
    return document


class Connection(Protocol):
    """What a fault may do to the connection that a request came on."""

    async def gone(self) -> None:
        """Wait until the client has closed it."""

    def reset(self) -> None:
        """Cut it, so that the client sees a reset."""

    def write(self, data: bytes) -> None:
        """Send raw bytes."""


Forward: TypeAlias = Callable[[Call], Awaitable[Answer]]


class Fault(Protocol):
    """Serves a request in place of the emulator, with its help or without."""

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer | None:
        """The answer for the client, or None when it gets none."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The service answers with an error; the request had no effect."""

    status: int
    code: str
    message: str = "injected"

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        document = {"__type": f"com.amazonaws.sqs#{self.code}", "message": self.message}
        blame = "Receiver" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "Sender"
        headers = {"Content-Type": JSON_CONTENT, "x-amzn-query-error": f"{self.code};{blame}"}
        return Answer(self.status, json.dumps(document).encode(), headers)


@dataclass(frozen=True, slots=True)
class PlainError:
    """A load balancer answers in place of the service: no JSON, no code."""

    status: int

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        body = f"<html><body>{HTTPStatus(self.status).phrase}</body></html>".encode()
        return Answer(self.status, body, {"Content-Type": "text/html"})


INTERNAL_FAILURE = ErrorAnswer(500, "InternalFailure")
SERVICE_UNAVAILABLE = ErrorAnswer(503, "ServiceUnavailable")
BAD_GATEWAY = PlainError(502)
REQUEST_THROTTLED = ErrorAnswer(400, "RequestThrottled")
THROTTLING = ErrorAnswer(503, "ThrottlingException", "Rate exceeded")
OVER_LIMIT = ErrorAnswer(400, "OverLimit", "Too many messages in flight")
ACCESS_DENIED = ErrorAnswer(
    403,
    "AccessDeniedException",
    "User: arn:aws:iam::000000000000:user/test is not authorized to perform: sqs:sendmessage on resource: "
    "arn:aws:sqs:us-east-1:000000000000:injected because no identity-based policy allows the sqs:sendmessage action",
)
EXPIRED_TOKEN = ErrorAnswer(403, "ExpiredTokenException", "The security token included in the request is expired")
UNKNOWN_CREDENTIALS = ErrorAnswer(
    403, "UnrecognizedClientException", "The security token included in the request is invalid"
)


@dataclass(frozen=True, slots=True)
class EntryFailures:
    """Some entries of a batch fail, the others are forwarded. Calls that are no batch pass untouched.

    `positions` count from 0; those beyond the batch mean nothing. With `applied`, the failing entries are forwarded
    too: the service did the work and says that it failed.
    """

    positions: Collection[int]
    code: str = "InternalError"
    sender_fault: bool = False
    applied: bool = False

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        document = call.document
        if "Entries" not in document:
            return await forward(call)
        entries = document["Entries"]
        failing = [entry for position, entry in enumerate(entries) if position in self.positions]
        passing = [entry for position, entry in enumerate(entries) if position not in self.positions]
        answer: Document = {"Successful": [], "Failed": []}
        forwarded = entries if self.applied else passing
        if forwarded:
            upstream = await forward(replace(call, body=json.dumps(document | {"Entries": forwarded}).encode()))
            if not upstream.ok:
                return upstream
            answer |= upstream.document
        failed_ids = {entry["Id"] for entry in failing}
        answer["Successful"] = [each for each in answer["Successful"] if each["Id"] not in failed_ids]
        answer["Failed"] = [*answer.get("Failed", []), *map(self._failure, failing)]
        return Answer(HTTPStatus.OK, json.dumps(answer).encode(), {"Content-Type": JSON_CONTENT})

    def _failure(self, entry: Document) -> Document:
        return {"Id": entry["Id"], "Code": self.code, "Message": "injected", "SenderFault": self.sender_fault}


@dataclass(frozen=True, slots=True)
class MissingEntries:
    """A batch took effect, and its answer says nothing about some entries."""

    positions: Collection[int]

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        upstream = await forward(call)
        entries = call.document.get("Entries", [])
        hidden = {entry["Id"] for position, entry in enumerate(entries) if position in self.positions}
        document = upstream.document
        for part in ("Successful", "Failed"):
            if part in document:
                document[part] = [each for each in document[part] if each["Id"] not in hidden]
        return replace(upstream, body=json.dumps(document).encode())


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The client waits in vain. With `applied`, the request took effect before."""

    applied: bool = False

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> None:
        if self.applied:
            await forward(call)
        await connection.gone()


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is cut. With `applied`, the request took effect before."""

    applied: bool = False

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> None:
        if self.applied:
            await forward(call)
        connection.reset()


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """The request took effect, and the connection ends in the middle of the answer."""

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> None:
        answer = await forward(call)
        whole = render(answer)
        connection.write(whole[: len(whole) - len(answer.body) // 2 - 1])


@dataclass(frozen=True, slots=True)
class Slow:
    """The answer takes `seconds` longer; the request takes effect at once, or (`before`) after that time."""

    seconds: float
    before: bool = False

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        if self.before:
            await asyncio.sleep(self.seconds)
        answer = await forward(call)
        if not self.before:
            await asyncio.sleep(self.seconds)
        return answer


def render(answer: Answer) -> bytes:
    """The answer as HTTP/1.1."""
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}  # of what a HEAD would have got
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body


TRANSIENT: tuple[Fault, ...] = (
    INTERNAL_FAILURE,
    SERVICE_UNAVAILABLE,
    BAD_GATEWAY,
    REQUEST_THROTTLED,
    THROTTLING,
    EntryFailures(positions=(0, 3, 4, 9)),
    EntryFailures(positions=(1, 2), applied=True),
    MissingEntries(positions=(2, 5)),
    Reset(),
    Reset(applied=True),
    CutAnswer(),
    Slow(0.2),
    Slow(0.2, before=True),
)
"""What a gateway has to survive without losing anything; those that only time ends (`NoAnswer`) are not among them."""

STATE_FAULTS: tuple[Fault, ...] = (
    ErrorAnswer(400, "ProvisionedThroughputExceededException"),
    SERVICE_UNAVAILABLE,
    Reset(),
    Reset(applied=True),
    CutAnswer(),
    Slow(0.2),
    Slow(0.2, before=True),
)
"""The same of DynamoDB, where the state is."""
