"""Bodies of many parts in S3: through every protocol, and within the memory that the gateway may use for them."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pika
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import finish
from tests.rig.clients import StompClient
from tests.rig.counting import SqsClient, depth
from tests.rig.processes import HOST, Gateway, Ministack, gateway_config
from tests.rig.streams import aws_client
from tests.rig.waiting import wait_for

BUCKET = "mqlift-bodies"
MIB = 1024 * 1024

ROOM = 64 * MIB
"""For all large bodies together."""
LARGE = 32 * MIB
CLIENTS = 8
PARTS = 4 * 8 * MIB * 3
"""Of parts that are under way, four of 8 MiB: each is there as itself, in what signs it, and in a socket's buffer."""

PATIENCE = 120.0


@pytest.fixture(scope="module")
def s3(ministack: Ministack) -> Iterator[Any]:
    client = aws_client("s3", ministack.url)
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


def start(stack: contextlib.ExitStack, ministack: Ministack, directory: Path, room: int, largest: int) -> Gateway:
    config = gateway_config(
        ministack.url,
        protocols=("mqtt", "stomp", "amqp091"),
        routes=[{"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]}],
        sqs={"large_payloads": {"bucket": BUCKET, "remove_after_ack": True}},
        receiver={"wait": 1, "visibility": 5},
        sender={"timeout": 60},
        limits={"gateway": {"large_body_bytes": room}},
    )
    options = {"mqtt": "max_packet_size", "stomp": "max_body", "amqp091": "max_message_size"}
    for listener in config["listeners"]:  # type: ignore[attr-defined]
        listener[options[listener["protocol"]]] = largest
    gateway = Gateway(config, directory)
    stack.callback(finish, gateway)
    gateway.start()
    return gateway


@pytest.fixture
def gateway(ministack: Ministack, s3: Any, tmp_path: Path) -> Iterator[Gateway]:
    with contextlib.ExitStack() as stack:
        yield start(stack, ministack, tmp_path, ROOM, LARGE + MIB)


def body_of(number: int, size: int = LARGE) -> bytes:
    """Text that is another one for each number, and nowhere repeats itself."""
    return random.Random(number).randbytes(size // 2).hex().encode()


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def peak(gateway: Gateway) -> int:
    """The most bytes that the process has ever had in memory."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def amqp(gateway: Gateway) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.ConnectionParameters(HOST, gateway.port("amqp091"), heartbeat=0))


def publish_amqp(gateway: Gateway, queue: str, body: bytes) -> None:
    with amqp(gateway) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True)
        channel.basic_publish("", queue, body, mandatory=True)


def publish_mqtt(gateway: Gateway, queue: str, body: bytes) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect(HOST, gateway.port("mqtt"), keepalive=60)
    client.loop_start()
    try:
        client.publish(f"in/{queue}/1", body, qos=1).wait_for_publish(PATIENCE)
    finally:
        client.loop_stop()
        client.disconnect()


def publish_stomp(gateway: Gateway, queue: str, body: bytes) -> None:
    with StompClient(gateway.port("stomp")) as client:
        client.send(f"/queue/{queue}", body)  # and waits for the receipt


PUBLISH: dict[str, Callable[[Gateway, str, bytes], None]] = {
    "amqp": publish_amqp,
    "mqtt": publish_mqtt,
    "stomp": publish_stomp,
}


def together(*work: Callable[[], None]) -> None:
    """Do all of it at the same time."""
    failures: list[BaseException] = []

    def run(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "somebody waits for ever"
    if failures:
        raise failures[0]


def consume_amqp(gateway: Gateway, queue: str, number: int, *, after: int = 1) -> list[str]:
    """The digests of so many messages, acknowledged when `after` of them have come."""
    digests: list[str] = []
    with amqp(gateway) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=number)
        for method, _, body in channel.consume(queue, inactivity_timeout=PATIENCE):
            assert method is not None, f"{len(digests)} of {number} came"
            digests.append(digest(body))
            if len(digests) >= after:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if len(digests) == number:
                break
        channel.cancel()
    return digests


def test_many_large_bodies_share_the_memory(
    gateway: Gateway, s3: Any, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    before = peak(gateway)
    bodies = [body_of(number) for number in range(CLIENTS)]
    expected = sorted(map(digest, bodies))
    together(*(lambda body=body: publish_amqp(gateway, queue_name, body) for body in bodies))  # type: ignore[misc]
    published = peak(gateway)
    assert published <= before + ROOM + LARGE + PARTS, "publishing"
    assert depth(sqs, queue) == (CLIENTS, 0)
    # All of them unacknowledged together are more than there is room for, and are not in memory any more.
    assert sorted(consume_amqp(gateway, queue_name, CLIENTS, after=CLIENTS)) == expected
    assert peak(gateway) <= before + ROOM + 2 * LARGE + PARTS, "consuming"
    wait_for(lambda: depth(sqs, queue) == (0, 0), "all are deleted")
    wait_for(lambda: "Contents" not in s3.list_objects_v2(Bucket=BUCKET), "all are removed")
    wait_for(lambda: gateway.metric("mqlift_large_body_bytes") == 0, "the memory is given back")
    print(f"{before // MIB} MiB, {published // MIB} MiB, {peak(gateway) // MIB} MiB")


GREATEST = 128 * MIB


@pytest.fixture(scope="module")
def roomy(ministack: Ministack, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """As large as bodies may be, with room for one at a time, and a little more: a packet has a head, too."""
    with contextlib.ExitStack() as stack:
        yield start(stack, ministack, tmp_path_factory.mktemp("roomy"), GREATEST + MIB, GREATEST + MIB)


def consume_stomp(gateway: Gateway, queue: str) -> str:
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/{queue}")
        (delivery,) = client.wait_deliveries(1, PATIENCE)
        return digest(delivery.body.encode())


def consume_kept(gateway: Gateway, queue: str, publish: Callable[[], None]) -> str:
    """Through the queue of an MQTT session that is kept."""
    digests: list[str] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, f"kept-{queue}", clean_session=False)
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _client, _data, message: digests.append(digest(message.payload))
    client.connect(HOST, gateway.port("mqtt"), keepalive=60)
    client.subscribe(f"kept/{queue}", qos=1)
    client.loop_start()
    try:
        assert subscribed.wait(PATIENCE)
        publish()
        wait_for(lambda: digests, "the message", PATIENCE)
    finally:
        client.disconnect()
        client.loop_stop()
    return digests[0]


def test_a_body_of_many_parts_goes_from_mqtt_to_stomp(roomy: Gateway, s3: Any, queue: str, queue_name: str) -> None:
    body = body_of(1, 40 * MIB)  # paho copies what is left of a packet with every send
    publish_mqtt(roomy, queue_name, body)
    (key,) = (each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET)["Contents"])
    stored = s3.get_object(Bucket=BUCKET, Key=key)
    assert digest(stored["Body"].read()) == digest(body), "as others read it"
    assert consume_stomp(roomy, queue_name) == digest(body)


def test_the_greatest_body_goes_from_stomp_to_amqp(roomy: Gateway, s3: Any, queue: str, queue_name: str) -> None:
    body = random.Random(2).randbytes(GREATEST)
    publish_stomp(roomy, queue_name, body)
    assert consume_amqp(roomy, queue_name, 1) == [digest(body)]


def test_the_greatest_body_goes_from_amqp_to_mqtt(roomy: Gateway, s3: Any, queue_name: str) -> None:
    body = body_of(3, GREATEST)

    def publish() -> None:
        with amqp(roomy) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            properties = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish("amq.topic", f"kept.{queue_name}", body, properties, mandatory=True)

    assert consume_kept(roomy, queue_name, publish) == digest(body)
