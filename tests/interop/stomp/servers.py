"""The servers that scenarios are played on: the real brokers, and a gateway with a listener of each dialect."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from tests.interop.stomp.client import LOGIN, PASSCODE
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
    users = directory / "users"
    users.write_text(f"{LOGIN}:{mosquitto_hash(PASSCODE)}\n")
    config = gateway_config(
        ministack.url,
        listeners=[
            listener | {"port": ports.tcp},
            listener | {"port": ports.websocket, "transport": "websocket"},
        ],
        receiver={"wait": 1},
        # Selectors on queues have to be allowed.
        routes=[
            {
                "match": {"queue": "{name}-selected"},
                "to": [{"sqs": f"{dialect}-{{name}}-selected"}],
                "selectors": {"pass_over": 1},
            }
        ],
        prefix=f"{dialect}-",
        auth={"users": [str(users)]},
    )
    return Gateway(config, directory), ports


def mosquitto_hash(password: str) -> str:
    """As `mosquitto_passwd` writes it, with one iteration: hundreds of clients log in."""
    salt = b"a dozen byte"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 1)
    return f"$7$1${b64encode(salt).decode()}${b64encode(digest).decode()}"
