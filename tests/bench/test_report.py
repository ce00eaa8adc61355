"""The report computes what it says: medians, ratios of neighbours, promises met or not."""

from __future__ import annotations

import pytest

from tests.bench.profile import own_time, shares
from tests.bench.report import THRESHOLDS, Runs, Threshold, disturbance, median, ratio, report, table
from tests.bench.stage import QUICK

RUNS: Runs = {
    "publish-50": [{"rate": 40_000, "calls": 0.1004}, {"rate": 10_000, "calls": 0.11}, {"rate": 30_000, "calls": 0.1}],
    "app-single": [{"rate": 1_000}, {"rate": 500}, {"rate": 600}],
    "idle": [],
}


def test_medians() -> None:
    assert median(RUNS, "publish-50", "rate") == 30_000
    assert median(RUNS, "publish-50", "kib_each") is None
    assert median(RUNS, "idle", "kib_each") is None
    assert median(RUNS, "unknown", "rate") is None


def test_ratios_are_of_the_same_round() -> None:
    assert ratio(RUNS, "publish-50", "app-single") == 40  # of 40, 20 and 50; the medians would give 50
    assert ratio(RUNS, "publish-50", "app-batch") is None


@pytest.mark.parametrize(
    ("limit", "at_least", "decimals", "value", "met"),
    [
        (10, True, 6, 10, True),
        (10, True, 6, 9.99, False),
        (10, False, 6, 10, True),
        (10, False, 6, 10.01, False),
        (0.10, False, 2, 0.1049, True),
        (0.10, False, 2, 0.1051, False),
    ],
)
def test_thresholds(limit: float, at_least: bool, decimals: int, value: float, met: bool) -> None:
    assert Threshold("", lambda _runs: None, limit, at_least, decimals).met(value) is met


def test_every_promise_can_be_measured() -> None:
    keys = ("rate", "calls", "median", "added_median", "added_p99", "kib_each", "match_us")
    figures = dict.fromkeys(keys, 1.0)
    names = [
        "publish-10",
        "publish-50",
        "workers-1",
        "workers-2",
        "publish-topic",
        "kinesis",
        "app-single",
        "app-batch",
        "consume",
        "consume-50",
        "send",
        "amqp-publish",
        "amqp-consume",
        "amqp-call",
        "latency",
        "idle",
        "idle-subscribed",
        "trie",
    ]
    everything: Runs = {name: [figures] for name in names}
    assert all(threshold.measured(everything) is not None for threshold in THRESHOLDS)


def test_the_report_shows_what_was_measured_and_nothing_else() -> None:
    text = report(RUNS, QUICK, {})
    assert "| publishes a second, 50 connections    | ≥ 30,000 | 30,000   | met" in text
    assert "| SQS calls per publish, 50 connections | ≤ 0.1    | 0.1004   | met" in text
    assert "40.0 times" in text
    assert "## Latency" not in text
    assert "## Memory" not in text
    assert "## Machine" in text


def test_codecs_are_compared() -> None:
    runs: Runs = {"codecs": [{"mqtt_decode_puback_us": 0.5, "mqtt_decode_puback_theirs_us": 4.0}]}
    text = report(runs, QUICK, {})
    assert "| MQTT 3.1.1: read a PUBACK | 0.50 | 2,000,000 | 4.00        | amqtt   | 8.0 times |" in text
    assert "read a SEND" not in text


def test_tables_are_aligned() -> None:
    assert table(["a", "long"], [["wide cell", "x"]]).splitlines() == [
        "| a         | long |",
        "| --------- | ---- |",
        "| wide cell | x    |",
    ]


def test_own_time_is_by_function() -> None:
    stacks = "run (a.py:1);put (q.py:7) 3\nrun (a.py:1);put (q.py:9) 2\nrun (a.py:2) 4\n<idle> 1\n"
    assert own_time(stacks) == {"put (q.py)": 5, "run (a.py)": 4, "<idle>": 1}
    assert shares(own_time(stacks))[0] == ("put (q.py)", "50.0%")


def test_a_disturbed_run_says_so() -> None:
    assert disturbance({"idle": [{"kib_each": 1.0}], "consume": [{"others": 0.02}]}) == ""
    runs: Runs = {"consume": [{"rate": 1.0, "others": 0.02}, {"rate": 1.0, "others": 0.31}]}
    assert "31% of the measured core" in disturbance(runs)
    assert disturbance(runs) in report(runs, QUICK, {})
