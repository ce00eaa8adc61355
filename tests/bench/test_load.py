"""The load finds a gateway that does not keep its word: what it counts can be believed."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench.mqtt_load import (
    CONNACK_ACCEPTED,
    CYCLE,
    PINGRESP,
    IdleConnection,
    LoadError,
    PacedPublisher,
    Publisher,
    publish_packets,
    remaining_length,
)
from tests.bench.payload import telemetry
from tests.bench.stomp_load import Consumer, Seen, Sender


class Wire(asyncio.Transport):
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = bytes(self.written)
        self.written.clear()
        return taken


def puback(*numbers: int) -> bytes:
    return b"".join(b"\x40\x02" + number.to_bytes(2, "big") for number in numbers)


def packet_ids(data: bytes, size: int) -> list[int]:
    """The packet ids of PUBLISH packets of equal size, on the topic `t`."""
    return [int.from_bytes(data[at + 5 : at + 7], "big") for at in range(0, len(data), size)]


def started(window: int = 3) -> tuple[Publisher, Wire, int]:
    publisher, wire = Publisher("load", ["t"], 100, window), Wire()
    publisher.connection_made(wire)
    wire.take()
    publisher.data_received(CONNACK_ACCEPTED)
    publisher.start()
    return publisher, wire, publish_packets(["t"], 100)[1]


@pytest.mark.parametrize(("length", "encoded"), [(0, "00"), (127, "7f"), (128, "8001"), (16384, "808001")])
def test_remaining_length(length: int, encoded: str) -> None:
    assert remaining_length(length).hex() == encoded  # MQTT 3.1.1, table 2.4


def test_payloads_have_their_size() -> None:
    assert len(telemetry(7, 200)) == len(telemetry(99_999_999, 200)) == 200
    with pytest.raises(ValueError, match="at least"):
        telemetry(0, 10)


async def test_the_window_is_kept_full_and_acks_are_counted() -> None:
    publisher, wire, size = started(window=3)
    assert packet_ids(wire.take(), size) == [1, 2, 3]
    publisher.data_received(puback(1, 2))
    assert packet_ids(wire.take(), size) == [4, 5]
    assert publisher.acked == 2
    for byte in puback(3):
        publisher.data_received(bytes([byte]))
    assert packet_ids(wire.take(), size) == [6]
    assert publisher.acked == 3


def test_topics_take_turns() -> None:
    packets, size = publish_packets(["a/1", "a/2"], 100)
    assert [packets[at + 4 : at + 7] for at in range(0, 4 * size, size)] == [b"a/2", b"a/1", b"a/2", b"a/1"]


async def test_packet_ids_start_again() -> None:
    publisher, wire, size = started(window=CYCLE - 1)
    wire.take()
    publisher.data_received(puback(*range(1, CYCLE)))
    assert packet_ids(wire.take(), size) == [CYCLE, *range(1, CYCLE - 1)]
    publisher.data_received(puback(CYCLE, 1, 2))
    assert packet_ids(wire.take(), size) == [CYCLE - 1, CYCLE, 1]


async def test_it_ends_when_everything_is_acknowledged() -> None:
    publisher, wire, _ = started(window=2)
    wire.take()
    publisher.stop()
    publisher.data_received(puback(1))
    assert not publisher.ended.done()
    publisher.data_received(puback(2))
    assert publisher.ended.result() is None
    assert wire.take() == b""


@pytest.mark.parametrize("answer", [puback(2), puback(1, 3), b"\xd0\x00", puback(1, 2, 3, 4)])
async def test_acks_that_are_wrong(answer: bytes) -> None:
    publisher, _, _ = started(window=3)
    publisher.stop()
    publisher.data_received(answer)
    with pytest.raises(LoadError):
        publisher.ended.result()


async def test_a_refused_connection() -> None:
    publisher = Publisher("load", ["t"], 100, 3)
    publisher.connection_made(Wire())
    publisher.data_received(b"\x20\x02\x00\x05")
    for waiter in (publisher.established, publisher.ended):
        with pytest.raises(LoadError, match="refused with 20020005"):
            waiter.result()


async def test_a_lost_connection() -> None:
    publisher, _, _ = started()
    publisher.connection_lost(None)
    with pytest.raises(LoadError, match="connection lost"):
        publisher.ended.result()


async def test_paced_publishes_are_timed_each() -> None:
    publisher = PacedPublisher("paced", "t", 100)
    publisher.connection_made(Wire())
    publisher.data_received(CONNACK_ACCEPTED)
    for _ in range(3):
        publisher.publish()
    publisher.data_received(puback(1, 2))
    assert len(publisher.round_trips) == 2
    publisher.stop()
    assert not publisher.ended.done(), "one is on its way"
    publisher.data_received(puback(3))
    assert len(publisher.round_trips) == 3
    assert min(publisher.round_trips) > 0
    assert publisher.ended.done()


async def test_idle_connections_answer_their_ping() -> None:
    connection, wire = IdleConnection("idle"), Wire()
    connection.connection_made(wire)
    connection.data_received(CONNACK_ACCEPTED + PINGRESP[:1])
    assert not connection.ponged.done()
    connection.data_received(PINGRESP[1:])
    assert connection.ponged.done()
    connection.close()


def message(ack: str, number: int, *, first: bool = True) -> bytes:
    headers = [f"ack:{ack}", "content-length:20"] if first else ["content-length:20", f"ack:{ack}"]
    return "\n".join(["MESSAGE", "subscription:0", *headers, "", f"{number:012d}........\0"]).encode()


async def consumer() -> tuple[Consumer, Wire, Seen]:
    seen, wire = Seen(), Wire()
    consumer = Consumer("bench", 50, seen)
    consumer.connection_made(wire)
    consumer.data_received(b"CONNECTED\nversion:1.2\n\n\0\n")
    return consumer, wire, seen


async def test_a_consumer_subscribes_and_acknowledges_each_message() -> None:
    each, wire, seen = await consumer()
    assert wire.take().endswith(
        b"SUBSCRIBE\nid:0\ndestination:/queue/bench\nack:client-individual\nprefetch-count:50\n\n\0"
    )
    stream = message("a\\c1", 0) + message("b", 1, first=False) + b"\n\n" + message("c", 0)
    for byte in stream:
        each.data_received(bytes([byte]))
    assert wire.take() == b"ACK\nid:a\\c1\n\n\0ACK\nid:b\n\n\0ACK\nid:c\n\n\0"
    assert (seen.messages, seen.distinct) == (3, 2)


async def test_several_messages_are_acknowledged_in_one_write() -> None:
    each, wire, seen = await consumer()
    wire.take()
    each.data_received(b"".join(message(str(number), number) for number in range(100)))
    assert wire.take().count(b"ACK\n") == 100
    assert seen.distinct == 100


async def test_one_ack_for_several_messages() -> None:
    seen, wire = Seen(), Wire()
    each = Consumer("bench", 50, seen, together=3)
    each.connection_made(wire)
    each.data_received(b"CONNECTED\nversion:1.2\n\n\0")
    assert b"\nack:client\n" in wire.take()
    each.data_received(message("a", 0) + message("b", 1))
    assert wire.take() == b""
    each.data_received(b"".join(message(ack, number) for number, ack in enumerate("cdefg", 2)))
    assert wire.take() == b"ACK\nid:c\n\n\0ACK\nid:f\n\n\0"
    for _ in range(2):
        each.finish()
    assert wire.take() == b"ACK\nid:g\n\n\0"


def receipts(*numbers: int) -> bytes:
    return b"".join(b"RECEIPT\nreceipt-id:%d\n\n\0" % number for number in numbers)


async def sender(window: int) -> tuple[Sender, Wire]:
    each, wire = Sender("bench", 100, window), Wire()
    each.connection_made(wire)
    each.data_received(b"CONNECTED\nversion:1.2\n\n\0\n")
    wire.take()
    each.start()
    return each, wire


def sent(wire: Wire) -> list[int]:
    return [int(frame.partition(b"receipt:")[2].split(b"\n")[0]) for frame in wire.take().split(b"\0") if frame]


async def test_sends_in_a_window_whose_receipts_come_in_any_order() -> None:
    each, wire = await sender(3)
    assert sent(wire) == [0, 1, 2]
    for byte in receipts(2, 0):
        each.data_received(bytes([byte]))
    assert sent(wire) == [3, 4]
    each.stop()
    each.data_received(receipts(4, 3))
    assert not each.ended.done()
    each.data_received(receipts(1))
    assert each.ended.result() is None
    assert (each.acked, sent(wire)) == (5, [])


@pytest.mark.parametrize("answer", [receipts(3), receipts(1, 1), b"ERROR\nmessage:no\n\n\0"])
async def test_receipts_that_are_wrong(answer: bytes) -> None:
    each, _ = await sender(3)
    each.data_received(answer)
    with pytest.raises(LoadError, match="not the RECEIPTs"):
        each.ended.result()


@pytest.mark.parametrize("frame", [b"ERROR\nmessage:no\n\n\0", b"MESSAGE\nsubscription:0\n\n000000000000\0"])
async def test_a_consumer_that_is_refused(frame: bytes) -> None:
    each, _, _ = await consumer()
    each.data_received(frame)
    with pytest.raises(LoadError, match="not a MESSAGE"):
        each.ended.result()
