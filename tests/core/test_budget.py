"""Memory for large bodies: who gets how much of it, and when."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.budget import AwaitedShare, ByteBudget, Share


class Holder:
    def __init__(self, budget: ByteBudget) -> None:
        self.share = Share(budget, self._granted)
        self.grants = 0

    def _granted(self) -> None:
        self.grants += 1


@pytest.fixture
def budget() -> ByteBudget:
    return ByteBudget(100)


def test_what_fits_is_had_at_once(budget: ByteBudget) -> None:
    first, second = Holder(budget), Holder(budget)
    assert first.share.ask(60)
    assert second.share.ask(40)
    assert (budget.used, budget.waiting) == (100, 0)
    assert first.share.ask(10), "less than before"
    assert budget.used == 50
    first.share.drop()
    first.share.drop()
    second.share.drop()
    assert budget.used == 0
    assert not first.grants


def test_who_asks_later_waits_behind_who_asked_before(budget: ByteBudget) -> None:
    holder, large, small = (Holder(budget) for _ in range(3))
    assert holder.share.ask(50)
    assert not large.share.ask(80)
    assert not small.share.ask(10), "though there would be room"
    assert holder.share.contested
    holder.share.keep(30)
    assert (large.grants, small.grants) == (0, 0)
    holder.share.keep(20)
    assert (large.grants, small.grants) == (1, 0)
    large.share.drop()
    assert small.grants == 1
    assert (budget.used, budget.waiting) == (30, 0)


def test_who_leaves_the_line_lets_the_next_one_forward(budget: ByteBudget) -> None:
    holder, large, small = (Holder(budget) for _ in range(3))
    holder.share.ask(50)
    large.share.ask(80)
    small.share.ask(10)
    large.share.drop()
    assert (large.grants, small.grants) == (0, 1)


def test_what_waits_keeps_what_it_has_and_its_place(budget: ByteBudget) -> None:
    first, second, third = (Holder(budget) for _ in range(3))
    assert first.share.ask(40)
    assert second.share.ask(40)
    assert not first.share.ask(80)
    assert not third.share.ask(10)
    assert not first.share.ask(90), "more than before, in the same place"
    assert first.share.held == 40
    second.share.drop()
    assert (first.share.held, first.grants, third.grants) == (90, 1, 1)


def test_what_is_in_memory_already_counts_though_there_is_no_room(budget: ByteBudget) -> None:
    sudden, patient = Holder(budget), Holder(budget)
    sudden.share.claim(150)
    assert budget.used == 150
    assert not patient.share.ask(1)
    sudden.share.keep(100)
    assert not patient.grants
    sudden.share.keep(99)
    assert patient.grants == 1


def test_what_one_holder_has_may_become_anothers(budget: ByteBudget) -> None:
    assembling, inflight = Holder(budget), Holder(budget)
    assembling.share.ask(80)
    assembling.share.hand_over(inflight.share, 50)
    assert (assembling.share.held, inflight.share.held, budget.used) == (30, 50, 80)
    assembling.share.hand_over(inflight.share, 40)
    assert (assembling.share.held, inflight.share.held, budget.used) == (0, 90, 90)


def test_one_that_is_larger_than_a_budget_that_became_small_goes_alone(budget: ByteBudget) -> None:
    holder, large = Holder(budget), Holder(budget)
    holder.share.ask(50)
    large.share.ask(80)
    budget.resize(60)
    assert not large.grants
    holder.share.drop()
    assert large.grants == 1


def test_a_budget_that_becomes_larger_lets_others_forward(budget: ByteBudget) -> None:
    holder, large = Holder(budget), Holder(budget)
    holder.share.ask(50)
    large.share.ask(80)
    budget.resize(130)
    assert large.grants == 1


async def test_a_task_waits_for_its_turn(budget: ByteBudget) -> None:
    holder, share = Holder(budget), AwaitedShare(budget)
    await share.take(10)
    share.drop()
    holder.share.ask(100)
    task = asyncio.create_task(share.take(60))
    await asyncio.sleep(0)
    assert budget.waiting == 1
    holder.share.keep(40)
    await task
    assert (share.held, budget.used) == (60, 100)


async def test_a_task_that_is_cancelled_leaves_nothing_behind(budget: ByteBudget) -> None:
    holder, share = Holder(budget), AwaitedShare(budget)
    holder.share.ask(100)
    for granted in (False, True):
        task = asyncio.create_task(share.take(60))
        await asyncio.sleep(0)
        if granted:
            holder.share.drop()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert share.held == 0
    assert (budget.used, budget.waiting) == (0, 0)


class Budgets(RuleBasedStateMachine):
    """However shares are asked for and given back: no more is given out than there is, and nobody is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = ByteBudget(100)
        self.order: list[Share] = []
        self.shares = [Share(self.budget, lambda: None) for _ in range(5)]
        self.wanted: dict[Share, int] = {}
        for share in self.shares:
            share.granted = lambda share=share: self._granted(share)  # type: ignore[misc]

    def _granted(self, share: Share) -> None:
        assert self.order[0] is share, "in the order in which they asked"
        assert share.held == self.wanted.pop(share)
        self.order.remove(share)

    @rule(number=st.integers(0, 4), size=st.integers(1, 100))
    def ask(self, number: int, size: int) -> None:
        share = self.shares[number]
        place = self.order.index(share) if share in self.order else len(self.order)
        self.order = [each for each in self.order if each is not share]  # who leaves the line lets others move up
        self.wanted.pop(share, None)
        if not share.ask(size):
            self.wanted[share] = size
            self.order.insert(place, share)

    @rule(number=st.integers(0, 4), size=st.integers(0, 100))
    def keep(self, number: int, size: int) -> None:
        share = self.shares[number]
        if share in self.order:
            self.order.remove(share)
            self.wanted.pop(share, None)
        share.keep(size)

    @precondition(lambda self: any(share.held for share in self.shares))
    @rule(source=st.integers(0, 4), other=st.integers(0, 4))
    def hand_over(self, source: int, other: int) -> None:
        if source != other and self.shares[other] not in self.order:
            self.shares[source].hand_over(self.shares[other], self.shares[source].held)

    @invariant()
    def no_more_than_there_is(self) -> None:
        assert self.budget.used == sum(share.held for share in self.shares) <= 100
        assert self.budget.waiting == len(self.order)

    @invariant()
    def nobody_waits_for_what_is_there(self) -> None:
        if self.order:
            first = self.order[0]
            assert self.budget.used + self.wanted[first] - first.held > 100

    def teardown(self) -> None:
        for number in range(len(self.shares)):
            self.keep(number, 0)
        assert (self.budget.used, self.budget.waiting) == (0, 0)


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
