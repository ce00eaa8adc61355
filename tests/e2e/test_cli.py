"""The command line: quick to answer, and never a traceback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from gateway import cli
from tests.rig.processes import HOST, ROOT, Gateway, Ministack, clean_environment, gateway_config

MQLIFT = str(Path(sys.executable).with_name("mqlift"))
LIMIT = 60.0


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        cwd=ROOT,
        env=clean_environment(environment),
    )


def mqlift(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(MQLIFT, *arguments, **environment)


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", code, *arguments, **environment)


def write_config(directory: Path, **settings: object) -> str:
    path = directory / "mqlift.yaml"
    path.write_text(json.dumps(gateway_config("http://127.0.0.1:1", **settings)))
    return str(path)


def test_version() -> None:
    result = mqlift("--version")
    assert (result.returncode, result.stdout) == (0, f"mqlift {metadata.version('mqlift')}\n")


COMMANDS = [
    (),
    ("serve",),
    ("check",),
    ("demo",),
    ("pub",),
    ("sub",),
    ("top",),
    ("queues",),
    ("connections",),
    ("purge",),
    ("close",),
    ("passwd",),
    ("auth",),
    ("auth", "import"),
    ("iam-policy",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: tuple[str, ...]) -> None:
    result = mqlift(*command, "--help")
    assert result.returncode == 0
    assert f"Usage: {' '.join(('mqlift', *command))} " in result.stdout


def test_help_is_tested_for_every_command() -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    assert {(name,) for name in group.commands} <= set(COMMANDS)


def test_help_does_not_wait_for_what_only_a_gateway_needs() -> None:
    code = (
        "import atexit, sys\n"
        "heavy = {'aiobotocore', 'aiohttp', 'amqtt', 'asyncio', 'botocore', 'config', 'stomp', 'structlog', 'uvloop'}\n"
        "atexit.register(lambda: print('imported:', sorted(heavy & set(sys.modules))))\n"
        "from gateway.cli import main\n"
        "main()\n"
    )
    result = python(code, "--help")
    assert result.stdout.endswith("imported: []\n")


@pytest.mark.parametrize("arguments", [("nonsense",), ("serve",), ("check",), ("demo", "--port-offset", "x")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = mqlift(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Error" in result.stderr
    assert "Traceback" not in result.stderr


def findings(command: str, result: subprocess.CompletedProcess[str]) -> str:
    """Mistakes are what `check` is asked for, and an error to others."""
    wanted, other = (result.stdout, result.stderr) if command == "check" else (result.stderr, result.stdout)
    assert other == ""
    return wanted


@pytest.mark.parametrize("command", ["serve", "check"])
def test_mistakes_of_a_configuration_are_a_line_each(command: str, tmp_path: Path) -> None:
    path = tmp_path / "mqlift.yaml"
    path.write_text("listeners: [{protocol: mqtt, port: 70000}]\nprovison: auto\n")
    result = mqlift(command, "--config", str(path))
    assert result.returncode == 2
    lines = findings(command, result).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert "listeners.0.port" in lines[0]
    assert "did you mean provision?" in lines[1]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_configuration_is_named(command: str, tmp_path: Path) -> None:
    result = mqlift(command, "--config", str(tmp_path / "nothing.yaml"))
    assert result.returncode == 2
    [line] = findings(command, result).splitlines()
    assert line.startswith(f"{tmp_path}/nothing.yaml: ")


def test_check_explains(tmp_path: Path) -> None:
    routes = [{"match": {"topic": "orders/#"}, "to": [{"queue": "orders"}]}]
    config = write_config(tmp_path, routes=routes)
    result = mqlift("check", "--config", config, "--explain", "topic:orders/1", "--explain", "queue:bills")
    assert result.returncode == 0, result.stderr
    assert "orders" in result.stdout
    assert "bills" in result.stdout


@pytest.mark.parametrize("part", ["listener", "admin"])
def test_a_taken_port_is_named(part: str, tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as holder:
        port = holder.getsockname()[1]
        here = {"host": HOST, "port": port}
        settings = {"admin": here} if part == "admin" else {"listeners": [{"protocol": "mqtt", **here}]}
        result = mqlift("serve", "--config", write_config(tmp_path, **settings))
    assert result.returncode == 2, result.stderr
    told = result.stderr.splitlines()[-1]
    assert str(port) in told
    assert "taken" in told
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_well_when_asked_to(number: signal.Signals, ministack: Ministack, tmp_path: Path) -> None:
    config = gateway_config(ministack.url, log={"format": "json", "level": "info"})
    gateway = Gateway(config, tmp_path)
    gateway.start()
    gateway.send_signal(number)
    assert gateway.wait() == 0
    events = [json.loads(line) for line in gateway.log.splitlines()]
    assert events
    assert {"event", "level", "logger", "timestamp"} <= set(events[0])


BREAK_PUB = "import gateway.clients.commands as c; c.publish = lambda *_: 1 / 0; from gateway.cli import main; main()"


def test_a_bug_is_told_in_a_line() -> None:
    result = python(BREAK_PUB, "pub", "topic:t", "x")
    assert result.returncode == 1
    assert result.stderr == (
        "mqlift: internal error: ZeroDivisionError: division by zero (MQLIFT_TRACEBACK=1 shows where)\n"
    )


def test_a_bug_shows_where_on_demand() -> None:
    result = python(BREAK_PUB, "pub", "topic:t", "x", MQLIFT_TRACEBACK="1")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert "ZeroDivisionError" in result.stderr


LOOP = """
import asyncio
from gateway import cli

async def loop_module():
    return type(asyncio.get_running_loop()).__module__

print(cli._run(loop_module()))
"""


def test_uvloop_is_used_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert python(LOOP).stdout.startswith("uvloop")


def test_plain_asyncio_is_used_without_uvloop() -> None:
    result = python("import sys; sys.modules['uvloop'] = None\n" + LOOP)
    assert result.stdout.startswith("asyncio")


def test_one_line_errors_tell_interruption_by_the_exit_code() -> None:
    code = "import gateway.clients.commands as c\ndef stop(*_): raise KeyboardInterrupt\nc.publish = stop\n"
    result = python(code + "from gateway.cli import main; main()", "pub", "topic:t", "x")
    assert (result.returncode, result.stdout, result.stderr) == (cli.EXIT_INTERRUPTED, "", "")
