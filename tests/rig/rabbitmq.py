"""A real RabbitMQ, Debian's package, on ports and in folders of its own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.rig.processes import HOST, ServerProcess, accepts, free_port

SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one in `/usr/sbin`, which wants to be the user `rabbitmq`, and knows one configuration only."""

USER = "guest"
PASSWORD = "guest"
LIMITED_USER = "limited"
"""May connect to `VHOST`, and has no permission there."""
VHOST = "/"
OTHER_VHOST = "other"
"""`USER` has all permissions there too."""
FORBIDDEN_VHOST = "forbidden"
"""Nobody has permissions there."""

_PLUGINS = ("rabbitmq_stomp",)
_STARTED = "completed with"
"""What the log says when every plugin runs."""


def installed() -> bool:
    """Whether this machine has RabbitMQ."""
    return SCRIPT.exists() and shutil.which("epmd") is not None


class Epmd(ServerProcess):
    """Erlang's port mapper, in the foreground: the one that a node starts by itself would outlive it."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        super().__init__(
            "epmd", ["epmd", "-address", HOST, "-port", str(self.port)], directory / f"epmd-{self.port}.log"
        )

    def ready(self) -> bool:
        return accepts(self.port)


class RabbitMQ(ServerProcess):
    """`rabbitmq-server` with STOMP, and with the users and virtual hosts that stand above."""

    def __init__(
        self,
        directory: Path,
        *,
        plugins: Sequence[str] = _PLUGINS,
        stomp_port: int | None = None,
        core: int | None = None,
    ) -> None:
        self.port = free_port()
        self.stomp_port = stomp_port or free_port()
        self._epmd = Epmd(directory)
        home = directory / f"rabbitmq-{self.port}"
        home.mkdir()
        _write_files(home, plugins, self.port, self.stomp_port)
        environment = {
            "HOME": str(home),
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"rabbit-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            # It is for a few connections, beside everything else that runs on the machine.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +SDio 4 +A 8",
        }
        log_path = directory / f"rabbitmq-{self.port}.log"
        # Where it leaves what it dumps when it is killed.
        super().__init__(
            "rabbitmq", [str(SCRIPT)], log_path, environment=environment, core=core, working_directory=home
        )

    def start(self) -> None:
        self._epmd.start()
        # A test session that is ended by an exception in a fixture must not leave an Erlang node behind.
        atexit.register(self.kill9)
        super().start()

    def ready(self) -> bool:
        return _STARTED in self.log and accepts(self.port) and accepts(self.stomp_port)

    @property
    def node_pid(self) -> int:
        """The process that does the work, which the shell script has started."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or (entry / "comm").read_text().strip() != "beam.smp":
                continue
            if os.getpgid(int(entry.name)) == self.pid:
                return int(entry.name)
        raise AssertionError(f"no node of {self.name} runs")

    def kill9(self) -> None:
        """End the shell script and the node that it started, which are one process group, and the port mapper."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        super().kill9()
        self._epmd.kill9()
        atexit.unregister(self.kill9)

    def close(self) -> None:
        """End it, however it is; for fixtures. Nothing that it has is wanted any more."""
        self.kill9()


def _write_files(home: Path, plugins: Sequence[str], port: int, stomp_port: int) -> None:
    definitions = home / "definitions.json"
    definitions.write_text(json.dumps(_definitions()))
    (home / "enabled_plugins").write_text(f"[{','.join(plugins)}].")
    settings = {
        "listeners.tcp.1": f"{HOST}:{port}",
        "stomp.listeners.tcp.1": f"{HOST}:{stomp_port}",
        "load_definitions": str(definitions),
        "disk_free_limit.absolute": "1MB",
        "log.console": "true",
        "log.console.level": "info",
    }
    (home / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))


def _definitions() -> dict[str, object]:
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    nothing = {"configure": "^$", "write": "^$", "read": "^$"}
    return {
        "users": [
            {"name": USER, "password": PASSWORD, "tags": "administrator"},
            {"name": LIMITED_USER, "password": PASSWORD, "tags": ""},
        ],
        "vhosts": [{"name": name} for name in (VHOST, OTHER_VHOST, FORBIDDEN_VHOST)],
        "permissions": [
            {"user": USER, "vhost": VHOST} | everything,
            {"user": USER, "vhost": OTHER_VHOST} | everything,
            {"user": LIMITED_USER, "vhost": VHOST} | nothing,
        ],
    }
