"""Which queues other gateways use, so that none is expired or emptied behind the back of its consumers.

What matters is announced while it lasts, and never written: queues that expire, those whose messages expire
to somewhere else, and those of shared subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from gateway.core.arguments import Overflow, QueuePolicy
from gateway.core.backend import QueueSpec
from gateway.core.fleet.membership import Fleet
from gateway.core.shared import SHARED

USED: Final = "used"

TELL_SECONDS: Final = 10.0
"""Between two announcements of one queue, at most."""

ELSEWHERE_SECONDS: Final = 3 * TELL_SECONDS
"""How long an announcement holds. After that the queue is taken for unused: what it waits for is due a little later."""

LATE_SECONDS: Final = 3.0
"""What an announcement may take, and what two gateways may be apart, beyond a queue's own time."""

REMEMBERED: Final = 20_000
"""Queues of which the last use elsewhere is known; twice as many as a gateway has."""


class UsedQueue(Protocol):
    """A durable queue, as far as its use goes."""

    name: str
    spec: QueueSpec
    policy: QueuePolicy
    used_at: float

    @property
    def consumers(self) -> int: ...

    @property
    def expiring(self) -> bool:
        """Whether its messages may expire, to somewhere else."""

    def be_alone(self, alone: bool) -> None:
        """Whether this gateway is the one to see to messages that expire: no consumer anywhere does."""


class Usage:
    """See `membership.Follower`. `clock`: that of the event loop."""

    kinds = (USED,)

    def __init__(self, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._elsewhere: dict[str, float] = {}
        self._told: dict[str, float] = {}

    async def follow(self, changes: Mapping[str, Collection[str]]) -> None:
        """As `Follower.follow`."""
        now = self._clock()
        for name in changes.get(USED, ()):
            self._elsewhere.pop(name, None)  # so that the oldest come first
            self._elsewhere[name] = now
        while len(self._elsewhere) > REMEMBERED:
            del self._elsewhere[next(iter(self._elsewhere))]

    async def rescan(self) -> None:
        """There is nothing to be read: while announcements are missed, any queue may be in use."""

    def is_mine(self, name: str) -> bool:
        """Whether this gateway is the one that does what one of them has to do for a queue."""
        return self._fleet.is_mine(name)

    def is_elsewhere(self, name: str) -> bool:
        """Whether another gateway has used a queue lately."""
        return self._clock() - self._last(name) < ELSEWHERE_SECONDS

    def is_expired(self, queue: UsedQueue, expires: float) -> bool:
        """Whether nobody anywhere has used a queue for so many seconds, and it is this gateway's to say so."""
        unused = self._clock() - max(self._last(queue.name), queue.used_at)
        return unused >= expires + LATE_SECONDS and self.is_mine(queue.name)

    def keeps_length(self, queue: UsedQueue) -> bool:
        """Whether this gateway is to keep a queue to its length: two would both take out what is too much."""
        return queue.policy.overflow is not Overflow.DROP_HEAD or self.is_mine(queue.name)

    def look(self, queue: UsedQueue) -> None:
        """Tell the others that a queue is used here, where that matters; and the queue, whether it is elsewhere."""
        expires = queue.policy.expires
        if expires is None and not queue.expiring and not queue.spec.arguments.get(SHARED):
            return
        now = self._clock()
        told = self._told.get(queue.name, float("-inf"))
        used = queue.consumers or queue.used_at > told
        if used and now - told >= min(TELL_SECONDS, TELL_SECONDS if expires is None else expires / 4_000):
            self._told[queue.name] = now
            self._fleet.note(USED, queue.name)
        queue.be_alone(self._fleet.size == 1 or (self.is_mine(queue.name) and not self.is_elsewhere(queue.name)))

    def forget(self, name: str) -> None:
        """The queue is gone."""
        self._told.pop(name, None)

    def _last(self, name: str) -> float:
        if self._fleet.size == 1:
            return self._elsewhere.get(name, float("-inf"))
        return max(self._elsewhere.get(name, float("-inf")), self._fleet.missed_at)
