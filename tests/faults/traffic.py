"""Publishers and consumers that go on whatever happens, as those in a plant do, and the sums over what they saw."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Literal, Self

import stomp

from tests.rig.clients import MqttPublisher, StompClient, StompDelivery
from tests.rig.counting import (
    SqsClient,
    assert_nothing_lost,
    assert_stored_before_acknowledged,
    depth,
)
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.waiting import wait_for

RECONNECT_INTERVAL = 0.1
SETTLE_TIMEOUT = 60.0
LOST = (stomp.exception.StompException, OSError)

Decide = Callable[[StompDelivery], Literal["ack", "nack"] | None]


def ack_all(_delivery: StompDelivery) -> Literal["ack"]:
    return "ack"


class RecordingConsumer(StompClient):
    """Notes every ACK just before it is sent. One over a lost connection goes nowhere, and its message comes back."""

    def __init__(self, port: int, acks: list[tuple[str, float]], decide: Decide = ack_all) -> None:
        super().__init__(port, decide=decide)
        self._acks = acks

    def ack(self, delivery: StompDelivery) -> None:
        self._acks.append((delivery.body, time.monotonic()))
        with contextlib.suppress(*LOST):
            super().ack(delivery)

    def nack(self, delivery: StompDelivery) -> None:
        with contextlib.suppress(*LOST):
            super().nack(delivery)


class Consumers:
    """STOMP consumers of one queue that connect again whenever they are cut off. Use it as a context manager."""

    def __init__(self, port: int, queue: str, number: int = 2, *, decide: Decide = ack_all, selector: str = "") -> None:
        self._headers = {"prefetch-count": "20"} | ({"selector": selector} if selector else {})
        self._port = port
        self._queue = queue
        self._decide = decide
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"consumer-{count}") for count in range(number)]
        self.acks: list[tuple[str, float]] = []
        """Bodies, and when their ACKs were about to be sent (`time.monotonic`)."""
        self.connections = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.connections >= len(self._threads), "the consumers are subscribed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def bodies(self) -> set[str]:
        """What was acknowledged so far."""
        return {body for body, _ in list(self.acks)}

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Not let in, cut off before the RECEIPT, or refused: in all cases it is tried again.
            with contextlib.suppress(*LOST, AssertionError):
                self._consume()
            self._stopping.wait(RECONNECT_INTERVAL)

    def _consume(self) -> None:
        with RecordingConsumer(self._port, self.acks, self._decide) as client:
            client.subscribe(f"/queue/{self._queue}", ack="client-individual", **self._headers)
            self.connections += 1
            while client.connected and not self._stopping.wait(RECONNECT_INTERVAL):
                pass


class StompPublisher:
    """Sends with receipts, one after the other; connects again and resends what got no RECEIPT."""

    def __init__(self, port: int, destination: str) -> None:
        self._port = port
        self._destination = destination
        self.acknowledged: dict[str, float] = {}
        """Bodies with a RECEIPT, and when it was read."""
        self.refusals = 0

    def send_all(self, bodies: Iterable[str], timeout: float = SETTLE_TIMEOUT) -> None:
        """`AssertionError` when that has not succeeded after `timeout` seconds."""
        left = list(bodies)
        deadline = time.monotonic() + timeout
        while left:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(left)} messages were not taken in {timeout:g} s")
            with contextlib.suppress(*LOST, AssertionError):
                self._send(left)
                return
            self.refusals += 1

    def _send(self, left: list[str]) -> None:
        with StompClient(self._port) as client:
            while left:
                client.send(self._destination, left[0])
                self.acknowledged[left.pop(0)] = time.monotonic()


def publish_in_rounds(publishers: Mapping[MqttPublisher, tuple[str, list[str]]], size: int = 10) -> None:
    """Each publisher sends its bodies to its topic, `size` at a time, and waits for their PUBACKs before the next."""
    for start in range(0, max(len(bodies) for _, bodies in publishers.values()), size):
        for publisher, (topic, bodies) in publishers.items():
            publisher.publish_all(topic, bodies[start : start + size])
        for publisher, (_, bodies) in publishers.items():
            publisher.wait_acknowledged(min(start + size, len(bodies)), SETTLE_TIMEOUT)


@contextlib.contextmanager
def publishers(
    port: int, topic: str, number: int, messages: int, name: str
) -> Iterator[dict[MqttPublisher, tuple[str, list[str]]]]:
    """Connected publishers, each with its topic and its distinct bodies."""
    with contextlib.ExitStack() as stack:
        yield {
            stack.enter_context(MqttPublisher(port, f"{name}-{count}")): (
                f"{topic}/{count}",
                [f"{name}-{count} {message:05}" for message in range(messages)],
            )
            for count in range(number)
        }


def wait_more_consumed(consumers: Consumers) -> None:
    """Wait until more is acknowledged than now."""
    done = len(consumers.bodies)
    wait_for(lambda: len(consumers.bodies) > done, "messages are published and consumed")


def wait_settled(sqs: SqsClient, queue_url: str, consumers: Consumers, published: Iterable[str]) -> None:
    """Wait until nothing is left in the queue, and check that everything that was published was consumed.

    For after the last acknowledgement: what is not in the queue then was deleted, and before that it was consumed.
    """
    wait_for(lambda: depth(sqs, queue_url) == (0, 0), "the queue is empty", SETTLE_TIMEOUT)
    assert_nothing_lost(list(published), consumers.bodies)


def assert_promises(
    endpoint: FaultEndpoint, queue: str, acknowledged: Mapping[str, float], consumers: Consumers
) -> None:
    """Promises 1 and 2, over everything that went to and came out of one queue."""
    assert_stored_before_acknowledged(acknowledged, endpoint.stored(queue))
    assert_nothing_lost(list(acknowledged), consumers.bodies)
    assert_each_delete_has_its_ack(consumers.acks, endpoint, queue)


def assert_each_delete_has_its_ack(acks: Iterable[tuple[str, float]], endpoint: FaultEndpoint, queue: str) -> None:
    """No delivery, of several of one body, is deleted before as many acknowledgements of that body were sent."""
    sent: defaultdict[str, list[float]] = defaultdict(list)
    for body, at in acks:
        sent[body].append(at)
    for body, deletes in _deletes(endpoint, queue).items():
        times = sorted(sent[body])
        for number, at in enumerate(sorted(deletes.values())):
            if number >= len(times) or at < times[number]:
                raise AssertionError(f"{body!r}: {number + 1} deliveries deleted before as many ACKs were sent")


def _deletes(endpoint: FaultEndpoint, queue: str) -> dict[str, dict[str, float]]:
    """By body and receipt handle, when the first delete was asked for."""
    bodies = endpoint.handed_out()
    deletes: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for exchange in endpoint.calls("DeleteMessage", "DeleteMessageBatch"):
        if exchange.call.queue == queue:
            for entry in exchange.call.entries:
                receipt = entry["ReceiptHandle"]
                deletes[bodies[receipt]].setdefault(receipt, exchange.at)
    return deletes
