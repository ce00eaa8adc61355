"""Memory for large bodies: bytes that all of them share, given out in the order in which they were asked for.

Whoever is about to have a large body in memory has a `Share`, and waits until it is as large as that body. Somebody who
asks for more than is left waits in line, and everybody behind waits too: so a large body is not overtaken for ever by
smaller ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

DEFAULT_BYTES: Final = 512 * 1024 * 1024
"""Four bodies of the greatest size, 128 MiB."""


class ByteBudget:
    """The bytes, and the line of those who wait. Used only from the event loop."""

    __slots__ = ("_line", "size", "used")

    def __init__(self, size: int = DEFAULT_BYTES) -> None:
        self.size = size
        self.used = 0
        """More than `size` where bodies were in memory before anybody could ask (`Share.claim`)."""
        self._line: dict[Share, int] = {}
        """Who waits, first come first served, and for how much in all."""

    @property
    def waiting(self) -> int:
        """Shares that wait to become larger."""
        return len(self._line)

    def resize(self, size: int) -> None:
        """Give out as many bytes from now on. What is held already stays."""
        self.size = size
        self._serve()

    def _ask(self, share: Share, size: int) -> bool:
        if next(iter(self._line), share) is share and self._has(size - share.held):
            waited = self._line.pop(share, None) is not None
            self._give(share, size)
            if waited:  # for more than that: those behind it may have room now
                self._serve()
            return True
        self._line[share] = size
        return False

    def _has(self, more: int) -> bool:
        # What is over the whole budget, after it was made smaller, goes alone.
        return self.used + more <= self.size or not self.used

    def _give(self, share: Share, size: int) -> None:
        self.used += size - share.held
        share.held = size

    def _leave(self, share: Share) -> None:
        if self._line.pop(share, None) is not None:
            self._serve()

    def _take_back(self, size: int) -> None:
        self.used -= size
        self._serve()

    def _serve(self) -> None:
        while self._line:
            share, size = next(iter(self._line.items()))
            if not self._has(size - share.held):
                return
            del self._line[share]
            self._give(share, size)
            share.granted()


class Share:
    """What one holder has of a budget. `granted` is called when its turn has come."""

    __slots__ = ("_budget", "granted", "held")

    def __init__(self, budget: ByteBudget, granted: Callable[[], None]) -> None:
        self._budget = budget
        self.granted = granted
        self.held = 0

    @property
    def waits(self) -> bool:
        """Whether it stands in line."""
        return self in self._budget._line  # noqa: SLF001 - the two are one thing

    @property
    def contested(self) -> bool:
        """Whether anybody stands in line for what is held."""
        return self._budget.waiting > 0

    def ask(self, size: int) -> bool:
        """Become as large as this, in all. False: `granted` is called when there is room; what is held stays held."""
        if size <= self.held:
            self.keep(size)
            return True
        return self._budget._ask(self, size)  # noqa: SLF001

    def claim(self, size: int) -> None:
        """Become as large as this at once, for what is in memory already; others wait until there is room again."""
        if size > self.held:
            self._budget._leave(self)  # noqa: SLF001
            self._budget._give(self, size)  # noqa: SLF001

    def hand_over(self, other: Share, size: int) -> None:
        """Let another share have so many bytes, those that are not held here as by `claim`."""
        moved = min(size, self.held)
        self.held -= moved
        other.held += moved
        other.claim(other.held + size - moved)

    def keep(self, size: int) -> None:
        """Give back what is held over this many bytes, and wait for no more. Idempotent."""
        self._budget._leave(self)  # noqa: SLF001
        over = self.held - size
        if over > 0:
            self.held = size
            self._budget._take_back(over)  # noqa: SLF001

    def drop(self) -> None:
        """Give back everything. Idempotent."""
        self.keep(0)


class AwaitedShare:
    """A share for a task, which can wait."""

    __slots__ = ("_ready", "_share")

    def __init__(self, budget: ByteBudget) -> None:
        self._share = Share(budget, self._granted)
        self._ready: asyncio.Future[None] | None = None

    @property
    def held(self) -> int:
        return self._share.held

    async def take(self, size: int) -> None:
        """Wait until there is room for so many bytes in all."""
        if self._share.ask(size):
            return
        self._ready = asyncio.get_running_loop().create_future()
        try:
            await self._ready
        except asyncio.CancelledError:
            self._share.drop()
            raise

    def drop(self) -> None:
        """Give back everything. Idempotent."""
        self._share.drop()

    def _granted(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
