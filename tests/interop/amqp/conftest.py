"""The brokers that scenarios are played against, and what was observed. Another broker is one more fixture."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.auth.hashes import quick_hash
from tests.conftest import finish
from tests.interop.amqp.aio_pika_client import AioPikaClient
from tests.interop.amqp.amqp_tools_client import AmqpToolsClient
from tests.interop.amqp.amqplib_client import SOURCES, AmqplibClient, PhpAmqplibClient
from tests.interop.amqp.amqpstorm_client import AmqpstormClient
from tests.interop.amqp.client import Client
from tests.interop.amqp.cutting import Proxy
from tests.interop.amqp.pika_client import PikaAsyncioClient, PikaBlockingClient
from tests.interop.amqp.py_amqp_client import KombuClient, PyAmqpClient
from tests.interop.amqp.scenario import AT_ONCE, Observations, Scenario, Target
from tests.rig.needs import missing, need_commands
from tests.rig.npm import npm_install
from tests.rig.processes import HOST, Gateway, Ministack, free_port, gateway_config
from tests.rig.rabbitmq import FORBIDDEN_VHOST, LIMITED_USER, OTHER_VHOST, PASSWORD, USER, VHOST, RabbitMQ
from tests.rig.streams import aws_client

PROTOCOL = "amqp091"
BUCKET = "interop-amqp"
"""For bodies that SQS does not take."""
VHOSTS = {VHOST: "", OTHER_VHOST: "other.", FORBIDDEN_VHOST: "forbidden."}
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
NOTHING = {"configure": "^$", "write": "^$", "read": "^$"}

CLIENTS: dict[str, Callable[[int], Client]] = {
    "pika-blocking": PikaBlockingClient,
    "pika-asyncio": PikaAsyncioClient,
    "aio-pika": AioPikaClient,
    "amqpstorm": AmqpstormClient,
    "py-amqp": PyAmqpClient,
    "kombu": KombuClient,
    "amqp-tools": AmqpToolsClient,
    "php-amqplib": PhpAmqplibClient,
}
"""Clients by their names; amqplib needs more than a port."""

_numbers = itertools.count(1)

TARGETS = ("rabbitmq", "mqlift")


@pytest.fixture(scope="session")
def rabbitmq_target(rabbitmq: RabbitMQ) -> Target:
    return Target("rabbitmq", rabbitmq.port)


@pytest.fixture(scope="session")
def mqlift_target(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway with queues in SQS, and with the users and virtual hosts that the RabbitMQ has."""
    directory = tmp_path_factory.mktemp("gateway")
    aws_client("s3", ministack.url).create_bucket(Bucket=BUCKET)
    users = directory / "users"
    users.write_text("".join(f"{name}:{quick_hash(PASSWORD)}\n" for name in (USER, LIMITED_USER)))
    port = free_port()
    listener = {"protocol": PROTOCOL, "host": HOST, "port": port}
    config = gateway_config(
        ministack.url,
        listeners=[listener | {"vhosts": VHOSTS, "vhost_users": {FORBIDDEN_VHOST: []}}],
        auth={
            "users": [str(users)],
            "permissions": [{"user": USER} | EVERYTHING, {"user": LIMITED_USER} | NOTHING],
        },
        receiver={"wait": 1},
        sqs={"large_payloads": {"bucket": BUCKET}},
        prefix="interop-amqp-",
    )
    gateway = Gateway(config, directory)
    gateway.start()
    yield Target("mqlift", port)
    finish(gateway)


@pytest.fixture(scope="session", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


@pytest.fixture(scope="session")
def observations(request: pytest.FixtureRequest, target: Target) -> Iterator[Observations]:
    """What the scenarios of this test session come to. The first are compared while others still go on."""
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    played = [call.params.get("scenario") for call in calls]
    wanted = list(dict.fromkeys(each for each in played if isinstance(each, Scenario)))  # other protocols have theirs
    with ThreadPoolExecutor(AT_ONCE) as threads:
        futures: dict[Scenario, Future[list[str]]] = {each: threads.submit(each.observe, target) for each in wanted}
        yield lambda scenario: futures[scenario].result()
        for future in futures.values():
            future.cancel()


class Connect(Protocol):
    """Connects a client of a name, through a proxy of its own that can cut it."""

    async def __call__(self, name: str) -> tuple[Client, Proxy]: ...


@pytest.fixture(scope="session")
def amqplib_folder(request: pytest.FixtureRequest) -> Path:
    """Where amqplib is."""
    folder = request.config.cache.mkdir("amqplib")
    npm_install(SOURCES, folder)
    return Path(folder)


@pytest.fixture
async def connect(target: Target, request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Connect clients; what is left of them is closed at the end."""
    async with AsyncExitStack() as connected:

        async def start(name: str) -> tuple[Client, Proxy]:
            proxy = await connected.enter_async_context(Proxy(target.port))
            if name == "amqplib":
                client: Client = AmqplibClient(proxy.port, request.getfixturevalue("amqplib_folder"))
            elif name == "php-amqplib" and not PhpAmqplibClient.installed():
                missing("Debian's package php-amqplib")
            else:
                if name == "amqp-tools":
                    need_commands("amqp-publish")
                client = CLIENTS[name](proxy.port)
            return await connected.enter_async_context(client), proxy

        yield start


@pytest.fixture
def queue() -> str:
    """The name of a queue that no other test uses."""
    return f"interop-{next(_numbers)}"
