"""Heart-beats: what two peers agree to, and when they are due."""

from __future__ import annotations

import math
from typing import NamedTuple

from gateway.protocols.stomp.errors import BadHeader
from gateway.protocols.stomp.headers import parse_number

NEVER = math.inf

_MAX_MILLISECONDS = 2**31 - 1


class Intervals(NamedTuple):
    """Milliseconds between signs of life from us and from the peer at most; 0: none were agreed."""

    ours: int
    peers: int

    def __str__(self) -> str:
        return f"{self.ours},{self.peers}"


NO_HEART_BEATS = Intervals(0, 0)


def negotiate(asked: str, floor: int) -> Intervals:
    """Agree to a CONNECT's `heart-beat` header, but not more often than each `floor` milliseconds.

    [STOMP 1.2, Heart-beating] Each direction runs at the larger of what one offers and the other wants. Offering and
    wanting just what the peer asked for, as RabbitMQ does, makes these intervals also the header of CONNECTED.
    Raises `BadHeader`.
    """
    can_send, comma, wants = asked.partition(",")
    if not comma:
        raise BadHeader("heart-beat is not two numbers of milliseconds")
    peers = parse_number("heart-beat", can_send, _MAX_MILLISECONDS)
    ours = parse_number("heart-beat", wants, _MAX_MILLISECONDS)
    return Intervals(max(ours, floor) if ours else 0, max(peers, floor) if peers else 0)


class HeartBeat:
    """The clockwork of one connection that agreed to heart-beats. Times are seconds on the caller's clock."""

    __slots__ = ("_interval", "_listening", "_send_at", "_silence")

    def __init__(self, intervals: Intervals, tolerance: float, now: float) -> None:
        self._interval = intervals.ours / 1000 if intervals.ours else NEVER
        # [STOMP 1.2, Heart-beating] "because of timing inaccuracies, the receiver SHOULD be tolerant"
        self._silence = intervals.peers * tolerance / 1000 if intervals.peers else NEVER
        self._send_at = now + self._interval
        self._listening = True

    def beat_due(self, now: float) -> bool:
        """Whether to send one now.

        One goes out each interval, whatever else was written: a byte costs less than a clock reading for each write.
        """
        if now < self._send_at:
            return False
        self._send_at = now + self._interval
        return True

    def peer_is_silent(self, received_at: float, now: float) -> bool:
        return self._listening and now - received_at >= self._silence

    def listen(self, active: bool) -> None:
        """A peer that is not read cannot be blamed for silence."""
        self._listening = active

    def deadline(self, received_at: float) -> float:
        """When the next of the two can be due."""
        return min(self._send_at, received_at + self._silence) if self._listening else self._send_at
