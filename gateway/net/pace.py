"""How fast somebody may publish: token buckets, which are never asked, only told.

Nobody is refused. What a publisher had already sent is taken, and it is then not read for as long as that costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BURST: Final = 1.0
"""Seconds of publishing at full pace that are saved while somebody publishes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRate:
    """What may be published in a second; 0 for any amount."""

    messages: float = 0.0
    bytes: float = 0.0
    """Of bodies."""

    def pace(self) -> Pace | None:
        """A new bucket, full; None where there is no limit."""
        return Pace(self) if self.messages or self.bytes else None


class Pace:
    """The buckets of one publisher, or of several that share them.

    A bucket is kept as one number (the generic cell rate algorithm, ITU-T I.371): the time at which all that was
    published so far is paid for. It lies in the past by as much as is saved, and in the future by what is owed.
    """

    __slots__ = ("_bytes_paid", "_messages_paid", "_per_byte", "_per_message")

    def __init__(self, rate: PublishRate) -> None:
        self._messages_paid = float("-inf")
        self._bytes_paid = float("-inf")
        self.change(rate)

    def change(self, rate: PublishRate) -> None:
        """Take another rate from the next message on, 0 for any. What is owed by now stays owed."""
        self._per_message = 1.0 / rate.messages if rate.messages else 0.0
        self._per_byte = 1.0 / rate.bytes if rate.bytes else 0.0

    def spend(self, size: int, now: float) -> float:
        """Count a message with a body of `size` bytes; gives the seconds to rest before the next, if over 0."""
        saved = now - BURST
        self._messages_paid = max(self._messages_paid, saved) + self._per_message
        self._bytes_paid = max(self._bytes_paid, saved) + self._per_byte * size
        return max(self._messages_paid, self._bytes_paid) - now
