"""The state store in one SQLite file.

One thread owns the connection and does everything in the order it was asked. What waits while it works is done in one
transaction: a write is acknowledged after the fsync of its transaction, and many writes share it (group commit).
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar, cast

import structlog

from gateway.core.errors import ConfigError
from gateway.core.store import MAX_KEY_BYTES, Conflict, Record, StoreError, check_size

log = structlog.get_logger("mqlift.sqlite")

APPLICATION_ID: Final = 0x6D716C66
"""Marks the file as ours (`PRAGMA application_id`), so that nobody's other database is touched: 'mqlf'."""

VALUE_BYTES: Final = 64 * 1024 * 1024
"""Of one value. SQLite takes a gigabyte; a state record of this size is a mistake already."""

QUEUED: Final = 10_000
"""Calls that wait for the thread, at most; more of them are refused rather than kept in memory."""

GROUP: Final = 500
"""Calls in one transaction at most, so that the first of them does not wait for ever."""

PATIENCE: Final = 5.0
"""Seconds to wait for a predecessor that is still closing the file."""

# Each migration takes the schema from its number to the next; `PRAGMA user_version` says where a file stands.
MIGRATIONS: Final = (
    """
    CREATE TABLE record (
        kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, expires_at REAL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    CREATE INDEX record_expiry ON record (kind, expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE sequence (last INTEGER NOT NULL);
    INSERT INTO sequence VALUES (0);
    """,
)

_COLUMNS: Final = "kind, key, value, version, expires_at"

T = TypeVar("T")
_Work = Callable[[sqlite3.Connection], object]


class _Call:
    """One call on its way to the thread and back."""

    __slots__ = ("future", "result", "work")

    def __init__(self, work: _Work, future: asyncio.Future[object]) -> None:
        self.work = work
        self.future = future
        self.result: object = None


class SqliteStore:
    """See `core.store.StateStore`, the port that this is."""

    key_bytes = MAX_KEY_BYTES
    value_bytes = VALUE_BYTES
    shared = False

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises `ConfigError` when it cannot be used."""
        self._path = path
        self._connection = _open(path)
        self._loop = asyncio.get_running_loop()
        self._calls: queue.Queue[_Call | None] = queue.Queue(QUEUED)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mqlift-sqlite", daemon=True)
        self._thread.start()

    async def get(self, kind: str, key: str) -> Record | None:
        def work(connection: sqlite3.Connection) -> Record | None:
            return _read(connection, kind, key)

        return await self._call(work)

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        check_size(self, kind, key, value)

        def work(connection: sqlite3.Connection) -> Record:
            _check(connection, kind, key, expected)
            # One sequence for all: a record that is deleted and made again never has a version that it had before.
            (version,) = connection.execute("UPDATE sequence SET last = last + 1 RETURNING last").fetchone()
            connection.execute(
                f"INSERT OR REPLACE INTO record ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608 - constants only
                (kind, key.encode(), value, version, expires_at),
            )
            return Record(kind=kind, key=key, value=value, version=version, expires_at=expires_at)

        return await self._call(work)

    async def delete(self, kind: str, key: str, *, expected: int | None = None) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            if expected is not None and _version(connection, kind, key) not in (0, expected):
                raise Conflict(kind, key)
            cursor = connection.execute("DELETE FROM record WHERE kind = ? AND key = ?", (kind, key.encode()))
            return cursor.rowcount > 0

        return await self._call(work)

    async def scan(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1_000) -> Sequence[Record]:
        first = prefix.encode()

        def work(connection: sqlite3.Connection) -> Sequence[Record]:
            # No byte of UTF-8 is 255 (RFC 3629 §1): what begins with the prefix comes before the prefix with that.
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM record "  # noqa: S608 - constants only
                "WHERE kind = ? AND key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
                (kind, after.encode(), first, first + b"\xff", limit),
            )
            return [_record(row) for row in rows]

        return await self._call(work)

    async def expired(self, kind: str, now: float, *, limit: int = 1_000) -> Sequence[Record]:
        def work(connection: sqlite3.Connection) -> Sequence[Record]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM record WHERE kind = ? AND expires_at <= ? "  # noqa: S608 - constants only
                "ORDER BY expires_at LIMIT ?",
                (kind, now, limit),
            )
            return [_record(row) for row in rows]

        return await self._call(work)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._calls.put, None)
        await asyncio.to_thread(self._thread.join)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreError("the state store is closed")
        future: asyncio.Future[object] = self._loop.create_future()
        try:
            self._calls.put_nowait(_Call(work, future))
        except queue.Full:
            raise StoreError(f"the state store does not keep up: {QUEUED} calls wait for it") from None
        return cast("T", await future)

    # The thread

    def _run(self) -> None:
        while (first := self._calls.get()) is not None:
            calls = [first]
            closing = False
            while len(calls) < GROUP and not closing:
                try:
                    call = self._calls.get_nowait()
                except queue.Empty:
                    break
                if call is None:
                    closing = True
                else:
                    calls.append(call)
            self._do_together(calls)
            if closing:
                break
        self._connection.close()

    def _do_together(self, calls: list[_Call]) -> None:
        """One transaction for all; a call that fails is undone alone."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for call in calls:
                call.result = _do_alone(connection, call.work)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            log.error("state_store_failed", file=str(self._path), problem=str(error))  # noqa: TRY400 - one line
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for call in calls:
                call.result = StoreError(f"{self._path}: {error}")
        self._loop.call_soon_threadsafe(_answer, calls)


def _do_alone(connection: sqlite3.Connection, work: _Work) -> object:
    connection.execute("SAVEPOINT one")
    try:
        result = work(connection)
    except StoreError as error:
        connection.execute("ROLLBACK TO one")
        result = error
    connection.execute("RELEASE one")
    return result


def _answer(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue  # whoever asked has gone
        if isinstance(call.result, StoreError):
            call.future.set_exception(call.result)
        else:
            call.future.set_result(call.result)


def _open(path: Path) -> sqlite3.Connection:
    """Raises `ConfigError`; a file that is not ours is left as it was."""
    try:
        # The thread that is about to start is the only one that uses it from here on.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=PATIENCE)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # one gateway for one file
        _check_owner(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # fsync at each commit
        _migrate(connection)
    except (sqlite3.Error, ConfigError) as error:
        connection.close()
        raise error if isinstance(error, ConfigError) else _unusable(path, error) from error
    return connection


def _unusable(path: Path, error: sqlite3.Error) -> ConfigError:
    if "locked" in str(error):
        return ConfigError("state", f"{path} is in use by another gateway", "a file for each gateway")
    return ConfigError("state", f"cannot use {path}: {error}", "a file in a directory that exists and may be written")


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    tables = _number(connection, "SELECT count(*) FROM sqlite_master")
    if tables and _number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise ConfigError("state", f"{path} is not a state file of mqlift", "a new file, or the right one")
    schema = _number(connection, "PRAGMA user_version")
    if schema > len(MIGRATIONS):
        raise ConfigError(
            "state", f"{path} was written by a newer mqlift (schema {schema})", "that version, or a new file"
        )


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to this version, in one transaction."""
    connection.execute("BEGIN EXCLUSIVE")
    for migration in MIGRATIONS[_number(connection, "PRAGMA user_version") :]:
        for statement in migration.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, kind: str, key: str) -> Record | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM record WHERE kind = ? AND key = ?",  # noqa: S608 - constants only
        (kind, key.encode()),
    ).fetchone()
    return None if row is None else _record(row)


def _check(connection: sqlite3.Connection, kind: str, key: str, expected: int | None) -> None:
    """Raises `Conflict` when the version that is there, 0 for none, is not the expected one."""
    if expected is not None and _version(connection, kind, key) != expected:
        raise Conflict(kind, key)


def _version(connection: sqlite3.Connection, kind: str, key: str) -> int:
    """0 for no record."""
    row = connection.execute("SELECT version FROM record WHERE kind = ? AND key = ?", (kind, key.encode())).fetchone()
    return 0 if row is None else int(row[0])


def _record(row: tuple[str, bytes, bytes, int, float | None]) -> Record:
    kind, key, value, version, expires_at = row
    return Record(kind=kind, key=key.decode(), value=value, version=version, expires_at=expires_at)
