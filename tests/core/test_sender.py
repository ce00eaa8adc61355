"""Publishing to one destination: who is told what, what is held, and what operators see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from gateway.core.backend import Entry, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import AccessDenied, CredentialsInvalid, Throttled, Unavailable
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.sender import DESTINATION_MESSAGES, Sender
from tests.rig.clock import at_end, on_clock, settle_down, until
from tests.rig.scripted import TARGET, Publisher, ScriptedBackend, message, never, new_metrics, raising

POLICY = BatchPolicy(timeout=10.0, backoff_base=0.1, backoff_cap=0.5)


class Rig:
    def __init__(self, policy: BatchPolicy = POLICY) -> None:
        self.backend = ScriptedBackend()
        self.inflight = Watermark(100_000, 10**9)
        self.metrics: Metrics = new_metrics()
        self.health = Health()
        self.publisher = Publisher()
        self.sender = Sender(
            self.backend, TARGET, policy=policy, inflight=self.inflight, metrics=self.metrics, health=self.health
        )
        at_end(self.sender.aclose)

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.sender.put(TARGET, message(body), self.publisher, self.publisher, body)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mqlift_{name}", labels) or 0.0

    def assert_nothing_is_held(self) -> None:
        assert self.sender.held == 0
        assert (self.inflight.count, self.inflight.bytes) == (0, 0)
        assert (self.sender._waiting.count, self.sender._waiting.bytes) == (0, 0)
        assert not self.publisher.pauses


@on_clock
async def test_each_publisher_is_told_of_its_own_entry_after_the_backend_answered() -> None:
    rig = Rig()
    answered = asyncio.Event()

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        await answered.wait()
        return [ACCEPTED, Result(Outcome.REJECTED, None), ACCEPTED]

    rig.backend.on_send = send
    rig.put(b"a", b"b", b"c")
    await settle_down()
    assert rig.backend.sent == [[b"a", b"b", b"c"]]
    assert not rig.publisher.answers, "no acknowledgement before the backend has accepted"
    answered.set()
    await rig.sender.drain()
    assert [(token, result.outcome) for token, result in rig.publisher.answers] == [
        (b"a", Outcome.ACCEPTED),
        (b"b", Outcome.REJECTED),
        (b"c", Outcome.ACCEPTED),
    ]
    rig.assert_nothing_is_held()


@on_clock
async def test_what_cannot_be_encoded_is_rejected_at_once_and_holds_nothing() -> None:
    rig = Rig()
    rig.put(b"x" * 501)
    assert rig.publisher.outcome_of(b"x" * 501) is Outcome.REJECTED
    rig.assert_nothing_is_held()
    assert rig.count("entries_total", destination="scripted:orders", outcome="rejected") == 1


@on_clock
async def test_a_full_destination_pauses_its_publishers_only_until_half_is_gone() -> None:
    rig = Rig()
    other = Publisher()
    gate = asyncio.Event()

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        await gate.wait()
        return [ACCEPTED] * len(entries)

    rig.backend.on_send = send
    for number in range(DESTINATION_MESSAGES):
        rig.put(b"%d" % number)
    assert len(rig.publisher.pauses) == 1
    assert not other.pauses
    gate.set()
    await rig.sender.drain()
    assert len(rig.publisher.answers) == DESTINATION_MESSAGES
    rig.assert_nothing_is_held()


@pytest.mark.parametrize("error", [Unavailable("lost"), Throttled("slow"), AccessDenied("may not"), KeyError("bug")])
@on_clock
async def test_whatever_fails_for_good_nothing_stays_held(error: Exception) -> None:
    rig = Rig()
    rig.backend.on_send = raising(error)
    rig.put(b"a", b"b")
    with capture_logs():
        await rig.sender.drain()
    assert [result.outcome for _, result in rig.publisher.answers] == [Outcome.RELEASED] * 2
    rig.assert_nothing_is_held()


@on_clock
async def test_closing_during_a_request_that_hangs_tells_the_publisher() -> None:
    rig = Rig()
    rig.backend.on_send = never
    rig.put(b"a")
    await settle_down()
    rig.put(b"b")
    await rig.sender.aclose()
    assert [result.outcome for _, result in rig.publisher.answers] == [Outcome.RELEASED] * 2
    rig.assert_nothing_is_held()


@on_clock
async def test_a_lasting_problem_is_told_at_once_and_one_lost_request_is_not() -> None:
    rig = Rig()
    rig.backend.on_send = raising(AccessDenied("may not"))
    rig.put(b"a")
    await rig.sender.drain()
    assert [problem.text for problem in rig.health.problems] == ["may not"]

    rig = Rig()
    failures = [Unavailable("lost"), Unavailable("lost")]

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        if failures:
            raise failures.pop()
        return [ACCEPTED] * len(entries)

    rig.backend.on_send = send
    rig.put(b"a")
    await rig.sender.drain()
    assert rig.publisher.outcome_of(b"a") is Outcome.ACCEPTED
    assert not rig.health.problems


@on_clock
async def test_three_failures_in_a_row_are_a_problem_until_something_is_accepted() -> None:
    rig = Rig()
    rig.backend.on_send = raising(Unavailable("lost"))
    rig.put(b"a")
    await until(lambda: rig.health.problems, "a problem is reported")
    assert len(rig.backend.sent) == 3
    assert not rig.health.ready

    async def accept(entries: Sequence[Entry]) -> Sequence[Result]:
        return [ACCEPTED] * len(entries)

    rig.backend.on_send = accept
    await rig.sender.drain()
    assert rig.health.ready


@on_clock
async def test_throttling_is_everyday_and_counted() -> None:
    rig = Rig()
    rig.backend.on_send = raising(Throttled("slow"))
    rig.put(b"a")
    await rig.sender.drain()
    assert not rig.health.problems
    assert rig.count("throttles_total", destination="scripted:orders") >= 5
    assert rig.count("entry_retries_total", destination="scripted:orders") >= 5
    assert rig.count("entries_total", destination="scripted:orders", outcome="released") == 1


@on_clock
async def test_an_idle_destination_recovers_by_itself_once_its_service_answers() -> None:
    rig = Rig()
    rig.backend.on_send = raising(CredentialsInvalid("expired"))
    rig.put(b"a")
    await rig.sender.drain()
    assert not rig.health.ready

    async def fail(target: Target) -> None:
        raise CredentialsInvalid("expired")

    rig.backend.on_probe = fail
    await rig.sender.recheck()
    assert not rig.health.ready
    rig.backend.on_probe = None
    await rig.sender.recheck()
    assert rig.health.ready


@on_clock
async def test_a_missing_permission_is_not_cleared_by_looking() -> None:
    rig = Rig()
    rig.backend.on_send = raising(AccessDenied("may not"))
    rig.put(b"a")
    await rig.sender.drain()
    await rig.sender.recheck()
    assert len(rig.health.problems) == 1


@on_clock
async def test_metrics_count_batches_and_outcomes() -> None:
    rig = Rig()
    rig.put(*(b"%d" % number for number in range(12)))
    await rig.sender.drain()
    assert rig.count("entries_total", destination="scripted:orders", outcome="accepted") == 12
    assert rig.count("batch_entries_count", destination="scripted:orders") == 2
    assert rig.count("batch_entries_sum", destination="scripted:orders") == 12


class JoiningEntry(Entry):
    """One of a service whose records take several messages."""

    def join(self, later: Entry) -> bool:
        self.size += later.size
        self.joined = [*(self.joined or ()), later]
        return True


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.RELEASED])
@on_clock
async def test_each_of_those_that_were_joined_is_told_and_counted(outcome: Outcome) -> None:
    rig = Rig()
    rig.backend.encode = lambda target, message: JoiningEntry(message.body, len(message.body), "key")  # type: ignore[method-assign]
    if outcome is Outcome.RELEASED:
        rig.backend.on_send = raising(AccessDenied("may not"))
    rig.put(b"a", b"bb", b"ccc", b"d")
    assert (rig.inflight.count, rig.inflight.bytes) == (4, 7)
    await rig.sender.drain()
    # Of the batch's four messages, those that came after the first waited for it as one entry.
    assert rig.backend.sent == ([[b"a"], [b"bb"]] if outcome is Outcome.ACCEPTED else [[b"a"]])
    assert [token for token, _ in rig.publisher.answers] == [b"a", b"bb", b"ccc", b"d"]
    assert {result.outcome for _, result in rig.publisher.answers} == {outcome}
    assert rig.count("entries_total", destination="scripted:orders", outcome=outcome.name.lower()) == 4
    rig.assert_nothing_is_held()
