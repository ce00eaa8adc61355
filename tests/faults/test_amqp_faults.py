"""Publishers with confirms and consumers with acknowledgements, while SQS fails and the gateway is killed.

Nothing that was confirmed is lost; what comes twice is counted.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pika.exceptions import AMQPError, NackError

from tests.conftest import finish
from tests.faults.conftest import quick_config
from tests.rig.amqp import AmqpClient
from tests.rig.counting import SqsClient, assert_nothing_lost, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import THROTTLING, TRANSIENT, CutAnswer, EntryFailures, Fault, Reset, Slow
from tests.rig.processes import Gateway, free_port
from tests.rig.waiting import wait_for

PUBLISHERS = 10
EACH = 200
SOME = 50
FEW = 20
"""While each of them takes several attempts."""
PATIENCE = 90.0
TRIES = 1_000


class Publisher:
    """A thread that publishes its messages one by one, each until it is confirmed, whatever becomes of connections."""

    def __init__(self, port: int, queue: str, number: int, each: int) -> None:
        self.confirmed: list[str] = []
        self.refused = 0
        self.connections = 0
        self._port = port
        self._queue = queue
        self._waiting = [f"{number}-{serial}" for serial in range(each)]
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        for _ in range(TRIES):
            with contextlib.suppress(AMQPError, OSError), AmqpClient(self._port) as client:
                self.connections += 1
                client.declare(self._queue)
                self._publish(client)
            if not self._waiting:
                return

    def _publish(self, client: AmqpClient) -> None:
        while self._waiting:
            try:
                client.publish(self._queue, self._waiting[0])
            except NackError:
                self.refused += 1
            else:
                self.confirmed.append(self._waiting.pop(0))


class Consumer:
    """A thread that consumes with acknowledgements until it is told to stop, and connects again whatever happens."""

    def __init__(self, port: int, queue: str) -> None:
        self.seen: Counter[str] = Counter()
        self._port = port
        self._queue = queue
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(AMQPError, OSError), AmqpClient(self._port) as client:
                client.declare(self._queue)
                client.consume(self._queue, prefetch=50)
                self._consume(client)

    def _consume(self, client: AmqpClient) -> None:
        while not self._stopped.is_set():
            client.connection.process_data_events(0.05)
            taken, client.received = client.received, []
            for delivery in taken:
                self.seen[delivery.body] += 1
                delivery.ack()


@contextlib.contextmanager
def publishing(port: int, queue: str, each: int = EACH) -> Iterator[list[Publisher]]:
    """Publishers at work; all is confirmed when this ends."""
    publishers = [Publisher(port, queue, number, each) for number in range(PUBLISHERS)]
    for publisher in publishers:
        publisher.start()
    yield publishers
    wait_for(lambda: all(publisher.done for publisher in publishers), "all is confirmed", PATIENCE)
    assert [len(publisher.confirmed) for publisher in publishers] == [each] * PUBLISHERS


def confirmed(publishers: list[Publisher]) -> list[str]:
    return [body for publisher in publishers for body in publisher.confirmed]


@pytest.fixture
def start(faults: FaultEndpoint, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start a quick gateway behind the faults, with its state in a file; `settings` are added and win."""
    with contextlib.ExitStack() as stack:

        def begin(**settings: object) -> Gateway:
            listeners = [{"protocol": "amqp091", "host": "127.0.0.1", "port": free_port()}]
            config = quick_config(faults.url) | {"listeners": listeners, "state": f"sqlite://{tmp_path}/state.db"}
            gateway = Gateway(config | settings, tmp_path)
            stack.callback(finish, gateway)
            gateway.start()
            return gateway

        yield begin


def test_confirmed_publishes_survive_kill_9(
    start: Callable[..., Gateway], sqs: SqsClient, queue: str, queue_name: str
) -> None:
    gateway = start()
    with publishing(gateway.port("amqp091"), queue_name) as publishers:
        for share in (0.25, 0.5):
            enough = int(PUBLISHERS * EACH * share)
            wait_for(lambda enough=enough: len(confirmed(publishers)) >= enough, "some is confirmed", PATIENCE)  # type: ignore[misc]
            gateway.kill9()
            gateway.start()
    assert all(publisher.connections >= 3 for publisher in publishers)
    found = drain(sqs, queue)
    assert_nothing_lost(confirmed(publishers), found)
    assert set(found) == set(confirmed(publishers)), "nothing else is there, and what is there twice was sent twice"


def test_consumers_lose_nothing_over_kill_9(
    start: Callable[..., Gateway], sqs: SqsClient, queue: str, queue_name: str
) -> None:
    gateway = start()
    port = gateway.port("amqp091")
    consumers = [Consumer(port, queue_name) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    seen: Callable[[], Counter[str]] = lambda: consumers[0].seen + consumers[1].seen  # noqa: E731
    with publishing(port, queue_name, SOME) as publishers:
        wait_for(lambda: len(seen()) >= SOME, "some is consumed", PATIENCE)
        gateway.kill9()
        gateway.start()
    wait_for(lambda: len(seen()) == PUBLISHERS * SOME, "all is consumed", PATIENCE)
    for consumer in consumers:
        consumer.stop()
    assert_nothing_lost(confirmed(publishers), seen())
    wait_for(lambda: not drain(sqs, queue), "what was acknowledged is gone")


@pytest.mark.parametrize(
    "faulty",
    [TRANSIENT, (Reset(), CutAnswer()), (Slow(0.6), EntryFailures((0,)))],
    ids=["throttled", "cut off", "slow and partial"],
)
def test_every_publish_is_confirmed_or_refused_while_sqs_fails(
    start: Callable[..., Gateway],
    faults: FaultEndpoint,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
    faulty: tuple[Fault, ...],
) -> None:
    gateway = start()
    faults.chaos(faulty, 0.3, seed=7, actions=("SendMessageBatch",))
    with publishing(gateway.port("amqp091"), queue_name, FEW) as publishers:
        pass
    faults.clear()
    assert_nothing_lost(confirmed(publishers), drain(sqs, queue))


def test_what_cannot_be_sent_in_time_is_refused(
    start: Callable[..., Gateway], faults: FaultEndpoint, queue_name: str
) -> None:
    gateway = start(sender={"timeout": 1, "backoff_base": 0.01, "backoff_cap": 0.1})
    with AmqpClient(gateway.port("amqp091")) as client:
        client.declare(queue_name)
        faults.inject(THROTTLING, action="SendMessageBatch", times=None)
        with pytest.raises(NackError):
            client.publish(queue_name, "in vain")
        faults.clear()
        client.publish(queue_name, "goes on")


def test_a_client_is_told_that_it_is_not_read(
    start: Callable[..., Gateway], faults: FaultEndpoint, queue_name: str
) -> None:
    gateway = start(limits={"connection": {"inflight_messages": 10}})
    told: list[str] = []
    with AmqpClient(gateway.port("amqp091")) as client:
        client.declare(queue_name)
        client.connection.add_on_connection_blocked_callback(lambda *_: told.append("blocked"))
        client.connection.add_on_connection_unblocked_callback(lambda *_: told.append("unblocked"))
        faults.inject(THROTTLING, action="SendMessageBatch", times=None)
        channel = client.connection.channel()  # without confirms: it does not wait
        for number in range(50):
            channel.basic_publish("", queue_name, str(number).encode())
        client.pump(lambda: told, "it is told")
        faults.clear()
        client.pump(lambda: told == ["blocked", "unblocked"], "it may go on")
