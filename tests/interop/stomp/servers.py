"""The servers that scenarios are played on: the real brokers, and a gateway with a listener of each dialect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.interop.stomp.stage import Dialect
from tests.rig.processes import HOST, Gateway, Ministack, free_port, gateway_config

DIALECTS: tuple[Dialect, ...] = ("rabbitmq", "activemq")


@dataclass(frozen=True, slots=True)
class Listeners:
    """The ports of a gateway's STOMP listeners for one dialect."""

    tcp: int
    websocket: int


def dialect_gateway(ministack: Ministack, dialect: Dialect, directory: Path) -> tuple[Gateway, Listeners]:
    """A gateway that speaks as one kind of broker, not yet started."""
    ports = Listeners(free_port(), free_port())
    listener = {"protocol": "stomp", "host": HOST, "dialect": dialect}
    config = gateway_config(
        ministack.url,
        listeners=[
            listener | {"port": ports.tcp},
            listener | {"port": ports.websocket, "transport": "websocket"},
        ],
        receiver={"wait": 1},
        prefix=f"{dialect}-",
    )
    return Gateway(config, directory), ports
