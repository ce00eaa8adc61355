"""Polling by credit, fair hand-out, and deliveries that always end settled or released."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from gateway.core.backend import Limits
from gateway.core.batcher import BatchPolicy
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.errors import AccessDenied, BackendError, CredentialsInvalid, ReceiptExpired, Throttled, Unavailable
from gateway.core.health import Health
from gateway.core.outcome import Outcome, Result
from gateway.core.receiver import ReceivePolicy, Receiver
from gateway.core.settler import Settler
from gateway.core.subscription import Subscription
from tests.rig.clock import at_end, on_clock, settle_down, until
from tests.rig.scripted import LIMITS, TARGET, Consumer, ScriptedBackend, new_metrics

POLICY = ReceivePolicy(visibility=30.0, wait=20.0, polls=4, backoff=BatchPolicy(backoff_base=0.5, backoff_cap=4.0))


@pytest.fixture
def longest_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)


class Rig:
    def __init__(self, policy: ReceivePolicy = POLICY, limits: Limits = LIMITS) -> None:
        self.backend = ScriptedBackend(limits)
        self.metrics = new_metrics()
        self.health = Health()
        self.times_idle = 0
        self.settler = Settler(self.backend, TARGET, policy=BatchPolicy(timeout=5.0), metrics=self.metrics)
        self.receiver = Receiver(
            self.backend,
            TARGET,
            self.settler,
            policy=policy,
            metrics=self.metrics,
            health=self.health,
            keeper=self,
        )
        at_end(self.settler.aclose)
        at_end(self.receiver.aclose)

    def subscribe(self, prefetch: int) -> tuple[Subscription, Consumer]:
        consumer = Consumer()
        subscription = Subscription(Consume("tag", TARGET.queue, prefetch, None), self.receiver, consumer)
        self.receiver.subscribe(subscription)
        return subscription, consumer

    # The queue's part

    def screen(self, delivery: Delivery) -> bool:
        return False

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        self.settler.settle(delivery, outcome)

    def idle(self) -> None:
        self.times_idle += 1

    def gauge(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"mqlift_{name}", {"queue": "orders"}) or 0.0


def now() -> float:
    return asyncio.get_running_loop().time()


@on_clock
async def test_without_a_consumer_or_credit_nothing_is_polled() -> None:
    rig = Rig()
    rig.receiver.wake()
    await settle_down()
    assert not rig.backend.asked
    rig.backend.arrive(b"a", b"b", b"c")
    _, consumer = rig.subscribe(2)
    await settle_down()
    assert rig.backend.asked == [2], "as much as there is credit for"
    assert consumer.bodies == [b"a", b"b"]
    await asyncio.sleep(100)
    assert rig.backend.asked == [2], "no credit, no poll"
    consumer.settle()
    await settle_down()
    assert consumer.bodies == [b"c"]


@on_clock
async def test_an_idle_queue_costs_one_long_poll_after_the_other() -> None:
    rig = Rig()
    rig.subscribe(100)
    await asyncio.sleep(59.9)
    assert len(rig.backend.asked) == 3
    assert rig.backend.polls == 1
    assert rig.gauge("polls") == 1


@on_clock
async def test_a_busy_queue_gets_more_polls_up_to_the_limit_and_one_again_when_it_is_idle() -> None:
    rig = Rig()
    peak = 0

    async def slow(limit: int) -> None:
        nonlocal peak
        peak = max(peak, rig.backend.polls)
        await asyncio.sleep(0.01)

    rig.backend.on_receive = slow
    rig.backend.arrive(*(b"%d" % number for number in range(1_000)))
    _, consumer = rig.subscribe(10_000)
    await until(lambda: len(consumer.deliveries) == 1_000, "all are delivered")
    assert peak == 4
    await asyncio.sleep(60)
    assert rig.backend.polls == 1


@on_clock
async def test_what_polls_may_bring_never_exceeds_the_credit() -> None:
    rig = Rig()
    taken = 0

    async def check(limit: int) -> None:
        await asyncio.sleep(0.001)

    rig.backend.on_receive = check
    rig.backend.arrive(*(b"%d" % number for number in range(300)))
    consumers = [rig.subscribe(prefetch)[1] for prefetch in (1, 7, 25)]
    for _ in range(400):
        reserved = rig.receiver._reserved
        held = sum(len(consumer.deliveries) for consumer in consumers)
        assert reserved + held <= 33
        await asyncio.sleep(0.0007)
        for consumer in consumers:
            taken += len(consumer.deliveries)
            consumer.settle()
    assert taken == 300
    assert not rig.backend.released, "nobody was asked for what nobody wants"


@on_clock
async def test_a_busy_queue_gathers_credit_for_a_full_poll() -> None:
    rig = Rig()
    rig.backend.arrive(*(b"%d" % number for number in range(40)))
    _, consumer = rig.subscribe(20)
    await settle_down()
    assert len(consumer.deliveries) == 20
    asked = len(rig.backend.asked)
    for delivery in consumer.deliveries[:10]:
        delivery.source.settle(delivery, Outcome.ACCEPTED)
        await asyncio.sleep(0.0001)
    del consumer.deliveries[:10]
    await asyncio.sleep(0.01)
    assert rig.backend.asked[asked:] == [10], "one request for ten, not ten for one"


@on_clock
async def test_consumers_take_turns() -> None:
    rig = Rig()
    pairs = [rig.subscribe(10) for _ in range(3)]
    rig.backend.arrive(*(b"%d" % number for number in range(9)))
    await settle_down()
    assert [len(consumer.deliveries) for _, consumer in pairs] == [3, 3, 3]


@on_clock
async def test_what_nobody_wants_any_more_is_released_at_once() -> None:
    rig = Rig()
    subscription, consumer = rig.subscribe(5)
    await settle_down()
    assert rig.backend.polls == 1
    subscription.cancel()
    await settle_down()
    assert rig.backend.polls == 1, "a poll under way is not cancelled"
    rig.backend.arrive(b"a", b"b")
    await settle_down()
    assert rig.backend.released == ["r-a", "r-b"]
    assert not consumer.deliveries
    assert rig.gauge("unsettled_deliveries") == 0
    assert rig.gauge("deliveries_total") == 0


@on_clock
async def test_what_a_blocked_consumer_cannot_take_is_released() -> None:
    rig = Rig()
    subscription, _ = rig.subscribe(5)
    await settle_down()
    subscription.blocked = True
    rig.backend.arrive(b"a")
    await settle_down()
    assert rig.backend.released == ["r-a"]
    subscription.unblock()
    await settle_down()
    assert rig.backend.polls == 1


@on_clock
async def test_a_delivery_is_settled_once() -> None:
    rig = Rig()
    subscription, consumer = rig.subscribe(5)
    rig.backend.arrive(b"a", attempt=3)
    await settle_down()
    (delivery,) = consumer.deliveries
    assert delivery.redelivered
    assert rig.gauge("unsettled_deliveries") == 1
    for outcome in (Outcome.ACCEPTED, Outcome.RELEASED, Outcome.REJECTED):
        rig.receiver.settle(delivery, outcome)
    await rig.settler.drain()
    assert rig.backend.settled == [(["r-a"], Outcome.ACCEPTED)]
    assert subscription.held == 0
    assert rig.gauge("unsettled_deliveries") == 0
    assert (rig.gauge("deliveries_total"), rig.gauge("redeliveries_total")) == (1, 1)


@on_clock
async def test_a_consumer_may_settle_at_once_while_it_is_handed_the_delivery() -> None:
    rig = Rig()

    class Eager(Consumer):
        def deliver(self, subscription: Subscription, delivery: object) -> None:
            super().deliver(subscription, delivery)  # type: ignore[arg-type]
            self.settle()

    subscription = Subscription(Consume("tag", TARGET.queue, 1, None), rig.receiver, Eager())
    rig.backend.arrive(b"a", b"b", b"c")
    rig.receiver.subscribe(subscription)
    await settle_down(60)
    await rig.settler.drain()
    assert rig.backend.deleted == ["r-a", "r-b", "r-c"]
    assert subscription.held == 0


@on_clock
async def test_failures_back_off_longer_and_longer_and_are_a_problem_after_three(longest_backoff: None) -> None:
    rig = Rig()
    failing = True
    times: list[float] = []

    async def fail(limit: int) -> None:
        times.append(now())
        if failing:
            raise Unavailable("no answer")

    rig.backend.on_receive = fail
    rig.subscribe(10)
    while len(times) < 6:
        await asyncio.sleep(0.1)
        assert bool(rig.health.problems) is (len(times) >= 3)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps == pytest.approx([0.5, 1.0, 2.0, 4.0, 4.0])
    assert not rig.health.ready
    failing = False
    rig.backend.arrive(b"a")
    await asyncio.sleep(4.5)
    assert rig.health.ready


@on_clock
async def test_polls_that_fail_together_count_as_one_failure(longest_backoff: None) -> None:
    rig = Rig()
    rig.backend.arrive(*(b"%d" % number for number in range(70)))
    gate = asyncio.Event()

    async def wait(limit: int) -> None:
        if len(rig.backend.asked) > 7:
            await gate.wait()
            raise Unavailable("no answer")

    rig.backend.on_receive = wait
    rig.subscribe(1_000)
    await asyncio.sleep(0.1)
    assert rig.backend.polls == 4
    asked = len(rig.backend.asked)
    gate.set()
    await settle_down()
    assert not rig.health.problems
    await asyncio.sleep(0.49)
    assert len(rig.backend.asked) == asked
    await asyncio.sleep(0.02)
    assert len(rig.backend.asked) == asked + 1, "the shortest pause, then one poll"


@pytest.mark.parametrize("error", [AccessDenied("may not"), CredentialsInvalid("expired")])
@on_clock
async def test_what_an_operator_has_to_mend_is_told_at_once_and_recovers_by_itself(error: BackendError) -> None:
    rig = Rig()
    broken = True

    async def fail(limit: int) -> None:
        if broken:
            raise error

    rig.backend.on_receive = fail
    _, consumer = rig.subscribe(10)
    await settle_down()
    assert [problem.text for problem in rig.health.problems] == [str(error)]
    broken = False
    rig.backend.arrive(b"a")
    await asyncio.sleep(5)
    assert not rig.health.problems
    assert consumer.bodies == [b"a"]


@on_clock
async def test_too_much_in_flight_pauses_polling_and_is_no_problem() -> None:
    rig = Rig()

    async def fail(limit: int) -> None:
        raise Throttled("OverLimit")

    rig.backend.on_receive = fail
    rig.subscribe(10)
    await asyncio.sleep(20)
    assert not rig.health.problems
    assert len(rig.backend.asked) < 60


@on_clock
async def test_a_problem_goes_with_the_last_consumer_also_when_the_last_poll_fails_later() -> None:
    rig = Rig()
    gate = asyncio.Event()

    async def fail(limit: int) -> None:
        await gate.wait()
        raise CredentialsInvalid("expired")

    rig.backend.on_receive = fail
    subscription, _ = rig.subscribe(10)
    await settle_down()
    subscription.cancel()
    gate.set()
    await settle_down()
    assert rig.health.ready, "nobody would ever see that it works again"
    subscription, _ = rig.subscribe(10)
    await asyncio.sleep(30)
    assert not rig.health.ready
    subscription.cancel()
    assert rig.health.ready


@on_clock
async def test_a_bug_in_a_backend_neither_stops_the_queue_nor_passes_unseen() -> None:
    rig = Rig()
    bugs = [KeyError("a bug")]

    async def fail(limit: int) -> None:
        if bugs:
            raise bugs.pop()

    rig.backend.on_receive = fail
    rig.backend.arrive(b"a")
    with capture_logs() as lines:
        _, consumer = rig.subscribe(10)
        await asyncio.sleep(5)
    assert lines[0]["event"] == "receive_failed_unexpectedly"
    assert consumer.bodies == [b"a"]
    assert rig.receiver._reserved == 9, "only the poll that is under way"


@on_clock
async def test_held_deliveries_are_renewed_at_each_third_of_the_timeout() -> None:
    rig = Rig()
    _, consumer = rig.subscribe(100)
    start = now()
    renewals: list[float] = []

    async def extend(receipts: Sequence[str]) -> Sequence[Result]:
        renewals.append(now() - start)
        return [Result(Outcome.ACCEPTED)] * len(receipts)

    rig.backend.on_extend = extend
    rig.backend.arrive(b"a", b"b")
    await asyncio.sleep(5)
    rig.backend.arrive(b"c")
    await asyncio.sleep(6)
    assert rig.backend.extended == [["r-a", "r-b"]]
    await asyncio.sleep(5)
    assert rig.backend.extended == [["r-a", "r-b"], ["r-c"]]
    consumer.settle()
    await asyncio.sleep(60)
    assert renewals == pytest.approx([10.0, 15.0], abs=0.01)
    assert rig.gauge("visibility_renewals_total") == 3


@on_clock
async def test_settled_deliveries_do_not_stay_in_memory_until_their_renewal() -> None:
    rig = Rig()
    _, consumer = rig.subscribe(10)

    rig.backend.arrive(b"first")
    await settle_down()
    first = consumer.deliveries.pop()
    rig.backend.arrive(b"second")
    await settle_down()
    consumer.settle()
    await rig.settler.drain()
    assert list(rig.receiver._renewer._held) == [first]


@on_clock
async def test_a_renewal_that_fails_is_tried_until_the_timeout_and_an_expired_receipt_is_let_go() -> None:
    rig = Rig()
    rig.subscribe(10)
    start = now()
    tries: list[float] = []

    async def extend(receipts: Sequence[str]) -> Sequence[Result]:
        tries.append(now() - start)
        raise Unavailable("no answer")

    rig.backend.on_extend = extend
    rig.backend.arrive(b"a")
    with capture_logs() as lines:
        await asyncio.sleep(31)
    assert 10.0 <= tries[0] < 10.1
    assert len(tries) >= 5
    assert 24.0 < tries[-1] <= 30.0
    assert [line["event"] for line in lines] == ["renewal_failed"]

    rig = Rig()
    rig.subscribe(10)

    async def expired(receipts: Sequence[str]) -> Sequence[Result]:
        return [Result(Outcome.RELEASED, ReceiptExpired("late"))] * len(receipts)

    rig.backend.on_extend = expired
    rig.backend.arrive(b"a")
    await asyncio.sleep(100)
    assert len(rig.backend.extended) == 1


@on_clock
async def test_one_hanging_renewal_does_not_hold_up_the_others() -> None:
    rig = Rig()
    rig.subscribe(1_000)
    renewed: set[str] = set()

    async def extend(receipts: Sequence[str]) -> Sequence[Result]:
        if "r-0" in receipts:
            await asyncio.sleep(40)
        renewed.update(receipts)
        return [Result(Outcome.ACCEPTED)] * len(receipts)

    rig.backend.on_extend = extend
    rig.backend.arrive(*(b"%d" % number for number in range(200)))
    await asyncio.sleep(11)
    assert len(renewed) == 190
    assert max(map(len, rig.backend.extended)) == 10


@on_clock
async def test_after_the_services_limit_a_delivery_may_come_back() -> None:
    rig = Rig(limits=Limits(batch_entries=10, batch_bytes=1_000, entry_bytes=500, max_hold=120.0))
    rig.subscribe(10)
    rig.backend.arrive(b"a")
    await asyncio.sleep(1_000)
    assert len(rig.backend.extended) == 8, "at 10, 20, … 80 s: at 90 s it would be hidden until 120 s"


@on_clock
async def test_what_is_settled_while_its_renewal_waits_is_not_renewed() -> None:
    rig = Rig()
    _, consumer = rig.subscribe(10)
    rig.backend.arrive(b"a", b"b")
    await settle_down()
    asyncio.get_running_loop().call_at(
        consumer.deliveries[0].due, lambda: rig.receiver.settle(consumer.deliveries[0], Outcome.ACCEPTED)
    )
    await asyncio.sleep(11)
    assert rig.backend.extended == [["r-b"]]


@on_clock
async def test_stopping_ends_polling_but_not_settling_and_renewing() -> None:
    rig = Rig()
    _, consumer = rig.subscribe(2)
    rig.backend.arrive(b"a")
    await settle_down()
    assert rig.backend.polls == 1
    rig.receiver.stop()
    finish = asyncio.create_task(rig.receiver.finish())
    await settle_down()
    assert not finish.done()
    rig.backend.arrive(b"b")
    await finish
    await asyncio.sleep(15)
    assert rig.backend.extended == [["r-a", "r-b"]]
    consumer.settle()
    await rig.settler.drain()
    assert sorted(rig.backend.deleted) == ["r-a", "r-b"]
    assert rig.backend.polls == 0


@on_clock
async def test_a_finish_that_is_cut_short_does_not_cut_the_polls() -> None:
    rig = Rig()
    rig.subscribe(2)
    await settle_down()
    rig.receiver.stop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await rig.receiver.finish()
    assert rig.backend.polls == 1


@on_clock
async def test_closing_abandons_polls_and_leaves_no_timer() -> None:
    rig = Rig()
    _, consumer = rig.subscribe(100)
    rig.backend.arrive(b"a")
    await settle_down()
    await rig.receiver.aclose()
    assert rig.backend.polls == 0
    consumer.settle()
    await rig.settler.drain()
    await asyncio.sleep(100)
    assert not rig.backend.extended
    assert len(rig.backend.asked) == 2
    loop = asyncio.get_running_loop()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]
