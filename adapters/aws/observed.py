"""Every call is counted once, whichever transport made it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from adapters.aws.api import ACCEPTED, CANCELLED, ERROR_OUTCOMES, Observer
from gateway.core.errors import BackendError

T = TypeVar("T")


async def observed(observe: Observer, service: str, action: str, call: Awaitable[T]) -> T:
    """Await a call, and tell the observer how it ended."""
    started = time.perf_counter()
    outcome = ERROR_OUTCOMES[BackendError]
    try:
        answer = await call
        outcome = ACCEPTED
    except BackendError as error:
        outcome = ERROR_OUTCOMES.get(type(error), outcome)
        raise
    except asyncio.CancelledError:
        outcome = CANCELLED
        raise
    finally:
        observe(service, action, outcome, time.perf_counter() - started)
    return answer
