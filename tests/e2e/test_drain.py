"""SIGTERM: nothing new is taken, what is under way is finished, what is held is given back, within the limit."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.conftest import GatewayFactory
from tests.faults.holding import Hold
from tests.faults.traffic import Consumers, assert_promises, publishers, wait_more_consumed, wait_settled
from tests.faults.wire import (
    Wire,
    connected_mqtt,
    connected_stomp,
    mqtt_connect,
    mqtt_pubacks,
    mqtt_publish,
    stomp_frame,
)
from tests.rig.clients import StompClient
from tests.rig.counting import SqsClient, assert_exactly, depth, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.processes import Gateway, accepts
from tests.rig.waiting import wait_for

ROUTES: list[object] = [{"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]}]
DRAIN_TIMEOUT = 15.0
SHORT_DRAIN = 1.0
END_MARGIN = 5.0
"""Seconds on top of a drain, for connections to close and a busy machine."""
VISIBILITY = 60
PUBLISHES = 20


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, faults: FaultEndpoint) -> Gateway:
    return gateway_factory(
        faults.url,
        routes=ROUTES,
        drain_timeout=DRAIN_TIMEOUT,
        receiver={"wait": 1, "visibility": VISIBILITY},
    )


def publishing(gateway: Gateway, topic: str) -> Wire:
    """A client that has just published messages with the packet ids 1 to `PUBLISHES`."""
    wire = connected_mqtt(gateway.port("mqtt"), mqtt_connect(topic.replace("/", "-")))
    for number in range(1, PUBLISHES + 1):
        wire.send(mqtt_publish(topic, str(number).encode(), number))
    return wire


def wait_inflight(gateway: Gateway, number: int) -> None:
    wait_for(lambda: gateway.metric("mqlift_inflight_messages") == number, f"{number} publishes are in flight")


def wait_refused(gateway: Gateway) -> None:
    """Wait until nobody is let in any more, while the process still runs."""
    wait_for(lambda: not accepts(gateway.port("mqtt")), "MQTT is closed")
    wait_for(lambda: not accepts(gateway.port("stomp")), "STOMP is closed")
    assert gateway.running


def test_publishes_in_flight_are_answered(
    gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    hold = Hold(queue=queue_name)
    faults.inject(hold, action="SendMessageBatch", times=None)
    receipts = b"".join(b"RECEIPT\nreceipt-id:%d\n\n\0" % number for number in range(PUBLISHES))
    with publishing(gateway, f"in/{queue_name}/1") as mqtt, connected_stomp(gateway.port("stomp")) as stomp_client:
        for number in range(PUBLISHES):
            body = b"stomp %d" % number
            stomp_client.send(stomp_frame("SEND", body, destination=f"/queue/{queue_name}", receipt=str(number)))
        wait_inflight(gateway, 2 * PUBLISHES)
        gateway.send_signal(signal.SIGTERM)
        wait_refused(gateway)
        status, report = gateway.get("/readyz")
        assert (status, json.loads(report)["draining"]) == (503, True)
        assert gateway.get("/healthz")[0] == 200
        # What is sent from now on is not taken, and so never acknowledged.
        mqtt.send(mqtt_publish(f"in/{queue_name}/1", b"too late", PUBLISHES + 1))
        hold.release()
        assert mqtt.receive_all() == mqtt_pubacks(PUBLISHES)
        answers = stomp_client.receive_all()
        assert answers.startswith(receipts)
        assert b"message:Shutdown" in answers
    assert gateway.wait() == 0
    bodies = [*map(str, range(1, PUBLISHES + 1)), *(f"stomp {number}" for number in range(PUBLISHES))]
    assert_exactly(bodies, drain(sqs, queue).elements())


def test_what_consumers_hold_is_visible_at_once(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    with StompClient(gateway.port("stomp"), decide=lambda _delivery: None) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        for number in range(25):
            sqs.send_message(QueueUrl=queue, MessageBody=str(number))
        deliveries = consumer.wait_deliveries(25)
        consumer.ack(deliveries[0])
        consumer.ack(deliveries[1])
        wait_for(lambda: depth(sqs, queue) == (0, 23), "two are deleted")
        assert gateway.terminate() == 0
        assert depth(sqs, queue) == (23, 0)
        wait_for(lambda: not consumer.connected, "the consumer is told")
        assert consumer.errors[0][0]["message"] == "Shutdown"


def test_an_ack_just_before_the_end_counts(
    gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    hold = Hold(before=True, queue=queue_name)
    faults.inject(hold, action="DeleteMessageBatch", times=None)
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        sqs.send_message(QueueUrl=queue, MessageBody="acknowledged")
        wait_for(lambda: hold.held, "the delete is on its way")
        gateway.send_signal(signal.SIGTERM)
        wait_refused(gateway)
        hold.release()
        assert gateway.wait() == 0
    assert depth(sqs, queue) == (0, 0)


def test_sigterm_under_load(
    gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    """Twice, with a new start each time: the sums are right, and nothing waits for the visibility timeout."""
    with (
        Consumers(gateway.port("stomp"), queue_name) as consumers,
        publishers(gateway.port("mqtt"), f"in/{queue_name}", 2, 600, queue_name) as senders,
    ):
        for half in range(2):
            wait_for(lambda: all(publisher.connected for publisher in senders), "the publishers are connected")
            for publisher, (topic, bodies) in senders.items():
                publisher.publish_all(topic, bodies[half * 300 : (half + 1) * 300])
            wait_more_consumed(consumers)
            began = time.monotonic()
            assert gateway.terminate(DRAIN_TIMEOUT + END_MARGIN) == 0
            assert time.monotonic() - began < DRAIN_TIMEOUT
            _, hidden = depth(sqs, queue)
            assert hidden == 0
            gateway.start()
        for publisher, (_, bodies) in senders.items():
            publisher.wait_acknowledged(len(bodies))
        wait_settled(sqs, queue, consumers, (body for _, bodies in senders.values() for body in bodies))
    acknowledged = {body: at for publisher in senders for body, at in publisher.acknowledged.items()}
    assert_promises(faults, queue_name, acknowledged, consumers)


def test_the_limit_holds_when_aws_does_not_answer(
    gateway_factory: GatewayFactory, faults: FaultEndpoint, queue: str, queue_name: str
) -> None:
    gateway = gateway_factory(faults.url, routes=ROUTES, drain_timeout=SHORT_DRAIN)
    hold = Hold(before=True, queue=queue_name)
    faults.inject(hold, action="SendMessageBatch", times=None)
    with publishing(gateway, f"in/{queue_name}/1") as mqtt:
        wait_inflight(gateway, PUBLISHES)
        began = time.monotonic()
        assert gateway.terminate() == 0
        assert SHORT_DRAIN <= time.monotonic() - began < SHORT_DRAIN + END_MARGIN
        assert mqtt.receive_all() == b""
    hold.release()
    assert "drain_incomplete" in gateway.log


def test_a_second_signal_cuts_the_drain_short(
    gateway: Gateway, faults: FaultEndpoint, queue: str, queue_name: str
) -> None:
    hold = Hold(before=True, queue=queue_name)
    faults.inject(hold, action="SendMessageBatch", times=None)
    with publishing(gateway, f"in/{queue_name}/1") as mqtt:
        wait_inflight(gateway, PUBLISHES)
        gateway.send_signal(signal.SIGTERM)
        wait_refused(gateway)
        began = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - began < END_MARGIN
        assert mqtt.receive_all() == b""
    hold.release()


def test_a_consumer_that_reads_nothing_does_not_hold_up_the_end(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    for number in range(12):
        sqs.send_message(QueueUrl=queue, MessageBody=f"{number}" + "b" * 500_000)
    with connected_stomp(gateway.port("stomp"), receive_buffer=4096) as wire:
        wire.send(stomp_frame("SUBSCRIBE", id="0", destination=f"/queue/{queue_name}", ack="client-individual"))
        wait_for(lambda: depth(sqs, queue)[1] > 0, "deliveries are on their way")
        began = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - began < DRAIN_TIMEOUT
    assert depth(sqs, queue) == (12, 0)


def test_idle_clients_are_closed(gateway: Gateway) -> None:
    with (
        connected_mqtt(gateway.port("mqtt"), mqtt_connect("idle")) as mqtt,
        connected_stomp(gateway.port("stomp")) as stomp_client,
        Wire(gateway.port("mqtt")) as silent,
    ):
        assert gateway.terminate() == 0
        assert (mqtt.receive_all(), silent.receive_all()) == (b"", b"")
        assert stomp_client.receive_all().startswith(b"ERROR\nmessage:Shutdown\n")
