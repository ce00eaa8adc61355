"""From MQTT and STOMP into Kinesis and Firehose: what boto3 finds there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import serving
from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.counting import SqsClient, assert_exactly
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import (
    Client,
    aws_client,
    bodies_by_key,
    delivered_objects,
    make_delivery_stream,
    stream_records,
)
from tests.rig.waiting import wait_for

TRUCKS = 100
POSITIONS = 30
SHARDS = 5

ROUTES: list[object] = [
    {
        "match": {"topic": "trucks/{stream}/{truck}/position"},
        "to": [{"kinesis": "{stream}", "partition_key": "{truck}"}],
    },
    {
        "match": {"topic": "aggregated/{stream}/{truck}"},
        "to": [{"kinesis": "{stream}", "partition_key": "{truck}", "aggregate": True}],
    },
    {
        "match": {"topic": "keyed/{stream}/#"},
        "to": [{"kinesis": "{stream}", "partition_key": "{json:device.id}", "explicit_hash_key": "{json:hash}"}],
    },
    {
        "match": {"topic": "enveloped/{stream}/#"},
        "to": [{"kinesis": "{stream}", "partition_key": "{client_id}", "envelope": "json", "compression": "gzip"}],
    },
    {"match": {"topic": "copied/{queue}"}, "to": [{"sqs": "{queue}", "envelope": "json"}]},
    {"match": {"topic": "archived/{name}/#"}, "to": [{"firehose": "{name}", "delimiter": "\n"}]},
    {
        "match": {"topic": "tried/{name}"},
        "to": [{"kinesis": "{name}"}, {"firehose": "{name}-absent", "best_effort": True}],
    },
    {"match": {"queue": "into-{stream}"}, "to": [{"kinesis": "{stream}"}]},
]


@pytest.fixture(scope="module", params=["lean", "aiobotocore"])
def gateway(
    request: pytest.FixtureRequest, ministack: Ministack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """One for all tests here, over each transport; rules with captures give each test its own streams."""
    aws = {"region": "us-east-1", "endpoint_url": ministack.url, "transport": request.param}
    running = Gateway(gateway_config(ministack.url, aws=aws, routes=ROUTES), tmp_path_factory.mktemp("streams"))
    with serving(running):
        yield running


@pytest.fixture(scope="module")
def s3(ministack: Ministack) -> Iterator[Client]:
    client = aws_client("s3", ministack.url)
    yield client
    client.close()


@pytest.fixture
def publisher(gateway: Gateway) -> Iterator[MqttPublisher]:
    with MqttPublisher(gateway.port("mqtt"), "truck-fleet") as connected:
        yield connected


@pytest.mark.parametrize("way", ["trucks/{}/{}/position", "aggregated/{}/{}"], ids=["plain", "aggregated"])
def test_each_truck_in_order_through_five_shards(
    way: str, publisher: MqttPublisher, kinesis: Client, queue_name: str
) -> None:
    kinesis.create_stream(StreamName=queue_name, ShardCount=SHARDS)
    sent = {f"truck-{truck}": [f"{truck} at {number}" for number in range(POSITIONS)] for truck in range(TRUCKS)}
    for number in range(POSITIONS):
        for truck, bodies in sent.items():
            publisher.publish(way.format(queue_name, truck), bodies[number])
    publisher.wait_acknowledged(TRUCKS * POSITIONS)
    assert bodies_by_key(kinesis, queue_name) == sent
    assert len({record["ShardId"] for record in stream_records(kinesis, queue_name)}) == SHARDS


def test_a_stream_is_made_where_it_is_missing(publisher: MqttPublisher, kinesis: Client, queue_name: str) -> None:
    publisher.publish(f"trucks/{queue_name}/7/position", "here")
    publisher.wait_acknowledged(1)
    (record,) = stream_records(kinesis, queue_name)
    assert (record["PartitionKey"], record["Data"]) == ("7", b"here")
    summary = kinesis.describe_stream_summary(StreamName=queue_name)["StreamDescriptionSummary"]
    assert summary["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}


def test_keys_from_the_body(publisher: MqttPublisher, kinesis: Client, queue_name: str) -> None:
    kinesis.create_stream(StreamName=queue_name, ShardCount=2)
    for number, device in enumerate("abcd"):
        body = {"device": {"id": device}, "hash": str((number % 2) * (2**128 - 1))}
        publisher.publish(f"keyed/{queue_name}/x", json.dumps(body))
    publisher.wait_acknowledged(4)
    shards: dict[str, set[str]] = {}
    for record in stream_records(kinesis, queue_name):
        shards.setdefault(record["ShardId"], set()).add(record["PartitionKey"])
    assert sorted(map(sorted, shards.values())) == [["a", "c"], ["b", "d"]]


def test_an_envelope(publisher: MqttPublisher, kinesis: Client, queue_name: str) -> None:
    publisher.publish(f"enveloped/{queue_name}/hall/1", "21.5")
    publisher.wait_acknowledged(1)
    (record,) = stream_records(kinesis, queue_name)
    document = json.loads(gzip.decompress(record["Data"]))
    assert record["PartitionKey"] == "truck-fleet"
    assert document.pop("time").endswith("Z")
    assert document == {
        "v": 1,
        "exchange": "amq.topic",
        "topic": f"enveloped/{queue_name}/hall/1",
        "client": "truck-fleet",
        "properties": {"delivery_mode": 2},
        "body": "21.5",
    }


def test_an_envelope_in_sqs(publisher: MqttPublisher, sqs: SqsClient, queue: str, queue_name: str) -> None:
    publisher.publish(f"copied/{queue_name}", "21.5")
    publisher.wait_acknowledged(1)
    (received,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5, MessageAttributeNames=["All"])["Messages"]
    assert json.loads(received["Body"])["body"] == "21.5"
    meta = json.loads(received["MessageAttributes"]["mqlift.meta"]["StringValue"])
    assert meta["p"]["ct"] == "application/json"


def test_an_archive_has_every_record(
    publisher: MqttPublisher, ministack: Ministack, s3: Client, queue_name: str
) -> None:
    make_delivery_stream(aws_client("firehose", ministack.url), s3, queue_name)
    bodies = [f"line {number}" for number in range(200)]
    publisher.publish_all(f"archived/{queue_name}/x", bodies)
    publisher.wait_acknowledged(len(bodies))
    archived = b"".join(delivered_objects(s3, queue_name)).decode()
    assert_exactly(bodies, archived.splitlines())
    assert archived.endswith("\n")


def test_what_a_best_effort_target_does_not_take(
    gateway: Gateway, publisher: MqttPublisher, kinesis: Client, queue_name: str
) -> None:
    before = gateway.metric("mqlift_best_effort_lost_total")
    publisher.publish_all(f"tried/{queue_name}", ["one", "two"])
    publisher.wait_acknowledged(2)
    assert bodies_by_key(kinesis, queue_name) == {f"tried.{queue_name}": ["one", "two"]}
    wait_for(lambda: gateway.metric("mqlift_best_effort_lost_total") == before + 2, "what was lost is counted")
    assert publisher.disconnects == 0


def test_a_queue_that_is_a_stream_gives_and_keeps(gateway: Gateway, kinesis: Client, queue_name: str) -> None:
    with StompClient(gateway.port("stomp")) as client:
        client.send(f"/queue/into-{queue_name}", "order 1")
        client.subscribe(f"/queue/into-{queue_name}", **{"x-stream-offset": "first"})
        assert client.wait_deliveries(1)[0].body == "order 1"
    assert bodies_by_key(kinesis, queue_name) == {f"into-{queue_name}": ["order 1"]}


def test_what_may_not_be_made_is_named(
    gateway_factory: Callable[..., Gateway], kinesis: Client, queue_name: str
) -> None:
    gateway = gateway_factory(routes=ROUTES, provision="never")
    with MqttPublisher(gateway.port("mqtt"), "truck") as publisher:
        publisher.publish(f"trucks/{queue_name}/7/position", "here")
        wait_for(lambda: f"kinesis stream {queue_name}" in gateway.get("/readyz")[1], "the problem is shown")
        assert "create it" in gateway.get("/readyz")[1]
        kinesis.create_stream(StreamName=queue_name, ShardCount=1)
        publisher.wait_acknowledged(1)
    assert "here" in bodies_by_key(kinesis, queue_name)["7"]
