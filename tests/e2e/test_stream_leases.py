"""Two gateways with one state table, and a group of consumers on both: the shards of a stream are shared by leases."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Self

import pytest
from pika.exceptions import AMQPError

from adapters.kinesis.reading import short_shard
from gateway.core.streams.lease import LEASE_SECONDS, RENEW_SECONDS
from tests.conftest import finish
from tests.rig.amqp import AmqpClient
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import STATE_FAULTS
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import Client, aws_client
from tests.rig.waiting import wait_for

TABLE = "leases"
SHARDS = 4
TRUCKS = 16
GROUP = "billing"
PREFETCH = 50

TAKEOVER = LEASE_SECONDS + 2 * RENEW_SECONDS + 4.0
"""The lease, the look that sees that it is over and the one that takes it, and what a busy machine takes for them."""


class Inbox:
    """What all members of the group have got, in the order in which it came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bodies: list[str] = []

    def add(self, body: str) -> None:
        with self._lock:
            self._bodies.append(body)

    @property
    def bodies(self) -> list[str]:
        with self._lock:
            return list(self._bodies)

    def by_truck(self) -> dict[str, list[str]]:
        """The first delivery of each message, in the order of each truck."""
        found: dict[str, list[str]] = {}
        for body in dict.fromkeys(self.bodies):
            found.setdefault(body.partition(" ")[0], []).append(body)
        return found

    def repeated(self, since: int = 0) -> set[str]:
        """What came again after so many deliveries."""
        bodies = self.bodies
        return {body for body, times in Counter(bodies).items() if times > 1} & set(bodies[since:])


class Member:
    """A consumer of the group, which acknowledges what it gets. Ends when its gateway does."""

    def __init__(self, gateway: Gateway, queue: str, inbox: Inbox) -> None:
        self._port = gateway.port("amqp091")
        self._queue = queue
        self._inbox = inbox
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"member of {gateway.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._consume()
        except AMQPError as error:
            print(f"a consumer at port {self._port} has ended: {error!r}")  # as it does when its gateway is killed

    def _consume(self) -> None:
        with AmqpClient(self._port) as client:
            client.declare(self._queue, x_queue_type="stream")
            client.channel.basic_qos(prefetch_count=PREFETCH)
            arguments = {"name": GROUP, "x-stream-offset": "first"}
            client.channel.basic_consume(self._queue, self._take, arguments=arguments)
            while not self._stop.is_set():
                client.connection.process_data_events(0.02)

    def _take(self, channel: object, method: object, properties: object, body: bytes) -> None:
        del properties
        self._inbox.add(body.decode())
        channel.basic_ack(method.delivery_tag)  # type: ignore[attr-defined]


class Leases:
    """The group's records in the table, as somebody sees them who reads it; watched in the background."""

    def __init__(self, dynamodb: Client, prefix: str) -> None:
        self._dynamodb = dynamodb
        self._kind = {"S": f"{prefix}/stream"}
        self._stop = threading.Event()
        self._furthest: dict[str, int] = {}
        self.moved_back: list[str] = []
        """What was seen of checkpoints that were further before."""
        self._thread = threading.Thread(target=self._watch, name="watches checkpoints", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def read(self) -> dict[str, dict[str, str]]:
        """Owner and place of each shard."""
        answer = self._dynamodb.query(
            TableName=TABLE,
            KeyConditionExpression="kind = :kind",
            ExpressionAttributeValues={":kind": self._kind},
            ConsistentRead=True,
        )
        keys = [json.loads(item["key"]["S"].removeprefix("="))[2] for item in answer["Items"]]
        values = [json.loads(item["value"]["B"]) for item in answer["Items"]]
        return {shard: value for shard, value in zip(keys, values, strict=True) if shard}

    def owners(self) -> Mapping[str, int]:
        """How many shards each gateway has."""
        return Counter(lease["owner"].rpartition("-")[0] for lease in self.read().values())

    def wait_shared(self, *shares: int) -> set[str]:
        """Wait until the shards are shared out like this; who the owners are."""

        def shared() -> set[str]:
            owners = self.owners()
            return set(owners) if sorted(owners.values()) == list(shares) and "" not in owners else set()

        return wait_for(shared, f"the shards are shared {shares}", TAKEOVER)

    def places(self) -> dict[str, int]:
        """The sequence number behind which each shard goes on."""
        return {shard: int(lease["at"].partition(".")[0] or 0) for shard, lease in self.read().items()}

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for shard, place in self.places().items():
                if place < self._furthest.get(shard, 0):
                    self.moved_back.append(f"{shard}: {place} after {self._furthest[shard]}")
                self._furthest[shard] = max(place, self._furthest.get(shard, 0))


class Stage:
    """A stream, what was written to it, and what has come of it."""

    def __init__(self, kinesis: Client, name: str, leases: Leases) -> None:
        self._kinesis = kinesis
        self._name = name
        self.leases = leases
        self.inbox = Inbox()
        self.written: dict[str, list[str]] = {f"truck-{truck}": [] for truck in range(TRUCKS)}
        self._places: dict[str, tuple[str, int]] = {}
        """Shard and sequence number of each record."""

    def write(self, rounds: int) -> None:
        """So many more records of each truck."""
        for _ in range(rounds):
            records = []
            for truck, bodies in self.written.items():
                bodies.append(f"{truck} {len(bodies)}")
                records.append({"PartitionKey": truck, "Data": bodies[-1].encode()})
            answer = self._kinesis.put_records(StreamName=self._name, Records=records)
            assert answer["FailedRecordCount"] == 0
            for bodies, each in zip(self.written.values(), answer["Records"], strict=True):
                self._places[bodies[-1]] = short_shard(each["ShardId"]), int(each["SequenceNumber"])

    def wait_delivered(self, timeout: float = 30.0) -> None:
        """Wait until everything has come at least once, each truck in order."""
        wait_for(lambda: self.inbox.by_truck() == self.written, "everything has come, in order", timeout)

    def wait_checkpointed(self) -> None:
        """Wait until the checkpoints are behind everything."""
        wait_for(lambda: not self.unwritten(self.written_bodies), "the checkpoints are there")

    @property
    def written_bodies(self) -> set[str]:
        return set(self._places)

    def unwritten(self, bodies: Iterable[str]) -> set[str]:
        """Those that are not behind the checkpoints: they come again, should their gateway end now."""
        reached = self.leases.places()
        return {body for body in bodies if self._places[body][1] > reached.get(self._places[body][0], 0)}


@pytest.fixture
def leases(ministack: Ministack, queue_name: str) -> Iterator[Leases]:
    with Leases(aws_client("dynamodb", ministack.url), queue_name) as watched:
        yield watched


@pytest.fixture
def stage(ministack: Ministack, queue_name: str) -> Stage:
    kinesis = aws_client("kinesis", ministack.url)
    kinesis.create_stream(StreamName=queue_name, ShardCount=SHARDS)
    dynamodb = aws_client("dynamodb", ministack.url)
    return Stage(kinesis, queue_name, Leases(dynamodb, queue_name))


def gateways(endpoint_url: str, prefix: str, directory: Path) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways of one installation, at work."""
    with contextlib.ExitStack() as stack:
        pair = []
        for _ in range(2):
            config = gateway_config(
                endpoint_url,
                protocols=("amqp091",),
                prefix=prefix,
                state=f"dynamodb://{TABLE}",
                routes=[{"match": {"queue": "stream-{name}"}, "to": [{"kinesis": "{name}"}]}],
            )
            gateway = Gateway(config, directory)
            stack.callback(finish, gateway)
            gateway.start()
            pair.append(gateway)
        yield pair[0], pair[1]


@pytest.fixture
def pair(ministack: Ministack, queue_name: str, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    yield from gateways(ministack.url, queue_name, tmp_path)


@pytest.fixture
def faulty_pair(faults: FaultEndpoint, queue_name: str, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    yield from gateways(faults.url, queue_name, tmp_path)


def test_one_is_killed_and_comes_back(pair: tuple[Gateway, Gateway], stage: Stage, queue_name: str) -> None:
    one, other = pair
    queue = f"stream-{queue_name}"
    stage.write(20)
    with stage.leases as leases, Member(other, queue, stage.inbox):
        with Member(one, queue, stage.inbox):
            stage.wait_delivered()
            leases.wait_shared(2, 2)
            stage.write(20)
            stage.wait_delivered()
            stage.wait_checkpointed()
            one.kill9()
        delivered = len(stage.inbox.bodies)
        stage.write(20)
        leases.wait_shared(4)
        stage.wait_delivered()
        assert not stage.inbox.repeated(delivered), "it goes on from the checkpoint"
        one.start()
        with Member(one, queue, stage.inbox):
            stage.write(20)
            owners = leases.wait_shared(2, 2)
            stage.write(20)
            stage.wait_delivered()
            assert len(owners) == 2
    assert leases.moved_back == []


def test_one_is_killed_under_load(pair: tuple[Gateway, Gateway], stage: Stage, queue_name: str) -> None:
    """What it had delivered, and had not written down, comes again; nothing else does."""
    one, other = pair
    queue = f"stream-{queue_name}"
    stage.write(10)
    with stage.leases as leases, Member(other, queue, stage.inbox):
        with Member(one, queue, stage.inbox):
            leases.wait_shared(2, 2)
            stage.wait_delivered()
            stage.wait_checkpointed()
            stage.write(100)
            wait_for(lambda: len(set(stage.inbox.bodies)) > TRUCKS * 30, "it is at work")
            one.kill9()
        delivered = stage.inbox.bodies
        unwritten = stage.unwritten(delivered)
        stage.wait_delivered(TAKEOVER)
        stage.write(10)
        stage.wait_delivered()
        assert stage.inbox.repeated(len(delivered)) <= unwritten
    assert leases.moved_back == []


def test_one_is_frozen_and_goes_on(pair: tuple[Gateway, Gateway], stage: Stage, queue_name: str) -> None:
    """It wakes up with shards that are another's by now, of which it still holds messages and acknowledgements."""
    one, other = pair
    queue = f"stream-{queue_name}"
    stage.write(10)
    with stage.leases as leases, Member(other, queue, stage.inbox), Member(one, queue, stage.inbox):
        stage.wait_delivered()
        leases.wait_shared(2, 2)
        stage.write(50)
        one.send_signal(SIGSTOP)
        try:
            leases.wait_shared(4)
            stage.write(20)
            stage.wait_delivered()
            stage.wait_checkpointed()
        finally:
            one.send_signal(SIGCONT)
        stage.write(20)
        leases.wait_shared(2, 2)
        stage.write(20)
        stage.wait_delivered()
        stage.wait_checkpointed()
    assert leases.moved_back == []


def test_faults_of_the_table(
    faulty_pair: tuple[Gateway, Gateway], stage: Stage, faults: FaultEndpoint, queue_name: str
) -> None:
    one, other = faulty_pair
    queue = f"stream-{queue_name}"
    faults.chaos(STATE_FAULTS, 0.4, seed=4, actions=["GetItem", "UpdateItem", "Query"])
    with stage.leases as leases, Member(one, queue, stage.inbox), Member(other, queue, stage.inbox):
        stage.write(20)
        leases.wait_shared(2, 2)
        for _ in range(5):
            stage.write(20)
            stage.wait_delivered()
        stage.wait_checkpointed()
        faults.clear()
        stage.write(5)
        stage.wait_delivered()
        leases.wait_shared(2, 2)
    assert faults.injected().total() > 10
    assert leases.moved_back == []
