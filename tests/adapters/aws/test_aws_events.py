"""Calls that are answered with events, over both transports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Literal, TypeAlias

import orjson
import pytest

from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from gateway.core.errors import AccessDenied, BackendError, Contended, CredentialsInvalid, Unavailable
from tests.adapters.aws.scripted_server import (
    HOST,
    Request,
    ScriptedServer,
    Step,
    answer_bytes,
    answers,
    sends,
    sends_and_closes,
    sends_and_resets,
)
from tests.rig.event_stream import CONTENT, event, fault, initial
from tests.rig.processes import AWS_ENVIRONMENT

Transport: TypeAlias = Literal["lean", "aiobotocore"]

STREAM = "kinesis stream trucks"
REQUEST = {
    "ConsumerARN": "arn:aws:kinesis:eu-west-1:111122223333:stream/trucks/consumer/billing:1700000000",
    "ShardId": "shardId-000000000000",
    "StartingPosition": {"Type": "AT_TIMESTAMP", "Timestamp": 1_700_000_000.5},
}
EVENTS = [
    {"Records": [], "ContinuationSequenceNumber": "1", "MillisBehindLatest": 0},
    {
        "Records": [
            {
                "Data": "AP8=",
                "PartitionKey": "7",
                "SequenceNumber": "2",
                "ApproximateArrivalTimestamp": 1_700_000_000.5,
            }
        ],
        "ContinuationSequenceNumber": "2",
        "MillisBehindLatest": 0,
    },
    {
        "Records": [],
        "MillisBehindLatest": 0,
        "ChildShards": [{"ShardId": "shardId-000000000001", "ParentShards": ["shardId-000000000000"]}],
    },
]
HEAD = f"HTTP/1.1 200 OK\r\ncontent-type: {CONTENT}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def shard_event(document: object) -> bytes:
    return chunk(event("SubscribeToShardEvent", document))


WHOLE = [HEAD, chunk(initial()), *map(shard_event, EVENTS)]


@pytest.fixture(params=["lean", "aiobotocore"])
def transport(request: pytest.FixtureRequest) -> Transport:
    chosen: Transport = request.param
    return chosen


LEAN = pytest.mark.parametrize("transport", ["lean"], indirect=True)
"""For what is aiohttp's business in the other transport."""


class Rig:
    def __init__(self, server: ScriptedServer, aws: AwsClient, calls: list[tuple[str, str, str]]) -> None:
        self.server = server
        self.aws = aws
        self.calls = calls

    def script(self, *steps: Step) -> None:
        self.server.steps += steps

    def subscribe(self, silence: float = 60.0) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
        body = orjson.dumps(REQUEST)
        return self.aws.events("kinesis", "SubscribeToShard", body, silence=silence, resource=STREAM)

    async def read(self, silence: float = 60.0) -> list[object]:
        async with self.subscribe(silence) as events:
            return [orjson.loads(each) async for each in events]


@contextlib.asynccontextmanager
async def opened(transport: Transport, read_timeout: float) -> AsyncIterator[Rig]:
    calls: list[tuple[str, str, str]] = []
    server = ScriptedServer(answers(status=500))
    async with server.running():
        settings = AwsSettings(
            region="eu-west-1",
            endpoint_url=f"http://{HOST}:{server.port}",
            transport=transport,
            read_timeout=read_timeout,
            max_connections=2,
        )
        aws = await open_client(settings, lambda *call: calls.append(call[:3]), services=("kinesis",))
        try:
            yield Rig(server, aws, calls)
        finally:
            await aws.aclose()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def rig(transport: Transport) -> AsyncIterator[Rig]:
    async with opened(transport, read_timeout=60.0) as patient:
        yield patient


async def test_events_come_as_the_service_wrote_them(rig: Rig) -> None:
    rig.script(sends(*WHOLE, LAST))
    assert await rig.read() == EVENTS
    (request,) = rig.server.requests
    assert orjson.loads(request.body) == REQUEST
    assert request.headers["x-amz-target"] == "Kinesis_20131202.SubscribeToShard"
    assert rig.calls == [("kinesis", "SubscribeToShard", "accepted")]


async def test_events_in_pieces_of_any_size(rig: Rig) -> None:
    data = b"".join(WHOLE[1:]) + LAST
    rig.script(sends(HEAD, *(data[index : index + 7] for index in range(0, len(data), 7))))
    assert await rig.read() == EVENTS


async def test_an_event_is_there_before_the_next_one(rig: Rig) -> None:
    more = asyncio.Event()

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        await sends(*WHOLE[:3])(request, writer)
        await more.wait()
        await sends(*WHOLE[3:], LAST)(request, writer)

    rig.script(step)
    async with rig.subscribe() as events:
        assert orjson.loads(await anext(events)) == EVENTS[0]
        more.set()
        assert [orjson.loads(each) async for each in events] == EVENTS[1:]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("InternalFailureException", Unavailable),
        ("ResourceInUseException", Contended),
        ("KMSDisabledException", BackendError),
    ],
)
async def test_the_service_ends_it_with_an_error(rig: Rig, code: str, error: type[BackendError]) -> None:
    rig.script(sends(*WHOLE[:3], chunk(fault(code, "no more")), LAST))
    async with rig.subscribe() as events:
        await anext(events)
        with pytest.raises(error, match="no more") as raised:
            await anext(events)
    assert type(raised.value) is error
    assert (raised.value.resource, raised.value.action) == (STREAM, "kinesis:SubscribeToShard")


@pytest.mark.parametrize(
    ("code", "error", "outcome"),
    [
        ("ResourceInUseException", Contended, "contended"),
        ("AccessDeniedException", AccessDenied, "access_denied"),
        ("UnrecognizedClientException", CredentialsInvalid, "credentials_invalid"),
    ],
)
async def test_a_call_that_is_refused(rig: Rig, code: str, error: type[BackendError], outcome: str) -> None:
    rig.script(answers(orjson.dumps({"__type": code, "message": "you may not"}), 400))
    with pytest.raises(error, match="you may not"):
        await rig.read()
    assert rig.calls == [("kinesis", "SubscribeToShard", outcome)]


CUTS: Sequence[tuple[str, Step]] = [
    ("between events", sends_and_resets(*WHOLE[:3])),
    ("within an event", sends_and_resets(*WHOLE[:3], WHOLE[3][:40])),
    ("within a message of a chunk", sends_and_closes(*WHOLE[:3], chunk(event("E", {})[:30]))),
    ("with no end", sends_and_closes(*WHOLE[:3])),
]


@pytest.mark.parametrize("step", [step for _, step in CUTS], ids=[name for name, _ in CUTS])
async def test_a_connection_that_is_cut(rig: Rig, step: Step) -> None:
    rig.script(step)
    async with rig.subscribe() as events:
        assert orjson.loads(await anext(events)) == EVENTS[0]
        with pytest.raises(Unavailable):
            await anext(events)


@LEAN
async def test_a_stream_that_ends_within_an_event(rig: Rig) -> None:
    rig.script(sends(*WHOLE[:3], chunk(event("E", {})[:30]), LAST))
    async with rig.subscribe() as events:
        await anext(events)
        with pytest.raises(Unavailable, match="within an event"):
            await anext(events)


async def test_what_is_no_event_stream(rig: Rig) -> None:
    rig.script(sends(HEAD, chunk(initial()), chunk(b"<html>" * 10), LAST))
    with pytest.raises(Unavailable):
        await rig.read()


async def test_an_answer_that_does_not_begin(transport: Transport) -> None:
    async with opened(transport, read_timeout=0.5) as hasty:
        hasty.script(sends())
        with pytest.raises(Unavailable, match="no answer in time"):
            await hasty.read()


async def test_a_service_that_falls_silent(rig: Rig) -> None:
    rig.script(sends(*WHOLE[:3]))
    async with rig.subscribe(silence=1.0) as events:
        await anext(events)
        with pytest.raises(Unavailable, match="in time"):
            await anext(events)


async def test_what_nobody_reads_stays_in_the_network(rig: Rig) -> None:
    """The server cannot write much more than what sockets hold, while the reader waits."""
    large = {"Records": [], "ContinuationSequenceNumber": "x" * 100_000, "MillisBehindLatest": 0}
    written = 0

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await sends(HEAD, chunk(initial()))(request, writer)
        for _ in range(1_000):
            writer.write(shard_event(large))
            await writer.drain()
            written += 1
        await sends(LAST)(request, writer)

    async def stalled() -> int:
        """How far the server comes; it is as far as that when a hundred looks saw no more."""
        before, same = -1, 0
        while same < 100:
            await asyncio.sleep(0.002)
            before, same = written, same + 1 if written == before else 0
        return before

    rig.script(step)
    async with rig.subscribe() as events:
        await anext(events)
        assert await stalled() < 200
        count = 1 + len([None async for _ in events])
    assert count == 1_000


async def test_who_leaves_hangs_up(rig: Rig) -> None:
    rig.script(sends(*WHOLE[:3]))
    async with rig.subscribe() as events:
        await anext(events)
    await rig.server.wait_for(lambda: all(writer.is_closing() for writer in rig.server.writers))


async def test_calls_go_on_beside_subscriptions(rig: Rig) -> None:
    rig.script(sends(*WHOLE[:3]), sends(*WHOLE[:3]), answers(b'{"Shards": []}'))
    async with rig.subscribe() as one, rig.subscribe() as other:
        await anext(one)
        await anext(other)
        assert orjson.loads(await rig.aws.call("kinesis", "ListShards", b'{"StreamName": "s"}')) == {"Shards": []}


@LEAN
async def test_there_are_no_more_than_the_settings_allow(rig: Rig) -> None:
    """aiohttp lets a third one wait."""
    rig.script(sends(*WHOLE[:3]), sends(*WHOLE[:3]), sends(*WHOLE, LAST))
    async with rig.subscribe() as one:
        async with rig.subscribe():
            with pytest.raises(Unavailable, match="all 2 connections for events are busy"):
                await rig.read()
        assert await rig.read() == EVENTS
        await anext(one)


@LEAN
async def test_closing_the_client_ends_what_is_read(rig: Rig) -> None:
    rig.script(sends(*WHOLE[:3]))
    async with rig.subscribe() as events:
        await anext(events)
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await rig.aws.aclose()
        with pytest.raises(Unavailable, match="closed"):
            await reading
    with pytest.raises(Unavailable, match="closed"):
        await rig.read()


@LEAN
async def test_an_answer_with_endless_headers(rig: Rig) -> None:
    rig.script(sends(b"HTTP/1.1 200 OK\r\n", *(b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(100))))
    with pytest.raises(Unavailable, match="headers of more than"):
        await rig.read()


@LEAN
async def test_interim_answers_are_passed_over(rig: Rig) -> None:
    rig.script(sends(b"HTTP/1.1 100 Continue\r\n\r\n", *WHOLE, LAST))
    assert await rig.read() == EVENTS


async def test_a_load_balancer_answers(rig: Rig) -> None:
    rig.script(sends(answer_bytes(b"<html>busy</html>", 503)))
    with pytest.raises(Unavailable):
        await rig.read()
