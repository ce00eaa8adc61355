"""A gateway that no AWS stands behind: none of these tests gets as far."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import finish
from tests.rig.certificates import Authority
from tests.rig.processes import Gateway, gateway_config

NO_AWS = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Gateway]]:
    """Start gateways for a module's tests; none may write a traceback, and each has to stop at SIGTERM."""
    with contextlib.ExitStack() as stack:

        def start(**settings: object) -> Gateway:
            directory: Path = tmp_path_factory.mktemp("gateway")
            gateway = Gateway(gateway_config(NO_AWS, **settings), directory)  # type: ignore[arg-type]
            stack.callback(finish, gateway)
            gateway.start()
            return gateway

        yield start
