"""`mqlift top`: what a gateway does, in a table that renews itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.clients.admin import AdminClient, Row
from gateway.core.errors import MqliftError

LOOKED_AT: Final = 1_000
"""Connections, and queues, that are looked at for the busiest."""
SHOWN_WITHOUT_TERMINAL: Final = 20
"""Rows of each table where no terminal says how many fit."""
FRAME_LINES: Final = 12
"""Lines that are no rows: the summary, titles and heads."""
COUNTED: Final = ("published", "delivered")


class Snapshot:
    """What a gateway said at one moment, and how fast that changes since the one before."""

    def __init__(self, at: float, overview: Row, queues: Sequence[Row], connections: Sequence[Row]) -> None:
        self.at = at
        self.overview = overview
        self.queues = queues
        self.connections = connections
        self._rates: dict[tuple[str, str], tuple[float, float]] = {}

    @classmethod
    def take(cls, client: AdminClient, before: Snapshot | None) -> Snapshot:
        """Raises `MqliftError`."""
        overview = client.overview()
        queues = list(client.rows("queues", LOOKED_AT))
        connections = list(client.rows("connections", LOOKED_AT))
        taken = cls(time.monotonic(), overview, queues, connections)
        if before is not None:
            taken._compare(before)
        return taken

    def rates(self, kind: str, name: object) -> tuple[float, float]:
        """Messages a second, published and delivered."""
        return self._rates.get((kind, str(name)), (0.0, 0.0))

    def busiest(self, kind: str, rows: Iterable[Row], key: str) -> list[Row]:
        """The rows in the order of their rates."""
        return sorted(rows, key=lambda row: (-sum(self.rates(kind, row[key])), str(row[key])))

    def _compare(self, before: Snapshot) -> None:
        seconds = max(self.at - before.at, 1e-3)
        for kind, key, now, then in (
            ("queue", "name", self.queues, before.queues),
            ("connection", "id", self.connections, before.connections),
            ("all", "version", [self.overview], [before.overview]),
        ):
            known = {str(row[key]): row for row in then}
            for row in now:
                old = known.get(str(row[key]))
                if old is not None:
                    published, delivered = (max(0.0, _number(row, each) - _number(old, each)) for each in COUNTED)
                    self._rates[kind, str(row[key])] = published / seconds, delivered / seconds


def run(client: AdminClient, interval: float, *, once: bool, wait: Callable[[float], None] = time.sleep) -> None:
    """Show until interrupted, or twice looked at once. A gateway that is away for a while is told, and waited for.

    Raises `MqliftError` when it cannot be reached at first.
    """
    console = Console()
    snapshot = Snapshot.take(client, None)
    if once:
        wait(interval)
        console.print(_page(Snapshot.take(client, snapshot), SHOWN_WITHOUT_TERMINAL))
        return
    with Live(_page(snapshot, _room(console)), console=console, screen=True, auto_refresh=False) as live:
        while True:
            wait(interval)
            try:
                snapshot = Snapshot.take(client, snapshot)
            except MqliftError as error:
                live.update(Text(str(error), style="red"), refresh=True)
            else:
                live.update(_page(snapshot, _room(console)), refresh=True)


def _room(console: Console) -> int:
    return max(3, (console.size.height - FRAME_LINES) // 2)


def _page(snapshot: Snapshot, rows: int) -> RenderableType:
    return Group(_summary(snapshot), *_left_out(snapshot), _queues(snapshot, rows), _connections(snapshot, rows))


def _summary(snapshot: Snapshot) -> Text:
    overview = snapshot.overview
    published, delivered = snapshot.rates("all", overview["version"])
    state = "ready" if overview["ready"] else "NOT READY"
    return Text(
        f"mqlift {overview['version']}: {state}, {overview['problems']} problems, {overview['workers']} worker(s), "
        f"up {_age(_number(overview, 'started'))}\n"
        f"{overview['connections']} connections ({overview['paused']} paused), {overview['queues']} queues, "
        f"{overview['bindings']} bindings, {overview['sessions']} sessions, {overview['retained']} retained\n"
        f"in {published:,.0f}/s, out {delivered:,.0f}/s, {overview['inflight']} in flight, "
        f"{overview['unsettled']} unsettled, {overview['unrouted']} unrouted"
    )


def _left_out(snapshot: Snapshot) -> Iterator[Text]:
    """A line for each listing that has more than was looked at: the busiest of all may be among the others."""
    for name, rows in (("queues", snapshot.queues), ("connections", snapshot.connections)):
        there = _number(snapshot.overview, name)
        if len(rows) >= LOOKED_AT and there > len(rows):
            yield Text(f"of {there:,.0f} {name} only the first {len(rows):,} are looked at", style="yellow")


def _queues(snapshot: Snapshot, rows: int) -> Table:
    table = _table("queue", "kind", "home", right=("consumers", "unsettled", "ready", "in/s", "out/s"))
    for row in snapshot.busiest("queue", snapshot.queues, "name")[:rows]:
        published, delivered = snapshot.rates("queue", row["name"])
        ready = "" if row["ready"] is None else str(row["ready"])
        shown = (row["name"], row["kind"], row["home"], row["consumers"], row["unsettled"], ready)
        table.add_row(*(Text(str(each)) for each in shown), f"{published:,.1f}", f"{delivered:,.1f}")
    return table


def _connections(snapshot: Snapshot, rows: int) -> Table:
    table = _table(
        "connection", "peer", "protocol", "user", "client", right=("in flight", "subscribed", "in/s", "out/s")
    )
    for row in snapshot.busiest("connection", snapshot.connections, "id")[:rows]:
        published, delivered = snapshot.rates("connection", row["id"])
        shown = [row[each] for each in ("id", "peer", "protocol", "user", "client_id", "inflight", "subscriptions")]
        style = "yellow" if row["paused"] else ""
        table.add_row(*(Text(str(each)) for each in shown), f"{published:,.1f}", f"{delivered:,.1f}", style=style)
    return table


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=None, expand=True, header_style="bold", padding=(0, 1))
    for title in left:
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for title in right:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _age(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    return f"{days} d {hours} h" if days else f"{hours} h {rest // 60} min"
