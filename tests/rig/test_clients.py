"""The wrapped clients report what really happened; against a gateway, since only a broker can tell."""

from __future__ import annotations

import pytest

from tests.conftest import GatewayFactory
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient
from tests.rig.counting import (
    SqsClient,
    assert_deleted_after_ack,
    assert_exactly,
    assert_stored_before_acknowledged,
    depth,
    drain,
)
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

BODIES = [f"message {number}" for number in range(50)]


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, faults: FaultEndpoint, queue_name: str) -> Gateway:
    """A gateway behind the fault endpoint, with the topic `in/#` mapped to the test's queue."""
    return gateway_factory(faults.url, routes=[{"match": {"topic": "in/#"}, "to": [{"queue": queue_name}]}])


def test_a_publisher_knows_what_was_acknowledged_and_when(
    gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str
) -> None:
    with MqttPublisher(gateway.port("mqtt"), "publisher") as publisher:
        publisher.publish_all("in/a", BODIES)
        publisher.wait_acknowledged(len(BODIES))
    assert set(publisher.acknowledged) == set(BODIES)
    assert_stored_before_acknowledged(publisher.acknowledged, faults.stored())
    assert_exactly(BODIES, drain(sqs, queue))


def test_a_subscriber_keeps_what_comes(gateway: Gateway) -> None:
    with (
        MqttSubscriber(gateway.port("mqtt"), "subscriber") as subscriber,
        MqttPublisher(gateway.port("mqtt"), "publisher") as publisher,
    ):
        assert subscriber.subscribe("live/+") == 1
        publisher.publish("live/1", "hello")
        message = subscriber.wait_messages(1)[0]
        assert (message.topic, message.body, message.retain) == ("live/1", b"hello", False)


def test_a_publisher_notices_a_lost_connection(gateway: Gateway) -> None:
    with MqttPublisher(gateway.port("mqtt"), "publisher") as publisher:
        publisher.drop()
        wait_for(lambda: publisher.disconnects, "the loss is noticed")
        wait_for(lambda: publisher.connected, "paho is back")
        publisher.publish("in/a", "after all")
        publisher.wait_acknowledged(1)


def test_a_consumer_acknowledges_and_notes_when(
    gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    for body in BODIES:
        sqs.send_message(QueueUrl=queue, MessageBody=body)
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        consumer.wait_deliveries(len(BODIES))
        wait_for(lambda: depth(sqs, queue) == (0, 0), "everything is deleted")
    assert_exactly(BODIES, [delivery.body for delivery in consumer.deliveries])
    assert_deleted_after_ack(consumer.acknowledged, faults.deleted())


def test_a_consumer_gives_back_and_gets_again(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="twice")
    with StompClient(gateway.port("stomp"), decide=lambda each: "ack" if each.redelivered else "nack") as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        assert [each.redelivered for each in consumer.wait_deliveries(2)] == [False, True]
        wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")


def test_what_a_dropped_consumer_held_comes_back(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="held")
    with StompClient(gateway.port("stomp"), decide=lambda _: None) as careless:
        careless.subscribe(f"/queue/{queue_name}")
        careless.wait_deliveries(1)
        careless.drop()
    with StompClient(gateway.port("stomp")) as careful:
        careful.subscribe(f"/queue/{queue_name}")
        assert careful.wait_deliveries(1)[0].redelivered
        wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")


def test_a_send_waits_for_its_receipt(gateway: Gateway, faults: FaultEndpoint, queue_name: str) -> None:
    with StompClient(gateway.port("stomp")) as sender:
        sender.send(f"/queue/{queue_name}", "safe")
        assert [each.body for each in faults.stored(queue_name)] == ["safe"]


def test_a_refused_send_says_why(gateway: Gateway) -> None:
    with StompClient(gateway.port("stomp")) as sender, pytest.raises(AssertionError, match="refused"):
        sender.send("no/where", "lost")
