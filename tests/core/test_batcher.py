"""Lines and batches: every entry is answered once, in order for each key, within the limits, whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from structlog.testing import capture_logs

from gateway.core.batcher import Batcher, BatchPolicy, Line
from gateway.core.errors import AccessDenied, Invalid, Throttled, TooLarge, Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result
from tests.rig.clock import at_end, on_clock, settle_down, until

POLICY = BatchPolicy(requests=4, partial_requests=4, timeout=30.0, backoff_base=0.1, backoff_cap=2.0)
LOST = Result(Outcome.RELEASED, Unavailable("lost"))
THROTTLED = Result(Outcome.RELEASED, Throttled("slow down"))
DENIED = Result(Outcome.RELEASED, AccessDenied("may not"))
BAD = Result(Outcome.REJECTED, Invalid("a bad byte"))


@dataclass(eq=False)
class Item:
    """An entry with a name."""

    name: str
    size: int = 1
    key: str | None = None
    attempts: int = 0
    deadline: float = 0.0


def items(*names: str, size: int = 1) -> list[Item]:
    """One entry for each name; in `a1`, `a` is its key when it is a lower case letter."""
    return [Item(name, size, name[0] if name[0].islower() else None) for name in names]


@dataclass(eq=False)
class Destination:
    """A batcher, and all that it asks for and answers."""

    policy: BatchPolicy = POLICY
    entries: int = 3
    bytes: int = 100
    answers: list[tuple[str, Result]] = field(default_factory=list)
    waiting: list[tuple[list[Item], asyncio.Future[Sequence[Result] | Exception]]] = field(default_factory=list)
    """Requests under way: a test answers them with `reply`."""
    requests: list[list[str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    batcher: Batcher[Item] = field(init=False)

    def __post_init__(self) -> None:
        self.batcher = Batcher(
            self._send, self._done, batch_entries=self.entries, batch_bytes=self.bytes, policy=self.policy
        )
        at_end(self.batcher.aclose)

    async def _send(self, batch: Sequence[Item]) -> Sequence[Result]:
        self.requests.append([item.name for item in batch])
        self.times.append(asyncio.get_running_loop().time())
        future: asyncio.Future[Sequence[Result] | Exception] = asyncio.get_running_loop().create_future()
        request = (list(batch), future)
        self.waiting.append(request)
        try:
            answer = await future
        finally:
            if request in self.waiting:
                self.waiting.remove(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _done(self, batch: Sequence[Item], results: Sequence[Result]) -> None:
        self.answers.extend((item.name, result) for item, result in zip(batch, results, strict=True))

    async def put(self, *names: str, size: int = 1) -> None:
        for item in items(*names, size=size):
            self.batcher.put(item)
        await settle_down()

    async def reply(self, answer: Sequence[Result] | Exception | None = None) -> None:
        """Answer the oldest request: with success, results, or an error for all of it."""
        batch, future = self.waiting.pop(0)
        future.set_result([ACCEPTED] * len(batch) if answer is None else answer)
        await settle_down()

    async def request(self) -> list[str]:
        """The next request that comes, however long it takes."""
        known = len(self.requests)
        await until(lambda: len(self.requests) > known, "another request")
        return self.requests[-1]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        assert len({name for name, _ in self.answers}) == len(self.answers), "answered twice"
        return {name: result.outcome for name, result in self.answers}


ALL = Outcome.ACCEPTED


@pytest.fixture
def longest_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """No jitter: every delay is as long as it can be."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high)


@on_clock
async def test_what_comes_in_one_turn_leaves_in_full_batches() -> None:
    destination = Destination()
    await destination.put("A", "B", "C", "D")
    assert destination.requests == [["A", "B", "C"], ["D"]]
    await destination.reply()
    await destination.reply()
    assert destination.outcomes == {"A": ALL, "B": ALL, "C": ALL, "D": ALL}
    assert destination.batcher.held == 0


@on_clock
async def test_a_batch_ends_before_the_byte_limit_and_a_large_entry_goes_alone() -> None:
    destination = Destination(bytes=10)
    for size in (4, 6, 1, 50, 1):
        destination.batcher.put(Item(f"N{size}", size))
    await settle_down()
    assert [len(request) for request in destination.requests] == [2, 1, 1, 1]
    assert destination.requests[2] == ["N50"]


@on_clock
async def test_never_more_requests_than_allowed() -> None:
    destination = Destination()
    await destination.put(*(f"N{number}" for number in range(30)))
    assert len(destination.waiting) == 4
    await destination.reply()
    assert len(destination.waiting) == 4
    assert len(destination.requests) == 5


@on_clock
async def test_a_batch_that_is_not_full_waits_while_enough_is_under_way() -> None:
    destination = Destination(BatchPolicy(requests=4, partial_requests=1))
    await destination.put("A")
    await destination.put("B")
    assert destination.requests == [["A"]]
    await destination.put("C", "D")
    assert destination.requests == [["A"], ["B", "C", "D"]], "a full one does not wait"
    await destination.put("E")
    await destination.reply()
    assert len(destination.requests) == 2, "one is still under way"
    await destination.reply()
    assert destination.requests[2:] == [["E"]]


@on_clock
async def test_a_failure_lets_the_waiting_go_as_an_answer_does() -> None:
    destination = Destination(BatchPolicy(requests=1, partial_requests=1))
    await destination.put("A")
    await destination.put("B")
    await destination.reply([LOST])
    assert destination.requests == [["A"], ["B"]]


@on_clock
async def test_only_what_may_still_succeed_is_sent_again_exactly_as_it_was() -> None:
    destination = Destination()
    entries = items("A", "B", "C")
    for entry in entries:
        destination.batcher.put(entry)
    await settle_down()
    await destination.reply([ACCEPTED, LOST, BAD])
    assert destination.outcomes == {"A": Outcome.ACCEPTED, "C": Outcome.REJECTED}
    assert await destination.request() == ["B"]
    assert destination.waiting[0][0][0] is entries[1]
    await destination.reply()
    assert destination.outcomes["B"] is Outcome.ACCEPTED
    assert destination.batcher.retries == 1


@on_clock
async def test_an_error_that_only_an_operator_mends_is_told_at_once() -> None:
    destination = Destination()
    await destination.put("A", "B")
    await destination.reply(AccessDenied("may not"))
    assert destination.outcomes == {"A": Outcome.RELEASED, "B": Outcome.RELEASED}
    assert len(destination.requests) == 1


@on_clock
async def test_a_whole_request_that_was_lost_is_sent_again() -> None:
    destination = Destination()
    await destination.put("A", "B")
    await destination.reply(Unavailable("no answer"))
    assert await destination.request() == ["A", "B"]
    await destination.reply()
    assert destination.outcomes == {"A": ALL, "B": ALL}


@on_clock
async def test_a_refused_request_is_split_until_the_bad_entry_is_alone() -> None:
    refused: list[int] = []
    destination = Destination(entries=8)

    async def send(batch: Sequence[Item]) -> Sequence[Result]:
        if any(item.name == "BAD" for item in batch):
            refused.append(len(batch))
            raise TooLarge("too large")
        return [ACCEPTED] * len(batch)

    destination.batcher._send = send
    await destination.put("A", "B", "C", "D", "E", "BAD", "G", "H")
    assert destination.outcomes.pop("BAD") is Outcome.REJECTED
    assert Counter(destination.outcomes.values()) == {Outcome.ACCEPTED: 7, Outcome.REJECTED: 1}
    assert refused == [8, 4, 2, 1]


@on_clock
async def test_while_splitting_a_lost_part_is_sent_again_alone() -> None:
    destination = Destination(entries=2)
    await destination.put("A", "B")
    await destination.reply(Invalid("one of them"))
    await destination.reply()
    await destination.reply(Unavailable("no answer"))
    assert destination.outcomes == {"A": Outcome.ACCEPTED}
    assert await destination.request() == ["B"]


@on_clock
async def test_after_the_deadline_the_publisher_is_told() -> None:
    destination = Destination()
    start = asyncio.get_running_loop().time()
    await destination.put("A")
    while not destination.answers:
        if destination.waiting:
            await destination.reply([LOST])
        await asyncio.sleep(0.01)
    assert destination.outcomes == {"A": Outcome.RELEASED}
    assert destination.times[-1] - start <= POLICY.timeout
    assert asyncio.get_running_loop().time() - start >= POLICY.timeout - POLICY.backoff_cap
    assert isinstance(destination.answers[0][1].error, Unavailable)


@on_clock
async def test_what_waited_too_long_for_a_slot_is_given_back_unsent() -> None:
    destination = Destination(BatchPolicy(requests=1, timeout=5.0))
    await destination.put("a1")
    await destination.put("a2", "a3", "N")
    await asyncio.sleep(6.0)
    await destination.reply()
    assert destination.outcomes == {
        "a1": Outcome.ACCEPTED,
        "a2": Outcome.RELEASED,
        "a3": Outcome.RELEASED,
        "N": Outcome.RELEASED,
    }
    assert destination.requests == [["a1"]]
    assert destination.batcher.held == 0


@on_clock
async def test_expired_entries_behind_a_pause_leave_one_timer_only(longest_backoff: None) -> None:
    destination = Destination(BatchPolicy(requests=1, timeout=0.05, backoff_base=20.0, backoff_cap=20.0))
    await destination.put("A")
    await destination.put("a1", "a2", "a3")
    await asyncio.sleep(1.0)
    await destination.reply([THROTTLED])
    assert destination.batcher.held == 0
    await destination.put("B")
    loop = asyncio.get_running_loop()
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert len(timers) <= 1


@on_clock
async def test_retries_come_later_and_later_up_to_the_cap() -> None:
    policy = BatchPolicy(backoff_base=0.1, backoff_cap=1.0)
    for attempt, ceiling in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (500, 1.0)):
        delays = [policy.backoff(attempt) for _ in range(200)]
        assert 0 <= min(delays) < ceiling / 4, "full jitter: from 0"
        assert 3 * ceiling / 4 < max(delays) <= ceiling


@on_clock
async def test_of_one_key_only_one_is_under_way_and_a_retry_stays_ahead() -> None:
    destination = Destination()
    await destination.put("a1", "a2", "b1", "N")
    assert destination.requests == [["a1", "b1", "N"]]
    await destination.reply([LOST, ACCEPTED, ACCEPTED])
    assert await destination.request() == ["a1"]
    await destination.reply()
    assert destination.requests[-1] == ["a2"]
    await destination.reply()
    await destination.put("a3")
    assert destination.requests[-1] == ["a3"]


@on_clock
async def test_the_next_of_a_key_follows_one_that_was_given_up() -> None:
    destination = Destination()
    await destination.put("a1", "a2")
    await destination.reply([BAD])
    assert destination.requests == [["a1"], ["a2"]]


@on_clock
async def test_what_waits_behind_a_released_one_is_released_with_it() -> None:
    destination = Destination()
    await destination.put("a1", "a2", "a3", "b1", "b2")
    await destination.reply([DENIED, ACCEPTED])
    assert destination.outcomes == {
        "a1": Outcome.RELEASED,
        "a2": Outcome.RELEASED,
        "a3": Outcome.RELEASED,
        "b1": Outcome.ACCEPTED,
    }
    assert destination.requests[1:] == [["b2"]], "its publisher sends a1 again: a2 must not be there before"
    await destination.put("a4")
    await destination.reply()
    assert destination.requests[-1] == ["a4"]
    await destination.reply()
    assert destination.batcher.held == 0


@on_clock
async def test_throttled_means_a_pause_and_half_the_requests(longest_backoff: None) -> None:
    destination = Destination(BatchPolicy(requests=4, backoff_base=1.0), entries=1)
    await destination.put(*(f"N{number}" for number in range(12)))
    await destination.reply()
    await destination.reply([THROTTLED])
    assert len(destination.waiting) == 3, "nothing is sent during the pause"
    await destination.reply()
    await destination.reply()
    await destination.reply()
    assert not destination.waiting
    start = asyncio.get_running_loop().time()
    await destination.request()
    await settle_down()
    assert destination.times[-1] - start == pytest.approx(1.0, abs=0.01)
    assert len(destination.waiting) == 4, "half of four, and one more for each that has succeeded since"


@on_clock
async def test_while_more_are_under_way_than_allowed_nothing_follows(longest_backoff: None) -> None:
    destination = Destination(BatchPolicy(requests=4, backoff_base=1.0), entries=1)
    await destination.put(*(f"N{number}" for number in range(12)))
    await destination.reply([THROTTLED])
    await asyncio.sleep(2.0)
    assert len(destination.waiting) == 3, "three are more than half of four"


@on_clock
async def test_requests_that_were_under_way_together_slow_down_once(longest_backoff: None) -> None:
    destination = Destination(BatchPolicy(requests=8, backoff_base=0.1, backoff_cap=50.0), entries=1)
    await destination.put(*(f"N{number}" for number in range(40)))
    start = asyncio.get_running_loop().time()
    for _ in range(8):
        await destination.reply([THROTTLED])
    assert destination.batcher.throttles == 8
    await destination.request()
    await settle_down()
    assert len(destination.waiting) == 4, "half of eight"
    assert asyncio.get_running_loop().time() - start <= 0.11, "one pause, the shortest"


@on_clock
async def test_throttled_again_and_again_slows_down_to_one_request_and_recovers(longest_backoff: None) -> None:
    destination = Destination(BatchPolicy(requests=8, backoff_base=0.1, backoff_cap=0.4), entries=1)
    await destination.put(*(f"N{number}" for number in range(60)))
    for _ in range(5):
        while destination.waiting:
            await destination.reply([THROTTLED])
        await destination.request()
        await settle_down()
    assert len(destination.waiting) == 1
    for expected in (2, 3, 4):
        for _ in range(len(destination.waiting)):
            await destination.reply()
        assert len(destination.waiting) >= expected


@on_clock
async def test_lingering_fills_batches_and_a_full_one_goes_at_once() -> None:
    destination = Destination(BatchPolicy(linger=0.5))
    start = asyncio.get_running_loop().time()
    await destination.put("A")
    await asyncio.sleep(0.2)
    await destination.put("B")
    assert not destination.requests
    assert await destination.request() == ["A", "B"]
    assert destination.times[0] - start == pytest.approx(0.5)
    await destination.put("C", "D", "E")
    assert destination.requests[-1] == ["C", "D", "E"]
    await destination.put("F")
    await destination.put("G", "H")
    assert destination.requests[-1] == ["F", "G", "H"], "it does not wait for the linger time of its first entry"


@on_clock
async def test_a_bug_in_the_backend_answers_publishers_and_is_logged() -> None:
    destination = Destination(BatchPolicy(timeout=1.0))
    await destination.put("A")
    with capture_logs() as lines:
        await destination.reply(RuntimeError("a bug"))
    assert lines[0]["event"] == "request_failed_unexpectedly"
    assert await destination.request() == ["A"]


@pytest.mark.parametrize("results", [[], [ACCEPTED], [ACCEPTED] * 3])
@on_clock
async def test_results_that_do_not_match_the_entries_are_no_success(results: list[Result]) -> None:
    destination = Destination(BatchPolicy(timeout=1.0))
    await destination.put("A", "B")
    with capture_logs() as lines:
        await destination.reply(results)
    assert lines[0]["event"] == "results_do_not_match"
    assert not destination.answers
    assert await destination.request() == ["A", "B"]
    await destination.reply()
    assert destination.outcomes == {"A": ALL, "B": ALL}


@on_clock
async def test_what_is_put_while_answering_is_taken() -> None:
    destination = Destination()
    answer = destination._done

    def done(batch: Sequence[Item], results: Sequence[Result]) -> None:
        answer(batch, results)
        if batch and batch[0].name == "a1":
            for item in items("a3", "B"):
                destination.batcher.put(item)

    destination.batcher._done = done
    await destination.put("a1", "a2")
    await destination.reply()
    assert destination.requests[1:] == [["a2", "B"]], "a2 was there before a3"
    await destination.reply()
    assert destination.requests[2:] == [["a3"]]


@on_clock
async def test_drain_waits_for_the_last_answer() -> None:
    destination = Destination()
    await destination.batcher.drain()
    await destination.put("a1", "a2")
    drains = [asyncio.create_task(destination.batcher.drain()) for _ in range(2)]
    await settle_down()
    await destination.reply([LOST])
    assert not any(drain.done() for drain in drains)
    await destination.request()
    await destination.reply()
    assert not any(drain.done() for drain in drains)
    await destination.reply()
    assert all(drain.done() for drain in drains)


@on_clock
async def test_a_drain_that_is_cut_short_leaves_the_others_alone() -> None:
    destination = Destination()
    await destination.put("A")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await destination.batcher.drain()
    drain = asyncio.create_task(destination.batcher.drain())
    await destination.reply()
    await drain


@on_clock
async def test_closing_releases_what_is_in_flight_waiting_behind_a_key_and_to_be_retried() -> None:
    destination = Destination(BatchPolicy(requests=1, backoff_base=50.0, backoff_cap=50.0, timeout=1_000.0))
    await destination.put("RETRY")
    await destination.reply([LOST])
    await destination.put("a1", "a2", "a3", "N", "M")
    await destination.batcher.aclose()
    names = ("RETRY", "a1", "a2", "a3", "N", "M")
    assert destination.outcomes == dict.fromkeys(names, Outcome.RELEASED)
    assert destination.batcher.held == 0
    await destination.batcher.aclose()


@on_clock
async def test_closing_answers_a_request_that_never_got_to_its_first_step() -> None:
    destination = Destination()
    for item in items("A", "B"):
        destination.batcher.put(item)
    await asyncio.sleep(0)  # the request is made, and has not run
    await destination.batcher.aclose()
    assert destination.outcomes == {"A": Outcome.RELEASED, "B": Outcome.RELEASED}


@on_clock
async def test_after_closing_an_entry_is_released_and_nothing_is_sent() -> None:
    destination = Destination()
    await destination.batcher.aclose()
    await destination.put("A", "a1", "a2")
    assert destination.outcomes == dict.fromkeys(("A", "a1", "a2"), Outcome.RELEASED)
    assert not destination.requests


@on_clock
async def test_closing_sends_nothing_more_though_a_timer_or_a_publisher_asks() -> None:
    policy = BatchPolicy(requests=1, backoff_base=0.001, backoff_cap=0.001, timeout=1_000.0)
    destination = Destination(policy)
    stubborn = asyncio.Event()

    async def send(batch: Sequence[Item]) -> Sequence[Result]:
        destination.requests.append([item.name for item in batch])
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await stubborn.wait()  # a transport that takes its time to clean up
            raise
        raise AssertionError

    destination.batcher._send = send
    await destination.put("A", "B", "C", "D")
    closing = asyncio.create_task(destination.batcher.aclose())
    await settle_down()
    await destination.put("E")
    await asyncio.sleep(1.0)
    stubborn.set()
    await closing
    assert destination.requests == [["A", "B", "C"]]
    assert destination.outcomes == dict.fromkeys("ABCDE", Outcome.RELEASED)


OUTCOMES = st.sampled_from([ACCEPTED, ACCEPTED, ACCEPTED, LOST, THROTTLED, DENIED, BAD])
FAULTS = st.sampled_from([None, None, None, Unavailable("x"), Throttled("x"), TooLarge("x"), KeyError("x")])
PUTS = st.tuples(st.sampled_from(["a", "b", None, None]), st.integers(1, 60), st.sampled_from([0.0, 0.0, 0.01, 3.0]))
POLICIES = st.builds(
    BatchPolicy,
    requests=st.integers(1, 5),
    partial_requests=st.integers(1, 3),
    linger=st.sampled_from([0.0, 0.005]),
    timeout=st.just(20.0),
)


class Chaos:
    """A service that takes its time and fails as it was told, and checks what it is asked for."""

    def __init__(self, outcomes: list[Result], faults: list[Exception | None], policy: BatchPolicy) -> None:
        self.outcomes = outcomes
        self.faults = faults
        self.policy = policy
        self.calls = 0
        self.under_way: list[Item] = []
        self.requests = 0
        self.violations: list[str] = []
        self.stored: dict[str | None, list[int]] = defaultdict(list)
        self.answers: dict[int, Result] = {}

    async def send(self, batch: Sequence[Item]) -> Sequence[Result]:
        self.calls += 1
        number = self.calls
        self.violations += self._violations(batch)
        self.under_way.extend(batch)
        self.requests += 1
        try:
            await asyncio.sleep(0.01 * (number % 4))
        finally:
            self.requests -= 1
            for item in batch:
                self.under_way.remove(item)
        if number < len(self.faults) and (fault := self.faults[number]) is not None:
            raise fault
        results = [self.outcomes[(number + place) % len(self.outcomes)] for place in range(len(batch))]
        for item, result in zip(batch, results, strict=True):
            if result is ACCEPTED:
                self.stored[item.key].append(int(item.name))
        return results

    def _violations(self, batch: Sequence[Item]) -> list[str]:
        """What a request does wrong. (The batcher would take an exception for a fault of the backend.)"""
        keys = [item.key for item in [*batch, *self.under_way] if item.key]
        rules = {
            "more requests than allowed": self.requests < self.policy.requests,
            "too many entries": len(batch) <= 4,
            "too many bytes": len(batch) == 1 or sum(item.size for item in batch) <= 100,
            "two of one key under way": len(keys) == len(set(keys)),
            "sent again after its answer": not any(int(item.name) in self.answers for item in batch),
        }
        return [rule for rule, kept in rules.items() if not kept]

    def done(self, batch: Sequence[Item], results: Sequence[Result]) -> None:
        for item, result in zip(batch, results, strict=True):
            assert int(item.name) not in self.answers, "answered twice"
            self.answers[int(item.name)] = result

    @property
    def accepted(self) -> set[int]:
        return {number for number, result in self.answers.items() if result.outcome is Outcome.ACCEPTED}

    def assert_in_order(self) -> None:
        for key in ("a", "b"):
            assert self.stored[key] == sorted(self.stored[key])


@settings(max_examples=150, deadline=None)
@given(
    puts=st.lists(PUTS, min_size=1, max_size=40),
    outcomes=st.lists(OUTCOMES, min_size=1, max_size=60),
    faults=st.lists(FAULTS, max_size=20),
    policy=POLICIES,
    close_after=st.sampled_from([None, None, 0.0, 0.02, 5.0]),
)
@on_clock
async def test_every_entry_is_answered_once_in_order_for_each_key(
    puts: list[tuple[str | None, int, float]],
    outcomes: list[Result],
    faults: list[Exception | None],
    policy: BatchPolicy,
    close_after: float | None,
) -> None:
    chaos = Chaos(outcomes, faults, policy)
    batcher = Batcher(chaos.send, chaos.done, batch_entries=4, batch_bytes=100, policy=policy)
    with capture_logs():
        for number, (key, size, gap) in enumerate(puts):
            batcher.put(Item(str(number), size, key))
            if gap:
                await asyncio.sleep(gap)
        if close_after is None:
            await batcher.drain()
        else:
            await asyncio.sleep(close_after)
            await batcher.aclose()
    stored = {number for numbers in chaos.stored.values() for number in numbers}
    assert set(chaos.answers) == set(range(len(puts)))
    assert batcher.held == 0
    assert not chaos.under_way
    assert not chaos.violations
    chaos.assert_in_order()
    # What was stored and cut off before its answer is released: its publisher may send it again, and loses nothing.
    assert chaos.accepted == stored if close_after is None else chaos.accepted <= stored


class LineMachine(RuleBasedStateMachine):
    """A line against the obvious model: for each key a list, of which the first may be out."""

    def __init__(self) -> None:
        super().__init__()
        self.line: Line[Item] = Line()
        self.number = 0
        self.now = 0.0
        self.waiting: list[Item] = []
        self.out: list[Item] = []

    @rule(key=st.sampled_from(["a", "b", None]), size=st.integers(0, 20), patience=st.integers(0, 5))
    def put(self, key: str | None, size: int, patience: int) -> None:
        self.number += 1
        item = Item(str(self.number), size, key, deadline=self.now + patience)
        self.waiting.append(item)
        self.line.put(item)

    def _leaves(self, batch: list[Item]) -> None:
        for item in batch:
            self.waiting.remove(item)
            if item.key is not None:
                assert all(other.key != item.key for other in self.out), "two of a key are out"
                ahead = [int(other.name) for other in self.waiting if other.key == item.key]
                assert all(int(item.name) < number for number in ahead), "overtook one of its key"
            self.out.append(item)

    @precondition(lambda self: self.line.ready)
    @rule(entries=st.integers(1, 4), size=st.integers(1, 40))
    def take(self, entries: int, size: int) -> None:
        batch = self.line.take(entries, size)
        assert 1 <= len(batch) <= entries
        assert len(batch) == 1 or sum(item.size for item in batch) <= size
        self._leaves(batch)

    @rule(seconds=st.integers(0, 3))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        expired = self.line.take_expired(self.now)
        assert all(item.deadline <= self.now for item in expired)
        self._leaves(expired)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.out))
        self.out.remove(item)
        self.line.done(item)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def take_behind(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.out))
        behind = [other for other in self.waiting if item.key is not None and other.key == item.key]
        assert list(self.line.take_behind(item)) == behind
        for other in behind:
            self.waiting.remove(other)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        back = data.draw(st.lists(st.sampled_from(self.out), unique_by=id, min_size=1))
        for item in back:
            self.out.remove(item)
        self.waiting.extend(back)
        self.line.put_back(back)

    @invariant()
    def counts_agree(self) -> None:
        busy = {item.key for item in self.out}
        ready = [item for item in self.waiting if item.key is None]
        for key in {"a", "b"} - busy:
            ready.extend(
                sorted((item for item in self.waiting if item.key == key), key=lambda item: int(item.name))[:1]
            )
        assert self.line.ready == len(ready)
        assert self.line.ready_bytes == sum(item.size for item in ready)


TestLine = LineMachine.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@dataclass(eq=False)
class Joint(Item):
    """An entry that takes others in, up to three names."""

    names: list[str] = field(default_factory=list)

    def join(self, later: Joint) -> bool:
        if len(self.names) + len(later.names) > 3:
            return False
        self.names += later.names
        self.size += later.size
        return True


def joints(*names: str) -> list[Joint]:
    return [Joint(name, 1, name[0], names=[name]) for name in names]


def test_what_waits_behind_another_of_its_key_is_joined() -> None:
    line: Line[Joint] = Line(Joint.join)
    taken = [line.put(joint) for joint in joints("a1", "a2", "b1", "a3", "b2", "a4", "a5")]
    assert taken == [True, True, True, False, True, False, True]
    assert (line.ready, line.ready_bytes) == (2, 2)
    first = line.take(10, 100)
    assert [joint.names for joint in first] == [["a1"], ["b1"]]
    for joint in first:
        line.done(joint)
    assert (line.ready, line.ready_bytes) == (2, 4), "the bytes of those that were taken in count"
    second = line.take(10, 100)
    assert [joint.names for joint in second] == [["a2", "a3", "a4"], ["b2"]]
    line.done(second[0])
    assert [joint.names for joint in line.take(10, 100)] == [["a5"]]


def test_entries_without_a_key_are_not_joined() -> None:
    line: Line[Joint] = Line(Joint.join)
    assert all(line.put(Joint(name, names=[name])) for name in "xyz")
    assert line.ready == 3


@on_clock
async def test_joined_entries_are_one_until_the_end() -> None:
    answers: list[tuple[list[str], Outcome]] = []
    attempts: list[list[list[str]]] = []

    async def send(entries: Sequence[Joint]) -> Sequence[Result]:
        attempts.append([list(entry.names) for entry in entries])
        await settle_down()
        return [LOST] * len(entries) if len(attempts) == 2 else [ACCEPTED] * len(entries)

    def done(entries: Sequence[Joint], results: Sequence[Result]) -> None:
        answers.extend((entry.names, result.outcome) for entry, result in zip(entries, results, strict=True))

    batcher: Batcher[Joint] = Batcher(send, done, batch_entries=3, batch_bytes=100, policy=POLICY, join=Joint.join)
    at_end(batcher.aclose)
    for joint in joints("a1", "a2", "a3"):
        batcher.put(joint)
    assert batcher.held == 2
    await batcher.drain()
    assert attempts == [[["a1"]], [["a2", "a3"]], [["a2", "a3"]]]
    assert answers == [(["a1"], Outcome.ACCEPTED), (["a2", "a3"], Outcome.ACCEPTED)]


@on_clock
async def test_a_minority_that_is_throttled_waits_alone() -> None:
    destination = Destination()
    await destination.put("A", "B", "C")
    await destination.reply([THROTTLED, ACCEPTED, ACCEPTED])
    await destination.put("D")
    assert destination.requests[-1] == ["D"], "others go on at once"
    assert destination.batcher.throttles == 1
    await destination.reply()
    assert await destination.request() == ["A"]
    await destination.reply([THROTTLED])
    await destination.put("E")
    assert destination.requests[-1] == ["A"], "a request that is throttled as a whole holds up all"
