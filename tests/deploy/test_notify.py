"""What systemd is told, by the function and by the running gateway."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from gateway.notify import READY, SOCKET_VARIABLE, STOPPING, notify
from tests.rig.processes import Gateway


@contextlib.contextmanager
def receiver(address: str) -> Iterator[socket.socket]:
    """systemd's side."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(10)
        server.bind(address)
        yield server


def test_a_state_and_a_status_are_sent(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with receiver(path) as systemd:
        notify(READY, "serving", {SOCKET_VARIABLE: path})
        assert systemd.recv(4096) == b"READY=1\nSTATUS=serving\n"


def test_a_socket_may_be_in_the_abstract_namespace(tmp_path: Path) -> None:
    name = f"mqlift-test-{tmp_path.name}-{id(tmp_path)}"
    with receiver(f"\0{name}") as systemd:
        notify(STOPPING, "draining", {SOCKET_VARIABLE: f"@{name}"})
        assert systemd.recv(4096) == b"STOPPING=1\nSTATUS=draining\n"


@pytest.mark.parametrize("environment", [{}, {SOCKET_VARIABLE: ""}])
def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as logs:
        notify(READY, "serving", environment)
    assert logs == []


@pytest.mark.parametrize("path", ["/nowhere/notify", "x" * 200])
def test_a_socket_that_cannot_be_reached_is_logged(path: str) -> None:
    with structlog.testing.capture_logs() as logs:
        notify(READY, "serving", {SOCKET_VARIABLE: path})
    assert [(entry["event"], entry["socket"]) for entry in logs] == [("systemd_not_notified", path)]


def test_a_gateway_tells_when_it_listens_and_when_it_drains(
    tmp_path: Path, gateway_factory: Callable[..., Gateway]
) -> None:
    path = str(tmp_path / "notify")
    with receiver(path) as systemd:
        gateway = gateway_factory(environment={SOCKET_VARIABLE: path})
        assert systemd.recv(4096).splitlines()[0] == READY.encode()
        gateway.terminate()
        assert systemd.recv(4096).splitlines()[0] == STOPPING.encode()
