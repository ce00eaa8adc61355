"""The brokers that mqlift is compared with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.rig.rabbitmq import RabbitMQ, installed


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """One RabbitMQ for all tests; each uses names of its own. Skips on a developer's machine that has none."""
    if not installed():
        reason = "Debian's package rabbitmq-server is not installed"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    broker = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    broker.start()
    yield broker
    broker.close()
