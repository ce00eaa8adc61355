"""What the admin server shows and does, whoever knows it: one gateway, or all workers of one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from prometheus_client import CollectorRegistry

from gateway.core.errors import MqliftError
from gateway.core.health import Problem

Row: TypeAlias = dict[str, object]
"""One line of a listing, or any other JSON object."""


class NoSuch(MqliftError):
    """There is no connection or queue of this name."""


class Listing(Enum):
    """What can be listed, a page at a time. The second value is the field that rows are ordered by and known by."""

    CONNECTIONS = ("connections", "id")
    QUEUES = ("queues", "name")
    EXCHANGES = ("exchanges", "name")
    BINDINGS = ("bindings", "id")

    def __init__(self, path: str, key: str) -> None:
        self.path = path
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether new connections are welcome, and what is wrong."""

    ready: bool
    draining: bool
    problems: tuple[Problem, ...]


class Site(Protocol):
    """What is administered. Called from the event loop of the admin server."""

    async def registry(self) -> CollectorRegistry:
        """All metrics as they are now."""

    async def readiness(self) -> Readiness: ...

    async def overview(self) -> Row:
        """The whole in a few figures."""

    async def rows(self, listing: Listing, limit: int, after: str, *, depth: bool) -> list[Row]:
        """The next `limit` rows behind the one that `after` names, from the first for an empty text.

        `depth`: ask AWS how many messages wait in each queue.
        """

    async def purge(self, queue: str) -> int:
        """Drop a queue's messages; how many there were, approximately. Raises `NoSuch`, `Refused`, `BackendError`."""

    async def close(self, connection: str) -> None:
        """End a connection. Raises `NoSuch`."""
