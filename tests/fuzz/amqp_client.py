"""The AMQP client of a fuzzed session: keeps accounts of what it has acknowledged, and of what it was sent."""

from __future__ import annotations

import math
from typing import Final

from gateway.protocols.amqp091.codec import Decoder
from gateway.protocols.amqp091.errors import ConnectionException
from gateway.protocols.amqp091.frames import (
    PROTOCOL_HEADER,
    BodyFrame,
    Frame,
    HeaderFrame,
    Heartbeat,
    MethodFrame,
    ProtocolHeader,
)
from gateway.protocols.amqp091.methods import (
    BasicAck,
    BasicDeliver,
    BasicGet,
    BasicGetOk,
    BasicReturn,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpenOk,
    ConnectionClose,
    ConnectionCloseOk,
    Method,
)
from gateway.protocols.amqp091.writer import write_ack, write_method, write_nack
from tests.fuzz.amqp_codec import apart
from tests.fuzz.cases import Violation
from tests.fuzz.hub import Hub

LARGEST: Final = 1 << 28


class AmqpClient:
    """Implements `hub.Client`."""

    def __init__(self) -> None:
        self.accepted_by_client: float = 0
        self._requests = Decoder(LARGEST)
        self._answers = Decoder(LARGEST)
        self._answers.feed(PROTOCOL_HEADER)
        self._answers.next_frame()
        self._unreadable = False
        self._started = False
        self._over = False
        self._open: set[int] = set()
        self._tags: dict[int, int] = {}
        """Of the last delivery of each channel."""
        self._content: tuple[int, int | None] | None = None
        """The channel of content that is under way, and the bytes of its body that are missing."""
        self._deliveries: list[tuple[int, int]] = []
        self._failed: list[int] = []
        """Channels whose end the client has not confirmed."""
        self._ever_failed: set[int] = set()

    # What is sent

    def sent(self, data: bytes) -> None:
        if self._unreadable:
            return
        self._requests.feed(data)
        try:
            while (frame := self._requests.next_frame()) is not None:
                for each in apart(frame):
                    self._note(each)
        except ConnectionException:
            self._unreadable = True

    def _note(self, frame: Frame) -> None:
        self._started = self._started or isinstance(frame, ProtocolHeader)
        if isinstance(frame, MethodFrame):
            method = frame.method
            if isinstance(method, BasicAck):
                self.accepted_by_client += math.inf if method.multiple else 1
            elif isinstance(method, BasicGet):
                self.accepted_by_client += method.no_ack

    # What is received

    def received(self, data: bytes) -> None:
        if data == PROTOCOL_HEADER:
            if self._started:
                raise Violation("a protocol header for one that was right")
            self._over = True
            return
        self._answers.feed(data)
        try:
            while (frame := self._answers.next_frame()) is not None:
                for each in apart(frame):
                    self._receive(each)
        except ConnectionException as error:
            raise Violation(f"the session has written what cannot be read: {error}") from error
        if self._content is not None:
            raise Violation("the session has written a part of a message")

    def _receive(self, frame: Frame) -> None:
        if self._over:
            raise Violation(f"{frame!r:.100} after the end")
        if isinstance(frame, HeaderFrame | BodyFrame):
            self._receive_content(frame)
        elif self._content is not None:
            raise Violation(f"{frame!r:.100} where content was announced")
        elif isinstance(frame, MethodFrame):
            self._receive_method(frame.channel, frame.method)
        elif not isinstance(frame, Heartbeat):
            raise Violation(f"a server sends no {frame!r:.100}")

    def _receive_content(self, frame: HeaderFrame | BodyFrame) -> None:
        if self._content is None or self._content[0] != frame.channel:
            raise Violation("content that was not announced")
        if isinstance(frame, HeaderFrame):
            missing = frame.body_size
        else:
            assert self._content[1] is not None
            missing = self._content[1] - len(frame.payload)
        self._content = (frame.channel, missing) if missing else None

    def _receive_method(self, channel: int, method: Method) -> None:
        if not channel:
            self._over = isinstance(method, ConnectionClose | ConnectionCloseOk)
            return
        if isinstance(method, ChannelOpenOk):
            self._open.add(channel)
            self._tags[channel] = 0
        if isinstance(method, ChannelCloseOk) and channel in self._ever_failed:
            self._open.discard(channel)  # perhaps both sides have closed it at once
            return
        if channel not in self._open:
            raise Violation(f"{method!r:.100} on channel {channel}, which is not open")
        if isinstance(method, ChannelClose):
            self._open.discard(channel)
            self._failed.append(channel)
            self._ever_failed.add(channel)
        elif isinstance(method, ChannelCloseOk):
            self._open.discard(channel)
        elif isinstance(method, BasicDeliver | BasicGetOk):
            self._tags[channel] += 1
            if method.delivery_tag != self._tags[channel]:
                raise Violation(f"delivery {method.delivery_tag} where {self._tags[channel]} is next")
            self._deliveries.append((channel, method.delivery_tag))
        if isinstance(method, BasicDeliver | BasicGetOk | BasicReturn):
            self._content = channel, None

    # What it does about it

    def react(self, choice: int) -> bytes:
        """Confirm the end of channels, and acknowledge each delivery, or the last, or something twice."""
        closed, self._failed = self._failed, []
        ends = b"".join(write_method(channel, ChannelCloseOk()) for channel in closed)
        deliveries, self._deliveries = [each for each in self._deliveries if each[0] not in closed], []
        if not deliveries:
            return ends
        if choice % 8 == 6:
            deliveries = [deliveries[0]] * 2
        elif choice % 8 >= 3:
            deliveries = deliveries[-1:]
        write = write_nack if choice % 8 == 7 else write_ack
        return ends + b"".join(write(channel, tag, choice % 16 >= 12) for channel, tag in deliveries)

    # What has to be so

    def check(self, hub: Hub) -> None:
        """What is received is checked when it is."""

    def check_settled(self, hub: Hub) -> None:
        if self._unreadable or self._over:
            raise Violation("the session lives on after what cannot be read, or after the end")
