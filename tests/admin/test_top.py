"""The table of `mqlift top`: what it says when a gateway has more than it looks at."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from rich.console import Console

from gateway.clients import top
from gateway.clients.admin import AdminClient


class Answers(AdminClient):
    """A gateway with so many queues, and no connections."""

    def __init__(self, queues: int) -> None:
        super().__init__("http://127.0.0.1", None)
        self._queues = queues

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Mapping[str, object]:
        if path == "/api/overview":
            names = ("problems", "paused", "bindings", "sessions", "retained", "inflight", "unsettled", "unrouted")
            return dict.fromkeys((*names, "connections", "published", "delivered"), 0) | {
                "version": "1",
                "workers": 1,
                "ready": True,
                "started": 0.0,
                "queues": self._queues,
            }
        if path.startswith("/api/connections"):
            return {"items": [], "next": None}
        found = min(self._queues, top.LOOKED_AT)
        fields = ("kind", "home", "consumers", "unsettled", "ready", "published", "delivered")
        rows = [dict.fromkeys(fields, 0) | {"name": f"q{number}"} for number in range(found)]
        return {"items": rows, "next": f"q{found}" if found < self._queues else None}


def page(queues: int) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(top._page(top.Snapshot.take(Answers(queues), None), 3))
    return captured.get()


def test_it_says_that_it_has_not_looked_at_all() -> None:
    assert "of 1,001 queues only the first 1,000 are looked at" in page(1_001)


@pytest.mark.parametrize("queues", [0, 3, 1_000])
def test_it_says_nothing_when_it_has(queues: int) -> None:
    assert "looked at" not in page(queues)
