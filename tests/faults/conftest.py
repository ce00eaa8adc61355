"""A gateway that gives up soon, so that faults take little time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import finish, serving
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.processes import Gateway, Ministack, gateway_config

NOTHING: Mapping[str, object] = {}

ROUTES: list[object] = [
    # Of FIFO queues, the group is a level of the topic.
    {
        "match": {"topic": "fifo/{queue}/{group}"},
        "to": [{"sqs": "{queue}.fifo", "group_id": "{group}"}],
    },
    {"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]},
]


AWS = {"region": "us-east-1", "connect_timeout": 1, "read_timeout": 0.5}
SENDER = {"timeout": 20, "backoff_base": 0.01, "backoff_cap": 0.1}
RECEIVER = {"visibility": 2, "wait": 1}


def quick_config(
    endpoint_url: str, *, aws: Mapping[str, object] = NOTHING, sender: Mapping[str, object] = NOTHING
) -> dict[str, object]:
    """Half a second for an answer; retries within a tenth; what a crash hides is back after two seconds.

    `aws` and `sender` add to those sections, and win.
    """
    return gateway_config(
        endpoint_url,
        aws=AWS | {"endpoint_url": endpoint_url} | dict(aws),
        sender=SENDER | dict(sender),
        receiver=RECEIVER,
        routes=ROUTES,
    )


@pytest.fixture(scope="module")
def endpoint(ministack: Ministack) -> Iterator[FaultEndpoint]:
    """One for all tests of a module; each of them says when its faults are over."""
    with FaultEndpoint(ministack.url) as faults:
        yield faults


@pytest.fixture(scope="module")
def gateway(endpoint: FaultEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests of a module, behind the endpoint. At the end it has to stop, without any traceback before."""
    running = Gateway(quick_config(endpoint.url), tmp_path_factory.mktemp("gateway"))
    with serving(running):
        yield running


@pytest.fixture
def quick_gateway(faults: FaultEndpoint, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Make gateways like that, behind the test's own endpoint, with what is added to `quick_config`.

    They are not started yet, and the test may kill them and start them again.
    """
    with contextlib.ExitStack() as stack:

        def make(**sections: Mapping[str, object]) -> Gateway:
            gateway = Gateway(quick_config(faults.url, **sections), tmp_path)
            stack.callback(finish, gateway)
            return gateway

        yield make
