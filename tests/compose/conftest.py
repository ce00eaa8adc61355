"""Both brokers: those of the compose stack, or processes on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.compose.stack import Broker, Queues, Running, compose_broker, in_compose
from tests.rig.needs import missing
from tests.rig.processes import HOST, ROOT, Gateway, Ministack, free_port
from tests.rig.rabbitmq import PASSWORD, USER, RabbitMQ, installed


class RabbitMQWithMqtt(RabbitMQ):
    """As the one in docker-compose.yml: it speaks all three protocols."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, plugins=("rabbitmq_stomp", "rabbitmq_mqtt"))
        self.mqtt_port = free_port()
        with (directory / f"rabbitmq-{self.port}" / "rabbitmq.conf").open("a") as settings:
            settings.write(f"mqtt.listeners.tcp.1 = {HOST}:{self.mqtt_port}\n")


@pytest.fixture(scope="session", params=["rabbitmq", "mqlift"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Each test runs against both, the incumbent first. Only this fixture knows which one it is."""
    name: str = request.param
    if in_compose():
        yield compose_broker(name)
        return
    directory = tmp_path_factory.mktemp(name)
    started = _rabbitmq(directory) if name == "rabbitmq" else _mqlift(directory, request.getfixturevalue("ministack"))
    with started as running:
        yield running


@contextlib.contextmanager
def _rabbitmq(directory: Path) -> Iterator[Broker]:
    if not installed():
        missing("Debian's package rabbitmq-server")
    rabbitmq = RabbitMQWithMqtt(directory)
    rabbitmq.start()
    try:
        yield Broker(
            name="rabbitmq",
            host=HOST,
            mqtt_port=rabbitmq.mqtt_port,
            amqp_port=rabbitmq.port,
            stomp_port=rabbitmq.stomp_port,
            user=USER,
            password=PASSWORD,
        )
    finally:
        rabbitmq.close()


@contextlib.contextmanager
def _mqlift(directory: Path, ministack: Ministack) -> Iterator[Broker]:
    gateway = Gateway(_compose_config(directory, ministack), directory)
    gateway.start()
    try:
        yield Broker(
            name="mqlift",
            host=HOST,
            mqtt_port=gateway.port("mqtt"),
            amqp_port=gateway.port("amqp091"),
            stomp_port=gateway.port("stomp"),
            user="legacy",
            password="legacy",
            aws=ministack.url,
        )
    finally:
        gateway.close()
        gateway.check_log()


def _compose_config(directory: Path, ministack: Ministack) -> dict[str, object]:
    """The file that the stack runs, moved to this machine."""
    config: dict[str, object] = yaml.safe_load((ROOT / "config" / "compose.yaml").read_text())
    listeners = config["listeners"]
    assert isinstance(listeners, list)
    return config | {
        "aws": {"region": "us-east-1", "endpoint_url": ministack.url},
        "state": f"sqlite://{directory / 'state.db'}",
        "listeners": [each | {"host": HOST, "port": free_port()} for each in listeners],
        "admin": {"host": HOST, "port": free_port()},
    }


@pytest.fixture(scope="session")
def queues(broker: Broker) -> Iterator[Queues | None]:
    """What is in SQS; None for a broker that keeps its queues to itself."""
    if not broker.aws:
        yield None
        return
    with contextlib.closing(Queues(broker.aws)) as queues:
        yield queues


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start applications that go on beside the test; see `Running`."""
    with contextlib.ExitStack() as stack:

        def start_one(broker: Broker, ready_line: str, *command: str, **environment: str) -> Running:
            application = Running(broker, tmp_path, ready_line, *command, **environment)
            stack.callback(application.close)
            application.start()
            return application

        yield start_one
