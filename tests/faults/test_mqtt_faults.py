"""A kept MQTT subscriber that is cut off again and again, while SQS fails and the gateway is killed.

Nothing that was acknowledged to a publisher is lost, and what a topic's messages were published in is the order that
they come in for the first time. At QoS 2 nothing is delivered twice while the gateway lives.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import finish, serving
from tests.faults.conftest import quick_config
from tests.rig.counting import assert_nothing_lost
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import STATE_FAULTS, THROTTLING, TRANSIENT, CutAnswer, Fault, Reset, Slow
from tests.rig.processes import HOST, Gateway
from tests.rig.waiting import wait_for

TOPICS = 4
MESSAGES = 40
"""On each topic."""
PATIENCE = 60.0
CUTS = 3
CHANGES = ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")


class KeptClient:
    """paho (3.1.1) with a kept session, that connects again whatever happens, and resends as MQTT says."""

    def __init__(self, port: int, client_id: str) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.max_inflight_messages_set(20)
        self.connections = 0
        self._port = port
        self.client.on_connect = self._on_connect

    def __enter__(self) -> Self:
        self.client.connect(HOST, self._port, 30)
        self.client.loop_start()
        wait_for(lambda: self.connections, "the client is connected")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def cut(self) -> None:
        """Lose the connection, and wait until there is another."""
        before = self.connections
        connection = self.client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):  # the gateway was faster
                connection.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: self.connections > before, "the client is connected again")

    def _on_connect(self, *_: object) -> None:
        self.connections += 1


class Subscriber(KeptClient):
    """Notes what comes, by topic, in its order."""

    def __init__(self, port: int, client_id: str, topic_filter: str, qos: int) -> None:
        super().__init__(port, client_id)
        self._filter, self._qos = topic_filter, qos
        self._subscribed = threading.Event()
        self.seen: defaultdict[str, list[str]] = defaultdict(list)
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: self._subscribed.set()

    def __enter__(self) -> Self:
        super().__enter__()
        self.client.subscribe(self._filter, self._qos)
        assert self._subscribed.wait(PATIENCE)
        return self

    @property
    def distinct(self) -> int:
        return len({body for bodies in list(self.seen.values()) for body in list(bodies)})

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.seen[message.topic].append(message.payload.decode())


class Publisher(KeptClient):
    """Notes what was acknowledged to the end of its QoS."""

    def __init__(self, port: int, client_id: str) -> None:
        super().__init__(port, client_id)
        self._handed: list[tuple[str, int]] = []
        self._published: set[int] = set()
        self.client.on_publish = lambda _client, _data, mid, *_: self._published.add(mid)

    def publish(self, topic: str, body: str, qos: int) -> None:
        """Hand a message to paho, which sends it when there is a connection."""
        self._handed.append((body, self.client.publish(topic, body, qos).mid))

    @property
    def acknowledged(self) -> list[str]:
        return [body for body, mid in self._handed if mid in self._published]


@pytest.fixture
def gateway(faults: FaultEndpoint, tmp_path: Path) -> Iterator[Gateway]:
    """A quick gateway with its state in a file; not started yet."""
    gateway = Gateway(quick_config(faults.url) | {"state": f"sqlite://{tmp_path}/state.db"}, tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(finish, gateway)
        yield gateway


@contextlib.contextmanager
def traffic(gateway: Gateway, name: str, qos: int) -> Iterator[tuple[Publisher, Subscriber]]:
    port = gateway.port("mqtt")
    with (
        Subscriber(port, f"{name}-subscriber", f"{name}/#", qos) as subscriber,
        Publisher(port, f"{name}-publisher") as publisher,
    ):
        yield publisher, subscriber


def bodies_of(topic: int, part: int = 0, parts: int = 1) -> list[str]:
    """The part of a topic's messages that is published in one of several steps."""
    size = MESSAGES // parts
    return [f"{topic} {number:04}" for number in range(part * size, (part + 1) * size)]


def publish_part(publisher: Publisher, name: str, qos: int, part: int, parts: int) -> None:
    """A part of the messages of all topics, in turn."""
    for bodies in zip(*(bodies_of(topic, part, parts) for topic in range(TOPICS)), strict=True):
        for topic, body in enumerate(bodies):
            publisher.publish(f"{name}/{topic}", body, qos)


def wait_delivered(publisher: Publisher, subscriber: Subscriber) -> None:
    total = TOPICS * MESSAGES
    wait_for(lambda: len(publisher.acknowledged) == total, "all are acknowledged", PATIENCE)
    wait_for(lambda: subscriber.distinct >= total, "all are delivered", PATIENCE)


def assert_kept(publisher: Publisher, subscriber: Subscriber, name: str) -> None:
    """Nothing that was acknowledged is lost, and each topic's first deliveries are in the order of publishing."""
    assert_nothing_lost(publisher.acknowledged, itertools.chain.from_iterable(subscriber.seen.values()))
    for topic in range(TOPICS):
        assert list(dict.fromkeys(subscriber.seen[f"{name}/{topic}"])) == bodies_of(topic)


PLANS: dict[str, tuple[Sequence[Fault], float, Sequence[str]]] = {
    "throttles": ((THROTTLING,), 0.3, ()),
    "lost answers": ((Reset(), Reset(applied=True), CutAnswer()), 0.2, CHANGES),
    "everything": (TRANSIENT, 0.25, CHANGES),
}


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("plan", PLANS)
def test_faults_and_lost_connections(
    plan: str, qos: int, gateway: Gateway, faults: FaultEndpoint, queue_name: str
) -> None:
    gateway.start()
    with traffic(gateway, queue_name, qos) as (publisher, subscriber):
        chaos, probability, actions = PLANS[plan]
        faults.chaos(chaos, probability, seed=7, actions=actions)
        for part in range(CUTS):
            publish_part(publisher, queue_name, qos, part, CUTS + 1)
            subscriber.cut()
            publisher.cut()
        publish_part(publisher, queue_name, qos, CUTS, CUTS + 1)
        faults.clear()
        wait_delivered(publisher, subscriber)
        assert_kept(publisher, subscriber, queue_name)
        assert faults.injected().total() >= 5


def test_qos_2_with_faults_of_the_state_table(faults: FaultEndpoint, tmp_path: Path, queue_name: str) -> None:
    """What is kept of a client is in DynamoDB, which answers late, with errors or not at all; connections are lost."""
    own = {"state": "dynamodb://faulty-state", "prefix": f"{queue_name}-"}
    gateway = Gateway(quick_config(faults.url) | own, tmp_path)
    with serving(gateway), traffic(gateway, queue_name, 2) as (publisher, subscriber):
        faults.chaos(STATE_FAULTS, 0.25, seed=11, actions=("GetItem", "UpdateItem", "DeleteItem", "Query"))
        for part in range(CUTS):
            publish_part(publisher, queue_name, 2, part, CUTS + 1)
            subscriber.cut()
            publisher.cut()
        publish_part(publisher, queue_name, 2, CUTS, CUTS + 1)
        wait_delivered(publisher, subscriber)
        faults.clear()
        assert_kept(publisher, subscriber, queue_name)
        for topic in range(TOPICS):
            assert subscriber.seen[f"{queue_name}/{topic}"] == bodies_of(topic), "exactly once"
        assert faults.injected().total() >= 20


def test_qos_2_is_exactly_once_while_the_gateway_lives(
    gateway: Gateway, faults: FaultEndpoint, queue_name: str
) -> None:
    """Connections are lost; of SQS, calls are refused and slow, and none has an effect that nobody is told of."""
    gateway.start()
    with traffic(gateway, queue_name, 2) as (publisher, subscriber):
        faults.chaos((THROTTLING, Slow(0.05), Slow(0.05, before=True)), 0.5, seed=3)
        for part in range(CUTS):
            publish_part(publisher, queue_name, 2, part, CUTS + 1)
            subscriber.cut()
            publisher.cut()
        publish_part(publisher, queue_name, 2, CUTS, CUTS + 1)
        wait_delivered(publisher, subscriber)
        faults.clear()
        for topic in range(TOPICS):
            publisher.publish(f"{queue_name}/{topic}", "last", 2)
        wait_for(lambda: all(bodies[-1] == "last" for bodies in list(subscriber.seen.values())), "the last are there")
        for topic in range(TOPICS):
            assert subscriber.seen[f"{queue_name}/{topic}"] == [*bodies_of(topic), "last"]


@pytest.mark.parametrize("qos", [1, 2])
def test_kill_9_under_load(qos: int, gateway: Gateway, faults: FaultEndpoint, queue_name: str) -> None:
    gateway.start()
    with traffic(gateway, queue_name, qos) as (publisher, subscriber):
        faults.chaos((Slow(0.05), Slow(0.05, before=True)), 1.0, seed=1)
        for part in range(CUTS):
            before = subscriber.distinct
            publish_part(publisher, queue_name, qos, part, CUTS + 1)
            wait_for(lambda known=before: subscriber.distinct > known, "messages come")  # type: ignore[misc]
            gateway.kill9()
            gateway.start()
        publish_part(publisher, queue_name, qos, CUTS, CUTS + 1)
        faults.clear()
        wait_delivered(publisher, subscriber)
        assert_kept(publisher, subscriber, queue_name)
        assert subscriber.connections > CUTS
