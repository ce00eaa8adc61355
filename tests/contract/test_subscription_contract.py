"""What `StreamBackend` promises of records that the service brings, on the emulator and over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import pytest

from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from adapters.kinesis.backend import KinesisBackend, open_backend
from adapters.kinesis.settings import KIND
from gateway.core.backend import Target
from gateway.core.errors import Contended, NotFound
from gateway.core.streams.port import FIRST, NEXT, Page, Position, Whence
from tests.rig.processes import AWS_ENVIRONMENT, Ministack
from tests.rig.streams import Client, stream_records

PATIENCE = 20.0
SHARD = "0"


@pytest.fixture(params=["lean", "aiobotocore"])
async def backend(
    request: pytest.FixtureRequest, ministack: Ministack, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KinesisBackend]:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    transport: Literal["lean", "aiobotocore"] = request.param
    settings = AwsSettings(region="us-east-1", endpoint_url=ministack.url, transport=transport)
    client = await open_client(settings, services=("kinesis",))
    yield open_backend(client, prefix="", provision="auto")
    await client.aclose()


@pytest.fixture
def target(kinesis: Client, queue_name: str) -> Target:
    kinesis.create_stream(StreamName=queue_name, ShardCount=1)
    return Target(kind=KIND, name=queue_name, queue="hub-queue", pushed=("billing",))


def put(kinesis: Client, target: Target, *bodies: str) -> None:
    for body in bodies:
        kinesis.put_record(StreamName=target.name, PartitionKey="k", Data=body.encode())


async def take(pages: AsyncIterator[Page], count: int) -> list[str]:
    """The bodies of the next messages."""
    found: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            page = await anext(pages)
            found += [message.body.decode() for record in page.records for message in record.messages]
    return found


def sequences(kinesis: Client, target: Target) -> Sequence[str]:
    return [record["SequenceNumber"] for record in stream_records(kinesis, target.name)]


async def test_from_the_first_and_live(backend: KinesisBackend, kinesis: Client, target: Target) -> None:
    put(kinesis, target, "a", "b")
    async with backend.subscribe(target, "billing", SHARD, FIRST) as pages:
        assert await take(pages, 2) == ["a", "b"]
        put(kinesis, target, "c")
        assert await take(pages, 1) == ["c"]


@pytest.mark.parametrize("whence", [Whence.AT, Whence.AFTER])
async def test_from_a_record(backend: KinesisBackend, kinesis: Client, target: Target, whence: Whence) -> None:
    put(kinesis, target, "a", "b", "c")
    middle = sequences(kinesis, target)[1]
    expected = ["b", "c"] if whence is Whence.AT else ["c"]
    async with backend.subscribe(target, "billing", SHARD, Position(whence, middle)) as pages:
        assert await take(pages, len(expected)) == expected


async def test_from_a_time(backend: KinesisBackend, kinesis: Client, target: Target) -> None:
    put(kinesis, target, "a")
    await asyncio.sleep(0.01)  # the emulator counts milliseconds
    put(kinesis, target, "b")
    arrived = stream_records(kinesis, target.name)[1]["ApproximateArrivalTimestamp"].timestamp()
    async with backend.subscribe(target, "billing", SHARD, Position(Whence.TIME, time=arrived)) as pages:
        assert await take(pages, 1) == ["b"]


async def test_what_is_new_comes_after_the_first_page(backend: KinesisBackend, kinesis: Client, target: Target) -> None:
    put(kinesis, target, "old")
    async with backend.subscribe(target, "billing", SHARD, NEXT) as pages:
        assert not (await anext(pages)).records
        put(kinesis, target, "new")
        assert await take(pages, 1) == ["new"]


async def test_the_next_subscription_goes_on(backend: KinesisBackend, kinesis: Client, target: Target) -> None:
    put(kinesis, target, "a")
    async with backend.subscribe(target, "billing", SHARD, FIRST) as pages:
        page = await anext(pages)
    assert page.iterator is not None
    put(kinesis, target, "b")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with backend.subscribe(target, "billing", SHARD, Position(Whence.AFTER, page.iterator)) as pages:
                    assert await take(pages, 1) == ["b"]
                    return
            except Contended:
                await asyncio.sleep(0.1)  # the emulator has not seen yet that we hung up


async def test_one_subscription_for_each_consumer(backend: KinesisBackend, kinesis: Client, target: Target) -> None:
    put(kinesis, target, "a")
    async with backend.subscribe(target, "billing", SHARD, FIRST) as pages:
        await take(pages, 1)
        with pytest.raises(Contended, match="ResourceInUseException"):
            async with backend.subscribe(target, "billing", SHARD, FIRST):
                pytest.fail("two at the same time")
        async with backend.subscribe(target, "audit", SHARD, FIRST) as others:
            assert await take(others, 1) == ["a"]
        put(kinesis, target, "b")
        assert await take(pages, 1) == ["b"]


async def test_a_consumer_that_was_deregistered_ends_it_and_is_registered_again(
    backend: KinesisBackend, kinesis: Client, target: Target
) -> None:
    arn = kinesis.describe_stream_summary(StreamName=target.name)["StreamDescriptionSummary"]["StreamARN"]

    async def read_until_it_ends() -> None:
        async with backend.subscribe(target, "billing", SHARD, FIRST) as pages:
            await anext(pages)
            kinesis.deregister_stream_consumer(StreamARN=arn, ConsumerName="billing")
            await take(pages, 1)

    with pytest.raises(NotFound):
        await read_until_it_ends()
    put(kinesis, target, "a")
    async with backend.subscribe(target, "billing", SHARD, FIRST) as pages:
        assert await take(pages, 1) == ["a"]


async def test_a_consumer_that_may_not_be_made(
    ministack: Ministack, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    client = await open_client(AwsSettings(region="us-east-1", endpoint_url=ministack.url), services=("kinesis",))
    try:
        with pytest.raises(NotFound, match="kinesis:RegisterStreamConsumer"):
            await open_backend(client, prefix="", provision="never").enroll(target, "billing")
    finally:
        await client.aclose()
