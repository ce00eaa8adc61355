"""Back-pressure: who published too much for the moment is not read until there is room again."""

from __future__ import annotations

from typing import Protocol


class Pausable(Protocol):
    """A publisher that can be asked to wait, for one reason or several at once."""

    def pause(self, reason: object) -> None:
        """Take no more messages from the peer until every reason was resumed."""

    def resume(self, reason: object) -> None:
        """One reason is over."""


class Watermark:
    """Counts what is held somewhere, in messages and bytes; pauses who adds above the mark.

    Nobody is refused: what a publisher had already sent is taken. So the mark is passed by at most one socket read for
    each publisher. All are resumed when half of it is free again, so that they do not stop and go for each message.
    """

    __slots__ = ("_low_bytes", "_low_count", "_waiting", "bytes", "count", "high_bytes", "high_count")

    def __init__(self, high_count: int, high_bytes: int) -> None:
        self.count = 0
        self.bytes = 0
        self._waiting: dict[Pausable, None] = {}
        self.move(high_count, high_bytes)

    def move(self, high_count: int, high_bytes: int) -> None:
        """Set the mark; who waits goes on when what is held has fallen to half of it."""
        self.high_count = high_count
        self.high_bytes = high_bytes
        self._low_count = high_count // 2
        self._low_bytes = high_bytes // 2

    @property
    def full(self) -> bool:
        """Whether the mark is reached."""
        return self.count >= self.high_count or self.bytes >= self.high_bytes

    def add(self, size: int, publisher: Pausable) -> None:
        self.count += 1
        self.bytes += size
        over = self.count >= self.high_count or self.bytes >= self.high_bytes
        if over and publisher not in self._waiting:
            self._waiting[publisher] = None
            publisher.pause(self)

    def remove(self, size: int, count: int = 1) -> None:
        """So many messages, of so many bytes together, are gone."""
        self.count -= count
        self.bytes -= size
        if self._waiting and self.count <= self._low_count and self.bytes <= self._low_bytes:
            waiting, self._waiting = self._waiting, {}
            for publisher in waiting:
                publisher.resume(self)

    def forget(self, publisher: Pausable) -> None:
        """The publisher is gone."""
        self._waiting.pop(publisher, None)
