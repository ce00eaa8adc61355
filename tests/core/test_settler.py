"""Ending deliveries: in batches, each outcome by its own request, tried again, and counted when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from structlog.testing import capture_logs

from gateway.core.backend import Received
from gateway.core.batcher import BatchPolicy
from gateway.core.delivery import Delivery
from gateway.core.errors import AccessDenied, ReceiptExpired, Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.settler import Settler
from tests.rig.clock import at_end, on_clock, settle_down
from tests.rig.scripted import TARGET, ScriptedBackend, message, never, new_metrics, raising

POLICY = BatchPolicy(timeout=10.0, backoff_base=0.1, backoff_cap=0.5)


class Source:
    name = "orders"

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        raise AssertionError("not called here")


def delivery(receipt: str) -> Delivery:
    return Delivery(Received(message(), receipt), Source())


class Rig:
    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.metrics = new_metrics()
        self.settler = Settler(self.backend, TARGET, policy=POLICY, metrics=self.metrics)
        at_end(self.settler.aclose)

    def settle(self, outcome: Outcome, *receipts: str) -> None:
        for receipt in receipts:
            self.settler.settle(delivery(receipt), outcome)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mqlift_{name}_total", {"queue": "orders", **labels}) or 0.0


@on_clock
async def test_acknowledgements_of_one_turn_are_deleted_together() -> None:
    rig = Rig()
    rig.settle(Outcome.ACCEPTED, *(f"r{number}" for number in range(12)))
    await rig.settler.drain()
    assert [len(receipts) for receipts, _ in rig.backend.settled] == [10, 2]
    assert rig.count("settlements", outcome="accepted") == 12


@on_clock
async def test_each_outcome_has_its_own_request() -> None:
    rig = Rig()
    rig.settle(Outcome.ACCEPTED, "a")
    rig.settle(Outcome.RELEASED, "b")
    rig.settle(Outcome.REJECTED, "c")
    await rig.settler.drain()
    assert sorted(rig.backend.settled) == [
        (["a"], Outcome.ACCEPTED),
        (["b"], Outcome.RELEASED),
        (["c"], Outcome.REJECTED),
    ]


@on_clock
async def test_only_what_failed_is_tried_again() -> None:
    rig = Rig()
    answers = [[ACCEPTED, Result(Outcome.RELEASED, Unavailable("lost"))], [ACCEPTED]]

    async def settle(receipts: Sequence[str]) -> Sequence[Result]:
        return answers.pop(0)

    rig.backend.on_settle = settle
    rig.settle(Outcome.ACCEPTED, "a", "b")
    await rig.settler.drain()
    assert rig.backend.deleted == ["a", "b", "b"]
    assert rig.count("settle_failures") == 0


@on_clock
async def test_an_expired_receipt_is_counted_and_a_refusal_is_logged_too() -> None:
    rig = Rig()
    results = [Result(Outcome.RELEASED, ReceiptExpired("late")), Result(Outcome.RELEASED, AccessDenied("may not"))]

    async def settle(receipts: Sequence[str]) -> Sequence[Result]:
        return results

    rig.backend.on_settle = settle
    with capture_logs() as lines:
        rig.settle(Outcome.ACCEPTED, "a", "b")
        await rig.settler.drain()
    assert [line["problem"] for line in lines] == ["may not"]
    assert rig.count("settle_failures") == 2
    assert len(rig.backend.settled) == 1, "neither is tried again"


@on_clock
async def test_draining_waits_for_the_backend() -> None:
    rig = Rig()
    rig.backend.on_settle = raising(Unavailable("lost"))
    rig.settle(Outcome.RELEASED, "a")
    drain = asyncio.create_task(rig.settler.drain())
    await settle_down()
    assert not drain.done()
    with capture_logs():
        await drain
    assert rig.count("settle_failures") == 1


@on_clock
async def test_closing_does_not_wait_for_a_request_that_hangs() -> None:
    rig = Rig()
    rig.backend.on_settle = never
    rig.settle(Outcome.ACCEPTED, "a")
    await settle_down()
    with capture_logs() as lines:
        await rig.settler.aclose()
    assert [line["event"] for line in lines] == ["settlement_failed"]
