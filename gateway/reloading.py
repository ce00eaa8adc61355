"""What of a configuration takes effect while the gateway runs, and what waits for the next start. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from config.settings import ListenerSettings, Settings

FIXED: Final = (
    "aws",
    "sqs",
    "sns",
    "ingress",
    "prefix",
    "provision",
    "state",
    "sender",
    "receiver",
    "tracing",
    "workers",
)
"""Sections that parts of the gateway were built with."""

FIXED_IN_LISTENER: Final = ("protocol", "transport", "proxy_protocol")
"""What its sockets were opened for. Host and port say which listener it is."""


def waits_for_restart(running: Settings, wanted: Settings) -> list[str]:
    """The keys that differ and take no effect before the gateway is started again."""
    keys = [key for key in FIXED if getattr(running, key) != getattr(wanted, key)]
    keys += [f"admin.{key}" for key in ("host", "port") if getattr(running.admin, key) != getattr(wanted.admin, key)]
    keys += _listener_keys(running, wanted)
    return keys


def _listener_keys(running: Settings, wanted: Settings) -> Iterator[str]:
    before = {_address(listener): listener for listener in running.listeners}
    for number, listener in enumerate(wanted.listeners):
        same = before.pop(_address(listener), None)
        if same is None:
            yield f"listeners.{number}"
        else:
            changed = (key for key in FIXED_IN_LISTENER if getattr(listener, key) != getattr(same, key))
            yield from (f"listeners.{number}.{key}" for key in changed)
    for host, port in before:
        yield f"listeners ({host}:{port} is left out)"


def can_follow(running: ListenerSettings, wanted: ListenerSettings) -> bool:
    """Whether a listener that runs may take the options of another one."""
    same_place = _address(running) == _address(wanted)
    return same_place and all(getattr(running, key) == getattr(wanted, key) for key in FIXED_IN_LISTENER)


def _address(listener: ListenerSettings) -> tuple[str, int]:
    return listener.host, listener.port
