"""What is remembered of queues and topics: each is found or created once, and who wants it meanwhile shares that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from gateway.core.backend import Target
from gateway.core.errors import BackendError, Invalid, NotFound

LIMIT: Final = 10_000
"""Resources of a kind that are remembered; one beyond costs a lookup when it is used again."""

NEGATIVE_SECONDS: Final = 1.0
"""How long a resource that is missing or denied is not asked for again: soon enough to recover by itself."""
RETRY_SECONDS: Final = 0.1
"""The same, for what may pass by itself."""


T = TypeVar("T")


class Resource:
    """What queues and topics have in common: who looks one up does so alone, and what came of it holds for a moment."""

    __slots__ = ("failed_until", "failure", "lock", "region", "resource")

    def __init__(self, resource: str, region: str) -> None:
        """`resource` is what errors call it; `region` is empty for the gateway's own."""
        self.resource = resource
        self.region = region or None
        self.lock = asyncio.Lock()
        self.failure: BackendError | None = None
        self.failed_until = 0.0

    def fail(self, error: BackendError) -> None:
        self.failure = error
        self.failed_until = now() + (RETRY_SECONDS if error.retriable else NEGATIVE_SECONDS)

    def raise_recent(self, *, create: bool = False) -> None:
        """Raise what was found out a moment ago, instead of asking again. `create`: that it is missing is no matter."""
        error = self.failure
        if error is None or now() >= self.failed_until or (create and isinstance(error, NotFound)):
            return
        raise error.with_traceback(None)

    async def look(self, find: Callable[[], Awaitable[T]]) -> T:
        """Find it, one caller at a time. Raises what `find` raises, also when that was a moment ago."""
        async with self.lock:
            # Whoever held the lock before may have found out.
            self.raise_recent()
            try:
                found = await find()
            except BackendError as error:
                self.fail(error)
                raise
            self.failure = None
            return found


R = TypeVar("R", bound=Resource)


class Remembered(Generic[R]):
    """Resources by the names that targets have for them, `LIMIT` at most."""

    def __init__(self, kind: str, make: Callable[[str], R]) -> None:
        """`make` raises `ValueError` for a name that cannot be one; `kind` is such as `sqs queue`."""
        self._kind = kind
        self._make = make
        self._found: dict[str, R] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def find(self, target: Target) -> R:
        """Raises `Invalid` for a name that cannot be one."""
        found = self._found.get(target.name)
        if found is None:
            try:
                found = self._make(target.name)
            except ValueError as error:
                raise Invalid(str(error), resource=self._kind) from None
            if len(self._found) >= LIMIT:
                del self._found[next(iter(self._found))]
            self._found[target.name] = found
        return found


def missing(kind: str, resource: Resource, region: str, action: str, create: str) -> NotFound:
    """The error for what is not there. `create`: permissions that the gateway would need to make it; empty if it never
    does, or was allowed to.
    """
    problem = f"the {kind} does not exist in {region}, or may not be seen with these credentials; create it"
    if create:
        problem += f", or set `provision: auto`, which needs the permissions {create}"
    return NotFound(problem, resource=resource.resource, action=action)


def now() -> float:
    """On the event loop's clock."""
    return asyncio.get_running_loop().time()
