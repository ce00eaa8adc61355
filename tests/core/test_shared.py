"""Shared queues: kept with their bindings, and gone some time after nobody wants them."""

from __future__ import annotations

from collections.abc import Callable

from adapters.memory.store import MemoryStore
from gateway.core.shared import GRACE, KIND, SharedQueues
from gateway.core.statewriter import StateWriter

ARGUMENTS = {"x-shared": True}
NOBODY: frozenset[str] = frozenset()


class Rig:
    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.writer = StateWriter(self.store)
        self.now = 1_000.0
        self.queues = SharedQueues(self.store, self.writer, lambda: self.now)

    async def restarted(self) -> Rig:
        await self.writer.drain()
        return Rig(self.store)

    async def kept(self) -> dict[str, tuple[dict[str, object], list[tuple[str, str]]]]:
        """What another gateway finds."""
        queues = await (await self.restarted()).queues.restore()
        return {name: (dict(queue.arguments), list(queue.bindings)) for name, queue in queues.items()}


async def test_a_queue_is_kept_with_its_bindings() -> None:
    rig = Rig()
    rig.queues.declare("group", ARGUMENTS)
    rig.queues.bound("group", "amq.topic", "a.*")
    rig.queues.bound("group", "amq.topic", "b.#")
    rig.queues.bound("group", "amq.topic", "a.*")
    assert await rig.kept() == {"group": (ARGUMENTS, [("amq.topic", "a.*"), ("amq.topic", "b.#")])}


async def test_a_second_consumer_changes_nothing() -> None:
    rig = Rig()
    rig.queues.declare("group", ARGUMENTS)
    rig.queues.bound("group", "amq.topic", "a.*")
    rig.queues.declare("group", ARGUMENTS)
    assert await rig.kept() == {"group": (ARGUMENTS, [("amq.topic", "a.*")])}


async def test_other_queues_are_not_kept() -> None:
    rig = Rig()
    rig.queues.bound("orders", "amq.topic", "a.*")
    assert await rig.kept() == {}


async def test_more_than_a_page_is_restored() -> None:
    rig = Rig()
    names = [f"group-{number:04}" for number in range(2_001)]
    for name in names:
        rig.queues.declare(name, ARGUMENTS)
    assert list(await rig.kept()) == names


async def test_an_unused_queue_waits_for_its_next_consumer() -> None:
    rig = Rig()
    rig.queues.declare("group", ARGUMENTS)
    assert rig.queues.unused(NOBODY, NOBODY) == []
    rig.now += GRACE - 1
    assert rig.queues.unused(NOBODY, NOBODY) == []
    rig.now += 1
    assert rig.queues.unused(NOBODY, NOBODY) == ["group"]


async def test_the_time_begins_again_with_each_use() -> None:
    rig = Rig()
    rig.queues.declare("group", ARGUMENTS)
    uses: list[Callable[[], list[str] | None]] = [
        lambda: rig.queues.unused({"group"}, NOBODY),
        lambda: rig.queues.unused(NOBODY, {"group"}),
        lambda: rig.queues.declare("group", ARGUMENTS),
    ]
    for use in uses:
        assert rig.queues.unused(NOBODY, NOBODY) == []
        rig.now += GRACE
        assert not use()
        assert rig.queues.unused(NOBODY, NOBODY) == []
        rig.now += GRACE - 1
        assert rig.queues.unused(NOBODY, NOBODY) == []
        rig.queues.declare("group", ARGUMENTS)


async def test_a_queue_that_nobody_used_after_a_restart_ends_too() -> None:
    rig = Rig()
    rig.queues.declare("group", ARGUMENTS)
    later = await rig.restarted()
    await later.queues.restore()
    assert later.queues.unused(NOBODY, NOBODY) == []
    later.now += GRACE
    assert later.queues.unused(NOBODY, NOBODY) == ["group"]


async def test_a_deleted_queue_is_forgotten() -> None:
    rig = Rig()
    rig.queues.declare("group", ARGUMENTS)
    rig.queues.declare("other", ARGUMENTS)
    rig.queues.forget("group")
    rig.now += GRACE
    assert rig.queues.unused(NOBODY, NOBODY) == []
    await rig.writer.drain()
    assert [record.key for record in await rig.store.scan(KIND)] == ["other"]


async def test_a_damaged_record_is_left_alone_and_the_others_are_read() -> None:
    rig = Rig()
    rig.queues.declare("group", ARGUMENTS)
    await rig.writer.drain()
    for key, value in {"broken": b"{}", "worse": b"not JSON", "worst": b'{"bindings": [1], "arguments": {}}'}.items():
        await rig.store.put(KIND, key, value)
    later = await rig.restarted()
    assert list(await later.queues.restore()) == ["group"]
    assert await rig.store.get(KIND, "broken") is not None
