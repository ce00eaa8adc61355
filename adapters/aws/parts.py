"""How the parts of one object are sent or read: several together, each with attempts of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.core.batcher import BatchPolicy

PARTS_OF_ONE: Final = 3
"""Parts of one object that are under way together: others have a turn as well."""

FETCH_PATIENCE: Final = 30.0
"""Seconds after which what failed of an object is not read again; what still comes is taken. Its message is kept
hidden from others meanwhile."""

AGAIN: Final = BatchPolicy()
"""The pauses between two attempts are those of every request."""


async def all_parts(count: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do something with each part, from 0. When one fails the others are cancelled, and its error is raised."""
    numbers = iter(range(count))

    async def next_parts() -> None:
        for number in numbers:
            await work(number)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(count, PARTS_OF_ONE)):
                tasks.create_task(next_parts())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
