"""`python -m tests.bench [--quick] [--only NAME]… [--profile] [--write FILE]`: run the benchmarks and report."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.machine import Cores, raise_file_limit
from tests.bench.measurements import BENCHMARKS, Figures, VoidRun
from tests.bench.report import report
from tests.bench.stage import FULL, QUICK, Effort, Stage

PROFILED = ("publish-50", "consume")
RESERVED_FILES = 200
"""Open files of a process that are not connections of a benchmark."""


class Options(argparse.Namespace):
    quick: bool
    only: list[str]
    profile: bool
    write: Path | None


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the gateway.")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything works")
    parser.add_argument(
        "--only", action="append", default=[], choices=sorted(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--profile", action="store_true", help="say where the gateway's time goes (needs py-spy)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report here, such as docs/performance.md")
    return parser.parse_args(namespace=Options())


def rounds(stage: Stage, names: Sequence[str]) -> Iterable[tuple[str, Figures]]:
    """Every benchmark in every round; each round in the opposite order of the one before."""
    for number in range(stage.effort["rounds"]):
        for name in names if number % 2 == 0 else reversed(names):
            figures = BENCHMARKS[name].run(stage)
            shown = ", ".join(f"{key} {value:,.4g}" for key, value in figures.items())
            say(f"round {number + 1}: {name}: {shown}")
            yield name, figures


def profiles(stage: Stage, directory: Path, names: Sequence[str]) -> Iterable[tuple[str, str]]:
    """The stacks of the busiest benchmarks, from runs of their own: sampling costs something, too."""
    for name in PROFILED:
        if name in names:
            stage.profile = directory / f"{name}.stacks"
            BENCHMARKS[name].run(stage)
            yield name, stage.profile.read_text()


def measure(options: Options, effort: Effort, cores: Cores) -> str:
    """Run what was asked for; the report."""
    names = [name for name in BENCHMARKS if not options.only or name in options.only]
    runs: dict[str, list[Figures]] = {name: [] for name in names}
    with (
        tempfile.TemporaryDirectory(prefix="mqlift-bench-") as directory,
        Stage.open(Path(directory), cores, effort) as stage,
    ):
        for name, figures in rounds(stage, names):
            runs[name].append(figures)
        stacks = dict(profiles(stage, Path(directory), names)) if options.profile else {}
    return report(runs, effort, stacks)


def main() -> int:
    options = parse()
    effort = QUICK if options.quick else FULL
    most = raise_file_limit() - RESERVED_FILES
    if effort["idle_connections"] > most:
        say(f"{most} idle connections only: no more files may be open (ulimit -Hn)")
        effort = {**effort, "idle_connections": most}
    cores = Cores.choose()
    if cores.shared:
        say("one core only: gateway and load share it, so absolute figures are too low")
    try:
        text = measure(options, effort, cores)
    except (VoidRun, RuntimeError, AssertionError, OSError) as error:
        say("\n".join([f"void: {error}", *getattr(error, "__notes__", ())]))
        return 1
    sys.stdout.write(text)
    if options.write is not None:
        options.write.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
