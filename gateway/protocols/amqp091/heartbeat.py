"""Heartbeats: when one is to be sent, and when a peer has been silent for too long (spec §4.2.7)."""

from __future__ import annotations

import math
from typing import Final

TOLERANCE: Final = 2
"""Intervals of silence after which a peer is given up (spec §4.2.7)."""

SENT_PER_INTERVAL: Final = 2
"""Twice as often as agreed, as RabbitMQ does: one may be late."""


class Heartbeat:
    """The clockwork of one connection. Times are seconds on the caller's clock."""

    __slots__ = ("_interval", "_listening", "_received_at", "_send_at", "_silence")

    def __init__(self, interval: int, now: float) -> None:
        """`interval`: seconds, as agreed; 0 for no heartbeats at all."""
        self._interval = interval / SENT_PER_INTERVAL if interval else math.inf
        self._silence = interval * TOLERANCE if interval else math.inf
        self._send_at = now + self._interval
        self._received_at = now
        self._listening = True

    def received(self, now: float) -> None:
        """Anything has come from the peer."""
        self._received_at = now

    def listen(self, active: bool, now: float) -> None:
        """A peer that is not read cannot be blamed for silence."""
        self._listening = active
        self._received_at = now

    def due(self, now: float) -> bool:
        """Whether to send one now.

        Whatever else was written: eight bytes cost less than a clock reading for each write.
        """
        if now < self._send_at:
            return False
        self._send_at = now + self._interval
        return True

    def silence(self, now: float) -> float:
        """Seconds that the peer has been silent, when that is too long; 0 otherwise."""
        silent = now - self._received_at
        return silent if self._listening and silent >= self._silence else 0.0

    @property
    def deadline(self) -> float:
        """When the next of the two can be due."""
        return min(self._send_at, self._received_at + self._silence) if self._listening else self._send_at
