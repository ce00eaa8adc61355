"""The brokers that mqlift is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.needs import missing
from tests.rig.rabbitmq import RabbitMQ, installed


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """One RabbitMQ for all tests; each uses names of its own. Skips on a developer's machine that has none."""
    if not installed():
        missing("Debian's package rabbitmq-server")
    broker = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    broker.start()
    yield broker
    broker.close()
