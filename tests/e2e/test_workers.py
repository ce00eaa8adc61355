"""Several workers on the same ports: one gateway to its clients and to its operators."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.conftest import GatewayFactory
from tests.faults.wire import Wire, connected_mqtt, mqtt_connect, mqtt_packet, mqtt_publish
from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.counting import SqsClient, assert_exactly, drain
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

TOKEN = "a token of operators"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, queue: str, queue_name: str) -> Gateway:
    routes = [{"match": {"topic": "in/#"}, "to": [{"sqs": queue_name}]}]
    gateway = gateway_factory(
        routes=routes, workers=2, drain_timeout=5, receiver={"wait": 1}, environment={"MQLIFT_ADMIN__TOKEN": TOKEN}
    )
    wait_for(lambda: json.loads(gateway.get("/readyz")[1])["ready"], "all are up")
    return gateway


def pids(gateway: Gateway) -> dict[int, int]:
    """The process of each worker, as the log told last."""
    return {
        int(number): int(pid) for number, pid in re.findall(r"worker_started.*?worker=(\d).*?pid=(\d+)", gateway.log)
    }


@contextlib.contextmanager
def connected_to_both(gateway: Gateway) -> Iterator[dict[str, Wire]]:
    """A connection at each worker, whose client id is the worker's number. The kernel says where one goes."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Wire] = {}
        for number in range(200):
            name = f"client-{number}"
            wire = stack.enter_context(connected_mqtt(gateway.port("mqtt"), mqtt_connect(name)))
            row = next(row for row in listing(gateway, "connections") if row["client_id"] == name)
            found.setdefault(str(row["id"]).partition("-")[0], wire)
            if len(found) == 2:
                yield found
                return
        raise AssertionError("all connections went to one worker")


def listing(gateway: Gateway, name: str) -> list[dict[str, object]]:
    status, text = gateway.get(f"/api/{name}?limit=1000", BEARER)
    assert status == 200, text
    items: list[dict[str, object]] = json.loads(text)["items"]
    return items


def test_what_is_published_to_each_arrives_and_is_counted_together(
    gateway: Gateway, sqs: SqsClient, queue: str
) -> None:
    with connected_to_both(gateway) as wires:
        for number, wire in wires.items():
            wire.send(mqtt_publish("in/1", number.encode(), 1))
            assert wire.receive(4)
        assert gateway.metric("mqlift_publishes_total") == 2
        assert gateway.metric("mqlift_connections") == len(listing(gateway, "connections"))
        overview = json.loads(gateway.get("/api/overview", BEARER)[1])
        assert (overview["workers"], overview["published"]) == (2, 2)
    assert_exactly(["1", "2"], drain(sqs, queue).elements())


def test_a_worker_that_dies_is_replaced_and_counters_do_not_fall(gateway: Gateway) -> None:
    with connected_to_both(gateway) as wires:
        for wire in wires.values():
            wire.send(mqtt_publish("in/1", b"x", 1))
            assert wire.receive(4)
        assert gateway.metric("mqlift_publishes_total") == 2
        before = pids(gateway)
        os.kill(before[1], signal.SIGKILL)
        assert wires["1"].receive_all() == b""
        wait_for(lambda: pids(gateway)[1] != before[1], "it is started again")
        wait_for(lambda: gateway.metric("mqlift_workers") == 2, "it is up")
        assert gateway.metric("mqlift_publishes_total") == 2
        assert gateway.metric("mqlift_worker_restarts_total") == 1
        assert pids(gateway)[2] == before[2]
        wires["2"].send(mqtt_publish("in/1", b"x", 2))
        assert wires["2"].receive(4)


def test_sigterm_drains_all_of_them(gateway: Gateway) -> None:
    workers = pids(gateway).values()
    assert gateway.terminate() == 0
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_when_nobody_looks_after_them(gateway: Gateway) -> None:
    workers = pids(gateway).values()
    gateway.kill9()
    for pid in workers:
        wait_for(lambda pid=pid: not alive(pid), "the worker has ended")  # type: ignore[misc]
    gateway.start()  # nothing holds the ports


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_reload_reaches_all(gateway: Gateway) -> None:
    config = json.loads(gateway.config_path.read_text())
    gateway.config_path.write_text(json.dumps(config | {"routes": []}))
    gateway.send_signal(signal.SIGHUP)
    applied = 'mqlift_config_reloads_total{result="applied"}'
    wait_for(lambda: gateway.metrics().get(applied) == 2, "both have read it")
    gateway.config_path.write_text(json.dumps(config | {"routes": 7}))
    gateway.send_signal(signal.SIGHUP)
    wait_for(lambda: "reload_refused" in gateway.log, "it is refused")
    assert gateway.metrics()[applied] == 2
    assert gateway.metrics()['mqlift_config_reloads_total{result="refused"}'] == 1


def test_a_durable_queue_is_everybodys(gateway: Gateway, sqs: SqsClient, queue: str, queue_name: str) -> None:
    """Whichever workers two clients come to."""
    with StompClient(gateway.port("stomp")) as consumer:
        consumer.subscribe(f"/queue/{queue_name}")
        for number in range(6):
            with StompClient(gateway.port("stomp")) as producer:
                producer.send(f"/queue/{queue_name}", str(number))
        consumer.wait_deliveries(6)
    assert {delivery.body for delivery in consumer.deliveries} == set("012345")


def test_what_workers_do_not_share_is_refused(gateway: Gateway) -> None:
    with (
        StompClient(gateway.port("stomp")) as client,
        pytest.raises(AssertionError, match="workers: 1"),
    ):
        client.subscribe("/topic/live")


def test_a_live_mqtt_subscription_is_refused(gateway: Gateway) -> None:
    with connected_mqtt(gateway.port("mqtt"), mqtt_connect("subscriber")) as wire:
        wire.send(mqtt_packet(0x82, b"\x00\x01\x00\x03a/b\x01"))
        assert wire.receive(5) == b"\x90\x03\x00\x01\x80"  # SUBACK: failure [MQTT-3.9.3]


def test_one_that_cannot_start_ends_all(gateway: Gateway, gateway_factory: GatewayFactory) -> None:
    config = json.loads(gateway.config_path.read_text())
    with pytest.raises(AssertionError, match=r"ended with 2 (.|\n)*is taken|ended with 2") as failed:
        gateway_factory(listeners=config["listeners"], workers=2)
    (note,) = failed.value.__notes__
    assert "cannot listen on" in note


def test_readiness_tells_of_all(gateway: Gateway) -> None:
    assert json.loads(gateway.get("/readyz")[1]) == {
        "ready": True,
        "draining": False,
        "degraded": False,
        "problems": [],
    }


def test_publishers_survive_the_end_of_their_worker(gateway: Gateway, sqs: SqsClient, queue: str) -> None:
    with MqttPublisher(gateway.port("mqtt"), "patient") as publisher:
        publisher.publish_all("in/1", [str(number) for number in range(50)])
        publisher.wait_acknowledged(50)
        for pid in pids(gateway).values():
            os.kill(pid, signal.SIGKILL)
        publisher.publish_all("in/1", [str(number) for number in range(50, 100)])
        publisher.wait_acknowledged(100)
    assert set(drain(sqs, queue)) == {str(number) for number in range(100)}
