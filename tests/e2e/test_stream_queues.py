"""Kinesis as a replayable queue, with a real client, through every shard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.kinesis.aggregation import aggregate
from tests.conftest import finish
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient, StompDelivery
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import Client
from tests.rig.waiting import wait_for

TRUCKS = 100
POSITIONS = 1_000
SHARDS = 5

ROUTES: list[object] = [{"match": {"queue": "stream-{name}"}, "to": [{"kinesis": "{name}"}]}]


def put(kinesis: Client, stream: str, records: list[tuple[str, str]]) -> None:
    """Write (key, body) natively, five hundred at a time."""
    for begin in range(0, len(records), 500):
        batch = [{"PartitionKey": key, "Data": body.encode()} for key, body in records[begin : begin + 500]]
        assert kinesis.put_records(StreamName=stream, Records=batch)["FailedRecordCount"] == 0


def by_truck(deliveries: list[StompDelivery]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for delivery in list(deliveries):
        found.setdefault(delivery.body.partition(" ")[0], []).append(delivery.body)
    return found


def test_a_hundred_trucks_in_order_and_again_from_the_beginning(
    gateway_factory: Callable[..., Gateway], kinesis: Client, queue_name: str
) -> None:
    gateway = gateway_factory(routes=ROUTES)
    kinesis.create_stream(StreamName=queue_name, ShardCount=SHARDS)
    sent = {f"truck-{truck}": [f"truck-{truck} {number}" for number in range(POSITIONS)] for truck in range(TRUCKS)}
    put(kinesis, queue_name, [(truck, bodies[n]) for n in range(POSITIONS) for truck, bodies in sent.items()])
    for _ in range(2):
        with StompClient(gateway.port("stomp")) as client:
            client.subscribe(f"/queue/stream-{queue_name}", **{"x-stream-offset": "first"})
            client.wait_deliveries(TRUCKS * POSITIONS, timeout=60.0)
            assert by_truck(client.deliveries) == sent
            offset = client.deliveries[-POSITIONS].headers["x-stream-offset"]
            rest = [each.body for each in client.deliveries[-POSITIONS:]]
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/stream-{queue_name}", **{"x-stream-offset": offset})
        client.wait_deliveries(len(rest), timeout=60.0)
        assert sorted(each.body for each in client.deliveries) == sorted(rest)


def test_a_declared_stream_keeps_whole_messages(
    gateway_factory: Callable[..., Gateway], kinesis: Client, queue_name: str
) -> None:
    gateway = gateway_factory(prefix="p-")
    stream = {"x-queue-type": "stream"}
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/{queue_name}", **stream)
        client.send(f"/queue/{queue_name}", "hello", **stream, tenant="a", **{"content-type": "text/plain"})
        client.send(f"/queue/{queue_name}", b"\xff\x00", **stream)
        client.wait_deliveries(2)
        first = next(each for each in client.deliveries if each.body == "hello")
        assert (first.headers["tenant"], first.headers["content-type"]) == ("a", "text/plain")
        assert first.headers["destination"] == f"/queue/{queue_name}"
    summary = kinesis.describe_stream_summary(StreamName=f"p-{queue_name}")["StreamDescriptionSummary"]
    assert summary["StreamStatus"] == "ACTIVE"


def test_what_the_kpl_joined_comes_apart(
    gateway_factory: Callable[..., Gateway], kinesis: Client, queue_name: str
) -> None:
    gateway = gateway_factory(routes=ROUTES)
    kinesis.create_stream(StreamName=queue_name, ShardCount=1)
    kinesis.put_record(StreamName=queue_name, PartitionKey="k", Data=aggregate("k", [b"one", b"two", b"three"]))
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/stream-{queue_name}", **{"x-stream-offset": "first"})
        assert [each.body for each in client.wait_deliveries(3)] == ["one", "two", "three"]
        offset = client.deliveries[1].headers["x-stream-offset"]
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/stream-{queue_name}", **{"x-stream-offset": offset})
        assert [each.body for each in client.wait_deliveries(2)] == ["two", "three"]


def test_a_checkpoint_survives_a_kill(ministack: Ministack, kinesis: Client, queue_name: str, tmp_path: Path) -> None:
    config = gateway_config(ministack.url, state=f"sqlite://{tmp_path}/state.db", routes=ROUTES)
    gateway = Gateway(config, tmp_path)
    named = {"x-stream-offset": "first", "x-stream-name": "billing"}
    try:
        gateway.start()
        kinesis.create_stream(StreamName=queue_name, ShardCount=2)
        put(kinesis, queue_name, [(str(number % 7), f"record-{number}") for number in range(100)])
        kept: list[StompDelivery] = []

        def decide(delivery: StompDelivery) -> str | None:
            if len(kept) >= 10 or int(delivery.body.partition("-")[2]) >= 50:
                kept.append(delivery)
                return None
            return "ack"

        client = StompClient(gateway.port("stomp"), decide=decide)  # type: ignore[arg-type]
        with client:
            client.subscribe(f"/queue/stream-{queue_name}", **named)
            client.wait_deliveries(100)
            acknowledged = set(client.acknowledged)
            wait_for(lambda: gateway.metric("mqlift_unsettled_deliveries") == 100 - len(acknowledged), "acknowledged")
            put(kinesis, queue_name, [("1", "later")])
            client.wait_deliveries(101)
            gateway.kill9()
        gateway.start()
        with StompClient(gateway.port("stomp")) as client:
            client.subscribe(f"/queue/stream-{queue_name}", **named)
            wait_for(lambda: any(each.body == "later" for each in client.deliveries), "the end is reached")
            missing = {f"record-{number}" for number in range(100)} - acknowledged
            wait_for(lambda: missing <= {each.body for each in client.deliveries}, "what was not acknowledged")
            assert len(client.deliveries) < 101, "what was acknowledged is behind the checkpoint"
    finally:
        finish(gateway)


def test_what_a_stream_cannot_do_is_told(
    gateway_factory: Callable[..., Gateway], kinesis: Client, queue_name: str
) -> None:
    gateway = gateway_factory(routes=ROUTES)
    kinesis.create_stream(StreamName=queue_name, ShardCount=1)
    destination = f"/queue/stream-{queue_name}"
    for headers, problem in (
        ({"x-stream-offset": "middle"}, "x-stream-offset"),
        ({"x-stream-offset": "17"}, "x-stream-offset"),
        ({"ack": "auto"}, "automatic acknowledgement"),
    ):
        with StompClient(gateway.port("stomp")) as client, pytest.raises(AssertionError, match=problem):
            client.subscribe(destination, **headers)  # type: ignore[arg-type]


def test_topics_that_a_stream_feeds(gateway_factory: Callable[..., Gateway], kinesis: Client, queue_name: str) -> None:
    kinesis.create_stream(StreamName=queue_name, ShardCount=2)
    target = {"kinesis": queue_name, "partition_key": "{truck}", "envelope": "json", "tail": "fed/{partition_key}/at"}
    gateway = gateway_factory(routes=[{"match": {"topic": "fed/{truck}/at"}, "to": [target]}])
    with MqttSubscriber(gateway.port("mqtt")) as subscriber, MqttPublisher(gateway.port("mqtt"), "truck") as publisher:
        subscriber.subscribe("fed/#", qos=0)

        def native_is_seen() -> bool:
            kinesis.put_record(StreamName=queue_name, PartitionKey="8", Data=b"native")
            return any(each.body == b"native" for each in list(subscriber.messages))

        wait_for(native_is_seen, "the gateway reads at the end of the stream")
        publisher.publish("fed/7/at", "ours")
        publisher.wait_acknowledged(1)
        kinesis.put_record(StreamName=queue_name, PartitionKey="7", Data=b"behind it")  # of the same shard
        wait_for(lambda: any(each.body == b"behind it" for each in subscriber.messages), "what came after")
        assert {each.topic for each in subscriber.messages if each.body == b"native"} == {"fed/8/at"}
        assert [each.topic for each in subscriber.messages if each.body == b"ours"] == ["fed/7/at"]
