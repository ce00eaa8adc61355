"""Settings of the admin server, of workers and of tracing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.settings import load
from gateway.assembly import assemble
from gateway.core.errors import ConfigError


def mistakes(directory: Path, **settings: object) -> str:
    """What is wrong with a file, one line for each mistake."""
    path = directory / "mqlift.yaml"
    path.write_text(json.dumps({"listeners": [{"protocol": "mqtt", "port": 1883}]} | settings))
    with pytest.raises(ConfigError) as refused:
        assemble(load(path))
    return str(refused.value).replace(f"{path}: ", "")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"admin": {"token": "guess me"}}, "admin.token: the value is too short; 16 characters or more"),
        ({"admin": {"protect_metrics": True}}, "admin.protect_metrics: there is no token to protect them with"),
        ({"workers": 0}, "workers: 0 is too small; 1 or more"),
        ({"workers": 2, "state": "sqlite:///tmp/state.db"}, "workers: one process uses the file of state"),
        ({"workers": 2, "state": "dynamodb://state"}, "workers: several workers keep no state"),
        (
            {"workers": 2, "listeners": [{"protocol": "mqtt", "port": 0}]},
            "workers: listeners.0 takes any port, and each process another",
        ),
        ({"tracing": {"endpoint": "localhost:4318"}}, "tracing.endpoint: is not the URL of a collector"),
        ({"tracing": {"sample": 2}}, "tracing.sample: 2 is too large"),
    ],
)
def test_each_mistake_is_told_with_its_key(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    text = mistakes(tmp_path, **settings)
    assert text.startswith(told)
    assert "guess me" not in text


def test_the_token_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "mqlift.yaml"
    secret = "0123456789abcdef"
    path.write_text(json.dumps({"listeners": [{"protocol": "mqtt", "port": 1883}], "admin": {"token": secret}}))
    settings = load(path)
    assert settings.admin.token is not None
    assert settings.admin.token.get_secret_value() == secret
    assert secret not in repr(settings)
