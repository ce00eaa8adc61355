"""Queues with the semantics of SQS: visibility, receive counts, groups in order, deduplication, delay. Pure.

A message is *waiting* until it is taken, then *hidden* until its time comes, it is released, or it is deleted.
"""

from __future__ import annotations

import bisect
import heapq
import time
from collections import deque
from typing import Final

from gateway.core.backend import Depth
from gateway.core.errors import ReceiptExpired, Throttled
from gateway.core.message import Message

QUEUE_LIMIT: Final = 1_000_000
"""Messages in one queue. SQS has no such limit; this process's memory has."""

IN_FLIGHT_LIMIT: Final = 120_000
"""Messages received and not deleted (SQS guide, "Message quotas"); beyond it SQS answers OverLimit."""

DEDUPLICATION_SECONDS: Final = 300.0
"""The deduplication interval of SQS FIFO queues."""
DEDUPLICATION_LIMIT: Final = 100_000
"""Ids that are remembered; the oldest is forgotten for the newest."""

COMPACT_FROM: Final = 1024
"""Stale timers that are worth a sweep."""


class Stored:
    """A message in a queue. `hidden_until` is None while it waits; `receipt` is that of the last receive."""

    __slots__ = ("group", "hidden_until", "message", "receipt", "received", "sequence", "stored_at")

    def __init__(self, message: Message, group: str, sequence: int) -> None:
        self.message = message
        self.group = group
        self.sequence = sequence
        self.receipt = ""
        self.received = 0
        self.stored_at = time.time()
        self.hidden_until: float | None = None

    def __lt__(self, other: Stored) -> bool:
        return self.sequence < other.sequence


class StandardQueue:
    """In the order of sending, as far as nothing comes back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting: deque[Stored] = deque()
        self._in_flight: dict[str, Stored] = {}
        self._delayed = 0
        # (time, sequence, message): an entry whose time is not the message's own any more is stale.
        self._timers: list[tuple[float, int, Stored]] = []
        self._sequence = 0
        self._receipts = 0

    def put(
        self,
        message: Message,
        group: str,
        deduplication_id: str,  # noqa: ARG002 - a standard queue deduplicates nothing
        delay: float,
        now: float,
    ) -> None:
        """Keep a message, hidden for `delay` seconds. Raises `Throttled` when the queue is full."""
        if len(self) >= QUEUE_LIMIT:
            raise Throttled(f"the queue holds {QUEUE_LIMIT} messages", resource=f"memory queue {self.name}")
        self._sequence += 1
        stored = Stored(message, group, self._sequence)
        if delay > 0:
            self._delayed += 1
            self._hide(stored, now + delay)
        else:
            self._wait(stored)

    def take(self, limit: int, visibility: float, now: float) -> list[Stored]:
        """Raises `Throttled` when too much is in flight."""
        self._awake(now)
        room = IN_FLIGHT_LIMIT - len(self._in_flight)
        if room <= 0:
            raise Throttled(f"{IN_FLIGHT_LIMIT} messages are in flight", resource=f"memory queue {self.name}")
        taken = self._next(min(limit, room))
        for stored in taken:
            self._receipts += 1
            stored.receipt = f"{stored.sequence}-{self._receipts}"
            stored.received += 1
            self._in_flight[stored.receipt] = stored
            self._hide(stored, now + visibility)
        return taken

    def delete(self, receipt: str, now: float) -> None:
        """Raises `ReceiptExpired`."""
        stored = self._held(receipt, now)
        stored.hidden_until = None
        self._end(stored)

    def hide(self, receipt: str, visibility: float, now: float) -> None:
        """Hide a message in flight for `visibility` seconds from now; 0 lets it come back. Raises `ReceiptExpired`."""
        stored = self._held(receipt, now)
        if visibility > 0:
            self._hide(stored, now + visibility)
        else:
            self._come_back(stored)

    def next_change(self) -> float:
        """When the next hidden message comes back at the earliest; infinity for never."""
        return self._timers[0][0] if self._timers else float("inf")

    def depth(self, now: float) -> Depth:
        self._awake(now)
        return Depth(ready=self._ready(), unsettled=len(self._in_flight), delayed=self._delayed)

    def __len__(self) -> int:
        return self._ready() + len(self._in_flight) + self._delayed

    def _held(self, receipt: str, now: float) -> Stored:
        self._awake(now)
        stored = self._in_flight.get(receipt)
        if stored is None:
            raise ReceiptExpired("the delivery is not held any more", resource=f"memory queue {self.name}")
        return stored

    def _hide(self, stored: Stored, until: float) -> None:
        stored.hidden_until = until
        heapq.heappush(self._timers, (until, stored.sequence, stored))
        if len(self._timers) > 2 * (len(self._in_flight) + self._delayed) + COMPACT_FROM:
            self._timers = [timer for timer in self._timers if timer[2].hidden_until == timer[0]]
            heapq.heapify(self._timers)

    def _awake(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            until, _, stored = heapq.heappop(self._timers)
            if stored.hidden_until == until:
                self._come_back(stored)

    def _come_back(self, stored: Stored) -> None:
        stored.hidden_until = None
        if stored.receipt:
            self._end(stored)
            self._wait_again(stored)
        else:
            self._delayed -= 1
            self._wait(stored)

    def _end(self, stored: Stored) -> None:
        del self._in_flight[stored.receipt]

    def _ready(self) -> int:
        return len(self._waiting)

    def _wait(self, stored: Stored) -> None:
        self._waiting.append(stored)

    def _wait_again(self, stored: Stored) -> None:
        self._waiting.appendleft(stored)

    def _next(self, limit: int) -> list[Stored]:
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]


class FifoQueue(StandardQueue):
    """In order within each group; a group that has a message in flight hands out nothing more."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._groups: dict[str, deque[Stored]] = {}
        self._blocked: dict[str, int] = {}
        self._free: dict[str, None] = {}
        """Groups with messages waiting and none in flight, in the order in which they came to that."""
        self._seen: dict[str, float] = {}
        self._count = 0

    def put(self, message: Message, group: str, deduplication_id: str, delay: float, now: float) -> None:
        """A message whose deduplication id was used within the window is accepted and not kept."""
        self._forget_ids(now)
        if deduplication_id in self._seen:
            return
        super().put(message, group, deduplication_id, delay, now)
        self._seen[deduplication_id] = now + DEDUPLICATION_SECONDS

    def _forget_ids(self, now: float) -> None:
        # All ids have the same window, so the oldest ends first.
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest] > now and len(self._seen) < DEDUPLICATION_LIMIT:
                return
            del self._seen[oldest]

    def _ready(self) -> int:
        return self._count

    def _wait(self, stored: Stored) -> None:
        self._wait_again(stored)

    def _wait_again(self, stored: Stored) -> None:
        waiting = self._groups.setdefault(stored.group, deque())
        bisect.insort(waiting, stored)
        self._count += 1
        self._offer(stored.group)

    def _offer(self, group: str) -> None:
        if group in self._groups and group not in self._blocked:
            self._free[group] = None

    def _end(self, stored: Stored) -> None:
        super()._end(stored)
        group = stored.group
        self._blocked[group] -= 1
        if not self._blocked[group]:
            del self._blocked[group]
            self._offer(group)

    def _next(self, limit: int) -> list[Stored]:
        """As many of the first free group as there are, then of the next one, as SQS does."""
        taken: list[Stored] = []
        while self._free and len(taken) < limit:
            group = next(iter(self._free))
            del self._free[group]
            waiting = self._groups[group]
            chosen = [waiting.popleft() for _ in range(min(limit - len(taken), len(waiting)))]
            if not waiting:
                del self._groups[group]
            self._blocked[group] = len(chosen)
            self._count -= len(chosen)
            taken += chosen
        return taken
