"""`mqlift demo`, as a newcomer uses it: read the page, run its commands, press Ctrl-C."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from rich.console import Console

from config.settings import load
from gateway import demo
from tests.rig.processes import HOST, ROOT, ServerProcess, clean_environment
from tests.rig.waiting import wait_for

MQLIFT = str(Path(sys.executable).with_name("mqlift"))
LIMIT = 60.0
PORTS = {"MQTT": 1883, "STOMP": 61613, "AMQP091": 5672, "AWS emulator": 4566, "ADMIN": 9090}
HIGHEST_OFFSET = 65535 - 61613
LAST_LINE = "Ctrl-C stops everything."


def bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def all_free(offset: int) -> bool:
    return all(bindable(port + offset) for port in PORTS.values())


@pytest.fixture
def offset() -> int:
    candidates = random.sample(range(1, HIGHEST_OFFSET), 100)
    return next(candidate for candidate in candidates if all_free(candidate))


class Demo(ServerProcess):
    """`mqlift demo`, in a directory that is not the checkout."""

    def __init__(self, offset: int, directory: Path) -> None:
        super().__init__("demo", [MQLIFT, "demo", "--port-offset", str(offset)], directory / "demo.log")

    def ready(self) -> bool:
        return LAST_LINE in self.log

    def commands(self) -> list[str]:
        """The commands on the page: its last paragraph but one."""
        page, _, _ = self.log.partition(LAST_LINE)
        return [line.strip() for line in page.rstrip().split("\n\n")[-1].splitlines()]


@pytest.fixture
def running(offset: int, tmp_path: Path) -> Iterator[Demo]:
    process = Demo(offset, tmp_path)
    process.start()
    yield process
    process.kill9()
    wait_for(lambda: all_free(offset), "the emulator has ended with the demo")


def shell(command: str) -> str:
    result = subprocess.run(
        command, shell=True, cwd=ROOT, env=clean_environment({}), timeout=LIMIT, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def refused(*arguments: str) -> str:
    """The one line that a demo which cannot start says."""
    result = subprocess.run(
        [MQLIFT, "demo", *arguments], env=clean_environment({}), timeout=LIMIT, capture_output=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == b""
    [line] = result.stderr.decode().splitlines()
    return line


def test_the_commands_on_the_page_work_and_ctrl_c_stops_everything(running: Demo, offset: int) -> None:
    publish, look, read = running.commands()
    shell(publish)
    assert "hello" in shell(look)
    assert shell(f"{read} --count 1") == "hello\n"
    assert "hello" not in shell(look)
    assert running.interrupt() == 0
    assert all_free(offset)
    assert "Traceback" not in running.log


def test_bundled_clients_cross_from_mqtt_to_stomp(running: Demo, offset: int) -> None:
    shell(f"{MQLIFT} pub topic:orders/eu/7 'grüße' --port {PORTS['MQTT'] + offset}")
    assert shell(f"{MQLIFT} sub queue:orders --count 1 --port {PORTS['STOMP'] + offset}") == "grüße\n"


def test_sigterm_stops_everything(running: Demo, offset: int) -> None:
    assert running.terminate() == 0
    assert all_free(offset)


def test_the_emulator_does_not_outlive_a_killed_demo(running: Demo, offset: int) -> None:
    running.kill9()
    wait_for(lambda: bindable(PORTS["AWS emulator"] + offset), "the emulator has ended")


def test_an_emulator_that_ends_ends_the_demo(running: Demo, offset: int) -> None:
    [emulator] = children(running.pid)
    os.kill(emulator, signal.SIGKILL)
    assert running.wait() == 1
    told = running.log.splitlines()[-1]
    assert told == "mqlift: the AWS emulator ended by itself (exit status -9): it wrote nothing"
    assert all_free(offset)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("use", PORTS)
def test_a_taken_port_is_named_with_its_use_and_a_way_out(offset: int, use: str) -> None:
    port = PORTS[use] + offset
    with socket.create_server((HOST, port)):
        line = refused("--port-offset", str(offset))
        problem, _, remedy = line.partition("; ")
        assert problem.lower() == f"port {port} ({use}): taken by another program".lower()
        suggested = int(remedy.removeprefix("try mqlift demo --port-offset "))
        assert all_free(suggested)


def test_ports_that_do_not_exist_are_refused() -> None:
    line = refused("--port-offset", str(HIGHEST_OFFSET + 1))
    assert line == f"--port-offset: STOMP would be on port 65536; {HIGHEST_OFFSET} at most"


def test_a_missing_emulator_is_named() -> None:
    code = "import sys; sys.modules['ministack'] = None; from gateway.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "demo", "--port-offset", "1"],
        env=clean_environment({}),
        timeout=LIMIT,
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 1
    assert result.stderr.decode() == "mqlift: the AWS emulator is not installed; pip install 'mqlift[demo]'\n"


def plan_of(offset: int) -> demo.Plan:
    with resources.as_file(resources.files("config") / "demo.yaml") as path:
        return demo.shifted(load(path), offset)


def test_every_port_is_shifted() -> None:
    shifted = {port.use.upper(): port.number for port in plan_of(7).ports}
    assert shifted == {use.upper(): port + 7 for use, port in PORTS.items()}
    assert plan_of(7).settings.aws["endpoint_url"] == "http://127.0.0.1:4573"


def test_without_mosquitto_and_aws_the_page_shows_what_is_bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.chdir(Path(sys.executable).parents[1])
    plan = plan_of(1)
    assert demo.publish_command(plan) == "bin/mqlift pub topic:orders/1 hello --port 1884"
    assert demo.read_command(plan) == "bin/mqlift sub queue:orders --port 61614"
    look = demo.look_command(plan)
    assert look.startswith('bin/python -c "')
    assert "http://127.0.0.1:4567/000000000000/orders" in look


@pytest.mark.usefixtures("running")
def test_the_bundled_look_command_works(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    plan = plan_of(offset)
    shell(demo.publish_command(plan))
    assert "hello" in shell(demo.look_command(plan))


def test_commands_are_printed_in_one_line_however_narrow_the_terminal() -> None:
    stream = io.StringIO()
    plan = plan_of(0)
    demo.show_page(plan, Console(file=stream, width=20))
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    for command in (demo.publish_command(plan), demo.look_command(plan), demo.read_command(plan)):
        assert command in lines
