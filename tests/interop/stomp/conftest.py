"""The servers that speak STOMP: each is started when the first test wants it, and serves all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import finish
from tests.interop.stomp.servers import Listeners, dialect_gateway
from tests.interop.stomp.stage import Dialect, Server
from tests.rig import activemq as activemq_rig
from tests.rig.activemq import ActiveMQ
from tests.rig.processes import Ministack


@pytest.fixture(scope="session")
def activemq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """One ActiveMQ for all tests; each uses names of its own. Skips on a developer's machine that has none."""
    if not activemq_rig.installed():
        reason = "Debian's package activemq, or a Java, is not installed"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
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
