"""Ten thousand connection attempts: memory stays, and those who came from elsewhere are served all the time."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable

import pytest

from tests.faults.wire import CONNACK, PINGREQ, PINGRESP, mqtt_connect
from tests.rig.processes import HOST, Gateway
from tests.rig.waiting import wait_for
from tests.security.probes import listener, resident

ATTEMPTS = 10_000
AT_ONCE = 100
MAX_GROWTH = 24 * 1024 * 1024
"""Bytes that an allocator keeps, and no more with more attempts."""
ELSEWHERE = "127.0.0.2"

LIMITS: dict[str, dict[str, object]] = {
    "by the rate of an address": {"limits": {"address": {"attempts": 50}}},
    "by the number of an address": {"limits": {"address": {"connections": 20}}},
}


def connect(port: int, source: str = HOST) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=20.0, source_address=(source, 0))


def is_let_in(sock: socket.socket, name: str) -> bool:
    sock.sendall(mqtt_connect(name))
    return sock.recv(len(CONNACK), socket.MSG_WAITALL) == CONNACK


def attempt(port: int, count: int) -> None:
    """Begin connections, `AT_ONCE` at a time; each speaks nonsense, and waits for the end."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(count):
            sock = stack.enter_context(connect(port))
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"nonsense" * 2)
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(20.0)
            assert ready, "neither cut nor refused"
            for key, _ in ready:
                selector.unregister(key.fileobj)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_flood_from_one_address(limit: str, start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(listeners=[listener("mqtt")], log={"level": "warning"}, **LIMITS[limit])
    port = gateway.port("mqtt")
    with connect(port, ELSEWHERE) as polite:
        assert is_let_in(polite, "polite")
        for _ in range(5):  # tables and pools get their usual size
            attempt(port, AT_ONCE)
        memory = resident(gateway)
        for round_number in range(ATTEMPTS // AT_ONCE):
            attempt(port, AT_ONCE)
            polite.sendall(PINGREQ)
            assert polite.recv(len(PINGRESP), socket.MSG_WAITALL) == PINGRESP
            if round_number % 10 == 0:
                with connect(port, ELSEWHERE) as newcomer:
                    assert is_let_in(newcomer, f"newcomer-{round_number}")
        assert resident(gateway) < memory + MAX_GROWTH
    wait_for(lambda: gateway.metric("mqlift_connections") == 0, "all are gone")
    if "rate" in limit:
        assert gateway.metric("mqlift_connections_refused_total") > ATTEMPTS // 2
        assert 1 <= gateway.log.count("too_many_connections") < 30, "told from time to time"
