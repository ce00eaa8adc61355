"""One AMQP 0-9-1 connection, without its socket: from the protocol header to its end.

`connecting` lets the client in, `channel` has what goes on beside each other, and below it are `topology`, `publishing`
and `consuming`. Here frames and answers are handed to the part that they belong to, and time and the end are minded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from gateway.core.commands import NO_COMMANDS, Close, Command, Got
from gateway.core.delivery import Delivery
from gateway.core.outcome import Outcome, Result
from gateway.core.session import Session, SessionContext
from gateway.protocols.amqp091.channel import Channel, ChannelFrame
from gateway.protocols.amqp091.codec import Decoder
from gateway.protocols.amqp091.connecting import Handshake, SilentEnd, ToldDuringHandshake
from gateway.protocols.amqp091.errors import ConnectionException, ProtocolHeaderMismatch, ReplyCode
from gateway.protocols.amqp091.frames import (
    PROTOCOL_HEADER,
    Frame,
    Heartbeat,
    MethodFrame,
    ProtocolHeader,
    Publication,
)
from gateway.protocols.amqp091.heartbeat import Heartbeat as Clockwork
from gateway.protocols.amqp091.link import UNWAITED, Link
from gateway.protocols.amqp091.methods import (
    ChannelOpen,
    ChannelOpenOk,
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionUnblocked,
    ConnectionUpdateSecret,
    Method,
)
from gateway.protocols.amqp091.procedures import Procedure
from gateway.protocols.amqp091.publishing import NUMBER_BITS
from gateway.protocols.amqp091.refusals import connection_error
from gateway.protocols.amqp091.settings import Settings
from gateway.protocols.amqp091.writer import HEARTBEAT

MAX_PIPELINED: Final = 256 * 1024
"""Bytes that may follow a login before it is decided: what one read of the connection can bring."""

BLOCKED_AFTER: Final = 1.0
"""Seconds that a client is not read before it is told so. Shorter stops are the usual course of things."""

_AT_ONCE: Final = 0.0
"""A deadline that has passed on every clock."""

_CONNECTION: Final = 10
"""The class of methods that belong to channel 0, and to no other."""

_CONTROL: Final = object()
"""The token of commands of channel 0."""


class AmqpSession:
    """The state of one connection. Implements `core.session.Session`."""

    __slots__ = (
        "_blocked",
        "_channels",
        "_clockwork",
        "_closed",
        "_decoder",
        "_handshake",
        "_leaving",
        "_link",
        "_pipelined",
        "_procedure",
        "_serial",
        "_serials",
        "_strays",
        "_unread_since",
        "congested",
        "deadline",
        "established",
    )

    def __init__(self, settings: Settings, server: str, now: float) -> None:
        self.deadline = math.inf
        self.established = False
        self.congested = False
        self._link = Link(settings)
        self._decoder = Decoder()
        self._handshake = Handshake(self._link, server, _CONTROL)
        self._procedure: Procedure | None = None
        self._pipelined: bytearray | None = None
        """What has come while the handshake waits for the hub."""
        self._clockwork = Clockwork(0, now)
        self._channels: dict[int, Channel] = {}
        self._serial = 0
        self._serials: dict[int, Channel] = {}
        """Channels by a number that none of them shares with an earlier one: for results that come late."""
        self._strays: list[Delivery] = []
        """Came for a consumer that had ended."""
        self._leaving = False
        """The client has closed the connection; what it asked for before is still under way."""
        self._closed = False
        self._unread_since: float | None = None
        self._blocked = False
        """The client was told that it is not read."""

    # What comes in

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        if self._closed or self._leaving:
            return NO_COMMANDS
        self._clockwork.received(now)
        try:
            if self._procedure is not None and not self.established:
                self._keep_pipelined(data)
            else:
                self._decoder.feed(data)
                self._read_frames(now)
        except ConnectionException as error:
            self._fail(error)
        return self._take_commands()

    def _keep_pipelined(self, data: bytes) -> None:
        """Clients need not wait for an answer before they go on; what they send has to."""
        if self._pipelined is None:
            self._pipelined = bytearray()
        self._pipelined += data
        if len(self._pipelined) > MAX_PIPELINED:
            raise SilentEnd(f"more than {MAX_PIPELINED} bytes before the client is let in")

    def _read_frames(self, now: float) -> None:
        next_frame = self._decoder.next_frame
        channels = self._channels
        while (frame := next_frame()) is not None:
            if type(frame) is Publication:
                channel = channels.get(frame.channel)
                if channel is None or not channel.ready:
                    self._receive_on_channel(frame)
                else:
                    channel.publish(frame)
            else:
                self._receive(frame, now)
            if self._closed or self._leaving or (self._procedure is not None and not self.established):
                break

    def _receive(self, frame: Frame, now: float) -> None:
        if isinstance(frame, Heartbeat):
            return
        if isinstance(frame, ProtocolHeader):
            self._handshake.start()
        elif not self.established:
            self._receive_handshake(frame, now)
        elif frame.channel:
            self._receive_on_channel(frame)
        elif isinstance(frame, MethodFrame):
            self._receive_on_connection(frame.method)
        else:
            problem = "expected method frame, got non method frame instead"
            raise ConnectionException(ReplyCode.UNEXPECTED_FRAME, problem)

    # Channel 0

    def _receive_handshake(self, frame: Frame, now: float) -> None:
        if not isinstance(frame, MethodFrame) or frame.channel:
            raise SilentEnd(f"{type(frame).__name__} during the handshake")
        if isinstance(frame.method, ConnectionClose):
            self._leave()
            return
        procedure = self._handshake.receive(frame.method)
        if procedure is None:  # tune-ok
            self._decoder.frame_max = self._link.frame_max
            self._clockwork = Clockwork(self._handshake.heartbeat, now)
            self._set_deadline()
        else:
            self._start(procedure)

    def _receive_on_connection(self, method: Method) -> None:
        match method:
            case ConnectionClose():
                self._leave()
            case ConnectionUpdateSecret() if self._procedure is None:
                self._start(self._handshake.update_secret(method))
            case _:
                problem = "unexpected method in connection state running"
                raise connection_error(ReplyCode.CHANNEL_ERROR, problem, type(method))

    def _start(self, procedure: Procedure) -> None:
        self._procedure = procedure
        self._advance(procedure, None)

    def _advance(self, procedure: Procedure, result: Result | None) -> None:
        try:
            command = next(procedure) if result is None else procedure.send(result)
        except StopIteration:
            self._procedure = None
            if self._handshake.done:
                self.established = True
        else:
            assert command is not None
            self._link.commands.append(command)

    def _control_answered(self, result: Result, now: float) -> None:
        procedure = self._procedure
        if procedure is None:
            return
        self._advance(procedure, result)
        if self._procedure is None:
            if self._pipelined is not None:
                self._decoder.feed(bytes(self._pipelined))
                self._pipelined = None
            self._read_frames(now)

    # Channels

    def _receive_on_channel(self, frame: ChannelFrame) -> None:
        channel = self._channels.get(frame.channel)
        if isinstance(frame, MethodFrame):
            method = type(frame.method)
            if method.CLASS_ID == _CONNECTION:
                raise connection_error(ReplyCode.COMMAND_INVALID, "unimplemented method", method)
            if method is ChannelOpen:
                self._open_channel(frame.channel, channel)
                return
        if channel is None:
            raise _not_open(frame)
        channel.receive(frame)

    def _open_channel(self, number: int, channel: Channel | None) -> None:
        if channel is not None:
            if channel.closing:
                return
            raise connection_error(ReplyCode.CHANNEL_ERROR, "second 'channel.open' seen", ChannelOpen)
        limit = self._handshake.channel_max
        if len(self._channels) >= limit:
            problem = f"number of channels opened ({limit}) has reached the negotiated channel_max ({limit})"
            raise ConnectionException(ReplyCode.NOT_ALLOWED, problem)
        self._serial += 1
        channel = Channel(self._link, self, number, self._serial)
        self._channels[number] = self._serials[channel.serial] = channel
        self._link.write(number, ChannelOpenOk())

    def forget(self, channel: Channel) -> None:
        """A channel's number is free."""
        del self._channels[channel.number]
        del self._serials[channel.serial]

    # Answers of the hub

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        if self._closed:
            if isinstance(result, Got) and result.delivery is not None:
                self._strays.append(result.delivery)
            return NO_COMMANDS
        try:
            if type(token) is int:
                channel = self._serials.get(token >> NUMBER_BITS)
                if channel is None:
                    return NO_COMMANDS
                channel.published(token, result)
            elif isinstance(token, Channel):
                token.answered(result)
            elif token is _CONTROL:
                self._control_answered(result, now)
            elif token is not UNWAITED:
                raise TypeError(f"{token!r} is no token of this session")
        except ConnectionException as error:
            self._fail(error)
        if self._leaving and not self._link.waiting and not self._closed:
            self._depart()
        return self._take_commands()

    def _take_commands(self) -> Sequence[Command]:
        link = self._link
        self.congested = link.held > link.settings.max_held_bytes
        if link.later:
            self.deadline = _AT_ONCE
        return link.take_commands()

    # What goes out

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        consumer = self._link.consumers.get(tag)
        if consumer is None or self._closed or self._leaving:
            self._strays.append(delivery)
            self.deadline = _AT_ONCE
            return True
        return consumer.deliver(delivery)

    def cancelled(self, tag: str) -> Sequence[Command]:
        consumer = self._link.consumers.get(tag)
        if consumer is not None and not self._closed:
            consumer.cancelled()
        return self._take_commands()

    def data_to_send(self) -> bytes:
        link = self._link
        if link.confirming:
            self._write_confirms()
        out = link.out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def _write_confirms(self) -> None:
        confirming, self._link.confirming = self._link.confirming, []
        for each in confirming:
            each.write_confirms()

    @property
    def assembling(self) -> int:
        return self._link.unfinished

    def needs_body(self, delivery: Delivery) -> bool:  # noqa: ARG002 - each is encoded when it is delivered
        return False

    def unsettled(self) -> Sequence[Delivery]:
        held = [delivery for channel in self._channels.values() for delivery in channel.unsettled()]
        return [*held, *self._strays, *(delivery for delivery, _ in self._link.later)]

    # Time

    def tick(self, now: float) -> Sequence[Command]:
        if self._closed:
            self.deadline = math.inf
            return NO_COMMANDS
        link = self._link
        later, link.later = link.later, []
        for delivery, outcome in later:
            link.settle((delivery,), outcome)
        strays, self._strays = self._strays, []
        if strays:
            link.settle(strays, Outcome.RELEASED)
        if silence := self._clockwork.silence(now):  # spec §4.2.7: the connection ends without a handshake
            self._end(SilentEnd(f"nothing came for {silence:.1f} seconds"))
            return self._take_commands()
        if self._clockwork.due(now):
            link.out.append(HEARTBEAT)
        self._tell_blocked(now)
        self._set_deadline()
        return self._take_commands()

    def reading(self, active: bool, now: float) -> None:
        if self._closed:
            return
        self._clockwork.listen(active, now)
        if active:
            self._unread_since = None
            if self._blocked:
                self._blocked = False
                self._link.write(0, ConnectionUnblocked())
        elif self._unread_since is None and self.established and self._handshake.understands("connection.blocked"):
            self._unread_since = now
        self._set_deadline()

    def _tell_blocked(self, now: float) -> None:
        """The client may stop publishing by itself (https://www.rabbitmq.com/docs/connection-blocked)."""
        since = self._unread_since
        if since is not None and not self._blocked and now >= since + BLOCKED_AFTER:
            self._blocked = True
            self._link.write(0, ConnectionBlocked(reason="the gateway has more than it can pass on"))

    def _set_deadline(self) -> None:
        deadline = self._clockwork.deadline
        if self._unread_since is not None and not self._blocked:
            deadline = min(deadline, self._unread_since + BLOCKED_AFTER)
        self.deadline = _AT_ONCE if self._strays or self._link.later else deadline

    # The end

    def _leave(self) -> None:
        """The client closes the connection: what it has asked for before is done first, as in RabbitMQ."""
        self._leaving = True
        if not self._link.waiting:
            self._depart()

    def _depart(self) -> None:
        self._write_confirms()
        self._link.write(0, ConnectionCloseOk())
        self._close(Close("the client has closed the connection"))

    def _fail(self, error: ConnectionException) -> None:
        """Close the connection, and say why to a client that may know."""
        if isinstance(error, ProtocolHeaderMismatch):
            self._link.out.append(PROTOCOL_HEADER)  # spec §4.2.2
        elif self.established or isinstance(error, ToldDuringHandshake):
            self._say_close(error)
        self._end(error)

    def _say_close(self, error: ConnectionException) -> None:
        self._write_confirms()
        close = ConnectionClose(
            reply_code=error.reply_code,
            reply_text=error.reply_text,
            class_id=error.class_id,
            method_id=error.method_id,
        )
        self._link.write(0, close)

    def _end(self, error: ConnectionException) -> None:
        self._close(Close(str(error), error))

    def _close(self, close: Close) -> None:
        if not self._closed:
            self._closed = True
            self.deadline = math.inf
            self._link.commands.append(close)

    def taken_over(self) -> Sequence[Command]:
        """Nobody claims the name of a connection; if the gateway says so all the same, it ends."""
        return self.shutdown()

    def shutdown(self) -> Sequence[Command]:
        if self._closed:
            return NO_COMMANDS
        if self.established:
            reason = "broker forced connection closure with reason 'shutdown'"
            self._say_close(ConnectionException(ReplyCode.CONNECTION_FORCED, reason))
        self._close(Close("the gateway stops"))
        return self._take_commands()

    def connection_lost(self) -> Sequence[Command]:
        self._closed = True
        self.deadline = math.inf
        return NO_COMMANDS


def _not_open(frame: ChannelFrame) -> ConnectionException:
    problem = "expected 'channel.open'"
    if isinstance(frame, MethodFrame | Publication):
        return connection_error(ReplyCode.CHANNEL_ERROR, problem, type(frame.method))
    return ConnectionException(ReplyCode.CHANNEL_ERROR, problem)


def open_session(context: SessionContext, now: float) -> Session:
    """The factory that a listener calls for each connection."""
    settings = context.settings
    assert isinstance(settings, Settings)
    return AmqpSession(settings, context.server, now)
