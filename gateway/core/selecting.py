"""Whether a queue's consumers may have selectors: where its rule says so, and no message is buried for it."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.core.arguments import QueuePolicy
from gateway.core.backend import Backend, Redriving, Target
from gateway.core.errors import NotSupported

BELIEVED: Final = 60.0
"""Seconds for which a queue's redrive policy is believed: some applications make a consumer for every message."""

FIFO_SUFFIX: Final = ".fifo"


def check_selectors(target: Target, policy: QueuePolicy) -> None:
    """Raises `NotSupported`, with what would have to be set."""
    queue = target.queue
    if target.pass_over is None:
        raise NotSupported(
            f"selector: a message of queue '{queue}' that no consumer takes would be read again and again; a rule says "
            f"how often: set `selectors: {{pass_over: 30}}` beside `match: {{queue: {queue}}}` in routes"
        )
    if target.name.endswith(FIFO_SUFFIX):
        raise NotSupported(
            f"selector: queue '{queue}' is a FIFO queue, where a message that nobody takes would hold up its group"
        )
    if policy.delivery_limit is not None:
        raise NotSupported(
            f"selector: queue '{queue}' has x-delivery-limit {policy.delivery_limit}, and each time that a message is "
            "passed over counts as a delivery"
        )


class Redrive:
    """The redrive policy of one queue, looked at before somebody consumes it with a selector."""

    def __init__(self, backend: Backend, target: Target) -> None:
        self._backend = backend
        self._target = target
        self._looked_at = float("-inf")
        self._after: int | None = None

    async def check(self) -> None:
        """Raises `NotSupported` for a queue whose messages would be buried, and `BackendError`."""
        if not isinstance(self._backend, Redriving):
            return
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= BELIEVED:
            self._after = await self._backend.redriven_after(self._target)
            self._looked_at = now
        if self._after is not None:
            self._looked_at = float("-inf")  # it may be mended at once
            raise NotSupported(
                f"selectors: {self._target.kind} queue '{self._target.name}' has a redrive policy, and a message would "
                f"be moved away once it was passed over {self._after} times; remove that policy"
            )
