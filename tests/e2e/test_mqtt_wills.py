"""Wills: said on every end of a connection but an orderly one, when their delay is over, unless the device is back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.faults.device import DISCONNECT_WITH_WILL, TAKEN_OVER, V3_1_1, V5, Device, Will
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

LATER = 3600
"""Seconds; a delay that no test waits for."""


@pytest.fixture
def client_id(queue_name: str) -> str:
    return f"mortal-{queue_name}"


@pytest.fixture
def watcher(shared_gateway: Gateway, client_id: str) -> Iterator[Device]:
    """Subscribed to the last words of the test's device."""
    with Device(shared_gateway.port("mqtt"), "", clean=True) as device:
        device.subscribe(f"{client_id}/#")
        yield device


def will_of(client_id: str, **options: int) -> Will:
    return Will(topic=f"{client_id}/will", payload=b"gone", **options)  # type: ignore[arg-type]


def assert_silent(watcher: Device, client_id: str) -> None:
    """No will was published until now."""
    watcher.publish(f"{client_id}/quiet", b"")
    assert watcher.message().topic == f"{client_id}/quiet"


def lose(device: Device) -> None:
    device.wire.reset()


def vanish(device: Device) -> None:
    device.drop()


def break_the_protocol(device: Device) -> None:
    device.wire.send(b"\xff\x00")
    device.wire.receive_all()


def disconnect_with_will(device: Device) -> None:
    device.disconnect(DISCONNECT_WITH_WILL)


def keep_silent(device: Device) -> None:
    """Longer than the keep-alive of one second allows."""
    device.wire.receive_all()


ENDINGS: dict[str, Callable[[Device], None]] = {
    "reset": lose,
    "FIN": vanish,
    "protocol error": break_the_protocol,
    "keep-alive": keep_silent,
}


@pytest.mark.parametrize("version", [V3_1_1, V5])
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_said_at_once(
    end: Callable[[Device], None],
    clean: bool,
    version: int,
    shared_gateway: Gateway,
    watcher: Device,
    client_id: str,
) -> None:
    with Device(
        shared_gateway.port("mqtt"), client_id, version=version, clean=clean, keep_alive=1, will=will_of(client_id)
    ) as device:
        end(device)
        message = watcher.message()
        assert (message.topic, message.payload, message.qos) == (f"{client_id}/will", b"gone", 1)
    assert_silent(watcher, client_id)


def test_said_when_disconnect_asks_for_it(shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    with Device(shared_gateway.port("mqtt"), client_id, clean=True, will=will_of(client_id)) as device:
        disconnect_with_will(device)
    assert watcher.message().payload == b"gone"


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_not_said_after_an_orderly_end(version: int, shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    with Device(shared_gateway.port("mqtt"), client_id, version=version, will=will_of(client_id)) as device:
        device.disconnect()
    assert_silent(watcher, client_id)


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_said_at_a_takeover(version: int, shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    with (
        Device(port, client_id, version=version, will=will_of(client_id)) as old,
        Device(port, client_id, version=version) as new,
    ):
        if version == V5:
            assert old.disconnect_reason() == TAKEN_OVER
        assert watcher.message().payload == b"gone"
        new.ping()


def test_a_delayed_one_waits(shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    with Device(shared_gateway.port("mqtt"), client_id, will=will_of(client_id, delay=1)) as device:
        lose(device)
    assert_silent(watcher, client_id)
    assert watcher.message().payload == b"gone"


def test_a_delayed_one_is_called_off_by_a_return(shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, client_id, will=will_of(client_id, delay=1)) as device:
        lose(device)
    with (
        Device(port, client_id) as back,
        Device(port, f"{client_id}-other", will=will_of(f"{client_id}", delay=1)) as other,
    ):
        assert back.session_present
        lose(other)
        # Whose will is said a second later, as the first one would have been before it.
        assert watcher.message().payload == b"gone"
        assert_silent(watcher, client_id)


def test_a_takeover_calls_a_delayed_one_off(shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    with (
        Device(port, client_id, will=will_of(client_id, delay=LATER)) as old,
        Device(port, client_id) as new,
    ):
        assert old.disconnect_reason() == TAKEN_OVER
        new.ping()
        assert_silent(watcher, client_id)


def test_the_session_s_end_is_the_latest_time(shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, client_id, expiry=1, will=will_of(client_id, delay=LATER)) as device:
        lose(device)
    assert watcher.message().payload == b"gone"


def test_a_clean_start_is_such_an_end(shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, client_id, will=will_of(client_id, delay=LATER)) as device:
        lose(device)
    assert_silent(watcher, client_id)
    with Device(port, client_id, clean=True) as device:
        assert not device.session_present
        assert watcher.message().payload == b"gone"


def test_it_may_be_retained(shared_gateway: Gateway, watcher: Device, client_id: str) -> None:
    port = shared_gateway.port("mqtt")
    with Device(port, client_id, clean=True, will=will_of(client_id, retain=True)) as device:
        lose(device)
    message = watcher.message()
    assert (message.payload, message.retain) == (b"gone", False)
    with Device(port, "", clean=True) as late:
        late.subscribe(f"{client_id}/will")
        message = late.message()
        assert (message.payload, message.retain) == (b"gone", True)


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_said_when_the_gateway_stops(version: int, keeping_gateway: Callable[..., Gateway], client_id: str) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, f"{client_id}-watcher") as watcher:
        watcher.subscribe(f"{client_id}/#")
        watcher.disconnect()
    with Device(port, client_id, version=version, clean=True, will=will_of(client_id)) as device:
        gateway.terminate()
        if version == V5:
            assert device.disconnect_reason() == 0x8B
        with contextlib.suppress(ConnectionResetError):
            assert device.wire.receive_all() == b""
    gateway.start()
    with Device(port, f"{client_id}-watcher") as watcher:
        assert watcher.messages(1) == [b"gone"]


def test_a_delayed_one_is_said_by_the_next_gateway(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], client_id: str
) -> None:
    gateway = keeping_gateway()
    port = gateway.port("mqtt")
    with Device(port, f"{client_id}-watcher") as watcher:
        watcher.subscribe(f"{client_id}/#")
        with Device(port, client_id, expiry=2, will=will_of(client_id, delay=LATER)) as device:
            lose(device)
        wait_for(lambda: gateway.metric("mqlift_connections") == 1, "the gateway has seen its end")
        watcher.subscribe(f"{client_id}/+")  # kept when it is answered, and after what came before
        restart(gateway)
    with Device(port, f"{client_id}-watcher") as watcher:
        assert watcher.messages(1) == [b"gone"]
