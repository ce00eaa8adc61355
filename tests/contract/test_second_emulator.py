"""A second opinion on SQS and SNS. What the adapters ask of them, fauxqs understands as ministack does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import adapters.sns.backend
import adapters.sqs.backend
from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from adapters.sns.fanout import open_subscriber
from adapters.sns.inlet import open_inlet
from adapters.sns.settings import Settings
from adapters.sns.settings import parse_target as parse_topic
from adapters.sqs.settings import DEFAULT_OPTIONS
from gateway.core.backend import Backend, QueueSpec, Received, Target
from gateway.core.message import PERSISTENT, Address, Message, Origin
from gateway.core.outcome import ACCEPTED, Outcome
from tests.rig.fauxqs import Fauxqs
from tests.rig.processes import AWS_ENVIRONMENT

PATIENCE = 20.0
BODIES = [b"", b" ", b"plain text", "grüße\r\n\t".encode(), bytes(range(256)), b"x" * 20_000]


@pytest.fixture
async def aws(fauxqs: Fauxqs, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsClient]:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    settings = AwsSettings(region="us-east-1", endpoint_url=fauxqs.url)
    client = await open_client(settings, services=("sqs", "sns"))
    yield client
    await client.aclose()


@pytest.fixture
def sqs(aws: AwsClient) -> Backend:
    return adapters.sqs.backend.open_backend(aws, prefix="", provision="auto")


def message(body: bytes, **headers: str) -> Message:
    return Message(Address("events", "a.b"), body, PERSISTENT, dict(headers), Origin("mqtt", "dev-1", "alice"))


def queue(name: str) -> Target:
    return Target(kind="sqs", name=name, queue="hub-queue", options=DEFAULT_OPTIONS)


async def publish(backend: Backend, target: Target, *messages: Message) -> None:
    results = await backend.send(target, [backend.encode(target, each) for each in messages])
    assert list(results) == [ACCEPTED] * len(messages)


async def take(backend: Backend, target: Target, count: int) -> list[Received]:
    taken: list[Received] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            received = await backend.receive(target, 10, 2.0, 30.0)
            taken += received
            if received:
                await backend.settle(target, [each.receipt for each in received], Outcome.ACCEPTED)
    return taken


async def test_bodies(sqs: Backend, queue_name: str) -> None:
    sent = [message(body, h="1") for body in BODIES]
    await publish(sqs, queue(queue_name), *sent)
    taken = [each.message for each in await take(sqs, queue(queue_name), len(sent))]
    assert sorted(taken, key=lambda each: each.body) == sorted(sent, key=lambda each: each.body)


async def test_a_released_message_comes_back_counted(sqs: Backend, queue_name: str) -> None:
    target = queue(queue_name)
    await publish(sqs, target, message(b"x"))
    (first,) = await sqs.receive(target, 10, 2.0, 30.0)
    assert list(await sqs.settle(target, [first.receipt], Outcome.RELEASED)) == [ACCEPTED]
    (again,) = await take(sqs, target, 1)
    assert (first.attempt, again.attempt) == (1, 2)
    assert again.message == first.message


async def test_a_fifo_queue_keeps_groups_in_order(sqs: Backend, queue_name: str) -> None:
    target = queue(f"{queue_name}.fifo")
    sent = [message(b"%d" % number, JMSXGroupID="ab"[number % 2]) for number in range(10)]
    await publish(sqs, target, *sent)
    taken = [each.message for each in await take(sqs, target, len(sent))]
    for group in "ab":
        bodies = [[each.body for each in some if each.headers["JMSXGroupID"] == group] for some in (sent, taken)]
        assert bodies[0] == bodies[1]


async def test_a_topic_hands_on_what_is_published(aws: AwsClient, sqs: Backend, queue_name: str) -> None:
    topic = parse_topic(queue_name, {}, frozenset())
    sns: Backend = adapters.sns.backend.open_backend(aws, prefix="", provision="auto")
    await sqs.ensure(queue(queue_name), QueueSpec())
    inlet = open_inlet(
        aws, prefix="", provision="auto", topic=topic, queue=queue(queue_name), envelope=False, filtered=False
    )
    for _ in range(2):
        await inlet.attach()
    sent = [message(body, h="1") for body in BODIES]
    await publish(sns, topic, *sent)
    taken = [each.message for each in await take(sqs, queue(queue_name), len(sent))]
    assert sorted(each.body for each in taken) == sorted(BODIES)
    assert {each.headers["mqlift.origin"] for each in taken} == {"mqlift"}


async def test_subscriptions_of_fan_out(aws: AwsClient, sqs: Backend, queue_name: str) -> None:
    """Made and undone only: fauxqs knows no attributes with several values (String.Array), so it hands nothing on."""
    topic = parse_topic(queue_name, {"fanout": True}, frozenset())
    subscriber = open_subscriber(aws, settings=Settings(), usual=DEFAULT_OPTIONS)
    await sqs.ensure(queue(queue_name), QueueSpec())
    subscription = await subscriber.subscribe(topic, queue(queue_name))
    assert await subscriber.subscribe(topic, queue(queue_name)) == subscription
    assert await subscriber.holds(topic, queue(queue_name), subscription)
    await subscriber.unsubscribe(topic, queue(queue_name), subscription)
    assert not await subscriber.holds(topic, queue(queue_name), subscription)
