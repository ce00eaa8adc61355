"""`python -m tests.bench [--quick] [--only NAME]… [--write FILE]`: run the benchmarks side by side and report."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.machine import Cores
from tests.bench.measurements import BENCHMARKS, Figures, VoidRun
from tests.bench.report import report
from tests.bench.stage import FULL, QUICK, Stage


class Options(argparse.Namespace):
    quick: bool
    only: list[str]
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


def main() -> int:
    options = parse()
    effort = QUICK if options.quick else FULL
    names = [name for name in BENCHMARKS if not options.only or name in options.only]
    cores = Cores.choose()
    if cores.shared:
        say("one core only: gateway and load share it, so absolute figures are too low")
    runs: dict[str, list[Figures]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="mqlift-bench-") as directory:
        try:
            with Stage.open(Path(directory), cores, effort) as stage:
                for name, figures in rounds(stage, names):
                    runs[name].append(figures)
        except (VoidRun, RuntimeError, AssertionError) as error:
            say("\n".join([f"void: {error}", *getattr(error, "__notes__", ())]))
            return 1
    text = report(runs, effort, {})
    sys.stdout.write(text)
    if options.write is not None:
        options.write.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
