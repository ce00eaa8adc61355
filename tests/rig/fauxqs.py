"""fauxqs, from npm: an emulator of SQS, SNS and S3, for a second opinion."""

from __future__ import annotations

from pathlib import Path

from tests.rig.npm import NODE
from tests.rig.processes import HOST, ServerProcess, answers, free_port

PACKAGE = "fauxqs@2.4.1"


class Fauxqs(ServerProcess):
    """The emulator, whose package is in a folder."""

    def __init__(self, package: Path, directory: Path) -> None:
        self.port = free_port()
        environment = {"FAUXQS_PORT": str(self.port), "FAUXQS_LOGGER": "false"}
        log = directory / f"fauxqs-{self.port}.log"
        super().__init__("fauxqs", [str(NODE), str(package / "dist" / "server.js")], log, environment=environment)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ready(self) -> bool:
        return answers(self.port, "/health")
