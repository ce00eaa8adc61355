"""Whatever a peer sends, at whatever level is logged: what it keeps secret is in no line."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pamqp import commands as amqp
from pamqp import frame as amqp_frame

from tests.auth.hashes import quick_hash
from tests.faults.wire import Wire, mqtt_packet, mqtt_publish, stomp_frame
from tests.rig.certificates import Authority
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for
from tests.security.probes import AMQP_HEADER, amqp_method, amqp_start_ok, listener

RIGHT, WRONG = "right-s3cret-Qy7", "wrong-s3cret-Zk4"
TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.c2VjcmV0LXNpZ25hdHVyZQ"
PAYLOAD = "payl0ad-of-a-patient"
SECRETS = (RIGHT, WRONG, TOKEN, PAYLOAD)


def text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def mqtt_login(password: str, *, level: int = 4, flags: int = 0xC2) -> bytes:
    properties = b"\0" if level == 5 else b""
    body = text("MQTT") + bytes([level, flags]) + b"\0\x3c" + properties + text("device") + text("ann") + text(password)
    return mqtt_packet(0x10, body)


def stomp_login(password: str, *lines: str) -> bytes:
    return "\n".join(
        ["CONNECT", "accept-version:1.2", "host:/", "login:ann", f"passcode:{password}", *lines, "", "\0"]
    ).encode()


def with_will(password: str) -> bytes:
    body = text("MQTT") + b"\x04\xc6\0\x3c" + text("device") + text("will/x") + text(PAYLOAD) + text("ann")
    return mqtt_packet(0x10, body + text(password))


MQTT = {
    "right": mqtt_login(RIGHT) + mqtt_publish("t/x", PAYLOAD.encode(), 1),
    "wrong": mqtt_login(WRONG),
    "wrong in version 5": mqtt_login(WRONG, level=5),
    "a token": mqtt_login(TOKEN),
    "another level": mqtt_login(RIGHT, level=9),
    "a reserved flag": mqtt_login(RIGHT, flags=0xC3),
    "a flag for the name only": mqtt_login(RIGHT, flags=0x82),
    "the password's flag only": mqtt_login(RIGHT, flags=0x42),
    "a will": with_will(RIGHT),
    "cut off": mqtt_login(RIGHT)[:-3],
    "the password as the client id": mqtt_packet(0x10, text("MQTT") + b"\x04\x02\0\x3c" + text(RIGHT) + b"\0"),
    "twice": 2 * mqtt_login(RIGHT),
}
STOMP = {
    "right": stomp_login(RIGHT) + stomp_frame("SEND", PAYLOAD.encode(), destination="/topic/x"),
    "wrong": stomp_login(WRONG),
    "a token": stomp_login(TOKEN),
    "a bad line": stomp_login(RIGHT, f"no colon {WRONG}"),
    "a bad escape": stomp_login(RIGHT, "h:\\t" + WRONG),
    "no version": stomp_login(RIGHT, "accept-version:7").replace(b"accept-version:1.2\n", b""),
    "an unknown command": stomp_login(RIGHT).replace(b"CONNECT", b"LOGIN"),
    "cut off": stomp_login(RIGHT)[:-3],
    "twice": 2 * stomp_login(RIGHT),
    "a header too long": stomp_login(RIGHT * 2_000),
}
AMQP = {
    "right": amqp_start_ok(response=f"\0ann\0{RIGHT}"),
    "wrong": amqp_start_ok(response=f"\0ann\0{WRONG}"),
    "a token": amqp_start_ok(response=f"\0\0{TOKEN}"),
    "garbled": amqp_start_ok(response=f"ann{RIGHT}"),
    "more parts": amqp_start_ok(response=f"\0ann\0{RIGHT}\0{WRONG}"),
    "AMQPLAIN": amqp_start_ok("AMQPLAIN", f"\5LOGINS\0\0\0\3ann\x08PASSWORDS\0\0\0\x10{RIGHT}"),
    "AMQPLAIN, garbled": amqp_start_ok("AMQPLAIN", f"\5LOGINS\0\0\0\3ann\x08PASSWORDS\0\0\xff\x10{RIGHT}"),
    "an unknown mechanism": amqp_start_ok("CRAM", f"\0ann\0{RIGHT}"),
    "without its end": amqp_start_ok(response=f"\0ann\0{RIGHT}")[:-1] + b"\0",
    "another method": amqp_frame.marshal(amqp.Connection.UpdateSecret(RIGHT, "because"), 0),
}
HTTP = {
    "in the address": f"GET /mqtt?password={RIGHT} HTTP/1.1\r\nHost: x\r\n\r\n",
    "in the path": f"GET /{RIGHT} HTTP/1.1\r\nHost: x\r\n\r\n",
    "as authorization": (
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 7\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {TOKEN}\r\nCookie: s={RIGHT}\r\n\r\n"
    ),
    "in a bad header": f"GET /mqtt HTTP/1.1\r\nHost: x\r\nCookie {RIGHT}\r\n\r\n",
}


@pytest.fixture(scope="module", params=["console", "json"])
def gateway(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    users: Path = tmp_path_factory.mktemp("users") / "users"
    users.write_text(f"ann:{quick_hash(RIGHT)}\n")
    running = start_gateway(
        listeners=[*(listener(protocol) for protocol in ("mqtt", "stomp", "amqp091"))],
        auth={"users": [str(users)], "failures": {"per_address": 0, "per_user": 0}},
        log={"level": "debug", "format": request.param},
    )
    yield running
    assert_no_secret(running)


def assert_no_secret(gateway: Gateway) -> None:
    log = gateway.log
    for secret in SECRETS:
        encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
        for form in (secret, encoded, secret.encode().hex()):
            assert form not in log, f"{secret} as {form}"


def says(gateway: Gateway, protocol: str, data: bytes, *, greeting: bytes = b"") -> None:
    """Say it, and wait until the gateway has written what it writes about that connection."""
    lost = gateway.log.count("connection_lost")
    with Wire(gateway.port(protocol)) as wire:
        if greeting:
            wire.send(greeting)
            assert amqp_method(wire) == "Connection.Start"
        with contextlib.suppress(ConnectionError):
            wire.send(data)
        wire.end_sending()
        wire.receive_all()
    wait_for(lambda: gateway.log.count("connection_lost") > lost, "the connection is gone")
    assert_no_secret(gateway)


@pytest.mark.parametrize("what", MQTT)
def test_mqtt(what: str, gateway: Gateway) -> None:
    says(gateway, "mqtt", MQTT[what])


@pytest.mark.parametrize("what", STOMP)
def test_stomp(what: str, gateway: Gateway) -> None:
    says(gateway, "stomp", STOMP[what])


@pytest.mark.parametrize("what", AMQP)
def test_amqp(what: str, gateway: Gateway) -> None:
    says(gateway, "amqp091", AMQP[what], greeting=AMQP_HEADER)


def test_the_right_password_was_right(gateway: Gateway) -> None:
    """Or the tests above have only seen refusals."""
    with Wire(gateway.port("mqtt")) as wire:
        wire.send(mqtt_login(RIGHT))
        assert wire.receive(4) == b"\x20\x02\0\0"
    with Wire(gateway.port("stomp")) as wire:
        wire.send(stomp_login(RIGHT))
        assert wire.receive_until(b"\0").startswith(b"CONNECTED")
    for response in (AMQP["right"], AMQP["AMQPLAIN"]):
        with Wire(gateway.port("amqp091")) as wire:
            wire.send(AMQP_HEADER)
            assert amqp_method(wire) == "Connection.Start"
            wire.send(response)
            assert amqp_method(wire) == "Connection.Tune"


def test_websockets(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(listeners=[listener("mqtt", transport="websocket")], log={"level": "debug"})
    for request in HTTP.values():
        says(gateway, "mqtt", request.encode())


def test_behind_tls(start_gateway: Callable[..., Gateway], authority: Authority) -> None:
    certificate, key = authority.issue("localhost")
    tls = {"certificate": str(certificate), "key": str(key)}
    gateway = start_gateway(listeners=[listener("mqtt", tls=tls)], log={"level": "debug"})
    with Wire(gateway.port("mqtt")) as wire:  # a client that forgot TLS
        wire.send(mqtt_login(RIGHT))
        wire.receive_all()
    wait_for(lambda: "tls_handshake" in gateway.log, "it is told of")
    assert_no_secret(gateway)
    assert not any(line in gateway.log for line in key.read_text().splitlines()[1:-1])
