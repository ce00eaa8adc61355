"""What native applications publish to a topic, on its way to a legacy queue that nobody has declared yet: nothing is
lost while SQS and SNS fail and the gateway is killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import finish
from tests.faults.conftest import RECEIVER, quick_config
from tests.rig.counting import SqsClient, assert_exactly, assert_nothing_lost, depth, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import (
    ACCESS_DENIED,
    INTERNAL_FAILURE,
    REQUEST_THROTTLED,
    TRANSIENT,
    CutAnswer,
    EntryFailures,
    Fault,
    Reset,
    Slow,
)
from tests.rig.processes import Gateway
from tests.rig.query_faults import SNS_INTERNAL, SNS_THROTTLED
from tests.rig.topics import SnsClient, topic_arn
from tests.rig.waiting import wait_for

MESSAGES = 200
PATIENCE = 60.0
ATTACHED = "ingress_attached"

PLANS: Mapping[str, tuple[Sequence[Fault], Sequence[str]]] = {
    "the queue does not take it": (
        (ACCESS_DENIED, INTERNAL_FAILURE, EntryFailures((0, 3), "AccessDenied"), EntryFailures((1, 2), applied=True)),
        ["SendMessageBatch"],
    ),
    "it cannot be received": ((INTERNAL_FAILURE, REQUEST_THROTTLED, CutAnswer(), Reset()), ["ReceiveMessage"]),
    "it cannot be deleted": (
        (INTERNAL_FAILURE, EntryFailures((0, 2)), Reset(applied=True), CutAnswer()),
        ["DeleteMessageBatch"],
    ),
    "everything": (TRANSIENT, ["SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"]),
}


@pytest.fixture
def gateway(faults: FaultEndpoint, queue: str, queue_name: str, tmp_path: Path) -> Iterator[Gateway]:
    """What comes from the topic goes to the queue; not started yet."""
    config = quick_config(faults.url) | {
        "ingress": [{"sns": queue_name, "queue": queue_name}],
        "receiver": RECEIVER,
        "sender": {"timeout": 2, "backoff_base": 0.01, "backoff_cap": 0.1},
    }
    running = Gateway(config, tmp_path)
    yield running
    faults.clear()
    finish(running)


def attach(gateway: Gateway, times: int = 1) -> None:
    gateway.start()
    wait_for(lambda: gateway.log.count(ATTACHED) == times, "the topic is listened to")


def publish(sns: SnsClient, topic: str, first: int, number: int) -> list[str]:
    arn = topic_arn(sns, topic)
    bodies = [f"native {serial}" for serial in range(first, first + number)]
    for start in range(0, number, 10):
        entries = [{"Id": str(serial), "Message": body} for serial, body in enumerate(bodies[start : start + 10])]
        assert not sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries).get("Failed")
    return bodies


def wait_taken(sqs: SqsClient, topic: str) -> None:
    """Wait until the gateway has taken everything, and ended it."""
    url = sqs.get_queue_url(QueueName=f"mqlift-ingress-{topic}")["QueueUrl"]
    wait_for(lambda: depth(sqs, url) == (0, 0), "everything is taken", PATIENCE)


@pytest.mark.parametrize(("plan", "actions"), PLANS.values(), ids=PLANS)
def test_nothing_is_lost_on_the_way_in(
    plan: Sequence[Fault],
    actions: Sequence[str],
    gateway: Gateway,
    faults: FaultEndpoint,
    sns: SnsClient,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
) -> None:
    attach(gateway)
    faults.chaos(plan, 0.5, seed=5, actions=actions)
    bodies = publish(sns, queue_name, 0, MESSAGES)
    wait_taken(sqs, queue_name)
    faults.clear()
    assert faults.injected()
    assert_nothing_lost(bodies, drain(sqs, queue))


def test_kill_9_on_the_way_in(
    gateway: Gateway, faults: FaultEndpoint, sns: SnsClient, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    attach(gateway)
    faults.chaos((Slow(0.05), Slow(0.05, before=True)), 1.0, seed=1)
    bodies: list[str] = []
    for kill in range(2):
        stored = len(faults.stored(queue_name))
        bodies += publish(sns, queue_name, len(bodies), MESSAGES)
        wait_for(lambda known=stored: len(faults.stored(queue_name)) > known, "some is in the queue")  # type: ignore[misc]
        gateway.kill9()
        attach(gateway, kill + 2)
    wait_taken(sqs, queue_name)
    assert_nothing_lost(bodies, drain(sqs, queue))


SETTING_UP: Mapping[str, Fault] = {
    "GetTopicAttributes": SNS_THROTTLED,
    "CreateTopic": SNS_INTERNAL,
    "CreateQueue": REQUEST_THROTTLED,
    "GetQueueAttributes": INTERNAL_FAILURE,
    "SetQueueAttributes": Reset(applied=True),
    "Subscribe": CutAnswer(),
}


def test_a_topic_is_attached_as_soon_as_aws_lets_it(
    gateway: Gateway, faults: FaultEndpoint, sns: SnsClient, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    for action, fault in SETTING_UP.items():
        faults.inject(fault, action=action)
    attach(gateway)
    assert set(faults.injected()) == set(SETTING_UP.values())
    bodies = publish(sns, queue_name, 0, 20)
    wait_taken(sqs, queue_name)
    assert_exactly(bodies, drain(sqs, queue))
