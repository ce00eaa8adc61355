"""The applications in README.md do what it says, one after the other."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import serving
from tests.rig.processes import ROOT, Gateway, Ministack, clean_environment, gateway_config

LIMIT = 60.0

EXAMPLES = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def demo(ministack: Ministack, tmp_path: Path) -> Iterator[Gateway]:
    """What `make demo` runs, on free ports."""
    routes = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())["routes"]
    protocols = ("mqtt", "amqp091", "stomp")
    gateway = Gateway(gateway_config(ministack.url, protocols=protocols, routes=routes, receiver={"wait": 1}), tmp_path)
    with serving(gateway):
        yield gateway


def run(example: str, ports: dict[str, int]) -> str:
    for usual, port in ports.items():
        example = re.sub(rf"\b{usual}\b", str(port), example)
    result = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env=clean_environment({}),
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_four_applications_share_a_queue(demo: Gateway, ministack: Ministack) -> None:
    ports = {
        "1883": demo.port("mqtt"),
        "5672": demo.port("amqp091"),
        "61613": demo.port("stomp"),
        "4566": ministack.port,
    }
    assert [run(example, ports) for example in EXAMPLES] == [
        "published by MQTT\n",
        "by AMQP: b'a valve'\n",
        "by STOMP: a pump\n",
        "by SQS: a seal\n",
    ]
