"""Faults between gateway and SQS, while clients publish and consume: nothing acknowledged is lost, nothing deleted
before its acknowledgement. Duplicates are allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.faults.traffic import (
    Consumers,
    StompPublisher,
    assert_promises,
    publish_in_rounds,
    publishers,
    wait_settled,
)
from tests.rig.counting import SqsClient
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import (
    BAD_GATEWAY,
    INTERNAL_FAILURE,
    OVER_LIMIT,
    REQUEST_THROTTLED,
    SERVICE_UNAVAILABLE,
    THROTTLING,
    TRANSIENT,
    CutAnswer,
    EntryFailures,
    Fault,
    MissingEntries,
    NoAnswer,
    Reset,
    Slow,
)
from tests.rig.processes import Gateway

MESSAGES = 100
STOMP_MESSAGES = 20
CHANGES = ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")


@dataclass(frozen=True)
class Plan:
    name: str
    faults: Sequence[Fault]
    probability: float
    actions: Sequence[str] = ()
    seed: int = 1
    least: int = 10
    """Faults that have to be met for the test to say anything."""


PLANS = [
    Plan("server errors", (INTERNAL_FAILURE, SERVICE_UNAVAILABLE, BAD_GATEWAY), 0.4),
    Plan("throttles", (REQUEST_THROTTLED, THROTTLING), 0.3),
    # Each one doubles the time to the next poll, so there are few.
    Plan("too much in flight", (OVER_LIMIT,), 1.0, ("ReceiveMessage",), least=1),
    Plan("entries fail", (EntryFailures((0, 3, 4, 9)), EntryFailures((1, 2), "ServiceUnavailable")), 0.5, CHANGES),
    Plan("entries fail and are done", (EntryFailures((0, 2, 5), applied=True), MissingEntries((1, 4))), 0.4, CHANGES),
    # A long poll has 10 seconds more than it waits, so these stay away from it.
    Plan("timeouts", (NoAnswer(), NoAnswer(applied=True)), 0.15, CHANGES),
    Plan("resets", (Reset(), Reset(applied=True), CutAnswer()), 0.3),
    Plan("slow answers", (Slow(0.2), Slow(0.2, before=True), Slow(0.4)), 0.5),
    *(Plan(f"everything {seed}", (*TRANSIENT, NoAnswer(True)), 0.3, CHANGES, seed) for seed in (1, 2)),
    Plan("everything, polls too", TRANSIENT, 0.4, seed=3),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_nothing_is_lost_and_nothing_deleted_early(
    plan: Plan, gateway: Gateway, endpoint: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    check(plan, gateway, endpoint, sqs, queue, queue_name)


def test_nor_over_the_other_transport(
    quick_gateway: Callable[..., Gateway], faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    gateway = quick_gateway(aws={"transport": "aiobotocore"})
    gateway.start()
    check(Plan("everything", TRANSIENT, 0.3, seed=4), gateway, faults, sqs, queue, queue_name)


def check(plan: Plan, gateway: Gateway, endpoint: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str) -> None:
    before = endpoint.injected()
    endpoint.chaos(plan.faults, plan.probability, seed=plan.seed, actions=plan.actions)
    stomp_publisher = StompPublisher(gateway.port("stomp"), f"/queue/{queue_name}")
    stomp_bodies = [f"stomp {number:05}" for number in range(STOMP_MESSAGES)]
    with (
        Consumers(gateway.port("stomp"), queue_name) as consumers,
        publishers(gateway.port("mqtt"), f"in/{queue_name}", 2, MESSAGES, queue_name) as senders,
    ):
        publish_in_rounds(senders)
        stomp_publisher.send_all(stomp_bodies)
        endpoint.clear()
        acknowledged = stomp_publisher.acknowledged | {
            body: at for sender in senders for body, at in sender.acknowledged.items()
        }
        wait_settled(sqs, queue, consumers, acknowledged)
    assert len(acknowledged) == 2 * MESSAGES + STOMP_MESSAGES
    assert_promises(endpoint, queue_name, acknowledged, consumers)
    assert (endpoint.injected() - before).total() >= plan.least
