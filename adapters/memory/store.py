"""The state store in memory: the reference, for tests, demos and gateways that may forget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.core.store import MAX_KEY_BYTES, Conflict, Record, StoreError, check_size

VALUE_BYTES: Final = 64 * 1024 * 1024
"""Of one value, as in the SQLite store."""


class MemoryStore:
    """See `core.store.StateStore`, the port that this is. Nothing outlives the process."""

    key_bytes = MAX_KEY_BYTES
    value_bytes = VALUE_BYTES
    shared = False

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Record]] = {}
        self._sequence = 0
        self._closed = False

    async def get(self, kind: str, key: str) -> Record | None:
        return self._kind(kind).get(key)

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        check_size(self, kind, key, value)
        records = self._kind(kind)
        self._check(kind, key, expected)
        self._sequence += 1
        record = Record(kind=kind, key=key, value=value, version=self._sequence, expires_at=expires_at)
        records[key] = record
        return record

    async def delete(self, kind: str, key: str, *, expected: int | None = None) -> bool:
        records = self._kind(kind)
        if key in records:
            self._check(kind, key, expected)
        return records.pop(key, None) is not None

    async def scan(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1_000) -> Sequence[Record]:
        records = self._kind(kind)
        found = (key for key in records if key.startswith(prefix) and key.encode() > after.encode())
        keys = sorted(found, key=str.encode)
        return [records[key] for key in keys[:limit]]

    async def expired(self, kind: str, now: float, *, limit: int = 1_000) -> Sequence[Record]:
        due = [
            (record.expires_at, key)
            for key, record in self._kind(kind).items()
            if record.expires_at is not None and record.expires_at <= now
        ]
        return [self._records[kind][key] for _, key in sorted(due)[:limit]]

    async def aclose(self) -> None:
        self._closed = True

    def _kind(self, kind: str) -> dict[str, Record]:
        if self._closed:
            raise StoreError("the state store is closed")
        return self._records.setdefault(kind, {})

    def _check(self, kind: str, key: str, expected: int | None) -> None:
        record = self._kind(kind).get(key)
        if expected is not None and expected != (0 if record is None else record.version):
            raise Conflict(kind, key)
