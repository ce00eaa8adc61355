"""Changes to what several gateways have in common: each is made on what the others have made it, or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.core.durable import DurableTopology
from gateway.core.fleet.membership import Fleet
from gateway.core.fleet.topologyfollower import TopologyFollower
from gateway.core.later import Later
from gateway.core.store import Conflict

T = TypeVar("T")

TRIES: Final = 8
"""Times that a change is made anew because another gateway was faster, before it is given up."""


class Agreement:
    """Lets changes to the durable topology follow each other, whichever gateways make them."""

    def __init__(self, fleet: Fleet, follower: TopologyFollower, durable: DurableTopology) -> None:
        self._fleet = fleet
        self._follower = follower
        self._durable = durable

    async def catch_up(self) -> None:
        """Know everything that was answered at another gateway before this call. Raises `StoreError`."""
        await self._fleet.catch_up()

    def change(self, change: Callable[[], object]) -> Awaitable[None]:
        """Make a change that the topology's journal is told of, and wait until it is durable.

        Awaited, it raises what the change raises, and `StoreError`; not awaited, nothing is changed.
        """
        return Later(lambda: self.reach(lambda: self._written(change)))

    async def _written(self, change: Callable[[], object]) -> None:
        change()
        written = self._durable.written()
        if written is not None:
            await written

    async def reach(self, change: Callable[[], Awaitable[T]]) -> T:
        """Make a change on what there is now, again and again while others are faster. Raises as `change` does."""
        for _ in range(TRIES - 1):
            await self.catch_up()
            try:
                return await change()
            except Conflict as conflict:
                await self._follower.read(conflict.kind, conflict.key)
        await self.catch_up()
        return await change()
