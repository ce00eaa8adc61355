"""Bodies that are too large for SQS and SNS: in S3, as AWS's extended client libraries write and read them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest

from tests.conftest import Emulator, serving, sqs_client
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient
from tests.rig.counting import SqsClient, depth
from tests.rig.processes import Gateway, gateway_config
from tests.rig.streams import aws_client
from tests.rig.topics import new_topic, subscribed_queue
from tests.rig.waiting import wait_for

BUCKET = "mqlift-large"
LARGE = "x" * 1_200_000
"""More than SQS takes."""

ROUTES: list[object] = [
    {"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]},
    {"match": {"topic": "out/{name}/#"}, "to": [{"sns": "{name}"}]},
]


@pytest.fixture(scope="module")
def sqs(emulator: Emulator) -> Iterator[SqsClient]:
    client = sqs_client(emulator.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def s3(emulator: Emulator) -> Iterator[Any]:
    client = aws_client("s3", emulator.url)
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


@pytest.fixture(scope="module")
def extended(emulator: Emulator) -> Iterator[Any]:
    """The extended client of other people. It puts its session in the place of boto3's, which other tests need."""
    sessions = boto3.session.Session, boto3.Session, boto3.DEFAULT_SESSION
    try:
        extension = importlib.import_module("sqs_extended_client")
    finally:
        boto3.session.Session, boto3.Session, boto3.DEFAULT_SESSION = sessions
    session = extension.SQSExtendedClientSession(
        aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    client = session.client("sqs", endpoint_url=emulator.url)
    client.large_payload_support = BUCKET
    client.s3_client = aws_client("s3", emulator.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def gateway(emulator: Emulator, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    large = {"bucket": BUCKET, "remove_after_ack": True}
    config = gateway_config(
        emulator.url,
        routes=ROUTES,
        sqs={"large_payloads": large},
        sns={"large_payloads": large | {"threshold": 1000}},
        receiver={"wait": 1, "visibility": 30},
    )
    for listener in config["listeners"]:  # type: ignore[attr-defined]
        if listener["protocol"] == "mqtt":
            listener["max_packet_size"] = 4_000_000
    running = Gateway(config, tmp_path_factory.mktemp("large"))
    with serving(running):
        yield running


def objects(s3: Any) -> int:
    return int(s3.list_objects_v2(Bucket=BUCKET)["KeyCount"])


def test_a_large_body_goes_through(gateway: Gateway, s3: Any, sqs: SqsClient, queue: str, queue_name: str) -> None:
    before = objects(s3)
    with MqttPublisher(gateway.port("mqtt")) as publisher:
        publisher.publish(f"in/{queue_name}/1", LARGE)
        publisher.publish(f"in/{queue_name}/1", "small")
        publisher.wait_acknowledged(2)
    assert objects(s3) == before + 1
    with StompClient(gateway.port("stomp")) as stomp:
        stomp.subscribe(f"/queue/{queue_name}")
        bodies = [delivery.body for delivery in stomp.wait_deliveries(2)]
        assert sorted(bodies) == ["small", LARGE]
        wait_for(lambda: depth(sqs, queue) == (0, 0), "both are deleted")
        wait_for(lambda: objects(s3) == before, "the body is removed")


def test_the_extended_client_reads_what_we_wrote(gateway: Gateway, extended: Any, queue: str, queue_name: str) -> None:
    with MqttPublisher(gateway.port("mqtt")) as publisher:
        publisher.publish(f"in/{queue_name}/1", LARGE)
        publisher.wait_acknowledged(1)
    answer = extended.receive_message(QueueUrl=queue, MessageAttributeNames=["All"], WaitTimeSeconds=5)
    (message,) = answer["Messages"]
    assert message["Body"] == LARGE
    assert "mqlift.meta" in message["MessageAttributes"]


def test_we_read_what_the_extended_client_wrote(
    gateway: Gateway, extended: Any, s3: Any, queue: str, queue_name: str
) -> None:
    before = objects(s3)
    kind = {"kind": {"DataType": "String", "StringValue": "urgent"}}
    extended.send_message(QueueUrl=queue, MessageBody=LARGE, MessageAttributes=kind)
    assert objects(s3) == before + 1
    with StompClient(gateway.port("stomp")) as stomp:
        stomp.subscribe(f"/queue/{queue_name}")
        (delivery,) = stomp.wait_deliveries(1)
        wait_for(lambda: objects(s3) == before, "the body is removed")
    assert delivery.body == LARGE
    assert delivery.headers["kind"] == "urgent"
    assert "ExtendedPayloadSize" not in delivery.headers


def test_sns_subscribers_get_the_pointer(
    gateway: Gateway, emulator: Emulator, extended: Any, sqs: SqsClient, queue_name: str
) -> None:
    sns = aws_client("sns", emulator.url)
    arn = new_topic(sns, queue_name)
    url = subscribed_queue(sns, sqs, arn, queue_name)
    with MqttPublisher(gateway.port("mqtt")) as publisher, MqttSubscriber(gateway.port("mqtt")) as live:
        live.subscribe(f"out/{queue_name}/#")
        publisher.publish(f"out/{queue_name}/1", LARGE)
        publisher.wait_acknowledged(1)
        (message,) = live.wait_messages(1)
    assert message.body == LARGE.encode()
    answer = extended.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=5)
    (received,) = answer["Messages"]
    assert received["Body"] == LARGE
    sns.close()
