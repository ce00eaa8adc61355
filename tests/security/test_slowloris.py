"""Connections that begin and never get anywhere, on each layer: cut in time, however they drip; others are let in."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable

import pytest

from tests.faults.wire import Wire, mqtt_connect
from tests.rig.certificates import Authority
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for
from tests.security.probes import AMQP_HEADER, let_in, listener

CONNECT_TIMEOUT = 1.0
LIMIT = 12.0
"""Seconds, on a machine that does other things too."""
AT_ONCE = 20


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


DRIPS = {
    "tls": client_hello(),
    "proxy v1": b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 188",
    "proxy v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xff" + b"\0" * 4_000,
    "websocket": b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 16_000,
    "mqtt": b"\x10\x80\x80\x01" + b"\0" * 4_000,
    "mqtt connect": mqtt_connect("c" * 600)[:-1],
    "stomp": b"\n" * 4_000,
    "stomp headers": b"CONNECT\n" + b"h:v\n" * 150,
    "amqp091": b"AMQP",
    "amqp091 login": AMQP_HEADER + b"\x01\0\0\0\0\x10\0" + b"\0" * 4_000,
}
"""What each layer waits for the rest of; so long that no layer has it whole within the time."""


@pytest.fixture(scope="module")
def ports(authority: Authority, start_gateway: Callable[..., Gateway]) -> dict[str, int]:
    certificate, key = authority.issue("localhost")
    tls = {"certificate": str(certificate), "key": str(key)}
    common = {"connect_timeout": CONNECT_TIMEOUT}
    listeners = {
        "mqtt": listener("mqtt", **common),
        "stomp": listener("stomp", **common),
        "amqp091": listener("amqp091", **common),
        "tls": listener("mqtt", tls=tls, **common),
        "proxy": listener("mqtt", proxy_protocol=True, **common),
        "websocket": listener("mqtt", transport="websocket", **common),
    }
    start_gateway(listeners=list(listeners.values()))
    return {name: int(str(each["port"])) for name, each in listeners.items()}


class Dripping:
    """A connection that sends a byte whenever it is asked whether it has been closed."""

    def __init__(self, wire: Wire, data: bytes) -> None:
        self.wire = wire
        self._rest = iter(data)
        self._closed = False

    def closed(self) -> bool:
        if not self._closed:
            try:
                byte = next(self._rest, None)
                if byte is not None:
                    self.wire.send(bytes([byte]))
                self._closed = self.wire.closed()
            except OSError:
                self._closed = True
        return self._closed


@pytest.mark.parametrize("begun", ["silent", "dripping"])
@pytest.mark.parametrize("layer", DRIPS)
def test_who_does_not_get_on_is_cut_and_others_are_let_in(layer: str, begun: str, ports: dict[str, int]) -> None:
    name = layer.partition(" ")[0]
    data = DRIPS[layer] if begun == "dripping" else b""
    with contextlib.ExitStack() as stack:
        slow = [Dripping(stack.enter_context(Wire(ports[name])), data) for _ in range(AT_ONCE)]
        for protocol in ("mqtt", "stomp", "amqp091"):
            with Wire(ports[protocol]) as wire:
                let_in(wire, protocol)
        wait_for(lambda: sum(each.closed() for each in slow) == AT_ONCE, "all are cut", LIMIT)


def test_within_tls_the_protocol_has_its_time_as_well(authority: Authority, ports: dict[str, int]) -> None:
    with (
        Wire(ports["tls"]) as wire,
        authority.client_context().wrap_socket(
            wire._socket, server_hostname="localhost", suppress_ragged_eofs=True
        ) as secure,
    ):
        secure.sendall(b"\x10")
        secure.settimeout(LIMIT)
        with contextlib.suppress(ConnectionError):
            assert secure.recv(1) == b""
