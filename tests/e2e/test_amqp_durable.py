"""Durable topology outlives the gateway; who may log in with a certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
from pika.credentials import ExternalCredentials
from pika.exceptions import AMQPError, ChannelClosedByBroker

from tests.auth.hashes import quick_hash
from tests.conftest import GatewayFactory
from tests.rig.amqp import AmqpClient
from tests.rig.certificates import Authority
from tests.rig.processes import HOST, Gateway, free_port


def listener(port: int, **more: object) -> list[dict[str, object]]:
    return [{"protocol": "amqp091", "host": HOST, "port": port, **more}]


def test_durable_topology_survives_a_restart(
    keeping_gateway: Callable[..., Gateway], restart: Callable[[Gateway], None], queue_name: str
) -> None:
    gateway = keeping_gateway(listeners=listener(free_port()))
    port = gateway.port("amqp091")
    inner, outer, dead = f"{queue_name}-inner", f"{queue_name}-outer", f"{queue_name}-dead"
    with AmqpClient(port) as client:
        client.channel.exchange_declare(f"{queue_name}-rest", "fanout", durable=True)
        client.channel.exchange_declare(inner, "headers", durable=True)
        client.channel.exchange_declare(
            outer, "topic", durable=True, arguments={"alternate-exchange": f"{queue_name}-rest"}
        )
        client.channel.exchange_declare(f"{queue_name}-gone", "direct")
        client.channel.exchange_bind(inner, outer, "a.#")
        client.declare(dead)
        client.declare(queue_name, x_dead_letter_exchange="", x_dead_letter_routing_key=dead, x_max_length=100)
        client.channel.queue_bind(queue_name, inner, "", {"x-match": "all", "tenant": 7})
        client.channel.queue_bind(dead, f"{queue_name}-rest", "")
        client.publish("a.b", "before", outer, headers={"tenant": 7})
    restart(gateway)
    with AmqpClient(port) as client:
        client.publish("a.c", "after", outer, headers={"tenant": 7})
        client.publish("unbound", "to the alternate", outer)
        client.consume(queue_name)
        received = client.wait_received(2)
        assert {each.body for each in received} == {"before", "after"}
        for delivery in received:
            delivery.nack(requeue=False)
        bodies = {client.take(dead).body for _ in range(3)}
        assert bodies == {"before", "after", "to the alternate"}
    with AmqpClient(port) as client, pytest.raises(ChannelClosedByBroker, match="inequivalent arg 'x-max-length'"):
        client.declare(queue_name, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    with AmqpClient(port) as client, pytest.raises(ChannelClosedByBroker, match="no exchange"):
        client.channel.exchange_declare(f"{queue_name}-gone", passive=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_certificate_is_a_login(gateway_factory: GatewayFactory, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("localhost")
    users = tmp_path / "users"
    users.write_text(f"shop:{quick_hash('secret')}\n")
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(authority.path)}
    gateway = gateway_factory(
        listeners=listener(
            free_port(), mechanisms=["EXTERNAL", "PLAIN"], tls={**tls, "client_certificates": "optional"}
        ),
        auth={
            "certificates": "common_name",
            "users": [str(users)],
            "permissions": [{"user": "shop", "configure": "^shop", "write": ".*", "read": ".*"}],
        },
    )
    own = authority.client_context()
    own.load_cert_chain(*authority.issue("shop"))
    with connected(gateway, own, ExternalCredentials()) as client:
        assert client.declare("shop-own") == "shop-own"
        with pytest.raises(ChannelClosedByBroker, match="refused for user 'shop'"):
            client.declare("others")
    with connected(gateway, authority.client_context(), pika.PlainCredentials("shop", "secret")) as client:
        client.declare("shop-own")
    for credentials in (ExternalCredentials(), pika.PlainCredentials("shop", "wrong")):
        with pytest.raises(AMQPError), connected(gateway, authority.client_context(), credentials):
            pass


def connected(gateway: Gateway, context: ssl.SSLContext, credentials: object) -> AmqpClient:
    options = pika.SSLOptions(context, "localhost")
    return AmqpClient(gateway.port("amqp091"), ssl_options=options, credentials=credentials)
