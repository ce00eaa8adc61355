"""The AMQP 0-9-1 codec as a target: methods, contents and tables, damaged and cut."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Final

from gateway.core.message import Address, HeaderValue, LongString, Properties
from gateway.protocols.amqp091.codec import Decoder
from gateway.protocols.amqp091.content import write_content
from gateway.protocols.amqp091.errors import ConnectionException, ProtocolHeaderMismatch
from gateway.protocols.amqp091.frames import (
    MIN_FRAME_MAX,
    PROTOCOL_HEADER,
    BodyFrame,
    Frame,
    FrameType,
    HeaderFrame,
    Heartbeat,
    MethodFrame,
    Publication,
)
from gateway.protocols.amqp091.methods import (
    BasicConsume,
    BasicPublish,
    ConnectionStartOk,
    Method,
    QueueBind,
    QueueDeclare,
)
from gateway.protocols.amqp091.writer import (
    HEARTBEAT,
    write_ack,
    write_address,
    write_deliver,
    write_frame,
    write_method,
)
from tests.fuzz.cases import Case, Violation
from tests.fuzz.codecs import NO_LIMIT, OBJECTS, Deadline, feeds, pieces
from tests.fuzz.footprint import footprint
from tests.fuzz.mutations import mutate

SCALARS: Final[Sequence[HeaderValue]] = (0, -1, 2**40, True, None, 1.5, "text", "", b"\xff", LongString(b"\xff"))


class FrameMaker:
    """What a client may send, and what only a server does: the codec reads both."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def frames(self) -> bytes:
        return self._rng.choice((self._publish, self._publish, self._method, self._deliver, self._small))()

    def _channel(self) -> int:
        return self._rng.choice((0, 1, 1, 1, 2, 65_535))

    def _table(self, depth: int = 0) -> dict[str, HeaderValue]:
        table: dict[str, HeaderValue] = {}
        for _ in range(self._rng.randrange(4)):
            inner = [self._table(depth + 1), [self._rng.choice(SCALARS)]] if depth < 3 else []
            table[self._rng.choice("abcd")] = self._rng.choice((*SCALARS, *inner))
        return table

    def _body(self) -> bytes:
        return self._rng.choice((b"", b"hello", b"\xce" * 9, b"x" * 5000))

    def _properties(self) -> Properties:
        choice = self._rng.choice
        return Properties(delivery_mode=choice((None, 2)), message_id=choice((None, "m")), expiration=choice((None, 5)))

    def _publish(self) -> bytes:
        channel, body = self._channel(), self._body()
        content = write_content(self._properties(), self._table())
        method = BasicPublish(exchange=self._rng.choice(("", "amq.topic")), routing_key="a.b")
        header = struct.pack(">HHQ", 60, 0, len(body)) + content
        size = self._rng.choice((3, 4088, 100_000)) if len(body) < 100 else 4088
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        return b"".join(
            (
                write_method(channel, method),
                write_frame(FrameType.HEADER, channel, header),
                *(write_frame(FrameType.BODY, channel, part) for part in parts),
            )
        )

    def _method(self) -> bytes:
        methods: tuple[Method, ...] = (
            QueueDeclare(queue="q", durable=True, arguments=self._table()),
            QueueBind(queue="q", exchange="x", arguments=self._table()),
            BasicConsume(queue="q", consumer_tag="c", no_ack=True, arguments=self._table()),
            ConnectionStartOk(client_properties=self._table(), response=b"\0guest\0guest"),
        )
        return write_method(self._channel(), self._rng.choice(methods))

    def _deliver(self) -> bytes:
        address = write_address(Address("x", "k"))
        content = write_content(self._properties(), self._table())
        return write_deliver(self._channel(), b"\x01c", 7, False, address, content, self._body(), 4096)

    def _small(self) -> bytes:
        return self._rng.choice((HEARTBEAT, write_ack(self._channel(), self._rng.randrange(2**64), True)))


class AmqpCodec:
    """`Decoder`, and what writes the same again."""

    name = "amqp-codec"

    def generate(self, rng: random.Random) -> Case:
        maker = FrameMaker(rng)
        share = rng.choice((0.0, 0.3, 1.0))
        wires = [maker.frames() for _ in range(rng.randint(1, 6))]
        wires = [mutate(rng, wire, maker.frames()) if rng.random() < share else wire for wire in wires]
        header = PROTOCOL_HEADER if rng.random() < 0.95 else mutate(rng, PROTOCOL_HEADER, HEARTBEAT)
        options = {"frame_max": rng.choice((MIN_FRAME_MAX, 131_072))}
        return Case(target=self.name, options=options, steps=feeds(rng, [header, *wires]))

    def run(self, case: Case) -> None:
        frame_max = case.options["frame_max"]
        with Deadline():
            whole, problem = self._read([b"".join(pieces(case))], frame_max)
            cut_up, their_problem = self._read(pieces(case), frame_max)
        # A method may be given before the content that breaks the connection, or not.
        if problem != their_problem or whole != cut_up[: len(whole)] or len(cut_up) - len(whole) > bool(problem):
            raise Violation(f"in pieces {cut_up!r:.300} {their_problem}, at once {whole!r:.300} {problem}")

    def _read(self, data: Sequence[bytes], frame_max: int) -> tuple[list[str], str]:
        """The frames, as they come apart, and the error that came instead of the next."""
        decoder = Decoder(frame_max)
        frames: list[str] = []
        for piece in data:
            decoder.feed(piece)
            try:
                while (frame := decoder.next_frame()) is not None:
                    self._write_and_read(frame)
                    frames += map(repr, apart(frame))
            except ProtocolHeaderMismatch:
                return frames, "not AMQP"  # its text says how much had come
            except ConnectionException as error:
                return frames, error.reply_text
        kept = footprint(decoder)
        if kept > OBJECTS + min(frame_max, 2 * sum(map(len, data))):
            raise Violation(f"{kept} bytes are kept of at most {frame_max}")
        return frames, ""

    def _write_and_read(self, frame: Frame) -> None:
        decoder = Decoder(NO_LIMIT)
        decoder.feed(PROTOCOL_HEADER + b"".join(map(_written, apart(frame))))
        decoder.next_frame()
        again = decoder.next_frame()
        if again is not None and repr(apart(again)) != repr(apart(frame)):
            raise Violation(f"{frame!r:.300} became {again!r:.300}")


def apart(frame: Frame) -> list[Frame]:
    """As it is read when it does not arrive at once, and without an expiration that nobody can keep."""
    if isinstance(frame, Publication):
        body: list[Frame] = [BodyFrame(frame.channel, frame.body)] if frame.body else []
        content = HeaderFrame(frame.channel, len(frame.body), frame.content)
        return [MethodFrame(frame.channel, frame.method), *apart(content), *body]
    if isinstance(frame, HeaderFrame):
        return [HeaderFrame(frame.channel, frame.body_size, frame.content._replace(expiration=None))]
    return [frame]


def _written(frame: Frame) -> bytes:
    match frame:
        case MethodFrame(channel, method):
            return write_method(channel, method)
        case HeaderFrame(channel, body_size, content):
            payload = struct.pack(">HHQ", 60, 0, body_size) + write_content(content.properties, content.headers)
            return write_frame(FrameType.HEADER, channel, payload)
        case BodyFrame(channel, payload):
            return write_frame(FrameType.BODY, channel, payload)
    return HEARTBEAT if isinstance(frame, Heartbeat) else b""
