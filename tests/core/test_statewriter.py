"""Writes that come faster than the store takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters.memory.store import MemoryStore
from gateway.core.errors import MqliftError
from gateway.core.statewriter import StateWriter
from gateway.core.store import Record, StoreError


class SlowStore(MemoryStore):
    """Takes each write only when it is let; counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.writes: list[tuple[str, bytes]] = []
        self.fail = False

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        await self.gate.wait()
        if self.fail:
            raise StoreError("no space left")
        self.writes.append((key, value))
        return await super().put(kind, key, value, expected=expected, expires_at=expires_at)


class Told:
    def __init__(self) -> None:
        self.errors: dict[str, MqliftError | None] = {}

    def of(self, name: str) -> Callable[[MqliftError | None], None]:
        def done(error: MqliftError | None) -> None:
            assert name not in self.errors, "told twice"
            self.errors[name] = error

        return done


async def test_the_latest_of_many_is_written_and_everybody_is_told() -> None:
    store, told = SlowStore(), Told()
    writer = StateWriter(store)
    for number in range(10):
        writer.write("session", "a", str(number).encode(), told.of(str(number)))
    await asyncio.sleep(0)
    assert told.errors == {}
    store.gate.set()
    await writer.drain()
    assert told.errors == dict.fromkeys(map(str, range(10)))
    assert store.writes[-1] == ("a", b"9")
    assert len(store.writes) <= 2
    found = await store.get("session", "a")
    assert found is not None
    assert found.value == b"9"


async def test_nobody_is_told_before_a_write_that_has_his_value_has_returned() -> None:
    store, told = SlowStore(), Told()
    writer = StateWriter(store)
    writer.write("session", "a", b"1", told.of("first"))
    await asyncio.sleep(0)  # the first is under way
    writer.write("session", "a", b"2", told.of("second"))
    writes_when_told: dict[str, int] = {}
    writer.write("session", "a", b"3", lambda _: writes_when_told.setdefault("third", len(store.writes)))
    store.gate.set()
    await writer.drain()
    assert store.writes == [("a", b"1"), ("a", b"3")]
    assert told.errors == {"first": None, "second": None}
    assert writes_when_told == {"third": 2}


async def test_a_removal_wins_over_what_was_to_be_written_before() -> None:
    store, told = MemoryStore(), Told()
    writer = StateWriter(store)
    writer.write("session", "a", b"1", told.of("write"), expires_at=5.0)
    writer.write("session", "a", None, told.of("remove"))
    await writer.drain()
    assert await store.get("session", "a") is None
    assert told.errors == {"write": None, "remove": None}


async def test_a_failure_is_told_to_who_waited_for_it_and_the_next_write_goes_on() -> None:
    store, told = SlowStore(), Told()
    store.fail = True
    store.gate.set()
    writer = StateWriter(store)
    writer.write("session", "a", b"1", told.of("failed"))
    await writer.drain()
    assert isinstance(told.errors["failed"], StoreError)
    store.fail = False
    writer.write("session", "a", b"2", told.of("written"))
    await writer.drain()
    assert told.errors["written"] is None
    assert store.writes == [("a", b"2")]


async def test_settled_waits_for_what_was_written_before_and_for_nothing_else() -> None:
    store, told = SlowStore(), Told()
    writer = StateWriter(store)
    await asyncio.wait_for(writer.settled("session", "a"), 1)
    writer.write("session", "a", b"1", told.of("first"))
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(writer.settled("session", "a")) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    await asyncio.wait_for(writer.settled("session", "b"), 1)
    store.gate.set()
    await asyncio.gather(*waiting)
    assert store.writes == [("a", b"1")]


async def test_records_do_not_wait_for_each_other() -> None:
    store, told = MemoryStore(), Told()
    writer = StateWriter(store)
    for number in range(100):
        writer.write("session", str(number), b"x", told.of(str(number)))
    await writer.drain()
    assert len(await store.scan("session")) == 100
    assert len(told.errors) == 100
