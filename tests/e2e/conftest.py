"""Gateways that keep their state in a file, and are started again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import finish, serving
from tests.rig.processes import Gateway, Ministack, gateway_config

ROUTES: list[object] = [{"match": {"topic": "in/{queue}/#"}, "to": [{"queue": "{queue}"}]}]


def keeping_config(endpoint_url: str, state: Path, **settings: object) -> Mapping[str, object]:
    """State in a file; what a crash hides is back after two seconds."""
    usual: dict[str, object] = {"routes": ROUTES, "receiver": {"wait": 1, "visibility": 2}}
    return gateway_config(endpoint_url, **usual | {"state": f"sqlite://{state}"} | settings)  # type: ignore[arg-type]


@pytest.fixture
def keeping_gateway(ministack: Ministack, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start gateways on one file of state, with `settings` added to their configuration."""
    with contextlib.ExitStack() as stack:

        def start(**settings: object) -> Gateway:
            gateway = Gateway(keeping_config(ministack.url, tmp_path / "state.db", **settings), tmp_path)
            stack.callback(finish, gateway)
            gateway.start()
            return gateway

        yield start


@pytest.fixture(scope="module")
def shared_gateway(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests of a module that leave it alone."""
    directory = tmp_path_factory.mktemp("keeping")
    gateway = Gateway(keeping_config(ministack.url, directory / "state.db"), directory)
    with serving(gateway):
        yield gateway


RESTARTS: Mapping[str, Callable[[Gateway], object]] = {"SIGTERM": Gateway.terminate, "kill -9": Gateway.kill9}


@pytest.fixture(params=RESTARTS)
def restart(request: pytest.FixtureRequest) -> Callable[[Gateway], None]:
    """End a gateway, in each of two ways, and start it again."""

    def end_and_start(gateway: Gateway) -> None:
        RESTARTS[request.param](gateway)
        gateway.start()

    return end_and_start
