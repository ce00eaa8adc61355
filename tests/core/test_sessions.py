"""Kept sessions: opened again, ended in time, with their wills, across restarts."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import orjson
import pytest

from adapters.memory.store import MemoryStore
from gateway.core.commands import SessionRecord
from gateway.core.errors import MqliftError, Refused, Unavailable
from gateway.core.message import Address, Message
from gateway.core.sessions import INFLIGHT, KIND, REMOVED, Sessions, pack
from gateway.core.statewriter import StateWriter
from gateway.core.store import StateStore

WILL = Message(Address("amq.topic", "last.words"), b"gone")
RECORD = SessionRecord(
    queue="mqtt-session-a-1",
    arguments={"x-fifo": True},
    bindings=(("amq.topic", "a.#"),),
    shared=("mqtt-shared-g-a",),
    expiry=600.0,
    state=b"\x00subscriptions",
)


class Rig:
    def __init__(self, store: StateStore | None = None, limit: int = 10) -> None:
        self.store = store or MemoryStore()
        self.now = 1_000.0
        self.writer = StateWriter(self.store)
        self.published: list[Message] = []
        self.removed: list[str] = []
        self.out_of_reach = False
        self.errors: list[MqliftError | None] = []
        self.sessions = Sessions(
            self.store,
            self.writer,
            limit=limit,
            publish=self.published.append,
            remove=self.remove,
            wall=lambda: self.now,
        )

    async def remove(self, record: SessionRecord) -> None:
        if self.out_of_reach:
            raise Unavailable("no answer")
        self.removed.append(record.queue)

    async def keep(self, client_id: str, record: SessionRecord = RECORD) -> MqliftError | None:
        self.sessions.keep(client_id, record, self.errors.append)
        await self.quiet()
        return self.errors[-1]

    async def quiet(self) -> None:
        await asyncio.gather(*self.sessions._removals.values())
        await self.writer.drain()

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.sessions.sweep()
        await self.quiet()

    def restarted(self) -> Rig:
        rig = Rig(self.store)
        rig.now = self.now
        return rig


async def test_a_new_client_has_no_session() -> None:
    rig = Rig()
    assert await rig.sessions.open("a", clean=False) is None
    assert await rig.sessions.open("a", clean=True) is None


async def test_it_goes_on_where_it_was_left() -> None:
    rig = Rig()
    assert await rig.keep("a") is None
    rig.sessions.keep_inflight("a", b"packet ids", rig.errors.append)
    await rig.quiet()
    rig.sessions.end("a", 600.0, None, 0.0)
    rig.now += 599
    rig.sessions.sweep()
    opened = await rig.sessions.open("a", clean=False)
    assert opened is not None
    assert opened.inflight == b"packet ids"
    assert (opened.queue, opened.bindings, opened.shared, opened.state) == (
        RECORD.queue,
        RECORD.bindings,
        RECORD.shared,
        RECORD.state,
    )
    await rig.pass_time(10_000)  # connected: nothing ends it
    assert rig.removed == []


async def test_its_time_ends_with_its_queue_and_everything_that_was_kept() -> None:
    rig = Rig()
    await rig.keep("a")
    rig.sessions.end("a", 60.0, None, 0.0)
    await rig.pass_time(59)
    assert rig.removed == []
    await rig.pass_time(2)
    assert rig.removed == [RECORD.queue]
    assert len(rig.sessions) == 0
    for kind in (KIND, INFLIGHT, REMOVED):
        assert await rig.store.scan(kind) == []


async def test_a_clean_start_forgets_it() -> None:
    rig = Rig()
    await rig.keep("a")
    rig.sessions.end("a", math.inf, None, 0.0)
    assert await rig.sessions.open("a", clean=True) is None
    await rig.quiet()
    assert rig.removed == [RECORD.queue]
    assert await rig.sessions.open("a", clean=False) is None


async def test_an_expiry_of_zero_ends_it_at_once() -> None:
    rig = Rig()
    await rig.keep("a")
    rig.sessions.end("a", 0.0, WILL, 30.0)
    await rig.quiet()
    assert rig.removed == [RECORD.queue]
    assert rig.published == [WILL]


async def test_for_ever_is_for_ever() -> None:
    rig = Rig()
    await rig.keep("a")
    rig.sessions.end("a", math.inf, None, 0.0)
    await rig.pass_time(10**9)
    assert await rig.sessions.open("a", clean=False) is not None


@pytest.mark.parametrize(
    ("delay", "expiry", "seconds", "published"),
    [
        (10.0, 60.0, 9, 0),
        (10.0, 60.0, 11, 1),
        (60.0, 10.0, 11, 1),  # the session's end comes first
        (10.0, 10.0, 11, 1),
    ],
)
async def test_a_delayed_will(delay: float, expiry: float, seconds: float, published: int) -> None:
    rig = Rig()
    rig.sessions.end("a", expiry, WILL, delay)
    await rig.pass_time(seconds)
    assert rig.published == [WILL] * published
    await rig.pass_time(1_000)
    assert rig.published == [WILL]


async def test_who_comes_back_in_time_calls_his_will_off() -> None:
    rig = Rig()
    rig.sessions.end("a", 60.0, WILL, 10.0)
    await rig.pass_time(5)
    assert await rig.sessions.open("a", clean=False) is not None
    await rig.pass_time(1_000)
    assert rig.published == []


async def test_a_clean_start_ends_the_session_and_so_publishes_its_will() -> None:
    rig = Rig()
    rig.sessions.end("a", 60.0, WILL, 10.0)
    assert await rig.sessions.open("a", clean=True) is None
    assert rig.published == [WILL]


async def test_everything_is_there_after_a_restart() -> None:
    rig = Rig()
    await rig.keep("parted")
    rig.sessions.end("parted", 100.0, WILL, 50.0)
    await rig.keep("connected", SessionRecord(queue="other", expiry=70.0))
    await rig.quiet()
    again = rig.restarted()
    restored = await again.sessions.restore()
    assert {record.queue for record in restored} == {RECORD.queue, "other"}
    assert next(record for record in restored if record.queue == RECORD.queue).arguments == {"x-fifo": True}
    await again.pass_time(51)
    assert again.published == [WILL]
    await again.pass_time(20)  # the one that was connected when the gateway ended began to expire then
    assert again.removed == ["other"]
    await again.pass_time(30)
    assert again.removed == ["other", RECORD.queue]


async def test_what_cannot_be_removed_now_is_removed_later_even_by_the_next_gateway() -> None:
    rig = Rig()
    await rig.keep("a")
    rig.out_of_reach = True
    rig.sessions.end("a", 0.0, None, 0.0)
    await rig.quiet()
    assert rig.removed == []
    again = rig.restarted()
    assert await again.sessions.restore() == []
    await again.sessions.retry_removals()
    await again.quiet()
    assert again.removed == [RECORD.queue]
    assert await rig.store.scan(REMOVED) == []


async def test_there_is_a_limit() -> None:
    rig = Rig(limit=1)
    assert await rig.keep("a") is None
    assert await rig.keep("a", SessionRecord(queue="q2")) is None
    assert isinstance(await rig.keep("b"), Refused)
    rig.sessions.end("c", 60.0, WILL, 10.0)  # no room for its will to wait in
    assert rig.published == [WILL]
    rig.sessions.end("a", 0.0, None, 0.0)
    assert await rig.keep("b") is None


async def test_an_opening_that_fails_leaves_the_session_as_it_was() -> None:
    rig = Rig()
    await rig.keep("a")
    rig.sessions.end("a", 60.0, WILL, 10.0)
    await rig.quiet()
    opening = asyncio.ensure_future(rig.sessions.open("a", clean=False))
    rig.sessions.keep_inflight("a", b"x", rig.errors.append)  # something to wait for
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await rig.pass_time(61)
    assert rig.published == [WILL]
    assert rig.removed == [RECORD.queue]


async def test_the_queue_of_endings_does_not_grow_with_reconnects() -> None:
    rig = Rig()
    await rig.keep("a")
    for _ in range(5_000):
        rig.sessions.end("a", 1e9, None, 0.0)
        rig.sessions._endings.pop("a")
    assert len(rig.sessions._due) < 2_000
    await rig.writer.drain()


async def test_an_unreadable_record_is_left_alone() -> None:
    rig = Rig()
    await rig.store.put(KIND, "broken", b"{}")
    await rig.keep("a")
    again = rig.restarted()
    assert len(await again.sessions.restore()) == 1
    assert await rig.store.get(KIND, "broken") is not None


# Whose it is


async def test_who_was_connected_when_the_gateway_ended_has_its_will_published_by_the_next() -> None:
    rig = Rig()
    await rig.keep("at once", replace(RECORD, queue="1", will=WILL))
    await rig.keep("later", replace(RECORD, queue="2", will=WILL, will_delay=30.0))
    await rig.keep("back in time", replace(RECORD, queue="3", will=WILL, will_delay=30.0))
    await rig.keep("parted", replace(RECORD, queue="4", will=WILL))
    rig.sessions.end("parted", 600.0, None, 0.0)
    await rig.keep("twice", replace(RECORD, queue="5", will=WILL))
    rig.sessions.end("twice", 600.0, None, 0.0)
    await rig.sessions.open("twice", clean=False)  # without a will now
    await rig.quiet()
    again = rig.restarted()
    await again.sessions.restore()
    await again.sessions.open("back in time", clean=False)
    await again.pass_time(1.0)
    assert again.published == [WILL]
    await again.pass_time(30.0)
    assert again.published == [WILL, WILL]
    third = again.restarted()
    await third.sessions.restore()
    await third.pass_time(100.0)
    assert third.published == []


async def test_it_belongs_to_its_user_also_after_a_restart() -> None:
    rig = Rig()
    assert rig.sessions.user("a") == ""
    await rig.keep("a", replace(RECORD, user="ann"))
    rig.sessions.end("a", 600.0, None, 0.0)
    await rig.quiet()
    again = rig.restarted()
    await again.sessions.restore()
    assert again.sessions.user("a") == "ann"


async def test_what_an_anonymous_peer_left_belongs_to_the_user_who_goes_on_with_it() -> None:
    rig = Rig()
    await rig.keep("a")
    rig.sessions.end("a", 600.0, None, 0.0)
    await rig.sessions.open("a", clean=False)
    assert rig.sessions.user("a") == ""
    opened = await rig.sessions.open("a", clean=False, user="ann")
    assert opened is not None
    assert (opened.queue, opened.user, rig.sessions.user("a")) == (RECORD.queue, "ann", "ann")


async def test_a_session_that_was_kept_before_there_were_users_is_nobodys() -> None:
    rig = Rig()
    packed = orjson.loads(pack(RECORD, None))
    del packed["user"]
    await rig.store.put(KIND, "a", orjson.dumps(packed))
    assert [record.queue for record in await rig.sessions.restore()] == [RECORD.queue]
    assert rig.sessions.user("a") == ""
