"""AMQP 0-9-1 load: publishers with confirms, consumers that acknowledge each message by itself, and calls with replies.

Frames that are sent are built before the clock starts, and those that come are read by their offsets: so one core of
load can drive one of a gateway, or of a RabbitMQ.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, cast

from tests.bench.mqtt_load import LoadError
from tests.bench.payload import telemetry
from tests.bench.stomp_load import Seen

CYCLE: Final = 1000
"""Messages that a publisher has, before it starts again with the first."""

HEADER: Final = b"AMQP\x00\x00\x09\x01"
METHOD, CONTENT_HEADER, BODY = 1, 2, 3
OVERHEAD: Final = 8
"""Of a frame, beside its payload."""
FRAME_MAX: Final = 131_072
CHANNEL_MAX: Final = 2_047

START, TUNE, OPENED, CHANNEL_OPENED = (10, 10), (10, 30), (10, 41), (20, 11)
DECLARED, CONSUMING, PREFETCHED, CONFIRMING = (50, 11), (60, 21), (60, 11), (85, 11)
DELIVER, ACK, NACK = (60, 60), (60, 80), (60, 120)

ACK_BYTES: Final = 21
"""Of a `basic.ack` and of a `basic.nack`, frame and all."""
_ACK_FRAME: Final = struct.Struct("!BHIHHQBB")
_TAG: Final = b"c"
_TAG_OFFSET: Final = 4 + 1 + len(_TAG)
"""Of the delivery tag in a `basic.deliver` to the consumer `c`."""
NUMBER_DIGITS: Final = 12
"""With which each body of the endpoint begins."""

REPLY_TO: Final = "amq.rabbitmq.reply-to"


def short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded


def long(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack("!BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, number: tuple[int, int], arguments: bytes = b"") -> bytes:
    return frame(METHOD, channel, struct.pack("!HH", *number) + arguments)


START_OK: Final = method(0, (10, 11), long(b"") + short("PLAIN") + long(b"\0guest\0guest") + short("en_US"))
TUNE_OK_AND_OPEN: Final = method(0, (10, 31), struct.pack("!HIH", CHANNEL_MAX, FRAME_MAX, 0)) + method(
    0, (10, 40), short("/") + b"\0\0"
)
OPEN_CHANNEL: Final = method(1, (20, 10), b"\0")
SELECT_CONFIRMS: Final = method(1, (85, 10), b"\0")


def declare(queue: str, *, exclusive: bool = False) -> bytes:
    """A durable queue, or one of the connection's own."""
    flags = 0b00100 if exclusive else 0b00010
    return method(1, (50, 10), b"\0\0" + short(queue) + bytes([flags]) + long(b""))


def consume(queue: str, *, no_ack: bool = False) -> bytes:
    return method(1, (60, 20), b"\0\0" + short(queue) + short("c") + bytes([0b10 if no_ack else 0]) + long(b""))


def publish(routing_key: str, body: bytes, flags: int = 0x1000, properties: bytes = b"\x02") -> bytes:
    """A persistent message to the default exchange, unless other properties are given."""
    return b"".join(
        [
            method(1, (60, 40), b"\0\0" + short("") + short(routing_key) + b"\0"),
            frame(CONTENT_HEADER, 1, struct.pack("!HHQH", 60, 0, len(body), flags) + properties),
            frame(BODY, 1, body),
        ]
    )


class AmqpConnection(asyncio.Protocol):
    """Opens channel 1 and takes the steps that it was given; then it is `established`.

    A step is what is sent, and the method that has to come for it.
    """

    def __init__(self, steps: Sequence[tuple[bytes, tuple[int, int]]]) -> None:
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._steps = deque(
            [
                (HEADER, START),
                (START_OK, TUNE),
                (TUNE_OK_AND_OPEN, OPENED),
                (OPEN_CHANNEL, CHANNEL_OPENED),
                *steps,
            ]
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.write(self._steps[0][0])

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        self._rest = b""
        if self.established.done():
            self.answered(data)
            return
        for kind, payload, rest in frames(data):
            if kind == METHOD and not self._stepped(payload):
                return
            if self.established.done():
                if rest:
                    self.answered(rest)
                return
            data = rest
        self._rest = data

    def _stepped(self, payload: bytes) -> bool:
        _, expected = self._steps.popleft()
        if struct.unpack_from("!HH", payload) != expected:
            self.fail(f"{struct.unpack_from('!HH', payload)} for {expected}: {payload[4:200]!r}")
            return False
        if self._steps:
            self.write(self._steps[0][0])
        else:
            self.established.set_result(None)
        return True

    def answered(self, data: bytes) -> None:
        """Bytes after the last step, whole frames or not; what is kept for later goes to `keep`."""
        raise NotImplementedError

    def keep(self, rest: bytes) -> None:
        """Have these bytes before the next ones."""
        self._rest = rest

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def fail(self, problem: str) -> None:
        error = LoadError(problem)
        for waiter in (self.established, self.ended):
            if not waiter.done():
                waiter.set_exception(error)
        self.close()

    def close(self) -> None:
        """Disconnect; not an error from here on."""
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.fail(f"connection lost ({exc})")


def frames(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Kind and payload of each whole frame, and what follows it."""
    at = 0
    while len(data) - at >= OVERHEAD:
        kind, _, size = struct.unpack_from("!BHI", data, at)
        end = at + size + OVERHEAD
        if len(data) < end:
            return
        yield kind, data[at + 7 : end - 1], data[end:]
        at = end


class Publisher(AmqpConnection):
    """Keeps `window` publishes to a queue without a confirm until it is told to stop. Implements `load.Windowed`."""

    def __init__(self, queue: str, payload_bytes: int, window: int) -> None:
        super().__init__([(declare(queue), DECLARED), (SELECT_CONFIRMS, CONFIRMING)])
        messages = [publish(queue, telemetry(number, payload_bytes)) for number in range(CYCLE)]
        self._size = len(messages[0])
        self._messages = memoryview(b"".join(messages * 2))
        self._window = window
        self._sent = 0
        self._low = 0
        """All up to this number are confirmed."""
        self._early: set[int] = set()
        """Confirmed by themselves, above it."""
        self._stopped = False

    @property
    def acked(self) -> int:
        return self._low + len(self._early)

    def start(self) -> None:
        self._send(self._window)

    def stop(self) -> None:
        """Send no more; `ended` is done when all confirms have come."""
        self._stopped = True
        self._end_when_quiet()

    def answered(self, data: bytes) -> None:
        whole = len(data) - len(data) % ACK_BYTES
        self.keep(data[whole:])
        before = self.acked
        for kind, _, size, class_id, method_id, tag, multiple, end in _ACK_FRAME.iter_unpack(data[:whole]):
            if (kind, size, end) != (METHOD, ACK_BYTES - OVERHEAD, 0xCE) or (class_id, method_id) != ACK:
                self.fail(f"no basic.ack: {data[:200]!r}")
                return
            if not self._confirmed(tag, multiple):
                self.fail(f"confirm of {tag}, which is not waited for")
                return
        if not self._stopped:
            self._send(self.acked - before)
        self._end_when_quiet()

    def _confirmed(self, tag: int, multiple: int) -> bool:
        if tag <= self._low or tag > self._sent or tag in self._early:
            return False
        if multiple:
            self._low = tag
            self._early = {each for each in self._early if each > tag}
        else:
            self._early.add(tag)
        while self._low + 1 in self._early:
            self._low += 1
            self._early.discard(self._low)
        return True

    def _send(self, count: int) -> None:
        if count:
            start = self._sent % CYCLE * self._size
            self._sent += count
            self.write(bytes(self._messages[start : start + count * self._size]))

    def _end_when_quiet(self) -> None:
        if self._stopped and self.acked == self._sent and not self.ended.done():
            self.ended.set_result(None)


class Consumer(AmqpConnection):
    """Consumes a queue with a prefetch, and acknowledges each message by itself, at once."""

    def __init__(self, queue: str, prefetch: int, seen: Seen, *, numbered: bool = True) -> None:
        """`numbered`: bodies begin with the number of the message, as those of the endpoint do."""
        qos = method(1, (60, 10), struct.pack("!IHB", 0, prefetch, 0))
        super().__init__([(declare(queue), DECLARED), (qos, PREFETCHED), (consume(queue), CONSUMING)])
        self._seen = seen
        self._numbered = numbered
        self._tag = 0

    def answered(self, data: bytes) -> None:
        acks = []
        at, size = 0, len(data)
        unpack = struct.unpack_from
        while size - at >= OVERHEAD:
            kind, _, length = unpack("!BHI", data, at)
            end = at + length + OVERHEAD
            if end > size:
                break
            if kind == METHOD:
                class_id, method_id, tag = unpack("!HH2xQ", data, at + 7)
                if (class_id, method_id) != DELIVER or tag != self._tag + 1:
                    self.fail(f"no basic.deliver {self._tag + 1}: {data[at : at + 200]!r}")
                    return
                self._tag = tag
            elif kind == BODY:
                self._seen.add(int(data[at + 7 : at + 7 + NUMBER_DIGITS]) if self._numbered else self._seen.messages)
                acks.append(_ACK_FRAME.pack(METHOD, 1, ACK_BYTES - OVERHEAD, *ACK, self._tag, 0, 0xCE))
            at = end
        self.keep(data[at:])
        if acks:
            self.write(b"".join(acks))


class Caller(AmqpConnection):
    """Calls a server over a queue, one call after the other, and gets the replies over direct reply-to."""

    def __init__(self, queue: str, payload_bytes: int) -> None:
        super().__init__([(consume(REPLY_TO, no_ack=True), CONSUMING)])
        properties = short("7") + short(REPLY_TO)
        self._call = publish(queue, telemetry(0, payload_bytes), 0x0600, properties)
        self._sent = 0.0
        self._stopped = False
        self.round_trips: list[float] = []
        """Seconds."""

    def start(self) -> None:
        self._sent = time.perf_counter()
        self.write(self._call)

    def stop(self) -> None:
        self._stopped = True

    def answered(self, data: bytes) -> None:
        for kind, _, rest in frames(data):
            data = rest
            if kind == BODY:
                self.round_trips.append(time.perf_counter() - self._sent)
                if self._stopped:
                    self.ended.set_result(None)
                else:
                    self.start()
        self.keep(data)


class Server(AmqpConnection):
    """Answers calls that come over a queue of its own, with what it was called with."""

    def __init__(self, queue: str) -> None:
        super().__init__([(declare(queue, exclusive=True), DECLARED), (consume(queue, no_ack=True), CONSUMING)])
        self._to = ""

    def answered(self, data: bytes) -> None:
        replies = []
        for kind, payload, rest in frames(data):
            data = rest
            if kind == CONTENT_HEADER:
                at = 14 + 1 + payload[14]  # behind the correlation id
                self._to = payload[at + 1 : at + 1 + payload[at]].decode()
            elif kind == BODY:
                replies.append(publish(self._to, payload, 0, b""))
        self.keep(data)
        if replies:
            self.write(b"".join(replies))
