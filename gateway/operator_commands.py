"""The commands for operators, which ask a running gateway: `top`, `queues`, `connections`, `purge`, `close`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.core.errors import MqliftError

if TYPE_CHECKING:
    from gateway.clients.admin import AdminClient, Row

URL_VARIABLE: Final = "MQLIFT_ADMIN_URL"
TOKEN_VARIABLE: Final = "MQLIFT_ADMIN__TOKEN"  # noqa: S105 -- its name, that of the gateway's own setting

_Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="The gateway's admin server.")]
_TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help=f"Holds the token; it is taken from {TOKEN_VARIABLE} otherwise.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print a JSON object for each line.")]
_Most = Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows at most.")]

DEFAULT_URL: Final = "http://127.0.0.1:9090"

QUEUE_COLUMNS: Final = ("name", "kind", "home", "consumers", "unsettled", "ready", "published", "delivered")
CONNECTION_COLUMNS: Final = (
    "id",
    "peer",
    "protocol",
    "user",
    "client_id",
    "published",
    "delivered",
    "inflight",
    "subscriptions",
    "paused",
)


def add_commands(app: typer.Typer, one_line_errors: Callable[[], AbstractContextManager[None]]) -> None:
    """Add them to `mqlift`."""

    @app.command()
    def top(
        url: _Url = DEFAULT_URL,
        token_file: _TokenFile = None,
        interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
        once: Annotated[bool, typer.Option("--once", help="Look twice, print the tables and leave.")] = False,
    ) -> None:
        """Show what a gateway does, the busiest first. Ctrl-C ends."""
        with one_line_errors():
            from gateway.clients import top as live

            live.run(_client(url, token_file), interval, once=once)

    @app.command()
    def queues(
        url: _Url = DEFAULT_URL,
        token_file: _TokenFile = None,
        depth: Annotated[bool, typer.Option("--depth", help="Ask AWS how many messages wait in each.")] = False,
        as_json: _Json = False,
        limit: _Most = 1_000,
    ) -> None:
        """List the queues that a gateway uses."""
        with one_line_errors():
            _list(_client(url, token_file).rows("queues", limit, depth=depth), QUEUE_COLUMNS, as_json)

    @app.command()
    def connections(
        url: _Url = DEFAULT_URL, token_file: _TokenFile = None, as_json: _Json = False, limit: _Most = 1_000
    ) -> None:
        """List who is connected to a gateway."""
        with one_line_errors():
            _list(_client(url, token_file).rows("connections", limit), CONNECTION_COLUMNS, as_json)

    @app.command()
    def purge(
        queue: Annotated[str, typer.Argument(metavar="QUEUE")], url: _Url = DEFAULT_URL, token_file: _TokenFile = None
    ) -> None:
        """Drop the messages of a queue that nobody holds."""
        with one_line_errors():
            count = _client(url, token_file).purge(queue)
            typer.echo(f"about {count} messages dropped from {queue}")

    @app.command()
    def close(
        connection: Annotated[str, typer.Argument(metavar="ID", help="As `mqlift connections` shows it.")],
        url: _Url = DEFAULT_URL,
        token_file: _TokenFile = None,
    ) -> None:
        """End a connection. What it held is delivered again; its client may connect again."""
        with one_line_errors():
            _client(url, token_file).close(connection)


def _client(url: str, token_file: Path | None) -> AdminClient:
    from gateway.clients.admin import AdminClient

    return AdminClient(url, _token(token_file))


def _token(file: Path | None) -> str | None:
    """Never from an argument, which every process can see."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise MqliftError(f"--token-file {file}: {reason}") from error


def _list(rows: Iterable[Row], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_shown(row.get(column))) for column in columns))
    console = Console()
    # A pipe has no width: what reads it wants whole lines.
    console.print(table, width=console.width if console.is_terminal else 10_000, crop=False)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
