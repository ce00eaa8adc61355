"""Locks by name."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.onebyone import OneByOne
from tests.rig.clock import on_clock, settle_down


@on_clock
async def test_one_after_the_other_within_a_name_and_not_beyond() -> None:
    one_by_one = OneByOne()
    log: list[str] = []
    go_on = asyncio.Event()

    async def work(name: str, text: str) -> None:
        async with one_by_one(name):
            log.append(f"{text} begins")
            await go_on.wait()
            log.append(f"{text} ends")

    tasks = [asyncio.create_task(work(*each)) for each in (("a", "first"), ("a", "second"), ("b", "other"))]
    await settle_down()
    assert log == ["first begins", "other begins"]
    go_on.set()
    await asyncio.gather(*tasks)
    assert log[2:] == ["first ends", "other ends", "second begins", "second ends"]


@on_clock
async def test_what_failed_or_was_cancelled_holds_nothing_up() -> None:
    one_by_one = OneByOne()

    async def work(seconds: float) -> None:
        async with one_by_one("a"):
            await asyncio.sleep(seconds)
            raise ValueError("as it happens")

    first, second = asyncio.create_task(work(5.0)), asyncio.create_task(work(0.0))
    await settle_down()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    with pytest.raises(ValueError, match="as it happens"):
        await first
    async with asyncio.timeout(1.0), one_by_one("a"):
        assert len(one_by_one) == 1


@on_clock
async def test_names_that_nobody_uses_take_no_memory() -> None:
    one_by_one = OneByOne()
    async with one_by_one("a"):
        assert "a" in one_by_one
        assert "b" not in one_by_one
    assert len(one_by_one) == 0
