"""kinesis-local, from npm: an emulator of Kinesis whose shards can be split and merged."""

from __future__ import annotations

from pathlib import Path

from tests.rig.npm import NODE
from tests.rig.processes import HOST, ServerProcess, accepts, free_port

PACKAGE = "kinesis-local@0.6.2"


class KinesisLocal(ServerProcess):
    """The emulator, whose package is in a folder. It takes a few seconds to start."""

    def __init__(self, package: Path, directory: Path) -> None:
        self.port = free_port()
        environment = {
            "KINESIS_MOCK_PLAIN_PORT": str(self.port),
            "KINESIS_MOCK_TLS_PORT": str(free_port()),
            "KINESIS_MOCK_CERT_PATH": str(package / "server.json"),
            "LOG_LEVEL": "ERROR",
            "SHARD_LIMIT": "200",
        }
        log = directory / f"kinesis-local-{self.port}.log"
        super().__init__("kinesis-local", [str(NODE), str(package / "main.js")], log, environment=environment)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ready(self) -> bool:
        return accepts(self.port)
