"""The fixtures that tests of the whole share: an emulator, a client of it, gateways and faults."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import boto3  # type: ignore[import-untyped]
import botocore.config
import hypothesis
import pytest

from tests.rig.counting import SqsClient
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.fauxqs import PACKAGE as FAUXQS
from tests.rig.fauxqs import Fauxqs
from tests.rig.kinesis_local import PACKAGE as KINESIS_LOCAL
from tests.rig.kinesis_local import KinesisLocal
from tests.rig.npm import install_package
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import Client, aws_client
from tests.rig.topics import SnsClient

# How long an example takes says more of the machine, and what else it does, than of us.
hypothesis.settings.register_profile(
    "patient", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

_numbers = itertools.count(1)

Emulator: TypeAlias = Ministack | Fauxqs


class GatewayFactory(Protocol):
    """Starts `mqlift serve`; `settings` are added to the configuration at the top level."""

    def __call__(
        self, endpoint_url: str | None = None, *, environment: Mapping[str, str] | None = None, **settings: object
    ) -> Gateway: ...


def sqs_client(endpoint_url: str, read_timeout: float = 30.0) -> SqsClient:
    """A boto3 client that makes each call once, so that a test sees each answer."""
    config = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=read_timeout)
    return boto3.client(
        "sqs",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One emulator for all tests; each test uses names of its own."""
    emulator = Ministack(tmp_path_factory.mktemp("ministack"))
    emulator.start()
    yield emulator
    emulator.kill9()


@pytest.fixture(scope="session")
def fauxqs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fauxqs]:
    """The second opinion on SQS, SNS and S3."""
    package = install_package(FAUXQS, request.config.cache.mkdir("fauxqs"))
    emulator = Fauxqs(package, tmp_path_factory.mktemp("fauxqs"))
    emulator.start()
    yield emulator
    emulator.kill9()


@pytest.fixture(scope="session")
def kinesis_local(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KinesisLocal]:
    """The only emulator that can split and merge shards."""
    package = install_package(KINESIS_LOCAL, request.config.cache.mkdir("kinesis-local"))
    emulator = KinesisLocal(package, tmp_path_factory.mktemp("kinesis-local"))
    emulator.start()
    yield emulator
    emulator.kill9()


@pytest.fixture(scope="module", params=["ministack", "fauxqs"])
def emulator(request: pytest.FixtureRequest) -> Emulator:
    """For what has to hold on both."""
    chosen: Emulator = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="session")
def sqs(ministack: Ministack) -> Iterator[SqsClient]:
    """A boto3 SQS client of the emulator, past gateway and faults."""
    client = sqs_client(ministack.url)
    yield client
    client.close()


@pytest.fixture(scope="session")
def sns(ministack: Ministack) -> Iterator[SnsClient]:
    """As `sqs`."""
    client = aws_client("sns", ministack.url)
    yield client
    client.close()


@pytest.fixture(scope="session")
def kinesis(ministack: Ministack) -> Iterator[Client]:
    """As `sqs`."""
    client = aws_client("kinesis", ministack.url)
    yield client
    client.close()


@pytest.fixture
def queue_name() -> str:
    """The name of a queue that no other test uses; not created."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def queue(sqs: SqsClient, queue_name: str) -> str:
    """The URL of a fresh, empty queue."""
    url: str = sqs.create_queue(QueueName=queue_name)["QueueUrl"]
    return url


@pytest.fixture
def faults(ministack: Ministack) -> Iterator[FaultEndpoint]:
    """An endpoint in front of the emulator that forwards everything until it is told otherwise."""
    with FaultEndpoint(ministack.url) as endpoint:
        yield endpoint


@pytest.fixture
def gateway_factory(ministack: Ministack, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start gateways, against the emulator unless told otherwise.

    At the end each one that still runs has to stop at SIGTERM, and none may have written a traceback.
    """
    with contextlib.ExitStack() as started:

        def start(
            endpoint_url: str | None = None, *, environment: Mapping[str, str] | None = None, **settings: object
        ) -> Gateway:
            config = gateway_config(endpoint_url or ministack.url, **settings)  # type: ignore[arg-type]
            gateway = Gateway(config, tmp_path, environment=environment)
            started.callback(finish, gateway)
            gateway.start()
            return gateway

        yield start


@contextlib.contextmanager
def serving(gateway: Gateway) -> Iterator[None]:
    """Start a gateway; at the end, and when it does not start, `finish` it."""
    try:
        gateway.start()
        yield
    finally:
        finish(gateway)


def finish(gateway: Gateway) -> None:
    """Stop a gateway. What it wrote is printed, which pytest shows for a test that failed."""
    try:
        gateway.close()
    finally:
        print(f"--- output of {gateway.name} ---\n{gateway.log_tail()}")
    gateway.check_log()
