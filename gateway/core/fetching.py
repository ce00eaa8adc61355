"""Deliveries whose bodies have to be fetched before a consumer gets them: one after the other, for one queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from gateway.core.delivery import Delivery
from gateway.core.errors import BackendError

log = structlog.get_logger("mqlift.receiver")


class Fetching:
    """Holds deliveries until their turn has come and their bodies are there.

    They may wait long, for consumers and for memory; whoever put them here keeps them hidden from others meanwhile.
    Where order counts, what came later waits as well, and is given back when it would overtake one that could not be
    fetched.
    """

    def __init__(
        self,
        *,
        wanted: Callable[[], bool],
        left: Callable[[Delivery], bool],
        hand_out: Callable[[Delivery], None],
        give_back: Callable[[Delivery], None],
        failed: Callable[[Delivery, BackendError], None],
    ) -> None:
        """`wanted`: whether a consumer takes one now. `left`: whether a delivery need not wait here, and is taken care
        of. Each ends in that or in one of the others, once.
        """
        self._wanted = wanted
        self._left = left
        self._hand_out = hand_out
        self._give_back = give_back
        self._failed = failed
        self._line: deque[Delivery] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wanting: asyncio.Event | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._line)

    def comes_first(self, delivery: Delivery) -> bool:
        """Whether a delivery has to pass through here: its body is not there, or it must not overtake another."""
        return delivery.absent or (bool(self._line) and _ordered(self._line[-1]))

    def put(self, delivery: Delivery) -> None:
        """Take a delivery that is held for the queue."""
        if self._stopped:
            self._give_back(delivery)
            return
        self._line.append(delivery)
        if self._task is None:
            self._begin()

    def wake(self) -> None:
        """A consumer may take one now."""
        if self._wanting is not None:
            self._wanting.set()

    def give_back_all(self) -> None:
        """Nobody is there any more to have what is here."""
        if self._task is not None:
            self._task.cancel()
        while self._line:
            self._give_back(self._line.popleft())

    def stop(self) -> None:
        """As `give_back_all`, now and from now on."""
        self._stopped = True
        self.give_back_all()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())
        self._task.add_done_callback(self._worked)

    async def finish(self) -> None:
        """Wait until nothing is under way, after `stop`."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while self._line:
            delivery = self._line[0]
            if self._left(delivery):
                self._line.popleft()
                continue
            await self._until_wanted()
            try:
                await delivery.load()
            except BackendError as error:
                self._fail(delivery, error)
                continue
            if self._wanted():
                self._line.popleft()
                self._hand_out(delivery)
            else:
                delivery.unload()  # its consumer does not read; others may need the memory

    async def _until_wanted(self) -> None:
        while not self._wanted():
            self._wanting = asyncio.Event()
            await self._wanting.wait()

    def _fail(self, delivery: Delivery, error: BackendError) -> None:
        self._line.popleft()
        if _ordered(delivery):
            while self._line:
                self._give_back(self._line.popleft())
        self._failed(delivery, error)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("hand_out_failed_unexpectedly", exc_info=error)
            self.give_back_all()
        elif self._line:  # they came after the last one was given back
            self._begin()


def _ordered(delivery: Delivery) -> bool:
    """A delivery without a large body stands in line only behind one that is ordered."""
    return delivery.large is None or delivery.large.ordered
