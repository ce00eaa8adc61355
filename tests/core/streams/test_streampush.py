"""Records that the service brings: what consumers are given, when they are subscribed, what stays in the network."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from adapters.memory.store import MemoryStore
from gateway.core.backend import Target
from gateway.core.errors import AccessDenied, BackendError, NotFound, Unavailable
from gateway.core.message import HeaderValue
from gateway.core.streams.consumer import BUFFER_BYTES
from gateway.core.streams.port import Position, Whence
from tests.rig.clock import on_clock, settle_down, until
from tests.rig.stream_log import IDLE_EVENT_SECONDS, LIMITS, SUBSCRIPTION_SECONDS, StreamLog
from tests.rig.stream_queue import StreamRig, given

TARGET = Target(kind="stream", name="s", queue="s", pushed=("billing", "audit"))
TAIL = Target(kind="stream", name="s", queue="s", pushed=("live",), tail="t")
BILLING: Mapping[str, HeaderValue] = {"x-stream-name": "billing", "x-stream-offset": "first"}


class Rig(StreamRig):
    def __init__(self, log: StreamLog, store: MemoryStore | None = None, target: Target = TARGET) -> None:
        super().__init__(log, target, BILLING, store=store)


def shards_read(log: StreamLog) -> list[str]:
    return [shard for _, _, shard, _ in log.subscriptions]


@on_clock
async def test_a_named_consumer_is_brought_what_is_there_and_what_comes() -> None:
    log = StreamLog("0")
    log.write("0", "a", "b")
    consumer = await Rig(log).consume()
    await given(consumer, "a", "b")
    before = asyncio.get_running_loop().time()
    log.write("0", "c")
    await given(consumer, "a", "b", "c")
    assert asyncio.get_running_loop().time() - before < 0.01
    assert log.enrolled == {"billing"}
    assert not log.reads


@on_clock
async def test_consumers_that_the_rule_does_not_name_read() -> None:
    log = StreamLog("0")
    log.write("0", "a")
    rig = Rig(log)
    for arguments in ({"x-stream-offset": "first"}, {"x-stream-name": "other", "x-stream-offset": "first"}):
        await given(await rig.consume(arguments), "a")
    assert log.reads
    assert not log.subscriptions
    assert not log.enrolled


@on_clock
async def test_the_tail_begins_where_the_first_event_says() -> None:
    log = StreamLog("0", "1")
    log.write("0", "old")
    rig = Rig(log, target=TAIL)
    consumer = await rig.consume({})
    log.write("0", "new")
    await given(consumer, "new")
    log.write("1", "newer")
    await given(consumer, "new", "newer")
    assert {position.whence for *_, position in log.subscriptions} == {Whence.NEXT}
    assert rig.queue.polls == 2


@on_clock
async def test_the_tail_that_cannot_begin_says_why() -> None:
    log = StreamLog("0")
    rig = Rig(log, target=TAIL)
    log.failures = [NotFound("no consumer live")]
    with pytest.raises(NotFound, match="no consumer live"):
        await rig.consume({})
    assert rig.queue.polls == 0


@on_clock
async def test_a_consumer_that_is_being_registered_is_waited_for() -> None:
    log = StreamLog("0")
    log.write("0", "a")
    log.failures = [Unavailable("consumer billing is creating")] * 4
    await given(await Rig(log).consume(), "a")


@on_clock
async def test_one_that_is_never_registered_is_told() -> None:
    log = StreamLog("0")
    log.failures = [Unavailable("consumer billing is creating")] * 1_000
    with pytest.raises(Unavailable, match="creating"):
        await Rig(log).consume()
    log.failures.clear()


@on_clock
async def test_the_tail_begins_when_what_failed_at_first_works() -> None:
    log = StreamLog("0")
    rig = Rig(log, target=TAIL)
    log.refusals = [Unavailable("not now"), Unavailable("nor now")]
    consumer = await rig.consume({})
    log.write("0", "a")
    await given(consumer, "a")


@on_clock
async def test_what_may_not_be_subscribed_to_ends_the_beginning() -> None:
    log = StreamLog("0", "1")
    rig = Rig(log, target=TAIL)
    log.refusals = [AccessDenied("you may not subscribe")]
    with pytest.raises(AccessDenied):
        await rig.consume({})
    await until(lambda: not rig.queue.polls, "no subscription is left")


@on_clock
async def test_a_subscription_is_renewed_behind_what_was_given() -> None:
    log = StreamLog("0")
    log.write("0", "a")
    consumer = await Rig(log).consume()
    await given(consumer, "a")
    await asyncio.sleep(SUBSCRIPTION_SECONDS * 2.5)
    log.write("0", "b")
    await given(consumer, "a", "b")
    assert len(log.subscriptions) == 3
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(log.subscriptions)]
    assert max(gaps) < SUBSCRIPTION_SECONDS + IDLE_EVENT_SECONDS + 1
    assert log.subscriptions[1][3] == Position(Whence.AFTER, "1")


@on_clock
async def test_an_idle_shard_is_gone_on_with_where_the_events_say() -> None:
    log = StreamLog("0", "1")
    log.write("1", "elsewhere")
    rig = Rig(log, target=TAIL)
    consumer = await rig.consume({})
    log.cut("live", "1")
    await until(lambda: len(log.subscriptions) == 3, "renewed")
    assert log.subscriptions[2][3] == Position(Whence.AFTER, "1")
    log.write("1", "new")
    await given(consumer, "new")


@on_clock
async def test_a_subscription_that_is_cut_is_followed_by_one_behind_what_came() -> None:
    log = StreamLog("0")
    log.write("0", "a", "b")
    rig = Rig(log)
    consumer = await rig.consume()
    await given(consumer, "a", "b")
    log.cut("billing", "0", Unavailable("InternalFailureException"))
    await settle_down()
    log.write("0", "c")
    await given(consumer, "a", "b", "c")
    first, second = log.subscriptions
    assert second[0] - first[0] >= LIMITS.subscription_seconds
    assert rig.health.ready


@on_clock
async def test_one_that_is_cut_again_and_again_is_reported_until_it_lasts() -> None:
    log = StreamLog("0")
    rig = Rig(log)
    await rig.consume()
    for number in range(1, 5):
        await until(lambda: len(log.subscriptions) == number and log.live, "subscribed")  # noqa: B023 - awaited here
        log.cut("billing", "0", Unavailable("cut"))
    await until(lambda: rig.health.problems, "reported")
    assert "consumer billing" in rig.health.problems[0].resource
    await until(lambda: not rig.health.problems, "it lasts")


@on_clock
async def test_nothing_is_taken_from_the_network_for_who_has_no_room() -> None:
    log = StreamLog("0")
    log.write("0", *("x" * 500_000 for _ in range(60)))
    consumer = await Rig(log).consume(prefetch=1)
    await until(lambda: consumer.given, "the first")
    log.write("0", *("y" * 500_000 for _ in range(60)))
    await asyncio.sleep(60)
    assert log.events == 1, "more than the consumer may hold came with the first event"
    assert BUFFER_BYTES < 60 * 500_000
    while len(consumer.given) < 120:
        consumer.settle()
        await asyncio.sleep(0.1)
    assert log.events == 2


@on_clock
async def test_one_that_was_cut_while_nobody_read_it_goes_on_behind_what_was_taken() -> None:
    log = StreamLog("0")
    log.write("0", *(f"{number} {'x' * 500_000}" for number in range(20)))
    consumer = await Rig(log).consume(prefetch=1)
    await until(lambda: consumer.given, "the first")
    log.write("0", *(f"{number} {'x' * 500_000}" for number in range(20, 40)))
    await asyncio.sleep(60)
    log.cut("billing", "0", Unavailable("connection lost"))
    while len(consumer.given) < 40:
        consumer.settle()
        await asyncio.sleep(0.1)
    assert [int(text.partition(" ")[0]) for text in consumer.texts] == list(range(40))


@on_clock
async def test_parents_before_children_through_split_and_merge() -> None:
    log = StreamLog("0")
    log.write("0", "p0", "p1")
    consumer = await Rig(log).consume()
    await given(consumer, "p0", "p1")
    log.write("0", "p2")
    log.split("0", "1", "2")
    log.write("1", "l0")
    log.write("2", "r0")
    log.merge("1", "2", "3")
    log.write("3", "m0")
    while len(consumer.given) < 6:
        consumer.settle()
        await asyncio.sleep(0.1)
    assert consumer.texts[:3] == ["p0", "p1", "p2"]
    assert sorted(consumer.texts[3:5]) == ["l0", "r0"]
    assert consumer.texts[5] == "m0"
    assert sorted(shards_read(log)) == ["0", "1", "2", "3"]


@on_clock
async def test_what_was_acknowledged_is_not_brought_to_the_next_gateway() -> None:
    log, store = StreamLog("0"), MemoryStore()
    log.write("0", "a", "b", "c")
    first = Rig(log, store)
    consumer = await first.consume(prefetch=2)
    await given(consumer, "a", "b")
    consumer.settle_first()
    await given(consumer, "a", "b", "c")
    await asyncio.sleep(1)
    await first.queue.aclose()  # as after kill -9: nothing was given back
    assert not log.live
    second = await Rig(log, store).consume()
    await given(second, "b", "c")


@on_clock
async def test_members_on_two_gateways_have_each_shard_once() -> None:
    log, store = StreamLog("0", "1", "2", "3"), MemoryStore()
    for shard in "0123":
        log.write(shard, f"{shard}a")
    one, other = Rig(log, store), Rig(log, store)
    consumers = [await one.consume()]
    await until(lambda: len(consumers[0].given) == 4, "all shards")
    consumers[0].settle()
    await asyncio.sleep(1)  # the checkpoint is written
    consumers.append(await other.consume())
    await until(lambda: one.queue.polls == other.queue.polls == 2, "two each")
    await asyncio.sleep(3 * LIMITS.subscription_seconds)
    for shard in "0123":
        log.write(shard, f"{shard}b")
    await until(lambda: sum(len(each.given) for each in consumers) >= 8, "the rest")
    await asyncio.sleep(30)
    assert sorted(text for each in consumers for text in each.texts) == sorted(f"{s}{n}" for s in "0123" for n in "ab")
    assert one.health.ready
    assert not one.health.problems


@on_clock
async def test_gateways_that_share_no_state_take_turns_and_say_so() -> None:
    log = StreamLog("0")
    rigs = [Rig(log), Rig(log)]
    consumers = [await rig.consume() for rig in rigs]
    for number in range(30):
        log.write("0", f"{number}")
        await asyncio.sleep(2)
    for consumer in consumers:
        await given(consumer, *map(str, range(30)))
    problems = [problem for rig in rigs for problem in rig.health.problems]
    assert problems
    assert all(rig.health.ready for rig in rigs), "it is slow, and works"


@on_clock
async def test_consumers_of_a_stream_that_is_gone_are_told() -> None:
    log = StreamLog("0")
    rig = Rig(log, target=TAIL)
    consumer = await rig.consume({})
    log.failures = [NotFound("no stream")] * 3
    log.cut("live", "0", NotFound("no stream"))
    await until(lambda: consumer.gone, "told")
    await until(lambda: not rig.queue.polls, "nothing is subscribed to")


@on_clock
async def test_only_those_are_told_whose_consumer_is_gone() -> None:
    log = StreamLog("0")
    rig = Rig(log)
    reading = await rig.consume({})
    pushed = await rig.consume()
    await until(lambda: log.live, "subscribed")
    log.refusals = [NotFound("no consumer billing")] * 3
    log.cut("billing", "0", NotFound("no consumer billing"))
    await until(lambda: pushed.gone, "told")
    log.write("0", "a")
    await given(reading, "a")
    assert not reading.gone


@on_clock
async def test_a_bug_at_the_beginning_is_told() -> None:
    log = StreamLog("0")
    log.refusals = [RuntimeError("a bug")] * 1_000
    with pytest.raises(BackendError, match="internal error"):
        await Rig(log, target=TAIL).consume({})


@on_clock
async def test_a_bug_in_a_backend_does_not_end_the_stream() -> None:
    log = StreamLog("0")
    consumer = await Rig(log).consume()
    await until(lambda: log.live, "subscribed")
    log.cut("billing", "0", RuntimeError("a bug"))
    log.write("0", "a")
    await given(consumer, "a")


@on_clock
async def test_who_leaves_hangs_up() -> None:
    log = StreamLog("0", "1")
    rig = Rig(log, target=TAIL)
    await rig.consume({})
    assert len(log.live) == 2
    rig.subscription.cancel()
    await until(lambda: not log.live, "hung up")
    assert rig.queue.polls == 0
    assert rig.queue.consumers == 0


STEP = 0.1
ENDINGS = [None, Unavailable("cut"), BackendError("for good, it says")]


@over(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([*ENDINGS, "stay", "restart"]), st.integers(0, 3))))
@on_clock
async def test_everything_comes_in_order_and_what_was_acknowledged_once(
    steps: list[tuple[int, BackendError | str | None, int]],
) -> None:
    """Whatever ends subscriptions, and whenever a gateway is replaced."""
    log, store, count = StreamLog("0"), MemoryStore(), 0
    acknowledged: list[str] = []
    rig = Rig(log, store)
    consumer = await rig.consume()
    for size, ending, settled in steps:
        log.aggregate("0", *(str(count + number) for number in range(size)))
        count += size
        await until(lambda: str(count - 1) in consumer.texts, "all that was written", STEP)  # noqa: B023 - awaited here
        acknowledged += [delivery.message.body.decode() for delivery in consumer.deliveries[:settled]]
        for _ in range(min(settled, len(consumer.deliveries))):
            consumer.settle_first()
        if ending == "restart":
            await asyncio.sleep(1)  # the checkpoint is written
            await rig.queue.aclose()
            rig = Rig(log, store)
            consumer = await rig.consume()
        elif not isinstance(ending, str):
            log.cut("billing", "0", ending)
            await settle_down()
    if count > len(acknowledged):
        await until(lambda: consumer.texts[-1:] == [str(count - 1)], "to the end", STEP)
    rest = list(dict.fromkeys(acknowledged + consumer.texts))
    assert rest == [str(number) for number in range(count)]
    assert len(acknowledged) == len(set(acknowledged))
