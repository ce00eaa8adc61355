"""A gateway that gives up soon, so that faults take little time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import finish
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.processes import Gateway, Ministack, gateway_config

ROUTES: list[object] = [
    # Of FIFO queues, the group is a level of the topic.
    {
        "match": {"topic": "fifo/{queue}/{group}"},
        "to": [{"sqs": "{queue}.fifo", "group_id": "{group}"}],
    },
    {"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]},
]


def quick_config(endpoint_url: str, **settings: object) -> dict[str, object]:
    """Half a second for an answer; retries within a tenth; what a crash hides is back after two seconds."""
    config: dict[str, object] = {
        "aws": {"region": "us-east-1", "endpoint_url": endpoint_url, "connect_timeout": 1, "read_timeout": 0.5},
        "sender": {"timeout": 20, "backoff_base": 0.01, "backoff_cap": 0.1},
        "receiver": {"visibility": 2, "wait": 1},
        "routes": ROUTES,
    }
    return gateway_config(endpoint_url, **(config | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def endpoint(ministack: Ministack) -> Iterator[FaultEndpoint]:
    """One for all tests of a module; each of them says when its faults are over."""
    with FaultEndpoint(ministack.url) as faults:
        yield faults


@pytest.fixture(scope="module")
def gateway(endpoint: FaultEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests of a module, behind the endpoint. At the end it has to stop, without any traceback before."""
    running = Gateway(quick_config(endpoint.url), tmp_path_factory.mktemp("gateway"))
    with contextlib.ExitStack() as stack:
        stack.callback(finish, running)
        running.start()
        yield running


@pytest.fixture
def own_gateway(faults: FaultEndpoint, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that the test may kill and start again; it is not started yet."""
    gateway = Gateway(quick_config(faults.url), tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(finish, gateway)
        yield gateway
