"""Messages cross between MQTT, STOMP and SQS: real clients on one side, boto3 on the other."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.conftest import serving
from tests.faults.holding import Hold
from tests.faults.wire import (
    CONNACK,
    Wire,
    connected_stomp,
    mqtt_connect,
    mqtt_puback,
    mqtt_publish,
    stomp_frame,
)
from tests.rig.clients import MqttPublisher, MqttSubscriber, StompClient, StompDelivery
from tests.rig.counting import SqsClient, assert_exactly, depth, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.waiting import wait_for

ROUTES: list[object] = [
    {"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]},
    {"match": {"topic": "both/{queue}"}, "to": [{"queue": "{queue}"}, {"sqs": "{queue}-copy"}]},
    {"match": {"topic": "fifo/{queue}/{group}"}, "to": [{"sqs": "{queue}.fifo", "group_id": "{group}"}]},
    {"match": {"queue": "{queue}-ordered"}, "to": [{"sqs": "{queue}.fifo", "group_id": "{header:JMSXGroupID}"}]},
]

VISIBILITY = 30
AT_ONCE = 10.0
"""Seconds; far less than the visibility timeout."""

SQS_BYTES = 1_048_576
ATTRIBUTES_BYTES = 1024
"""More than what mqlift's own attributes take of a message here."""

BODIES = {
    "text": "text with ümlauts and 漢字".encode(),
    "one byte": b"x",
    "empty": b"",
    "NUL and controls": b"\0\x01\x1f\x7f and more\0",
    "not UTF-8": b"\xff\xfe\x80",
    "every byte": bytes(range(256)) * 4,
    "line ends": b"\r\n\n\r",
    "256 KiB": b"k" * 262_144,
    "256 KiB of bytes": bytes(range(256)) * 1024,
    "nearly 1 MiB": b"m" * (SQS_BYTES - ATTRIBUTES_BYTES),
    "nearly 1 MiB as base64": b"\xff" * ((SQS_BYTES - ATTRIBUTES_BYTES) * 3 // 4),
}


@pytest.fixture(scope="module")
def endpoint(ministack: Ministack) -> Iterator[FaultEndpoint]:
    with FaultEndpoint(ministack.url) as faults:
        yield faults


@pytest.fixture(scope="module")
def gateway(endpoint: FaultEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests here; rules with captures give each its own queues."""
    config = gateway_config(endpoint.url, routes=ROUTES, receiver={"wait": 1, "visibility": VISIBILITY})
    running = Gateway(config, tmp_path_factory.mktemp("crossing"))
    with serving(running):
        yield running


@pytest.fixture
def hold(endpoint: FaultEndpoint, queue_name: str) -> Iterator[Hold]:
    """Holds back what SQS answers to sends into the test's queue."""
    fault = Hold(queue=queue_name)
    endpoint.inject(fault, action="SendMessageBatch", times=None)
    yield fault
    endpoint.clear()
    if fault.held:
        fault.release()


def keep(_delivery: StompDelivery) -> None:
    """Decide nothing: the test settles it, or never does."""


def receive_now(sqs: SqsClient, queue_url: str) -> list[dict]:  # type: ignore[type-arg]
    """One call that does not wait."""
    answer = sqs.receive_message(
        QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=0, MessageAttributeNames=["All"]
    )
    return list(answer.get("Messages", ()))


def payload(message: dict) -> bytes:  # type: ignore[type-arg]
    """As docs/wire-format.md tells native applications to read a body."""
    encoding = message.get("MessageAttributes", {}).get("mqlift.encoding", {}).get("StringValue")
    if encoding == "base64":
        return base64.b64decode(message["Body"])
    return b"" if encoding == "empty" else message["Body"].encode()


# No acknowledgement before the backend has accepted


@pytest.mark.parametrize("stored", [True, False], ids=["stored, not answered", "not stored"])
def test_no_puback_before_sqs_has_answered(
    stored: bool, gateway: Gateway, endpoint: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    hold = Hold(before=not stored, queue=queue_name)
    endpoint.inject(hold, action="SendMessageBatch")
    with MqttSubscriber(gateway.port("mqtt"), queue_name) as client:
        acknowledged = threading.Event()
        client.client.on_publish = lambda *_arguments: acknowledged.set()
        client.client.publish(f"in/{queue_name}/1", b"held", qos=1)
        wait_for(lambda: hold.held, "the request is on its way")
        # The connection is alive, and what is due on it comes.
        client.subscribe("elsewhere")
        assert not acknowledged.is_set()
        assert depth(sqs, queue) == (int(stored), 0)
        hold.release()
        assert acknowledged.wait(AT_ONCE)
    assert [message["Body"] for message in receive_now(sqs, queue)] == ["held"]


def test_after_puback_the_message_is_there_at_once(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        for number in range(1, 21):
            publisher.publish(f"in/{queue_name}/{number}", f"message {number}")
            publisher.wait_acknowledged(number)
            assert [message["Body"] for message in receive_now(sqs, queue)] == [f"message {number}"]


def test_no_receipt_before_sqs_has_answered(
    hold: Hold, gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with StompClient(gateway.port("stomp")) as client:
        sending = threading.Thread(target=client.send, args=(f"/queue/{queue_name}", "held"))
        sending.start()
        wait_for(lambda: hold.held, "the request is on its way")
        client.subscribe("/topic/elsewhere")
        assert sending.is_alive()
        hold.release()
        sending.join(AT_ONCE)
        assert not sending.is_alive()
    assert [message["Body"] for message in receive_now(sqs, queue)] == ["held"]


def test_a_queue_is_made_by_the_first_publish(gateway: Gateway, sqs: SqsClient, queue_name: str) -> None:
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"in/{queue_name}/1", "first")
        publisher.wait_acknowledged(1)
    url = sqs.get_queue_url(QueueName=queue_name)["QueueUrl"]
    assert_exactly(["first"], drain(sqs, url).elements())
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"mqlift:name": queue_name}


def test_all_targets_of_a_rule_have_it_before_puback(
    hold: Hold, gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with MqttSubscriber(gateway.port("mqtt"), queue_name) as client:
        acknowledged = threading.Event()
        client.client.on_publish = lambda *_arguments: acknowledged.set()
        client.client.publish(f"both/{queue_name}", "twice", qos=1)
        wait_for(lambda: hold.held, "one target does not answer")
        copy = wait_for(lambda: find_queue(sqs, f"{queue_name}-copy"), "the other target is there")
        wait_for(lambda: depth(sqs, copy) == (1, 0), "the other target has it")
        client.subscribe("elsewhere")
        assert not acknowledged.is_set()
        hold.release()
        assert acknowledged.wait(AT_ONCE)
    assert_exactly(["twice"], drain(sqs, queue).elements())
    assert_exactly(["twice"], drain(sqs, copy).elements())


def find_queue(sqs: SqsClient, name: str) -> str:
    """The queue's URL, empty when there is none."""
    with contextlib.suppress(sqs.exceptions.QueueDoesNotExist):
        return str(sqs.get_queue_url(QueueName=name)["QueueUrl"])
    return ""


# No delete before the consumer's acknowledgement


def test_a_device_to_a_consumer(
    gateway: Gateway, endpoint: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with (
        StompClient(gateway.port("stomp"), decide=keep) as consumer,
        MqttPublisher(gateway.port("mqtt"), queue_name) as publisher,
    ):
        consumer.subscribe(f"/queue/{queue_name}")
        publisher.publish(f"in/{queue_name}/sensor/1", "21.5")
        delivery = consumer.wait_deliveries(1)[0]
        assert (delivery.body, delivery.redelivered) == ("21.5", False)
        assert delivery.headers["destination"] == f"/topic/in.{queue_name}.sensor.1"
        assert depth(sqs, queue) == (0, 1)
        assert endpoint.deleted(queue_name) == []
        consumer.ack(delivery)
        wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")
        assert [each.body for each in endpoint.deleted(queue_name)] == ["21.5"]


def test_nack_brings_it_back_at_once_marked_redelivered(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    decisions: Iterator[Literal["nack", "ack"]] = iter(("nack", "ack"))
    with StompClient(gateway.port("stomp"), decide=lambda _delivery: next(decisions)) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        consumer.send(f"/queue/{queue_name}", "again")
        first, second = consumer.wait_deliveries(2, AT_ONCE)
        assert [first.redelivered, second.redelivered] == [False, True]
        wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")


@pytest.mark.parametrize("ending", ["drop", "close"])
def test_a_consumer_that_leaves_gives_back_what_it_held(
    ending: str, gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    bodies = [f"message {number}" for number in range(25)]
    with (
        StompClient(gateway.port("stomp"), decide=keep) as leaving,
        StompClient(gateway.port("stomp")) as staying,
    ):
        leaving.subscribe(f"/queue/{queue_name}")
        for body in bodies:
            sqs.send_message(QueueUrl=queue, MessageBody=body)
        leaving.wait_deliveries(len(bodies))
        staying.subscribe(f"/queue/{queue_name}")
        getattr(leaving, ending)()
        deliveries = staying.wait_deliveries(len(bodies), AT_ONCE)
        wait_for(lambda: depth(sqs, queue) == (0, 0), "all are deleted")
    assert_exactly(bodies, [delivery.body for delivery in deliveries])
    assert all(delivery.redelivered for delivery in deliveries)


def test_auto_acknowledges_what_was_written(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}", ack="auto")
        for number in range(30):
            consumer.send(f"/queue/{queue_name}", str(number))
        deliveries = consumer.wait_deliveries(30)
        wait_for(lambda: depth(sqs, queue) == (0, 0), "all are deleted")
    assert_exactly(map(str, range(30)), [delivery.body for delivery in deliveries])
    assert all("ack" not in delivery.headers for delivery in deliveries)


@pytest.mark.parametrize(("mode", "deleted"), [("client", [0, 1, 2]), ("client-individual", [2])])
def test_an_ack_ends_what_its_mode_says(
    mode: Literal["client", "client-individual"],
    deleted: list[int],
    gateway: Gateway,
    endpoint: FaultEndpoint,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
) -> None:
    with StompClient(gateway.port("stomp"), decide=keep) as consumer:
        consumer.subscribe(f"/queue/{queue_name}", ack=mode)
        for number in range(5):
            consumer.send(f"/queue/{queue_name}", str(number))
        deliveries = consumer.wait_deliveries(5)
        consumer.ack(deliveries[2])
        wait_for(lambda: depth(sqs, queue) == (0, 5 - len(deleted)), "they are deleted")
    expected = [deliveries[index].body for index in deleted]
    assert_exactly(expected, [each.body for each in endpoint.deleted(queue_name)])
    wait_for(lambda: depth(sqs, queue) == (5 - len(deleted), 0), "the others are back at once", AT_ONCE)


# Native applications


def test_what_a_native_application_sends_reaches_the_consumer(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        sqs.send_message(
            QueueUrl=queue,
            MessageBody="from boto3: ü",
            MessageAttributes={
                "tenant": {"DataType": "String", "StringValue": "north: a"},
                "weight": {"DataType": "Number", "StringValue": "7"},
            },
        )
        delivery = consumer.wait_deliveries(1)[0]
        wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")
    assert delivery.body == "from boto3: ü"
    assert delivery.headers["destination"] == f"/queue/{queue_name}"
    assert (delivery.headers["tenant"], delivery.headers["weight"]) == ("north: a", "7")


def test_headers_and_properties_cross_sqs(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    sent = {
        "content-type": "application/json",
        "content-encoding": "gzip",
        "correlation-id": "c-1",
        "reply-to": "/queue/answers",
        "persistent": "true",
        "priority": "7",
        "amqp-message-id": "m-1",
        "timestamp": "1790000000",
        "type": "order",
        "app-id": "erp",
        "plain": "value",
        "colon": "a:b",
        "backslash": "a\\b\\n",
        "lines": "one\ntwo\rthree",
        "näme ü": "漢字",
        "x-empty": "",
    }
    with StompClient(gateway.port("stomp")) as client:
        client.send(f"/queue/{queue_name}", "{}", **sent)
        # It went through SQS, where its body is readable by anybody.
        wait_for(lambda: depth(sqs, queue) == (1, 0), "it is in SQS")
        client.subscribe(f"/queue/{queue_name}")
        delivery = client.wait_deliveries(1)[0]
    assert {name: delivery.headers.get(name) for name in sent} == sent
    assert delivery.headers["destination"] == f"/queue/{queue_name}"


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_every_body_crosses_unchanged(
    body: bytes, gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with (
        MqttSubscriber(gateway.port("mqtt"), queue_name) as client,
        StompClient(gateway.port("stomp"), decode=False) as consumer,
    ):
        client.subscribe(f"in/{queue_name}/#")
        client.client.publish(f"in/{queue_name}/1", body, qos=1)
        assert client.wait_messages(1)[0].body == body
        wait_for(lambda: depth(sqs, queue) == (1, 0), "it is in SQS")
        message = receive_now(sqs, queue)[0]
        assert payload(message) == body
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        # STOMP to SQS to STOMP
        consumer.send(f"/queue/{queue_name}", body)
        consumer.subscribe(f"/queue/{queue_name}")
        delivery = consumer.wait_deliveries(1)[0]
        assert (delivery.body or b"") == body
        assert delivery.headers.get("content-length", "0") == str(len(body))


@pytest.mark.parametrize("body", [b"m" * SQS_BYTES, b"\xff" * (SQS_BYTES * 3 // 4)], ids=["1 MiB", "1 MiB as base64"])
def test_what_sqs_cannot_take_is_refused(
    body: bytes, gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.client.publish(f"in/{queue_name}/1", body, qos=1)
        wait_for(lambda: publisher.disconnects, "3.1.1 has no other way to refuse")
    with StompClient(gateway.port("stomp")) as client, pytest.raises(AssertionError, match="Message rejected"):
        client.send(f"/queue/{queue_name}", body)
    assert depth(sqs, queue) == (0, 0)


# FIFO


def test_each_group_of_a_fifo_queue_stays_in_order(gateway: Gateway, queue_name: str) -> None:
    groups = {f"group-{group}": [f"{group}/{number}" for number in range(12)] for group in range(25)}
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        for number in range(12):
            for group, bodies in groups.items():
                publisher.publish(f"fifo/{queue_name}/{group}", bodies[number])
        publisher.wait_acknowledged(25 * 12)
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}-ordered", ack="client-individual", **{"prefetch-count": "50"})
        deliveries = consumer.wait_deliveries(25 * 12, 60)
    received: defaultdict[str, list[str]] = defaultdict(list)
    for delivery in deliveries:
        received[f"group-{delivery.body.partition('/')[0]}"].append(delivery.body)
    assert received == groups


def test_a_header_names_the_group(gateway: Gateway, sqs: SqsClient, queue_name: str) -> None:
    bodies = [str(number) for number in range(10)]
    with StompClient(gateway.port("stomp")) as client:
        for body in bodies:
            client.send(f"/queue/{queue_name}-ordered", body, JMSXGroupID="blue")
    url = sqs.get_queue_url(QueueName=f"{queue_name}.fifo")["QueueUrl"]
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"])
    assert [message["Body"] for message in answer["Messages"]] == bodies
    assert {message["Attributes"]["MessageGroupId"] for message in answer["Messages"]} == {"blue"}


# Live topics


def test_live_topics_join_mqtt_and_stomp(gateway: Gateway, queue_name: str) -> None:
    with (
        MqttSubscriber(gateway.port("mqtt"), f"{queue_name}-mqtt") as mqtt,
        StompClient(gateway.port("stomp")) as stomp_client,
        MqttPublisher(gateway.port("mqtt"), f"{queue_name}-publisher") as publisher,
    ):
        assert mqtt.subscribe(f"{queue_name}/+/c/#") == 1
        stomp_client.subscribe(f"/topic/{queue_name}.*.c.#", ack="auto")
        publisher.publish(f"{queue_name}/b/c/d", "from MQTT")
        publisher.publish(f"{queue_name}/b/x/d", "elsewhere")
        publisher.wait_acknowledged(2)
        stomp_client.send(f"/topic/{queue_name}.b.c", "from STOMP")
        messages = mqtt.wait_messages(2)
        deliveries = stomp_client.wait_deliveries(2)
    assert [(message.topic, message.body) for message in messages] == [
        (f"{queue_name}/b/c/d", b"from MQTT"),
        (f"{queue_name}/b/c", b"from STOMP"),
    ]
    assert [(delivery.headers["destination"], delivery.body) for delivery in deliveries] == [
        (f"/topic/{queue_name}.b.c.d", "from MQTT"),
        (f"/topic/{queue_name}.b.c", "from STOMP"),
    ]


def test_overlapping_subscriptions_deliver_once_at_the_highest_qos(gateway: Gateway, queue_name: str) -> None:
    with (
        MqttSubscriber(gateway.port("mqtt"), f"{queue_name}-a") as subscriber,
        MqttPublisher(gateway.port("mqtt"), f"{queue_name}-b") as publisher,
    ):
        subscriber.subscribe(f"{queue_name}/#", qos=0)
        subscriber.subscribe(f"{queue_name}/+", qos=1)
        subscriber.subscribe(f"{queue_name}/1", qos=0)
        publisher.publish(f"{queue_name}/1", "once")
        publisher.publish(f"{queue_name}/end/of/it", "last")
        messages = subscriber.wait_messages(2)
    assert [(message.body, message.qos) for message in messages] == [(b"once", 1), (b"last", 0)]


def test_what_a_rule_takes_is_seen_live_too(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    with (
        MqttSubscriber(gateway.port("mqtt"), f"{queue_name}-a") as subscriber,
        MqttPublisher(gateway.port("mqtt"), f"{queue_name}-b") as publisher,
    ):
        subscriber.subscribe(f"in/{queue_name}/#")
        publisher.publish(f"in/{queue_name}/1", "both")
        assert subscriber.wait_messages(1)[0].body == b"both"
        publisher.wait_acknowledged(1)
    assert_exactly(["both"], drain(sqs, queue).elements())


# Endings


def test_a_will_is_published_when_the_connection_is_lost(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    device = MqttPublisher(gateway.port("mqtt"), queue_name)
    device.client.will_set(f"in/{queue_name}/status", "gone", qos=1)
    with device:
        device.drop()
        wait_for(lambda: depth(sqs, queue) == (1, 0), "the will is in SQS")
        wait_for(lambda: device.connected, "paho is back")
    # Which then left with a DISCONNECT: that publishes nothing, and whatever comes next comes after it.
    with MqttPublisher(gateway.port("mqtt"), f"{queue_name}-other") as other:
        other.publish(f"in/{queue_name}/status", "end")
        other.wait_acknowledged(1)
    assert_exactly(["gone", "end"], drain(sqs, queue).elements())


def test_takeover_closes_the_old_connection_and_publishes_its_will(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    taken_over = gateway.metric("mqlift_takeovers_total")
    with Wire(gateway.port("mqtt")) as old:
        old.send(mqtt_connect(queue_name, will=(f"in/{queue_name}/status", b"taken over")))
        assert old.receive(len(CONNACK)) == CONNACK
        with MqttPublisher(gateway.port("mqtt"), queue_name) as new:
            assert old.receive_all() == b""
            new.publish(f"in/{queue_name}/1", "from the new one")
            new.wait_acknowledged(1)
            wait_for(lambda: depth(sqs, queue) == (2, 0), "the will is in SQS")
    assert gateway.metric("mqlift_takeovers_total") == taken_over + 1
    assert_exactly(["taken over", "from the new one"], drain(sqs, queue).elements())


def test_a_publisher_cut_in_the_middle_of_a_packet(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    whole = mqtt_publish(f"in/{queue_name}/1", b"whole", 1)
    half = mqtt_publish(f"in/{queue_name}/1", b"half" * 1000, 2)[:2000]
    with Wire(gateway.port("mqtt")) as wire:
        wire.send(mqtt_connect(queue_name, will=(f"in/{queue_name}/status", b"will")) + whole + half)
        assert wire.receive(len(CONNACK) + 4) == CONNACK + mqtt_puback(1)
        wire.reset()
    wait_for(lambda: depth(sqs, queue) == (2, 0), "the whole one and the will are in SQS")
    assert_exactly(["whole", "will"], drain(sqs, queue).elements())


def test_a_consumer_cut_in_the_middle_of_a_frame(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    """Also in auto mode: what the operating system has not taken was not delivered."""
    body = "b" * 500_000
    for number in range(8):
        sqs.send_message(QueueUrl=queue, MessageBody=f"{number}{body}")
    with connected_stomp(gateway.port("stomp"), receive_buffer=4096) as wire:
        wire.send(stomp_frame("SUBSCRIBE", id="0", destination=f"/queue/{queue_name}", ack="auto"))
        wire.receive(200_000)
        wait_for(lambda: depth(sqs, queue)[1] > 0, "some are on their way")
        wire.reset()
    wait_for(lambda: depth(sqs, queue)[1] == 0, "nothing is hidden any more", AT_ONCE)
    waiting, _ = depth(sqs, queue)
    # What the socket's buffers took counts as delivered, and that is far less than all.
    assert waiting >= 2
    with StompClient(gateway.port("stomp")) as other:
        other.subscribe(f"/queue/{queue_name}")
        other.wait_deliveries(waiting, AT_ONCE)
