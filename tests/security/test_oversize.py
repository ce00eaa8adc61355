"""More than a protocol's limit of anything: refused with the protocol's own error, before it costs memory."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from pamqp import commands as amqp
from pamqp import frame as amqp_frame
from pamqp.header import ContentHeader

from tests.faults.wire import Wire, mqtt_connect, mqtt_packet, mqtt_publish, stomp_frame
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for
from tests.security.probes import AMQP_HEADER, amqp_method, let_in, listener, resident

KIB = 1024
LIMIT = 16 * KIB
MAX_GROWTH = 8 * 1024 * KIB
OVER = b"x" * (LIMIT + 1)

NOT_LET_IN = {
    "mqtt": {
        "a client id": mqtt_connect("c" * 2_000),
        "a packet": b"\x10\xff\xff\xff\x7f" + b"\0" * 1_000,
        "a will": mqtt_connect("c", will=("t", OVER)),
    },
    "stomp": {
        "a command": b"C" * 200_000,
        "a header": b"CONNECT\nh:" + b"v" * 200_000,
        "headers": b"CONNECT\n" + b"h:v\n" * 100_000,
        "a body": b"CONNECT\ncontent-length:99999999999999999999\n\n",
    },
    "amqp091": {
        "a frame": AMQP_HEADER + struct.pack("!BHI", 1, 0, 0xFFFF_FFFF) + b"\0" * 1_000,
        "a frame of 16 MiB": AMQP_HEADER + struct.pack("!BHI", 1, 0, 16 * 1024 * KIB),
    },
}
LATER = {
    "mqtt": {
        "a publish": mqtt_publish("t", OVER, 1),
        "a packet": b"\x32\xff\xff\xff\x7f" + b"\0" * 1_000,
        "a filter": mqtt_packet(0x82, b"\0\1\xff\xff" + b"f" * 65_535 + b"\0"),
    },
    "stomp": {
        "a body": stomp_frame("SEND", OVER, destination="/topic/x", content_length=str(len(OVER))),
        "a body without length": stomp_frame("SEND", OVER, destination="/topic/x"),
        "a length": b"SEND\ndestination:/topic/x\ncontent-length:4294967296\n\n",
        "headers": b"SEND\n" + b"h:v\n" * 100_000,
    },
    "amqp091": {
        "a frame": struct.pack("!BHI", 3, 1, 131_073) + b"x" * 131_073 + b"\xce",
        "a method": struct.pack("!BHI", 1, 1, 0x7FFF_FFFF),
    },
}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    return start_gateway(
        listeners=[
            listener("mqtt", max_packet_size=LIMIT),
            listener("stomp", max_body=LIMIT),
            listener("amqp091", max_message_size=LIMIT),
        ],
    )


def cases(table: dict[str, dict[str, bytes]]) -> list[object]:
    return [
        pytest.param(protocol, data, id=f"{protocol}: {what}")
        for protocol, each in table.items()
        for what, data in each.items()
    ]


def assert_ended(gateway: Gateway, protocol: str, wire: Wire, data: bytes) -> None:
    """The gateway ends the connection, counts it and tells it in a line."""
    errors = f'mqlift_protocol_errors_total{{protocol="{protocol}"}}'
    counted, told = gateway.metrics()[errors], gateway.log.count("connection_refused")
    with contextlib.suppress(ConnectionError):
        wire.send(data)
    wire.receive_all()
    wait_for(lambda: gateway.metrics()[errors] == counted + 1, "it is counted")
    assert gateway.log.count("connection_refused") == told + 1


@pytest.mark.parametrize(("protocol", "data"), cases(NOT_LET_IN))
def test_who_begins_with_too_much_is_not_let_in(protocol: str, data: bytes, gateway: Gateway) -> None:
    with Wire(gateway.port(protocol)) as wire:
        assert_ended(gateway, protocol, wire, data)


@pytest.mark.parametrize(("protocol", "data"), cases(LATER))
def test_who_sends_too_much_is_closed(protocol: str, data: bytes, gateway: Gateway) -> None:
    with Wire(gateway.port(protocol)) as wire:
        let_in(wire, protocol)
        assert_ended(gateway, protocol, wire, data)


def test_a_message_of_amqp_that_is_too_large_closes_its_channel(gateway: Gateway) -> None:
    publish = amqp_frame.marshal(amqp.Basic.Publish(0, "", "q", False, False), 1)
    header = amqp_frame.marshal(ContentHeader(0, LIMIT + 1, amqp.Basic.Properties()), 1)
    with Wire(gateway.port("amqp091")) as wire:
        let_in(wire, "amqp091")
        wire.send(publish + header)
        assert amqp_method(wire) == "Channel.Close"


@pytest.mark.parametrize(("protocol", "data"), cases(LATER))
def test_again_and_again_it_costs_no_more(protocol: str, data: bytes, gateway: Gateway) -> None:
    def repeat(times: int) -> None:
        for _ in range(times):
            with Wire(gateway.port(protocol)) as wire:
                let_in(wire, protocol)
                with contextlib.suppress(ConnectionError):
                    wire.send(data)
                wire.receive_all()

    repeat(10)
    memory = resident(gateway)
    repeat(50)
    assert resident(gateway) < memory + MAX_GROWTH
