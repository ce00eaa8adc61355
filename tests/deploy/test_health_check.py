"""The health check of the image, run against a gateway."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.rig.processes import ROOT, Gateway, clean_environment, free_port


def health(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "docker" / "health.py"), *arguments],
        env=clean_environment({"MQLIFT_ADMIN__PORT": str(port)}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_gateway_that_runs_is_healthy_and_ready(gateway_factory: Callable[..., Gateway]) -> None:
    gateway = gateway_factory()
    alive = health(gateway.admin_port)
    assert (alive.returncode, alive.stdout) == (0, '{"alive":true}')
    assert health(gateway.admin_port, "/readyz").returncode == 0


def test_a_page_that_is_not_ok_is_not_healthy(gateway_factory: Callable[..., Gateway]) -> None:
    assert health(gateway_factory().admin_port, "/nowhere").returncode == 1


def test_nobody_there_is_told_in_a_line() -> None:
    port = free_port()
    done = health(port)
    assert done.returncode == 1
    assert done.stdout.startswith(f"no answer on port {port}: ")
    assert done.stderr == ""
