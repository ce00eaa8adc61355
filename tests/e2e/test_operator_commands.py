"""`mqlift top`, `queues`, `connections`, `purge` and `close`, with a gateway; and what the audit log says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import GatewayFactory
from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.counting import SqsClient, depth
from tests.rig.processes import ROOT, Gateway, clean_environment, free_port
from tests.rig.waiting import wait_for

MQLIFT = str(Path(sys.executable).with_name("mqlift"))
TOKEN = "a token of operators"
LIMIT = 60.0


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, audit: Path) -> Gateway:
    log = {"level": "error", "audit_file": str(audit)}
    return gateway_factory(receiver={"wait": 1}, log=log, environment={"MQLIFT_ADMIN__TOKEN": TOKEN})


@pytest.fixture
def consumer(gateway: Gateway, queue: str, queue_name: str) -> Iterator[StompClient]:
    with StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/{queue_name}")
        yield client


def mqlift(gateway: Gateway | None, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    url = {} if gateway is None else {"MQLIFT_ADMIN_URL": gateway.url("")}
    return subprocess.run(
        [MQLIFT, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        cwd=ROOT,
        env=clean_environment({"MQLIFT_ADMIN__TOKEN": TOKEN} | url | environment),
    )


def rows(gateway: Gateway, *arguments: str) -> list[dict[str, object]]:
    result = mqlift(gateway, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def events(audit: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in audit.read_text().splitlines()]


def test_queues_and_connections_are_listed(gateway: Gateway, consumer: StompClient, queue_name: str) -> None:
    with StompClient(gateway.port("stomp")) as producer:
        producer.send(f"/queue/{queue_name}", "one")
    consumer.wait_deliveries(1)
    (queue,) = [row for row in rows(gateway, "queues", "--depth") if row["name"] == queue_name]
    assert queue == {
        "name": queue_name,
        "kind": "durable",
        "home": f"sqs {queue_name}",
        "consumers": 1,
        "unsettled": 0,
        "ready": 0,
        "published": 1,
        "delivered": 1,
    }
    (connection,) = [row for row in rows(gateway, "connections") if row["subscriptions"]]
    assert (connection["protocol"], connection["delivered"], connection["paused"]) == ("stomp", 1, [])
    assert queue_name in mqlift(gateway, "queues").stdout


def test_top_shows_what_is_there(gateway: Gateway, consumer: StompClient, queue_name: str) -> None:
    result = mqlift(gateway, "top", "--once", "--interval", "0.1", COLUMNS="200")
    assert result.returncode == 0, result.stderr
    assert "ready, 0 problems, 1 worker(s)" in result.stdout
    assert queue_name in result.stdout
    assert "stomp" in result.stdout


def test_a_queue_is_purged_and_who_did_it_is_told(
    gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str, audit: Path
) -> None:
    with StompClient(gateway.port("stomp")) as producer:
        producer.send(f"/queue/{queue_name}", "one")
    result = mqlift(gateway, "purge", queue_name)
    assert (result.returncode, result.stdout) == (0, f"about 1 messages dropped from {queue_name}\n")
    wait_for(lambda: depth(sqs, queue) == (0, 0), "it is empty")
    (told,) = [event for event in events(audit) if event["event"] == "admin_purged"]
    assert (told["queue"], told["peer"]) == (queue_name, "127.0.0.1")


def test_a_connection_is_closed(gateway: Gateway, consumer: StompClient) -> None:
    (connection,) = rows(gateway, "connections")
    assert mqlift(gateway, "close", str(connection["id"])).returncode == 0
    wait_for(lambda: rows(gateway, "connections") == [], "it is gone")
    again = mqlift(gateway, "close", str(connection["id"]))
    assert (again.returncode, again.stderr) == (1, f"mqlift: no connection '{connection['id']}'\n")


def test_logins_and_declarations_are_in_the_audit_log(gateway: Gateway, queue_name: str, audit: Path) -> None:
    with MqttPublisher(gateway.port("mqtt"), "device"), StompClient(gateway.port("stomp")) as client:
        client.subscribe(f"/queue/{queue_name}")
        wait_for(lambda: len(events(audit)) >= 3, "all is told")
    logins = [event for event in events(audit) if event["event"] == "login"]
    assert {event["protocol"] for event in logins} == {"mqtt", "stomp"}
    assert "device" in {event["client_id"] for event in logins}
    assert {event["peer"] for event in logins} == {"127.0.0.1"}
    (declared,) = [event for event in events(audit) if event["event"] == "queue_declared"]
    assert declared["queue"] == queue_name
    assert str(declared["peer"]).startswith("127.0.0.1:")


def test_who_shows_a_wrong_token_is_told(gateway: Gateway, audit: Path) -> None:
    result = mqlift(gateway, "queues", MQLIFT_ADMIN__TOKEN="something wrong here")
    assert result.returncode == 1
    assert "the token is missing or wrong" in result.stderr
    (told,) = [event for event in events(audit) if event["event"] == "admin_refused"]
    assert told["path"] == "/api/queues"
    assert "something wrong" not in audit.read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--url", f"http://127.0.0.1:{free_port()}"], "Connection refused"),
        (["--url", "localhost"], "is not the URL of an admin server"),
        (["--url", "http://x:y"], "is not the URL of an admin server"),
        (["--token-file", "/no/such/file"], "No such file"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], reason: str) -> None:
    for command in (["queues"], ["connections"], ["purge", "q"], ["close", "1-1"], ["top"]):
        result = mqlift(None, *command, *arguments)
        assert result.returncode == 1
        assert reason in result.stderr
        assert len(result.stderr.splitlines()) == 1
