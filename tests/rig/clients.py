"""Real clients of other people, wrapped so that a test can publish, wait and count."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import paho.mqtt.client as paho
import stomp
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.rig.processes import HOST
from tests.rig.waiting import wait_for

KEEP_ALIVE = 30
STOMP_TIMEOUT = 10.0
AckMode = Literal["auto", "client", "client-individual"]


class MqttClient:
    """paho-mqtt (3.1.1) in its own thread. Use it as a context manager; it is connected inside."""

    def __init__(self, port: int, client_id: str = "", *, username: str = "", password: str = "") -> None:
        self._port = port
        self._connected = threading.Event()
        self._refused: str | None = None
        self.disconnects = 0
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv311)
        if username:
            self.client.username_pw_set(username, password)
        self.client.max_inflight_messages_set(65_535)
        self.client.max_queued_messages_set(0)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect

    def __enter__(self) -> Self:
        self.client.connect(HOST, self._port, KEEP_ALIVE)
        self.client.loop_start()
        try:
            wait_for(self._settled, "the MQTT client is connected")
        except BaseException:
            self.close()
            raise
        return self

    def _settled(self) -> bool:
        """Whether the CONNACK has come; raises `ConnectionRefusedError` with what it says."""
        if self._refused is not None:
            raise ConnectionRefusedError(self._refused)
        return self._connected.is_set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        return self.client.is_connected()

    def close(self) -> None:
        """DISCONNECT and end the thread. Does nothing when that has been done."""
        self.client.disconnect()
        self.client.loop_stop()
        # Client and callbacks refer to each other: without that, paho closes its own pair of sockets here and now.
        self.client.on_connect = self.client.on_disconnect = None
        self.client.on_publish = self.client.on_message = self.client.on_subscribe = None

    def drop(self) -> None:
        """Lose the connection without a DISCONNECT; paho then connects again by itself."""
        connection = self.client.socket()
        if isinstance(connection, socket.socket):
            connection.shutdown(socket.SHUT_RDWR)

    def _on_connect(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        else:
            self._connected.set()

    def _on_disconnect(
        self, _client: object, _data: object, _flags: object, _reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self.disconnects += 1


class MqttPublisher(MqttClient):
    """Publishes with QoS 1 and notes which bodies were acknowledged, and when."""

    def __init__(self, port: int, client_id: str = "", *, username: str = "", password: str = "") -> None:
        super().__init__(port, client_id, username=username, password=password)
        self._lock = threading.Lock()
        self._bodies: dict[int, str] = {}
        self._early: dict[int, float] = {}
        self._acknowledged: dict[str, float] = {}
        self.client.on_publish = self._on_publish

    @property
    def acknowledged(self) -> dict[str, float]:
        """The bodies with a PUBACK, and when it was read (`time.monotonic`)."""
        with self._lock:
            return dict(self._acknowledged)

    def publish(self, topic: str, body: str, *, retain: bool = False) -> None:
        """Hand one message to paho and do not wait. Bodies have to be distinct."""
        published = self.client.publish(topic, body, qos=1, retain=retain)
        if published.rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN}:
            raise ConnectionError(paho.error_string(published.rc))
        with self._lock:
            # The thread that reads may have been faster.
            if published.mid in self._early:
                self._acknowledged[body] = self._early.pop(published.mid)
            else:
                self._bodies[published.mid] = body

    def publish_all(self, topic: str, bodies: Iterable[str]) -> None:
        for body in bodies:
            self.publish(topic, body)

    def wait_acknowledged(self, number: int, timeout: float = 30.0) -> None:
        """Wait until so many messages have been acknowledged in all."""
        wait_for(lambda: len(self.acknowledged) >= number, f"{number} messages are acknowledged", timeout)

    def _on_publish(
        self, _client: object, _data: object, mid: int, _reason: ReasonCode, _properties: Properties | None
    ) -> None:
        now = time.monotonic()
        with self._lock:
            if mid in self._bodies:
                self._acknowledged[self._bodies.pop(mid)] = now
            else:
                self._early[mid] = now


@dataclass(frozen=True, slots=True)
class MqttMessage:
    topic: str
    body: bytes
    qos: int
    retain: bool


class MqttSubscriber(MqttClient):
    """Keeps everything that comes for its subscriptions."""

    def __init__(self, port: int, client_id: str = "", *, username: str = "", password: str = "") -> None:
        super().__init__(port, client_id, username=username, password=password)
        self.messages: list[MqttMessage] = []
        self._granted: dict[int | None, list[ReasonCode]] = {}
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_subscribe

    def subscribe(self, topic: str, qos: int = 1) -> int:
        """Subscribe and wait for the SUBACK; the granted QoS, or 128 for a refusal."""
        error, mid = self.client.subscribe(topic, qos)
        if error != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionError(paho.error_string(error))
        granted = wait_for(lambda: self._granted.get(mid), f"SUBACK for {topic}")
        return granted[0].value

    def wait_messages(self, number: int, timeout: float = 30.0) -> list[MqttMessage]:
        """Wait until so many messages have come in all; the messages."""
        wait_for(lambda: len(self.messages) >= number, f"{number} messages have come", timeout)
        return self.messages

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.messages.append(MqttMessage(message.topic, bytes(message.payload), message.qos, message.retain))

    def _on_subscribe(
        self, _client: object, _data: object, mid: int, granted: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._granted[mid] = granted


@dataclass(frozen=True, slots=True)
class StompDelivery:
    """One MESSAGE frame. `at` is when it was read (`time.monotonic`)."""

    body: Any
    """Text, or bytes for a client that was told not to decode."""
    headers: dict[str, str]
    at: float

    @property
    def redelivered(self) -> bool:
        return self.headers.get("redelivered") == "true"


class StompClient(stomp.ConnectionListener):  # type: ignore[misc]  # stomp.py has no types
    """stomp.py (1.2) with its reading thread. Use it as a context manager; it is connected inside.

    `decide` says for each delivery what is done at once: "ack", "nack" or None (keep it; a test may settle it later).
    """

    def __init__(
        self,
        port: int,
        *,
        decide: Callable[[StompDelivery], Literal["ack", "nack"] | None] = lambda _delivery: "ack",
        username: str = "",
        password: str = "",
        heartbeats: tuple[int, int] = (0, 0),
        decode: bool = True,
    ) -> None:
        """With `decode` False, bodies stay the bytes that they are."""
        self._login = (username, password)
        self._decide = decide
        self._lock = threading.Lock()
        self._receipts: set[str] = set()
        self._receipt = 0
        self._acknowledged: dict[str, float] = {}
        self.deliveries: list[StompDelivery] = []
        self.errors: list[tuple[dict[str, str], str]] = []
        # Reconnecting is the test's decision: it makes another client.
        self.connection: Any = stomp.Connection12(
            [(HOST, port)],
            reconnect_attempts_max=1,
            heartbeats=heartbeats,
            timeout=STOMP_TIMEOUT,
            auto_decode=decode,
            vhost="/",  # RabbitMQ takes `host` for the name of one
        )
        self.connection.set_listener("test", self)

    def __enter__(self) -> Self:
        self.connection.connect(*self._login, wait=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        return bool(self.connection.is_connected())

    @property
    def acknowledged(self) -> dict[str, float]:
        """The bodies that were acknowledged, and when the first ACK was about to be sent (`time.monotonic`)."""
        with self._lock:
            return dict(self._acknowledged)

    def subscribe(
        self, destination: str, subscription: str = "0", ack: AckMode = "client-individual", **headers: str
    ) -> None:
        """Subscribe and wait for the RECEIPT."""
        receipt = self._next_receipt()
        self.connection.subscribe(destination, subscription, ack, headers=headers | {"receipt": receipt})
        self._wait_receipt(receipt)

    def unsubscribe(self, subscription: str = "0") -> None:
        self.connection.unsubscribe(subscription)

    def send(self, destination: str, body: str | bytes, **headers: str) -> None:
        """SEND and wait for the RECEIPT. `AssertionError` with the ERROR frame's text when it is refused."""
        receipt = self._next_receipt()
        self.connection.send(destination, body, headers=headers | {"receipt": receipt})
        self._wait_receipt(receipt)

    def ack(self, delivery: StompDelivery) -> None:
        with self._lock:
            self._acknowledged.setdefault(delivery.body, time.monotonic())
        self.connection.ack(delivery.headers["ack"])

    def nack(self, delivery: StompDelivery) -> None:
        self.connection.nack(delivery.headers["ack"])

    def wait_deliveries(self, number: int, timeout: float = 30.0) -> list[StompDelivery]:
        """Wait until so many MESSAGE frames have come in all; the deliveries."""
        wait_for(lambda: len(self.deliveries) >= number, f"{number} deliveries have come", timeout)
        return self.deliveries

    def wait_error(self, timeout: float = 30.0) -> tuple[dict[str, str], str]:
        """Wait for an ERROR frame; its headers and body."""
        return wait_for(lambda: self.errors, "an ERROR frame has come", timeout)[0]

    def close(self) -> None:
        """DISCONNECT, wait for its RECEIPT, and end the thread. Does nothing when the connection is gone."""
        with contextlib.suppress(stomp.exception.NotConnectedException):  # it may be lost at this very moment
            if self.connected:
                self.connection.disconnect(self._next_receipt())

    def drop(self) -> None:
        """Lose the connection without a DISCONNECT."""
        self.connection.transport.disconnect_socket()

    def on_message(self, frame: Any) -> None:
        delivery = StompDelivery(frame.body, dict(frame.headers), time.monotonic())
        self.deliveries.append(delivery)
        if "ack" not in delivery.headers:  # [STOMP 1.2, MESSAGE] only what has to be acknowledged has one
            return
        decision = self._decide(delivery)
        if decision == "ack":
            self.ack(delivery)
        elif decision == "nack":
            self.nack(delivery)

    def on_receipt(self, frame: Any) -> None:
        self._receipts.add(frame.headers["receipt-id"])

    def on_error(self, frame: Any) -> None:
        self.errors.append((dict(frame.headers), frame.body))

    def _next_receipt(self) -> str:
        self._receipt += 1
        return f"test-{self._receipt}"

    def _wait_receipt(self, receipt: str) -> None:
        wait_for(lambda: receipt in self._receipts or self.errors, f"RECEIPT {receipt}")
        if receipt not in self._receipts:
            raise AssertionError(f"refused: {self.errors[0]}")
