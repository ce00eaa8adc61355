"""The gateway is killed while clients publish and consume, and started again: the same sums come out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.traffic import (
    Consumers,
    StompPublisher,
    assert_promises,
    publishers,
    wait_more_consumed,
    wait_settled,
)
from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.counting import SqsClient
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import Slow
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

BURST = 300
KILLS = 2
COMEBACK = 12.0
"""Seconds; the visibility timeout of these gateways is 2."""


@pytest.fixture
def own_gateway(quick_gateway: Callable[..., Gateway]) -> Gateway:
    """Not started yet."""
    return quick_gateway()


def test_kill_9_under_load(
    own_gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    own_gateway.start()
    with (
        Consumers(own_gateway.port("stomp"), queue_name) as consumers,
        publishers(own_gateway.port("mqtt"), f"in/{queue_name}", 2, (KILLS + 1) * BURST, queue_name) as senders,
    ):
        bodies = [body for _, each in senders.values() for body in each]
        # Slow enough that a kill always meets requests under way, on both sides of the emulator's work.
        faults.chaos((Slow(0.05), Slow(0.05, before=True)), 1.0, seed=1)
        for kill in range(KILLS):
            wait_for(lambda: all(publisher.connected for publisher in senders), "the publishers are connected")
            burst(senders, kill)
            wait_more_consumed(consumers)
            own_gateway.kill9()
            assert sum(len(publisher.acknowledged) for publisher in senders) < 2 * (kill + 1) * BURST
            own_gateway.start()
        burst(senders, KILLS)
        for publisher in senders:
            publisher.wait_acknowledged((KILLS + 1) * BURST, 60)
        wait_settled(sqs, queue, consumers, bodies)
        assert consumers.connections > 2
        assert all(publisher.disconnects >= KILLS for publisher in senders)
    acknowledged = {body: at for publisher in senders for body, at in publisher.acknowledged.items()}
    assert_promises(faults, queue_name, acknowledged, consumers)


def burst(senders: dict[MqttPublisher, tuple[str, list[str]]], number: int) -> None:
    for publisher, (topic, bodies) in senders.items():
        publisher.publish_all(topic, bodies[number * BURST : (number + 1) * BURST])


def test_what_a_killed_gateway_had_handed_out_comes_back(
    own_gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    own_gateway.start()
    with StompClient(own_gateway.port("stomp"), decide=lambda _delivery: None) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        sqs.send_message(QueueUrl=queue, MessageBody="held")
        assert not consumer.wait_deliveries(1)[0].redelivered
        own_gateway.kill9()
        wait_for(lambda: not consumer.connected, "the consumer notices")
    own_gateway.start()
    with StompClient(own_gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        again = consumer.wait_deliveries(1, COMEBACK)[0]
        assert (again.body, again.redelivered) == ("held", True)


def test_a_killed_gateway_has_sent_receipts_only_for_what_it_had_stored(
    own_gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    own_gateway.start()
    publisher = StompPublisher(own_gateway.port("stomp"), f"/queue/{queue_name}")
    with Consumers(own_gateway.port("stomp"), queue_name) as consumers:
        publisher.send_all(f"before {number}" for number in range(50))
        own_gateway.kill9()
        own_gateway.start()
        publisher.send_all(f"after {number}" for number in range(50))
        wait_settled(sqs, queue, consumers, publisher.acknowledged)
    assert_promises(faults, queue_name, publisher.acknowledged, consumers)
