"""MQTT and STOMP meet SNS: real clients on one side, boto3 on the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Emulator, serving, sqs_client
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient
from tests.rig.counting import SqsClient, depth
from tests.rig.processes import Gateway, gateway_config
from tests.rig.streams import aws_client
from tests.rig.topics import SnsClient, new_topic, subscribed_queue, take_bodies, topic_arn
from tests.rig.waiting import wait_for

ROUTES: list[object] = [
    {"match": {"topic": "out/{topic_name}/#"}, "to": [{"sns": "{topic_name}", "attributes": ["tenant"]}]},
    {"match": {"topic": "ordered/{topic_name}/{group}"}, "to": [{"sns": "{topic_name}.fifo", "group_id": "{group}"}]},
    {"match": {"topic": "both/#"}, "to": [{"sns": "e2e-both"}]},
]

INGRESS: list[object] = [
    {"sns": "e2e-both", "topic": "both/{header:site}"},
    {"sns": "e2e-filtered", "topic": "filtered", "filter": True},
    {"sns": "e2e-queue", "queue": "e2e-jobs"},
    {"sns": "e2e-envelope", "topic": "letters/{subject}", "envelope": True},
]


@pytest.fixture(scope="module")
def sqs(emulator: Emulator) -> Iterator[SqsClient]:
    client = sqs_client(emulator.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def sns(emulator: Emulator) -> Iterator[SnsClient]:
    client = aws_client("sns", emulator.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def gateway(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests here, with every topic of `INGRESS` attached."""
    config = gateway_config(emulator.url, routes=ROUTES, ingress=INGRESS, receiver={"wait": 1, "visibility": 30})
    running = Gateway(config, tmp_path_factory.mktemp("sns"))
    with serving(running):
        wait_for(lambda: running.log.count("ingress_attached") == len(INGRESS), "all topics are listened to")
        yield running


def test_filter_policies_choose_by_key_and_header(
    gateway: Gateway, sns: SnsClient, sqs: SqsClient, queue_name: str
) -> None:
    arn = new_topic(sns, queue_name)
    policies = {
        "north": {"mqlift.key": [{"prefix": f"out.{queue_name}.north."}]},
        "acme": {"tenant": ["acme"]},
    }
    urls = {
        name: subscribed_queue(sns, sqs, arn, f"{queue_name}-{name}", FilterPolicy=json.dumps(policy))
        for name, policy in policies.items()
    }
    with MqttPublisher(gateway.port("mqtt")) as publisher, StompClient(gateway.port("stomp")) as stomp:
        publisher.publish(f"out/{queue_name}/north/1", "by mqtt")
        publisher.publish(f"out/{queue_name}/south/1", "for nobody")
        stomp.send(f"/topic/out.{queue_name}.south.2", "by stomp", tenant="acme")
        publisher.wait_acknowledged(2)
    assert take_bodies(sqs, urls["north"], 1) == ["by mqtt"]
    assert take_bodies(sqs, urls["acme"], 1) == ["by stomp"]
    assert [depth(sqs, url) for url in urls.values()] == [(0, 0), (0, 0)]


def test_publishes_to_a_fifo_topic_keep_their_order(
    gateway: Gateway, sns: SnsClient, sqs: SqsClient, queue_name: str
) -> None:
    with MqttPublisher(gateway.port("mqtt")) as publisher:
        publisher.publish(f"ordered/{queue_name}/g", "first makes the topic")
        publisher.wait_acknowledged(1)
        arn = topic_arn(sns, f"{queue_name}.fifo")
        url = subscribed_queue(sns, sqs, arn, f"{queue_name}-in.fifo")
        sent = [f"{number}" for number in range(50)]
        publisher.publish_all(f"ordered/{queue_name}/g", sent)
        publisher.wait_acknowledged(51)
    assert take_bodies(sqs, url, 50) == sent


def test_what_is_published_natively_comes_once_to_mqtt_and_stomp(gateway: Gateway, sns: SnsClient) -> None:
    arn = topic_arn(sns, "e2e-both")
    with MqttSubscriber(gateway.port("mqtt")) as mqtt, StompClient(gateway.port("stomp")) as stomp:
        mqtt.subscribe("both/#")
        stomp.subscribe("/topic/both.#")
        for number in range(20):
            site = {"site": {"DataType": "String", "StringValue": "north"}}
            sns.publish(TopicArn=arn, Message=f"{number}", MessageAttributes=site if number % 2 else {})
        mqtt.wait_messages(20)
        stomp.wait_deliveries(20)
        sns.publish(TopicArn=arn, Message="last")
        mqtt.wait_messages(21)
        stomp.wait_deliveries(21)
    expected = sorted([*(f"{number}" for number in range(20)), "last"])
    assert sorted(message.body.decode() for message in mqtt.messages) == expected
    assert sorted(delivery.body for delivery in stomp.deliveries) == expected
    assert {message.topic for message in mqtt.messages} == {"both/north", "both/"}


def test_our_own_publish_does_not_come_back(gateway: Gateway, sns: SnsClient, sqs: SqsClient, queue_name: str) -> None:
    arn = topic_arn(sns, "e2e-both")
    url = subscribed_queue(sns, sqs, arn, queue_name)
    ingress = sqs.get_queue_url(QueueName="mqlift-ingress-e2e-both")["QueueUrl"]
    with MqttSubscriber(gateway.port("mqtt")) as mqtt:
        mqtt.subscribe("both/#")
        with MqttPublisher(gateway.port("mqtt")) as publisher:
            publisher.publish_all("both/here", ["ours 1", "ours 2"])
            publisher.wait_acknowledged(2)
        sns.publish(TopicArn=arn, Message="theirs")
        mqtt.wait_messages(3)
        wait_for(lambda: depth(sqs, ingress) == (0, 0), "the gateway has taken everything")
    assert sorted(message.body for message in mqtt.messages) == [b"ours 1", b"ours 2", b"theirs"]
    # What came from the topic was published under a rule for that topic, and did not go there again.
    assert sorted(take_bodies(sqs, url, 3)) == ["ours 1", "ours 2", "theirs"]
    assert depth(sqs, url) == (0, 0)


def test_sns_filters_where_it_is_asked_to(gateway: Gateway, sns: SnsClient) -> None:
    arn = topic_arn(sns, "e2e-filtered")
    subscriptions = sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]
    (attributes,) = [
        sns.get_subscription_attributes(SubscriptionArn=each["SubscriptionArn"])["Attributes"] for each in subscriptions
    ]
    assert json.loads(attributes["FilterPolicy"]) == {
        "mqlift.origin": [{"exists": False}, {"anything-but": ["mqlift"]}]
    }
    with MqttSubscriber(gateway.port("mqtt")) as mqtt:
        mqtt.subscribe("filtered")
        for origin in ("mqlift", "another"):
            told = {"mqlift.origin": {"DataType": "String", "StringValue": origin}}
            sns.publish(TopicArn=arn, Message=f"of {origin}", MessageAttributes=told)
        sns.publish(TopicArn=arn, Message="native", MessageAttributes={"a": {"DataType": "String", "StringValue": "b"}})
        mqtt.wait_messages(2)
    assert sorted(message.body for message in mqtt.messages) == [b"native", b"of another"]


def test_a_topic_feeds_a_queue_of_the_gateway(gateway: Gateway, sns: SnsClient) -> None:
    kind = {"kind": {"DataType": "String", "StringValue": "urgent"}}
    with StompClient(gateway.port("stomp")) as stomp:
        stomp.subscribe("/queue/e2e-jobs")
        sns.publish(TopicArn=topic_arn(sns, "e2e-queue"), Message="a job", MessageAttributes=kind)
        (delivery,) = stomp.wait_deliveries(1)
    assert (delivery.body, delivery.headers["kind"]) == ("a job", "urgent")


def test_envelopes_are_taken_off(gateway: Gateway, sns: SnsClient) -> None:
    kind = {"kind": {"DataType": "String", "StringValue": "urgent"}}
    with StompClient(gateway.port("stomp")) as stomp:
        stomp.subscribe("/topic/letters.*")
        arn = topic_arn(sns, "e2e-envelope")
        sns.publish(TopicArn=arn, Message="dear all", Subject="greetings", MessageAttributes=kind)
        (delivery,) = stomp.wait_deliveries(1)
    assert delivery.body == "dear all"
    assert delivery.headers["destination"] == "/topic/letters.greetings"
    assert delivery.headers["kind"] == "urgent"


def test_an_attached_topic_stays_attached(gateway: Gateway, emulator: Emulator, sns: SnsClient, tmp_path: Any) -> None:
    """A second replica finds queue, policy and subscription as it wants them."""
    config = gateway_config(emulator.url, ingress=INGRESS, receiver={"wait": 1})
    replica = Gateway(config, tmp_path)
    with serving(replica):
        wait_for(lambda: replica.log.count("ingress_attached") == len(INGRESS), "all topics are listened to")
    for entry in INGRESS:
        arn = topic_arn(sns, entry["sns"])  # type: ignore[index]
        endpoints = [each["Endpoint"] for each in sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]]
        assert sum(":mqlift-ingress-" in endpoint for endpoint in endpoints) == 1
