"""Faults between the gateway and DynamoDB: no write is lost or done twice, and a conflict is told only where one is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from adapters.dynamodb.store import DynamoStore, open_store
from gateway.core.store import Conflict, Record, StoreError
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import (
    BAD_GATEWAY,
    SERVICE_UNAVAILABLE,
    CutAnswer,
    ErrorAnswer,
    Fault,
    NoAnswer,
    Reset,
    Slow,
)
from tests.rig.processes import AWS_ENVIRONMENT
from tests.rig.waiting import wait_for

READ_TIMEOUT = 0.4
KEYS = 12
STEPS = 25
INCREMENTS = 15
CALLS = ("GetItem", "UpdateItem", "DeleteItem", "Query")

THROTTLES = (
    ErrorAnswer(400, "ProvisionedThroughputExceededException"),
    ErrorAnswer(400, "RequestLimitExceeded"),
    ErrorAnswer(400, "ThrottlingException"),
)
SERVER_ERRORS = (
    ErrorAnswer(500, "InternalServerError"),
    ErrorAnswer(400, "TransactionConflictException"),
    SERVICE_UNAVAILABLE,
    BAD_GATEWAY,
)
LOST = (Reset(), Reset(applied=True), CutAnswer(), NoAnswer(applied=True), Slow(0.05), Slow(0.05, before=True))
PLANS: dict[str, Sequence[Fault]] = {
    "throttles": THROTTLES,
    "server errors": SERVER_ERRORS,
    "lost answers": LOST,
    "everything": (*THROTTLES, *SERVER_ERRORS, *LOST),
}


async def opened(url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamoStore]:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    settings = AwsSettings(region="us-east-1", endpoint_url=url, read_timeout=READ_TIMEOUT, connect_timeout=1.0)
    aws = await open_client(settings, services=["dynamodb"])
    store = await open_store(aws, "faults", prefix=prefix, provision="auto", read_timeout=READ_TIMEOUT)
    yield store
    await store.aclose()
    await aws.aclose()


@pytest.fixture
async def store(faults: FaultEndpoint, queue_name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamoStore]:
    """The store of one gateway, behind the endpoint."""
    async for each in opened(faults.url, queue_name, monkeypatch):
        yield each


@pytest.fixture
async def other(faults: FaultEndpoint, queue_name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamoStore]:
    """The store of another one, of the same installation."""
    async for each in opened(faults.url, queue_name, monkeypatch):
        yield each


class Model:
    """One record, which nobody else writes, and what has to be in it."""

    def __init__(self, store: DynamoStore, key: str, seed: int) -> None:
        self._store = store
        self._key = key
        self._random = random.Random(seed)
        self._record: Record | None = None
        self._newest = 0

    async def run(self) -> Record | None:
        steps = (self._put, self._put_expected, self._put_unexpected, self._delete, self._delete_expected, self._get)
        for _ in range(STEPS):
            await self._random.choice(steps)()
        return self._record

    def _value(self) -> tuple[bytes, float | None]:
        return self._random.randbytes(20), self._random.choice((None, self._random.uniform(0, 2e9)))

    def _wrote(self, record: Record, value: bytes, expires_at: float | None) -> None:
        assert (record.value, record.expires_at) == (value, expires_at)
        assert record.version > self._newest, "a version never comes again"
        self._record, self._newest = record, record.version

    async def _put(self) -> None:
        value, expires_at = self._value()
        self._wrote(await self._store.put("k", self._key, value, expires_at=expires_at), value, expires_at)

    async def _put_expected(self) -> None:
        value, expires_at = self._value()
        expected = 0 if self._record is None else self._record.version
        record = await self._store.put("k", self._key, value, expected=expected, expires_at=expires_at)
        self._wrote(record, value, expires_at)

    async def _put_unexpected(self) -> None:
        with pytest.raises(Conflict) as conflict:
            await self._store.put("k", self._key, b"", expected=1 if self._record is None else 0)
        # Of a record that is not there nobody can say whether it was, once an answer has been lost.
        assert not conflict.value.unsure or self._record is None

    async def _delete(self) -> None:
        await self._store.delete("k", self._key)
        self._record = None

    async def _delete_expected(self) -> None:
        await self._store.delete("k", self._key, expected=1 if self._record is None else self._record.version)
        self._record = None

    async def _get(self) -> None:
        assert await self._store.get("k", self._key) == self._record


@pytest.mark.parametrize("plan", PLANS)
async def test_each_record_is_what_was_written(plan: str, store: DynamoStore, faults: FaultEndpoint) -> None:
    faults.chaos(PLANS[plan], 0.4, seed=5, actions=CALLS)
    records = await asyncio.gather(*(Model(store, f"{number:02}", number).run() for number in range(KEYS)))
    kept = [record for record in records if record is not None]
    assert await store.scan("k") == kept
    expiring = {record.key: record for record in kept if record.expires_at is not None}
    assert {record.key: record for record in await store.expired("k", 3e9)} == expiring
    faults.clear()
    assert await store.scan("k") == kept
    assert faults.injected().total() > 50


@pytest.mark.parametrize("plan", PLANS)
async def test_two_gateways_count_together(
    plan: str, store: DynamoStore, other: DynamoStore, faults: FaultEndpoint
) -> None:
    """Each reads, and writes what it has read with one thing more; an update that is lost or done twice shows."""

    async def count(mine: DynamoStore, name: str) -> list[str]:
        unsure = []
        done = 0
        while done < INCREMENTS:
            record = await mine.get("k", "n")
            value, version = ("", 0) if record is None else (record.value.decode(), record.version)
            step = f"{name}{done}"
            if step in value.split():
                done += 1
                continue
            try:
                await mine.put("k", "n", f"{value} {step}".encode(), expected=version)
            except Conflict as conflict:
                if conflict.unsure:
                    unsure.append(step)
                continue
            done += 1
        return unsure

    faults.chaos(PLANS[plan], 0.3, seed=9, actions=CALLS)
    unsure = await asyncio.gather(count(store, "a"), count(other, "b"))
    faults.clear()
    record = await store.get("k", "n")
    assert record is not None
    steps = record.value.decode().split()
    assert sorted(steps) == sorted(f"{name}{step}" for name in "ab" for step in range(INCREMENTS))
    assert faults.injected().total() > 10
    assert plan != "throttles" or unsure == [[], []]


async def test_a_write_that_comes_late_changes_nothing(store: DynamoStore, faults: FaultEndpoint) -> None:
    """The request is still under way when its retry, and the next write, have been done."""
    late = Slow(READ_TIMEOUT * 5, before=True)
    for expected in (None, 0):
        key = f"{expected}"
        faults.inject(late, action="UpdateItem")
        first = await store.put("k", key, b"first", expected=expected)
        second = await store.put("k", key, b"second", expected=None if expected is None else first.version)
        arrived = [exchange for exchange in faults.calls("UpdateItem") if exchange.fault is late][-1]
        while not arrived.forwarded:
            assert await store.get("k", key) == second
        assert not arrived.forwarded[0][1].ok, "it is refused when it arrives"
        assert await store.get("k", key) == second


async def test_a_cancelled_write_that_comes_late_changes_nothing(store: DynamoStore, faults: FaultEndpoint) -> None:
    late = Slow(READ_TIMEOUT, before=True)
    faults.inject(late, action="UpdateItem")
    cancelled = asyncio.ensure_future(store.put("k", "a", b"first"))
    await asyncio.to_thread(wait_for, faults.injected, "the request is there")
    cancelled.cancel()
    second = await store.put("k", "a", b"second")
    (arrived,) = (exchange for exchange in faults.calls("UpdateItem") if exchange.fault is late)
    while not arrived.forwarded:
        assert await store.get("k", "a") == second
    assert await store.get("k", "a") == second


async def test_what_fails_for_long_is_an_error(
    store: DynamoStore, faults: FaultEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.dynamodb.calls.PATIENCE", 0.5)
    faults.inject(THROTTLES[0], times=None)
    with pytest.raises(StoreError, match=r"^dynamodb table faults \(dynamodb:UpdateItem\): ProvisionedThroughputExc"):
        await store.put("k", "a", b"")
    faults.clear()
    await store.put("k", "a", b"")
    faults.inject(ErrorAnswer(400, "AccessDeniedException", "not authorized to perform: dynamodb:Query"), times=None)
    with pytest.raises(StoreError, match=r"dynamodb:Query"):
        await store.scan("k")
