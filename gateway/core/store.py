"""The port of the state store: what must outlive a connection, or the gateway, and is not a message in a queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.errors import MqliftError


class StoreError(MqliftError):
    """The store did not do what it was asked: out of space, out of reach, damaged."""


class Conflict(StoreError):
    """Somebody else has changed the record since it was read.

    `unsure`: an answer of the store was lost, and this write may have taken effect before that change. What is to be
    done once only has to be looked for in the record.
    """

    def __init__(self, kind: str, key: str, *, unsure: bool = False) -> None:
        super().__init__(f"the {kind} record of '{key}' was changed by somebody else")
        self.kind = kind
        self.key = key
        self.unsure = unsure


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing that is kept. `value` means something only to who wrote it.

    `version` is a number that grows with every write, is never 0, and never comes again, not even for a record that was
    deleted and made anew (then it grows as far as the clocks of the gateways that share a store agree).
    `expires_at`: seconds since 1970-01-01 UTC from when the record may be removed; the store itself does not hide or
    remove it, because more may have to be removed with it.
    """

    kind: str
    key: str
    value: bytes
    version: int
    expires_at: float | None = None


class StateStore(Protocol):
    """Records by kind and key. Kinds are few and fixed; keys are any text of at most `key_bytes` bytes.

    Called from the event loop; a call may be cancelled, and then it is not known whether it took effect. Nor is that
    known after an error other than `Conflict`. Raises nothing but `StoreError`.
    """

    key_bytes: int
    """The size of a key's UTF-8 form at most: `MAX_KEY_BYTES`, or less where a service allows less."""
    value_bytes: int
    """A value's size at most."""

    shared: bool
    """Whether other gateways may have the same records; then what they write is followed
    (`core/fleet/membership.py`)."""

    async def get(self, kind: str, key: str) -> Record | None:
        """Read one record as it was last written by anybody whose write has returned."""

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        """Write one record; when it returns, the record survives a crash of this process and of the machine.

        `expected`: the version that must be there now, 0 for none at all; raises `Conflict` otherwise, and for None
        overwrites whatever there is. Raises `StoreError` for a key or value over the limit.
        """

    async def delete(self, kind: str, key: str, *, expected: int | None = None) -> bool:
        """Remove one record, as durably as `put` writes it; False when there was none, or none any more.

        `expected`: the version that must be there, if there is any; raises `Conflict` for another one.
        """

    async def scan(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1_000) -> Sequence[Record]:
        """The next records of a kind whose keys begin with `prefix` and come after `after`.

        In the keys' order (of their UTF-8 bytes), each as it was last written by anybody whose write had returned
        before. Reads no more than it gives. Fewer than `limit` mean that there are no more. Nothing comes before the
        empty key, so that one is never among them.
        """

    async def expired(self, kind: str, now: float, *, limit: int = 1_000) -> Sequence[Record]:
        """Records of a kind whose `expires_at` has passed, the oldest first, each as it is now.

        What was written a few seconds ago may be missing: it comes with a later call.
        """

    async def aclose(self) -> None:
        """Finish what was begun, then close. Idempotent."""


MAX_KEY_BYTES = 65_535
"""An MQTT topic or client id has no more."""

PAGE = 1_000
"""Records of one `scan` of `every_record`."""


async def every_record(store: StateStore, kind: str, prefix: str = "") -> AsyncIterator[Record]:
    """All records of a kind whose keys begin with `prefix`, in the order of their keys, a page at a time.

    Raises `StoreError`.
    """
    after = ""
    while True:
        records = await store.scan(kind, prefix=prefix, after=after, limit=PAGE)
        for record in records:
            yield record
        if len(records) < PAGE:
            return
        after = records[-1].key


def check_size(store: StateStore, kind: str, key: str, value: bytes) -> None:
    """Raises `StoreError` for a record that is over the limits of a store."""
    size = len(key.encode())
    if size > store.key_bytes:
        raise StoreError(f"the name of a {kind} record has {size} bytes; this state store takes {store.key_bytes}")
    if len(value) > store.value_bytes:
        raise StoreError(f"a {kind} record has {len(value)} bytes; this state store takes {store.value_bytes}")
