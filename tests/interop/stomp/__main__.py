"""Record what the real brokers say, or how mqlift differs: `python -m tests.interop.stomp brokers|mqlift [dialect]`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.interop.stomp.servers import DIALECTS, dialect_gateway
from tests.interop.stomp.stage import Dialect, Server, staged
from tests.interop.stomp.transcripts import (
    SCENARIOS,
    UNEXPLAINED,
    Difference,
    differing,
    read_differences,
    read_observed,
    write_differences,
    write_observed,
)
from tests.rig.activemq import ActiveMQ
from tests.rig.processes import Ministack
from tests.rig.rabbitmq import RabbitMQ


def transcripts(server: Server) -> dict[str, list[str]]:
    recorded = {}
    for scenario in SCENARIOS[server.dialect]:
        with staged(server) as stage:
            scenario(stage)
        recorded[scenario.__name__] = stage.transcript
    return recorded


@contextmanager
def real(dialect: Dialect, directory: Path) -> Iterator[Server]:
    broker = RabbitMQ(directory) if dialect == "rabbitmq" else ActiveMQ(directory)
    broker.start()
    try:
        yield Server(dialect, broker.stomp_port)
    finally:
        broker.kill9()


@contextmanager
def mqlift(dialect: Dialect, directory: Path) -> Iterator[Server]:
    ministack = Ministack(directory)
    ministack.start()
    try:
        gateway, listeners = dialect_gateway(ministack, dialect, directory)
        gateway.start()
        try:
            yield Server(dialect, listeners.tcp)
        finally:
            gateway.close()
    finally:
        ministack.kill9()


def record_broker(dialect: Dialect, directory: Path) -> None:
    with real(dialect, directory) as server:
        write_observed(dialect, transcripts(server))


def record_mqlift(dialect: Dialect, directory: Path) -> None:
    """Keeps the reasons of differences that are known; a person writes those of new ones into the file."""
    with mqlift(dialect, directory) as server:
        ours = transcripts(server)
    known = read_differences(dialect)
    differences = {}
    for name, observed in read_observed(dialect).items():
        lines = differing(dialect, observed, ours[name])
        if lines:
            reason = known[name].reason if name in known else UNEXPLAINED
            differences[name] = Difference(reason, lines)
    write_differences(dialect, differences)


def main(arguments: list[str]) -> None:
    what, *dialects = arguments
    record = {"brokers": record_broker, "mqlift": record_mqlift}[what]
    for dialect in DIALECTS:
        if not dialects or dialect in dialects:
            with tempfile.TemporaryDirectory() as directory:
                record(dialect, Path(directory))


main(sys.argv[1:])
