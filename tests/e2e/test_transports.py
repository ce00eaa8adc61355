"""The gateway behind WebSockets, TLS and load balancers, with clients of other people."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import websockets
import websockets.sync.client
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import GatewayFactory
from tests.rig.certificates import Authority
from tests.rig.processes import HOST, Gateway, free_port
from tests.rig.waiting import wait_for

CONNECT = b"\x10\x0d\0\4MQTT\4\2\0\x1e\0\1p"
CONNACK = b"\x20\x02\0\0"


def listener(protocol: str, **options: object) -> dict[str, object]:
    return {"protocol": protocol, "host": HOST, "port": free_port(), **options}


class WebSocketMqtt:
    """paho over a WebSocket; keeps what it receives."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.received: dict[str, bytes] = {}
        self.subscribed = False
        self.acknowledged = 0
        self.client = paho.Client(CallbackAPIVersion.VERSION2, "", transport="websockets")
        self.client.ws_set_options(path="/mqtt")
        if context is not None:
            self.client.tls_set_context(context)
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.client.on_publish = self._on_publish
        self.client.connect("localhost" if context else HOST, port)
        self.client.loop_start()

    def _on_message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        self.received[message.topic] = message.payload

    def _on_publish(self, *_: object) -> None:
        self.acknowledged += 1

    def subscribe(self, topic: str) -> None:
        wait_for(self.client.is_connected, "paho is connected")
        self.client.subscribe(topic, qos=1)
        wait_for(lambda: self.subscribed, "paho is subscribed")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def stomp_frame(text: str) -> str:
    return f"{text}\0"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_mqtt_and_stomp_over_websockets_reach_each_other(gateway_factory: GatewayFactory) -> None:
    mqtt, stomp = (listener(protocol, transport="websocket") for protocol in ("mqtt", "stomp"))
    gateway_factory(listeners=[mqtt, stomp])
    client = WebSocketMqtt(mqtt["port"])  # type: ignore[arg-type]
    address = f"ws://{HOST}:{stomp['port']}/ws"
    with websockets.sync.client.connect(address, subprotocols=[websockets.Subprotocol("v12.stomp")]) as browser:
        client.subscribe("news/#")
        browser.send(stomp_frame("CONNECT\naccept-version:1.2\nhost:/\n\n"))
        assert str(browser.recv(timeout=10)).startswith("CONNECTED\n")
        browser.send(stomp_frame("SUBSCRIBE\nid:0\ndestination:/topic/weather.*\nreceipt:1\n\n"))
        assert str(browser.recv(timeout=10)).startswith("RECEIPT\n")
        browser.send(stomp_frame("SEND\ndestination:/topic/news.today\n\ngrößer"))
        wait_for(lambda: client.received.get("news/today") == "größer".encode(), "paho has it")
        payload = b"x" * 300_000
        client.client.publish("weather/hall", payload, qos=1)
        frame = browser.recv(timeout=10)
        assert isinstance(frame, str)
        assert payload.decode() in frame
        wait_for(lambda: client.acknowledged, "paho has its PUBACK")
    client.close()


def test_mqtt_over_wss_with_a_client_certificate(gateway_factory: GatewayFactory, authority: Authority) -> None:
    certificate, key = authority.issue("localhost")
    tls = {
        "certificate": str(certificate),
        "key": str(key),
        "client_ca": str(authority.path),
        "client_certificates": "required",
    }
    mqtt = listener("mqtt", transport="websocket", tls=tls)
    gateway_factory(listeners=[mqtt])
    context = authority.client_context()
    context.load_cert_chain(*authority.issue("device"))
    client = WebSocketMqtt(mqtt["port"], context)  # type: ignore[arg-type]
    client.subscribe("a/#")
    client.client.publish("a/b", b"x" * 900_000, qos=1)
    wait_for(lambda: "a/b" in client.received and client.acknowledged, "paho has it")
    client.close()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return data


def proxied(gateway: Gateway, header: bytes) -> socket.socket:
    sock = socket.create_connection((HOST, gateway.port("mqtt")), timeout=10)
    sock.sendall(header + CONNECT)
    return sock


def test_clients_behind_a_load_balancer(gateway_factory: GatewayFactory) -> None:
    gateway = gateway_factory(listeners=[listener("mqtt", proxy_protocol=True)], log={"level": "info"})
    with proxied(gateway, b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 1883\r\n") as sock:
        assert read_exactly(sock, 4) == CONNACK
    with proxied(gateway, b"") as sock:
        assert sock.recv(1) == b""
    refused = 'mqlift_connections_refused_total{protocol="mqtt",reason="proxy_header"}'
    assert gateway.metrics()[refused] == 1
    assert "does not begin with a PROXY header" in gateway.log


def test_a_connection_that_never_opens_its_websocket_is_cut(gateway_factory: GatewayFactory) -> None:
    mqtt = listener("mqtt", transport="websocket", connect_timeout=0.2)
    gateway_factory(listeners=[mqtt])
    for beginning in (b"", b"GET /mqtt HTTP/1.1\r\n"):
        with socket.create_connection((HOST, mqtt["port"]), timeout=10) as sock:  # type: ignore[arg-type]
            sock.sendall(beginning)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""


def test_websockets_are_closed_when_the_gateway_stops(gateway_factory: GatewayFactory) -> None:
    mqtt = listener("mqtt", transport="websocket")
    gateway = gateway_factory(listeners=[mqtt])
    address = f"ws://{HOST}:{mqtt['port']}/mqtt"
    with websockets.sync.client.connect(address, subprotocols=[websockets.Subprotocol("mqtt")]) as client:
        client.send(CONNECT)
        assert client.recv(timeout=10) == CONNACK
        gateway.close()
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            client.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000
