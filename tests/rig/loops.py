"""Tests of real sockets, on asyncio's own event loop and on uvloop."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable

import pytest
import uvloop

PATIENCE = 20.0
"""Seconds after which a condition that a test waits for will never come."""


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on asyncio's own loop and on uvloop."""

    @functools.wraps(test)
    def run(loop: str, **fixtures: object) -> None:
        factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(test(**fixtures), 3 * PATIENCE))

    parameters = [inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += inspect.signature(test).parameters.values()
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])(run)
    return marked


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while not condition():
        assert loop.time() < end, f"never: {what}"
        await asyncio.sleep(0.005)
