"""The metrics of several processes as those of one: samples of the same name and labels are added. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

CREATED: Final = "_created"
"""End of the samples that say since when a counter counts: of several, the earliest."""

SampleKey: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
Exposition: TypeAlias = dict[str, Metric]
"""Families by name, in the order in which they came."""

_LASTING: Final = ("counter", "histogram")


def parse(text: str) -> Exposition:
    """Read Prometheus' text format. Raises `ValueError`."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def add_up(expositions: Iterable[Exposition]) -> Exposition:
    """One family for each name; histograms have the same bounds everywhere."""
    merged: Exposition = {}
    values: dict[str, dict[SampleKey, Sample]] = {}
    for exposition in expositions:
        for name, family in exposition.items():
            known = values.setdefault(name, {})
            merged.setdefault(name, Metric(name, family.documentation, family.type))
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                known[key] = _together(known.get(key), sample)
    for name, family in merged.items():
        family.samples = list(values[name].values())
    return merged


def lasting(exposition: Exposition) -> Exposition:
    """What stays counted when the process that counted it has ended: no gauges."""
    return {
        name: family for name, family in exposition.items() if family.type in _LASTING and not name.endswith(CREATED)
    }


def _together(one: Sample | None, other: Sample) -> Sample:
    if one is None:
        return Sample(other.name, other.labels, other.value)
    value = min(one.value, other.value) if other.name.endswith(CREATED) else one.value + other.value
    return Sample(other.name, other.labels, value)


class Shown(Collector):
    """Families that are there already, for a registry."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
