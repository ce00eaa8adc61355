"""Every benchmark runs, briefly, against a real gateway, and its messages add up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.machine import Cores
from tests.bench.measurements import BENCHMARKS
from tests.bench.stage import Effort, Stage, run

BRIEF: Effort = {"rounds": 1, "warmup": 0.1, "duration": 0.3, "idle_connections": 20}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage.open(tmp_path_factory.mktemp("bench"), Cores.choose(), BRIEF) as stage:
        yield stage


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark(name: str, stage: Stage) -> None:
    figures = BENCHMARKS[name].run(stage)
    shown = {"rate", "median", "connections", "mqtt_decode_publish_us", "match_us"} & figures.keys()
    assert all(figures[figure] > 0 for figure in shown)
    assert shown


def test_load_that_fails_says_why(stage: Stage) -> None:
    pid = stage.endpoint.pid
    command = ["publish", "--port=1", f"--watch={pid}", "--endpoint=1", f"--endpoint-pid={pid}"]
    with pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        run(["tests.bench.load", *command], Cores.choose().load)
