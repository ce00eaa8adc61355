"""A gateway with access control, and clients of every way to log in: what they may do, and what its log says."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from paho.mqtt.enums import CallbackAPIVersion

from gateway.auth.passwords import hash_password
from tests.auth.hashes import quick_hash
from tests.conftest import GatewayFactory
from tests.rig.certificates import Authority
from tests.rig.clients import StompClient
from tests.rig.processes import HOST, Gateway, free_port
from tests.rig.waiting import wait_for

KEY = ec.generate_private_key(ec.SECP256R1())
SECRETS = ("correct horse", "battery staple", "w0rst guess")

NOT_AUTHORIZED = 0x87


class Client:
    """paho over MQTT 5, connected or refused when it is there."""

    def __init__(
        self, port: int, user: str = "", password: str = "", *, name: str = "c", tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer: int | None = None
        self.gone = False
        self.received: list[str] = []
        self.results: dict[int, int] = {}
        self.client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        self.client.on_connect = lambda _c, _u, _f, code, _p: setattr(self, "answer", code.value)
        self.client.on_disconnect = lambda *_: setattr(self, "gone", True)
        self.client.on_message = lambda _c, _u, message: self.received.append(message.topic)
        self.client.on_publish = lambda _c, _u, mid, code, _p: self.results.__setitem__(mid, code.value)
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self.results.__setitem__(mid, codes[0].value)
        if tls is not None:
            self.client.tls_set_context(tls)
        if user or password:
            self.client.username_pw_set(user, password or None)
        self.client.connect("localhost" if tls is not None else HOST, port)
        self.client.loop_start()
        wait_for(lambda: self.answer is not None, "CONNACK")

    def publish(self, topic: str) -> int:
        sent = self.client.publish(topic, b"x", qos=1)
        return wait_for(lambda: [self.results[sent.mid]] if sent.mid in self.results else None, "PUBACK")[0]

    def subscribe(self, topic: str) -> int:
        _, mid = self.client.subscribe(topic, 1)
        return wait_for(lambda: [self.results[mid]] if mid in self.results else None, "SUBACK")[0]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def open_one(*arguments: object, **more: object) -> Client:
        clients.append(Client(*arguments, **more))  # type: ignore[arg-type]
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, tmp_path: Path, authority: Authority) -> Gateway:
    users = tmp_path / "users"
    users.write_text(f"ann:{hash_password(SECRETS[0].encode())}:ops\nbob:{quick_hash(SECRETS[1])}\n")
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(KEY.public_key()))]}))
    certificate, key = authority.issue("localhost")
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(authority.path)}
    return gateway_factory(
        listeners=[
            {"protocol": "mqtt", "host": HOST, "port": free_port()},
            {"protocol": "stomp", "host": HOST, "port": free_port()},
            {"protocol": "mqtt", "host": HOST, "port": free_port(), "tls": {**tls, "client_certificates": "optional"}},
        ],
        auth={
            "users": [str(users)],
            "certificates": "common_name",
            "tokens": {
                "issuer": "i",
                "audience": "mqlift",
                "jwks_file": str(keys),
                "scopes_claim": "scope",
                "leeway": 0,
                "algorithms": ["ES256"],
            },
            "rules": [
                {"deny": ["publish", "subscribe"], "topic": "plant/secret"},
                {"allow": ["publish", "subscribe", "declare"], "groups": ["ops"]},
                {"allow": ["publish", "subscribe"], "topic": "own/%u/#"},
            ],
            "failures": {"per_user": 5},
        },
        log={"level": "debug", "format": "json"},
    )


def tls_port(gateway: Gateway) -> int:
    return int(json.loads(next(gateway.log_path.parent.glob("mqlift-*.yaml")).read_text())["listeners"][2]["port"])


def token(seconds: float = 600, **said: object) -> str:
    claims = {"iss": "i", "aud": "mqlift", "sub": "cat", "exp": int(time.time() + seconds)} | said
    return jwt.encode(claims, KEY, "ES256")


def test_passwords_and_rules(gateway: Gateway, connect: Callable[..., Client]) -> None:
    port = gateway.port("mqtt")
    ann = connect(port, "ann", SECRETS[0], name="a")
    bob = connect(port, "bob", SECRETS[1], name="b")
    assert (ann.answer, bob.answer) == (0, 0)
    assert ann.subscribe("plant/#") < 0x80
    assert bob.publish("plant/open") == bob.subscribe("own/ann/#") == bob.subscribe("#") == NOT_AUTHORIZED
    assert bob.publish("own/bob/x") < 0x80
    assert ann.publish("plant/secret") == NOT_AUTHORIZED
    assert ann.publish("plant/open") < 0x80
    wait_for(lambda: ann.received == ["plant/open"], "what may be received")


def test_another_users_client_id_is_not_taken_over(gateway: Gateway, connect: Callable[..., Client]) -> None:
    port = gateway.port("mqtt")
    ann = connect(port, "ann", SECRETS[0], name="device")
    assert connect(port, "bob", SECRETS[1], name="device").answer == NOT_AUTHORIZED
    assert ann.publish("own/ann/state") < 0x80
    assert not ann.gone
    assert connect(port, "ann", SECRETS[0], name="device").answer == 0
    wait_for(lambda: ann.gone, "one of the same user takes it over")


def test_stomp_queues(gateway: Gateway) -> None:
    with StompClient(gateway.port("stomp"), username="bob", password=SECRETS[1]) as bob:
        with pytest.raises(AssertionError):
            bob.send("/queue/orders", "no")
        assert "not allowed" in str(bob.errors)


def test_nobody_else_is_let_in_and_nothing_is_told(gateway: Gateway, connect: Callable[..., Client]) -> None:
    port = gateway.port("mqtt")
    wrong = [("ann", SECRETS[2]), ("zoe", SECRETS[0]), ("", ""), ("ann", ""), ("cat", token(aud="other"))]
    assert {connect(port, *each).answer for each in wrong} == {NOT_AUTHORIZED}
    for _ in range(6):
        connect(port, "bob", SECRETS[2])
    assert connect(port, "bob", SECRETS[1]).answer == NOT_AUTHORIZED  # too many failures
    assert connect(port, "ann", SECRETS[0]).answer == 0
    assert '"too_many_failures"' in gateway.log
    refused = [line for line in gateway.log.splitlines() if '"login_refused"' in line]
    # One line says why, for whoever runs it; the other one is the audit log's.
    assert sum('"mqlift.auth"' in line for line in refused) == 12
    assert sum('"mqlift.audit"' in line for line in refused) == 12
    for secret in (*SECRETS, "argon2id", token().split(".")[0]):
        assert secret not in gateway.log


def test_certificates(gateway: Gateway, connect: Callable[..., Client], authority: Authority) -> None:
    port = tls_port(gateway)
    context = authority.client_context()
    assert connect(port, name="n", tls=context).answer == NOT_AUTHORIZED
    context = authority.client_context()
    context.load_cert_chain(*authority.issue("press-7"))
    press = connect(port, name="p", tls=context)
    assert press.answer == 0
    assert press.publish("own/press-7/state") < 0x80
    assert press.publish("own/ann/state") == NOT_AUTHORIZED
    assert connect(port, "ann", name="q", tls=context).answer == NOT_AUTHORIZED


def test_tokens(gateway: Gateway, connect: Callable[..., Client]) -> None:
    port = gateway.port("mqtt")
    scopes = "mqlift.write:*/amq.topic/plant.* mqlift.read:*/amq.topic/news.*"
    cat = connect(port, "whatever", token(scope=scopes))
    assert cat.answer == 0
    assert cat.publish("plant/open") < 0x80
    assert cat.publish("office/open") == cat.subscribe("plant/#") == NOT_AUTHORIZED
    assert cat.subscribe("news/#") < 0x80


def test_a_token_that_expires_ends_the_connection(gateway: Gateway, connect: Callable[..., Client]) -> None:
    cat = connect(gateway.port("mqtt"), "", token(3, scope="mqlift.write:*/*"))
    assert cat.answer == 0
    wait_for(lambda: cat.gone, "the end of the connection", 10)
