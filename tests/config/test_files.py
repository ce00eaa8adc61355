"""The configuration files that come with the product are right, and say what they are said to say."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from adapters.aws.payloads import LargePayloadSettings
from adapters.aws.settings import AwsSettings
from adapters.sns.settings import Settings as SnsSettings
from adapters.sqs.settings import Settings as SqsSettings
from config.auth import (
    LdapGroupSettings,
    LdapSettings,
    PermissionSettings,
    RuleSettings,
    TokenSettings,
    TopicPermissionSettings,
)
from config.settings import IngressSettings, ListenerSettings, Settings, TlsSettings, load
from gateway.assembly import assemble
from gateway.core.message import Address
from gateway.protocols.amqp091.settings import Settings as AmqpSettings
from gateway.protocols.mqtt.settings import Settings as MqttSettings
from gateway.protocols.stomp.settings import Settings as StompSettings

FILES = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize("name", ["compose.yaml", "demo.yaml", "mqlift.example.yaml"])
def test_each_file_is_right(name: str) -> None:
    assemble(load(FILES / name))


def test_the_demo_maps_orders() -> None:
    settings = load(FILES / "demo.yaml")
    assert [(each.protocol, each.host, each.port) for each in settings.listeners] == [
        ("mqtt", "127.0.0.1", 1883),
        ("stomp", "127.0.0.1", 61613),
        ("amqp091", "127.0.0.1", 5672),
    ]
    assert settings.admin.port == 9090
    assembly = assemble(settings)
    assert assembly.aws.endpoint_url == "http://127.0.0.1:4566"
    (target,) = assembly.routes.for_publish(Address("amq.topic", "orders.1"))
    assert (target.kind, target.name) == ("queue", "orders")


def test_the_compose_stack_listens_for_every_protocol_on_every_interface() -> None:
    settings = load(FILES / "compose.yaml")
    assert {(each.protocol, each.host, each.port) for each in settings.listeners} == {
        ("mqtt", "0.0.0.0", 1883),
        ("amqp091", "0.0.0.0", 5672),
        ("stomp", "0.0.0.0", 61613),
    }
    assert (settings.admin.host, settings.admin.port) == ("0.0.0.0", 9090)


def keys(model: type[BaseModel], section: str = "") -> Iterator[tuple[str, object]]:
    """Keys and defaults of a model and its sections."""
    for name, field in model.model_fields.items():
        default = field.default
        if isinstance(default, BaseModel):
            yield from keys(type(default), f"{section}{name}.")
        else:
            yield f"{section}{name}", default


def test_the_example_shows_every_setting_with_its_default() -> None:
    example = yaml.safe_load((FILES / "mqlift.example.yaml").read_text())
    for key, default in keys(Settings):
        value: object = example
        for step in key.split("."):
            assert isinstance(value, dict)
            assert step in value, key
            value = value[step]
        if key not in ("aws", "listeners", "routes", "ingress", "sqs", "sns"):
            assert value == (list(default) if isinstance(default, tuple) else default), key


ACCESS = [LdapGroupSettings, LdapSettings, PermissionSettings, RuleSettings, TokenSettings, TopicPermissionSettings]


@pytest.mark.parametrize(
    "model",
    [
        Settings,
        ListenerSettings,
        IngressSettings,
        TlsSettings,
        AwsSettings,
        SqsSettings,
        SnsSettings,
        LargePayloadSettings,
        AmqpSettings,
        MqttSettings,
        StompSettings,
        *ACCESS,
    ],
)
def test_the_documentation_names_every_setting(model: type[BaseModel]) -> None:
    documentation = (FILES.parent / "docs" / "configuration.md").read_text()
    written = set(re.findall(r"[a-z_.]+", " ".join(re.findall(r"`[a-z_., `]+`", documentation))))
    known = written | {step for key in written for step in key.split(".")}
    assert {key for key, _ in keys(model)} <= known
