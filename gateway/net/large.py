"""The large bodies of one connection: what it assembles, what it has published, and what it is being sent.

Each takes memory that all connections share. A connection whose peer announces more than is left is not read until
there is room; one whose peer has room, and neither sends nor reads while others wait for it, is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.budget import ByteBudget, Share
from gateway.core.delivery import Delivery
from gateway.core.session import Session

UNCOUNTED: Final = 256 * 1024
"""Bytes of unfinished messages that a connection may have without room for them: what one read brings anyway."""

STALLED: Final = 30.0
"""Seconds in which a peer has to send, or to read, `PROGRESS` of a large message while others wait for its memory."""

PROGRESS: Final = 64 * 1024
"""Bytes. Slower than 2 KB in a second, a large message would take the better part of a day."""


class LargeBodies:
    """Made with the first large body of a connection."""

    __slots__ = (
        "_assembling",
        "_inflight",
        "_moved",
        "_outgoing",
        "_taken",
        "_writes_since",
        "_writing",
        "checked_at",
        "reads_since",
    )

    def __init__(self, budget: ByteBudget, granted: Callable[[], None], now: float) -> None:
        """`granted` is called when `assemble` has said False and there is room now."""
        self._assembling = Share(budget, granted)
        self._inflight = Share(budget, granted)  # which never asks
        self._moved = 0
        """Bytes from the peer since it was last looked at."""
        self._taken = 0
        self._writes_since = now
        self.reads_since = now
        """When the peer was begun to be read, without a pause; on the event loop's clock."""
        self._outgoing: list[Delivery] = []
        self._writing: list[Delivery] = []
        self.checked_at = now
        """When the peer was last looked at, on the event loop's clock."""

    # From the peer

    def assemble(self, size: int, received: int, now: float) -> bool:
        """The peer has announced so many bytes in all, and sent some more of them. False: it has to wait for room."""
        self._moved += received
        if not self._assembling.held:
            self.reads_since = now
        return self._assembling.ask(size if size > UNCOUNTED else 0)

    def publish(self, size: int) -> None:
        """A body is complete, and on its way. It is in memory, whether there is room or not."""
        self._assembling.hand_over(self._inflight, size)

    def published(self, size: int) -> None:
        """It has arrived, or will not."""
        self._inflight.keep(self._inflight.held - size)

    def lost(self) -> None:
        """Nothing more comes; what was published is still under way."""
        self._assembling.drop()

    # To the peer

    def deliver(self, delivery: Delivery) -> None:
        """A delivery was left with the session."""
        self._outgoing.append(delivery)

    def encoded(self, session: Session, now: float) -> None:
        """What the session has to send was taken from it, and is about to be written."""
        if not self._writing:
            self._writes_since = now
        waiting: list[Delivery] = []
        for delivery in self._outgoing:
            if session.needs_body(delivery):
                waiting.append(delivery)
            else:
                delivery.strip()
                self._writing.append(delivery)
        self._outgoing = waiting

    def written(self) -> None:
        """The operating system has taken all that was written."""
        for delivery in self._writing:
            delivery.unload()
        self._writing.clear()

    # The peer

    def stalls(self, now: float, taken: int, *, waits_for_us: bool) -> bool:
        """Whether the peer keeps memory that others wait for, and does nothing. To be asked every `STALLED` seconds.

        `taken`: bytes that the peer has been sent and has read, ever. `waits_for_us`: whether it is not read for
        another reason than a lack of room.
        """
        moved = self._moved + taken - self._taken
        self._moved, self._taken = 0, taken
        self.checked_at = now
        if not self._assembling.contested or moved >= PROGRESS:
            return False
        keeps_unread = bool(self._writing) and now >= self._writes_since + STALLED
        keeps_unsent = self._assembling.held > 0 and not waits_for_us and now >= self.reads_since + STALLED
        return keeps_unread or keeps_unsent

    @property
    def idle(self) -> bool:
        """Whether there are none now."""
        return not (self._assembling.held or self._assembling.waits or self._inflight.held) and not (
            self._outgoing or self._writing
        )
