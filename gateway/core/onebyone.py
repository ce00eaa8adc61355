"""Locks by name: what is done under one name is done one after the other, and names that nobody uses take no memory."""

from __future__ import annotations

import asyncio


class OneByOne:
    """`async with one_by_one(name)` waits until nobody else is within the same name."""

    __slots__ = ("_locks",)

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}

    def __len__(self) -> int:
        """Names that somebody is within."""
        return len(self._locks)

    def __contains__(self, name: str) -> bool:
        """Whether somebody is within a name."""
        return name in self._locks

    def __call__(self, name: str) -> _Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = _Lock(self._locks, name)
        return lock


class _Lock:
    __slots__ = ("_lock", "_locks", "_name", "_users")

    def __init__(self, locks: dict[str, _Lock], name: str) -> None:
        self._locks = locks
        self._name = name
        self._lock = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._lock.acquire()
        except asyncio.CancelledError:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            del self._locks[self._name]
