"""Fan-out by SNS: AMQP clients bind queues, and one publish to the topic reaches them all, once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest

from tests.conftest import serving
from tests.rig.clients import StompClient
from tests.rig.counting import SqsClient, depth
from tests.rig.processes import HOST, Gateway, Ministack, gateway_config
from tests.rig.streams import aws_client
from tests.rig.waiting import wait_for

TOPIC = "e2e-fanout"
EXCHANGE = "fanned.out"
PREFIX = "fan-"


@pytest.fixture(scope="module")
def gateway(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Its state outlives it; and as the emulator's filters are in force at once, nothing is waited for."""
    directory = tmp_path_factory.mktemp("fanout")
    config = gateway_config(
        ministack.url,
        protocols=("amqp091", "stomp"),
        prefix=PREFIX,
        state=f"sqlite://{directory / 'state.db'}",
        routes=[{"match": {"exchange": EXCHANGE}, "to": [{"sns": TOPIC, "fanout": True}]}],
        sns={"fanout_wait": 0},
        receiver={"wait": 1, "visibility": 30},
    )
    running = Gateway(config, directory)
    with serving(running):
        yield running


@contextlib.contextmanager
def channel(gateway: Gateway) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.ConnectionParameters(HOST, gateway.port("amqp091")))
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        connection.close()


def taken(amqp: Any, queue: str, number: int) -> list[tuple[str, dict[str, object]]]:
    """Bodies and headers of so many messages, acknowledged."""
    found: list[tuple[str, dict[str, object]]] = []

    def more() -> bool:
        method, properties, body = amqp.basic_get(queue, auto_ack=True)
        if method is not None:
            # A look at the queue counts as a delivery.
            headers = {name: value for name, value in (properties.headers or {}).items() if name != "x-delivery-count"}
            found.append((body.decode(), headers))
        return len(found) >= number

    wait_for(more, f"{number} messages are in {queue}")
    return sorted(found)


def test_each_queue_gets_each_message_once(gateway: Gateway, sqs: SqsClient, ministack: Ministack) -> None:
    queues = {"all": "#", "north": "*.north", "south": "*.south.#"}
    with channel(gateway) as amqp, StompClient(gateway.port("stomp")) as live:
        amqp.exchange_declare(EXCHANGE, "topic", durable=True)
        for name, pattern in queues.items():
            amqp.queue_declare(name, durable=True)
            amqp.queue_bind(name, EXCHANGE, pattern)
        live.subscribe(f"/exchange/{EXCHANGE}/#")

        def publish(key: str, body: str) -> None:
            amqp.basic_publish(EXCHANGE, key, body.encode(), pika.BasicProperties(headers={"h": body}))

        publish("a.north", "1")
        publish("a.south", "2")
        wait_for(lambda: gateway.log.count("fanout_by_service") == len(queues), "the queues are subscribed")
        publish("a.north", "3")
        publish("a.south.b", "4")
        live.wait_deliveries(4)
        # The messages that SNS has brought say so.
        url = sqs.get_queue_url(QueueName=f"{PREFIX}south")["QueueUrl"]
        found: list[dict[str, Any]] = []

        def received() -> bool:
            answer = sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0, MessageAttributeNames=["All"]
            )
            found.extend(answer.get("Messages", ()))
            return {message["Body"] for message in found} == {"2", "4"}

        wait_for(received, "both are in the queue")
        assert {message["Body"] for message in found if "mqlift.queues" in message["MessageAttributes"]} == {"4"}

        expected = {"all": ["1", "2", "3", "4"], "north": ["1", "3"], "south": ["2", "4"]}
        for name, bodies in expected.items():
            assert taken(amqp, name, len(bodies)) == [(body, {"h": body}) for body in bodies]
        # What is unbound gets no more, at once, though it is still subscribed.
        amqp.queue_unbind("north", EXCHANGE, "*.north")
        publish("a.north", "5")
        assert taken(amqp, "all", 1) == [("5", {"h": "5"})]
        urls = [sqs.get_queue_url(QueueName=f"{PREFIX}{name}")["QueueUrl"] for name in queues]
        assert [depth(sqs, url) for url in urls] == [(0, 0)] * 3
    sns = aws_client("sns", ministack.url)
    arn = next(each["TopicArn"] for each in sns.list_topics()["Topics"] if each["TopicArn"].endswith(f":{TOPIC}"))
    assert len(sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]) == len(queues)


def test_a_restart_and_a_queue_made_anew_lose_nothing(gateway: Gateway) -> None:
    """After `test_each_queue_gets_each_message_once`."""
    assert gateway.terminate() == 0
    gateway.start()
    with channel(gateway) as amqp:
        amqp.queue_delete("south")
        amqp.queue_declare("south", durable=True)
        amqp.queue_bind("south", EXCHANGE, "#")
        for number in range(5):
            amqp.basic_publish(EXCHANGE, "k", f"{number}".encode())
        for name in ("all", "south"):
            assert [body for body, _ in taken(amqp, name, 5)] == [f"{number}" for number in range(5)]
