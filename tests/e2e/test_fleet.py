"""Two gateways with one DynamoDB table, as behind a load balancer: what clients of one do, clients of the other see."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from tests.conftest import finish
from tests.e2e.conftest import ROUTES
from tests.faults.device import PUBCOMP, PUBREC, TAKEN_OVER, Device, Will, connect_again
from tests.rig.amqp import AmqpClient
from tests.rig.clients import MqttSubscriber
from tests.rig.counting import SqsClient, assert_exactly, drain
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.waiting import wait_for

TABLE = "mqlift-fleet"
PREFIX = "fleet-"

SOON = 3.0
"""Seconds in which what one gateway does is so at the other: one, on a machine that has nothing else to do."""

DEAD = 40.0
"""Seconds in which the sessions of a gateway that was killed are the others' to end."""


@pytest.fixture(scope="module")
def gateways(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Gateway]]:
    with contextlib.ExitStack() as stack:
        directory = tmp_path_factory.mktemp("fleet")
        started = []
        for _ in range(2):
            config = gateway_config(
                ministack.url,
                protocols=("mqtt", "amqp091"),
                prefix=PREFIX,
                state=f"dynamodb://{TABLE}",
                routes=ROUTES,
                receiver={"wait": 1, "visibility": 2},
            )
            gateway = Gateway(config, directory)
            stack.callback(finish, gateway)
            gateway.start()
            started.append(gateway)
        yield started[0], started[1]


@pytest.fixture
def pair(gateways: tuple[Gateway, Gateway]) -> tuple[Gateway, Gateway]:
    """Both running, whatever a test before has done to them."""
    for gateway in gateways:
        if not gateway.running:
            gateway.start()
    return gateways


@pytest.fixture
def name(queue_name: str) -> str:
    """What no other test has: the name of an exchange, a queue, a topic, or a client."""
    return queue_name


def amqp(gateway: Gateway) -> AmqpClient:
    return AmqpClient(gateway.port("amqp091"))


def mqtt(gateway: Gateway) -> int:
    return gateway.port("mqtt")


@contextlib.contextmanager
def frozen(gateway: Gateway) -> Iterator[None]:
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


# Topology


def test_what_is_declared_at_one_is_there_at_the_other(pair: tuple[Gateway, Gateway], name: str) -> None:
    one, other = pair
    with amqp(one) as here, amqp(other) as there:
        here.channel.exchange_declare(name, "topic", durable=True)
        here.declare(name, x_max_length=100)
        here.channel.queue_bind(name, name, "a.#")
        # What was answered at one is known to a declaration at the other at once.
        there.channel.exchange_declare(name, "topic", durable=True)
        assert there.channel.queue_declare(name, passive=True).method.message_count == 0
        bound = time.monotonic()
        wait_for(lambda: publishes(there, "a.b", "routed", name), "the binding is in effect", SOON)
        print(f"in effect after {time.monotonic() - bound:.2f} s")
        there.publish(name, "by its name")
        there.consume(name)
        assert {each.body for each in there.wait_received(2)} == {"routed", "by its name"}
        for each in there.received:
            each.ack()
        here.channel.queue_unbind(name, name, "a.#")
        wait_for(lambda: not publishes(there, "a.b", "lost", name), "the binding is gone", SOON)
        here.channel.queue_delete(name)
        there.pump(lambda: there.cancelled == ["c"], "its consumer was told")


def publishes(client: AmqpClient, key: str, body: str, exchange: str) -> bool:
    try:
        client.publish(key, body, exchange)
    except UnroutableError:
        return False
    return True


def test_what_was_declared_otherwise_at_the_other_is_a_conflict(pair: tuple[Gateway, Gateway], name: str) -> None:
    one, other = pair
    with amqp(one) as here:
        here.channel.exchange_declare(name, "topic", durable=True)
        here.declare(name, x_max_length=100)
    with amqp(other) as there, pytest.raises(ChannelClosedByBroker, match="inequivalent arg 'type'"):
        there.channel.exchange_declare(name, "direct", durable=True)
    with amqp(other) as there, pytest.raises(ChannelClosedByBroker, match="inequivalent arg 'x-max-length'"):
        there.declare(name, x_max_length=7)


def test_what_a_killed_gateway_has_answered_is_kept(pair: tuple[Gateway, Gateway], name: str) -> None:
    one, other = pair
    with contextlib.suppress(Exception), amqp(one) as here:
        for number in range(20):
            here.declare(f"{name}-{number}")
            here.channel.queue_bind(f"{name}-{number}", "amq.topic", f"{name}.{number}")
        one.kill9()
    with amqp(other) as there:
        for number in range(20):
            wait_for(
                lambda number=number: publishes(there, f"{name}.{number}", str(number), "amq.topic"),  # type: ignore[misc]
                f"q{number} is bound",
                SOON,
            )
            assert there.take(f"{name}-{number}").body == str(number)


# Retained messages


def test_a_message_retained_at_one_is_shown_to_who_subscribes_at_the_other(
    pair: tuple[Gateway, Gateway], name: str
) -> None:
    one, other = pair
    with Device(mqtt(one), "", clean=True) as publisher:
        publisher.publish(f"{name}/a", b"on", retain=True)
        wait_for(lambda: retained(other, f"{name}/#") == [b"on"], "it is shown", SOON)
        publisher.publish(f"{name}/a", b"", retain=True)
        wait_for(lambda: not retained(other, f"{name}/#"), "it is gone", SOON)


def retained(gateway: Gateway, topic_filter: str) -> list[bytes]:
    with Device(mqtt(gateway), "", clean=True) as device:
        device.subscribe(topic_filter, 0)
        return [message.payload for message in device.take_messages()]


# Sessions


@pytest.mark.parametrize("clean", [False, True])
def test_a_client_that_connects_to_the_other_is_taken_over(
    pair: tuple[Gateway, Gateway], name: str, clean: bool
) -> None:
    one, other = pair
    will = Will(topic=f"{name}/will", payload=b"gone", retain=True)
    with Device(mqtt(one), name, clean=clean, will=will) as old:
        began = time.monotonic()
        with Device(mqtt(other), name, clean=clean) as new:
            assert old.disconnect_reason() == TAKEN_OVER
            print(f"taken over after {time.monotonic() - began:.2f} s")
            wait_for(lambda: retained(other, f"{name}/will") == [b"gone"], "its will was published", SOON)
            new.ping()
            assert new.publish("nowhere", b"x", 1) in {0, 0x10}


def test_clients_of_other_makers_are_taken_over_too(pair: tuple[Gateway, Gateway], name: str) -> None:
    one, other = pair
    with MqttSubscriber(mqtt(one), name) as old:
        old.subscribe(f"{name}/#")
        with MqttSubscriber(mqtt(other), name) as new:
            wait_for(lambda: not old.connected, "the old connection is closed", SOON)
            assert new.connected


def test_a_session_moves_with_its_client(pair: tuple[Gateway, Gateway], name: str) -> None:
    one, other = pair
    with Device(mqtt(one), name) as device:
        device.subscribe(f"{name}/#", 1)
        device.disconnect()
    with Device(mqtt(other), "", clean=True) as publisher:
        wait_for(lambda: publisher.publish(f"{name}/1", b"first") == 0, "the other routes to it", SOON)
        for number in range(20):
            assert publisher.publish(f"{name}/{number}", str(number).encode()) == 0
    with Device(mqtt(other), name) as device:
        assert device.session_present
        assert Counter(device.messages(21)) == Counter([b"first", *(str(number).encode() for number in range(20))])
        device.disconnect()
    with Device(mqtt(one), name) as device:
        assert device.session_present
        assert device.take_messages() == []


def test_what_is_published_here_reaches_a_client_that_is_connected_there(
    pair: tuple[Gateway, Gateway], name: str
) -> None:
    one, other = pair
    with Device(mqtt(one), name) as device, Device(mqtt(other), "", clean=True) as publisher:
        device.subscribe(f"{name}/#", 1)
        wait_for(lambda: publisher.publish(f"{name}/1", b"x") == 0, "the other routes to it", SOON)
        assert device.messages(1) == [b"x"]


def test_a_client_of_a_killed_gateway_goes_on_at_the_other(
    pair: tuple[Gateway, Gateway], sqs: SqsClient, name: str
) -> None:
    """QoS 1 and 2, in both directions: every message is there, and what was said once is not said twice."""
    one, other = pair
    with Device(mqtt(one), name) as device:
        device.subscribe(f"{name}/#", 2)
        with Device(mqtt(one), "", clean=True) as publisher:
            for number in range(10):
                assert publisher.publish(f"{name}/one/{number}", f"1-{number}".encode(), 1) == 0
                assert publisher.publish(f"{name}/two/{number}", f"2-{number}".encode(), 2) == 0
        accepted, held = [], []
        for number in range(20):
            message = device.message()
            if number % 2:
                held.append(message.payload)
            else:
                device.accept(message)
                accepted.append(message.payload)
        device.send_publish(f"in/{name}/t", b"once", 2, packet_id=99)
        assert device.expect(PUBREC).packet_id == 99
        device.ping()
        one.kill9()
    with Device(mqtt(other), name) as device:
        assert device.session_present
        device.send_publish(f"in/{name}/t", b"once", 2, packet_id=99, dup=True)
        assert device.expect(PUBREC).packet_id == 99
        device.release(99)
        missing = Counter(held)
        repeated: Counter[bytes] = Counter()
        while missing:
            message = device.message()
            device.accept(message)
            if missing[message.payload]:
                missing -= Counter([message.payload])
            else:
                repeated[message.payload] += 1
        assert set(repeated) <= set(accepted), "deletions that were cut off"
        assert max(repeated.values(), default=0) <= 1
    inbox = sqs.get_queue_url(QueueName=f"{PREFIX}{name}")["QueueUrl"]
    assert_exactly(["once"], drain(sqs, inbox).elements())


def test_every_message_reaches_a_client_that_wanders(pair: tuple[Gateway, Gateway], name: str) -> None:
    """Between two gateways, one of which is killed on the way; published at both."""
    one, other = pair
    with Device(mqtt(one), name) as device:
        device.subscribe(f"{name}/#", 1)
    wait_for(lambda: published(other, f"{name}/0", b"at first"), "the other routes to it", SOON)
    missing = {b"at first"}
    for turn, gateway in enumerate([other, one, other, one, other]):
        for publisher in pair:
            if publisher.running:
                batch = [f"{turn}-{publisher.admin_port}-{number}".encode() for number in range(10)]
                for number, payload in enumerate(batch):
                    assert published(publisher, f"{name}/{number}", payload)
                missing.update(batch)
        with connect_again(mqtt(gateway), name) as device:
            assert device.session_present
            for _ in range(10):
                message = device.message()
                device.accept(message)
                missing.discard(message.payload)
            device.ping()
            if turn == 2:
                gateway.kill9()
        if turn == 3:
            other.start()
    with connect_again(mqtt(one), name) as device:
        while missing:
            message = device.message()
            device.accept(message)
            missing.discard(message.payload)


def published(gateway: Gateway, topic: str, payload: bytes) -> bool:
    """Whether a message was taken, and routed."""
    with Device(mqtt(gateway), "", clean=True) as publisher:
        return publisher.publish(topic, payload) == 0


def test_a_gateway_that_was_frozen_damages_nothing(pair: tuple[Gateway, Gateway], name: str) -> None:
    one, other = pair
    with Device(mqtt(one), name) as old:
        old.subscribe(f"{name}/#", 2)
        with frozen(one):
            with Device(mqtt(other), name) as new:
                assert new.session_present
                new.send_publish(f"{name}/x", b"1", 2, packet_id=7)
                assert new.expect(PUBREC).packet_id == 7
            old.send_publish(f"{name}/x", b"2", 2, packet_id=8)  # to be read when it goes on
        with contextlib.suppress(ConnectionError):
            while old.wire.receive(1):
                """Until the gateway closes the connection that has lost its session."""
    with Device(mqtt(other), name) as again:
        assert again.session_present
        again.release(7)
        again.send_acknowledgement(6, 8)
        completed = again.expect(PUBCOMP)
        assert (completed.packet_id, completed.reason) != (8, 0), "the frozen one could not write it down"


def test_the_others_end_the_sessions_of_one_that_is_gone(
    pair: tuple[Gateway, Gateway], sqs: SqsClient, name: str
) -> None:
    one, other = pair
    will = Will(topic=f"{name}/will", payload=b"gone", retain=True)
    with Device(mqtt(one), name, expiry=5, will=will) as device:
        device.subscribe(f"{name}/#", 1)
        assert session_queues(sqs, name)
        one.kill9()
        wait_for(lambda: not session_queues(sqs, name), "its session has expired", DEAD)
        assert retained(other, f"{name}/will") == [b"gone"]
    one.start()
    with Device(mqtt(one), name) as device:
        assert not device.session_present


def session_queues(sqs: SqsClient, client_id: str) -> list[str]:
    urls = sqs.list_queues(QueueNamePrefix=PREFIX).get("QueueUrls", [])
    return [url for url in urls if f"mqtt-session-{client_id}-" in url]


def test_one_that_starts_leaves_the_sessions_of_the_other_alone(pair: tuple[Gateway, Gateway], name: str) -> None:
    one, other = pair
    with Device(mqtt(one), name, expiry=1) as device:
        device.subscribe(f"{name}/#", 1)
        other.terminate()
        other.start()
        with Device(mqtt(other), "", clean=True) as publisher:
            assert publisher.publish(f"{name}/1", b"x") == 0
            assert device.messages(1) == [b"x"]
