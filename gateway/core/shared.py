"""Queues that several sessions consume together, competing: kept in the store until nobody wants them any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import orjson
import structlog

from gateway.core.fleet.membership import Fleet
from gateway.core.fleet.recordfollower import RecordFollower
from gateway.core.statewriter import StateWriter
from gateway.core.store import Record, StateStore, every_record

log = structlog.get_logger("mqlift.shared")

SHARED: Final = "x-shared"
"""Argument of a queue that belongs to all its consumers, and ends some time after the last of them."""

SESSION: Final = "x-session"
"""Argument of the queue of one kept session: its metrics are counted with those of all others."""

SUBSCRIPTION: Final = "x-subscription"
"""Argument of the queue of a durable subscription: what that is to. Queues of one name that differ in it are different
ones in the backend, so that nothing of one subscription is ever seen in the next."""

KIND: Final = "shared"
GRACE: Final = 300.0
"""Seconds that a shared queue waits for its next consumer. Workers that restart find what came meanwhile."""


@dataclass(slots=True)
class SharedQueue:
    """How a shared queue was declared, and since when nobody has used it."""

    arguments: Mapping[str, object]
    bindings: dict[tuple[str, str], None] = field(default_factory=dict)
    unused_since: float | None = None


class SharedQueues:
    """All shared queues, by name."""

    def __init__(self, store: StateStore, writer: StateWriter, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._store = store
        self._writer = writer
        self._queues: dict[str, SharedQueue] = {}

    async def restore(self) -> Mapping[str, SharedQueue]:
        """Read what the store has. Raises `StoreError`."""
        async for record in every_record(self._store, KIND):
            self._take(record)
        return self._queues

    def follow(
        self, fleet: Fleet, appeared: Callable[[str, SharedQueue], None], vanished: Callable[[str], None]
    ) -> None:
        """Have the queues of other gateways too; `appeared` and `vanished` are told of them."""

        def apply(name: str, record: Record | None) -> None:
            if record is None:
                if self._queues.pop(name, None) is not None:
                    vanished(name)
            elif self._take(record):
                appeared(name, self._queues[name])

        fleet.followers.append(RecordFollower(self._store, self._writer, KIND, apply=apply, here=lambda: self._queues))

    def _take(self, record: Record) -> bool:
        """Know a queue as its record has it. False for a record that cannot be read."""
        try:
            packed = orjson.loads(record.value)
            bindings = dict.fromkeys((exchange, pattern) for exchange, pattern in packed["bindings"])
            queue = SharedQueue(packed["arguments"], bindings)
        except (KeyError, TypeError, ValueError) as error:
            log.error("shared_queue_unreadable", queue=record.key, problem=str(error))  # noqa: TRY400 - told in one line
            return False
        known = self._queues.get(record.key)
        if known is not None:
            queue.unused_since = known.unused_since
            queue.bindings.update(known.bindings)  # those that are not written yet
        self._queues[record.key] = queue
        return True

    def declare(self, name: str, arguments: Mapping[str, object]) -> None:
        """A consumer wants it, whether or not it was there."""
        queue = self._queues.setdefault(name, SharedQueue(arguments))
        queue.unused_since = None
        self._keep(name, queue)

    def bound(self, name: str, exchange: str, pattern: str) -> None:
        """Remember a binding, if the queue is a shared one. Written before any session that is kept later."""
        queue = self._queues.get(name)
        if queue is not None:
            queue.bindings[exchange, pattern] = None
            self._keep(name, queue)

    def sources(self, name: str) -> Collection[tuple[str, str]] | None:
        """Exchange and pattern of what a shared queue is bound to. None for a queue that is no shared one."""
        queue = self._queues.get(name)
        return None if queue is None else queue.bindings

    def unused(self, consumed: AbstractSet[str], in_use: AbstractSet[str]) -> list[str]:
        """The queues that have had neither a consumer nor a kept session for `GRACE`."""
        now = self._wall()
        gone = []
        for name, queue in self._queues.items():
            if name in consumed or name in in_use:
                queue.unused_since = None
            elif queue.unused_since is None:
                queue.unused_since = now
            elif now - queue.unused_since >= GRACE:
                gone.append(name)
        return gone

    def forget(self, name: str) -> None:
        """The queue was deleted."""
        del self._queues[name]
        self._writer.write(KIND, name, None)
        log.info("shared_queue_deleted", queue=name)

    def _keep(self, name: str, queue: SharedQueue) -> None:
        value = orjson.dumps({"arguments": queue.arguments, "bindings": list(queue.bindings)})
        self._writer.write(KIND, name, value)
