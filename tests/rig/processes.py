"""Real processes on free ports: started, awaited, stopped and killed, with their output at hand when a test fails."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.rig.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"

FIRST_PORT = 20_000
LAST_PORT = 31_999
"""Below the range that Linux takes client ports from (32768): nobody connects away from a port that was found free."""

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
PROBE_TIMEOUT = 2.0
TAIL_LINES = 100

TRACEBACK = "Traceback (most recent call last)"

AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""Credentials that emulators take; nothing of the developer's own AWS account reaches a test."""

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Tests may run in several processes; none of them is given a port that another one has found, but does not use yet."""

_PORTS = range(FIRST_PORT + WORKER, LAST_PORT + 1, WORKERS)
_candidates = itertools.count(random.randrange(len(_PORTS)))


def free_port() -> int:
    """A port on which nobody listens. Each call gives another one."""
    for candidate in itertools.islice(_candidates, len(_PORTS)):
        port = _PORTS[candidate % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process' environment without anything that configures AWS, mqlift or proxies, and with `extra`."""
    unwanted = ("AWS_", "MQLIFT_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(unwanted)}
    return kept | AWS_ENVIRONMENT | dict(extra)


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body of a GET on this host. Raises `OSError` when nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(f"GET {path}: {error!r}") from error
    finally:
        connection.close()


def answers(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return get(port, path)[0] == http.HTTPStatus.OK
    except OSError:
        return False


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT):
            return True
    except OSError:
        return False


class ServerProcess:
    """One child process. Its output goes to a file, and into the text of what goes wrong with it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        *,
        environment: Mapping[str, str] | None = None,
        core: int | None = None,
        working_directory: Path = ROOT,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = list(command)
        self._environment = clean_environment(environment or {})
        self._core = core
        self._working_directory = working_directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running_process().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        return "\n".join(self.log.splitlines()[-TAIL_LINES:])

    def ready(self) -> bool:
        """Whether it can be used; each kind of process says how to tell."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it is ready. `AssertionError` with its output when it ends or takes too long."""
        if self.running:
            raise AssertionError(f"{self.name} runs already")
        with self.log_path.open("ab") as log:
            # Not the terminal's group: a Ctrl-C in pytest reaches the fixtures, which stop it.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._working_directory,
                start_new_session=True,
            )
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        try:
            self._wait_until_ready()
        except BaseException as error:
            self.kill9()
            error.add_note(f"output of {self.name}:\n{self.log_tail()}")
            raise

    def _wait_until_ready(self) -> None:
        wait_for(lambda: not self.running or self.ready(), f"{self.name} is ready", START_TIMEOUT)
        if not self.running:
            raise AssertionError(f"{self.name} ended with {self.wait()} when it was started")

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """SIGTERM, and wait for the end; its exit code. Killed, and `AssertionError`, when it takes too long."""
        return self._stop(signal.SIGTERM, timeout)

    def interrupt(self, timeout: float = STOP_TIMEOUT) -> int:
        """SIGINT, as Ctrl-C sends it, and wait for the end; its exit code."""
        return self._stop(signal.SIGINT, timeout)

    def send_signal(self, number: signal.Signals) -> None:
        self._running_process().send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for the end; the exit code."""
        process = self._running_process()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"{self.name} did not end in {timeout:g} s:\n{self.log_tail()}") from None

    def kill9(self) -> None:
        """End it at once, with no chance to clean up. Does nothing when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End it, however it is; for fixtures. `AssertionError` when it does not stop by itself."""
        if self.running:
            self.terminate()

    def _stop(self, number: signal.Signals, timeout: float) -> int:
        self.send_signal(number)
        return self.wait(timeout)

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError(f"{self.name} was not started")
        return self._process


class Ministack(ServerProcess):
    """The AWS emulator."""

    def __init__(self, directory: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        settings = {
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": HOST,
            "MINISTACK_HOST": HOST,
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
        }
        super().__init__(
            "ministack",
            [str(Path(sys.executable).with_name("ministack"))],
            directory / f"ministack-{self.port}.log",
            environment=settings | dict(environment or {}),
        )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ready(self) -> bool:
        return answers(self.port, "/_ministack/health")


def gateway_config(
    endpoint_url: str, *, protocols: Sequence[str] = ("mqtt", "stomp"), **settings: object
) -> dict[str, object]:
    """A configuration on free ports of this host; `settings` are added at the top level, and win."""
    config: dict[str, object] = {
        "aws": {"region": "us-east-1", "endpoint_url": endpoint_url},
        "state": "memory:",
        "listeners": [{"protocol": protocol, "host": HOST, "port": free_port()} for protocol in protocols],
        "admin": {"host": HOST, "port": free_port()},
        "auth": {"anonymous": True},
        "routes": [],
    }
    return config | settings


def listener_ports(config: Mapping[str, object]) -> dict[str, int]:
    """The port of each protocol's first listener."""
    listeners = config["listeners"]
    if not isinstance(listeners, list):
        raise TypeError("listeners is a list")
    ports: dict[str, int] = {}
    for listener in listeners:
        ports.setdefault(listener["protocol"], listener["port"])
    return ports


def admin_port(config: Mapping[str, object]) -> int:
    admin = config["admin"]
    if not isinstance(admin, dict):
        raise TypeError("admin is a mapping")
    return int(admin["port"])


def mqlift_serve(config_path: Path) -> list[str]:
    """The command that runs the gateway of this checkout, as a user does."""
    return [str(Path(sys.executable).with_name("mqlift")), "serve", "--config", str(config_path)]


class Gateway(ServerProcess):
    """`mqlift serve` with a configuration of its own. Can be started again, on the same ports, after its end."""

    def __init__(
        self,
        config: Mapping[str, object],
        directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        core: int | None = None,
        command: Callable[[Path], list[str]] = mqlift_serve,
    ) -> None:
        self._ports = listener_ports(config)
        self.admin_port = admin_port(config)
        self.config_path = config_path = directory / f"mqlift-{self.admin_port}.yaml"
        # JSON is YAML (YAML 1.2 §1.3), and shows what was meant without quoting rules.
        config_path.write_text(json.dumps(config, indent=2))
        log_path = directory / f"mqlift-{self.admin_port}.log"
        super().__init__("mqlift", command(config_path), log_path, environment=environment, core=core)

    def port(self, protocol: str) -> int:
        return self._ports[protocol]

    def url(self, path: str = "/") -> str:
        """An address of the admin server."""
        return f"http://{HOST}:{self.admin_port}{path}"

    def ready(self) -> bool:
        """Alive and listening; `/readyz` may say that AWS does not answer, which some tests want."""
        return answers(self.admin_port, "/healthz") and all(accepts(port) for port in self._ports.values())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and body of an admin page."""
        return get(self.admin_port, path, headers)

    def metrics(self) -> dict[str, float]:
        """All samples of `/metrics`, labels included in the name, as Prometheus writes them."""
        status, text = self.get("/metrics")
        if status != http.HTTPStatus.OK:
            raise AssertionError(f"/metrics: {status}: {text}")
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)

    def check_log(self) -> None:
        """`AssertionError` when the gateway has ever written a traceback: whatever happens, it has to be handled."""
        if TRACEBACK in self.log:
            raise AssertionError(f"a traceback in the log of {self.name}:\n{self.log_tail()}")
