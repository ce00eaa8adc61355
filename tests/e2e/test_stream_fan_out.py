"""Enhanced fan-out with real clients: what is brought, renewed, cut, taken over and resharded."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.core.streams.group import CHECKPOINT_SECONDS
from tests.conftest import finish
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient
from tests.rig.fan_out import Ending, FanOutEndpoint
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import Client
from tests.rig.waiting import wait_for

SHARDS = 3
ROUTES: list[object] = [
    {"match": {"queue": "stream-{name}"}, "to": [{"kinesis": "{name}", "enhanced_fan_out": ["billing", "audit"]}]}
]
BILLING = {"x-stream-name": "billing", "x-stream-offset": "first"}


@pytest.fixture
def stream(kinesis: Client, queue_name: str) -> str:
    kinesis.create_stream(StreamName=queue_name, ShardCount=SHARDS)
    return queue_name


def put(kinesis: Client, stream: str, *bodies: str) -> None:
    """Written natively, each body with a key of its own."""
    records = [{"PartitionKey": body, "Data": body.encode()} for body in bodies]
    assert kinesis.put_records(StreamName=stream, Records=records)["FailedRecordCount"] == 0


def consumers_of(kinesis: Client, stream: str) -> list[str]:
    """Those that are registered."""
    arn = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    return [each["ConsumerName"] for each in kinesis.list_stream_consumers(StreamARN=arn)["Consumers"]]


def bodies(*clients: StompClient) -> set[str]:
    return {each.body for client in clients for each in list(client.deliveries)}


def texts(begin: int, end: int) -> list[str]:
    return [f"record {number}" for number in range(begin, end)]


@pytest.mark.parametrize("transport", ["lean", "aiobotocore"])
def test_from_the_first_and_what_comes(
    transport: str, gateway_factory: Callable[..., Gateway], ministack: Ministack, kinesis: Client, stream: str
) -> None:
    aws = {"region": "us-east-1", "endpoint_url": ministack.url, "transport": transport}
    gateway = gateway_factory(routes=ROUTES, aws=aws)
    put(kinesis, stream, *texts(0, 100))
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/stream-{stream}", **BILLING)
        client.wait_deliveries(100)
        put(kinesis, stream, *texts(100, 200))
        client.wait_deliveries(200)
        assert sorted(each.body for each in client.deliveries) == sorted(texts(0, 200))
        calls = [each for each in gateway.metrics().items() if "_total{" in each[0] and "SubscribeToShard" in each[0]]
        assert [count for name, count in calls if 'outcome="accepted"' in name] == [SHARDS]
    assert consumers_of(kinesis, stream) == ["billing"]


def test_replay_gives_the_same_again(gateway_factory: Callable[..., Gateway], kinesis: Client, stream: str) -> None:
    """Another name, from the first and from an offset."""
    gateway = gateway_factory(routes=ROUTES)
    put(kinesis, stream, *texts(0, 100))
    found = []
    for name in ("billing", "audit"):
        with StompClient(gateway.port("stomp")) as client:
            client.subscribe(f"/queue/stream-{stream}", **BILLING | {"x-stream-name": name})
            client.wait_deliveries(100)
            found.append(client.deliveries[:])
    by_shard = [
        {
            shard: [each.body for each in one if each.headers["x-stream-offset"].startswith(f"{shard}@")]
            for shard in range(SHARDS)
        }
        for one in found
    ]
    assert by_shard[0] == by_shard[1]
    with StompClient(gateway.port("stomp")) as client:
        headers = {"x-stream-offset": found[0][50].headers["x-stream-offset"]}
        client.subscribe(f"/queue/stream-{stream}", **headers)
        client.wait_deliveries(50)
        assert sorted(each.body for each in client.deliveries) == sorted(each.body for each in found[0][50:])


@pytest.mark.parametrize("ending", list(Ending))
def test_nothing_is_lost_or_doubled_when_subscriptions_end(
    ending: Ending, gateway_factory: Callable[..., Gateway], ministack: Ministack, kinesis: Client, stream: str
) -> None:
    put(kinesis, stream, *texts(0, 100))
    with FanOutEndpoint(ministack.url) as endpoint:
        endpoint.endings.extend([ending] * SHARDS)
        gateway = gateway_factory(endpoint.url, routes=ROUTES)
        with StompClient(gateway.port("stomp")) as client:
            client.subscribe(f"/queue/stream-{stream}", **BILLING)
            for begin in range(0, 400, 100):
                client.wait_deliveries(begin + 100)
                put(kinesis, stream, *texts(begin + 100, begin + 200))
            client.wait_deliveries(500)
            assert sorted(each.body for each in client.deliveries) == sorted(texts(0, 500))
        finish(gateway)
        assert len(endpoint.agreed) >= 2 * SHARDS
        assert not endpoint.reads


def test_subscriptions_are_renewed(
    gateway_factory: Callable[..., Gateway], ministack: Ministack, kinesis: Client, stream: str
) -> None:
    with FanOutEndpoint(ministack.url, subscription_seconds=6.0) as endpoint:
        gateway = gateway_factory(endpoint.url, routes=ROUTES)
        with StompClient(gateway.port("stomp")) as client:
            client.subscribe(f"/queue/stream-{stream}", **BILLING)
            count = 0
            while len(endpoint.agreed) < 2 * SHARDS + 1:
                put(kinesis, stream, f"record {count}")
                count += 1
                client.wait_deliveries(count)
            assert sorted(each.body for each in client.deliveries) == sorted(texts(0, count))
        finish(gateway)


def test_kill_9_goes_on_behind_what_was_acknowledged(
    ministack: Ministack, kinesis: Client, stream: str, tmp_path: Path
) -> None:
    config = gateway_config(ministack.url, routes=ROUTES, state=f"sqlite://{tmp_path / 'state.db'}")
    gateway = Gateway(config, tmp_path)
    gateway.start()
    put(kinesis, stream, *texts(0, 100))
    with StompClient(gateway.port("stomp"), decide=lambda _: None) as client:
        client.subscribe(f"/queue/stream-{stream}", **BILLING)
        first = client.wait_deliveries(100)[:60]
        for delivery in first:
            client.ack(delivery)
        wait_for(lambda: gateway.metric("mqlift_unsettled_deliveries") == 40, "the acknowledgements are there")
        time.sleep(2 * CHECKPOINT_SECONDS)  # nothing outside tells that it was written
        gateway.kill9()
    gateway.start()
    put(kinesis, stream, *texts(100, 150))
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/stream-{stream}", **BILLING)
        acknowledged, expected = {each.body for each in first}, set(texts(0, 150))
        wait_for(lambda: {each.body for each in client.deliveries} >= expected - acknowledged, "the rest")
        again = {each.body for each in client.deliveries} & acknowledged
        assert len(again) < len(acknowledged), "what was acknowledged without a gap does not come again"
        assert len(client.deliveries) == len(bodies(client))
    finish(gateway)


def test_gateways_with_one_state_share_the_shards_and_take_them_over(
    gateway_factory: Callable[..., Gateway], kinesis: Client, stream: str
) -> None:
    state = f"dynamodb://{stream}"
    one, other = (gateway_factory(routes=ROUTES, state=state) for _ in range(2))
    with StompClient(one.port("stomp")) as first, StompClient(other.port("stomp")) as second:
        first.subscribe(f"/queue/stream-{stream}", **BILLING)
        second.subscribe(f"/queue/stream-{stream}", **BILLING)
        wait_for(lambda: "shard_taken" in one.log and "shard_taken" in other.log, "both have shards")
        put(kinesis, stream, *texts(0, 100))
        wait_for(lambda: bodies(first, second) == set(texts(0, 100)), "everything has come")
        before = len(second.deliveries)
        one.kill9()
        put(kinesis, stream, *texts(100, 200))
        wait_for(lambda: bodies(first, second) == set(texts(0, 200)), "the other one has taken over")
        assert len(second.deliveries) > before


def test_a_tail_reaches_live_subscribers_at_once(
    gateway_factory: Callable[..., Gateway], kinesis: Client, stream: str
) -> None:
    rule = {"kinesis": stream, "tail": "t/{partition_key}", "enhanced_fan_out": ["live-{hostname}"]}
    gateway = gateway_factory(routes=[{"match": {"topic": "t/#"}, "to": [rule]}])
    with (
        MqttSubscriber(gateway.port("mqtt"), "subscriber") as subscriber,
        MqttPublisher(gateway.port("mqtt"), "publisher") as publisher,
    ):
        subscriber.subscribe("t/#")

        def native_is_seen() -> bool:
            put(kinesis, stream, "native")
            return bool(subscriber.messages)

        wait_for(native_is_seen, "the gateway is brought what is written")
        publisher.publish("t/x", "own")
        wait_for(lambda: any(each.body == b"own" for each in list(subscriber.messages)), "it comes by the stream")
        assert {(each.topic, each.body) for each in subscriber.messages} >= {("t/native", b"native")}
        assert {each.body for each in subscriber.messages} == {b"native", b"own"}
    assert consumers_of(kinesis, stream) == [f"live-{socket.gethostname()}"]


def test_a_consumer_that_is_not_registered_is_named(gateway_factory: Callable[..., Gateway], stream: str) -> None:
    gateway = gateway_factory(routes=ROUTES, provision="never")
    refused = pytest.raises(AssertionError, match="no enhanced fan-out consumer billing")
    with StompClient(gateway.port("stomp")) as client, refused:
        client.subscribe(f"/queue/stream-{stream}", **BILLING)
