"""An event loop whose clock jumps: tests of timers run at once, and always the same way."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: when no file is ready, the clock jumps to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("the test waits for something that will never happen")
        if not ready and timeout is not None:
            self.now += max(0.0, timeout)
        return ready


class ClockLoop(asyncio.SelectorEventLoop):
    """Time starts at 1,000 s and passes only while everything waits for it."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self._jumping.now = 1_000.0
        super().__init__(self._jumping)
        self.at_end = contextlib.AsyncExitStack()

    def time(self) -> float:
        return float(self._jumping.now)


def on_clock(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run an async test, or one example of a Hypothesis test, on a clock of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def with_cleanup() -> T:
            async with _running().at_end:
                return await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=ClockLoop) as runner:
            return runner.run(with_cleanup())

    return run


def at_end(close: Callable[[], Awaitable[None]]) -> None:
    """Close something when the test is over, whatever came of it."""
    _running().at_end.push_async_callback(close)


def _running() -> ClockLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockLoop)
    return loop


async def settle_down(turns: int = 20) -> None:
    """Let everything that is ready happen, without any time passing."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], what: str, step: float = 0.001) -> None:
    """Let time pass, `step` seconds at once, until something is so. `AssertionError` after 100 s of the clock."""
    loop = _running()
    end = loop.time() + 100
    while not condition():
        assert loop.time() < end, f"never: {what}"
        await asyncio.sleep(step)
