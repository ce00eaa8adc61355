"""Sessions that outlive their connections, and the gateway: what waits, what is remembered, and what ends them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.device import (
    PUBCOMP,
    PUBREC,
    PUBREL,
    QUOTA_EXCEEDED,
    TAKEN_OVER,
    V3_1,
    V3_1_1,
    V5,
    Device,
    Refused,
    connect_again,
)
from tests.rig.counting import SqsClient, assert_exactly, drain
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

AWAY = [f"message {number}".encode() for number in range(25)]
SOON = 15.0
"""Seconds; far more than a sweep, and a little more than a look at what could not be removed."""


@pytest.fixture
def client_id(queue_name: str) -> str:
    """Of a device that no other test has; its topics are below it."""
    return f"device-{queue_name}"


def session_queues(sqs: SqsClient, client_id: str) -> list[str]:
    """The URLs of what a device's sessions have in SQS."""
    urls = sqs.list_queues().get("QueueUrls", [])
    return [url for url in urls if f"mqtt-session-{client_id}-" in url]


def leave_subscribed(port: int, client_id: str, *, version: int = V5, qos: int = 1, expiry: int = 600) -> None:
    """Make a session that is subscribed to everything below the client identifier, and go."""
    with Device(port, client_id, version=version, expiry=expiry) as device:
        assert not device.session_present
        assert device.subscribe(f"{client_id}/#", qos) == qos
        device.disconnect()


def publish_all(port: int, topic: str, payloads: list[bytes], qos: int = 1) -> None:
    with Device(port, "", clean=True) as publisher:
        for payload in payloads:
            assert publisher.publish(topic, payload, qos) in {0, 0x10}


def publish_apart(port: int, client_id: str) -> None:
    """Each message on a topic of its own: of one topic, SQS hands nothing out while a message of it is held."""
    for number, payload in enumerate(AWAY):
        publish_all(port, f"{client_id}/{number}", [payload])


def assert_nothing_follows(device: Device, topic: str) -> None:
    """Nothing is on its way to the device that was published to a topic before: its queue keeps their order."""
    publish_all(device.port, topic, [b"the last"])
    assert device.messages(1) == [b"the last"]


# What waits for a device


@pytest.mark.parametrize("version", [V3_1, V3_1_1, V5])
@pytest.mark.parametrize("qos", [1, 2])
def test_messages_wait_for_a_device_that_is_away(
    version: int, qos: int, shared_gateway: Gateway, client_id: str
) -> None:
    port = shared_gateway.port("mqtt")
    leave_subscribed(port, client_id, version=version, qos=qos)
    # What a poll for the connection before still takes is given back, and then counts as delivered before.
    wait_for(lambda: shared_gateway.metric("mqlift_polls") == 0, "the last poll for it is over")
    publish_all(port, f"{client_id}/t", AWAY, qos)
    with Device(port, client_id, version=version) as device:
        assert device.session_present or version == V3_1  # which has no form for it
        first = device.message()
        assert (first.payload, first.qos, first.dup) == (AWAY[0], qos, False)
        device.accept(first)
        assert device.messages(len(AWAY) - 1) == AWAY[1:]
        assert_nothing_follows(device, f"{client_id}/t")


@pytest.mark.parametrize("qos", [1, 2])
def test_they_wait_over_a_restart(
    qos: int, keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    leave_subscribed(port, client_id, qos=qos)
    publish_all(port, f"{client_id}/t", AWAY, qos)
    restart(gateway)
    publish_all(port, f"{client_id}/t", [b"after"], qos)
    with Device(port, client_id) as device:
        assert device.session_present
        assert device.messages(len(AWAY) + 1) == [*AWAY, b"after"]
        assert_nothing_follows(device, f"{client_id}/t")


def test_a_connected_device_finds_its_session_again(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.subscribe(f"{client_id}/+/one", 1)
        device.subscribe(f"{client_id}/two", 2)
        device.subscribe(f"{client_id}/live", 0)
        device.subscribe(f"{client_id}/gone", 1)
        device.unsubscribe(f"{client_id}/gone")
        restart(gateway)
    with Device(port, client_id) as device:
        assert device.session_present
        for topic in ("gone", "x/one", "two", "live"):
            publish_all(port, f"{client_id}/{topic}", [topic.encode()], 2)
        seen = [device.message() for _ in range(3)]
    assert {message.payload: message.qos for message in seen} == {b"x/one": 1, b"two": 2, b"live": 0}


def test_what_was_not_acknowledged_comes_again_with_dup(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.subscribe(f"{client_id}/#")
        publish_apart(port, client_id)
        held = [device.message() for _ in AWAY]
        for message in held[:10]:
            device.accept(message)
        device.ping()
        restart(gateway)
    with Device(port, client_id) as device:
        missing = {message.payload for message in held[10:]}
        while missing:
            message = device.message()
            device.accept(message)
            assert message.dup
            missing.discard(message.payload)  # an acknowledged one may come again: its deletion was cut off


# QoS 2, from a device


def test_an_identifier_survives_its_connection(
    shared_gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str, client_id: str
) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.send_publish(f"in/{queue_name}/t", b"once", 2, packet_id=7)
        assert device.expect(PUBREC).packet_id == 7
    repeat_and_release(port, client_id, queue_name)
    assert_exactly(["once", "new"], drain(sqs, queue).elements())


def test_and_the_gateway(
    keeping_gateway: Callable[..., Gateway],
    restart: Callable[[Gateway], None],
    sqs: SqsClient,
    queue: str,
    queue_name: str,
    client_id: str,
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.send_publish(f"in/{queue_name}/t", b"once", 2, packet_id=7)
        assert device.expect(PUBREC).packet_id == 7
        restart(gateway)
    repeat_and_release(port, client_id, queue_name)
    assert_exactly(["once", "new"], drain(sqs, queue).elements())


def repeat_and_release(port: int, client_id: str, queue_name: str) -> None:
    """Send a PUBLISH that was sent before, until PUBCOMP; then another one under the same identifier."""
    with Device(port, client_id) as device:
        assert device.session_present
        device.send_publish(f"in/{queue_name}/t", b"once", 2, packet_id=7, dup=True)
        assert device.expect(PUBREC).packet_id == 7
        device.release(7)
        device.send_publish(f"in/{queue_name}/t", b"new", 2, packet_id=7)
        assert device.expect(PUBREC).packet_id == 7
        device.release(7)


def test_a_release_that_comes_after_a_restart_is_completed(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.send_publish(f"{client_id}/nowhere", b"x", 2, packet_id=9)
        device.expect(PUBREC)
        restart(gateway)
    with Device(port, client_id) as device:
        device.send_acknowledgement(PUBREL, 9)
        completed = device.expect(PUBCOMP)
        assert (completed.packet_id, completed.reason) == (9, 0)


# QoS 2, to a device


def test_an_unreceived_message_keeps_its_identifier(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.subscribe(f"{client_id}/#", 2)
        publish_all(port, f"{client_id}/t", [b"once"], 2)
        first = device.message()
        restart(gateway)
    with Device(port, client_id) as device:
        again = device.message()
        assert (again.payload, again.packet_id, again.dup) == (b"once", first.packet_id, True)
        device.accept(again)
        assert_nothing_follows(device, f"{client_id}/t")


def test_a_received_message_is_released_and_not_sent_again(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.subscribe(f"{client_id}/#", 2)
        publish_all(port, f"{client_id}/t", [b"once"], 2)
        message = device.message()
        device.send_acknowledgement(PUBREC, message.packet_id)
        assert device.expect(PUBREL).packet_id == message.packet_id
        restart(gateway)
    with Device(port, client_id) as device:
        assert device.expect(PUBREL).packet_id == message.packet_id
        device.send_acknowledgement(PUBCOMP, message.packet_id)
        assert_nothing_follows(device, f"{client_id}/t")


# What ends a session


def test_an_expired_session_is_removed_with_its_queue(shared_gateway: Gateway, sqs: SqsClient, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    leave_subscribed(port, client_id, expiry=1)
    assert len(session_queues(sqs, client_id)) == 1
    wait_for(lambda: not session_queues(sqs, client_id), "the queue is removed", SOON)
    with Device(port, client_id) as device:
        assert not device.session_present
        publish_all(port, f"{client_id}/t", [b"for nobody"])
        device.ping()


def test_a_session_may_expire_while_the_gateway_is_down(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], sqs: SqsClient, client_id: str
) -> None:
    gateway = keeping_gateway()
    leave_subscribed(gateway.port("mqtt"), client_id, expiry=1)
    restart(gateway)
    wait_for(lambda: not session_queues(sqs, client_id), "the queue is removed", SOON)
    with Device(gateway.port("mqtt"), client_id) as device:
        assert not device.session_present


def test_disconnect_may_say_that_it_ends_now(shared_gateway: Gateway, sqs: SqsClient, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.subscribe(f"{client_id}/#")
        device.disconnect(expiry=0)
    wait_for(lambda: not session_queues(sqs, client_id), "the queue is removed", SOON)
    with Device(port, client_id) as device:
        assert not device.session_present


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_a_clean_start_forgets(version: int, shared_gateway: Gateway, sqs: SqsClient, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    leave_subscribed(port, client_id, version=version)
    publish_all(port, f"{client_id}/t", AWAY)
    with Device(port, client_id, version=version, clean=True) as device:
        assert not device.session_present
        wait_for(lambda: not session_queues(sqs, client_id), "the queue is removed", SOON)
        device.subscribe(f"{client_id}/#")
        publish_all(port, f"{client_id}/t", [b"new"])
        assert device.messages(1) == [b"new"]
    with Device(port, client_id, version=version) as device:
        assert not device.session_present


def test_a_clean_start_forgets_identifiers_too(
    shared_gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str, client_id: str
) -> None:
    port = shared_gateway.port("mqtt")
    for clean in (False, True):
        with Device(port, client_id, clean=clean) as device:
            device.send_publish(f"in/{queue_name}/t", b"each time", 2, packet_id=3)
            device.expect(PUBREC)
    assert_exactly(["each time", "each time"], drain(sqs, queue).elements())


# Two connections of one device


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_a_takeover_ends_the_old_connection_and_keeps_the_session(
    version: int, shared_gateway: Gateway, client_id: str
) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, client_id, version=version) as old:
        old.subscribe(f"{client_id}/#")
        publish_apart(port, client_id)
        held = [old.message() for _ in AWAY]
        old.accept(held[0])
        old.ping()
        with Device(port, client_id, version=version) as new:
            assert new.session_present
            if version == V5:
                assert old.disconnect_reason() == TAKEN_OVER
            assert old.wire.receive_all() == b""
            again = [new.message() for _ in held[1:]]
            assert {message.payload for message in again} == {message.payload for message in held[1:]}
            assert all(message.dup for message in again)


# Limits


def test_too_many_sessions_are_refused(keeping_gateway: Callable[..., Gateway]) -> None:
    gateway = keeping_gateway(limits={"gateway": {"sessions": 2}})
    port = gateway.port("mqtt")
    for name in ("one", "two"):
        leave_subscribed(port, name)
    for version, code in ((V5, QUOTA_EXCEEDED), (V3_1_1, 3)):
        with pytest.raises(Refused) as refused:
            Device(port, "three", version=version)
        assert refused.value.code == code
        Device(port, "three", version=version, clean=True).drop()
    with Device(port, "two") as device:
        assert device.session_present
        device.disconnect(expiry=0)
    connect_again(port, "three").drop()


def test_a_file_of_state_has_one_gateway(keeping_gateway: Callable[..., Gateway]) -> None:
    keeping_gateway()
    with pytest.raises(AssertionError, match="ended with 2 when it was started") as failed:
        keeping_gateway()
    (text,) = failed.value.__notes__
    problem = text.splitlines()[1:]
    assert len(problem) == 1
    assert "state" in problem[0]
    assert "is in use by another gateway" in problem[0]


# Shared subscriptions


def test_consumers_of_a_group_share_what_comes(shared_gateway: Gateway, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    shared = f"$share/group-{client_id}/{client_id}/#"
    with Device(port, f"{client_id}-a") as one, Device(port, f"{client_id}-b") as other:
        assert one.subscribe(shared) == other.subscribe(shared) == 1
        publish_all(port, f"{client_id}/t", AWAY)
        got: dict[Device, list[str]] = {one: [], other: []}

        def all_came() -> bool:
            for device, payloads in got.items():
                payloads += [message.payload.decode() for message in device.take_messages()]
            return sum(map(len, got.values())) >= len(AWAY)

        wait_for(all_came, "all messages have come")
        assert_exactly((payload.decode() for payload in AWAY), got[one] + got[other])
        assert got[one]
        assert got[other]


def test_a_group_s_messages_wait_over_a_restart(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, client_id) as device:
        device.subscribe(f"$share/group-{client_id}/{client_id}/#")
    publish_all(port, f"{client_id}/t", AWAY)
    restart(gateway)
    with Device(port, client_id) as device:
        assert device.session_present
        assert sorted(device.messages(len(AWAY))) == sorted(AWAY)
