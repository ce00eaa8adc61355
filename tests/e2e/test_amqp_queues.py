"""What RabbitMQ's applications do with queues, over queues in SQS: delays, dead letters, limits, order, replies."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from tests.conftest import serving
from tests.rig.amqp import AmqpClient
from tests.rig.counting import SqsClient
from tests.rig.processes import Gateway, Ministack, gateway_config

CHANNELS = 2_047
PREFIX = "amqp-e2e-"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def gateway(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = gateway_config(
        ministack.url, protocols=("amqp091",), receiver={"wait": 1, "visibility": 10}, prefix=PREFIX
    )
    running = Gateway(config, tmp_path_factory.mktemp("amqp"))
    with serving(running):
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[AmqpClient]:
    with AmqpClient(gateway.port("amqp091")) as connected:
        yield connected


@pytest.fixture
def name() -> str:
    return f"q{next(_numbers)}"


def test_a_queue_with_a_time_to_live_and_no_consumer_delays_messages(client: AmqpClient, name: str) -> None:
    client.declare(f"{name}-later")
    client.declare(name, x_message_ttl=1_000, x_dead_letter_exchange="", x_dead_letter_routing_key=f"{name}-later")
    begun = time.monotonic()
    client.publish(name, "delayed")
    client.consume(f"{name}-later")
    [message] = client.wait_received(1)
    message.ack()
    assert message.body == "delayed"
    assert time.monotonic() - begun >= 1.0
    [death] = message.headers["x-death"]
    assert (death["queue"], death["reason"], death["count"]) == (name, "expired", 1)


def test_a_delayed_exchange_holds_messages_back(client: AmqpClient, name: str) -> None:
    client.channel.exchange_declare(
        f"{name}-x", "x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"}
    )
    client.declare(name)
    client.channel.queue_bind(name, f"{name}-x", "k")
    client.consume(name, no_ack=True)
    begun = time.monotonic()
    client.publish("k", "later", f"{name}-x", headers={"x-delay": 2_000})
    client.publish("k", "now", f"{name}-x")
    now, later = client.wait_received(2)
    assert (now.body, later.body) == ("now", "later")
    assert 1.5 <= time.monotonic() - begun < 6.0


def test_what_fails_too_often_goes_to_the_dead_letter_exchange(client: AmqpClient, name: str) -> None:
    client.declare(f"{name}-dead")
    client.declare(
        name,
        x_queue_type="quorum",
        x_delivery_limit=2,
        x_dead_letter_exchange="",
        x_dead_letter_routing_key=f"{name}-dead",
    )
    client.publish(name, "poison")
    client.consume(name)
    for attempt in range(1, 4):
        delivery = client.wait_received(attempt)[-1]
        assert delivery.headers.get("x-delivery-count", 0) == attempt - 1
        delivery.nack(requeue=True)
    dead = client.take(f"{name}-dead")
    assert (dead.body, dead.headers["x-death"][0]["reason"]) == ("poison", "delivery_limit")


def test_order_within_the_groups_of_a_fifo_queue(client: AmqpClient, name: str) -> None:
    client.declare(name, x_fifo=True)
    for number in range(10):
        for group in "ab":
            client.publish(name, f"{group}{number}", headers={"x-group-id": group})
    client.consume(name, no_ack=True)
    bodies = [each.body for each in client.wait_received(20)]
    for group in "ab":
        assert [body for body in bodies if body[0] == group] == [f"{group}{number}" for number in range(10)]


def test_a_consumer_is_told_when_its_queue_is_deleted_in_aws(client: AmqpClient, sqs: SqsClient, name: str) -> None:
    client.declare(name)
    client.consume(name, tag="mine")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=f"{PREFIX}{name}")["QueueUrl"])
    client.pump(lambda: client.cancelled == ["mine"], "the consumer is cancelled")


def test_a_queue_that_is_full_refuses_when_it_is_to(client: AmqpClient, name: str) -> None:
    client.declare(name, x_max_length=2, x_overflow="reject-publish")
    for body in ("one", "two"):
        client.publish(name, body)
    client.channel.queue_declare(name, passive=True)
    with pytest.raises(pika.exceptions.NackError):
        client.publish(name, "three")


def call(client: AmqpClient, server: AmqpClient, queue: str, reply_to: str) -> str:
    client.publish(queue, "question", reply_to=reply_to, correlation_id="7")
    question = server.wait_received(len(server.received) + 1)[-1]
    server.publish(question.properties.reply_to or "", "answer", correlation_id=question.properties.correlation_id)
    answer = client.wait_received(len(client.received) + 1)[-1]
    assert answer.properties.correlation_id == "7"
    return answer.body


@pytest.mark.parametrize("kind", ["direct reply-to", "exclusive queue"])
def test_calls_get_their_replies(gateway: Gateway, sqs: SqsClient, client: AmqpClient, name: str, kind: str) -> None:
    with AmqpClient(gateway.port("amqp091")) as server:
        server.declare(name)
        server.consume(name, no_ack=True)
        before = sqs.list_queues(QueueNamePrefix=PREFIX)["QueueUrls"]
        reply_to = "amq.rabbitmq.reply-to" if kind == "direct reply-to" else client.declare()
        client.consume(reply_to, no_ack=True)
        assert [call(client, server, name, reply_to) for _ in range(3)] == ["answer"] * 3
        assert sqs.list_queues(QueueNamePrefix=PREFIX)["QueueUrls"] == before, "a reply queue costs nothing in AWS"
        to = client.received[0].routing_key
        client.connection.close()
        with pytest.raises(UnroutableError):
            server.publish(to, "too late")


def test_what_a_lost_connection_held_comes_back(gateway: Gateway, client: AmqpClient, name: str) -> None:
    client.declare(name)
    for number in range(10):
        client.publish(name, str(number))
    with AmqpClient(gateway.port("amqp091")) as lost:
        lost.consume(name)
        held = lost.wait_received(10)
        for delivery in held[:3]:
            delivery.ack()
        lost.connection.process_data_events(0)
        acknowledged = {delivery.body for delivery in held[:3]}
        lost.channel.queue_declare(name, passive=True)  # the acks are read before the connection is lost
        lost.drop()
    client.consume(name)
    again = client.wait_received(7)
    assert {each.body for each in again} == {str(number) for number in range(10)} - acknowledged
    assert all(each.redelivered for each in again)


def test_as_many_channels_as_rabbitmq_has(client: AmqpClient, name: str) -> None:
    client.declare(name)
    channels = [client.connection.channel() for _ in range(CHANNELS - 1)]
    channels[-1].queue_declare(name, passive=True)
    channels[0].queue_declare(name, passive=True)
    with pytest.raises(ChannelClosedByBroker, match="no queue"):
        channels[1].queue_declare("nowhere", passive=True)
    assert sum(channel.is_open for channel in channels) == CHANNELS - 2, "the others stay"


def test_heartbeats_keep_a_quiet_connection(gateway: Gateway, name: str) -> None:
    with AmqpClient(gateway.port("amqp091"), heartbeat=1) as client:
        client.connection.process_data_events(3.5)  # three times what it takes to be thought dead
        client.declare(name)
