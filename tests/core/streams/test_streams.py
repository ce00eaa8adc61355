"""A stream as a queue: what consumers are given, what comes again, and what shards and limits ask for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import pytest

from adapters.memory.store import MemoryStore
from gateway.core.backend import Target
from gateway.core.commands import Consume
from gateway.core.errors import AccessDenied, InUse, InvalidArgument, NotFound, NotSupported, Refused, Throttled
from gateway.core.health import Health
from gateway.core.message import HeaderValue
from gateway.core.outcome import Outcome
from gateway.core.streams.consumer import BUFFER_BYTES
from gateway.core.streams.reader import IDLE_SECONDS
from tests.rig.clock import on_clock, settle_down, until
from tests.rig.stream_log import LIMITS, PAGE_BYTES, StreamLog
from tests.rig.stream_queue import StreamRig, Told, given

TARGET = Target(kind="stream", name="s", queue="s")
FROM_FIRST: Mapping[str, HeaderValue] = {"x-stream-offset": "first"}


class Rig(StreamRig):
    def __init__(self, log: StreamLog, store: MemoryStore | None = None, health: Health | None = None) -> None:
        super().__init__(log, TARGET, FROM_FIRST, store=store, health=health)


@on_clock
async def test_every_consumer_gets_everything_from_the_first() -> None:
    log = StreamLog("0")
    log.write("0", "a", "b", "c")
    rig = Rig(log)
    one = await rig.consume()
    await given(one, "a", "b", "c")
    one.settle()
    await given(await rig.consume(), "a", "b", "c")


@on_clock
async def test_next_is_fixed_when_the_consumer_is_told_that_it_consumes() -> None:
    log = StreamLog("0", "1")
    log.write("0", "old")
    consumer = await Rig(log).consume({})
    log.write("0", "new")
    log.write("1", "newer")
    await until(lambda: len(consumer.given) == 2, "what came after")
    assert sorted(consumer.texts) == ["new", "newer"]


@on_clock
async def test_a_time() -> None:
    log = StreamLog("0")
    log.write("0", "old")
    log.now += 100
    log.write("0", "new")
    await given(await Rig(log).consume({"x-stream-offset": f"timestamp={int(log.now)}"}), "new")


@on_clock
async def test_prefetch_is_kept_and_acknowledgements_make_room() -> None:
    log = StreamLog("0")
    log.write("0", "a", "b", "c", "d")
    consumer = await Rig(log).consume(prefetch=2)
    await given(consumer, "a", "b")
    consumer.settle_first()
    await given(consumer, "a", "b", "c")


@on_clock
async def test_what_is_released_comes_again_and_what_is_rejected_does_not() -> None:
    log = StreamLog("0")
    log.write("0", "a", "b")
    consumer = await Rig(log).consume(prefetch=2)
    await given(consumer, "a", "b")
    consumer.settle_first(Outcome.RELEASED)
    consumer.settle_first(Outcome.REJECTED)
    await given(consumer, "a", "b", "a")
    assert [delivery.redelivered for delivery in consumer.given] == [False, False, True]


@on_clock
async def test_an_offset_goes_on_with_its_message_and_exactly_behind_what_was_given_of_other_shards() -> None:
    log = StreamLog("0", "1")
    log.write("0", "a0", "a1", "a2")
    log.write("1", "b0", "b1", "b2")
    rig = Rig(log)
    first = await rig.consume()
    await until(lambda: len(first.given) == 6, "all")
    for position, text in enumerate(first.texts):
        again = await rig.consume({"x-stream-offset": first.offset(text)})
        expected = first.texts[position:]
        await until(lambda: len(again.given) >= len(expected), "the rest")  # noqa: B023 - awaited here
        await settle_down()
        assert again.texts[0] == text or len(expected) > 1
        assert sorted(again.texts) == sorted(expected)
        behind = await rig.consume({"x-stream-offset": ">" + first.offset(text)})
        await until(lambda: len(behind.given) >= len(expected) - 1, "the rest but one")  # noqa: B023
        await settle_down()
        assert sorted(behind.texts) == sorted(expected[1:])


@on_clock
async def test_an_offset_inside_an_aggregated_record() -> None:
    log = StreamLog("0")
    log.aggregate("0", "a", "b", "c")
    rig = Rig(log)
    first = await rig.consume()
    await given(first, "a", "b", "c")
    await given(await rig.consume({"x-stream-offset": first.offset("b")}), "b", "c")
    await given(await rig.consume({"x-stream-offset": ">" + first.offset("b")}), "c")


@on_clock
async def test_an_offset_of_a_consumer_of_what_is_new_does_not_bring_what_was_old() -> None:
    log = StreamLog("0", "1")
    log.write("1", "old")
    log.now += 10
    rig = Rig(log)
    first = await rig.consume({})
    log.write("0", "new")
    await given(first, "new")
    await given(await rig.consume({"x-stream-offset": first.offset("new")}), "new")


@on_clock
async def test_a_record_without_messages_is_passed() -> None:
    log = StreamLog("0")
    log.aggregate("0")
    log.write("0", "a")
    await given(await Rig(log).consume(), "a")


@on_clock
async def test_parents_before_children_through_split_and_merge() -> None:
    log = StreamLog("0")
    log.write("0", "p0", "p1")
    rig = Rig(log)
    consumer = await rig.consume()
    await given(consumer, "p0", "p1")
    log.write("0", "p2")
    log.split("0", "1", "2")
    log.write("1", "l0")
    log.write("2", "r0")
    log.merge("1", "2", "3")
    log.write("3", "m0")
    await until(lambda: len(consumer.given) == 6, "all")
    assert consumer.texts[:3] == ["p0", "p1", "p2"]
    assert sorted(consumer.texts[3:5]) == ["l0", "r0"]
    assert consumer.texts[5] == "m0"
    await given(await rig.consume({"x-stream-offset": consumer.offset("m0")}), "m0")


@on_clock
async def test_an_offset_from_before_a_split_finds_the_children() -> None:
    log = StreamLog("0")
    log.write("0", "p0", "p1")
    rig = Rig(log)
    first = await rig.consume()
    await given(first, "p0", "p1")
    log.split("0", "1", "2")
    log.write("2", "r0")
    await given(await rig.consume({"x-stream-offset": first.offset("p1")}), "p1", "r0")
    await until(lambda: len(first.given) == 3, "the child's")
    await given(await rig.consume({"x-stream-offset": first.offset("r0")}), "r0")


@on_clock
async def test_children_that_are_listed_late_are_found() -> None:
    log = StreamLog("0")
    log.write("0", "p0")
    consumer = await Rig(log).consume()
    log.close("0")
    await given(consumer, "p0")
    log.split("0", "1")
    log.write("1", "c0")
    await given(consumer, "p0", "c0")


@on_clock
async def test_what_was_held_of_an_ended_shard_comes_again_when_it_is_released() -> None:
    log = StreamLog("0")
    log.write("0", "p0")
    log.split("0", "1")
    log.write("1", "c0")
    consumer = await Rig(log).consume()
    await given(consumer, "p0", "c0")
    consumer.settle_first(Outcome.RELEASED)
    await given(consumer, "p0", "c0", "p0")


@on_clock
async def test_who_waits_at_the_end_shares_one_read() -> None:
    log = StreamLog("0")
    log.write("0", "a")
    rig = Rig(log)
    consumers = [await rig.consume() for _ in range(5)]
    for consumer in consumers:
        await given(consumer, "a")
    before = len(log.reads)
    start = log.reads[-1][0]
    log.write("0", "b")
    for consumer in consumers:
        await given(consumer, "a", "b")
    reads = log.reads[before:]
    assert len(reads) <= 1 + (reads[-1][0] - start) / IDLE_SECONDS


@on_clock
async def test_the_limits_of_a_shard_are_kept_however_many_consume() -> None:
    log = StreamLog("0")
    log.write("0", *("x" * 50_000 for _ in range(60)))
    rig = Rig(log)
    consumers = [await rig.consume(prefetch=100) for _ in range(3)]
    for consumer in consumers:
        await until(lambda: len(consumer.given) == 60, "all")  # noqa: B023 - awaited here
    times = [at for at, _ in log.reads]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 1 / LIMITS.reads_per_second - 1e-6
    assert times[-1] - times[0] >= 2.0, "three megabytes at one a second"


@on_clock
async def test_nothing_is_read_for_who_has_no_room() -> None:
    log = StreamLog("0")
    log.write("0", *("x" * 500_000 for _ in range(60)))
    consumer = await Rig(log).consume(prefetch=1)
    await until(lambda: consumer.given, "the first")
    await asyncio.sleep(60)
    reads = len(log.reads)
    assert reads * PAGE_BYTES <= BUFFER_BYTES + PAGE_BYTES
    await asyncio.sleep(60)
    assert len(log.reads) == reads
    while len(consumer.given) < 60:
        consumer.settle()
        await asyncio.sleep(0.1)
    assert len(log.reads) > reads


@on_clock
async def test_an_iterator_that_was_lost_is_sought_again() -> None:
    log = StreamLog("0")
    log.write("0", "a")
    consumer = await Rig(log).consume()
    await given(consumer, "a")
    log.lose()
    log.write("0", "b")
    await given(consumer, "a", "b")


@on_clock
async def test_what_is_new_is_not_missed_when_the_first_iterator_is_lost() -> None:
    log = StreamLog("0")
    log.write("0", "old")
    log.now += 100
    consumer = await Rig(log).consume({})
    log.write("0", "new")
    log.lose()
    await given(consumer, "new")


@on_clock
async def test_throttles_are_waited_out() -> None:
    log = StreamLog("0")
    log.write("0", "a")
    rig = Rig(log)
    log.failures = [Throttled("slow down"), Throttled("slow down")]
    consumer = await rig.consume()
    log.failures = [Throttled("slow down")] * 3
    await given(consumer, "a")
    assert rig.health.ready


@on_clock
async def test_who_begins_is_told_why_it_cannot() -> None:
    log = StreamLog("0")
    rig = Rig(log)
    log.failures = [AccessDenied("may not list")]
    with pytest.raises(AccessDenied):
        await rig.consume()
    assert rig.queue.consumers == 0
    assert rig.subscription.cancelled


@on_clock
async def test_consumers_of_a_stream_that_is_gone_are_told() -> None:
    log = StreamLog("0")
    rig = Rig(log)
    consumer = await rig.consume()
    log.failures = [NotFound("no stream")] * 3
    await until(lambda: consumer.gone, "told")
    assert rig.queue.consumers == 0


@on_clock
async def test_a_consumer_that_left_is_read_for_no_more() -> None:
    log = StreamLog("0")
    rig = Rig(log)
    await rig.consume()
    rig.subscription.cancel()
    await settle_down()
    reads = len(log.reads)
    other = Rig(log)
    await other.consume({})
    assert rig.queue.consumers == 0
    assert rig.queue.polls == 0
    assert len(log.reads) <= reads + 1


@on_clock
async def test_what_streams_do_not_have_is_refused() -> None:
    rig = Rig(StreamLog("0"))
    for command, error in (
        (Consume("t", "s", 1, None, acknowledges=False), NotSupported),
        (Consume("t", "s", 1, None, unlimited=True), Refused),
        (Consume("t", "s", 1, None, sole=True), NotSupported),
        (Consume("t", "s", 1, None, arguments={"x-stream-offset": 17}), InvalidArgument),
        (Consume("t", "s", 1, None, arguments={"name": ""}), InvalidArgument),
    ):
        with pytest.raises(error):
            rig.queue.consume(command, Told())
    with pytest.raises(NotSupported, match=r"basic\.get"):
        await rig.queue.get()
    with pytest.raises(NotSupported, match="purge"):
        await rig.queue.purge()
    await rig.consume()
    with pytest.raises(InUse):
        rig.queue.consume(Consume("t", "s", 1, None, exclusive=True), Told())
