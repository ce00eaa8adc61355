"""Versions and transactions of STOMP over SQS: every message is counted, also when the gateway is killed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import serving
from tests.e2e.stomp_peer import Peer, Ports, dialects_gateway, what_is_left
from tests.faults.holding import Hold
from tests.rig.counting import SqsClient, depth, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.processes import Gateway, Ministack
from tests.rig.waiting import wait_for

DIALECTS = ("rabbitmq", "activemq")
NUMBERS = [f"{number:03}".encode() for number in range(50)]


@pytest.fixture(scope="module")
def ports(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    gateway, ports = dialects_gateway(ministack.url, tmp_path_factory.mktemp("transactions"))
    with serving(gateway):
        yield ports


@pytest.fixture(params=DIALECTS)
def port(request: pytest.FixtureRequest, ports: Ports) -> int:
    return int(getattr(ports, request.param))


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_every_version_sends_receives_and_acknowledges(port: int, version: str, queue_name: str) -> None:
    queue = f"/queue/{queue_name}"
    with Peer(port, version) as peer:
        for body in NUMBERS:
            peer.sends("SEND", body, destination=queue)
        peer.subscribes(queue, ack="client", prefetch_count="100")
        frames = peer.gets(len(NUMBERS))
        assert sorted(frame.body for frame in frames) == NUMBERS
        last = frames[-1]
        if version == "1.2":
            peer.acks(last)
        else:
            peer.asks("ACK", message_id=last.header("message-id"), subscription="0")
        peer.leaves()
    assert what_is_left(port, queue) == []


@pytest.mark.parametrize("command", ["COMMIT", "ABORT"])
def test_a_transaction_counts_as_a_whole(port: int, command: str, queue_name: str) -> None:
    work, done = f"/queue/{queue_name}-work", f"/queue/{queue_name}-done"
    with Peer(port) as peer:
        for body in NUMBERS:
            peer.sends("SEND", body, destination=work)
        peer.subscribes(work, ack="client", prefetch_count="100")
        frames = peer.gets(len(NUMBERS))
        peer.asks("BEGIN", transaction="t")
        for frame in frames:
            peer.sends("SEND", frame.body, destination=done, transaction="t")
        peer.sends("ACK", id=frames[-1].header("ack"), transaction="t")
        peer.asks(command, transaction="t")
        peer.leaves()
    committed = command == "COMMIT"
    assert what_is_left(port, done) == (NUMBERS if committed else [])
    assert what_is_left(port, work) == ([] if committed else NUMBERS)


def test_what_is_open_at_the_end_never_was(port: int, queue_name: str) -> None:
    with Peer(port) as peer:
        peer.sends("BEGIN", transaction="t")
        peer.sends("SEND", b"x", destination=f"/queue/{queue_name}", transaction="t")
        peer.leaves()
    assert what_is_left(port, f"/queue/{queue_name}") == []


class TestKilledInTheMiddle:
    """The COMMIT's requests are held back when the gateway is killed: there is no RECEIPT, and nothing is lost."""

    @pytest.fixture
    def gateway(self, faults: FaultEndpoint, tmp_path: Path) -> Iterator[tuple[Gateway, Ports]]:
        gateway, ports = dialects_gateway(faults.url, tmp_path)
        with serving(gateway):
            yield gateway, ports

    @pytest.mark.parametrize("before", [True, False], ids=["before SQS has them", "after SQS has them"])
    def test_what_was_acknowledged_in_it_comes_back(
        self,
        gateway: tuple[Gateway, Ports],
        faults: FaultEndpoint,
        sqs: SqsClient,
        queue: str,
        queue_name: str,
        before: bool,
    ) -> None:
        running, ports = gateway
        done = sqs.create_queue(QueueName=f"{queue_name}-done")["QueueUrl"]
        hold = Hold(before=before, queue=f"{queue_name}-done")
        with Peer(ports.rabbitmq) as peer:
            peer.asks("SEND", b"work", destination=f"/queue/{queue_name}")
            peer.subscribes(f"/queue/{queue_name}", ack="client-individual")
            [work] = peer.gets(1)
            faults.inject(hold, action="SendMessageBatch", times=None)
            peer.asks("BEGIN", transaction="t")
            for body in NUMBERS:
                peer.sends("SEND", body, destination=f"/queue/{queue_name}-done", transaction="t")
            peer.sends("ACK", id=work.header("ack"), transaction="t")
            peer.sends("COMMIT", transaction="t", receipt="never")
            wait_for(lambda: hold.held, "the COMMIT is under way")
            assert depth(sqs, queue) == (0, 1)  # not deleted before what it was worth is stored
            running.kill9()
        hold.release()
        faults.clear()
        running.start()
        with Peer(ports.rabbitmq) as peer:
            peer.subscribes(f"/queue/{queue_name}", ack="client-individual")
            [again] = peer.gets(1)
            assert (again.body, again.header("redelivered")) == (b"work", "true")
            peer.asks("BEGIN", transaction="t")
            for body in NUMBERS:
                peer.sends("SEND", body, destination=f"/queue/{queue_name}-done", transaction="t")
            peer.sends("ACK", id=again.header("ack"), transaction="t")
            peer.asks("COMMIT", transaction="t")
            running.kill9()  # right behind the RECEIPT
        stored = drain(sqs, done)
        assert set(stored) == {body.decode() for body in NUMBERS}
        assert all(1 <= count <= 2 for count in stored.values()), "once for each COMMIT at most"
