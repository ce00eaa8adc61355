"""One result of several: what the publisher is told of a message that goes to more than one place."""

from __future__ import annotations

from gateway.core.backend import Answerable
from gateway.core.outcome import ACCEPTED, Result, worse


class Merge:
    """Waits for several places that one message went to: accepted when all accepted, the worst outcome wins."""

    __slots__ = ("_missing", "_token", "_waiter", "_worst")

    def __init__(self, places: int, waiter: Answerable, token: object) -> None:
        self._missing = places
        self._waiter = waiter
        self._token = token
        self._worst = ACCEPTED

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - every place answers for the same token
        self._worst = worse(self._worst, result)
        self._missing -= 1
        if not self._missing:
            self._waiter.answer(self._token, self._worst)
