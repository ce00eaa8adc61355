"""FIFO queues: the order of each group holds, whatever fails on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.faults.holding import Hold
from tests.rig.clients import MqttPublisher
from tests.rig.counting import SqsClient, depth
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import (
    ACCESS_DENIED,
    Answer,
    Call,
    Connection,
    EntryFailures,
    Fault,
    Forward,
    MissingEntries,
    Slow,
)
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

GROUPS = 12
MESSAGES = 15

FAULTS: Sequence[Fault] = (
    Slow(0.03),
    Slow(0.03, before=True),
    EntryFailures((0, 3, 7), applied=True),
    MissingEntries((1, 2)),
)


@pytest.fixture
def fifo_queue(sqs: SqsClient, queue_name: str) -> str:
    """The URL of a fresh FIFO queue."""
    attributes = {"FifoQueue": "true", "DeduplicationScope": "messageGroup"}
    url: str = sqs.create_queue(QueueName=f"{queue_name}.fifo", Attributes=attributes)["QueueUrl"]
    return url


def drain_groups(sqs: SqsClient, queue_url: str) -> dict[str, list[str]]:
    """Everything in a FIFO queue, by group, in the order that it comes out."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    while depth(sqs, queue_url) != (0, 0):
        for group, body, receipt in receive(sqs, queue_url):
            groups[group].append(body)
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=receipt)
    return groups


def receive(sqs: SqsClient, queue_url: str) -> Iterator[tuple[str, str, str]]:
    answer = sqs.receive_message(
        QueueUrl=queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"]
    )
    for message in answer.get("Messages", ()):
        yield message["Attributes"]["MessageGroupId"], message["Body"], message["ReceiptHandle"]


def test_what_follows_a_refused_message_does_not_overtake_it(
    gateway: Gateway, endpoint: FaultEndpoint, sqs: SqsClient, fifo_queue: str, queue_name: str
) -> None:
    """The client resends from the refused message on; what was stored meanwhile would come out ahead of it."""
    topic = f"fifo/{queue_name}/g"
    hold = Hold(before=True, queue=f"{queue_name}.fifo")
    bodies = [str(number) for number in range(5)]
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(topic, "first")  # so that the queue is known, and the next call sends
        publisher.wait_acknowledged(1)
        endpoint.inject(_HeldRefusal(hold), action="SendMessageBatch")
        publisher.publish_all(topic, bodies)
        wait_for(lambda: hold.held, "the first message is on its way, the others behind it")
        wait_for(lambda: gateway.metric("mqlift_inflight_messages") == len(bodies), "all were read")
        hold.release()
        publisher.wait_acknowledged(1 + len(bodies))
        assert publisher.disconnects == 1
    found = drain_groups(sqs, fifo_queue)["g"]
    assert list(dict.fromkeys(found)) == ["first", *bodies]


def test_each_group_stays_in_order_over_a_kill(
    quick_gateway: Callable[..., Gateway], faults: FaultEndpoint, sqs: SqsClient, fifo_queue: str, queue_name: str
) -> None:
    """The client sends again what was not acknowledged: there are duplicates, and nothing comes out too early."""
    faults.chaos(FAULTS, 0.8, seed=1)
    gateway = quick_gateway()
    gateway.start()
    expected = {f"g{group}": [f"{group}/{number}" for number in range(MESSAGES)] for group in range(GROUPS)}
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        for number in range(MESSAGES):
            for group, bodies in expected.items():
                publisher.publish(f"fifo/{queue_name}/{group}", bodies[number])
        publisher.wait_acknowledged(GROUPS)
        gateway.kill9()
        assert len(publisher.acknowledged) < GROUPS * MESSAGES
        gateway.start()
        publisher.wait_acknowledged(GROUPS * MESSAGES, 60)
    found = drain_groups(sqs, fifo_queue)
    assert {group: list(dict.fromkeys(bodies)) for group, bodies in found.items()} == expected


class _HeldRefusal:
    """Holds a call, then refuses it."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    async def serve(self, call: Call, forward: Forward, connection: Connection) -> Answer:
        async def refuse(refused: Call) -> Answer:
            return await ACCESS_DENIED.serve(refused, forward, connection)

        return await self._hold.serve(call, refuse, connection)
