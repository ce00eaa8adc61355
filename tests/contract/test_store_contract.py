"""What every state store owes: one suite, inherited by each."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from adapters.dynamodb.store import open_store
from adapters.memory.store import MemoryStore
from adapters.sqlite.store import MIGRATIONS, SqliteStore
from gateway.core.errors import ConfigError
from gateway.core.store import Conflict, Record, StateStore, StoreError, every_record
from tests.rig.processes import AWS_ENVIRONMENT, Ministack

LONGEST = "as long as the store allows"


KEYS = ("a", "a/", "a/b", "a/b/c", "ab", "b", "é", "日本", "\U0001f600")
PARTS = ("", "a", "a/", "a/b", "é", "x")


class Model:
    """A store beside a table that has what must be in it."""

    def __init__(self, store: StateStore, choices: random.Random) -> None:
        self._store = store
        self._random = choices
        self._table: dict[str, Record] = {}
        self._newest: dict[str, int] = {}

    async def step(self) -> None:
        steps = (self._put, self._put, self._put_expected, self._delete, self._get, self._scan, self._expired)
        await self._random.choice(steps)(self._random.choice(KEYS))

    async def _put(self, key: str, expected: int | None = None) -> None:
        value = self._random.randbytes(self._random.randrange(50))
        expires_at = self._random.choice((None, float(self._random.randrange(10))))
        record = await self._store.put("k", key, value, expected=expected, expires_at=expires_at)
        assert (record.kind, record.key, record.value, record.expires_at) == ("k", key, value, expires_at)
        assert record.version > self._newest.get(key, 0)
        self._table[key] = record
        self._newest[key] = record.version

    async def _put_expected(self, key: str) -> None:
        known = self._table.get(key)
        right = 0 if known is None else known.version
        expected = self._random.choice((right, 0, self._newest.get(key, 7)))
        if expected == right:
            await self._put(key, expected)
            return
        with pytest.raises(Conflict):
            await self._put(key, expected)

    async def _delete(self, key: str) -> None:
        known = self._table.get(key)
        expected = self._random.choice((None, 7, 0 if known is None else known.version))
        if known is not None and expected not in (None, known.version):
            with pytest.raises(Conflict):
                await self._store.delete("k", key, expected=expected)
            return
        assert await self._store.delete("k", key, expected=expected) == (known is not None)
        self._table.pop(key, None)

    async def _get(self, key: str) -> None:
        assert await self._store.get("k", key) == self._table.get(key)

    async def _scan(self, key: str) -> None:
        prefix, after = self._random.choice(PARTS), self._random.choice(("", key))
        limit = self._random.randrange(1, 12)
        keys = sorted(self._table, key=str.encode)
        wanted = [each for each in keys if each.startswith(prefix) and each.encode() > after.encode()]
        found = await self._store.scan("k", prefix=prefix, after=after, limit=limit)
        assert list(found) == [self._table[each] for each in wanted[:limit]]

    async def _expired(self, key: str) -> None:
        del key
        now = float(self._random.randrange(10))
        due = [each for each in self._table.values() if each.expires_at is not None and each.expires_at <= now]
        found = list(await self._store.expired("k", now))
        assert sorted(found, key=lambda each: each.key) == sorted(due, key=lambda each: each.key)
        assert [each.expires_at for each in found] == sorted(each.expires_at or 0.0 for each in due)


class StoreContract:
    """Subclasses offer `store`, empty and open."""

    @pytest.fixture
    def store(self) -> AsyncIterator[StateStore]:
        raise NotImplementedError

    async def test_reads_what_was_written(self, store: StateStore) -> None:
        written = await store.put("session", "client-1", b"\x00state\xff", expires_at=12.5)
        assert written == await store.get("session", "client-1")
        assert (written.kind, written.key, written.value, written.expires_at) == (
            "session",
            "client-1",
            b"\x00state\xff",
            12.5,
        )
        assert written.version > 0

    async def test_knows_nothing_of_what_was_not_written(self, store: StateStore) -> None:
        await store.put("session", "a", b"1")
        assert await store.get("session", "b") is None
        assert await store.get("retained", "a") is None

    async def test_overwrites_and_forgets_the_expiry(self, store: StateStore) -> None:
        first = await store.put("session", "a", b"1", expires_at=1.0)
        second = await store.put("session", "a", b"2")
        assert second.version > first.version
        assert await store.get("session", "a") == second
        assert second.expires_at is None

    @pytest.mark.parametrize("key", ["", "a b", "sport/+/#", "über/日本", "=", "'; --", "a\x01\x7f", LONGEST])
    async def test_takes_any_text_as_key(self, store: StateStore, key: str) -> None:
        if key is LONGEST:
            key = "x" * store.key_bytes
        await store.put("retained", key, b"v")
        found = await store.get("retained", key)
        assert found is not None
        assert found.key == key
        assert await store.delete("retained", key)

    async def test_refuses_what_is_over_its_limits(self, store: StateStore) -> None:
        with pytest.raises(StoreError, match=f"{store.key_bytes + 1} bytes"):
            await store.put("retained", "x" * (store.key_bytes + 1), b"")
        with pytest.raises(StoreError, match=f"{store.key_bytes + 1} bytes"):
            await store.put("retained", "ü" * ((store.key_bytes + 1) // 2) + "x" * ((store.key_bytes + 1) % 2), b"")
        with pytest.raises(StoreError, match=f"{store.value_bytes + 1} bytes"):
            await store.put("retained", "x", bytes(store.value_bytes + 1))
        assert await store.scan("retained") == []

    async def test_takes_the_largest_value_under_the_longest_key(self, store: StateStore) -> None:
        value = bytes(store.value_bytes)
        written = await store.put("session.inflight", "x" * store.key_bytes, value, expires_at=1_234_567_890.123456)
        assert await store.get("session.inflight", "x" * store.key_bytes) == written
        assert written.value == value

    async def test_creates_only_what_is_not_there(self, store: StateStore) -> None:
        first = await store.put("queue", "q", b"1", expected=0)
        with pytest.raises(Conflict):
            await store.put("queue", "q", b"2", expected=0)
        assert await store.get("queue", "q") == first

    async def test_replaces_only_the_expected_version(self, store: StateStore) -> None:
        first = await store.put("queue", "q", b"1")
        second = await store.put("queue", "q", b"2", expected=first.version)
        with pytest.raises(Conflict):
            await store.put("queue", "q", b"3", expected=first.version)
        with pytest.raises(Conflict):
            await store.delete("queue", "q", expected=first.version)
        assert await store.get("queue", "q") == second
        assert await store.delete("queue", "q", expected=second.version)
        with pytest.raises(Conflict):
            await store.put("queue", "q", b"4", expected=second.version)

    async def test_a_version_never_comes_again(self, store: StateStore) -> None:
        first = await store.put("queue", "q", b"1")
        await store.delete("queue", "q")
        again = await store.put("queue", "q", b"1")
        assert again.version > first.version

    async def test_deletes(self, store: StateStore) -> None:
        await store.put("queue", "q", b"1")
        assert await store.delete("queue", "q")
        assert not await store.delete("queue", "q")
        assert await store.get("queue", "q") is None

    async def test_what_is_not_there_is_no_conflict_for_who_deletes_it(self, store: StateStore) -> None:
        written = await store.put("queue", "q", b"1")
        assert await store.delete("queue", "q", expected=written.version)
        assert not await store.delete("queue", "q", expected=written.version)

    async def test_scans_in_order_and_in_pages(self, store: StateStore) -> None:
        keys = ["", "a", "a/b", "b", "z", "ä", "日"]
        for key in reversed(keys):
            await store.put("retained", key, key.encode())
        await store.put("session", "other", b"")
        found = [record.key for record in await store.scan("retained")]
        assert found == sorted(keys[1:], key=str.encode)  # nothing comes before the empty key
        page = await store.scan("retained", after="a", limit=3)
        assert [record.key for record in page] == ["a/b", "b", "z"]
        assert [record.value for record in page] == [b"a/b", b"b", b"z"]
        assert await store.scan("retained", after="日") == []

    async def test_scans_what_begins_alike(self, store: StateStore) -> None:
        for key in ("a", "ab", "ab1", "ab2", "ab\uffff", "ab\U0010ffff", "ac", "b"):
            await store.put("stream", key, b"")

        async def keys(**where: str) -> list[str]:
            return [record.key for record in await store.scan("stream", **where)]  # type: ignore[arg-type]

        assert await keys(prefix="ab") == ["ab", "ab1", "ab2", "ab\uffff", "ab\U0010ffff"]
        assert await keys(prefix="ab", after="ab") == ["ab1", "ab2", "ab\uffff", "ab\U0010ffff"]
        assert await keys(prefix="ab", after="ab11") == ["ab2", "ab\uffff", "ab\U0010ffff"]
        assert await keys(prefix="ab", after="a") == await keys(prefix="ab")
        assert await keys(prefix="ab", after="ac") == []
        assert await keys(prefix="x") == []
        page = await store.scan("stream", prefix="ab", after="ab1", limit=2)
        assert [record.key for record in page] == ["ab2", "ab\uffff"]

    async def test_reads_every_record_whatever_their_size(self, store: StateStore) -> None:
        value = bytes(store.value_bytes // 2) if store.value_bytes < 1_000_000 else bytes(200_000)
        for number in range(12):
            await store.put("retained", f"{number:02}", value)
        found = [record.key async for record in every_record(store, "retained")]
        assert found == [f"{number:02}" for number in range(12)]
        assert [record.key for record in await store.scan("retained", limit=11)] == found[:11]

    async def test_lists_what_has_expired_oldest_first(self, store: StateStore) -> None:
        await store.put("session", "never", b"")
        await store.put("session", "late", b"", expires_at=30.0)
        await store.put("session", "second", b"", expires_at=20.0)
        await store.put("session", "first", b"", expires_at=10.0)
        await store.put("will", "first", b"", expires_at=10.0)
        assert [record.key for record in await store.expired("session", 20.0)] == ["first", "second"]
        assert [record.key for record in await store.expired("session", 20.0, limit=1)] == ["first"]
        await store.put("session", "first", b"", expires_at=99.0)
        assert [record.key for record in await store.expired("session", 20.0)] == ["second"]

    @pytest.mark.parametrize("seed", range(3))
    async def test_does_what_a_table_would(self, store: StateStore, seed: int) -> None:
        """Any calls, one after the other; what is read is what a plain table would give."""
        model = Model(store, random.Random(seed))
        for _ in range(80):
            await model.step()

    async def test_concurrent_writers_of_one_record_agree_on_one(self, store: StateStore) -> None:
        results = await asyncio.gather(
            *(store.put("queue", "q", str(n).encode(), expected=0) for n in range(50)), return_exceptions=True
        )
        won = [result for result in results if not isinstance(result, BaseException)]
        assert len(won) == 1
        assert all(isinstance(result, Conflict) for result in results if isinstance(result, BaseException))
        assert await store.get("queue", "q") == won[0]

    async def test_one_conflict_does_not_undo_its_neighbours(self, store: StateStore) -> None:
        await store.put("queue", "taken", b"")
        results = await asyncio.gather(
            store.put("queue", "a", b"1"),
            store.put("queue", "taken", b"2", expected=0),
            store.put("queue", "b", b"3"),
            return_exceptions=True,
        )
        assert isinstance(results[1], Conflict)
        assert [record.key for record in await store.scan("queue")] == ["a", "b", "taken"]

    async def test_a_cancelled_call_harms_nobody(self, store: StateStore) -> None:
        task = asyncio.ensure_future(store.put("queue", "a", b"1"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.put("queue", "b", b"2")
        assert await store.get("queue", "b") is not None

    async def test_says_that_it_is_closed(self, store: StateStore) -> None:
        await store.aclose()
        await store.aclose()
        with pytest.raises(StoreError):
            await store.get("queue", "q")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[StateStore]:
        store = MemoryStore()
        yield store
        await store.aclose()


class TestDynamoStore(StoreContract):
    @pytest.fixture
    async def store(self, aws: AwsClient, queue_name: str) -> AsyncIterator[StateStore]:
        store = await open_store(aws, "contract", prefix=queue_name, provision="auto", read_timeout=15.0)
        yield store
        await store.aclose()

    async def test_installations_share_a_table(self, aws: AwsClient, queue_name: str, store: StateStore) -> None:
        other = await open_store(aws, "contract", prefix=f"{queue_name}-", provision="never", read_timeout=15.0)
        await store.put("session", "a", b"ours", expires_at=1.0)
        await other.put("session", "a", b"theirs", expires_at=1.0)
        assert [record.value for record in await store.scan("session")] == [b"ours"]
        assert [record.value for record in await other.expired("session", 2.0)] == [b"theirs"]
        await other.aclose()


class TestDynamoStoreThroughTheSdk(TestDynamoStore):
    """The same over `aws.transport: aiobotocore`."""

    @pytest.fixture
    async def aws(self, ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsClient]:
        for name, value in AWS_ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        settings = AwsSettings(region="us-east-1", endpoint_url=ministack.url, transport="aiobotocore")
        client = await open_client(settings)
        yield client
        await client.aclose()


def _writer(path: Path) -> subprocess.Popen[str]:
    """A process that writes, and prints each number that it was told is written."""
    return subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[StateStore]:
        store = SqliteStore(tmp_path / "state.db")
        yield store
        await store.aclose()

    async def test_what_was_written_is_there_after_reopening(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        store = SqliteStore(path)
        written = await store.put("session", "a", b"1", expires_at=5.0)
        await store.aclose()
        store = SqliteStore(path)
        assert await store.get("session", "a") == written
        newer = await store.put("session", "b", b"2")
        assert newer.version > written.version
        await store.aclose()

    async def test_a_killed_process_keeps_what_it_was_told_is_written(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        with _writer(path) as writer:
            assert writer.stdout is not None
            told = [int(writer.stdout.readline()) for _ in range(200)]
            writer.kill()
            told += [int(line) for line in writer.stdout.read().split()]
        store = SqliteStore(path)
        found = {record.key for record in await store.scan("session", limit=1_000_000)}
        await store.aclose()
        assert {str(number) for number in told} <= found

    async def test_a_second_gateway_on_the_same_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        with _writer(path) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            with pytest.raises(ConfigError, match="in use by another gateway"):
                SqliteStore(path)
            holder.kill()

    async def test_a_file_that_is_not_ours_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE somebody_elses (x)")
        other.close()
        with pytest.raises(ConfigError, match="not a state file of mqlift"):
            SqliteStore(path)
        text = tmp_path / "notes.txt"
        text.write_text("no database at all " * 100)
        with pytest.raises(ConfigError, match="cannot use"):
            SqliteStore(text)
        with pytest.raises(ConfigError, match="cannot use"):
            SqliteStore(tmp_path / "missing" / "state.db")
        reread = sqlite3.connect(path)
        assert [row[0] for row in reread.execute("SELECT name FROM sqlite_master")] == ["somebody_elses"]
        assert reread.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        reread.close()

    async def test_a_file_of_a_newer_version_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        await SqliteStore(path).aclose()
        newer = sqlite3.connect(path)
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        newer.close()
        with pytest.raises(ConfigError, match="newer mqlift"):
            SqliteStore(path)

    async def test_writes_share_their_fsync(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "state.db")
        statements: list[str] = []
        store._connection.set_trace_callback(statements.append)
        await asyncio.gather(*(store.put("session", str(number), b"x") for number in range(1_000)))
        assert len(await store.scan("session", limit=10_000)) == 1_000
        await store.aclose()
        assert statements.count("COMMIT") <= 50


_WRITER = """
import asyncio, sys
from pathlib import Path
from adapters.sqlite.store import SqliteStore

async def write():
    store = SqliteStore(Path(sys.argv[1]))
    number = 0
    while True:
        await asyncio.gather(*(store.put("session", str(number + i), b"x" * 100) for i in range(5)))
        for i in range(5):
            print(number + i, flush=True)
        number += 5

asyncio.run(write())
"""
