"""What is read from /proc is what it is taken for."""

from __future__ import annotations

import os
import time

from tests.bench.machine import Cores, Sample, core_seconds, cpu_seconds, describe, resident_bytes


def test_cpu_seconds_are_this_process_own() -> None:
    start, own = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - own < 0.2:
        sum(range(10_000))
    assert abs((cpu_seconds(os.getpid()) - start) - (time.process_time() - own)) < 0.05


def test_resident_memory_grows_with_what_is_kept() -> None:
    before = resident_bytes(os.getpid())
    kept = bytearray(os.urandom(32 * 2**20))
    assert resident_bytes(os.getpid()) - before > 0.9 * len(kept)


def test_a_window_is_what_lies_between() -> None:
    start = Sample(at=1.0, messages=10, cpu=0.5, load_cpu=0.1, endpoint_cpu=0.2, core_cpu=7.0)
    end = Sample(at=3.0, messages=110, cpu=1.5, load_cpu=0.2, endpoint_cpu=0.5, core_cpu=9.0)
    window = start.until(end)
    assert (window["seconds"], window["messages"], window["cpu"], window["core_cpu"]) == (2.0, 100, 1.0, 2.0)
    taken = Sample.take(5, os.getpid(), os.getpid())
    assert taken.messages == 5
    assert taken.core_cpu > 0


def test_cores_and_description() -> None:
    cores = Cores.choose()
    assert {cores.gateway, cores.load} <= os.sched_getaffinity(0)
    assert core_seconds(cores.gateway) > 0
    assert {"CPU", "Kernel", "Python", "orjson"} <= {name for name, _ in describe()}
