"""Shards that are split and merged while somebody consumes: nothing is lost, and parents come first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import finish
from tests.rig.clients import StompClient
from tests.rig.fan_out import FanOutEndpoint
from tests.rig.kinesis_local import KinesisLocal
from tests.rig.processes import Gateway
from tests.rig.streams import Client, aws_client
from tests.rig.waiting import wait_for

KEYS = [f"key-{number}" for number in range(20)]
ROUTES: list[object] = [
    {"match": {"queue": "stream-{name}"}, "to": [{"kinesis": "{name}", "enhanced_fan_out": ["pushed"]}]}
]


@pytest.fixture
def kinesis(kinesis_local: KinesisLocal) -> Iterator[Client]:
    client = aws_client("kinesis", kinesis_local.url)
    yield client
    client.close()


class Stream:
    """One stream of the emulator, with what was written to it."""

    def __init__(self, kinesis: Client, name: str) -> None:
        self._kinesis = kinesis
        self.name = name
        self.written: dict[str, list[str]] = {key: [] for key in KEYS}
        kinesis.create_stream(StreamName=name, ShardCount=1)
        self._wait_active()

    def write(self) -> None:
        """One more record of each key."""
        for key, bodies in self.written.items():
            bodies.append(f"{key} {len(bodies)}")
            self._kinesis.put_record(StreamName=self.name, PartitionKey=key, Data=bodies[-1].encode())

    def open_shards(self) -> list[str]:
        shards = self._kinesis.list_shards(StreamName=self.name)["Shards"]
        return [each["ShardId"] for each in shards if "EndingSequenceNumber" not in each["SequenceNumberRange"]]

    def split(self, shard: str) -> None:
        described = self._kinesis.list_shards(StreamName=self.name)["Shards"]
        (hashes,) = (each["HashKeyRange"] for each in described if each["ShardId"] == shard)
        middle = (int(hashes["StartingHashKey"]) + int(hashes["EndingHashKey"])) // 2
        self._kinesis.split_shard(StreamName=self.name, ShardToSplit=shard, NewStartingHashKey=str(middle))
        self._wait_active()

    def merge(self, one: str, other: str) -> None:
        self._kinesis.merge_shards(StreamName=self.name, ShardToMerge=one, AdjacentShardToMerge=other)
        self._wait_active()

    def _wait_active(self) -> None:
        def active() -> bool:
            summary = self._kinesis.describe_stream_summary(StreamName=self.name)["StreamDescriptionSummary"]
            return bool(summary["StreamStatus"] == "ACTIVE")

        wait_for(active, "the stream is active")


@pytest.fixture
def pushing(kinesis_local: KinesisLocal) -> Iterator[FanOutEndpoint]:
    """The emulator with the subscriptions that it has not."""
    with FanOutEndpoint(kinesis_local.url) as endpoint:
        yield endpoint


@pytest.mark.parametrize("name", ["", "billing", "pushed"], ids=["unnamed", "named", "enhanced"])
def test_nothing_is_lost_and_parents_come_first(
    name: str, gateway_factory: Callable[..., Gateway], pushing: FanOutEndpoint, kinesis: Client, queue_name: str
) -> None:
    gateway = gateway_factory(pushing.url, routes=ROUTES)
    stream = Stream(kinesis, queue_name)
    stream.write()
    headers = {"x-stream-offset": "first"} | ({"x-stream-name": name} if name else {})
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/stream-{queue_name}", **headers)
        client.wait_deliveries(len(KEYS))
        stream.split(*stream.open_shards())
        stream.write()
        one, other = stream.open_shards()
        stream.split(one)
        stream.write()
        children = [shard for shard in stream.open_shards() if shard != other]
        stream.merge(*children)
        stream.write()
        total = sum(map(len, stream.written.values()))
        client.wait_deliveries(total, timeout=60.0)
        found: dict[str, list[str]] = {key: [] for key in KEYS}
        for delivery in client.deliveries:
            found[delivery.body.partition(" ")[0]].append(delivery.body)
        assert found == stream.written
        shards = {each.headers["x-stream-offset"].partition("@")[0] for each in client.deliveries}
        assert len(shards) >= 4
        assert len({each["ShardId"] for each in pushing.agreed}) == (len(shards) if name == "pushed" else 0)
    finish(gateway)
