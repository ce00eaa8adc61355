"""Where the gateway's time goes: samples of its stacks while it is under load, taken by py-spy."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SAMPLES_PER_SECOND = 500
SHOWN = 20
STOP_TIMEOUT = 30.0


def py_spy() -> str:
    """The program. `FileNotFoundError` with the remedy when it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise FileNotFoundError(f"--profile needs py-spy: {sys.executable} -m pip install py-spy")
    return found


@contextlib.contextmanager
def sampling(pid: int, seconds: float, path: Path) -> Iterator[None]:
    """Write collapsed stacks of a process to `path` while the body runs, for `seconds` at most.

    The process is not stopped for a sample, so some stacks are torn; it runs at its own speed.
    """
    command = [py_spy(), "record", "--pid", str(pid), "--format", "raw", "--output", str(path)]
    command += ["--nonblocking", "--rate", str(SAMPLES_PER_SECOND), "--duration", str(max(1, round(seconds)))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield
            _, problems = process.communicate(timeout=STOP_TIMEOUT)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"py-spy: exit code {process.returncode}: {problems.decode()}")


def own_time(stacks: str) -> Counter[str]:
    """Samples by the function that was running. C code counts for the Python function that called it."""
    functions: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        innermost = stack.rpartition(";")[2]
        functions[without_line(innermost)] += int(samples)
    return functions


def without_line(frame: str) -> str:
    """`put (gateway/core/queues.py:101)` without the line's number."""
    head, colon, _ = frame.rpartition(":")
    return f"{head})" if colon else frame


def shares(functions: Counter[str]) -> list[tuple[str, str]]:
    """The functions with the most samples, and their shares."""
    total = functions.total()
    return [(name, f"{samples / total:.1%}") for name, samples in functions.most_common(SHOWN)]
