"""Counters that are brought up to date when they are scraped."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest

from gateway.core.metrics import Metrics, ReadsMessages


@dataclass
class Reader:
    unreadable: int = 0


def test_a_tally_shows_what_was_counted_since_the_last_scrape_and_before() -> None:
    metrics = Metrics(CollectorRegistry())
    tally = metrics.tally(metrics.discarded.labels("mqtt"))
    shown = []
    for more in (2, 0, 3):
        tally.count += more
        shown.append(sample(metrics, 'mqlift_messages_discarded_total{protocol="mqtt"}'))
    assert shown == [2, 2, 5]


def test_one_counter_has_one_tally() -> None:
    metrics = Metrics(CollectorRegistry())
    assert metrics.tally(metrics.discarded.labels("mqtt")) is metrics.tally(metrics.discarded.labels("mqtt"))
    assert metrics.tally(metrics.discarded.labels("mqtt")) is not metrics.tally(metrics.discarded.labels("stomp"))


def test_what_a_backend_could_not_read_is_shown() -> None:
    metrics = Metrics(CollectorRegistry())
    backend = Reader()
    metrics.count_unreadable("sqs", backend)
    name = 'mqlift_messages_unreadable_total{backend="sqs"}'
    assert sample(metrics, name) == 0
    for count in (1, 4, 4):
        backend.unreadable = count
        assert sample(metrics, name) == count


def test_a_backend_that_reads_nothing_of_its_own_is_told_from_one_that_does() -> None:
    assert isinstance(Reader(), ReadsMessages)
    assert not isinstance(object(), ReadsMessages)


def sample(metrics: Metrics, name: str) -> float:
    """As a scrape shows it."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    (value,) = (line.rpartition(" ")[2] for line in lines if line.startswith(name))
    return float(value)
