"""What cannot be sent in time is given back to its publisher, who sends it again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.counting import SqsClient, assert_nothing_lost, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import SERVICE_UNAVAILABLE, EntryFailures, Fault, NoAnswer, Slow
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

BODIES = [f"message {number}" for number in range(30)]


@pytest.fixture
def impatient_gateway(quick_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway that gives a message back after a second."""
    gateway = quick_gateway(sender={"timeout": 1})
    gateway.start()
    return gateway


@pytest.mark.parametrize("fault", [SERVICE_UNAVAILABLE, NoAnswer(), EntryFailures(range(10))], ids=str)
def test_publishers_are_told_and_succeed_later(
    fault: Fault,
    impatient_gateway: Gateway,
    faults: FaultEndpoint,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
) -> None:
    faults.inject(fault, action="SendMessageBatch", times=None)
    with MqttPublisher(impatient_gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish_all(f"in/{queue_name}/1", BODIES)
        wait_for(lambda: publisher.disconnects, "the connection is closed, for lack of a PUBACK that says no")
        assert publisher.acknowledged == {}
        with (
            StompClient(impatient_gateway.port("stomp")) as client,
            pytest.raises(AssertionError, match="not accepted"),
        ):
            client.send(f"/queue/{queue_name}", "from STOMP")
        faults.clear()
        publisher.wait_acknowledged(len(BODIES))
    assert_nothing_lost(BODIES, drain(sqs, queue).elements())


def test_an_entry_that_sqs_will_never_take_fails_alone(
    quick_gateway: Callable[..., Gateway], faults: FaultEndpoint, sqs: SqsClient, queue: str, queue_name: str
) -> None:
    # What comes while the first call is under way leaves in full batches, of both publishers.
    gateway = quick_gateway(sender={"requests": 1, "partial_requests": 1})
    gateway.start()
    faults.inject(Slow(0.3), action="SendMessageBatch")
    faults.inject(EntryFailures((1,), "InvalidMessageContents", sender_fault=True), action="SendMessageBatch")
    with (
        MqttPublisher(gateway.port("mqtt"), f"{queue_name}-a") as one,
        MqttPublisher(gateway.port("mqtt"), f"{queue_name}-b") as other,
    ):
        for number in range(len(BODIES)):
            one.publish(f"in/{queue_name}/1", f"one {number}")
            other.publish(f"in/{queue_name}/1", f"other {number}")
        # Who sent the refused one is cut off and sends again, which nobody refuses; the other one notices nothing.
        one.wait_acknowledged(len(BODIES))
        other.wait_acknowledged(len(BODIES))
        assert sorted([one.disconnects, other.disconnects]) == [0, 1]
    refused = next(
        exchange for exchange in faults.calls("SendMessageBatch") if isinstance(exchange.fault, EntryFailures)
    )
    assert len(refused.call.entries) > 1
    assert_nothing_lost([*one.acknowledged, *other.acknowledged], drain(sqs, queue).elements())
