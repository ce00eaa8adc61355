"""Limits and TLS as an operator writes them, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from config.mistakes import ConfigErrors
from config.settings import ConnectionLimitSettings, Settings
from gateway.app import _connection_limits, _quota_limits
from gateway.assembly import assemble
from gateway.net.limits import ConnectionLimits
from gateway.net.pace import PublishRate
from gateway.net.quotas import QuotaLimits
from tests.rig.certificates import Authority

Read = Callable[[str], Settings]
Mistakes = Callable[[str], list[str]]
LISTENER = "listeners: [{protocol: mqtt, port: 1}]\n"


def test_the_defaults_are_those_of_the_gateway(read: Read) -> None:
    settings = read(LISTENER)
    assert _connection_limits(settings.listeners[0], settings) == ConnectionLimits()
    assert _quota_limits(settings) == QuotaLimits()


def test_what_is_given_reaches_the_gateway(read: Read) -> None:
    settings = read(
        LISTENER
        + "limits:\n"
        + "  connection: {publish_rate: 5, publish_bytes_rate: 6, consumers: 7, unacknowledged: 8, write_timeout: 9}\n"
        + "  user: {connections: 1, publish_rate: 2, publish_bytes_rate: 3}\n"
        + "  address: {connections: 4, attempts: 5}\n"
        + "  gateway: {connections: 6}\n"
    )
    assert _connection_limits(settings.listeners[0], settings) == ConnectionLimits(
        publish_rate=PublishRate(messages=5, bytes=6), consumers=7, unacknowledged=8, write_timeout=9.0
    )
    assert _quota_limits(settings) == QuotaLimits(
        connections=6,
        address_connections=4,
        address_attempts=5,
        user_connections=1,
        user_rate=PublishRate(messages=2, bytes=3),
    )


@pytest.mark.parametrize(
    ("protocol", "option"), [("mqtt", "max_packet_size"), ("stomp", "max_body"), ("amqp091", "max_message_size")]
)
def test_every_message_that_a_listener_takes_has_room(read: Read, protocol: str, option: str) -> None:
    largest = 10_000_000
    room = f"limits: {{gateway: {{large_body_bytes: {largest}}}}}\n"
    assemble(read(f"listeners: [{{protocol: {protocol}, port: 1, {option}: {largest}}}]\n{room}"))
    with pytest.raises(ConfigErrors, match=f"or a smaller {option} of that listener"):
        assemble(read(f"listeners: [{{protocol: {protocol}, port: 1, {option}: {largest + 1}}}]\n{room}"))


def test_a_listener_may_have_limits_of_its_own_and_keeps_the_others(read: Read) -> None:
    settings = read(
        "listeners:\n"
        "  - {protocol: mqtt, port: 1}\n"
        "  - {protocol: mqtt, port: 2, limits: {publish_rate: 0, inflight_messages: 3}}\n"
        "limits: {connection: {publish_rate: 5, consumers: 7}}\n"
    )
    general = settings.limits.connection
    first, second = (each.connection_limits(general) for each in settings.listeners)
    assert first == general
    assert second == ConnectionLimitSettings(publish_rate=0, inflight_messages=3, consumers=7)


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ("{connection: {publish_rate: -1}}", "limits.connection.publish_rate: -1 is too small; 0 or more"),
        ("{connection: {consumers: 0}}", "limits.connection.consumers: 0 is too small; 1 or more"),
        ("{user: {conections: 1}}", "limits.user.conections: there is no such key; did you mean connections?"),
        ("{address: {attempts: many}}", "limits.address.attempts: 'many' is not a whole number; a number such as 10"),
    ],
)
def test_mistakes_in_limits(limits: str, line: str, mistakes: Mistakes) -> None:
    assert mistakes(f"{LISTENER}limits: {limits}") == [line]


def test_a_mistake_in_a_listeners_limits(mistakes: Mistakes) -> None:
    (line,) = mistakes("listeners: [{protocol: mqtt, port: 1, limits: {publish_rates: 1}}]")
    assert line.startswith("listeners.0.limits.publish_rates: there is no such key; did you mean publish_rate?")


@pytest.mark.parametrize(
    ("tls", "line"),
    [
        ("client_crl: c", "client_crl: nobody is asked for a certificate; set client_ca too, or no client_crl"),
        ("min_version: '1.1'", "min_version: '1.1' is not one of the choices; '1.2' or '1.3'"),
        ("alpn: ['']", "alpn.0: '' is too short; 1 characters at least"),
        ("server_names: [{certificate: a, key: b}]", "server_names.0.names: is missing; set it"),
        (
            "server_names: [{names: [a, A], certificate: a, key: b}]",
            "server_names.0.names: 'A' has a certificate already; one for each name",
        ),
    ],
)
def test_mistakes_in_tls(tls: str, line: str, mistakes: Mistakes) -> None:
    found = mistakes(f"listeners: [{{protocol: mqtt, port: 1, tls: {{certificate: a, key: b, {tls}}}}}]")
    assert found == [f"listeners.0.tls.{line}"]


def listening(authority: Authority, more: str, *, host: str = "localhost", other: str = "") -> str:
    certificate, key = authority.issue(host)
    return f"listeners: [{{protocol: mqtt, port: 1{other}, tls: {{certificate: {certificate}, key: {key}{more}}}}}]"


def test_a_version_may_be_written_as_a_number(read: Read, tmp_path: Path) -> None:
    (part,) = assemble(read(listening(Authority(tmp_path), ", min_version: 1.3"))).listeners
    assert part.tls is not None
    assert part.tls._options.oldest == "1.3"


@pytest.mark.parametrize(
    ("more", "other", "alpn"),
    [
        ("", "", ("mqtt",)),
        ("", ", transport: websocket", ("http/1.1",)),
        (", alpn: [x-amzn-mqtt-ca, mqtt]", "", ("x-amzn-mqtt-ca", "mqtt")),
    ],
)
def test_the_protocol_says_what_it_is_called(
    more: str, other: str, alpn: tuple[str, ...], read: Read, tmp_path: Path
) -> None:
    (part,) = assemble(read(listening(Authority(tmp_path), more, other=other))).listeners
    assert part.tls is not None
    assert part.tls._options.alpn == alpn


def test_certificates_of_names_are_loaded(read: Read, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("mqtt.example.com")
    named = f", server_names: [{{names: [mqtt.example.com], certificate: {certificate}, key: {key}}}]"
    (part,) = assemble(read(listening(authority, named))).listeners
    assert part.tls is not None
    assert [each.names for each in part.tls._options.named] == [("mqtt.example.com",)]
    with pytest.raises(ConfigErrors, match=r"listeners\.0\.tls\.server_names\.0\.certificate: cannot load"):
        assemble(read(listening(authority, named.replace("mqtt.example.com.pem", "missing.pem"))))


def test_ciphers_are_tried(read: Read, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"listeners\.0\.tls\.ciphers: 'ROT13' selects no cipher"):
        assemble(read(listening(Authority(tmp_path), ", ciphers: ROT13")))
