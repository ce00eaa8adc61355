"""The figures as tables, with ratios and what the project promises."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tests.bench.codecs import OPERATIONS
from tests.bench.machine import describe
from tests.bench.measurements import BENCHMARKS, Figures
from tests.bench.profile import own_time, shares
from tests.bench.stage import Effort

Runs: TypeAlias = Mapping[str, Sequence[Figures]]
"""The figures of each benchmark, one for each round."""


def median(runs: Runs, name: str, figure: str) -> float | None:
    """The median over the rounds, None when it was not measured."""
    values = [figures[figure] for figures in runs.get(name, ()) if figure in figures]
    return statistics.median(values) if values else None


def ratio(runs: Runs, ours: str, theirs: str) -> float | None:
    """The median of the rounds' ratios of rates: neighbours in time are compared, not averages of different hours."""
    pairs = zip(runs.get(ours, ()), runs.get(theirs, ()), strict=False)
    ratios = [mine["rate"] / other["rate"] for mine, other in pairs if other["rate"]]
    return statistics.median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Threshold:
    """Something that the project promises."""

    text: str
    measured: Callable[[Runs], float | None]
    limit: float
    at_least: bool = False
    decimals: int = 6
    """To which the promise is stated."""

    cores: int = 1
    """That a machine needs to tell."""

    def verdict(self, value: float) -> str:
        if len(os.sched_getaffinity(0)) < self.cores:
            return f"tells nothing: needs {self.cores} cores"
        return "met" if self.met(value) else "NOT MET"

    def met(self, value: float) -> bool:
        rounded = round(value, self.decimals)
        return rounded >= self.limit if self.at_least else rounded <= self.limit


CORES_FOR_WORKERS = 4
"""Two for the workers, and others for load and endpoint: with fewer, the ratio says what those leave."""

THRESHOLDS = (
    Threshold("publishes a second, 10 connections", lambda runs: median(runs, "publish-10", "rate"), 30_000, True),
    Threshold("publishes a second, 50 connections", lambda runs: median(runs, "publish-50", "rate"), 30_000, True),
    Threshold(
        "SQS calls per publish, 10 connections", lambda runs: median(runs, "publish-10", "calls"), 0.10, decimals=2
    ),
    Threshold(
        "SQS calls per publish, 50 connections", lambda runs: median(runs, "publish-50", "calls"), 0.10, decimals=2
    ),
    Threshold("publishes a second to SNS", lambda runs: median(runs, "publish-topic", "rate"), 25_000, True),
    Threshold("publishes a second to Kinesis", lambda runs: median(runs, "kinesis", "rate"), 40_000, True),
    Threshold("Kinesis calls per publish", lambda runs: median(runs, "kinesis", "calls"), 0.01, decimals=2),
    Threshold("times one call per message", lambda runs: ratio(runs, "publish-50", "app-single"), 40, True),
    Threshold("times batches of 10", lambda runs: ratio(runs, "publish-50", "app-batch"), 5, True),
    Threshold(
        "times one worker, with two",
        lambda runs: ratio(runs, "workers-2", "workers-1"),
        1.7,
        True,
        cores=CORES_FOR_WORKERS,
    ),
    Threshold("deliveries a second", lambda runs: median(runs, "consume", "rate"), 12_000, True),
    Threshold("deliveries a second, an ACK for 50", lambda runs: median(runs, "consume-50", "rate"), 15_000, True),
    Threshold("SENDs a second", lambda runs: median(runs, "send", "rate"), 20_000, True),
    Threshold("AMQP publishes a second", lambda runs: median(runs, "amqp-publish", "rate"), 20_000, True),
    Threshold("AMQP deliveries a second", lambda runs: median(runs, "amqp-consume", "rate"), 12_000, True),
    Threshold("AMQP call and its reply, median, ms", lambda runs: median(runs, "amqp-call", "median"), 1),
    Threshold("SQS calls per delivery", lambda runs: median(runs, "consume", "calls"), 0.20, decimals=2),
    Threshold("added latency, median, ms", lambda runs: median(runs, "latency", "added_median"), 2),
    Threshold("added latency, 99th percentile, ms", lambda runs: median(runs, "latency", "added_p99"), 10),
    Threshold("µs per match of a topic", lambda runs: median(runs, "trie", "match_us"), 20),
    Threshold("KiB per idle connection", lambda runs: median(runs, "idle", "kib_each"), 15),
    Threshold("KiB per idle subscriber", lambda runs: median(runs, "idle-subscribed", "kib_each"), 20),
)

RATIOS = (
    ("workers-2", "workers-1"),
    ("publish-10", "app-single"),
    ("publish-10", "app-batch"),
    ("publish-50", "app-single"),
    ("publish-50", "app-batch"),
    ("consume", "app-receive"),
    ("amqp-publish", "rabbitmq-publish"),
    ("amqp-consume", "rabbitmq-consume"),
)

COLUMNS = (
    ("rate", "messages/s", "{:,.0f}"),
    ("calls", "AWS calls/message", "{:.4f}"),
    ("cpu_us", "CPU µs/message", "{:.1f}"),
    ("busy", "core busy", "{:.0%}"),
    ("others", "by others", "{:.0%}"),
    ("load_busy", "other core: load", "{:.0%}"),
    ("endpoint_busy", "other core: endpoint", "{:.0%}"),
)

TOLERABLE_OTHERS = 0.1
"""Share of the measured core that other processes may have before figures say more about them."""

LATENCY_COLUMNS = (
    ("median", "median", "{:.2f}"),
    ("p99", "99th", "{:.2f}"),
    ("own_median", "endpoint alone, median", "{:.2f}"),
    ("own_p99", "endpoint alone, 99th", "{:.2f}"),
    ("added_median", "added, median", "{:.2f}"),
    ("added_p99", "added, 99th", "{:.2f}"),
    ("late", "generator late, 99th", "{:.2f}"),
)

TRIE_COLUMNS = (
    ("subscriptions", "subscriptions", "{:,.0f}"),
    ("match_us", "µs, median of topics", "{:.2f}"),
    ("match_p99_us", "99th", "{:.2f}"),
    ("found", "of them match", "{:.1f}"),
    ("insert_us", "µs to add one", "{:.2f}"),
    ("bytes_each", "bytes each", "{:,.0f}"),
)

IDLE_COLUMNS = (
    ("connections", "connections", "{:,.0f}"),
    ("kib_each", "KiB each", "{:.1f}"),
    ("before_mib", "MiB before", "{:.1f}"),
    ("after_mib", "MiB after", "{:.1f}"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for terminals too."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def figures_table(runs: Runs, columns: Sequence[tuple[str, str, str]]) -> str:
    """The benchmarks that have the first of these figures."""
    rows = []
    for name, benchmark in BENCHMARKS.items():
        if median(runs, name, columns[0][0]) is None:
            continue
        values = [(median(runs, name, figure), form) for figure, _, form in columns]
        rows.append([benchmark.title, *("" if value is None else form.format(value) for value, form in values)])
    return table(["", *(title for _, title, _ in columns)], rows) if rows else ""


def codecs_table(runs: Runs) -> str:
    """Microseconds of a frame, beside a library."""
    rows = []
    for name, operation in OPERATIONS.items():
        ours, theirs = median(runs, "codecs", f"{name}_us"), median(runs, "codecs", f"{name}_theirs_us")
        if ours is not None and theirs is not None:
            rates = [f"{ours:.2f}", f"{1e6 / ours:,.0f}", f"{theirs:.2f}"]
            rows.append([operation.title, *rates, operation.library, f"{theirs / ours:.1f} times"])
    return table(["", "µs", "a second", "library: µs", "library", "ratio"], rows) if rows else ""


def ratios_table(runs: Runs) -> str:
    found = [(ours, theirs, ratio(runs, ours, theirs)) for ours, theirs in RATIOS]
    rows = [
        [BENCHMARKS[ours].title, BENCHMARKS[theirs].title, f"{value:.1f} times"]
        for ours, theirs, value in found
        if value is not None
    ]
    return table(["the gateway", "compared with", "ratio"], rows) if rows else ""


def thresholds_table(runs: Runs) -> str:
    rows = []
    for threshold in THRESHOLDS:
        value = threshold.measured(runs)
        if value is not None:
            bound = f"{'≥' if threshold.at_least else '≤'} {threshold.limit:,g}"
            rows.append(
                [threshold.text, bound, f"{value:,.4g}" if value < 1000 else f"{value:,.0f}", threshold.verdict(value)]
            )
    return table(["", "promised", "measured", ""], rows) if rows else ""


def disturbance(runs: Runs) -> str:
    """A warning when others were at work on the core that was measured; empty when it was quiet."""
    disturbed = [figures["others"] for rounds in runs.values() for figures in rounds if "others" in figures]
    worst = max(disturbed, default=0.0)
    if worst <= TOLERABLE_OTHERS:
        return ""
    return (
        f"**The machine was not quiet: other processes, or other guests of its host, had up to {worst:.0%} of the "
        "measured core. Rates are lower than the gateway's own, and latencies higher.**"
    )


def spread_table(runs: Runs) -> str:
    """How far the rounds lie apart: what the figures above are worth."""
    rows = [
        [BENCHMARKS[name].title, *(f"{figures['rate']:,.0f}" for figures in rounds)]
        for name, rounds in runs.items()
        if rounds and "rate" in rounds[0]
    ]
    count = max((len(row) - 1 for row in rows), default=0)
    return table(["messages/s", *(f"round {number}" for number in range(1, count + 1))], rows) if count > 1 else ""


def profile_table(stacks: str) -> str:
    return table(["function, without what it calls", "share"], shares(own_time(stacks)))


def report(runs: Runs, effort: Effort, profiles: Mapping[str, str]) -> str:
    """Everything that was measured, as a Markdown page. `profiles` are collapsed stacks by benchmark."""
    how = (
        f"Written by `python -m tests.bench`. Rounds: {effort['rounds']}, each benchmark {effort['duration']:g} s "
        f"after {effort['warmup']:g} s of warm-up, the order turned round every time; medians. The gateway, and the "
        "application it is compared with, have one core; the endpoint and the load have another. Payloads are JSON "
        "of 200 bytes, plain TCP and HTTP. Each run is checked: every PUBACK came in order for a message that the "
        "endpoint had accepted, every delivery came once and was deleted once."
    )
    sections = [
        ("Promises", thresholds_table(runs)),
        ("Throughput", figures_table(runs, COLUMNS)),
        ("Ratios", ratios_table(runs)),
        ("Latency (ms, from PUBLISH to PUBACK, or from a call to its reply)", figures_table(runs, LATENCY_COLUMNS)),
        ("Codecs (the fastest of many rounds)", codecs_table(runs)),
        ("Topic trie", figures_table(runs, TRIE_COLUMNS)),
        ("Memory", figures_table(runs, IDLE_COLUMNS)),
        ("Rounds", spread_table(runs)),
        *((f"Where the time goes: {BENCHMARKS[name].title}", profile_table(profiles[name])) for name in profiles),
        ("Machine", table(["", ""], describe())),
    ]
    warning = disturbance(runs)
    parts = [
        "# Performance",
        how,
        *([warning] if warning else []),
        *(f"## {title}\n\n{text}" for title, text in sections if text),
    ]
    return "\n\n".join(parts) + "\n"
