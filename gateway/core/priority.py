"""A queue with priorities: several queues of a backend, one for each level, that look like one.

SQS knows no priorities. Each level is a queue of its own; the highest is asked first. `docs/adr` has the reasons and
the price.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from gateway.core.backend import Backend, Depth, Entry, QueueSpec, Received, Redriving, Target
from gateway.core.errors import BackendError, InvalidArgument
from gateway.core.message import Message
from gateway.core.outcome import Outcome, Result, failed

LEVELS: Final = 5
"""Queues of one queue with priorities, at most: each is polled, and each poll costs."""

log = structlog.get_logger("mqlift.queues")

T = TypeVar("T")


def level_count(max_priority: int) -> int:
    """How many levels a queue has that was declared with this `x-max-priority`."""
    return min(max_priority + 1, LEVELS)


class _Leveled:
    """What is sent, and to which level."""

    __slots__ = ("entry", "level")

    def __init__(self, level: int, entry: Entry) -> None:
        self.level = level
        self.entry = entry


class PriorityBackend:
    """Implements `gateway.core.backend.Backend` for the one queue whose levels it was given, the lowest first.

    A receipt is the level, a colon, and the receipt of the level's queue.
    """

    def __init__(self, backend: Backend, levels: Sequence[Target], max_priority: int) -> None:
        self.limits = backend.limits
        self._backend = backend
        self._levels = tuple(levels)
        self._max_priority = max_priority
        self._loop = asyncio.get_running_loop()
        self._polls: dict[int, asyncio.Task[None]] = {}
        """The long polls under way, one for each level at most."""
        self._early: tuple[deque[tuple[float, Received]], ...] = tuple(deque() for _ in levels)
        """What they brought, until when it may be handed out."""
        self._error: BackendError | None = None

    def home(self, queue: str, spec: QueueSpec) -> Target:
        return self._backend.home(queue, spec)

    # Sending

    def level(self, message: Message) -> int:
        """Neighbouring priorities share a level where there are more of them than levels."""
        priority = min(message.properties.priority or 0, self._max_priority)
        return priority * len(self._levels) // (self._max_priority + 1)

    def encode(self, target: Target, message: Message) -> Entry:  # noqa: ARG002 - it is one of the levels
        level = self.level(message)
        entry = self._backend.encode(self._levels[level], message)
        return Entry(_Leveled(level, entry), entry.size, entry.key)

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:  # noqa: ARG002 - as above
        parts: list[list[Entry]] = [[] for _ in self._levels]
        places: list[int] = []
        for entry in entries:
            leveled = entry.payload
            assert isinstance(leveled, _Leveled)
            leveled.entry.deadline = entry.deadline
            parts[leveled.level].append(leveled.entry)
            places.append(leveled.level)
        return await self._split(parts, places, self._backend.send)

    # Receiving

    async def receive(self, target: Target, limit: int, wait: float, visibility: float) -> Sequence[Received]:  # noqa: ARG002
        if early := self._take_early(limit):
            return early
        for level in reversed(range(len(self._levels))):
            if level in self._polls:
                continue  # it is being asked
            received = await self._backend.receive(self._levels[level], limit, 0.0, visibility)
            if received:
                return [_marked(level, each) for each in received]
        return await self._wait(limit, wait, visibility)

    async def _wait(self, limit: int, wait: float, visibility: float) -> Sequence[Received]:
        """Ask all levels together until one has something.

        The other polls go on: the service may have taken messages for their answers already. What they bring is handed
        out first the next time.
        """
        deadline = self._loop.time() + wait
        while True:
            if early := self._take_early(limit):
                return early
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            left = deadline - self._loop.time()
            if left <= 0:
                return ()
            for level in range(len(self._levels)):
                if level not in self._polls:
                    self._polls[level] = self._loop.create_task(self._poll(level, limit, wait, visibility))
            await asyncio.wait(self._polls.values(), timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def _poll(self, level: int, limit: int, wait: float, visibility: float) -> None:
        try:
            received = await self._backend.receive(self._levels[level], limit, wait, visibility)
        except BackendError as error:
            self._error = error
        else:
            # Later than this, too little of its time would be left for whoever gets it to have it renewed.
            until = self._loop.time() + visibility / 2
            self._early[level].extend((until, _marked(level, each)) for each in received)
        finally:
            del self._polls[level]

    def _take_early(self, limit: int) -> list[Received]:
        """What came without being waited for, the highest level first. What was here too long comes back by itself."""
        now = self._loop.time()
        taken: list[Received] = []
        for early in reversed(self._early):
            while early and len(taken) < limit:
                until, received = early.popleft()
                if until > now:
                    taken.append(received)
        return taken

    # Ending

    async def settle(self, target: Target, receipts: Sequence[str], outcome: Outcome) -> Sequence[Result]:  # noqa: ARG002
        return await self._by_receipt(receipts, lambda level, receipts: self._backend.settle(level, receipts, outcome))

    async def extend(self, target: Target, receipts: Sequence[str], visibility: float) -> Sequence[Result]:  # noqa: ARG002
        return await self._by_receipt(
            receipts, lambda level, receipts: self._backend.extend(level, receipts, visibility)
        )

    async def _by_receipt(
        self, receipts: Sequence[str], request: Callable[[Target, Sequence[str]], Awaitable[Sequence[Result]]]
    ) -> Sequence[Result]:
        parts: list[list[str]] = [[] for _ in self._levels]
        places: list[int] = []
        for marked in receipts:
            level, _, receipt = marked.partition(":")
            parts[int(level)].append(receipt)
            places.append(int(level))
        return await self._split(parts, places, request)

    async def _split(
        self,
        parts: Sequence[Sequence[T]],
        places: Sequence[int],
        request: Callable[[Target, Sequence[T]], Awaitable[Sequence[Result]]],
    ) -> Sequence[Result]:
        """One request for each level that has a part; the results in the order of `places`.

        Raises `BackendError` when all failed; when only some did, their entries have the error as their result.
        """

        async def ask(target: Target, part: Sequence[T]) -> Sequence[Result] | BackendError:
            try:
                return await request(target, part) if part else ()
            except BackendError as error:
                return error

        answers = await asyncio.gather(*map(ask, self._levels, parts))
        errors = [answer for answer in answers if isinstance(answer, BackendError)]
        if errors and len(errors) == len([part for part in parts if part]):
            raise errors[0]
        results = [iter(_results(answer, len(part))) for answer, part in zip(answers, parts, strict=True)]
        return [next(results[level]) for level in places]

    # All levels together

    async def ensure(self, target: Target, spec: QueueSpec) -> None:  # noqa: ARG002 - as above
        for level in self._levels:
            await self._backend.ensure(level, spec)

    async def probe(self, target: Target) -> None:  # noqa: ARG002 - as above
        for level in self._levels:
            await self._backend.probe(level)

    async def remove(self, target: Target) -> None:  # noqa: ARG002 - as above
        # The queue's own comes last: as long as it is there, the rest can be removed in another attempt.
        for level in reversed(self._levels):
            await self._backend.remove(level)

    async def depth(self, target: Target) -> Depth:  # noqa: ARG002 - as above
        depths = [await self._backend.depth(level) for level in self._levels]
        early = sum(map(len, self._early))  # hidden, and with nobody
        return Depth(
            ready=sum(depth.ready for depth in depths) + early,
            unsettled=sum(depth.unsettled for depth in depths) - early,
            delayed=sum(depth.delayed for depth in depths),
        )

    async def redriven_after(self, target: Target) -> int | None:  # noqa: ARG002 - as above
        """As `gateway.core.backend.Redriving`: the fewest receives of a level."""
        if not isinstance(self._backend, Redriving):
            return None
        limits = [await self._backend.redriven_after(level) for level in self._levels]
        return min((limit for limit in limits if limit is not None), default=None)

    async def drain(self) -> None:
        """Wait for the polls under way, and give back what they bring. Raises `BackendError`."""
        if self._polls:
            await asyncio.wait(self._polls.values())
        most = self.limits.batch_entries
        for level, early in zip(self._levels, self._early, strict=True):
            receipts = [received.receipt.partition(":")[2] for _, received in early]
            early.clear()
            for start in range(0, len(receipts), most):
                await self._backend.settle(level, receipts[start : start + most], Outcome.RELEASED)

    async def aclose(self) -> None:
        """Abandon the polls under way. The backend of the levels is others' too, and stays open."""
        polls = list(self._polls.values())
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


class Levels:
    """The queues with priorities that this gateway uses."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], PriorityBackend] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def find(self, target: Target) -> PriorityBackend | None:
        return self._queues.get((target.kind, target.name))

    def keep(self, target: Target, backend: Backend) -> Backend:
        """Remember what a queue lives in, if it has levels; gives it back."""
        if isinstance(backend, PriorityBackend):
            self._queues[target.kind, target.name] = backend
        return backend

    async def forget(self, target: Target) -> None:
        """The queue is gone."""
        queue = self._queues.pop((target.kind, target.name), None)
        if queue is not None:
            await queue.aclose()

    async def drain(self) -> None:
        """Wait for the polls of all, and give back what nobody takes any more."""
        await asyncio.gather(*map(_give_back, list(self._queues.values())))

    async def aclose(self) -> None:
        for queue in self._queues.values():
            await queue.aclose()


async def _give_back(queue: PriorityBackend) -> None:
    try:
        await queue.drain()
    except BackendError as error:
        log.warning("messages_not_given_back", problem=str(error))  # they come back when their visibility ends


def with_levels(backend: Backend, target: Target, max_priority: int, *, by_name: bool) -> PriorityBackend:
    """A queue with priorities whose lowest level is `target`.

    The other levels have names of their own in the hub, `<queue>-p1` and so on, as far as the backend makes names of
    those; `by_name`: the name in the service is extended, as a rule has given it. Raises `InvalidArgument`, `Invalid`.
    """
    if target.name.endswith(".fifo"):
        raise InvalidArgument("x-max-priority", "a FIFO queue has one order")
    levels = [target]
    for level in range(1, level_count(max_priority)):
        home = backend.home(f"{target.queue}-p{level}", QueueSpec())
        levels.append(replace(target, name=f"{target.name}-p{level}" if by_name else home.name))
    return PriorityBackend(backend, levels, max_priority)


def _marked(level: int, received: Received) -> Received:
    received.receipt = f"{level}:{received.receipt}"
    return received


def _results(answer: Sequence[Result] | BackendError, count: int) -> Sequence[Result]:
    if isinstance(answer, BackendError):
        return [failed(answer)] * count
    return answer
