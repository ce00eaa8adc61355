"""The brokers that scenarios are played against, and what was observed. Another broker is one more fixture."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.conftest import finish
from tests.interop.amqp.scenario import AT_ONCE, Observations, Scenario, Target
from tests.rig.processes import HOST, Gateway, Ministack, free_port, gateway_config
from tests.rig.rabbitmq import RabbitMQ

PROTOCOL = "amqp091"
NOT_THERE = "mqlift has no AMQP 0-9-1 listener yet"

TARGETS = [pytest.param("rabbitmq"), pytest.param("mqlift", marks=pytest.mark.skip(reason=NOT_THERE))]


@pytest.fixture(scope="session")
def rabbitmq_target(rabbitmq: RabbitMQ) -> Target:
    return Target("rabbitmq", rabbitmq.port)


@pytest.fixture(scope="session")
def mqlift_target(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway with queues in SQS."""
    port = free_port()
    config = gateway_config(
        ministack.url,
        listeners=[{"protocol": PROTOCOL, "host": HOST, "port": port}],
        receiver={"wait": 1},
        prefix="interop-amqp-",
    )
    gateway = Gateway(config, tmp_path_factory.mktemp("gateway"))
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
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted: list[Scenario] = list(dict.fromkeys(params["scenario"] for params in calls if "scenario" in params))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        futures: dict[Scenario, Future[list[str]]] = {each: threads.submit(each.observe, target) for each in wanted}
        yield lambda scenario: futures[scenario].result()
        for future in futures.values():
            future.cancel()
