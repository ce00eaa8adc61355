"""What operators meet: missing queues, missing rights, expired credentials, a slow AWS, slow consumers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import GatewayFactory
from tests.faults.holding import Hold
from tests.faults.wire import (
    PINGREQ,
    PINGRESP,
    connected_mqtt,
    connected_stomp,
    mqtt_connect,
    mqtt_puback,
    mqtt_pubacks,
    mqtt_publish,
    stomp_frame,
)
from tests.rig.clients import MqttPublisher, StompClient, StompDelivery
from tests.rig.counting import SqsClient, assert_exactly, assert_nothing_lost, depth, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import ACCESS_DENIED, EXPIRED_TOKEN, UNKNOWN_CREDENTIALS, ErrorAnswer, NoAnswer, Slow
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

ROUTES: list[object] = [{"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]}]
VISIBILITY = 3
AT_ONCE = 5.0
"""Seconds; less than what else would bring a message back."""
SOCKET_READ = 256 * 1024
"""What one read of a connection may bring, and so what it may go over a limit by."""


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, faults: FaultEndpoint) -> Gateway:
    return gateway_factory(faults.url, routes=ROUTES, receiver={"wait": 1, "visibility": VISIBILITY})


@pytest.fixture
def unprovisioned(gateway_factory: GatewayFactory, faults: FaultEndpoint) -> Gateway:
    """A gateway that creates nothing."""
    return gateway_factory(faults.url, routes=ROUTES, provision="never", receiver={"wait": 1, "visibility": VISIBILITY})


def problems(gateway: Gateway) -> tuple[int, dict[str, str]]:
    """The status of `/readyz`, and its problems by resource."""
    status, text = gateway.get("/readyz")
    return status, {problem["resource"]: problem["problem"] for problem in json.loads(text)["problems"]}


def wait_healthy(gateway: Gateway, timeout: float = 20.0) -> None:
    wait_for(lambda: problems(gateway) == (200, {}), "everything is well again", timeout)


def keep(_delivery: StompDelivery) -> None:
    """Decide nothing: the test settles it, or never does."""


# Missing queues


def test_a_missing_queue_is_named_and_found_once_it_is_there(
    unprovisioned: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue_name: str
) -> None:
    with MqttPublisher(unprovisioned.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"in/{queue_name}/1", "patient")
        wait_for(lambda: publisher.disconnects, "the publisher is refused")
        assert publisher.acknowledged == {}
        status, found = problems(unprovisioned)
        assert status == 200  # one queue is missing; the others may be well
        problem = found[f"sqs {queue_name} (send)"]
        for part in (f"sqs queue {queue_name}", "does not exist", "sqs:CreateQueue"):
            assert part in problem
        line = next(line for line in unprovisioned.log.splitlines() if "resource_unusable" in line)
        assert queue_name in line
        assert "sqs:CreateQueue" in line
        with (
            StompClient(unprovisioned.port("stomp")) as client,
            pytest.raises(AssertionError, match=f"sqs queue {queue_name}.*does not exist"),
        ):
            client.send(f"/queue/{queue_name}", "refused")
        with (
            StompClient(unprovisioned.port("stomp")) as client,
            pytest.raises(AssertionError, match=f"sqs queue {queue_name}.*does not exist"),
        ):
            client.subscribe(f"/queue/{queue_name}")
        url = sqs.create_queue(QueueName=queue_name)["QueueUrl"]
        publisher.wait_acknowledged(1)
    wait_healthy(unprovisioned)
    assert faults.calls("CreateQueue") == []
    assert_exactly(["patient"], drain(sqs, url).elements())


def test_a_wrong_region_is_like_a_missing_queue(
    gateway_factory: GatewayFactory, faults: FaultEndpoint, queue: str, queue_name: str
) -> None:
    aws = {"region": "eu-west-1", "endpoint_url": faults.url}
    gateway = gateway_factory(faults.url, routes=ROUTES, provision="never", aws=aws)
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"in/{queue_name}/1", "refused")
        wait_for(lambda: publisher.disconnects, "the publisher is refused")
        assert publisher.acknowledged == {}
    assert f"sqs queue {queue_name}" in problems(gateway)[1][f"sqs {queue_name} (send)"]


def test_a_queue_that_is_deleted_under_a_consumer(
    unprovisioned: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with StompClient(unprovisioned.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        sqs.delete_queue(QueueUrl=queue)
        wait_for(lambda: f"sqs {queue_name} (receive)" in problems(unprovisioned)[1], "it is told")
        sqs.create_queue(QueueName=queue_name)
        sqs.send_message(QueueUrl=queue, MessageBody="new")
        assert consumer.wait_deliveries(1)[0].body == "new"
        wait_healthy(unprovisioned)


def test_a_deleted_queue_is_made_again_where_that_is_allowed(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"in/{queue_name}/1", "one")
        publisher.wait_acknowledged(1)
        sqs.delete_queue(QueueUrl=queue)
        publisher.publish(f"in/{queue_name}/1", "two")
        publisher.wait_acknowledged(2)
        assert publisher.disconnects == 0
    assert_exactly(["two"], drain(sqs, queue).elements())


# Rights and credentials

REFUSALS = {
    "denied": (ACCESS_DENIED, 200, "sqs:SendMessage"),
    "expired": (EXPIRED_TOKEN, 503, "ExpiredToken"),
    "unknown": (UNKNOWN_CREDENTIALS, 503, "UnrecognizedClient"),
}


@pytest.mark.parametrize(("fault", "status", "named"), REFUSALS.values(), ids=REFUSALS)
def test_publishers_are_refused_until_it_is_mended(
    fault: ErrorAnswer,
    status: int,
    named: str,
    gateway: Gateway,
    faults: FaultEndpoint,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
) -> None:
    faults.inject(fault, action="SendMessageBatch", times=None)
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"in/{queue_name}/1", "patient")
        wait_for(lambda: publisher.disconnects, "the publisher is refused")
        got, found = problems(gateway)
        assert got == status
        problem = found[f"sqs {queue_name} (send)"]
        assert f"sqs queue {queue_name}" in problem
        assert named in problem
        lines = [line for line in gateway.log.splitlines() if "resource_unusable" in line]
        assert len(lines) == 1  # however often it is tried
        assert named in lines[0]
        with (
            StompClient(gateway.port("stomp")) as client,
            pytest.raises(AssertionError, match=f"Message not accepted.*sqs queue {queue_name}"),
        ):
            client.send(f"/queue/{queue_name}", "refused")
        assert publisher.acknowledged == {}
        faults.clear()
        publisher.wait_acknowledged(1)
    wait_healthy(gateway)
    assert_exactly(["patient"], drain(sqs, queue).elements())


def test_readiness_recovers_though_nobody_publishes(
    gateway: Gateway, faults: FaultEndpoint, queue: str, queue_name: str
) -> None:
    faults.inject(EXPIRED_TOKEN, times=None)
    with StompClient(gateway.port("stomp")) as client, pytest.raises(AssertionError, match="ExpiredToken"):
        client.send(f"/queue/{queue_name}", "refused")
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"in/{queue_name}/1", "refused")
        wait_for(lambda: publisher.disconnects, "the publisher is refused")
    assert problems(gateway)[0] == 503
    faults.clear()
    wait_healthy(gateway)


@pytest.mark.parametrize(("fault", "status"), [(ACCESS_DENIED, 200), (EXPIRED_TOKEN, 503)], ids=["denied", "expired"])
def test_consumers_wait_until_it_is_mended(
    fault: ErrorAnswer,
    status: int,
    gateway: Gateway,
    faults: FaultEndpoint,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
) -> None:
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        faults.inject(fault, action="ReceiveMessage", times=None)
        wait_for(lambda: f"sqs {queue_name} (receive)" in problems(gateway)[1], "it is told")
        assert problems(gateway)[0] == status
        sqs.send_message(QueueUrl=queue, MessageBody="later")
        faults.clear()
        assert consumer.wait_deliveries(1)[0].body == "later"
        wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")
        assert consumer.errors == []
    wait_healthy(gateway)


def test_an_aws_that_does_not_answer_is_told(
    gateway_factory: GatewayFactory, faults: FaultEndpoint, queue: str, queue_name: str
) -> None:
    gateway = gateway_factory(
        faults.url,
        routes=ROUTES,
        aws={"region": "us-east-1", "endpoint_url": faults.url, "read_timeout": 0.2},
        sender={"backoff_cap": 0.1},
    )
    faults.inject(NoAnswer(), times=None)
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"in/{queue_name}/1", "patient")
        wait_for(lambda: problems(gateway)[0] == 503, "it is told")
        assert f"sqs {queue_name} (send)" in problems(gateway)[1]
        faults.clear()
        publisher.wait_acknowledged(1)
        assert publisher.disconnects == 0
    wait_healthy(gateway)


# A slow AWS


@pytest.fixture
def narrow(gateway_factory: GatewayFactory, faults: FaultEndpoint) -> Gateway:
    """A gateway that lets a connection have 50 publishes under way."""
    limits = {"connection": {"inflight_messages": 50}}
    return gateway_factory(faults.url, routes=ROUTES, limits=limits)


@pytest.fixture
def hold(faults: FaultEndpoint, queue_name: str) -> Iterator[Hold]:
    fault = Hold(before=True, queue=queue_name)
    faults.inject(fault, action="SendMessageBatch", times=None)
    yield fault
    if fault.held:
        fault.release()


def test_a_slow_aws_stops_the_reading_and_nothing_else(
    narrow: Gateway, hold: Hold, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    messages = 20_000
    packets = [
        mqtt_publish(f"in/{queue_name}/1", b"%06d" % number + b"x" * 1000, number) for number in range(1, messages + 1)
    ]
    size = len(packets[0])
    most = 50 + SOCKET_READ // size
    with connected_mqtt(narrow.port("mqtt"), mqtt_connect("flood", keep_alive=1)) as wire:
        sent = wire.send_until_stuck(b"".join(packets))
        assert sent < size * messages, "the sockets took everything"
        assert 50 <= narrow.metric("mqlift_inflight_messages") <= most
        assert narrow.metric("mqlift_inflight_bytes") <= most * (size + 200)
        assert narrow.metric("mqlift_reading_paused") == 1
        # Others are served meanwhile, and the stopped one is not given up: its keep-alive of 1 s does not count.
        with MqttPublisher(narrow.port("mqtt"), "other") as other:
            other.publish("elsewhere", "unrouted")
            other.wait_acknowledged(1)
        hold.release()
        whole, rest = divmod(sent, size)
        answers = len(mqtt_puback(1)) * whole
        if rest:
            wire.send(packets[whole][rest:])
            whole += 1
            answers += len(mqtt_puback(1))
        wire.send(PINGREQ)
        # The PINGRESP comes when the PINGREQ is read, before the last publishes are answered.
        data = wire.receive(answers + len(PINGRESP))
        assert data.count(PINGRESP) == 1
        assert data.replace(PINGRESP, b"") == mqtt_pubacks(whole)
    assert narrow.metric("mqlift_reading_paused") == 0
    assert narrow.metric("mqlift_inflight_messages") == 0
    assert depth(sqs, queue) == (whole, 0)


def test_keep_alive_does_not_count_while_nothing_is_read(
    narrow: Gateway, faults: FaultEndpoint, queue: str, queue_name: str
) -> None:
    faults.inject(Slow(3.0), action="SendMessageBatch", times=None)
    with connected_mqtt(narrow.port("mqtt"), mqtt_connect("patient", keep_alive=1)) as wire:
        for number in range(1, 51):
            wire.send(mqtt_publish(f"in/{queue_name}/1", b"body", number))
        wait_for(lambda: narrow.metric("mqlift_reading_paused") == 1, "it is not read")
        # Silent for twice the time that it promised; then it goes on.
        assert wire.receive(4 * 50) == mqtt_pubacks(50)
        wire.send(PINGREQ)
        assert wire.receive(len(PINGRESP)) == PINGRESP
        # Read, and silent: now it counts.
        assert wire.receive_all() == b""


def test_the_gateway_as_a_whole_is_bounded(
    gateway_factory: GatewayFactory, faults: FaultEndpoint, hold: Hold, queue: str, queue_name: str
) -> None:
    limits = {"gateway": {"inflight_messages": 200}}
    gateway = gateway_factory(faults.url, routes=ROUTES, limits=limits)
    bodies = [[f"{sender}/{number} " + "x" * 2000 for number in range(300)] for sender in range(4)]
    publishers = [MqttPublisher(gateway.port("mqtt"), f"sender-{number}") for number in range(4)]
    with publishers[0], publishers[1], publishers[2], publishers[3]:
        for publisher, own in zip(publishers, bodies, strict=True):
            publisher.publish_all(f"in/{queue_name}/1", own)
        wait_for(lambda: gateway.metric("mqlift_reading_paused") == 4, "nobody is read any more")
        assert gateway.metric("mqlift_inflight_messages") <= 200 + 4 * (SOCKET_READ // 2000)
        hold.release()
        for publisher in publishers:
            publisher.wait_acknowledged(300)
        assert all(publisher.disconnects == 0 for publisher in publishers)


# Slow consumers


def test_used_up_credit_stops_the_polling_and_held_messages_stay_hidden(
    gateway: Gateway, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    bodies = [str(number) for number in range(30)]
    with StompClient(gateway.port("stomp"), decide=keep) as consumer:
        consumer.subscribe(f"/queue/{queue_name}", ack="client-individual", **{"prefetch-count": "10"})
        for body in bodies:
            sqs.send_message(QueueUrl=queue, MessageBody=body)
        held = consumer.wait_deliveries(10)[:10]
        wait_for(lambda: gateway.metric("mqlift_polls") == 0, "nothing is polled")
        polls = len(faults.calls("ReceiveMessage"))
        # Each renewal is a third of the visibility timeout later: after six of them it has passed twice.
        wait_for(lambda: renewals(faults, held[-1], queue_name) >= 6, "what it holds is renewed")
        assert len(faults.calls("ReceiveMessage")) == polls
        assert len(consumer.deliveries) == 10
        assert depth(sqs, queue) == (20, 10)
        for delivery in held:
            consumer.ack(delivery)
        more = consumer.wait_deliveries(20)[10:]
        assert len(faults.calls("ReceiveMessage")) > polls
        for delivery in more:
            consumer.ack(delivery)
        for delivery in consumer.wait_deliveries(30)[20:]:
            consumer.ack(delivery)
        wait_for(lambda: depth(sqs, queue) == (0, 0), "all are deleted")
    assert_exactly(bodies, [delivery.body for delivery in consumer.deliveries])
    assert not any(delivery.redelivered for delivery in consumer.deliveries)


def renewals(faults: FaultEndpoint, delivery: StompDelivery, queue_name: str) -> int:
    """How often the gateway has asked for more time for a delivery."""
    receipts = {receipt for receipt, body in faults.handed_out().items() if body == delivery.body}
    return sum(
        entry["ReceiptHandle"] in receipts and entry["VisibilityTimeout"] == VISIBILITY
        for exchange in faults.calls("ChangeMessageVisibilityBatch")
        if exchange.call.queue == queue_name
        for entry in exchange.call.entries
    )


def test_a_consumer_that_does_not_read_gets_little_and_holds_up_nobody(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    bodies = [f"{number} " + "b" * 200_000 for number in range(80)]
    for body in bodies:
        sqs.send_message(QueueUrl=queue, MessageBody=body)
    with connected_stomp(gateway.port("stomp"), receive_buffer=4096) as slow:
        slow.send(stomp_frame("SUBSCRIBE", id="0", destination=f"/queue/{queue_name}", ack="client-individual"))
        wait_for(lambda: depth(sqs, queue)[1], "deliveries are on their way")
        with StompClient(gateway.port("stomp")) as other:
            other.subscribe(f"/queue/{queue_name}")
            # Prefetch allows the slow one all of them; its sockets and the gateway hold fewer.
            wait_for(
                lambda: depth(sqs, queue) == (0, len(bodies) - len(other.deliveries)) and len(other.deliveries) > 10,
                "the other one has all that is left",
            )
            assert len(other.deliveries) < len(bodies)
            slow.reset()
            other.wait_deliveries(len(bodies), AT_ONCE)
            wait_for(lambda: depth(sqs, queue) == (0, 0), "all are deleted")
    assert_nothing_lost(bodies, other.acknowledged)


@pytest.mark.parametrize("leave", ["unsubscribe", "close", "drop"])
def test_what_comes_for_a_consumer_that_left_is_given_back_at_once(
    leave: str, gateway_factory: GatewayFactory, faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    gateway = gateway_factory(faults.url, routes=ROUTES, receiver={"wait": 3, "visibility": 120})
    with StompClient(gateway.port("stomp")) as leaving:
        leaving.subscribe(f"/queue/{queue_name}")
        wait_for(lambda: faults.calls("ReceiveMessage"), "a poll is under way")
        getattr(leaving, leave)()
        wait_for(lambda: has_left(leaving, leave, gateway), "it has left")
        sqs.send_message(QueueUrl=queue, MessageBody="for nobody")
        wait_for(lambda: faults.released(queue_name), "the poll took it, and gave it back")
        wait_for(lambda: depth(sqs, queue) == (1, 0), "it is visible", AT_ONCE)
        assert leaving.deliveries == []
        wait_for(lambda: gateway.metric("mqlift_polls") == 0, "nothing is polled for nobody", AT_ONCE)
    with StompClient(gateway.port("stomp")) as staying:
        staying.subscribe(f"/queue/{queue_name}")
        assert staying.wait_deliveries(1, AT_ONCE)[0].body == "for nobody"


def has_left(client: StompClient, leave: str, gateway: Gateway) -> bool:
    if leave != "unsubscribe":
        return gateway.metric("mqlift_connections") == 0
    # Frames are handled in their order: after the RECEIPT of this one, the UNSUBSCRIBE was.
    client.send("/topic/elsewhere", "unrouted")
    return True
