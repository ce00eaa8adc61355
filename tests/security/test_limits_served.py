"""The limits of the configuration, seen by clients of a running gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.auth.hashes import quick_hash
from tests.faults.wire import CONNACK, PINGREQ, PINGRESP, Wire, mqtt_connect, mqtt_packet, stomp_frame
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for
from tests.security.probes import AMQP_HEADER, amqp_method, amqp_start_ok, listener

RATE = 100
PASSWORD = "s3cret"
MESSAGE = mqtt_packet(0x30, b"\0\1t" + b"x" * 100)


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    users: Path = tmp_path_factory.mktemp("users") / "users"
    users.write_text(f"ann:{quick_hash(PASSWORD)}\nbob:{quick_hash(PASSWORD)}\n")
    return start_gateway(
        listeners=[
            listener("mqtt", limits={"publish_rate": RATE}),
            listener("stomp"),
            listener("amqp091"),
        ],
        auth={"users": [str(users)], "anonymous": True},
        limits={"user": {"connections": 1}},
    )


def mqtt_login(user: str) -> bytes:
    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "big") + value.encode()

    return mqtt_packet(0x10, text("MQTT") + b"\x04\xc2\0\x3c" + text(user) + text(user) + text(PASSWORD))


def test_a_publisher_is_slowed_down_and_not_closed(gateway: Gateway) -> None:
    """A ping behind twice of what a second allows is answered when the second is over: it was not read before."""
    with Wire(gateway.port("mqtt")) as wire:
        wire.send(mqtt_connect("fast"))
        assert wire.receive(len(CONNACK)) == CONNACK
        published = gateway.metric("mqlift_publishes_total")
        started = time.monotonic()
        for _ in range(3):
            wire.send(MESSAGE * RATE)
            wire.send(PINGREQ)
            assert wire.receive(len(PINGRESP)) == PINGRESP
        assert time.monotonic() - started > 0.9, "the second hundred was owed"
        assert gateway.metric("mqlift_publishes_total") == published + 3 * RATE


def test_one_user_has_one_connection_by_whatever_protocol(gateway: Gateway) -> None:
    with Wire(gateway.port("mqtt")) as wire:
        wire.send(mqtt_login("ann"))
        assert wire.receive(4) == CONNACK
        with Wire(gateway.port("mqtt")) as second:
            second.send(mqtt_login("ann"))
            assert second.receive_all() == b"\x20\x02\0\3"  # server unavailable
        with Wire(gateway.port("stomp")) as second:
            second.send(stomp_frame("CONNECT", accept_version="1.2", host="/", login="ann", passcode=PASSWORD))
            assert b"ERROR\n" in second.receive_all()
        with Wire(gateway.port("amqp091")) as second:
            second.send(AMQP_HEADER)
            assert amqp_method(second) == "Connection.Start"
            second.send(amqp_start_ok(response=f"\0ann\0{PASSWORD}"))
            assert second.receive_all() == b"", "there is no Connection.Close before Tune"
        with Wire(gateway.port("mqtt")) as other:
            other.send(mqtt_login("bob"))
            assert other.receive(4) == CONNACK

    def let_in_again() -> bool:
        with Wire(gateway.port("mqtt")) as again:
            again.send(mqtt_login("ann"))
            return again.receive(4) == CONNACK

    wait_for(let_in_again, "the first has left its seat")
