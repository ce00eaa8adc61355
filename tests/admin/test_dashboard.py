"""The dashboard that comes with the product, and the manual, speak of metrics that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.core.metrics import Metrics

DOCS = Path(__file__).parents[2] / "docs"
OF_WORKERS = {"mqlift_workers", "mqlift_worker_restarts"}
"""Of the process that looks after several."""
NAME = re.compile(r"mqlift_[a-z_]+")


def expressions() -> Iterator[str]:
    dashboard = json.loads((DOCS / "grafana" / "mqlift.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def family(name: str) -> str:
    return re.sub(r"_(total|bucket|sum|count)$", "", name)


def known() -> set[str]:
    return {metric.name for metric in Metrics(CollectorRegistry()).registry.collect()} | OF_WORKERS


def test_the_dashboard_has_each_metric_and_no_others() -> None:
    shown = {family(name) for expression in expressions() for name in NAME.findall(expression)}
    assert shown == known(), "and each metric is on the dashboard"


def test_the_manual_has_each_metric_and_no_others() -> None:
    manual = (DOCS / "operations.md").read_text()
    assert {family(name) for name in NAME.findall(manual)} == known()


def test_panels_do_not_overlap() -> None:
    dashboard = json.loads((DOCS / "grafana" / "mqlift.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
