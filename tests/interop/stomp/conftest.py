"""The servers that speak STOMP: each is started when the first test wants it, and serves all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Literal, Protocol

import pytest

from tests.conftest import finish
from tests.interop.stomp.client import Client, Setup
from tests.interop.stomp.driven_client import DRIVERS, DrivenClient, Driver
from tests.interop.stomp.servers import Listeners, dialect_gateway
from tests.interop.stomp.stage import Dialect, Server
from tests.interop.stomp.stompman_client import StompmanClient
from tests.interop.stomp.stomppy_client import StompPyClient
from tests.interop.stomp.variants import Variant
from tests.rig import activemq as activemq_rig
from tests.rig.activemq import ActiveMQ
from tests.rig.needs import missing, need_commands
from tests.rig.npm import NODE, npm_install
from tests.rig.processes import Ministack

ServerName = Literal["mqlift-rabbitmq", "mqlift-activemq", "rabbitmq", "activemq"]


class Connect(Protocol):
    """Connects a client of a variant to a server."""

    async def __call__(self, server: ServerName, variant: Variant, *, heart_beat: int = 0) -> Client: ...


@pytest.fixture(scope="session")
def activemq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """One ActiveMQ for all tests; each uses names of its own. Skips on a developer's machine that has none."""
    if not activemq_rig.installed():
        missing("Debian's package activemq, or a Java,")
    broker = ActiveMQ(tmp_path_factory.mktemp("activemq"))
    broker.start()
    yield broker
    broker.kill9()


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Callable[[Dialect], Server]:
    """The real broker of a dialect."""
    return lambda dialect: Server(dialect, request.getfixturevalue(dialect).stomp_port)


@pytest.fixture(scope="session")
def gateway_listeners(
    ministack: Ministack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Dialect], Listeners]]:
    """A gateway for each dialect."""
    started: dict[Dialect, Listeners] = {}
    with contextlib.ExitStack() as stack:

        def listeners(dialect: Dialect) -> Listeners:
            if dialect not in started:
                gateway, ports = dialect_gateway(ministack, dialect, tmp_path_factory.mktemp(f"gateway-{dialect}"))
                gateway.start()
                stack.callback(finish, gateway)
                started[dialect] = ports
            return started[dialect]

        yield listeners


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """The process that stompjs and stompit live in."""
    folder = request.config.cache.mkdir("stompjs")
    npm_install(DRIVERS, folder)
    driver = Driver([str(NODE), "clients.js"], folder)
    yield driver
    driver.close()


@pytest.fixture(scope="session")
def ruby() -> Iterator[Driver]:
    """The process that ruby-stomp lives in."""
    need_commands("ruby")
    driver = Driver(["ruby", "clients.rb"], DRIVERS)
    yield driver
    driver.close()


@pytest.fixture
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Connect clients; what is left of them is closed at the end."""
    async with AsyncExitStack() as connected:

        async def start(server: ServerName, variant: Variant, *, heart_beat: int = 0) -> Client:
            port = _port(request, server, variant)
            setup = Setup(port=port, version=variant.version, transport=variant.transport, heart_beat=heart_beat)
            return await connected.enter_async_context(_client(request, variant, setup))

        yield start


def _port(request: pytest.FixtureRequest, server: ServerName, variant: Variant) -> int:
    if server == "rabbitmq" or server == "activemq":
        port: int = request.getfixturevalue("broker")(server).port
        return port
    dialect: Dialect = "rabbitmq" if server == "mqlift-rabbitmq" else "activemq"
    listeners: Listeners = request.getfixturevalue("gateway_listeners")(dialect)
    return listeners.tcp if variant.transport == "tcp" else listeners.websocket


def _client(request: pytest.FixtureRequest, variant: Variant, setup: Setup) -> Client:
    match variant.name:
        case "stomppy":
            return StompPyClient(setup)
        case "stompman":
            return StompmanClient(setup)
        case "ruby":
            return DrivenClient(setup, request.getfixturevalue("ruby"), "ruby")
        case library:
            return DrivenClient(setup, request.getfixturevalue("node"), library)
