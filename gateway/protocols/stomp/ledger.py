"""What a consumer has been given and has not yet settled, for each of the two ways to acknowledge."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from gateway.core.delivery import Delivery

NOTHING: Sequence[Delivery] = ()


class Ledger(Protocol):
    """The unsettled deliveries of one subscription, numbered from 1 without gaps, oldest first."""

    def hold(self, number: int, delivery: Delivery) -> None:
        """Take a delivery; `number` is one more than that of the delivery before."""

    def settle(self, number: int) -> Sequence[Delivery]:
        """Give up what an ACK or NACK of `number` speaks of. Empty: nothing of that number is held."""

    def settle_one(self, number: int) -> Sequence[Delivery]:
        """Give up that of `number` alone, whatever came before it."""

    def held(self) -> Sequence[Delivery]:
        """All that is unsettled, oldest first."""


class CumulativeLedger:
    """For `ack:client`: a number settles all that came before it, too ([STOMP 1.2, SUBSCRIBE ack Header])."""

    __slots__ = ("_deliveries", "_first")

    def __init__(self) -> None:
        self._first = 1
        self._deliveries: deque[Delivery | None] = deque()
        """From `_first` on, without gaps: None where one was settled alone."""

    def hold(self, number: int, delivery: Delivery) -> None:  # noqa: ARG002 - the numbers have no gaps
        self._deliveries.append(delivery)

    def settle(self, number: int) -> Sequence[Delivery]:
        if not self._holds(number):
            return NOTHING
        count = number - self._first + 1
        self._first = number + 1
        take = self._deliveries.popleft
        return [delivery for delivery in [take() for _ in range(count)] if delivery is not None]

    def settle_one(self, number: int) -> Sequence[Delivery]:
        if not self._holds(number):
            return NOTHING
        deliveries = self._deliveries
        delivery = deliveries[number - self._first]
        deliveries[number - self._first] = None
        while deliveries and deliveries[0] is None:
            deliveries.popleft()
            self._first += 1
        return NOTHING if delivery is None else (delivery,)

    def held(self) -> Sequence[Delivery]:
        return tuple(delivery for delivery in self._deliveries if delivery is not None)

    def _holds(self, number: int) -> bool:
        index = number - self._first
        return 0 <= index < len(self._deliveries) and self._deliveries[index] is not None


class IndividualLedger:
    """For `ack:client-individual`: a number settles only itself."""

    __slots__ = ("_deliveries",)

    def __init__(self) -> None:
        self._deliveries: dict[int, Delivery] = {}

    def hold(self, number: int, delivery: Delivery) -> None:
        self._deliveries[number] = delivery

    def settle(self, number: int) -> Sequence[Delivery]:
        delivery = self._deliveries.pop(number, None)
        return NOTHING if delivery is None else (delivery,)

    settle_one = settle

    def held(self) -> Sequence[Delivery]:
        return tuple(self._deliveries.values())
