"""One gateway for all scenarios, and a client of each kind on demand."""

from __future__ import annotations

import gc
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.conftest import finish
from tests.interop.mqtt.aiomqtt_client import AiomqttClient
from tests.interop.mqtt.amqtt_client import AmqttClient
from tests.interop.mqtt.client import Client, Message, Setup, Transport, Version
from tests.interop.mqtt.gmqtt_client import GmqttClient
from tests.interop.mqtt.mosquitto_client import MosquittoClient
from tests.interop.mqtt.mqttjs_client import SOURCES, MqttJsClient, Node
from tests.interop.mqtt.paho_client import PahoClient
from tests.rig.npm import npm_install
from tests.rig.processes import HOST, Gateway, Ministack, free_port, gateway_config

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Variant:
    """A client of somebody, in one version of MQTT, over one transport."""

    name: str
    version: Version
    transport: Transport = "tcp"

    def __str__(self) -> str:
        version = {Version.V3_1: "3.1", Version.V3_1_1: "3.1.1", Version.V5: "5"}[self.version]
        return f"{self.name}-{version}" + ("-websocket" if self.transport == "websocket" else "")


VARIANTS = [
    Variant("paho", Version.V3_1),
    Variant("paho", Version.V3_1_1),
    Variant("paho", Version.V3_1_1, "websocket"),
    Variant("paho", Version.V5),
    Variant("paho", Version.V5, "websocket"),
    Variant("aiomqtt", Version.V3_1),
    Variant("aiomqtt", Version.V3_1_1),
    Variant("aiomqtt", Version.V5),
    Variant("gmqtt", Version.V3_1_1),
    Variant("gmqtt", Version.V5),
    Variant("amqtt", Version.V3_1_1),
    Variant("amqtt", Version.V3_1_1, "websocket"),
    Variant("mosquitto", Version.V3_1),
    Variant("mosquitto", Version.V3_1_1),
    Variant("mosquitto", Version.V5),
    Variant("mqttjs", Version.V3_1),
    Variant("mqttjs", Version.V3_1_1),
    Variant("mqttjs", Version.V3_1_1, "websocket"),
    Variant("mqttjs", Version.V5),
    Variant("mqttjs", Version.V5, "websocket"),
]

_MAKERS: dict[str, Callable[[Setup], Client]] = {
    "paho": PahoClient,
    "aiomqtt": AiomqttClient,
    "gmqtt": GmqttClient,
    "amqtt": AmqttClient,
    "mosquitto": MosquittoClient,
}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Collect what amqtt leaves behind in cycles.

    Otherwise that happens at any time, and when Python 3.11 is just parsing for pytest, its parser fails with a
    `SystemError` (https://github.com/python/cpython/issues/106905).
    """
    if "amqtt" in item.name:
        gc.collect()


class Connect(Protocol):
    """Connects a client of a variant; with no name it gets one of its own."""

    async def __call__(
        self, variant: Variant, client_id: str = "", *, kept: bool = False, will: Message | None = None
    ) -> Client: ...


@dataclass(frozen=True, slots=True)
class Listeners:
    """The ports of the gateway."""

    mqtt: int
    websocket: int
    stomp: int


@pytest.fixture(scope="session")
def listeners(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listeners]:
    ports = Listeners(free_port(), free_port(), free_port())
    config = gateway_config(
        ministack.url,
        listeners=[
            {"protocol": "mqtt", "host": HOST, "port": ports.mqtt},
            {"protocol": "mqtt", "host": HOST, "port": ports.websocket, "transport": "websocket"},
            {"protocol": "stomp", "host": HOST, "port": ports.stomp},
        ],
        receiver={"wait": 1},
        prefix="interop-",
    )
    gateway = Gateway(config, tmp_path_factory.mktemp("gateway"))
    gateway.start()
    yield ports
    finish(gateway)


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """The process that mqtt.js lives in."""
    folder = request.config.cache.mkdir("mqttjs")
    npm_install(SOURCES, folder)
    process = Node(folder)
    yield process
    process.close()


@pytest.fixture
async def connect(listeners: Listeners, request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Connect clients; what is left of them is closed at the end."""
    async with AsyncExitStack() as connected:

        async def start(
            variant: Variant, client_id: str = "", *, kept: bool = False, will: Message | None = None
        ) -> Client:
            setup = Setup(
                port=listeners.websocket if variant.transport == "websocket" else listeners.mqtt,
                version=variant.version,
                transport=variant.transport,
                client_id=client_id or new_name("client"),
                kept=kept,
                will=will,
            )
            if variant.name == "mqttjs":
                client: Client = MqttJsClient(setup, request.getfixturevalue("node"))
            else:
                client = _MAKERS[variant.name](setup)
            return await connected.enter_async_context(client)

        yield start


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return new_name("interop")


def new_name(prefix: str) -> str:
    return f"{prefix}-{next(_numbers)}"
