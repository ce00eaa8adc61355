"""Selectors on queues that a rule allows them for, and on durable subscriptions, over SQS."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import serving
from tests.e2e.stomp_peer import Peer, Ports, dialects_gateway
from tests.rig.clients import StompClient
from tests.rig.counting import SqsClient
from tests.rig.processes import Gateway, Ministack
from tests.rig.waiting import wait_for

PASS_OVER = 1
MANY = 60
FEW = 10
COLOURS = ("red", "blue")

StartGateway = Callable[..., Gateway]


@pytest.fixture
def gateway(keeping_gateway: StartGateway, queue_name: str) -> Gateway:
    """One whose rule for the test's queue lets consumers have selectors."""
    return keeping_gateway(
        routes=[
            {"match": {"queue": queue_name}, "to": [{"sqs": queue_name}], "selectors": {"pass_over": PASS_OVER}},
        ]
    )


def publish(gateway: Gateway, queue_name: str, count: int = MANY) -> dict[str, list[str]]:
    """As many messages of each colour, taking turns; their bodies."""
    bodies: dict[str, list[str]] = {colour: [] for colour in COLOURS}
    with StompClient(gateway.port("stomp")) as publisher:
        for number in range(count):
            for colour in COLOURS:
                body = f"{colour} {number}"
                publisher.send(f"/queue/{queue_name}", body, colour=colour)
                bodies[colour].append(body)
    return bodies


@contextlib.contextmanager
def consumer(gateway: Gateway, queue_name: str, selector: str, **headers: str) -> Iterator[StompClient]:
    with StompClient(gateway.port("stomp")) as client:
        selecting = {"selector": selector} if selector else {}
        client.subscribe(f"/queue/{queue_name}", **selecting, **headers)
        yield client


def waiting(sqs: SqsClient, url: str) -> int:
    """The messages of a queue, hidden ones too."""
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(counts["ApproximateNumberOfMessages"]) + int(counts["ApproximateNumberOfMessagesNotVisible"])


def empty(sqs: SqsClient, queue_name: str) -> bool:
    """Whether nothing waits, and nothing is hidden."""
    return waiting(sqs, sqs.get_queue_url(QueueName=queue_name)["QueueUrl"]) == 0


def test_two_consumers_get_exactly_their_halves(gateway: Gateway, sqs: SqsClient, queue_name: str) -> None:
    with (
        consumer(gateway, queue_name, "colour = 'red'") as red,
        consumer(gateway, queue_name, "colour <> 'red'") as blue,
    ):
        bodies = publish(gateway, queue_name)
        for client, colour in ((red, "red"), (blue, "blue")):
            client.wait_deliveries(MANY)
            assert Counter(delivery.body for delivery in client.deliveries) == Counter(bodies[colour])
            assert not any(delivery.redelivered for delivery in client.deliveries)
        wait_for(lambda: empty(sqs, queue_name), "everything is deleted")
    assert gateway.metric("mqlift_messages_passed_over_total") == 0


def test_what_nobody_wants_is_there_for_a_consumer_without_a_selector(
    gateway: Gateway, sqs: SqsClient, queue_name: str
) -> None:
    bodies = publish(gateway, queue_name)
    with consumer(gateway, queue_name, "colour = 'red'") as red:
        red.wait_deliveries(MANY)
        wait_for(lambda: gateway.metric("mqlift_messages_passed_over_total") > MANY, "they are looked at again")
        assert Counter(delivery.body for delivery in red.deliveries) == Counter(bodies["red"])
    with consumer(gateway, queue_name, "") as everything:
        everything.wait_deliveries(MANY, PASS_OVER + 10)
        assert Counter(delivery.body for delivery in everything.deliveries) == Counter(bodies["blue"])
        assert all(delivery.redelivered for delivery in everything.deliveries)
        wait_for(lambda: empty(sqs, queue_name), "everything is deleted")


def test_who_is_slow_holds_up_nobody(gateway: Gateway, sqs: SqsClient, queue_name: str) -> None:
    with StompClient(gateway.port("stomp"), decide=lambda _delivery: None) as slow:
        slow.subscribe(f"/queue/{queue_name}", selector="colour = 'red'", **{"prefetch-count": "1"})
        with consumer(gateway, queue_name, "colour = 'blue'") as quick:
            bodies = publish(gateway, queue_name)
            quick.wait_deliveries(MANY)
            assert len(slow.deliveries) == 1
        for number in range(MANY):
            slow.ack(slow.wait_deliveries(number + 1)[number])
        assert Counter(delivery.body for delivery in slow.deliveries) == Counter(bodies["red"])
        wait_for(lambda: empty(sqs, queue_name), "everything is deleted")


def test_what_one_gateway_passes_over_another_delivers(
    gateway_factory: StartGateway, sqs: SqsClient, queue_name: str
) -> None:
    rule = {"match": {"queue": queue_name}, "to": [{"sqs": queue_name}], "selectors": {"pass_over": PASS_OVER}}
    one, other = (gateway_factory(routes=[rule], receiver={"wait": 1}) for _ in range(2))
    with (
        consumer(one, queue_name, "colour = 'red'") as red,
        consumer(other, queue_name, "colour = 'blue'") as blue,
    ):
        bodies = publish(one, queue_name, FEW)
        for client, colour in ((red, "red"), (blue, "blue")):
            client.wait_deliveries(FEW, 60)
            assert Counter(delivery.body for delivery in client.deliveries) == Counter(bodies[colour])
        wait_for(lambda: empty(sqs, queue_name), "everything is deleted")


@pytest.mark.parametrize(
    ("problem", "text"),
    [("no rule", "selectors: {pass_over: 30}"), ("fifo", "FIFO"), ("redrive", "redrive policy")],
)
def test_refused(keeping_gateway: StartGateway, sqs: SqsClient, queue_name: str, problem: str, text: str) -> None:
    url = sqs.create_queue(QueueName=queue_name)["QueueUrl"]
    if problem == "redrive":
        dead = sqs.create_queue(QueueName=f"{queue_name}-dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
    rule: dict[str, object] = {"match": {"queue": "{name}"}, "to": [{"sqs": "{name}"}]}
    if problem != "no rule":
        rule["selectors"] = {"pass_over": PASS_OVER}
    gateway = keeping_gateway(routes=[rule])
    name = f"{queue_name}.fifo" if problem == "fifo" else queue_name
    with StompClient(gateway.port("stomp")) as client:
        with pytest.raises(AssertionError, match="refused"):
            client.subscribe(f"/queue/{name}", selector="colour = 'red'")
        _, body = client.wait_error()
        assert text in body


class TestDurableSubscriptions:
    @pytest.fixture
    def own(self, ministack: Ministack, tmp_path: Path) -> Iterator[tuple[Gateway, Ports]]:
        gateway, ports = dialects_gateway(ministack.url, tmp_path)
        with serving(gateway):
            yield gateway, ports

    def test_filtered_while_away_and_after_a_restart(
        self, own: tuple[Gateway, Ports], restart: Callable[[Gateway], None], sqs: SqsClient, queue_name: str
    ) -> None:
        gateway, ports = own
        topic = f"/topic/{queue_name}"
        durable = {"activemq.subscriptionName": "n", "selector": "weight > 2"}

        def publish(*weights: int) -> None:
            with Peer(ports.rabbitmq) as publisher:
                for weight in weights:
                    publisher.asks("SEND", b"%d" % weight, destination=topic, weight=str(weight))

        with Peer(ports.activemq, client_id=queue_name) as first:
            first.subscribes(topic, **durable)
            publish(1, 3)
            assert first.gets_bodies(1) == [b"3"]
            first.leaves()
        publish(2, 4)
        restart(gateway)
        publish(0, 5)  # nobody has subscribed since
        (url,) = sqs.list_queues(QueueNamePrefix=f"durable-{queue_name}-n")["QueueUrls"]
        assert waiting(sqs, url) == 2, "what does not match never came into the queue"
        with Peer(ports.activemq, client_id=queue_name) as second:
            second.subscribes(topic, **durable)
            publish(2, 6)
            assert second.gets_bodies(3) == [b"4", b"5", b"6"]
            second.leaves()
