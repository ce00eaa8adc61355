"""Attempts until one succeeds, or it is too late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.core.batcher import BatchPolicy
from gateway.core.errors import AccessDenied, BackendError, Throttled, Unavailable
from gateway.core.retrying import retried
from tests.rig.clock import on_clock

POLICY = BatchPolicy(backoff_base=1.0, backoff_cap=4.0)


class Attempts:
    """Fails as it is told, then succeeds. `at`: when each began."""

    def __init__(self, *failures: Exception, seconds: float = 0.0) -> None:
        self._failures = list(failures)
        self._seconds = seconds
        self.at: list[float] = []

    async def __call__(self) -> str:
        self.at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._seconds)
        if self._failures:
            raise self._failures.pop(0)
        return "done"


async def within(seconds: float, attempt: Callable[[], Awaitable[str]]) -> str:
    return await retried(attempt, asyncio.get_running_loop().time() + seconds, POLICY)


@on_clock
async def test_what_may_pass_is_tried_again() -> None:
    attempts = Attempts(Unavailable("no"), Throttled("not yet"))
    assert await within(60.0, attempts) == "done"
    first, second, third = attempts.at
    assert second - first <= 1.0
    assert third - second <= 2.0


@on_clock
async def test_the_pauses_are_those_of_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.core.batcher.random.uniform", lambda _, ceiling: ceiling)
    attempts = Attempts(*(Unavailable("no") for _ in range(4)))
    assert await within(60.0, attempts) == "done"
    assert [after - before for before, after in zip(attempts.at, attempts.at[1:], strict=False)] == [1, 2, 4, 4]


@pytest.mark.parametrize("error", [AccessDenied("no"), RuntimeError("a bug")])
@on_clock
async def test_what_will_not_pass_is_raised_at_once(error: Exception) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)) as raised:
        await within(60.0, attempts)
    assert raised.value is error
    assert len(attempts.at) == 1


@on_clock
async def test_what_could_only_be_tried_too_late_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.core.batcher.random.uniform", lambda _, ceiling: ceiling)
    attempts = Attempts(Unavailable("first"), Unavailable("second"), Unavailable("third"))
    began = asyncio.get_running_loop().time()
    with pytest.raises(BackendError, match="second"):
        await within(3.0, attempts)
    assert asyncio.get_running_loop().time() - began == 1.0


@on_clock
async def test_an_attempt_that_is_under_way_is_not_cut_off() -> None:
    assert await within(1.0, Attempts(seconds=10.0)) == "done"
