"""kinesis-local, from npm: an emulator of Kinesis whose shards can be split and merged."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.rig.processes import ServerProcess, accepts, free_port

PACKAGE = "kinesis-local@0.6.2"
_INSTALL_TIMEOUT = 300.0


def install(folder: Path) -> Path:
    """Put it into a folder; where its script is. Does nothing when that has been done."""
    script = folder / "node_modules" / "kinesis-local" / "main.js"
    if not script.exists():
        # npm would look for a lock file and for settings in the folders above otherwise.
        command = [
            "npm",
            "install",
            "--prefix",
            str(folder),
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--silent",
        ]
        subprocess.run([*command, PACKAGE], cwd=folder, check=True, timeout=_INSTALL_TIMEOUT)
    return script


class KinesisLocal(ServerProcess):
    """The emulator. It takes a few seconds to start."""

    def __init__(self, script: Path, directory: Path) -> None:
        self.port = free_port()
        environment = {
            "KINESIS_MOCK_PLAIN_PORT": str(self.port),
            "KINESIS_MOCK_TLS_PORT": str(free_port()),
            "KINESIS_MOCK_CERT_PATH": str(script.with_name("server.json")),
            "LOG_LEVEL": "ERROR",
            "SHARD_LIMIT": "200",
        }
        log = directory / f"kinesis-local-{self.port}.log"
        super().__init__("kinesis-local", ["node", str(script)], log, environment=environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        return accepts(self.port)
