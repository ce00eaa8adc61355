"""The codecs beside those of other programs: `python -m tests.bench.codecs`; one line of JSON to standard output.

Frames come in one piece of as many as a busy connection reads at once, and leave one by one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import orjson
import stomp.utils
from amqtt.adapters import BufferReader
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.publish import PublishPacket

from gateway.core.backend import Received
from gateway.core.delivery import Delivery
from gateway.core.message import Address, Message
from gateway.core.outcome import Outcome
from gateway.protocols.mqtt.codec import Decoder, encode
from gateway.protocols.mqtt.packets import Level, Puback, Publish
from gateway.protocols.mqtt.writer import PUBLISH, QOS_1, write_puback, write_publish
from gateway.protocols.stomp.codec import NUL, FrameLimits, FrameParser
from gateway.protocols.stomp.dialects import DIALECTS
from gateway.protocols.stomp.subscription import AckMode, Subscription
from gateway.protocols.stomp.versions import V1_2
from tests.bench.payload import telemetry

READ: Final = 100
"""Frames in one read."""
PAYLOAD_BYTES: Final = 200
TOPIC: Final = "sensors/plant-1/device-17/telemetry"
LARGEST: Final = 1 << 20
LIMITS: Final = FrameLimits(200, 10_240, 65_536, LARGEST)

Turn: TypeAlias = Callable[[], int]
"""Handles `READ` frames, and says how many it were."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that codecs do, ours and theirs."""

    title: str
    ours: Callable[[], Turn]
    theirs: Callable[[], Turn]
    library: str


def finished(coroutine: Coroutine[object, object, T]) -> T:
    """The result of a coroutine that never waits, without the price of an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits for something")


PAYLOAD: Final = telemetry(0, PAYLOAD_BYTES)
PUBLISHES: Final = b"".join(
    encode(Publish(TOPIC, PAYLOAD, 1, packet_id), Level.V3_1_1) for packet_id in range(1, READ + 1)
)
PUBACKS: Final = b"".join(encode(Puback(packet_id), Level.V3_1_1) for packet_id in range(1, READ + 1))
SEND: Final = (
    b"SEND\ndestination:/queue/orders\ncontent-type:application/json\nreceipt:message-12345\n"
    b"content-length:%d\n\n%s\0" % (PAYLOAD_BYTES, PAYLOAD)
)


def decode_mqtt(wire: bytes) -> Callable[[], Turn]:
    def prepare() -> Turn:
        decoder = Decoder(LARGEST, Level.V3_1_1)

        def turn() -> int:
            decoder.feed(wire)
            count = 0
            while decoder.next_packet() is not None:
                count += 1
            return count

        return turn

    return prepare


def decode_amqtt(wire: bytes, packet: type[PublishPacket | PubackPacket]) -> Callable[[], Turn]:
    async def read() -> int:
        reader = BufferReader(wire)
        count = 0
        while (header := await MQTTFixedHeader.from_stream(reader)) is not None:
            await packet.from_stream(reader, fixed_header=header)
            count += 1
        return count

    return lambda: lambda: finished(read())


def encode_publish() -> Turn:
    """As it is sent to a subscriber: the topic was written when it was first met."""
    topic = TOPIC.encode()
    field = len(topic).to_bytes(2, "big") + topic
    numbers = range(1, READ + 1)
    return lambda: len([write_publish(PUBLISH | QOS_1, field, packet_id, b"", PAYLOAD) for packet_id in numbers])


def encode_publish_amqtt() -> Turn:
    numbers = range(1, READ + 1)
    return lambda: len([PublishPacket.build(TOPIC, PAYLOAD, each, False, 1, False).to_bytes() for each in numbers])


def encode_puback() -> Turn:
    numbers = range(1, READ + 1)
    return lambda: len([write_puback(packet_id) for packet_id in numbers])


def encode_puback_amqtt() -> Turn:
    numbers = range(1, READ + 1)
    return lambda: len([PubackPacket.build(packet_id).to_bytes() for packet_id in numbers])


def decode_send() -> Turn:
    wire = SEND * READ
    parser = FrameParser(LIMITS)

    def turn() -> int:
        parser.receive_data(wire)
        count = 0
        while parser.next_frame() is not None:
            count += 1
        return count

    return turn


def decode_send_stomp_py() -> Turn:
    """Of frames that were cut apart already, which its transport does."""
    frames = [SEND.removesuffix(b"\0")] * READ
    return lambda: len([stomp.utils.parse_frame(frame) for frame in frames])


class _Nowhere:
    name = "orders"

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Nobody delivered it."""


def encode_message() -> Turn:
    """As it is sent to a subscriber, auto-acknowledged so that nothing is kept."""
    subscription = Subscription("0", "T_1@@1", "orders", AckMode.AUTO, DIALECTS["rabbitmq"], V1_2)
    delivery = Delivery(Received(Message(Address("", "orders"), PAYLOAD), "receipt"), _Nowhere())
    out: list[bytes] = []

    def turn() -> int:
        for _ in range(READ):
            subscription.deliver(delivery, out)
        written = b"".join(out)
        out.clear()
        return written.count(NUL)

    return turn


def encode_message_stomp_py() -> Turn:
    headers = {
        "subscription": "0",
        "destination": "/queue/orders",
        "message-id": "T_1@@1@@1",
        "redelivered": "false",
        "content-length": str(PAYLOAD_BYTES),
    }
    text = PAYLOAD.decode()

    def write() -> bytes:
        return b"".join(stomp.utils.convert_frame(stomp.utils.Frame("MESSAGE", dict(headers), text)))

    return lambda: len([write() for _ in range(READ)])


OPERATIONS: Final[Mapping[str, Operation]] = {
    "mqtt_decode_publish": Operation(
        "MQTT 3.1.1: read a PUBLISH of QoS 1", decode_mqtt(PUBLISHES), decode_amqtt(PUBLISHES, PublishPacket), "amqtt"
    ),
    "mqtt_encode_publish": Operation(
        "MQTT 3.1.1: write a PUBLISH of QoS 1, its topic encoded before", encode_publish, encode_publish_amqtt, "amqtt"
    ),
    "mqtt_decode_puback": Operation(
        "MQTT 3.1.1: read a PUBACK", decode_mqtt(PUBACKS), decode_amqtt(PUBACKS, PubackPacket), "amqtt"
    ),
    "mqtt_encode_puback": Operation("MQTT 3.1.1: write a PUBACK", encode_puback, encode_puback_amqtt, "amqtt"),
    "stomp_decode_send": Operation("STOMP 1.2: read a SEND", decode_send, decode_send_stomp_py, "stomp.py"),
    "stomp_encode_message": Operation(
        "STOMP 1.2: write a MESSAGE", encode_message, encode_message_stomp_py, "stomp.py"
    ),
}


def fastest(turns: Sequence[Turn], seconds: float) -> list[float]:
    """Microseconds a frame of each, in its fastest turn; they take turns, so that a slow moment meets them all.

    The fastest, because noise only ever adds.
    """
    best = [float("inf")] * len(turns)
    end = time.perf_counter() + seconds
    while True:
        for number, turn in enumerate(turns):
            start = time.perf_counter_ns()
            turn()
            best[number] = min(best[number], (time.perf_counter_ns() - start) / READ / 1000)
        if time.perf_counter() >= end:
            return best


def measure(seconds: float) -> dict[str, float]:
    """µs by operation, for ours (`…_us`) and theirs (`…_theirs_us`). `seconds`: for all of them."""
    figures: dict[str, float] = {}
    for name, operation in OPERATIONS.items():
        ours, theirs = fastest([operation.ours(), operation.theirs()], seconds / len(OPERATIONS))
        figures |= {f"{name}_us": ours, f"{name}_theirs_us": theirs}
    return figures


class Options(argparse.Namespace):
    duration: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the codecs.")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds")
    figures = measure(parser.parse_args(namespace=Options()).duration)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


if __name__ == "__main__":
    main()
