"""Records of one kind that other gateways write take effect here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from gateway.core.statewriter import StateWriter
from gateway.core.store import Record, StateStore, every_record

READS: Final = 32
"""Records that are read at once."""


class RecordFollower:
    """See `membership.Follower`. `apply` is told what the store has of a key, with None nothing; `here` gives all keys.

    What is being written here is left alone until it is: then the store is asked again.
    """

    def __init__(
        self,
        store: StateStore,
        writer: StateWriter,
        kind: str,
        *,
        apply: Callable[[str, Record | None], None],
        here: Callable[[], Iterable[str]],
    ) -> None:
        self.kinds = (kind,)
        self._store = store
        self._writer = writer
        self._kind = kind
        self._apply = apply
        self._here = here
        self._again: set[str] = set()
        """Keys that were being written when they were read."""

    async def follow(self, changes: Mapping[str, Collection[str]]) -> None:
        """As `Follower.follow`."""
        keys = [*self._again.union(changes.get(self._kind, ()))]
        for start in range(0, len(keys), READS):
            await self.read(keys[start : start + READS])

    async def read(self, keys: Collection[str]) -> None:
        """Follow records, at most `READS`. Raises `StoreError`."""
        with self._writer.watching() as written:
            records = await asyncio.gather(*(self._store.get(self._kind, key) for key in keys))
            for key, record in zip(keys, records, strict=True):
                self._follow(key, record, written)

    async def rescan(self) -> None:
        """As `Follower.rescan`."""
        with self._writer.watching() as written:
            found = {record.key: record async for record in every_record(self._store, self._kind)}
            for key in [*found, *(key for key in list(self._here()) if key not in found)]:
                self._follow(key, found.get(key), written)

    def _follow(self, key: str, record: Record | None, written: Collection[tuple[str, str]]) -> None:
        if (self._kind, key) in written:
            self._again.add(key)
        else:
            self._again.discard(key)
            self._apply(key, record)
