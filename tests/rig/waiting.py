"""Waiting for a condition. Nothing in these tests waits for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

DEFAULT_TIMEOUT = 30.0
POLL_INTERVAL = 0.01

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str, timeout: float = DEFAULT_TIMEOUT) -> T:
    """The first true value of `condition`, asked again and again. `AssertionError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what} (last seen: {value!r})")
        time.sleep(POLL_INTERVAL)
