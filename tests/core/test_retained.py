"""Retained messages: matched by filter, kept in the store, bounded, forgotten when their time is over."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.memory.store import MemoryStore
from gateway.core.errors import MqliftError, Refused
from gateway.core.message import RETAINED, TOPIC_EXCHANGE, Address, Message, Properties
from gateway.core.retained import KIND, Retained, RetainedLimits
from gateway.core.statewriter import StateWriter
from gateway.core.store import StateStore
from gateway.core.trie import TopicTrie


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    def __init__(self, limits: RetainedLimits | None = None, store: StateStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.clock = Clock()
        self.writer = StateWriter(self.store)
        self.retained = Retained(self.store, self.writer, limits or RetainedLimits(), self.clock)
        self.errors: list[MqliftError | None] = []

    async def keep(self, key: str, body: bytes = b"x", **properties: object) -> MqliftError | None:
        message = Message(Address(TOPIC_EXCHANGE, key), body, Properties(**properties))  # type: ignore[arg-type]
        self.retained.keep(message, self.errors.append)
        await self.writer.drain()
        return self.errors[-1]

    def found(self, pattern: str) -> list[str]:
        return sorted(message.address.routing_key for message in self.retained.match(TOPIC_EXCHANGE, pattern))


KEYS = ["a", "a.b", "a.b.c", "b", "", "a..c", "$SYS.uptime", "$SYS"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a"]),
        ("a.b", ["a.b"]),
        ("*", ["a", "b"]),
        ("a.*", ["a.b"]),
        ("a.#", ["a", "a..c", "a.b", "a.b.c"]),
        ("a.*.c", ["a..c", "a.b.c"]),
        ("#", ["", "a", "a..c", "a.b", "a.b.c", "b"]),
        ("*.uptime", []),
        ("$SYS.#", ["$SYS", "$SYS.uptime"]),
        ("$SYS.*", ["$SYS.uptime"]),
        ("c", []),
        ("a.b.c.d", []),
    ],
)
async def test_what_a_filter_finds(pattern: str, expected: Sequence[str]) -> None:
    rig = Rig()
    for key in KEYS:
        assert await rig.keep(key) is None
    assert rig.found(pattern) == sorted(expected)


words = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map(".".join)


@given(
    st.sets(words, max_size=8),
    st.lists(st.sampled_from(["a", "b", "", "*", "$x"]), min_size=1, max_size=4),
    st.booleans(),
)
async def test_it_finds_what_a_live_subscription_would_have_got(keys: set[str], pattern: list[str], rest: bool) -> None:
    rig = Rig()
    trie: TopicTrie[str] = TopicTrie(shield_dollar=True)
    text = ".".join([*pattern, "#"] if rest else pattern)
    trie.insert(text, "subscriber")
    for key in keys:
        await rig.keep(key)
    assert rig.found(text) == sorted(key for key in keys if trie.match(key))


async def test_the_last_one_replaces_and_an_empty_one_forgets() -> None:
    rig = Rig()
    await rig.keep("a.b", b"first")
    await rig.keep("a.b", b"second")
    (message,) = rig.retained.match(TOPIC_EXCHANGE, "a.b")
    assert message.body == b"second"
    assert message.headers[RETAINED] is True
    assert len(rig.retained) == 1
    await rig.keep("a.b", b"")
    await rig.keep("never.kept", b"")
    assert rig.found("#") == []
    assert len(rig.retained) == 0
    assert await rig.store.scan(KIND) == []
    assert not rig.retained._root.below


async def test_they_are_there_after_a_restart() -> None:
    rig = Rig()
    await rig.keep("a.b", b"\x00body\xff", content_type="text/plain", delivery_mode=2)
    await rig.keep("a.c", b"x", expiration=60_000)
    again = Rig(store=rig.store)
    await again.retained.restore()
    assert again.found("#") == ["a.b", "a.c"]
    (message,) = again.retained.match(TOPIC_EXCHANGE, "a.b")
    assert (message.body, message.properties.content_type) == (b"\x00body\xff", "text/plain")


async def test_an_unreadable_record_is_left_alone_and_the_others_are_read() -> None:
    rig = Rig()
    await rig.keep("a.b")
    await rig.store.put(KIND, "broken", b"not a message")
    again = Rig(store=rig.store)
    await again.retained.restore()
    assert again.found("#") == ["a.b"]
    assert await rig.store.get(KIND, "broken") is not None


async def test_time_passes() -> None:
    rig = Rig()
    await rig.keep("short", b"x", expiration=10_000)
    await rig.keep("long", b"x", expiration=60_000)
    rig.clock.now += 4
    (message,) = rig.retained.match(TOPIC_EXCHANGE, "short")
    assert message.properties.expiration == 6_000
    rig.clock.now += 7
    assert rig.found("#") == ["long"]
    await rig.retained.sweep()
    await rig.writer.drain()
    assert len(rig.retained) == 1
    assert [record.key for record in await rig.store.scan(KIND)] == ["long"]


async def test_what_was_retained_again_is_not_swept_with_its_predecessor() -> None:
    rig = Rig()
    await rig.keep("a", b"old", expiration=1_000)
    rig.clock.now += 2
    await rig.keep("a", b"new")
    await rig.retained.sweep()
    await rig.writer.drain()
    assert rig.found("a") == ["a"]
    assert len(await rig.store.scan(KIND)) == 1


async def test_it_is_bounded_in_number_and_bytes() -> None:
    rig = Rig(RetainedLimits(messages=2, bytes=10))
    assert await rig.keep("a", b"12345") is None
    assert await rig.keep("b", b"123") is None
    assert isinstance(await rig.keep("c", b"1"), Refused)
    assert isinstance(await rig.keep("a", b"123456789"), Refused)
    assert await rig.keep("a", b"1234567") is None
    assert await rig.keep("b", b"") is None
    assert await rig.keep("c", b"1") is None
    assert rig.found("#") == ["a", "c"]


async def test_other_exchanges_retain_nothing() -> None:
    rig = Rig()
    await rig.keep("a")
    assert list(rig.retained.match("amq.direct", "a")) == []
