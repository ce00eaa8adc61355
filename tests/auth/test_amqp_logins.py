"""Logins over AMQP and STOMP with what is no password: certificates, and tokens that are renewed."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pika
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from pika.credentials import ExternalCredentials
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionClosed

from tests.conftest import GatewayFactory
from tests.rig.amqp import AmqpClient
from tests.rig.certificates import Authority
from tests.rig.processes import HOST, Gateway, free_port

KEY = ec.generate_private_key(ec.SECP256R1())
EVERYTHING = "mqlift.configure:*/* mqlift.write:*/* mqlift.read:*/*"
PATIENCE = 15.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, tmp_path: Path, authority: Authority) -> Gateway:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(KEY.public_key()))]}))
    certificate, key = authority.issue("localhost")
    tls = {
        "certificate": str(certificate),
        "key": str(key),
        "client_ca": str(authority.path),
        "client_certificates": "optional",
    }
    return gateway_factory(
        listeners=[
            {"protocol": "amqp091", "host": HOST, "port": free_port(), "tls": tls, "mechanisms": ["PLAIN", "EXTERNAL"]},
            {"protocol": "stomp", "host": HOST, "port": free_port(), "tls": tls},
        ],
        auth={
            "certificates": "common_name",
            "tokens": {
                "issuer": "i",
                "audience": "mqlift",
                "jwks_file": str(keys),
                "scopes_claim": "scope",
                "leeway": 0,
                "algorithms": ["ES256"],
            },
            "permissions": [{"user": "press-7", "configure": "^own", "write": "^(own|amq.default)", "read": "^own"}],
        },
        receiver={"wait": 1},
    )


def token(seconds: float, subject: str = "cat") -> str:
    claims = {"iss": "i", "aud": "mqlift", "sub": subject, "exp": int(time.time() + seconds), "scope": EVERYTHING}
    return jwt.encode(claims, KEY, "ES256")


def showing(authority: Authority, name: str = "") -> ssl.SSLContext:
    """A client with the certificate of that name; without one for none."""
    context = authority.client_context()
    if name:
        context.load_cert_chain(*authority.issue(name))
    return context


def amqp(gateway: Gateway, context: ssl.SSLContext, secret: str = "") -> AmqpClient:
    return AmqpClient(
        gateway.port("amqp091"),
        ssl_options=pika.SSLOptions(context, "localhost"),
        credentials=pika.PlainCredentials("", secret) if secret else ExternalCredentials(),
    )


# Certificates


def test_external_is_who_the_certificate_says(gateway: Gateway, authority: Authority, queue_name: str) -> None:
    own = f"own-{queue_name}"
    with amqp(gateway, showing(authority, "press-7")) as press:
        press.channel.queue_declare(own, durable=True)
        press.channel.basic_publish("", own, b"pressed", mandatory=True)
        with pytest.raises(ChannelClosedByBroker) as refusal:
            press.channel.queue_declare(queue_name, durable=True)
        assert refusal.value.reply_code == 403
    assert "user=press-7 protocol=amqp091" in gateway.log


def test_external_without_a_certificate_lets_nobody_in(gateway: Gateway, authority: Authority) -> None:
    with pytest.raises(AMQPConnectionError), amqp(gateway, showing(authority)):
        pass


@contextmanager
def stomp(gateway: Gateway, context: ssl.SSLContext, **headers: str) -> Iterator[ssl.SSLSocket]:
    """A connection that has said CONNECT."""
    plain = socket.create_connection((HOST, gateway.port("stomp")), PATIENCE)
    with context.wrap_socket(plain, server_hostname="localhost") as connected:
        given = "".join(f"{name}:{value}\n" for name, value in headers.items())
        connected.sendall(f"CONNECT\naccept-version:1.2\nhost:/\n{given}\n\0".encode())
        yield connected


def answer(connected: ssl.SSLSocket) -> bytes:
    """One frame."""
    data = b""
    while b"\0" not in data and (more := connected.recv(4096)):
        data += more
    return data.strip()


def test_stomp_without_a_login_is_who_the_certificate_says(
    gateway: Gateway, authority: Authority, queue_name: str
) -> None:
    with stomp(gateway, showing(authority, "press-7")) as press:
        assert answer(press).startswith(b"CONNECTED\n")
        press.sendall(f"SEND\ndestination:/queue/own-{queue_name}\nreceipt:1\n\npressed\0".encode())
        assert answer(press).startswith(b"RECEIPT\n")
        press.sendall(f"SUBSCRIBE\ndestination:/queue/{queue_name}\nid:1\nreceipt:2\n\n\0".encode())
        assert b"not allowed" in answer(press)


@pytest.mark.parametrize("headers", [{}, {"login": "press-7", "passcode": "x"}])
def test_stomp_without_a_certificate_lets_nobody_in(
    gateway: Gateway, authority: Authority, headers: dict[str, str]
) -> None:
    with stomp(gateway, showing(authority), **headers) as nobody:
        assert answer(nobody).startswith(b"ERROR\n")


def test_stomp_with_the_name_of_somebody_else_lets_nobody_in(gateway: Gateway, authority: Authority) -> None:
    with stomp(gateway, showing(authority, "press-7"), login="press-8") as press:
        assert answer(press).startswith(b"ERROR\n")


# Tokens that are renewed


def test_a_token_that_is_renewed_keeps_the_connection(gateway: Gateway, authority: Authority, queue_name: str) -> None:
    with amqp(gateway, showing(authority), token(4)) as cat:
        expiry = time.time() + 5
        cat.channel.queue_declare(queue_name, durable=True)
        cat.connection.update_secret(token(600), "it expires")
        while time.time() < expiry:  # it goes on working all the time, and behind the first token's end
            cat.channel.basic_publish("", queue_name, b"x", mandatory=True)
            cat.connection.process_data_events(0.5)
        assert cat.connection.is_open


def test_a_token_that_is_not_renewed_ends_the_connection(gateway: Gateway, authority: Authority) -> None:
    with pytest.raises((ConnectionClosed, AMQPConnectionError)), amqp(gateway, showing(authority), token(3)) as cat:
        cat.connection.process_data_events(PATIENCE)


def test_a_token_of_somebody_else_does_not_renew(gateway: Gateway, authority: Authority) -> None:
    with amqp(gateway, showing(authority), token(600)) as cat:
        with pytest.raises(ConnectionClosed):
            cat.connection.update_secret(token(600, "dog"), "another user")
        assert cat.connection.is_closed
