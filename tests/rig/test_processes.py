"""Processes are started, awaited, stopped and killed as the other tests count on."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import processes
from tests.rig.processes import HOST, Gateway, ServerProcess, accepts, clean_environment, free_port, gateway_config
from tests.rig.waiting import wait_for

# Listens where a gateway would; what it does besides is the test's first word.
SERVER = """
import http.server, json, signal, socket, sys, threading

how, path = sys.argv[1], sys.argv[2]
if how == "fails":
    sys.exit("no luck today")
if how == "traceback":
    sys.stderr.write("Traceback (most recent call last):\\n  ...\\n")
config = json.load(open(path))
listeners = [socket.create_server(("127.0.0.1", each["port"])) for each in config["listeners"]]

class Admin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'# HELP x y\\nmqlift_a_total{q="1 2"} 1.0\\nmqlift_a_total{q="3"} 2.5\\nmqlift_b 4.0\\n')

def stop(number, frame):
    if how != "deaf":
        print("goodbye", flush=True)
        sys.exit(3)

signal.signal(signal.SIGTERM, stop)
server = http.server.HTTPServer(("127.0.0.1", config["admin"]["port"]), Admin)
print("hello", flush=True)
server.serve_forever()
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Gateway]]:
    started: list[Gateway] = []
    yield started
    for each in started:
        each.kill9()


def stand_in(tmp_path: Path, made: list[Gateway], how: str = "well") -> Gateway:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    config = gateway_config("http://127.0.0.1:1")
    gateway = Gateway(config, tmp_path, command=lambda path: [sys.executable, str(script), how, str(path)])
    made.append(gateway)
    return gateway


def test_it_is_ready_when_it_listens(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made)
    gateway.start()
    assert gateway.running
    assert accepts(gateway.port("mqtt"))
    assert accepts(gateway.port("stomp"))
    assert gateway.get("/healthz")[0] == 200
    assert "hello" in gateway.log
    gateway.check_log()


def test_terminate_gives_the_exit_code(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made)
    gateway.start()
    assert gateway.terminate() == 3
    assert not gateway.running
    assert gateway.log.endswith("goodbye\n")


def test_interrupt_is_a_ctrl_c(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made)
    gateway.start()
    assert gateway.interrupt() != 0
    with pytest.raises(AssertionError, match="traceback in the log"):  # Python's own, of KeyboardInterrupt
        gateway.check_log()


def test_kill9_leaves_no_time(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made)
    gateway.start()
    gateway.kill9()
    assert gateway.wait() == -signal.SIGKILL
    assert "goodbye" not in gateway.log
    gateway.close()


def test_it_starts_again_on_the_same_ports(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made)
    gateway.start()
    first = gateway.pid
    with pytest.raises(AssertionError, match="runs already"):
        gateway.start()
    gateway.kill9()
    gateway.start()
    assert gateway.pid != first
    assert gateway.log.count("hello") == 2


def test_a_failed_start_shows_the_output(tmp_path: Path, made: list[Gateway]) -> None:
    with pytest.raises(AssertionError, match="ended with 1 when it was started") as caught:
        stand_in(tmp_path, made, "fails").start()
    assert "no luck today" in caught.value.__notes__[0]


def test_a_start_that_takes_too_long_is_ended(
    tmp_path: Path, made: list[Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "START_TIMEOUT", 0.2)
    gateway = stand_in(tmp_path, made)
    monkeypatch.setattr(gateway, "ready", lambda: False)
    with pytest.raises(AssertionError, match="is ready"):
        gateway.start()
    assert not gateway.running


def test_one_that_does_not_stop_is_killed(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made, "deaf")
    gateway.start()
    with pytest.raises(AssertionError, match=r"did not end in 0\.3 s"):
        gateway.terminate(timeout=0.3)
    assert not gateway.running


def test_a_traceback_is_found(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made, "traceback")
    gateway.start()
    with pytest.raises(AssertionError, match="traceback in the log"):
        gateway.check_log()


def test_metrics(tmp_path: Path, made: list[Gateway]) -> None:
    gateway = stand_in(tmp_path, made)
    gateway.start()
    assert gateway.metrics() == {'mqlift_a_total{q="1 2"}': 1.0, 'mqlift_a_total{q="3"}': 2.5, "mqlift_b": 4.0}
    assert gateway.metric("mqlift_a_total") == 3.5
    assert gateway.metric("mqlift_none") == 0


def test_a_process_that_was_not_started_says_so(tmp_path: Path) -> None:
    process = ServerProcess("nothing", ["true"], tmp_path / "log")
    assert not process.running
    assert process.log == ""
    process.kill9()
    with pytest.raises(AssertionError, match="was not started"):
        process.terminate()


def test_free_ports_are_distinct_and_free() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    with socket.create_server((HOST, ports[0])):
        assert accepts(ports[0])


def test_nothing_of_the_developers_aws_account_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    monkeypatch.setenv("MQLIFT_PREFIX", "mine-")
    monkeypatch.setenv("https_proxy", "http://proxy")
    environment = clean_environment({"MQLIFT_LOG__LEVEL": "debug"})
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "MQLIFT_PREFIX", "https_proxy"} & environment.keys()
    assert environment["AWS_ACCESS_KEY_ID"] == "test"
    assert environment["MQLIFT_LOG__LEVEL"] == "debug"
    assert environment["PATH"] == os.environ["PATH"]


def test_waiting_gives_up_and_says_for_what() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the moon \(last seen: 0\)"):
        wait_for(lambda: 0, "the moon", 0.05)
    values = iter([0, 0, 7])
    assert wait_for(lambda: next(values), "seven") == 7
