"""The state store in a DynamoDB table, which many gateways share."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from adapters.aws.api import AwsClient
from adapters.dynamodb.calls import Calls, ConditionFailed
from adapters.dynamodb.items import (
    KEY_BYTES,
    VALUE_BYTES,
    Place,
    Stamp,
    Written,
    delete_request,
    expired_request,
    get_request,
    put_request,
    read_existed,
    read_item,
    read_keys,
    read_page,
    read_version,
    scan_request,
)
from adapters.dynamodb.table import find, find_or_create
from gateway.core.backend import Provision
from gateway.core.store import Conflict, Record, check_size


async def open_store(
    aws: AwsClient, table: str, *, prefix: str, provision: Provision, read_timeout: float
) -> DynamoStore:
    """Open the store, and create the table where that is allowed. The client stays the caller's to close.

    `prefix`: which installation's records they are. `read_timeout`: seconds that the client waits for an answer of any
    service. Raises `ConfigError` for a table that cannot be used, and `StoreError` when DynamoDB does not answer.
    """
    calls = Calls(aws, table, read_timeout)
    await find_or_create(calls, provision)
    return DynamoStore(calls, prefix)


async def probe(aws: AwsClient, table: str, *, provision: Provision, read_timeout: float) -> bool:
    """Whether the table is there, and can be read. Raises as `open_store` would, and changes nothing."""
    calls = Calls(aws, table, read_timeout)
    if not await find(calls, provision):
        return False
    await DynamoStore(calls, "").get("probe", "")
    return True


class DynamoStore:
    """See `core.store.StateStore`, the port that this is."""

    key_bytes = KEY_BYTES
    value_bytes = VALUE_BYTES
    shared = True

    def __init__(self, calls: Calls, prefix: str, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self._calls = calls
        self._place = Place(calls.table, prefix)
        self._clock = clock
        self._writer = secrets.token_hex(8)
        self._last_stamp = 0

    async def get(self, kind: str, key: str) -> Record | None:
        written = await self._read(kind, key)
        return None if written is None else written.record

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        check_size(self, kind, key, value)
        stamp = self._stamp()
        request = put_request(self._place, kind, key, value, stamp=stamp, expected=expected, expires_at=expires_at)
        version: int | None = None
        while version is None:
            try:
                version = read_version(await self._calls.call("UpdateItem", request))
            except ConditionFailed as failed:
                written = await self._read(kind, key)
                version = _version_of(stamp, written) if expected is None else _version_by(stamp, written)
                if version is None and expected is not None:
                    raise _conflict(kind, key, stamp, written, failed) from None
        return Record(kind=kind, key=key, value=value, version=version, expires_at=expires_at)

    async def delete(self, kind: str, key: str, *, expected: int | None = None) -> bool:
        stamp = self._stamp()
        request = delete_request(self._place, kind, key, stamp=stamp, expected=expected)
        try:
            return read_existed(await self._calls.call("DeleteItem", request))
        except ConditionFailed as failed:
            if expected is None:
                return True  # and this process has written it anew since
            raise _conflict(kind, key, stamp, await self._read(kind, key), failed) from None

    async def scan(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1_000) -> Sequence[Record]:
        if not after.startswith(prefix):
            if after.encode() > prefix.encode():
                return []  # all that begins with it comes before
            after = ""
        begin: str | None = after
        found: list[Record] = []
        while begin is not None and len(found) < limit:
            request = scan_request(self._place, kind, prefix=prefix, after=begin, limit=limit - len(found))
            records, begin = read_page(kind, await self._calls.call("Query", request))
            found += records
        return found

    async def expired(self, kind: str, now: float, *, limit: int = 1_000) -> Sequence[Record]:
        request = expired_request(self._place, kind, now, limit=limit)
        keys = read_keys(await self._calls.call("Query", request))
        # The index follows the table a moment later: it knows which records to look at, and no more than that.
        records = await asyncio.gather(*(self.get(kind, key) for key in keys))
        due = [
            (record.expires_at, record.key, record)
            for record in records
            if record is not None and record.expires_at is not None and record.expires_at <= now
        ]
        return [record for _, _, record in sorted(due, key=lambda each: each[:2])]

    async def aclose(self) -> None:
        await self._calls.aclose()

    async def _read(self, kind: str, key: str) -> Written | None:
        return read_item(kind, await self._calls.call("GetItem", get_request(self._place, kind, key)))

    def _stamp(self) -> Stamp:
        self._last_stamp = max(self._last_stamp + 1, int(self._clock() * 1_000_000))
        return Stamp(self._writer, self._last_stamp)


def _conflict(kind: str, key: str, stamp: Stamp, written: Written | None, failed: ConditionFailed) -> Conflict:
    """What to raise for a write that was refused, and of which the record shows nothing."""
    return Conflict(kind, key, unsure=failed.unsure and not _is_older(written, stamp))


def _is_older(written: Written | None, stamp: Stamp) -> bool:
    """Whether this process has written the record before it began another write: nothing has changed it since."""
    return written is not None and written.stamp.writer == stamp.writer and written.stamp.number < stamp.number


def _version_by(stamp: Stamp, written: Written | None) -> int | None:
    """The version that a refused write has made: it was carried out before, without our having the answer.

    None for a record that is somebody else's, or another write's.
    """
    return written.record.version if written is not None and written.stamp == stamp else None


def _version_of(stamp: Stamp, written: Written | None) -> int | None:
    """As `_version_by`; but a later write of this process is as good: it is as if this one had come just before it.

    None when the record has changed again meanwhile, and may be written.
    """
    if written is None or written.stamp.writer != stamp.writer or written.stamp.number <= stamp.number:
        return _version_by(stamp, written)
    return written.record.version - 1
