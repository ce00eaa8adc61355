"""An AWS client that answers what a test says, SNS's forms taken apart, and an S3 that keeps its objects in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl

import orjson

from adapters.aws.api import Changed, Version
from adapters.aws.content import Content, Payload, payload_bytes
from gateway.core.budget import ByteBudget
from gateway.core.errors import BackendError, NotFound

ACCOUNT = "111122223333"


class Call(NamedTuple):
    service: str
    action: str
    request: dict[str, str]
    region: str | None


Answer: TypeAlias = object
"""An exception to raise, bytes as they are, or what is answered as JSON."""


class Objects:
    """S3, as far as it is needed. `failures` are raised one after the other."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}
        self.failures: list[BackendError] = []
        self.puts = 0
        self.deadlines: list[float] = []
        self.changes: list[Changed] = []
        self.budget = ByteBudget()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def put(self, bucket: str, key: str, content: Content, deadline: float) -> None:
        self.puts += 1
        self.deadlines.append(deadline)
        await asyncio.sleep(0)
        self._fail()
        self.kept[bucket, key] = b"".join(map(content.part, range(content.parts)))

    async def look(self, bucket: str, key: str) -> Version:
        await asyncio.sleep(0)
        self._fail()
        if (bucket, key) not in self.kept:
            raise NotFound("NoSuchKey", resource=f"s3 bucket {bucket}")
        return Version(len(self.kept[bucket, key]), "etag")

    async def get(self, bucket: str, key: str, version: Version, *, base64: bool) -> bytes:
        await asyncio.sleep(0)
        assert self.budget.used >= min(payload_bytes(version.size, base64=base64), self.budget.size), "there is room"
        if self.changes:
            raise self.changes.pop()
        payload = Payload(version.size, base64=base64)
        payload.add(0, self.kept[bucket, key])
        return payload.body()

    async def delete(self, bucket: str, key: str) -> None:
        self._fail()
        self.kept.pop((bucket, key), None)


class ScriptedSns:
    """Answers each action with `answers[action]`, which may be a function of the request. Keeps all calls."""

    region = "eu-west-1"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.objects = Objects()
        self.answers: dict[str, Answer | Callable[[dict[str, str]], Answer]] = {
            "GetTopicAttributes": {},
            "PublishBatch": accepted,
        }

    def actions(self) -> list[str]:
        return [call.action for call in self.calls]

    async def call(
        self,
        service: str,
        action: str,
        body: bytes,
        *,
        resource: str = "",
        region: str | None = None,
        read_timeout: float | None = None,
    ) -> bytes:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True)) if service == "sns" else orjson.loads(body)
        self.calls.append(Call(service, action, fields, region))
        await asyncio.sleep(0)
        answer = self.answers[action]
        if callable(answer):
            answer = answer(fields)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else orjson.dumps(answer)

    async def caller(self) -> str:
        self.calls.append(Call("sts", "GetCallerIdentity", {}, None))
        return f"arn:aws:iam::{ACCOUNT}:user/test"

    async def aclose(self) -> None:
        """Nothing is open."""


def entries(request: dict[str, str]) -> list[dict[str, str]]:
    """The entries of a `PublishBatch`, each with its own fields."""
    found: dict[int, dict[str, str]] = {}
    for path, value in request.items():
        head, _, rest = path.partition(".member.")
        if head == "PublishBatchRequestEntries":
            number, _, name = rest.partition(".")
            found.setdefault(int(number), {})[name] = value
    assert list(found) == list(range(1, len(found) + 1))
    return list(found.values())


def accepted(request: dict[str, str]) -> object:
    return {"Successful": [{"Id": entry["Id"], "MessageId": "m"} for entry in entries(request)], "Failed": ""}


def attributes(entry: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Type and value of each attribute of an entry."""
    found: dict[str, tuple[str, str]] = {}
    for number in range(1, 20):
        path = f"MessageAttributes.entry.{number}."
        if f"{path}Name" in entry:
            value = entry.get(f"{path}Value.StringValue", entry.get(f"{path}Value.BinaryValue", ""))
            found[entry[f"{path}Name"]] = (entry[f"{path}Value.DataType"], value)
    return found
