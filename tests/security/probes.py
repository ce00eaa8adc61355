"""What the tests of this folder say to a gateway, and what they look at in it."""

from __future__ import annotations

import struct
from pathlib import Path

from pamqp import commands as amqp
from pamqp import frame as amqp_frame

from tests.faults.wire import CONNACK, STOMP_CONNECT, Wire, mqtt_connect
from tests.rig.processes import HOST, Gateway, free_port

AMQP_HEADER = b"AMQP\x00\x00\x09\x01"


def listener(protocol: str, **options: object) -> dict[str, object]:
    return {"protocol": protocol, "host": HOST, "port": free_port(), **options}


def amqp_start_ok(mechanism: str = "PLAIN", response: str = "\0guest\0guest") -> bytes:
    method = amqp.Connection.StartOk({}, mechanism, response, "en_US")
    return amqp_frame.marshal(method, 0)


def amqp_receive(wire: Wire) -> tuple[int, int, bytes]:
    """Type, channel and payload of the next frame."""
    kind, channel, size = struct.unpack("!BHI", wire.receive(7))
    return kind, channel, wire.receive(size + 1)[:-1]


def amqp_method(wire: Wire) -> str:
    """The name of the next method."""
    kind, channel, payload = amqp_receive(wire)
    _, _, frame = amqp_frame.unmarshal(struct.pack("!BHI", kind, channel, len(payload)) + payload + b"\xce")
    return str(frame.name)  # type: ignore[union-attr]


def amqp_connected(wire: Wire) -> None:
    """Log in as nobody, and open channel 1. A listener of AMQP takes the anonymous with any name."""
    wire.send(AMQP_HEADER)
    assert amqp_method(wire) == "Connection.Start"
    wire.send(amqp_start_ok())
    assert amqp_method(wire) == "Connection.Tune"
    wire.send(amqp_frame.marshal(amqp.Connection.TuneOk(2_047, 131_072, 0), 0))
    wire.send(amqp_frame.marshal(amqp.Connection.Open("/"), 0))
    assert amqp_method(wire) == "Connection.OpenOk"
    wire.send(amqp_frame.marshal(amqp.Channel.Open(), 1))
    assert amqp_method(wire) == "Channel.OpenOk"


def let_in(wire: Wire, protocol: str) -> None:
    """Connect as a good client does."""
    if protocol == "amqp091":
        amqp_connected(wire)
    elif protocol == "mqtt":
        wire.send(mqtt_connect(""))
        assert wire.receive(len(CONNACK)) == CONNACK
    else:
        wire.send(STOMP_CONNECT)
        assert wire.receive_until(b"\0").startswith(b"CONNECTED\n")


def resident(gateway: Gateway) -> int:
    """Bytes of memory, proc(5)."""
    lines = Path(f"/proc/{gateway.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
