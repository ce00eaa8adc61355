"""Retained messages: for those who subscribe later, also after a restart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.device import V3_1_1, V5, Device, Message
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for


@pytest.fixture
def topic(queue_name: str) -> str:
    """What no other test publishes to or below."""
    return f"state/{queue_name}"


def retain(port: int, topic: str, payload: bytes, qos: int = 1, *, expiry: int | None = None) -> None:
    with Device(port, "", clean=True) as device:
        device.publish(topic, payload, qos, retain=True, expiry=expiry)
        device.ping()


def retained(port: int, topic_filter: str, *, qos: int = 1, version: int = V5) -> list[Message]:
    """What a new subscriber is sent: it has come when what is published after that comes."""
    with Device(port, "", clean=True, version=version) as device:
        device.subscribe("the/end", qos)
        device.subscribe(topic_filter, qos)
        device.publish("the/end", b"", qos)
        messages = []
        while (message := device.message()).topic != "the/end":
            messages.append(message)
        return messages


def payloads(port: int, topic_filter: str) -> dict[str, bytes]:
    return {message.topic: message.payload for message in retained(port, topic_filter)}


@pytest.mark.parametrize("version", [V3_1_1, V5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_last_message_is_sent_to_a_new_subscriber(
    qos: int, version: int, shared_gateway: Gateway, topic: str
) -> None:
    port = shared_gateway.port("mqtt")
    retain(port, topic, b"before", qos)
    retain(port, topic, b"last", qos)
    (message,) = retained(port, topic, qos=2, version=version)
    assert (message.payload, message.qos, message.retain) == (b"last", qos, True)


def test_a_subscriber_that_is_there_gets_it_as_any_other(shared_gateway: Gateway, topic: str) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, "", clean=True) as device:
        device.subscribe(topic)
        retain(port, topic, b"now")
        message = device.message()
        assert (message.payload, message.retain) == (b"now", False)


def test_an_empty_payload_forgets(shared_gateway: Gateway, topic: str) -> None:
    port = shared_gateway.port("mqtt")
    retain(port, topic, b"on")
    retain(port, topic, b"")
    assert retained(port, topic) == []


def test_wildcards_find_what_they_match(shared_gateway: Gateway, topic: str) -> None:
    port = shared_gateway.port("mqtt")
    for name in ("a", "a/b", "c/b", "c/d"):
        retain(port, f"{topic}/{name}", name.encode())
    assert set(payloads(port, f"{topic}/#").values()) == {b"a", b"a/b", b"c/b", b"c/d"}
    assert set(payloads(port, f"{topic}/+/b").values()) == {b"a/b", b"c/b"}
    assert set(payloads(port, f"{topic}/+").values()) == {b"a"}


def test_a_kept_session_gets_them_through_its_queue(shared_gateway: Gateway, topic: str) -> None:
    port = shared_gateway.port("mqtt")
    retain(port, topic, b"kept")
    with Device(port, topic.replace("/", "-")) as device:
        device.subscribe(topic)
        message = device.message()
        assert (message.payload, message.qos, message.retain) == (b"kept", 1, True)
        device.accept(message)


def test_they_expire(shared_gateway: Gateway, topic: str) -> None:
    port = shared_gateway.port("mqtt")
    retain(port, topic, b"for a moment", expiry=1)
    retain(port, f"{topic}/longer", b"for an hour", expiry=3600)
    wait_for(lambda: retained(port, topic) == [], "the first one expires")
    (message,) = retained(port, f"{topic}/longer")
    assert message.expiry is not None
    assert 3500 < message.expiry <= 3600


def test_they_survive_a_restart(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], topic: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    for number in range(20):
        retain(port, f"{topic}/{number}", str(number).encode())
    retain(port, f"{topic}/0", b"changed")
    retain(port, f"{topic}/1", b"")
    retain(port, f"{topic}/2", b"for a moment", expiry=1)
    retain(port, f"{topic}/3", bytes(range(256)) * 100, 2)
    restart(gateway)
    wait_for(lambda: retained(port, f"{topic}/2") == [], "what expires does so over a restart, too")
    found = payloads(port, f"{topic}/#")
    assert found[f"{topic}/0"] == b"changed"
    assert found[f"{topic}/3"] == bytes(range(256)) * 100
    assert found.keys() == {f"{topic}/{number}" for number in range(20) if number not in {1, 2}}


def test_too_many_are_refused(keeping_gateway: Callable[..., Gateway], topic: str) -> None:
    gateway = keeping_gateway(limits={"gateway": {"retained_messages": 2}})
    port = gateway.port("mqtt")
    with Device(port, "", clean=True) as device:
        codes = [device.publish(f"{topic}/{number}", b"x", retain=True) for number in range(3)]
        assert [code >= 0x80 for code in codes] == [False, False, True]
        assert device.publish(f"{topic}/0", b"changed", retain=True) < 0x80
        assert device.publish(f"{topic}/1", b"", retain=True) < 0x80
        assert device.publish(f"{topic}/2", b"now", retain=True) < 0x80
    assert payloads(port, f"{topic}/#") == {f"{topic}/0": b"changed", f"{topic}/2": b"now"}
