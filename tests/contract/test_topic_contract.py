"""What the port in `gateway/core/backend.py` promises of a backend that sends only: a topic, read through a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

import adapters.sns.backend
import adapters.sqs.backend
from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from adapters.sns.inlet import open_inlet
from adapters.sns.settings import parse_target
from gateway.core.backend import Backend, QueueSpec, Target
from gateway.core.errors import BackendError, NotFound, TooLarge
from gateway.core.message import NO_HEADERS, PERSISTENT, Address, Headers, HeaderValue, Message, Origin, Properties
from gateway.core.outcome import ACCEPTED
from tests.rig.processes import AWS_ENVIRONMENT, Ministack

PATIENCE = 20.0


@pytest.fixture(params=["lean", "aiobotocore"])
async def aws(
    request: pytest.FixtureRequest, ministack: Ministack, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AwsClient]:
    """A client of the emulator, over each transport."""
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    client = await open_client(
        AwsSettings(region="us-east-1", endpoint_url=ministack.url, transport=request.param), services=("sqs", "sns")
    )
    yield client
    await client.aclose()


class Topic:
    """A topic of this test, and a queue that is subscribed to it."""

    def __init__(self, aws: AwsClient, name: str, **options: Any) -> None:
        self.backend: Backend = adapters.sns.backend.open_backend(aws, prefix="", provision="auto")
        self.target = parse_target(name, options, frozenset())
        self._queues: Backend = adapters.sqs.backend.open_backend(aws, prefix="", provision="auto")
        self._queue = Target(kind="sqs", name=name, queue="hub-queue")
        self._inlet = open_inlet(
            aws, prefix="", provision="auto", topic=self.target, queue=self._queue, envelope=False, filtered=False
        )

    async def attach(self) -> Topic:
        await self._queues.ensure(self._queue, QueueSpec())
        await self._inlet.attach()
        return self

    async def publish(self, *messages: Message) -> None:
        results = await self.backend.send(self.target, [self.backend.encode(self.target, each) for each in messages])
        assert list(results) == [ACCEPTED] * len(messages)

    async def take(self, count: int) -> list[Message]:
        taken: list[Message] = []
        async with asyncio.timeout(PATIENCE):
            while len(taken) < count:
                received = await self._queues.receive(self._queue, 10, 5.0, 30.0)
                taken += [each.message for each in received]
        return [plain(each) for each in taken]


def plain(message: Message) -> Message:
    """Without what says that it came through a topic."""
    headers = {name: value for name, value in message.headers.items() if name != "mqlift.origin"}
    assert len(headers) == len(message.headers) - 1
    return Message(message.address, message.body, message.properties, headers, message.origin)


@pytest.fixture
async def topic(aws: AwsClient, queue_name: str) -> Topic:
    return await Topic(aws, queue_name).attach()


def message(body: bytes | str, headers: Headers = NO_HEADERS) -> Message:
    content = body.encode() if isinstance(body, str) else body
    return Message(Address("amq.topic", "a.b"), content, PERSISTENT, dict(headers), Origin("mqtt", "dev-1", "alice"))


BODIES = [
    b"",
    b"-",
    b" ",
    b"plain text",
    "grüße \U0001f600\r\n\t".encode(),
    b'{"quoted": "\\"yes\\"", "a": "1&b=2+3%20"}',
    b"<xml>&amp;</xml>",
    bytes(range(256)),
    b"\x00",
    "\ufffe\uffff".encode(),
    b"x" * 20_000,
]


async def test_bodies(topic: Topic) -> None:
    for start in range(0, len(BODIES), 10):
        await topic.publish(*map(message, BODIES[start : start + 10]))
    taken = await topic.take(len(BODIES))
    assert sorted(each.body for each in taken) == sorted(BODIES)
    assert {each.origin for each in taken} == {Origin("mqtt", "dev-1", "alice")}


VALUES: list[HeaderValue] = [
    None,
    True,
    -(2**63),
    10**40,
    1.5,
    float("inf"),
    "text with \x00, & and \ufffe",
    b"\x00\xff",
    Decimal("1.10"),
    datetime(2026, 11, 5, 10, 30, 0, 123456, UTC),
    [1, "two", [b"3"], {"four": None}],
]


async def test_header_types(topic: Topic) -> None:
    original = message("x", {f"h{number}": value for number, value in enumerate(VALUES)})
    await topic.publish(original)
    assert await topic.take(1) == [original]


async def test_address_properties_and_origin(topic: Topic) -> None:
    original = Message(
        Address("events", "sensors.north.1"),
        b"21.5",
        Properties(content_type="text/plain", priority=9, correlation_id=b"\x00\x01", expiration=60_000, type="t"),
        {"a": 1},
        Origin("amqp091", "conn-7", "alice"),
    )
    await topic.publish(original)
    assert await topic.take(1) == [original]


async def test_the_largest_message_and_batch(topic: Topic) -> None:
    backend, target = topic.backend, topic.target
    overhead = backend.encode(target, message("x")).size - 1
    body = b"x" * (backend.limits.entry_bytes - overhead)
    assert backend.encode(target, message(body)).size == backend.limits.entry_bytes
    with pytest.raises(TooLarge):
        backend.encode(target, message(body + b"x"))
    await topic.publish(message(body))
    share = b"y" * (backend.limits.batch_bytes // backend.limits.batch_entries - overhead)
    await topic.publish(*[message(share)] * 10)
    assert sum(len(each.body) for each in await topic.take(11)) == len(body) + 10 * len(share)


async def test_groups_are_keys(aws: AwsClient, queue_name: str) -> None:
    topic = await Topic(aws, f"{queue_name}.fifo", group_id="{header:g}").attach()
    sent = [message(f"{number}", {"g": "a" if number % 2 else "b"}) for number in range(10)]
    keys = {topic.backend.encode(topic.target, each).key for each in sent}
    assert keys == {"a", "b"}
    await topic.publish(*sent)
    taken = await topic.take(10)
    for group in "ab":
        in_group = [each.body for each in taken if each.headers["g"] == group]
        assert in_group == [each.body for each in sent if each.headers["g"] == group]


async def test_a_missing_topic_is_told(aws: AwsClient, queue_name: str) -> None:
    never = adapters.sns.backend.open_backend(aws, prefix="", provision="never")
    target = parse_target(queue_name, {}, frozenset())
    for call in (never.probe(target), never.ensure(target, QueueSpec())):
        with pytest.raises(NotFound, match=queue_name):
            await call
    with pytest.raises(BackendError, match=queue_name):
        await never.send(target, [never.encode(target, message("x"))])
    auto = adapters.sns.backend.open_backend(aws, prefix="", provision="auto")
    await auto.ensure(target, QueueSpec())
    await never.probe(target)
