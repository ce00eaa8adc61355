"""What a rule asks of SNS, SQS, Kinesis and Firehose, seen from AWS; and what comes in from there, however odd."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator

import pytest
import zstandard
from aws_kinesis_agg.aggregator import RecordAggregator  # type: ignore[import-untyped]
from aws_kinesis_agg.deaggregator import deaggregate_records  # type: ignore[import-untyped]

from tests.conftest import serving
from tests.rig.amqp import AmqpClient
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient
from tests.rig.counting import SqsClient, depth
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import Client, Record, aws_client, delivered_objects, make_delivery_stream, stream_records
from tests.rig.topics import new_topic, subscribed_queue, take_bodies, topic_arn
from tests.rig.waiting import wait_for

ROUTES: list[object] = [
    {
        "match": {"topic": "told/{name}/{kind}"},
        "to": [{"sns": "{name}", "subject": "{kind} of {client_id}", "attributes": ["tenant"]}],
    },
    {
        "match": {"topic": "once/{name}/{group}"},
        "to": [{"sns": "{name}.fifo", "group_id": "{group}", "deduplication_id": "{json:id}"}],
    },
    {
        "match": {"topic": "packed/{name}"},
        "to": [{"sqs": "{name}", "compression": "zstd", "content_type": "text/plain", "attributes": ["tenant"]}],
    },
    {
        "match": {"topic": "archived/{name}"},
        "to": [{"firehose": "{name}", "envelope": "json", "compression": "gzip", "delimiter": "\n"}],
    },
    {
        "match": {"topic": "joined/{name}/{device}"},
        "to": [{"kinesis": "{name}", "partition_key": "{device}", "aggregate": True}],
    },
    {"match": {"queue": "stream-{name}"}, "to": [{"kinesis": "{name}"}]},
]

INGRESS: list[object] = [
    {"sns": "e2e-odd", "topic": "odd/{subject}", "envelope": True},
    {"sns": "e2e-odd-header", "topic": "{header:site}"},
    {"sns": "e2e-lanes.fifo", "topic": "lanes/{header:lane}"},
]


@pytest.fixture(scope="module")
def gateway(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = gateway_config(
        ministack.url,
        protocols=("mqtt", "stomp", "amqp091"),
        routes=ROUTES,
        ingress=INGRESS,
        receiver={"wait": 1, "visibility": 30},
    )
    running = Gateway(config, tmp_path_factory.mktemp("rules"))
    with serving(running):
        wait_for(lambda: running.log.count("ingress_attached") == len(INGRESS), "all topics are listened to")
        yield running


def kpl_bodies(record: Record) -> list[str]:
    """The user records in a record, as AWS's own library for Lambda takes them out."""
    data = base64.b64encode(record["Data"])
    fields = {
        "kinesisSchemaVersion": "1.0",
        "sequenceNumber": record["SequenceNumber"],
        "approximateArrivalTimestamp": 1.0,
        "partitionKey": record["PartitionKey"],
        "data": data,
    }
    return [base64.b64decode(each["kinesis"]["data"]).decode() for each in deaggregate_records([{"kinesis": fields}])]


def test_a_subject(gateway: Gateway, sns: Client, sqs: SqsClient, queue_name: str) -> None:
    url = sqs.create_queue(QueueName=queue_name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=new_topic(sns, queue_name), Protocol="sqs", Endpoint=arn)
    with MqttPublisher(gateway.port("mqtt"), "dev\u00e9-1") as publisher:
        publisher.publish(f"told/{queue_name}/alarm", "hot")
        publisher.wait_acknowledged(1)
    (body,) = take_bodies(sqs, url, 1)
    notification = json.loads(body)
    assert (notification["Message"], notification["Subject"]) == ("hot", "alarm of dev -1")


def test_a_deduplication_id(gateway: Gateway, sns: Client, sqs: SqsClient, queue_name: str) -> None:
    arn = new_topic(sns, f"{queue_name}.fifo")
    url = subscribed_queue(sns, sqs, arn, f"{queue_name}.fifo")
    bodies = [json.dumps({"id": identity, "n": number}) for number, identity in enumerate("abacb")]
    with MqttPublisher(gateway.port("mqtt")) as publisher:
        publisher.publish_all(f"once/{queue_name}/g", bodies)
        publisher.wait_acknowledged(len(bodies))
    assert [json.loads(body)["n"] for body in take_bodies(sqs, url, 3)] == [0, 1, 3]
    assert depth(sqs, url) == (0, 0)


def test_compression_and_content_type(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    with StompClient(gateway.port("stomp")) as stomp:
        stomp.send(f"/topic/packed.{queue_name}", "body " * 100, tenant="acme")
    (received,) = sqs.receive_message(
        QueueUrl=queue, WaitTimeSeconds=5, MessageAttributeNames=["All"], VisibilityTimeout=0
    )["Messages"]
    attributes = received["MessageAttributes"]
    assert attributes["tenant"]["StringValue"] == "acme"
    meta = json.loads(attributes["mqlift.meta"]["StringValue"])["p"]
    assert (meta["ct"], meta["ce"]) == ("text/plain", "zstd")
    with AmqpClient(gateway.port("amqp091")) as amqp:
        amqp.declare(queue_name)
        _method, properties, body = amqp.channel.basic_get(queue_name, auto_ack=True)
        assert (properties.content_type, properties.content_encoding) == ("text/plain", "zstd")
        assert zstandard.ZstdDecompressor().decompress(body) == b"body " * 100


def test_an_archive_of_envelopes(gateway: Gateway, ministack: Ministack, queue_name: str) -> None:
    s3 = aws_client("s3", ministack.url)
    make_delivery_stream(aws_client("firehose", ministack.url), s3, queue_name)
    with MqttPublisher(gateway.port("mqtt"), "d") as publisher:
        publisher.publish_all(f"archived/{queue_name}", [f"{number}" for number in range(30)])
        publisher.wait_acknowledged(30)
    lines = gzip.decompress(b"".join(delivered_objects(s3, queue_name))).splitlines()
    assert sorted(int(json.loads(line)["body"]) for line in lines) == list(range(30))


def test_the_kpl_reads_what_was_joined(gateway: Gateway, kinesis: Client, queue_name: str) -> None:
    kinesis.create_stream(StreamName=queue_name, ShardCount=1)
    bodies = [f"{number}" for number in range(300)]
    with MqttPublisher(gateway.port("mqtt")) as publisher:
        publisher.publish_all(f"joined/{queue_name}/7", bodies)
        publisher.wait_acknowledged(len(bodies))
    records = stream_records(kinesis, queue_name)
    assert len(records) < len(bodies)
    assert [body for each in records for body in kpl_bodies(each)] == bodies


def test_what_the_kpl_joined_is_read(gateway: Gateway, kinesis: Client, queue_name: str) -> None:
    kinesis.create_stream(StreamName=queue_name, ShardCount=1)
    aggregator = RecordAggregator()
    for number in range(50):
        assert aggregator.add_user_record(f"k{number % 3}", f"{number}".encode()) is None
    key, hash_key, data = aggregator.clear_and_get().get_contents()
    kinesis.put_record(StreamName=queue_name, PartitionKey=key, ExplicitHashKey=hash_key or "0", Data=data)
    with StompClient(gateway.port("stomp")) as stomp:
        stomp.subscribe(f"/queue/stream-{queue_name}", **{"x-stream-offset": "first"})  # type: ignore[arg-type]
        deliveries = stomp.wait_deliveries(50)
    assert [each.body for each in deliveries] == [f"{number}" for number in range(50)]
    assert [each.headers["x-partition-key"] for each in deliveries] == [f"k{number % 3}" for number in range(50)]


def test_a_fifo_topic_comes_in_in_order(gateway: Gateway, sns: Client) -> None:
    arn = topic_arn(sns, "e2e-lanes.fifo")
    lanes: dict[str, list[str]] = {lane: [] for lane in "abc"}
    with MqttSubscriber(gateway.port("mqtt")) as mqtt:
        mqtt.subscribe("lanes/+")
        for number in range(30):
            entries = []
            for lane, bodies in lanes.items():
                bodies.append(f"{lane} {number}")
                entries.append(
                    {
                        "Id": lane,
                        "Message": bodies[-1],
                        "MessageGroupId": lane,
                        "MessageDeduplicationId": bodies[-1].replace(" ", "-"),
                        "MessageAttributes": {"lane": {"DataType": "String", "StringValue": lane}},
                    }
                )
            assert not sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries).get("Failed")
        mqtt.wait_messages(90)
    heard: dict[str, list[str]] = {}
    for each in mqtt.messages:
        heard.setdefault(each.topic.removeprefix("lanes/"), []).append(each.body.decode())
    assert heard == lanes


SUBJECTS: dict[str, str | None] = {
    "plain": "plain",
    "#": None,
    "+": None,
    "a/+/b": None,
    "a.b": "a.b",
    "*": "*",
    "\u00fc": "\u00fc",
    "/": "/",
}
"""What an envelope may say, and what MQTT hears of it: nothing where it is no name of a topic [MQTT-4.7.1-1]."""


def test_subjects_that_are_no_topics(gateway: Gateway, sns: Client) -> None:
    arn = topic_arn(sns, "e2e-odd")
    with MqttSubscriber(gateway.port("mqtt")) as mqtt, StompClient(gateway.port("stomp")) as stomp:
        mqtt.subscribe("odd/#")
        stomp.subscribe("/topic/odd.#")
        for subject in SUBJECTS:
            sns.publish(TopicArn=arn, Message=subject, Subject=subject)
        stomp.wait_deliveries(len(SUBJECTS))
        mqtt.wait_messages(sum(topic is not None for topic in SUBJECTS.values()))
        assert not mqtt.disconnects
    assert sorted(each.body for each in stomp.deliveries) == sorted(SUBJECTS)
    heard = {each.body.decode(): each.topic for each in mqtt.messages}
    assert heard == {subject: f"odd/{topic}" for subject, topic in SUBJECTS.items() if topic is not None}


SITES = ["", "a", "#", "x" * 300, "y" * 70_000, "a\x01b", "a//b"]


def test_headers_that_are_no_topics(gateway: Gateway, sns: Client) -> None:
    """Whatever a native producer writes: a routing key may be too long for AMQP, and too much for MQTT."""
    arn = topic_arn(sns, "e2e-odd-header")
    with (
        MqttSubscriber(gateway.port("mqtt")) as mqtt,
        StompClient(gateway.port("stomp")) as stomp,
        AmqpClient(gateway.port("amqp091")) as amqp,
    ):
        mqtt.subscribe("#")
        stomp.subscribe("/topic/#")
        amqp.declare("odd-header-queue")
        amqp.channel.queue_bind("odd-header-queue", "amq.topic", "#")
        for number, site in enumerate(SITES):
            attributes = {"site": {"DataType": "String", "StringValue": site}} if site else {}
            sns.publish(TopicArn=arn, Message=f"{number}", MessageAttributes=attributes)
        bodies = [f"{number}" for number in range(len(SITES))]
        assert sorted(each.body for each in stomp.wait_deliveries(len(SITES))) == bodies
        assert sorted(amqp.take("odd-header-queue").body for _ in SITES) == bodies
        heard = {SITES[int(each.body)]: each.topic for each in mqtt.wait_messages(4)}
        assert heard == {site: site for site in ("a", "x" * 300, "a\x01b", "a//b")}
        assert not mqtt.disconnects
