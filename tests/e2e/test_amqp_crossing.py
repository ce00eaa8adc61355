"""Messages cross between AMQP 0-9-1, MQTT and STOMP with their properties and headers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.conftest import serving
from tests.rig.amqp import AmqpClient
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient
from tests.rig.counting import SqsClient
from tests.rig.processes import Gateway, Ministack, gateway_config

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def gateway(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = gateway_config(ministack.url, protocols=("amqp091", "mqtt", "stomp"), receiver={"wait": 1})
    running = Gateway(config, tmp_path_factory.mktemp("amqp"))
    with serving(running):
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[AmqpClient]:
    with AmqpClient(gateway.port("amqp091")) as connected:
        yield connected


@pytest.fixture
def name() -> str:
    return f"crossing-amqp-{next(_numbers)}"


@pytest.mark.parametrize("durable", [True, False])
def test_from_mqtt_to_a_bound_queue(gateway: Gateway, client: AmqpClient, name: str, durable: bool) -> None:
    queue = client.declare(name if durable else "")
    client.channel.queue_bind(queue, "amq.topic", f"{name}.*.#")
    client.consume(queue, no_ack=True)
    with MqttPublisher(gateway.port("mqtt"), name) as publisher:
        publisher.publish(f"{name}/eu/7", "from mqtt")
        [message] = client.wait_received(1)
    assert (message.body, message.routing_key) == ("from mqtt", f"{name}.eu.7")
    assert message.properties.delivery_mode == 2


def test_to_mqtt(gateway: Gateway, client: AmqpClient, name: str) -> None:
    with MqttSubscriber(gateway.port("mqtt"), name) as subscriber:
        subscriber.subscribe(f"{name}/+")
        client.publish(f"{name}.7", "from amqp", "amq.topic")
        [message] = subscriber.wait_messages(1)
    assert (message.topic, message.body) == (f"{name}/7", b"from amqp")


def test_to_stomp_with_properties_and_headers(gateway: Gateway, client: AmqpClient, name: str) -> None:
    client.declare(name)
    headers = {"own": "grün", "n": 5}
    client.publish(name, "from amqp", content_type="text/plain", correlation_id="7", headers=headers)
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{name}")
        [message] = consumer.wait_deliveries(1)
    assert message.body == "from amqp"
    wanted = {"content-type": "text/plain", "correlation-id": "7", "own": "grün", "n": "5"}
    assert wanted.items() <= message.headers.items()


def test_from_stomp_with_properties_and_headers(gateway: Gateway, client: AmqpClient, name: str) -> None:
    client.declare(name)
    with StompClient(gateway.port("stomp")) as sender:
        sender.send(f"/queue/{name}", "from stomp", own="grün", **{"correlation-id": "7", "content-type": "text/plain"})
    message = client.take(name)
    assert (message.body, message.headers["own"]) == ("from stomp", "grün")
    assert (message.properties.correlation_id, message.properties.content_type) == ("7", "text/plain")


def test_a_native_message_is_delivered(client: AmqpClient, sqs: SqsClient, name: str) -> None:
    client.declare(name)
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    attributes = {"tenant": {"DataType": "String", "StringValue": "a"}, "n": {"DataType": "Number", "StringValue": "7"}}
    sqs.send_message(QueueUrl=url, MessageBody="native", MessageAttributes=attributes)
    message = client.take(name)
    assert (message.body, message.routing_key) == ("native", name)
    assert (message.headers["tenant"], message.headers["n"]) == ("a", 7)


def test_a_message_is_readable_in_sqs(client: AmqpClient, sqs: SqsClient, name: str) -> None:
    client.declare(name)
    client.publish(name, "to aws", headers={"own": 1})
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    assert message["Body"] == "to aws"
