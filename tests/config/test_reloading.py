"""Which keys take effect while the gateway runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from config.settings import Settings
from gateway.reloading import FIXED, can_follow, waits_for_restart

BASE: Mapping[str, object] = {
    "listeners": [{"protocol": "mqtt", "port": 1883}, {"protocol": "stomp", "port": 61613}],
}


def settings(**changes: object) -> Settings:
    return Settings.model_validate({**BASE, **changes})


def listeners(**first: object) -> list[dict[str, object]]:
    return [{"protocol": "mqtt", "port": 1883, **first}, {"protocol": "stomp", "port": 61613}]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, []),
        ({"routes": [{"match": {"topic": "a"}, "to": [{"sqs": "b"}]}]}, []),
        ({"limits": {"gateway": {"sessions": 7}}}, []),
        ({"drain_timeout": 7}, []),
        ({"log": {"level": "debug"}}, []),
        ({"admin": {"token": "0123456789abcdef"}}, []),
        ({"listeners": listeners(max_connections=7)}, []),
        ({"listeners": listeners()[::-1]}, []),
        ({"prefix": "x"}, ["prefix"]),
        ({"workers": 2, "tracing": {"sample": 0}}, ["tracing", "workers"]),
        ({"admin": {"port": 7, "host": "::1"}}, ["admin.host", "admin.port"]),
        ({"listeners": listeners(port=7)}, ["listeners.0", "listeners (127.0.0.1:1883 is left out)"]),
        ({"listeners": listeners(transport="websocket")}, ["listeners.0.transport"]),
        ({"listeners": listeners()[:1]}, ["listeners (127.0.0.1:61613 is left out)"]),
    ],
)
def test_what_waits_for_a_restart(changes: Mapping[str, object], keys: list[str]) -> None:
    assert waits_for_restart(settings(), settings(**changes)) == keys


def test_a_listener_follows_only_where_it_is() -> None:
    running = settings().listeners[0]
    assert can_follow(running, settings(listeners=listeners(max_connections=7)).listeners[0])
    assert not can_follow(running, settings(listeners=listeners(proxy_protocol=True)).listeners[0])
    assert not can_follow(running, settings().listeners[1])


def test_every_section_is_judged() -> None:
    """A new one has to be put among those that wait, or among those that `Gateway.reload` changes."""
    followed = {"listeners", "admin", "auth", "routes", "limits", "drain_timeout", "log"}
    assert set(Settings.model_fields) == set(FIXED) | followed
