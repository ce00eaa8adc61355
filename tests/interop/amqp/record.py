"""Write down what a real RabbitMQ makes of each scenario: `python -m tests.interop.amqp.record [group …]`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.interop.amqp.scenario import Target
from tests.interop.amqp.table import GROUPS
from tests.rig.rabbitmq import RabbitMQ


def main(names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        broker = RabbitMQ(Path(directory))
        try:
            broker.start()
            for group in GROUPS:
                if not names or group.name in names:
                    group.record(Target("rabbitmq", broker.port))
        finally:
            broker.close()


if __name__ == "__main__":
    main(sys.argv[1:])
