"""What the port promises of every backend that is only sent to: nothing lives there, and every record that was accepted
is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest

import adapters.firehose.backend
import adapters.firehose.settings
import adapters.kinesis.backend
import adapters.kinesis.settings
from adapters.aws.api import AwsClient
from gateway.core.backend import Backend, Depth, Entry, QueueSpec
from gateway.core.errors import BackendError, Invalid, NotFound, TooLarge
from gateway.core.message import NO_HEADERS, PERSISTENT, Address, Headers, Message, Origin
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.core.streams.port import StreamBackend
from gateway.core.transform import Transform
from tests.contract.conftest import Service
from tests.rig.processes import Ministack
from tests.rig.streams import aws_client, delivered_objects, make_delivery_stream, stream_records

DURABLE = QueueSpec()


class Place(NamedTuple):
    """A service, how its resources are made by somebody else, and how what is there is read."""

    service: Service
    make: Callable[[str], None]
    read: Callable[[str], list[bytes]]


@pytest.fixture
def kinesis_place(aws: AwsClient, ministack: Ministack, queue_name: str) -> Place:
    kinesis = aws_client("kinesis", ministack.url)
    return Place(
        Service(adapters.kinesis.backend, adapters.kinesis.settings, aws, queue_name),
        lambda name: kinesis.create_stream(StreamName=name, ShardCount=2),
        lambda name: [record["Data"] for record in stream_records(kinesis, name)],
    )


@pytest.fixture
def firehose_place(aws: AwsClient, ministack: Ministack, queue_name: str) -> Place:
    s3 = aws_client("s3", ministack.url)
    firehose = aws_client("firehose", ministack.url)
    return Place(
        Service(adapters.firehose.backend, adapters.firehose.settings, aws, queue_name),
        lambda name: make_delivery_stream(firehose, s3, name),
        lambda name: delivered_objects(s3, name),
    )


@pytest.fixture(params=["kinesis", "firehose"])
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.getfixturevalue(f"{request.param}_place")
    return chosen


@pytest.fixture
def service(place: Place) -> Service:
    return place.service


@pytest.fixture
def backend(service: Service) -> Backend:
    return service.open()


def message(body: bytes | str, headers: Headers = NO_HEADERS) -> Message:
    content = body.encode() if isinstance(body, str) else body
    return Message(Address("amq.topic", "sensors.1"), content, PERSISTENT, headers, Origin("mqtt", "dev-1", "alice"))


class TestEncode:
    def test_no_queue_lives_there_unless_it_is_a_stream(self, backend: Backend) -> None:
        if isinstance(backend, StreamBackend):
            assert backend.home("orders", DURABLE).queue == "orders"
            return
        with pytest.raises(Invalid, match=r"cannot live in a .*: nothing can be consumed"):
            backend.home("orders", DURABLE)

    def test_the_body_is_what_is_sent(self, backend: Backend, service: Service) -> None:
        entry = backend.encode(service.target(), message("x", {"a": 1}))
        assert isinstance(entry, Entry)
        assert (entry.attempts, entry.token, entry.waiter, entry.joined) == (0, None, None, None)

    def test_what_the_service_cannot_take_is_refused(self, backend: Backend, service: Service) -> None:
        with pytest.raises(TooLarge) as refused:
            backend.encode(service.target(), message(b"x" * (backend.limits.entry_bytes + 1)))
        assert refused.value.permanent
        assert service.name in str(refused.value)

    def test_what_json_cannot_hold_is_refused(self, backend: Backend, service: Service) -> None:
        target = replace(service.target(), transform=Transform(envelope=True))
        with pytest.raises(Invalid) as refused:
            backend.encode(target, message("x", {"a": "\ud800"}))
        assert service.name in str(refused.value)

    def test_entries_do_not_join_unless_asked_to(self, backend: Backend, service: Service) -> None:
        first, second = (backend.encode(service.target(), message(body)) for body in "ab")
        assert first.join(second) is False


class TestSend:
    @pytest.mark.parametrize(
        "body", [b"-", b"plain text", "grüße \U0001f600".encode(), bytes(range(256)), b"\0", b"x" * 100_000]
    )
    async def test_bodies(self, place: Place, backend: Backend, body: bytes) -> None:
        target = place.service.target()
        place.make(target.name)
        assert list(await backend.send(target, [backend.encode(target, message(body))])) == [ACCEPTED]
        assert place.read(target.name) == [body]

    async def test_an_empty_body(self, place: Place, backend: Backend) -> None:
        target = place.service.target()
        place.make(target.name)
        assert list(await backend.send(target, [backend.encode(target, message(b""))])) == [ACCEPTED]

    async def test_a_full_batch(self, place: Place, backend: Backend) -> None:
        target = place.service.target()
        place.make(target.name)
        bodies = [f"{number}".encode() for number in range(backend.limits.batch_entries)]
        results = await backend.send(target, [backend.encode(target, message(body)) for body in bodies])
        assert list(results) == [ACCEPTED] * len(bodies)
        assert sorted(place.read(target.name)) == sorted(bodies)

    async def test_the_largest_message(self, place: Place, backend: Backend) -> None:
        target = place.service.target()
        place.make(target.name)
        overhead = backend.encode(target, message("x")).size - 1
        body = b"x" * (backend.limits.entry_bytes - overhead)
        entry = backend.encode(target, message(body))
        assert entry.size == backend.limits.entry_bytes
        assert list(await backend.send(target, [entry])) == [ACCEPTED]
        assert place.read(target.name) == [body]
        with pytest.raises(TooLarge):
            backend.encode(target, message(body + b"x"))

    async def test_a_transformed_body(self, place: Place, backend: Backend) -> None:
        target = replace(place.service.target(), transform=Transform(envelope=True))
        place.make(target.name)
        await backend.send(target, [backend.encode(target, message("x"))])
        assert b'"topic":"sensors/1"' in place.read(target.name)[0]

    async def test_what_is_not_there_and_not_made(self, service: Service) -> None:
        backend = service.open(provision="never")
        target = service.target()
        for attempt in (
            backend.send(target, [backend.encode(target, message("lost?"))]),
            backend.ensure(target, DURABLE),
            backend.probe(target),
        ):
            with pytest.raises(NotFound, match=f"{service.name}.*create it"):
                await attempt

    async def test_a_name_that_a_client_made_impossible(self, backend: Backend, service: Service) -> None:
        target = replace(service.target(), name="x" * 200)
        with pytest.raises(Invalid, match="not the name"):
            await backend.send(target, [backend.encode(target, message("x"))])


class TestEnsureAndProbe:
    async def test_what_is_there_is_found(self, place: Place, backend: Backend) -> None:
        target = place.service.target()
        place.make(target.name)
        await asyncio.gather(*(backend.ensure(target, DURABLE) for _ in range(3)))
        await backend.probe(target)

    async def test_a_probe_makes_nothing(self, backend: Backend, service: Service) -> None:
        for _ in range(2):
            with pytest.raises(NotFound):
                await backend.probe(service.target())

    async def test_it_is_not_deleted(self, place: Place, backend: Backend) -> None:
        target = place.service.target()
        place.make(target.name)
        with pytest.raises(BackendError, match=f"{place.service.name}.*delete it in AWS"):
            await backend.remove(target)
        await backend.probe(target)


async def test_nothing_comes_out(backend: Backend, service: Service) -> None:
    assert backend.limits.receive_entries == 0
    target = service.target()
    for attempt in (
        backend.receive(target, 1, 0.0, 30.0),
        backend.settle(target, ["r"], Outcome.ACCEPTED),
        backend.extend(target, ["r"], 30.0),
    ):
        with pytest.raises(BackendError, match="nothing can be consumed") as refused:
            await attempt
        assert not refused.value.retriable


async def test_nothing_waits_there(backend: Backend, service: Service) -> None:
    assert await backend.depth(service.target()) == Depth(ready=0, unsettled=0, delayed=0)


def test_what_is_not_due_is_refused(backend: Backend, service: Service) -> None:
    with pytest.raises(Invalid, match="cannot delay single messages"):
        backend.encode(service.target(), replace(message("later"), not_before=2e9))


async def test_closing_twice_is_closing_once(backend: Backend) -> None:
    await backend.aclose()
    await backend.aclose()


def test_limits_make_sense(backend: Backend) -> None:
    limits = backend.limits
    assert limits.batch_entries >= 1
    assert 0 < limits.entry_bytes <= limits.batch_bytes
