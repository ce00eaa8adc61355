"""Batches of requests to one destination: bounded in flight, retried entry by entry, in order for each key.

The sender and the settler are thin layers over it. Nothing here is done for each entry that could be done for a batch:
no task, no future, no lock.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from gateway.core.errors import BackendError, Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result, failed

log = structlog.get_logger("mqlift.batcher")


class Batchable(Protocol):
    """What the batcher needs to know of an entry. `deadline` is on the event loop's clock, in seconds."""

    size: int
    key: str | None
    attempts: int
    deadline: float


E = TypeVar("E", bound=Batchable)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How a destination is called. Times in seconds."""

    requests: int = 64
    """Requests under way at once, at most."""
    partial_requests: int = 8
    """A batch that is not full is sent only while fewer requests than this are under way; otherwise it fills up until
    one of them is answered. Keeps the latency low when there is little to do, and the batches full when there is much.
    """
    linger: float = 0.0
    """How long a batch that is not full waits for more, for fewer and so cheaper requests."""
    timeout: float = 30.0
    """After this long an entry that could not be sent is given back."""
    backoff_base: float = 0.05
    backoff_cap: float = 5.0

    def backoff(self, attempt: int) -> float:
        """Capped exponential back-off with full jitter, after the `attempt`-th failure, from 1.

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        ceiling = min(self.backoff_cap, self.backoff_base * 2 ** min(attempt - 1, 16))
        return random.uniform(0, ceiling)  # noqa: S311 - spreads retries, keeps no secret


class Line(Generic[E]):
    """Entries that wait, first come first served; of those with one key, only the first is let forward.

    The next of a key follows when the one before is `done`, so that neither two requests side by side nor a retry can
    change their order. (A service answers for each entry of a batch, so two of a key in one batch could swap too.)

    `join` may make one entry of two of the same key that wait behind another; True when it has.
    """

    __slots__ = ("_behind", "_join", "_ready", "ready_bytes")

    def __init__(self, join: Callable[[E, E], bool] | None = None) -> None:
        self._join = join
        self._ready: deque[E] = deque()
        self._behind: dict[str, deque[E] | None] = {}
        self.ready_bytes = 0

    @property
    def ready(self) -> int:
        """Entries that may be sent now."""
        return len(self._ready)

    def put(self, entry: E) -> bool:
        """Take an entry. False: it has become part of another one, and is done with it."""
        key = entry.key
        if key is not None:
            if key in self._behind:
                return self._put_behind(key, entry)
            self._behind[key] = None
        self._ready.append(entry)
        self.ready_bytes += entry.size
        return True

    def _put_behind(self, key: str, entry: E) -> bool:
        behind = self._behind[key]
        if behind is None:
            behind = self._behind[key] = deque()
        elif behind and self._join is not None and self._join(behind[-1], entry):
            return False
        behind.append(entry)
        return True

    def put_back(self, entries: Sequence[E]) -> None:
        """Entries to be sent again, ahead of the others and in the order they had."""
        self._ready.extendleft(reversed(entries))
        self.ready_bytes += sum(entry.size for entry in entries)

    def done(self, entry: E) -> None:
        """The entry will not come again: let the next of its key forward."""
        key = entry.key
        if key is None:
            return
        behind = self._behind[key]
        if behind:
            follower = behind.popleft()
            self._ready.append(follower)
            self.ready_bytes += follower.size
        else:
            del self._behind[key]

    def take_behind(self, entry: E) -> Sequence[E]:
        """The entries that wait for this one to be done, out of the line."""
        key = entry.key
        if key is None:
            return ()
        behind, self._behind[key] = self._behind[key], None
        return behind or ()

    def take(self, entries: int, size: int) -> list[E]:
        """The next batch: at least one entry, at most `entries` of them and, from the second on, `size` bytes."""
        ready = self._ready
        if len(ready) <= entries and self.ready_bytes <= size:
            batch = list(ready)
            ready.clear()
            self.ready_bytes = 0
            return batch
        batch = [ready.popleft()]
        total = batch[0].size
        while ready and len(batch) < entries and total + ready[0].size <= size:
            entry = ready.popleft()
            total += entry.size
            batch.append(entry)
        self.ready_bytes -= total
        return batch

    def take_expired(self, now: float) -> list[E]:
        """The entries at the head whose deadline has passed."""
        expired = []
        while self._ready and self._ready[0].deadline <= now:
            entry = self._ready.popleft()
            self.ready_bytes -= entry.size
            expired.append(entry)
        return expired


class Batcher(Generic[E]):
    """Owns every request to one destination, from `put` to `done(entries, results)`, which speaks once for each entry.

    `send` makes one attempt for one batch and returns a result for each entry; it raises only `BackendError`, for all
    of them. How long it may take is its own affair, and it must end.
    """

    def __init__(
        self,
        send: Callable[[Sequence[E]], Awaitable[Sequence[Result]]],
        done: Callable[[Sequence[E], Sequence[Result]], None],
        *,
        batch_entries: int,
        batch_bytes: int,
        policy: BatchPolicy,
        join: Callable[[E, E], bool] | None = None,
    ) -> None:
        """`join` as for a `Line`; an entry that has become part of another one is not told of in `done`."""
        self._send = send
        self._done = done
        self._entries = batch_entries
        self._bytes = batch_bytes
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._line: Line[E] = Line(join)
        self._requests: dict[asyncio.Task[None], list[E]] = {}
        self._allowed = policy.requests
        self._slowed_at = float("-inf")
        self._resume_at = 0.0
        self._throttled = 0
        self._wake: asyncio.Handle | None = None
        self._lingering = False
        self._retries: dict[asyncio.TimerHandle, list[E]] = {}
        self._idle: asyncio.Future[None] | None = None
        self._closed = False
        self.held = 0
        """Entries that are not done."""
        self.retries = 0
        """Entries sent again, since the start."""
        self.throttles = 0
        """Requests in which the destination asked for less, since the start."""

    def put(self, entry: E) -> None:
        """Take an entry. The first request leaves at the end of this turn of the loop, with all that came in it."""
        entry.deadline = self._loop.time() + self._policy.timeout
        if not self._line.put(entry):
            return
        self.held += 1
        if self._wake is None or self._lingering:
            self._schedule()

    async def drain(self) -> None:
        """Wait until everything that was put is done."""
        while self.held:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)

    async def aclose(self) -> None:
        """Abandon requests and retries; every entry that was not answered is released."""
        self._closed = True
        tasks = list(self._requests)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        retries, self._retries = self._retries, {}
        for timer, entries in retries.items():
            timer.cancel()
            self._finish(entries, _stopped(entries))
        self._give_up()

    def _give_up(self) -> None:
        while self._line.ready:
            entries = self._line.take(self._entries, self._bytes)
            self._finish(entries, _stopped(entries))
        self._cancel_wake()

    @property
    def _full(self) -> bool:
        return self._line.ready >= self._entries or self._line.ready_bytes >= self._bytes

    def _schedule(self) -> None:
        """See that what is in the line gets on its way: a full batch at once, others after the linger time."""
        if not self._policy.linger or self._full or self._closed:
            self._cancel_wake()
            self._wake = self._loop.call_soon(self._pump)
        elif not self._lingering:
            self._lingering = True
            self._wake = self._loop.call_later(self._policy.linger, self._pump)

    def _cancel_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self._lingering = False

    def _pump(self) -> None:
        """Start as many requests as there are slots and batches for."""
        self._lingering = False
        if self._closed:
            self._give_up()
            return
        now = self._loop.time()
        # `_wake` is cleared after this only: what is put or let forward meanwhile is seen by the loop below.
        while expired := self._line.take_expired(now):
            self._give_back(expired, _too_late(expired))
        self._wake = None
        if now < self._resume_at:
            self._wake = self._loop.call_at(self._resume_at, self._pump)
            return
        while self._line.ready and len(self._requests) < self._allowed:
            if len(self._requests) >= self._policy.partial_requests and not self._full:
                break
            batch = self._line.take(self._entries, self._bytes)
            request = self._loop.create_task(self._request(batch, now))
            self._requests[request] = batch
            request.add_done_callback(self._ended)

    async def _request(self, batch: list[E], started: float) -> None:
        results = await self._attempt(batch)
        # The slot is free from here on: what `_sort_out` wakes up may use it.
        task = asyncio.current_task()
        assert task is not None
        del self._requests[task]
        self._sort_out(batch, results, started)

    def _ended(self, request: asyncio.Task[None]) -> None:
        """A request that was cancelled, perhaps before its first step, has not answered its entries."""
        batch = self._requests.pop(request, None)
        if batch is not None:
            self._finish(batch, _stopped(batch))
        if not request.cancelled() and (error := request.exception()) is not None:
            log.error("results_failed_unexpectedly", exc_info=error)

    async def _attempt(self, batch: Sequence[E]) -> Sequence[Result]:
        try:
            results = await self._send(batch)
        except BackendError as error:
            if error.permanent and len(batch) > 1:
                # The service refused the whole request. Find out whose fault it is, so that one bad entry fails alone.
                middle = len(batch) // 2
                return [*await self._attempt(batch[:middle]), *await self._attempt(batch[middle:])]
            return [failed(error)] * len(batch)
        except Exception:
            # A bug in a backend: publishers still have to be answered, and an operator has to see it.
            log.exception("request_failed_unexpectedly")
            return _broken(batch)
        if len(results) != len(batch):
            log.error("results_do_not_match", entries=len(batch), results=len(results))
            return _broken(batch)
        return results

    def _sort_out(self, batch: list[E], results: Sequence[Result], started: float) -> None:
        """Entries that may still succeed are sent again, exactly as they are; the others are done."""
        if all(result is ACCEPTED for result in results):
            self._speed_up()
            self._finish(batch, results)
            return
        now = self._loop.time()
        delay = self._policy.backoff(1 + max(entry.attempts for entry in batch))
        done: list[E] = []
        done_results: list[Result] = []
        again: list[E] = []
        for entry, result in zip(batch, results, strict=True):
            entry.attempts += 1
            error = result.error
            if isinstance(error, BackendError) and error.retriable and now + delay < entry.deadline:
                again.append(entry)
            else:
                done.append(entry)
                done_results.append(result)
        self._pace(results, now, started)
        if again:
            self._retry_at(now + delay, again)
        self._give_back(done, done_results)

    def _pace(self, results: Sequence[Result], now: float, started: float) -> None:
        """Slow down when half of a request was throttled. What is less is a busy part of the destination, such as one
        shard of a stream: its entries wait for their retry, and need not hold up the others.
        """
        throttled = sum(isinstance(result.error, BackendError) and result.error.throttled for result in results)
        if not throttled:
            return
        self.throttles += 1
        if 2 * throttled >= len(results):
            self._slow_down(now, started)
        else:
            self._speed_up()

    def _speed_up(self) -> None:
        self._allowed = min(self._policy.requests, self._allowed + 1)
        self._throttled = 0

    def _slow_down(self, now: float, started: float) -> None:
        """Half the requests, after a pause that grows with every throttled request in a row.

        Those that were under way already when we slowed down last say nothing about the new pace.
        """
        if started <= self._slowed_at:
            return
        self._slowed_at = now
        self._throttled += 1
        self._allowed = max(1, self._allowed // 2)
        self._resume_at = max(self._resume_at, now + self._policy.backoff(self._throttled))

    def _retry_at(self, when: float, entries: list[E]) -> None:
        self.retries += len(entries)

        def retry() -> None:
            del self._retries[timer]
            self._line.put_back(entries)
            if self._wake is None or self._lingering:
                self._cancel_wake()
                self._wake = self._loop.call_soon(self._pump)

        timer = self._loop.call_at(when, retry)
        self._retries[timer] = entries

    def _give_back(self, entries: Sequence[E], results: Sequence[Result]) -> None:
        """Entries are done that were not all accepted; what waits behind a released one is released with it.

        Its publisher sends again from there on, and what was stored meanwhile would have overtaken it.
        """
        followers: list[E] = []
        reasons: list[Result] = []
        for entry, result in zip(entries, results, strict=True):
            if result.outcome is Outcome.RELEASED:
                behind = self._line.take_behind(entry)
                followers += behind
                reasons += [result] * len(behind)
        self._finish(entries, results)
        if followers:
            self._answer(followers, reasons)

    def _finish(self, entries: Sequence[E], results: Sequence[Result]) -> None:
        for entry in entries:
            self._line.done(entry)
        if self._line.ready and (self._wake is None or self._lingering):
            self._schedule()
        self._answer(entries, results)

    def _answer(self, entries: Sequence[E], results: Sequence[Result]) -> None:
        self.held -= len(entries)
        self._done(entries, results)
        if not self.held and self._idle is not None:
            self._idle.set_result(None)
            self._idle = None


def _stopped(entries: Sequence[object]) -> list[Result]:
    return [Result(Outcome.RELEASED, Unavailable("the gateway is stopping"))] * len(entries)


def _too_late(entries: Sequence[object]) -> list[Result]:
    return [Result(Outcome.RELEASED, Unavailable("the backend did not take it in time"))] * len(entries)


def _broken(entries: Sequence[object]) -> list[Result]:
    return [Result(Outcome.RELEASED, Unavailable("internal error, see the gateway's log"))] * len(entries)
