"""The metrics of several processes, as one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.exposition import Shown, add_up, lasting, parse


def exposition(published: int, connected: int, *took: float) -> str:
    """What one worker says."""
    registry = CollectorRegistry()
    Counter("published", "", ["protocol"], registry=registry).labels("mqtt").inc(published)
    Gauge("connections", "", registry=registry).set(connected)
    seconds = Histogram("seconds", "", registry=registry, buckets=(1, 2))
    for each in took:
        seconds.observe(each)
    return generate_latest(registry).decode()


def shown(*texts: str) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(Shown(list(add_up(map(parse, texts)).values())))
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_counters_gauges_and_histograms_are_added() -> None:
    values = shown(exposition(3, 1, 0.5), exposition(4, 2, 1.5, 9))
    assert values['published_total{protocol="mqtt"}'] == 7
    assert values["connections"] == 3
    assert [values[f'seconds_bucket{{le="{bound}"}}'] for bound in ("1.0", "2.0", "+Inf")] == [1, 2, 3]
    assert (values["seconds_count"], values["seconds_sum"]) == (3, 11)


def test_one_alone_is_shown_as_it_is() -> None:
    text = exposition(3, 1, 0.5)
    lines = {line for line in text.splitlines() if line[0] != "#"}
    values = shown(text)
    assert values == {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_since_when_is_the_earliest() -> None:
    first, second = exposition(1, 1), exposition(1, 1)
    name = 'published_created{protocol="mqtt"}'
    assert shown(second, first)[name] == shown(first)[name] <= shown(second)[name]


def test_what_an_ended_process_leaves_is_what_it_counted() -> None:
    left = lasting(parse(exposition(3, 1, 0.5)))
    assert sorted(left) == ["published", "seconds"]


def test_adding_does_not_change_what_is_added() -> None:
    one, other = parse(exposition(3, 1)), parse(exposition(4, 1))
    add_up([one, other])
    (sample,) = [each for each in one["published"].samples if each.name == "published_total"]
    assert sample.value == 3
