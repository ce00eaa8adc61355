"""Readiness for systemd: a unit of `Type=notify` is started when the gateway listens, and not when its process exists.

sd_notify(3), "Notes": a datagram of lines `VARIABLE=VALUE` to the Unix socket that `NOTIFY_SOCKET` names. Nothing is
sent, and nothing is wrong, where the variable is not set.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"

_log = structlog.get_logger("mqlift.notify")


def notify(state: str, status: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell systemd the state, and a line for `systemctl status`. A socket that cannot be reached is logged."""
    path = environment.get(SOCKET_VARIABLE)
    if not path:
        return
    # The names of abstract sockets begin with a null byte, which a variable cannot hold.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
            datagrams.setblocking(False)
            datagrams.sendto(f"{state}\nSTATUS={status}\n".encode(), address)
    except (OSError, ValueError) as error:
        _log.warning("systemd_not_notified", socket=path, state=state, problem=str(error))
