"""`python -m tests.fuzz [--seconds N] [--seed N] [--only TARGET]… [--failures DIR]`, or `--replay FILE`."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.machine import resident_bytes
from tests.fuzz.cases import Case, Violation
from tests.fuzz.runner import Finding, fuzz
from tests.fuzz.targets import TARGETS

WARM_CASES: Final = 20_000
"""Until then, caches of the codecs fill."""

GROWTH_BYTES: Final = 64 * 1024 * 1024
"""That the process may grow after it is warm, however long it runs: caches that are full turn over, allocators fray."""


class Options(argparse.Namespace):
    seconds: float
    seed: int
    only: list[str]
    failures: Path
    replay: Path | None


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Feed damaged input to codecs and sessions."
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="how long, for all targets together (600)")
    parser.add_argument("--seed", type=int, default=random.getrandbits(32), help="of all cases; printed when not given")
    parser.add_argument(
        "--only", action="append", default=[], choices=sorted(TARGETS), metavar="TARGET", help=", ".join(TARGETS)
    )
    parser.add_argument(
        "--failures", type=Path, default=Path(tempfile.gettempdir()) / "mqlift-fuzz", help="directory for what fails"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one case that was written before")
    return parser.parse_args(arguments, Options())


class Watch:
    """Says how it goes, and looks at the memory of this process."""

    def __init__(self, seconds: float) -> None:
        self._start = time.monotonic()
        self._end = self._start + seconds
        self._warm: int | None = None

    def running(self, done: int) -> bool:
        """Whether there is time; at least one case of each target is run."""
        return done < len(TARGETS) or time.monotonic() < self._end

    def progress(self, cases: int) -> None:
        """Raises `Violation` when the process has grown by more than caches explain."""
        taken = time.monotonic() - self._start
        resident = resident_bytes(os.getpid())
        say(f"{taken:6.0f} s  {cases:9,} cases  {cases / taken:7,.0f}/s  {resident / 2**20:5.0f} MiB")
        if self._warm is None:
            self._warm = resident if cases >= WARM_CASES else None
        elif resident > self._warm + GROWTH_BYTES:
            raise Violation(f"the process has grown from {self._warm:,} to {resident:,} bytes")


def replay(path: Path) -> int:
    """Run one case, and let everything out that it raises."""
    case = Case.loads(path.read_text())
    TARGETS[case.target].run(case)
    say(f"{path}: nothing is wrong")
    return 0


def report(finding: Finding, directory: Path) -> None:
    """Write a case down, and say how to see it again."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{finding.seed.replace('/', '-')}.json"
    path.write_text(finding.case.dumps())
    say("".join(traceback.format_exception(finding.error)))
    sizes = f"{finding.original_size:,} bytes, cut down to {finding.case.size():,}"
    say(f"case {finding.seed} failed. Its input was {sizes}:")
    for kind, value in finding.case.steps:
        say(f"  {kind} {value!r:.200}")
    say(f"run it again: python -m tests.fuzz --replay {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Of the command; the exit code."""
    options = parse(arguments)
    if options.replay is not None:
        return replay(options.replay)
    names = [name for name in TARGETS if not options.only or name in options.only]
    say(f"{options.seconds:g} s of {', '.join(names)}; seed {options.seed}")
    watch = Watch(options.seconds)
    targets = [TARGETS[name] for name in names]
    try:
        finding = fuzz(targets, options.seed, running=watch.running, progress=watch.progress)
    except Violation as error:
        say(f"{error}; seed {options.seed}")
        return 1
    if finding is None:
        return 0
    report(finding, options.failures)
    return 1


if __name__ == "__main__":
    sys.exit(main())
