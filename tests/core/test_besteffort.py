"""Best effort: the publisher never waits, and whatever is lost is counted."""

from __future__ import annotations

from structlog.testing import capture_logs

from gateway.core.backend import Target
from gateway.core.batcher import BatchPolicy
from gateway.core.besteffort import BestEffort, Losses
from gateway.core.errors import AccessDenied, Unavailable
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.core.sender import DESTINATION_MESSAGES, Sender
from tests.rig.clock import at_end, on_clock, settle_down
from tests.rig.scripted import Publisher, ScriptedBackend, message, never, new_metrics, raising

TARGET = Target(kind="scripted", name="archive", best_effort=True)


class Rig:
    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.metrics = new_metrics()
        self.publisher = Publisher()
        self.sender = Sender(
            self.backend,
            TARGET,
            policy=BatchPolicy(timeout=5.0, backoff_base=0.1, backoff_cap=0.5),
            inflight=Watermark(100_000, 10**9),
            metrics=self.metrics,
            health=Health(),
        )
        self.losses = Losses(self.sender, self.metrics)
        self.sink = BestEffort(self.sender, TARGET, self.losses)
        at_end(self.sender.aclose)

    def put(self, body: bytes = b"x") -> None:
        self.sink.put(message(body), self.publisher, self.publisher, body)

    @property
    def lost(self) -> float:
        labels = {"destination": "scripted:archive"}
        return self.metrics.registry.get_sample_value("mqlift_best_effort_lost_total", labels) or 0.0


@on_clock
async def test_the_publisher_is_answered_at_once_and_the_message_is_sent() -> None:
    rig = Rig()
    rig.put(b"x")
    assert rig.publisher.answers == [(b"x", ACCEPTED)]
    await rig.sender.drain()
    assert rig.backend.sent == [[b"x"]]
    assert rig.lost == 0


@on_clock
async def test_what_fails_for_good_is_counted_and_said_once() -> None:
    rig = Rig()
    rig.backend.on_send = raising(AccessDenied("may not"))
    with capture_logs() as logs:
        for _ in range(3):
            rig.put()
            await rig.sender.drain()
    assert [result.outcome for _, result in rig.publisher.answers] == [Outcome.ACCEPTED] * 3
    assert rig.lost == 3
    assert [entry["event"] for entry in logs if entry["event"] == "best_effort_lost"] == ["best_effort_lost"]


@on_clock
async def test_it_is_retried_like_any_other() -> None:
    rig = Rig()
    failures = [Unavailable("lost")]

    async def send(entries: object) -> list[object]:
        if failures:
            raise failures.pop()
        return [ACCEPTED]

    rig.backend.on_send = send  # type: ignore[assignment]
    rig.put()
    await rig.sender.drain()
    assert rig.lost == 0
    assert len(rig.backend.sent) == 2


@on_clock
async def test_what_cannot_be_encoded_is_lost() -> None:
    rig = Rig()
    rig.put(b"x" * 501)
    assert rig.publisher.answers == [(b"x" * 501, ACCEPTED)]
    assert rig.lost == 1


@on_clock
async def test_a_destination_that_hangs_holds_nobody_up_and_no_more_than_its_share() -> None:
    rig = Rig()
    rig.backend.on_send = never
    for _ in range(DESTINATION_MESSAGES + 5):
        rig.put()
    await settle_down()
    assert len(rig.publisher.answers) == DESTINATION_MESSAGES + 5
    assert not rig.publisher.pauses
    assert rig.sender.held == DESTINATION_MESSAGES
    assert rig.lost == 5


@on_clock
async def test_it_is_said_again_after_it_went_well() -> None:
    rig = Rig()
    with capture_logs() as logs:
        for action in (raising(AccessDenied("may not")), None, raising(AccessDenied("may not"))):
            rig.backend.on_send = action or ScriptedBackend().on_send
            rig.put()
            await rig.sender.drain()
    assert len([entry for entry in logs if entry["event"] == "best_effort_lost"]) == 2
