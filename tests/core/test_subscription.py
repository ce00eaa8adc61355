"""Turns: fair among consumers, never over credit, and as cheap with many consumers as with few."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.backend import Received
from gateway.core.commands import Consume
from gateway.core.delivery import Delivery
from gateway.core.outcome import Outcome
from gateway.core.subscription import Subscription, Turns
from tests.rig.scripted import Consumer, message


class Queue:
    """The queue's side, reduced to its turns."""

    name = "orders"

    def __init__(self) -> None:
        self.turns = Turns()
        self.wakes = 0

    def credited(self, subscription: Subscription) -> None:
        self.turns.offer(subscription)
        self.wakes += 1

    def unsubscribe(self, subscription: Subscription) -> None:
        self.turns.remove(subscription)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        delivery.settled = True
        assert isinstance(delivery.subscription, Subscription)
        delivery.subscription.settled()

    def subscribe(self, prefetch: int, *, sole: bool = False, priority: int = 0) -> tuple[Subscription, Consumer]:
        consumer = Consumer()
        command = Consume("tag", self.name, prefetch, None, sole=sole, priority=priority)
        subscription = Subscription(command, self, consumer)
        self.turns.add(subscription)
        return subscription, consumer

    def hand(self, count: int = 1) -> int:
        """How many of `count` deliveries were taken."""
        return sum(self.turns.hand(Delivery(Received(message(), "r"), self)) for _ in range(count))


def test_consumers_take_turns() -> None:
    queue = Queue()
    consumers = [queue.subscribe(10)[1] for _ in range(3)]
    queue.hand(7)
    assert [len(consumer.deliveries) for consumer in consumers] == [3, 2, 2]


def test_who_has_no_credit_is_passed_over_and_comes_back() -> None:
    queue = Queue()
    _, small = queue.subscribe(1)
    _, large = queue.subscribe(5)
    assert queue.hand(8) == 6
    assert (len(small.deliveries), len(large.deliveries)) == (1, 5)
    assert queue.turns.credit(100) == 0
    small.settle()
    assert queue.turns.credit(100) == 1
    assert queue.hand(2) == 1
    assert len(small.deliveries) == 1


def test_a_blocked_consumer_gets_nothing_until_it_reads_again() -> None:
    queue = Queue()
    subscription, consumer = queue.subscribe(2)
    subscription.blocked = True
    assert queue.turns.credit(10) == 0
    assert queue.hand() == 0
    subscription.unblock()
    assert queue.wakes == 1
    assert queue.hand(3) == 2
    assert len(consumer.deliveries) == 2


def test_a_cancelled_consumer_gets_nothing_and_may_still_settle() -> None:
    queue = Queue()
    subscription, consumer = queue.subscribe(3)
    queue.hand(1)
    assert len(queue.turns) == 1
    subscription.cancel()
    subscription.cancel()
    assert len(queue.turns) == 0
    consumer.settle()
    assert queue.hand() == 0
    assert subscription.credit == 0


def test_a_cancelled_consumer_without_credit_is_no_surprise() -> None:
    queue = Queue()
    subscription, consumer = queue.subscribe(1)
    queue.hand()
    subscription.cancel()
    consumer.settle()
    assert queue.hand() == 0


def test_a_sole_consumer_gets_everything_while_it_is_there() -> None:
    queue = Queue()
    _, first = queue.subscribe(10)
    queue.hand(1)
    sole, everything = queue.subscribe(3, sole=True)
    _, next_one = queue.subscribe(10, sole=True)
    assert queue.turns.credit(100) == 3
    assert queue.hand(5) == 3
    first.settle()  # who is passed over has credit, and gets nothing by that
    assert queue.hand() == 0
    assert (len(first.deliveries), len(everything.deliveries), len(next_one.deliveries)) == (0, 3, 0)
    sole.cancel()
    assert queue.hand(2) == 2
    assert len(next_one.deliveries) == 2


def test_a_sole_consumer_of_higher_priority_takes_over() -> None:
    queue = Queue()
    _, low = queue.subscribe(10, sole=True)
    subscription, high = queue.subscribe(10, sole=True, priority=5)
    _, equal = queue.subscribe(10, sole=True, priority=5)
    queue.hand(2)
    subscription.cancel()
    queue.hand(1)
    assert [len(each.deliveries) for each in (low, high, equal)] == [0, 2, 1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "cancel", "hand", "settle"]), st.booleans(), st.integers(0, 2)), max_size=40
    )
)
def test_who_is_sole_is_who_would_be_chosen_anew(steps: list[tuple[str, bool, int]]) -> None:
    queue = Queue()
    pairs: list[tuple[Subscription, Consumer]] = []
    for step, sole, number in steps:
        there = [pair for pair in pairs if not pair[0].cancelled]
        if step == "add":
            pairs.append(queue.subscribe(2, sole=sole, priority=number))
        elif step == "cancel" and there:
            there[number % len(there)][0].cancel()
        elif step == "settle" and pairs:
            pairs[number % len(pairs)][1].settle()
        elif step == "hand":
            wanting = [subscription for subscription, _ in there if subscription.sole]
            chosen = max(wanting, key=lambda each: each.priority, default=None)
            takers = [subscription for subscription, _ in there] if chosen is None else [chosen]
            before = {subscription: subscription.held for subscription, _ in pairs}
            assert queue.turns.credit(1_000) == sum(subscription.credit for subscription in takers)
            queue.hand()
            grown = [subscription for subscription, _ in pairs if subscription.held > before[subscription]]
            with_credit = [subscription for subscription in takers if before[subscription] < 2]
            assert len(grown) == bool(with_credit)
            assert set(grown) <= set(with_credit)


def test_counting_credit_stops_when_there_is_enough() -> None:
    queue = Queue()
    for _ in range(3):
        queue.subscribe(4)
    assert queue.turns.credit(5) == 5
    assert queue.turns.credit(12) == 12
    assert queue.turns.credit(100) == 12


def test_one_delivery_costs_the_same_whoever_else_has_no_credit() -> None:
    queue = Queue()
    for _ in range(1_000):
        queue.subscribe(1)
    assert queue.hand(1_000) == 1_000
    queue.subscribe(1)
    ((_, line),) = queue.turns._lines
    assert len(line) == 1, "only who has credit stands in the line"
    assert queue.hand() == 1
    assert not line


@given(
    prefetches=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.sampled_from(["hand", "settle", "block", "unblock", "cancel"]), st.integers(0, 3))),
)
def test_no_credit_is_lost_or_exceeded(prefetches: list[int], steps: list[tuple[str, int]]) -> None:
    queue = Queue()
    pairs = [queue.subscribe(prefetch) for prefetch in prefetches]
    for step, which in steps:
        subscription, consumer = pairs[which % len(pairs)]
        credit = [one.credit for one, _ in pairs]
        assert queue.turns.credit(1_000) == sum(credit)
        if step == "hand":
            assert queue.hand() == (1 if any(credit) else 0)
        elif step == "settle" and consumer.deliveries:
            queue.settle(consumer.deliveries.pop(), Outcome.ACCEPTED)
        elif step == "block":
            subscription.blocked = True
        elif step == "unblock" and subscription.blocked:
            subscription.unblock()
        elif step == "cancel":
            subscription.cancel()
        for one, holder in pairs:
            assert one.held == len(holder.deliveries) <= one.prefetch
    assert len(queue.turns) == sum(not subscription.cancelled for subscription, _ in pairs)


@given(st.integers(2, 6), st.integers(1, 50))
def test_shares_differ_by_one_at_most(consumers: int, deliveries: int) -> None:
    queue = Queue()
    holders = [queue.subscribe(100)[1] for _ in range(consumers)]
    queue.hand(deliveries)
    counts = Counter(len(holder.deliveries) for holder in holders)
    assert max(counts) - min(counts) <= 1
