"""Consumers with selectors on one queue: who gets what, and what becomes of messages that nobody takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.memory.backend import MemoryBackend
from gateway.core import passing
from gateway.core.arguments import QueuePolicy
from gateway.core.backend import Backend, Depth, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.commands import Consume
from gateway.core.deadletter import DeadLettering, Reason
from gateway.core.errors import InUse, NotSupported, Throttled, Unavailable
from gateway.core.health import Health
from gateway.core.message import Address, Message, Properties
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.passing import ASIDE, REMEMBERED
from gateway.core.priority import with_levels
from gateway.core.queues import BackendQueue
from gateway.core.receiver import OUT_OF_STEP, Keeper, ReceivePolicy, Receiver
from gateway.core.selecting import BELIEVED
from gateway.core.selector import SelectorError
from gateway.core.sender import Sender
from gateway.core.settler import Settler
from gateway.core.subscription import Subscription
from tests.rig.clock import at_end, on_clock, settle_down, until
from tests.rig.scripted import Consumer, ScriptedBackend, new_metrics

PASS_OVER = 60.0
VISIBILITY = 30.0
TARGET = Target(kind="memory", name="orders", queue="orders", pass_over=PASS_OVER)

NOTHING = Depth(ready=0, unsettled=0, delayed=0)

RED, BLUE, SHAPED = "colour = 'red'", "colour = 'blue'", "shape IS NOT NULL"


class Watched(MemoryBackend):
    """Remembers what it was asked for, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.receives = 0
        self.hidden = 0
        self.fails = False

    async def receive(self, target: Target, limit: int, wait: float, visibility: float) -> Sequence[object]:  # type: ignore[override]
        self.receives += 1
        return await super().receive(target, limit, wait, visibility)

    async def extend(self, target: Target, receipts: Sequence[str], visibility: float) -> Sequence[Result]:
        if self.fails:
            raise Unavailable("out of order")
        if visibility == PASS_OVER:
            self.hidden += len(receipts)
        return await super().extend(target, receipts, visibility)


class Rig:
    def __init__(self, backend: Backend | None = None, target: Target = TARGET, **arguments: object) -> None:
        self.backend = Watched()
        self.metrics = new_metrics()
        self.target = target
        self.buried: list[tuple[bytes, Reason]] = []
        self.published = 0
        self.sender = Consumer()
        self.queue = BackendQueue(
            target,
            QueueSpec(arguments={name.replace("_", "-"): value for name, value in arguments.items()}),
            backend or self.backend,
            open_sender=self._open_sender,
            open_receiver=self._open_receiver,
            bury=self._bury,
            nobody=self.sender,
        )
        at_end(self.queue.aclose)

    def _open_sender(self, target: Target) -> Sender:
        raise AssertionError("nothing is sent on")

    def _open_receiver(self, target: Target, keeper: Keeper, policy: QueuePolicy) -> Receiver:
        backend = self.queue._backend
        return Receiver(
            backend,
            target,
            Settler(backend, target, policy=BatchPolicy(timeout=5.0), metrics=self.metrics),
            policy=ReceivePolicy(visibility=VISIBILITY),
            metrics=self.metrics,
            health=Health(),
            keeper=keeper,
            single=policy.single_active_consumer,
        )

    def _bury(self, queue: DeadLettering, message: Message, reason: Reason, done: object) -> None:
        self.buried.append((message.body, reason))
        done(ACCEPTED)  # type: ignore[operator]

    async def put(self, colour: str, count: int = 1, **properties: int) -> list[bytes]:
        """Messages of a colour in the queue; their bodies, no two of which are equal."""
        bodies = [f"{colour} {self.published + number}".encode() for number in range(count)]
        self.published += count
        made = [
            Message(Address("", "orders"), body, Properties(**properties), {"colour": colour})  # type: ignore[arg-type]
            for body in bodies
        ]
        entries = [self.backend.encode(self.target, message) for message in made]
        assert all(result is ACCEPTED for result in await self.backend.send(self.target, entries))
        return bodies

    async def consume(self, selector: str = "", prefetch: int = 10, **options: bool) -> tuple[Subscription, Consumer]:
        consumer = Consumer()
        command = Consume("tag", "orders", prefetch, None, selector=selector, **options)  # type: ignore[arg-type]
        subscription = self.queue.consume(command, consumer)
        if subscription.begun is not None:
            await subscription.begun
        return subscription, consumer

    def passed_over(self) -> int:
        return self.metrics.total("mqlift_messages_passed_over")


async def gets(consumer: Consumer, bodies: Sequence[bytes]) -> None:
    """All of these, in any order, and nothing else."""
    await until(lambda: len(consumer.deliveries) >= len(bodies), "the messages")
    assert sorted(consumer.bodies) == sorted(bodies)


# Who gets what


@on_clock
async def test_each_consumer_gets_what_it_wants_and_nothing_is_passed_over() -> None:
    rig = Rig()
    reds, blues = await rig.put("red", 30), await rig.put("blue", 30)
    _, red = await rig.consume(RED, 100)
    _, blue = await rig.consume(BLUE, 100)
    await gets(red, reds)
    await gets(blue, blues)
    # Only the first had come when the first poll was answered.
    assert rig.passed_over() <= 10 * ReceivePolicy().polls
    assert rig.queue.unsettled == 60


@on_clock
async def test_a_consumer_without_a_selector_takes_all() -> None:
    rig = Rig()
    _, everything = await rig.consume("", 100)
    _, red = await rig.consume(RED, 100)
    bodies = await rig.put("blue", 20)
    await gets(everything, bodies)
    assert red.deliveries == []
    reds = await rig.put("red", 20)
    await until(lambda: len(everything.deliveries) + len(red.deliveries) == 40, "the messages")
    assert sorted(everything.bodies + red.bodies) == sorted(bodies + reds)
    assert red.deliveries, "it takes its turns"
    assert rig.passed_over() == 0


@on_clock
async def test_what_is_behind_unwanted_messages_is_found_at_once() -> None:
    rig = Rig()
    await rig.put("blue", 500)
    wanted = await rig.put("red", 3)
    _, red = await rig.consume(RED)
    began = asyncio.get_running_loop().time()
    await gets(red, wanted)
    assert asyncio.get_running_loop().time() - began < 1.0
    assert rig.passed_over() == 500


# What nobody wants


@on_clock
async def test_what_nobody_wants_is_hidden_and_looked_at_again() -> None:
    rig = Rig()
    await rig.put("blue", 5)
    _, red = await rig.consume(RED)
    await settle_down()
    assert rig.passed_over() == 5
    await asyncio.sleep(PASS_OVER - 1)
    assert rig.backend.hidden == 5
    await asyncio.sleep(2)
    assert rig.backend.hidden == 10
    assert red.deliveries == []
    assert rig.queue.unsettled == 0
    assert rig.passed_over() == 10


@on_clock
async def test_who_passes_over_is_not_always_the_first_to_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    rig = Rig()
    await rig.put("blue")
    await rig.consume(RED)
    await asyncio.sleep(OUT_OF_STEP / 2)
    assert (rig.passed_over(), rig.backend.receives) == (1, 1)
    await asyncio.sleep(OUT_OF_STEP)
    assert rig.backend.receives == 2


@on_clock
async def test_who_comes_later_gets_it_at_once() -> None:
    rig = Rig()
    bodies = await rig.put("blue", 5)
    await rig.consume(RED)
    await settle_down()
    _, blue = await rig.consume(BLUE)
    await settle_down()
    await gets(blue, bodies)
    assert all(delivery.redelivered for delivery in blue.deliveries), "SQS has counted the pass"


@on_clock
async def test_who_comes_while_it_is_being_hidden_gets_it_as_soon_as_it_is() -> None:
    rig = Rig()
    rig.backend.fails = True
    bodies = await rig.put("blue", 5)
    await rig.consume(RED)
    await settle_down()
    _, blue = await rig.consume(BLUE)
    rig.backend.fails = False
    await until(lambda: blue.deliveries, "the messages")
    await gets(blue, bodies)
    assert asyncio.get_running_loop().time() < 1_000 + VISIBILITY


@on_clock
async def test_more_than_is_remembered_comes_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    bodies = await rig.put("blue", REMEMBERED + 5)
    await rig.consume(RED)
    await until(lambda: rig.passed_over() == len(bodies), "all are passed over")
    _, everything = await rig.consume("", 10_000)
    await asyncio.sleep(PASS_OVER / 2)
    assert len(everything.deliveries) == REMEMBERED
    await gets(everything, bodies)


@on_clock
async def test_when_the_backend_hides_nothing_it_comes_back_by_itself() -> None:
    rig = Rig()
    rig.backend.fails = True
    bodies = await rig.put("blue")
    first, _ = await rig.consume(RED)
    with capture_logs() as logs:
        await asyncio.sleep(VISIBILITY + 1)
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["messages_not_passed_over"]
    rig.backend.fails = False
    first.cancel()
    _, everything = await rig.consume()
    await gets(everything, bodies)


@on_clock
async def test_only_so_many_are_passed_over_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "PASSED", 40)
    rig = Rig()
    await rig.put("blue", 1_000)
    await rig.consume(RED, 1_000)
    await asyncio.sleep(PASS_OVER / 2)
    assert 40 <= rig.passed_over() <= 40 + 10 * ReceivePolicy().polls
    before = rig.backend.receives
    await asyncio.sleep(PASS_OVER / 4)
    assert rig.backend.receives == before, "it waits until the first comes back"
    await asyncio.sleep(PASS_OVER)
    assert rig.backend.receives > before


@pytest.mark.parametrize("selector", ["", BLUE])
@on_clock
async def test_who_comes_when_no_more_can_be_passed_over_need_not_wait(
    monkeypatch: pytest.MonkeyPatch, selector: str
) -> None:
    monkeypatch.setattr(passing, "PASSED", 40)
    rig = Rig()
    bodies = await rig.put("blue", 200)
    await rig.consume(RED, 1_000)
    await settle_down()
    passed = rig.passed_over()
    assert 40 <= passed < 200
    began = asyncio.get_running_loop().time()
    _, blue = await rig.consume(selector, 1_000)
    await gets(blue, bodies)
    assert asyncio.get_running_loop().time() - began < PASS_OVER / 4
    assert rig.passed_over() == passed


@on_clock
async def test_who_gets_credit_when_no_more_can_be_passed_over_need_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "PASSED", 40)
    rig = Rig()
    await rig.put("blue", 500)
    _, everything = await rig.consume("", 1)
    await rig.consume(RED, 1_000)
    await until(lambda: rig.passed_over() >= 40, "no more can be passed over")
    for _ in range(200):
        await until(lambda: everything.deliveries, "the next one")
        everything.settle()
    assert asyncio.get_running_loop().time() < 1_000 + PASS_OVER / 2


# Who has no credit


@on_clock
async def test_who_has_no_credit_is_waited_for_and_holds_up_nobody() -> None:
    rig = Rig()
    _, red = await rig.consume(RED, 1)
    _, blue = await rig.consume(BLUE, 100)
    reds = await rig.put("red", 20)
    blues = await rig.put("blue", 20)
    await gets(blue, blues)
    got = []
    for _ in reds:
        await until(lambda: red.deliveries, "the next one")
        assert len(red.deliveries) == 1
        assert not red.deliveries[0].redelivered, "it was not passed over"
        got += red.bodies
        red.settle()
    assert sorted(got) == sorted(reds)
    assert rig.passed_over() == 0


@on_clock
async def test_what_waits_for_credit_is_bounded() -> None:
    rig = Rig()
    _, red = await rig.consume(RED, 1)
    _, blue = await rig.consume(BLUE, 1)
    reds = await rig.put("red", ASIDE + 50)
    await until(lambda: rig.passed_over() == 49, "the rest is passed over")
    assert rig.queue.unsettled == ASIDE + 1
    blues = await rig.put("blue")
    await gets(blue, blues)
    got = 0
    while got < len(reds):
        await until(lambda: red.deliveries, "the next one")
        got += 1
        red.settle()
    assert red.deliveries == []


@on_clock
async def test_what_waits_for_credit_is_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "ASIDE_BYTES", len(b"red 1") + 1)
    rig = Rig()
    _, red = await rig.consume(RED, 1)
    await rig.consume(BLUE, 1)
    reds = await rig.put("red", 5)
    await until(lambda: rig.passed_over() == 2, "the rest is passed over")
    assert rig.queue.unsettled == 3
    got = []
    for _ in reds:
        await until(lambda: red.deliveries, "the next one")
        got += red.bodies
        red.settle()
    assert sorted(got) == sorted(reds), "the room is used again"


@on_clock
async def test_what_waits_too_long_for_credit_is_given_back() -> None:
    rig = Rig()
    await rig.consume(RED, 1)
    await rig.consume(BLUE, 1)
    await rig.put("red", 2)
    await settle_down()
    assert rig.queue.unsettled == 2
    rig.queue.stop_polling()  # or it would come here again
    assert rig.queue.unsettled == 1
    await rig.queue.drain()
    assert (await rig.backend.depth(TARGET)).ready == 1


@on_clock
async def test_after_its_time_it_is_free_for_other_gateways() -> None:
    rig = Rig()
    await rig.consume(RED, 1)
    await rig.consume(BLUE, 1)
    await rig.put("red", 2)
    await settle_down()
    released = rig.metrics.total("mqlift_settlements")
    await asyncio.sleep(PASS_OVER + 1)
    assert rig.metrics.total("mqlift_settlements") == released + 1


@on_clock
async def test_what_waits_for_one_that_leaves_is_free_for_others() -> None:
    rig = Rig()
    first, red = await rig.consume(RED, 1)
    await rig.consume(BLUE, 1)
    bodies = await rig.put("red", 3)
    await settle_down()
    assert rig.queue.unsettled == 3
    first.cancel()
    await settle_down()
    assert rig.queue.unsettled == 1, "what it holds it may still settle"
    assert rig.passed_over() == 2, "the others came back, and nobody here wants them any more"
    red.settle(Outcome.RELEASED)
    await settle_down()
    _, everything = await rig.consume()
    await gets(everything, bodies)


@on_clock
async def test_what_expires_while_it_waits_is_not_delivered() -> None:
    rig = Rig(x_dead_letter_exchange="graveyard")
    rig.queue._wall = lambda: 1_800_000_000.0  # years after it was stored
    _, red = await rig.consume(RED, 1)
    await rig.consume(BLUE, 1)
    await rig.put("red", 2)
    await settle_down()
    (kept,) = red.deliveries
    (waiting,) = rig.queue._receiver._passing._aside  # type: ignore[union-attr]
    waiting.message = replace(waiting.message, properties=Properties(expiration=1))
    red.settle()
    await settle_down()
    assert red.deliveries == []
    assert rig.buried == [(waiting.message.body, Reason.EXPIRED)]
    assert kept.settled


# Turns


@on_clock
async def test_a_higher_priority_comes_first_where_it_wants_the_message() -> None:
    rig = Rig()
    low = Consumer()
    high = Consumer()
    for consumer, priority, selector in ((low, 0, ""), (high, 5, RED)):
        command = Consume("tag", "orders", 100, None, selector=selector, priority=priority)
        subscription = rig.queue.consume(command, consumer)
        if subscription.begun is not None:
            await subscription.begun
    reds, blues = await rig.put("red", 10), await rig.put("blue", 10)
    await gets(high, reds)
    await gets(low, blues)


@on_clock
async def test_of_a_single_active_consumer_the_selector_decides_alone() -> None:
    rig = Rig(x_single_active_consumer=True)
    first, red = await rig.consume(RED)
    _, blue = await rig.consume(BLUE)
    reds, blues = await rig.put("red", 3), await rig.put("blue", 3)
    await gets(red, reds)
    assert rig.passed_over() == 3
    first.cancel()
    await gets(blue, blues)


# Who may have one


@pytest.mark.parametrize(
    ("target", "arguments", "problem"),
    [
        (replace(TARGET, pass_over=None), {}, r"selectors: \{pass_over: 30\}.*match: \{queue: orders\}"),
        (replace(TARGET, name="orders.fifo"), {}, "FIFO"),
        (TARGET, {"x_delivery_limit": 3}, "x-delivery-limit 3"),
        (TARGET, {"x_queue_type": "quorum"}, "x-delivery-limit 20"),
    ],
)
@on_clock
async def test_refused(target: Target, arguments: dict[str, object], problem: str) -> None:
    rig = Rig(target=target, **arguments)
    with pytest.raises(NotSupported, match=problem):
        await rig.consume(RED)
    assert rig.queue.consumers == 0
    await rig.consume()


@on_clock
async def test_what_is_no_selector_is_refused() -> None:
    rig = Rig()
    with pytest.raises(SelectorError):
        await rig.consume("colour =")


@on_clock
async def test_a_delivery_limit_cannot_come_while_there_are_selectors() -> None:
    rig = Rig()
    subscription, _ = await rig.consume(RED)
    limited = QueueSpec(arguments={"x-delivery-limit": 3})
    with pytest.raises(NotSupported, match="x-delivery-limit"):
        rig.queue.redefine(limited)
    subscription.cancel()
    rig.queue.redefine(limited)


class Redriven(ScriptedBackend):
    def __init__(self, after: int | None) -> None:
        super().__init__()
        self.after = after
        self.looks = 0

    async def redriven_after(self, target: Target) -> int | None:
        self.looks += 1
        return self.after


@on_clock
async def test_a_redrive_policy_would_bury_messages() -> None:
    backend = Redriven(5)
    rig = Rig(backend)
    with pytest.raises(NotSupported, match=r"redrive policy.*5 times"):
        await rig.consume(RED)
    assert rig.queue.consumers == 0
    backend.after = None
    await rig.consume(RED)
    await rig.consume(BLUE)
    assert backend.looks == 2, "it is believed for a while"
    await asyncio.sleep(BELIEVED)
    backend.after = 5
    with pytest.raises(NotSupported):
        await rig.consume(RED)


@pytest.mark.parametrize(("after", "expected"), [(None, None), (5, 5)])
@on_clock
async def test_a_queue_with_priorities_has_the_redrive_policies_of_its_levels(
    after: int | None, expected: int | None
) -> None:
    levels = with_levels(Redriven(after), Target(kind="scripted", name="orders", queue="orders"), 3, by_name=True)
    assert await levels.redriven_after(TARGET) == expected
    bare = with_levels(ScriptedBackend(), Target(kind="scripted", name="orders", queue="orders"), 3, by_name=True)
    assert await bare.redriven_after(TARGET) is None


@on_clock
async def test_a_policy_that_cannot_be_looked_at_is_an_error() -> None:
    class Failing(ScriptedBackend):
        async def redriven_after(self, target: Target) -> int | None:
            raise Throttled("slow down")

    rig = Rig(Failing())
    with pytest.raises(Throttled):
        await rig.consume(RED)
    assert rig.queue.consumers == 0


@on_clock
async def test_one_that_leaves_before_it_has_begun_never_does() -> None:
    rig = Rig()
    subscription = rig.queue.consume(Consume("tag", "orders", 10, None, selector=RED), Consumer())
    assert subscription.begun is not None
    subscription.cancel()
    await subscription.begun
    assert rig.queue.consumers == 0


@on_clock
async def test_a_rule_may_change_before_it_begins() -> None:
    rig = Rig()
    subscription = rig.queue.consume(Consume("tag", "orders", 10, None, selector=RED), Consumer())
    assert subscription.begun is not None
    rig.queue.target = replace(TARGET, pass_over=None)
    with pytest.raises(NotSupported):
        await subscription.begun
    assert rig.queue.consumers == 0


@on_clock
async def test_an_exclusive_consumer_may_come_first_meanwhile() -> None:
    rig = Rig()
    subscription = rig.queue.consume(Consume("tag", "orders", 10, None, selector=RED), Consumer())
    assert subscription.begun is not None
    await rig.consume(exclusive=True)
    with pytest.raises(InUse):
        await subscription.begun


# All together


class Crowd:
    """Consumers that come and go, and what they have acknowledged."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.sent: list[bytes] = []
        self.acknowledged: Counter[bytes] = Counter()
        self.consumers: list[tuple[str, Subscription, Consumer]] = []

    async def put(self, colour: str, count: int) -> None:
        self.sent += await self.rig.put(colour, count)

    async def come(self, selector: str, prefetch: int) -> None:
        self.consumers.append((selector, *await self.rig.consume(selector, prefetch)))

    async def leave(self, number: int) -> None:
        if self.consumers:
            _, subscription, consumer = self.consumers.pop(number % len(self.consumers))
            consumer.settle(Outcome.RELEASED)
            subscription.cancel()

    async def settle(self, number: int, outcome: Outcome) -> None:
        if self.consumers:
            _, _, consumer = self.consumers[number % len(self.consumers)]
            if outcome is Outcome.ACCEPTED:
                self.acknowledged.update(consumer.bodies)
            consumer.settle(outcome)

    def check(self) -> None:
        for selector, _, consumer in self.consumers:
            assert all(body.decode().split()[0] in MATCHING[selector] for body in consumer.bodies)

    async def everything_is_taken(self) -> None:
        await self.come("", 10_000)
        for _ in range(20):
            for number in range(len(self.consumers)):
                await self.settle(number, Outcome.ACCEPTED)
            await asyncio.sleep(PASS_OVER / 4)
            self.check()


CONSUMERS = st.tuples(st.sampled_from(["", RED, BLUE, SHAPED]), st.sampled_from([1, 3, 200]))
MATCHING = {"": ("red", "blue", "green"), RED: ("red",), BLUE: ("blue",), SHAPED: ()}
SOME = st.integers(0, 9)
STEPS = st.lists(
    st.one_of(
        st.builds(lambda *what: lambda crowd: crowd.put(*what), st.sampled_from(MATCHING[""]), st.integers(1, 150)),
        st.builds(lambda who: lambda crowd: crowd.come(*who), CONSUMERS),
        st.builds(lambda who: lambda crowd: crowd.leave(who), SOME),
        st.builds(
            lambda *what: lambda crowd: crowd.settle(*what), SOME, st.sampled_from([Outcome.ACCEPTED, Outcome.RELEASED])
        ),
        st.builds(
            lambda seconds: lambda _: asyncio.sleep(seconds), st.sampled_from([0.001, 1.0, VISIBILITY, PASS_OVER])
        ),
    ),
    max_size=30,
)


@settings(max_examples=100)
@given(STEPS)
@on_clock
async def test_each_message_is_delivered_to_one_who_wants_it_and_none_is_lost(
    steps: list[Callable[[Crowd], Awaitable[None]]],
) -> None:
    crowd = Crowd()
    for step in steps:
        await step(crowd)
        crowd.check()
    await crowd.everything_is_taken()
    assert crowd.acknowledged == Counter(crowd.sent)
    await crowd.rig.queue.drain()
    depth = await crowd.rig.backend.depth(TARGET) if crowd.sent else NOTHING
    assert depth == NOTHING
