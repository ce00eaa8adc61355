"""The AMQP load finds a broker that does not keep its word: what it counts can be believed."""

from __future__ import annotations

import struct

import pytest

from tests.bench import amqp_load
from tests.bench.amqp_load import Caller, Consumer, Publisher, Server, frame, method, publish, short
from tests.bench.mqtt_load import LoadError
from tests.bench.stomp_load import Seen
from tests.bench.test_load import Wire

HANDSHAKE = [
    method(0, amqp_load.START),
    method(0, amqp_load.TUNE),
    method(0, amqp_load.OPENED),
    method(1, amqp_load.CHANNEL_OPENED),
]
WINDOW = 5


def ack(tag: int, *, multiple: bool = False) -> bytes:
    return method(1, amqp_load.ACK, struct.pack("!QB", tag, multiple))


def deliver(tag: int, body: bytes) -> bytes:
    arguments = short("c") + struct.pack("!QB", tag, 0) + short("") + short("q")
    header = struct.pack("!HHQH", 60, 0, len(body), 0)
    return method(1, amqp_load.DELIVER, arguments) + frame(2, 1, header) + frame(3, 1, body)


def connected(connection: amqp_load.AmqpConnection, *steps: tuple[int, int]) -> Wire:
    wire = Wire()
    connection.connection_made(wire)
    for answer in [*HANDSHAKE, *(method(1, step) for step in steps)]:
        assert not connection.established.done()
        connection.data_received(answer)
    assert connection.established.result() is None
    wire.take()
    return wire


async def publishing() -> tuple[Publisher, Wire]:
    publisher = Publisher("q", 100, WINDOW)
    wire = connected(publisher, amqp_load.DECLARED, amqp_load.CONFIRMING)
    publisher.start()
    assert wire.take().count(b"sequence") == WINDOW
    return publisher, wire


async def test_confirms_in_any_order_are_counted_once_and_make_room() -> None:
    publisher, wire = await publishing()
    publisher.data_received(ack(2) + ack(4)[:7])
    publisher.data_received(ack(4)[7:])
    assert publisher.acked == 2
    publisher.data_received(ack(3, multiple=True))
    assert publisher.acked == 4
    assert wire.take().count(b"sequence") == 4
    publisher.stop()
    publisher.data_received(ack(9, multiple=True))
    assert publisher.ended.result() is None


@pytest.mark.parametrize(
    "answer", [ack(6), ack(1) + ack(1), method(1, amqp_load.NACK, struct.pack("!QB", 1, 0)), b"x" * 21]
)
async def test_a_confirm_that_is_not_waited_for_is_found(answer: bytes) -> None:
    publisher, _ = await publishing()
    publisher.data_received(answer)
    with pytest.raises(LoadError):
        publisher.ended.result()


async def test_every_delivery_is_acknowledged_by_itself() -> None:
    seen = Seen()
    consumer = Consumer("q", 250, seen)
    wire = connected(consumer, amqp_load.DECLARED, amqp_load.PREFETCHED, amqp_load.CONSUMING)
    data = deliver(1, b"%012d first" % 0) + deliver(2, b"%012d second" % 1)
    consumer.data_received(data[:40])
    consumer.data_received(data[40:])
    assert wire.take() == ack(1) + ack(2)
    assert (seen.messages, seen.distinct) == (2, 2)


async def test_a_delivery_out_of_order_is_found() -> None:
    consumer = Consumer("q", 250, Seen())
    connected(consumer, amqp_load.DECLARED, amqp_load.PREFETCHED, amqp_load.CONSUMING)
    consumer.data_received(deliver(2, b"%012d" % 0))
    with pytest.raises(LoadError):
        consumer.ended.result()


async def test_a_server_answers_to_where_the_call_wants_it() -> None:
    caller, server = Caller("q", 100), Server("q")
    calls = connected(caller, amqp_load.CONSUMING)
    replies = connected(server, amqp_load.DECLARED, amqp_load.CONSUMING)
    caller.start()
    call = calls.take()
    server.data_received(call)
    body = call[-109:-1]
    assert replies.take() == publish(amqp_load.REPLY_TO, body[8:], 0, b"")
    caller.stop()
    caller.data_received(deliver(1, b"answer"))
    assert len(caller.round_trips) == 1
    assert caller.ended.result() is None


async def test_a_refused_step_is_told() -> None:
    publisher = Publisher("q", 100, WINDOW)
    publisher.connection_made(Wire())
    publisher.data_received(method(0, (10, 50)))
    with pytest.raises(LoadError, match=r"\(10, 50\) for \(10, 10\)"):
        publisher.established.result()
    with pytest.raises(LoadError):
        publisher.ended.result()
