"""What the benchmarks read from the machine: CPU seconds and resident memory of processes, and what it is."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypedDict

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PACKAGES = ("aiobotocore", "botocore", "aiohttp", "httptools", "orjson", "uvloop", "amqtt", "stomp.py")


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used, its ended children not counted (proc(5), `stat`, 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def family_seconds(pid: int) -> float:
    """CPU seconds of a process and of the children that it has now (proc(5), `children`)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_seconds(pid) + sum(cpu_seconds(int(child)) for child in children)


def core_seconds(core: int) -> float:
    """Time that a core has worked for anybody, the host's other guests included (proc(5), `/proc/stat`)."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (proc(5), `smaps_rollup`)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
    if match is None:
        raise OSError(f"no Rss in /proc/{pid}/smaps_rollup")
    return int(match[1]) * 1024


class Window(TypedDict):
    """What happened between two moments of a run, warm-up and draining left out."""

    seconds: float
    messages: int
    cpu: float
    """CPU seconds of the watched process, and of its workers."""
    load_cpu: float
    """CPU seconds of the load generator itself."""
    endpoint_cpu: float
    core_cpu: float
    """Seconds that the watched process' core has worked, for it and for others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Time, messages and CPU at one moment."""

    at: float
    messages: int
    cpu: float
    load_cpu: float
    endpoint_cpu: float
    core_cpu: float

    @classmethod
    def take(cls, messages: int, watched: int, endpoint: int) -> Sample:
        """Now; the watched process is pinned to one core."""
        core = min(os.sched_getaffinity(watched))
        return cls(
            time.monotonic(),
            messages,
            family_seconds(watched),
            time.process_time(),
            cpu_seconds(endpoint),
            core_seconds(core),
        )

    def until(self, end: Sample) -> Window:
        return {
            "seconds": end.at - self.at,
            "messages": end.messages - self.messages,
            "cpu": end.cpu - self.cpu,
            "load_cpu": end.load_cpu - self.load_cpu,
            "endpoint_cpu": end.endpoint_cpu - self.endpoint_cpu,
            "core_cpu": end.core_cpu - self.core_cpu,
        }


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores run what. With one core only, both are the same, and figures are not comparable."""

    gateway: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[-1])

    @property
    def shared(self) -> bool:
        return self.gateway == self.load


def raise_file_limit() -> int:
    """Let this process and its children open as many files as they may; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cpu_model() -> str:
    """The processor's name (proc(5), `cpuinfo`; ARM kernels give none)."""
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def describe() -> list[tuple[str, str]]:
    """The machine and the versions that figures depend on, as name and value."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = [
        ("CPU", cpu_model()),
        ("Cores", f"{os.cpu_count()}, usable {len(os.sched_getaffinity(0))}"),
        ("Memory", f"{memory / 2**30:.0f} GiB"),
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
    ]
    return rows + [(name, metadata.version(name)) for name in PACKAGES]
