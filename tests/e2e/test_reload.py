"""SIGHUP: a configuration that is right is followed, one with a mistake is refused as a whole."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.auth.hashes import quick_hash
from tests.conftest import GatewayFactory
from tests.rig.clients import MqttPublisher
from tests.rig.counting import SqsClient, assert_exactly, drain
from tests.rig.processes import Gateway, free_port
from tests.rig.waiting import wait_for


def route(topic: str, queue: str) -> dict[str, object]:
    return {"match": {"topic": topic}, "to": [{"sqs": queue}]}


@pytest.fixture
def other_queue(sqs: SqsClient, queue_name: str) -> str:
    url: str = sqs.create_queue(QueueName=f"{queue_name}-b")["QueueUrl"]
    return url


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, queue: str, queue_name: str) -> Gateway:
    return gateway_factory(routes=[route("a/#", queue_name)])


def reload(gateway: Gateway, **changes: object) -> None:
    """Change the file, and say so."""
    config = json.loads(gateway.config_path.read_text())
    gateway.config_path.write_text(json.dumps(config | changes))
    before = reloads(gateway)
    gateway.send_signal(signal.SIGHUP)
    wait_for(lambda: reloads(gateway) == before + 1, "it is read")


def reloads(gateway: Gateway) -> float:
    return gateway.metric("mqlift_config_reloads_total")


def applied(gateway: Gateway) -> float:
    return gateway.metrics().get('mqlift_config_reloads_total{result="applied"}', 0)


def test_publishers_that_are_there_follow_new_rules(
    gateway: Gateway, sqs: SqsClient, queue: str, other_queue: str, queue_name: str
) -> None:
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish("a/1", "before")
        publisher.wait_acknowledged(1)
        reload(gateway, routes=[route("a/#", f"{queue_name}-b")])
        publisher.publish("a/1", "after")
        publisher.wait_acknowledged(2)
        assert publisher.disconnects == 0
    assert_exactly(["before"], drain(sqs, queue).elements())
    assert_exactly(["after"], drain(sqs, other_queue).elements())
    assert applied(gateway) == 1


def test_a_mistake_refuses_all_of_it_and_names_the_key(
    gateway: Gateway, sqs: SqsClient, queue: str, other_queue: str, queue_name: str
) -> None:
    wrong = {"match": {"topic": "b/#"}, "to": [{"sqs": "x", "regoin": "y"}]}
    reload(gateway, routes=[route("a/#", f"{queue_name}-b"), wrong])
    assert applied(gateway) == 0
    assert "reload_refused" in gateway.log
    assert "routes.1.to.0" in gateway.log
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish("a/1", "as before")
        publisher.wait_acknowledged(1)
    assert_exactly(["as before"], drain(sqs, queue).elements())
    assert drain(sqs, other_queue).total() == 0


def test_a_file_that_is_gone_changes_nothing(gateway: Gateway) -> None:
    gateway.config_path.unlink()
    before = reloads(gateway)
    gateway.send_signal(signal.SIGHUP)
    wait_for(lambda: reloads(gateway) == before + 1, "it is read")
    assert applied(gateway) == 0
    assert "cannot be read" in gateway.log
    assert gateway.get("/healthz")[0] == 200


def test_what_waits_for_a_restart_is_told(gateway: Gateway) -> None:
    listeners = json.loads(gateway.config_path.read_text())["listeners"]
    listeners[0]["port"] = free_port()
    reload(gateway, listeners=listeners, prefix="other-", drain_timeout=20)
    assert applied(gateway) == 1
    told = [line for line in gateway.log.splitlines() if "reload_needs_restart" in line]
    for key in ("prefix", "listeners.0"):
        assert any(f"key={key}" in line for line in told), key
    assert not any("drain_timeout" in line for line in told)


def test_a_known_queue_stays_where_it_lives(
    gateway: Gateway, sqs: SqsClient, queue: str, other_queue: str, queue_name: str
) -> None:
    reload(gateway, routes=[{"match": {"queue": "orders"}, "to": [{"sqs": queue_name}]}])
    assert "queue_keeps_home" not in gateway.log
    reload(gateway, routes=[{"match": {"queue": "orders"}, "to": [{"sqs": f"{queue_name}-b"}]}])
    line = next(line for line in gateway.log.splitlines() if "queue_keeps_home" in line)
    assert f"sqs {queue_name}-b" in line


def test_new_connections_have_new_limits(gateway: Gateway) -> None:
    listeners = json.loads(gateway.config_path.read_text())["listeners"]
    listeners[0]["max_connections"] = 1
    reload(gateway, listeners=listeners)
    with MqttPublisher(gateway.port("mqtt"), "first") as first:
        first.publish("unrouted", "x")
        first.wait_acknowledged(1)
        refused = gateway.metric("mqlift_connections_refused_total")
        with pytest.raises((AssertionError, OSError)), MqttPublisher(gateway.port("mqtt"), "second"):
            pass
        assert gateway.metric("mqlift_connections_refused_total") > refused


def assert_refused(port: int, user: str, password: str) -> None:
    refused = MqttPublisher(port, f"refused-{user}", username=user, password=password)
    with pytest.raises(ConnectionRefusedError), refused:
        pass


def test_files_of_users_are_read_again(gateway_factory: GatewayFactory, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{quick_hash('first')}\n")
    gateway = gateway_factory(auth={"users": [str(users)]})
    port = gateway.port("mqtt")
    with MqttPublisher(port, "a", username="ann", password="first") as ann:
        assert_refused(port, "bob", "second")
        users.write_text(f"bob:{quick_hash('second')}\n")
        reload(gateway)
        with MqttPublisher(port, "b", username="bob", password="second"):
            pass
        assert_refused(port, "ann", "first")
        assert ann.connected, "who is in stays in"


def test_a_users_file_with_a_mistake_changes_nothing(gateway_factory: GatewayFactory, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{quick_hash('first')}\n")
    gateway = gateway_factory(auth={"users": [str(users)]})
    users.write_text("ann:first\n")
    reload(gateway)
    assert applied(gateway) == 0
    assert "auth.users.0" in gateway.log
    with MqttPublisher(gateway.port("mqtt"), "a", username="ann", password="first"):
        pass


def test_quotas_are_followed(gateway_factory: GatewayFactory, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{quick_hash('first')}\n")
    gateway = gateway_factory(auth={"users": [str(users)]})
    port = gateway.port("mqtt")
    with MqttPublisher(port, "a", username="ann", password="first") as ann:
        reload(gateway, limits={"user": {"connections": 1}})
        assert_refused(port, "ann", "first")
        assert ann.connected
        reload(gateway, limits={"user": {"connections": 2}})
        with MqttPublisher(port, "b", username="ann", password="first"):
            pass
