"""One STOMP connection, without its socket: frames in, commands for the hub and frames out.

https://stomp.github.io/stomp-specification-1.2.html
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, TypeAlias

from gateway.core.backend import QueueSpec
from gateway.core.errors import MqliftError, NotAuthorized, Refused
from gateway.core.message import Origin
from gateway.core.outcome import Outcome, Result
from gateway.core.session import (
    NO_COMMANDS,
    Authenticate,
    Bind,
    Cancel,
    Close,
    Command,
    Consume,
    DeclareQueue,
    Delivery,
    Publish,
    SessionContext,
    Settle,
    Unbind,
)
from gateway.protocols.stomp.codec import Frame, FrameLimits, FrameParser, encode_frame
from gateway.protocols.stomp.convert import to_message
from gateway.protocols.stomp.dialects import DIALECTS, Destination, Kind
from gateway.protocols.stomp.errors import (
    BadCommand,
    BadHeader,
    FrameTooLarge,
    MalformedFrame,
    Silence,
    StompError,
    UnknownMessage,
    shown,
)
from gateway.protocols.stomp.headers import parse_number, required
from gateway.protocols.stomp.heartbeat import NEVER, NO_HEART_BEATS, HeartBeat
from gateway.protocols.stomp.ledger import NOTHING
from gateway.protocols.stomp.login import PROTOCOL, read_connect
from gateway.protocols.stomp.settings import Settings
from gateway.protocols.stomp.subscription import ACK_SEPARATOR, Subscription, ack_mode
from gateway.protocols.stomp.versions import UNESCAPED

MAX_HELD_BEFORE_LOGIN = 256 * 1024
"""Bytes that may follow a CONNECT before it was answered: what one read of the connection can bring."""

MAX_KNOWN_DESTINATIONS = 1024
"""Destinations of SENDs that are remembered. Over it all are forgotten: declaring a queue again does no harm."""

_SESSION_ID_BYTES = 9
"""Random bytes of a session's id: enough that no client meets an id twice, and short in each message id."""

_MAX_PREFETCH_COUNT = 2**31 - 1
"""The largest `prefetch-count` that is understood; settings decide what becomes of it."""

_CHECKED_ON_SEND = frozenset({"transaction", "message-id", "user-id"})
_NO_TRANSACTIONS = "transactions are not available"
_TITLES = {"SUBSCRIBE": "Subscription failed", "UNSUBSCRIBE": "Unsubscription failed"}

_DURABLE = QueueSpec(durable=True)
# Auto-delete: the queue of a live subscription ends with its only consumer, not only with the connection.
_LIVE = QueueSpec(durable=False, exclusive=True, auto_delete=True)

_LOGIN: Final = object()
"""The token of the Authenticate command."""
_NO_RECEIPT: Final = object()
"""The token of a publish without a receipt; with one, the receipt's id is the token."""


class _Step:
    """The token of a control command: one of those that a frame needs. The last one answers the frame."""

    __slots__ = ("last", "receipt", "title")

    def __init__(self, title: str, receipt: str | None, *, last: bool) -> None:
        self.title = title
        self.receipt = receipt
        self.last = last


def _last_step(frame: Frame) -> _Step:
    return _Step(_TITLES[frame.command], frame.headers.get("receipt"), last=True)


def _refuse_transaction(headers: Mapping[str, str]) -> None:
    if "transaction" in headers:
        raise Refused(_NO_TRANSACTIONS)


class StompSession:
    """The state of one connection. Implements `gateway.core.session.Session`."""

    __slots__ = (
        "_active",
        "_closed",
        "_commands",
        "_destinations",
        "_dialect",
        "_farewell",
        "_handlers",
        "_heart_beat",
        "_intervals",
        "_origin",
        "_out",
        "_parser",
        "_parsing",
        "_received_at",
        "_returned",
        "_server",
        "_session_id",
        "_settings",
        "_subscribed",
        "_subscriptions",
        "_unanswered",
        "congested",
        "deadline",
        "established",
    )

    def __init__(self, context: SessionContext, settings: Settings, now: float) -> None:
        self.deadline = NEVER
        self.established = False
        self.congested = False
        self._settings = settings
        self._server = context.server
        self._dialect = DIALECTS[settings.dialect]
        self._parser = FrameParser(
            FrameLimits(settings.max_headers, settings.max_header_line, settings.max_header_section, settings.max_body)
        )
        self._parsing = True  # False while a login is decided, and for good once the session is ending
        self._closed = False
        self._farewell: tuple[bytes, Close] | None = None  # what to end with, once everything is answered
        self._handlers = self._BEFORE_LOGIN
        self._commands: list[Command] = []
        self._out: list[bytes] = []
        self._unanswered = 0
        self._session_id = secrets.token_urlsafe(_SESSION_ID_BYTES)
        self._origin = Origin(PROTOCOL)
        self._received_at = now
        self._intervals = NO_HEART_BEATS
        self._heart_beat: HeartBeat | None = None
        self._destinations: dict[str, Destination] = {}
        self._subscribed = 0  # subscriptions ever made; each has its own tag
        self._subscriptions: dict[str, Subscription] = {}  # by tag, also ended ones that hold deliveries
        self._active: dict[str, Subscription] = {}  # by the client's id
        self._returned: list[Delivery] = []  # came for a subscription that had ended

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        self._received_at = now
        if self._parsing:
            self._parser.receive_data(data)
            self._parse()
        elif not self._closed and self._farewell is None:
            self._hold_until_login(data)
        return self._take_commands()

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        self._unanswered -= 1
        if self._closed:
            return NO_COMMANDS
        if isinstance(token, str):
            if result.outcome is Outcome.ACCEPTED:
                self._write_receipt(token)
            else:
                self._publish_failed(token, result)
        elif token is _NO_RECEIPT:
            if result.outcome is not Outcome.ACCEPTED:
                self._publish_failed(None, result)
        elif isinstance(token, _Step):
            self._step_done(token, result)
        else:
            self._login_decided(result, now)
        if self._farewell is not None and not self._unanswered and not self._closed:
            self._depart(self._farewell)
        return self._take_commands()

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        subscription = self._subscriptions.get(tag)
        if subscription is None or not subscription.active:
            self._returned.append(delivery)
            return True
        return subscription.deliver(delivery, self._out)

    def tick(self, now: float) -> Sequence[Command]:
        heart_beat = self._heart_beat
        if heart_beat is None or self._closed:
            self.deadline = NEVER
            return NO_COMMANDS
        if heart_beat.peer_is_silent(self._received_at, now):
            self._fail(Silence(f"nothing came for {now - self._received_at:.1f} seconds"))
            return self._take_commands()
        if heart_beat.beat_due(now):
            self._out.append(b"\n")
        self.deadline = heart_beat.deadline(self._received_at)
        return NO_COMMANDS

    def reading(self, active: bool, now: float) -> None:
        if self._heart_beat is None or self._closed:
            return
        self._received_at = now
        self._heart_beat.listen(active and self._farewell is None)
        self.deadline = self._heart_beat.deadline(now)

    def data_to_send(self) -> bytes:
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def unsettled(self) -> Sequence[Delivery]:
        held = [delivery for subscription in self._subscriptions.values() for delivery in subscription.held()]
        return held + self._returned

    def cancelled(self, tag: str) -> Sequence[Command]:  # noqa: ARG002 - the port's
        return NO_COMMANDS

    def taken_over(self) -> Sequence[Command]:
        if not self._closed:
            self._fail(Refused("another connection has taken over"))
        return self._take_commands()

    def shutdown(self) -> Sequence[Command]:
        if not self._closed and self._farewell is None:
            error = self._error_frame("Shutdown", "the gateway stops; connect again", None)
            self._leave(error, Close("the gateway stops"))
        return self._take_commands()

    def connection_lost(self) -> Sequence[Command]:
        self._closed = True
        self._parsing = False
        self.deadline = NEVER
        return NO_COMMANDS

    # Frames

    def _parse(self) -> None:
        parser = self._parser
        while self._parsing:
            try:
                frame = parser.next_frame()
            except StompError as error:
                self._fail(error)
                return
            if frame is None:
                return
            try:
                self._handle(frame)
            except (StompError, Refused) as error:
                self._fail(error, receipt=frame.headers.get("receipt"))

    def _handle(self, frame: Frame) -> None:
        handler = self._handlers.get(frame.command)
        if handler is None:
            raise self._bad_command(frame.command)
        if frame.body and frame.command != "SEND":
            # [STOMP 1.2, STOMP Frames] "Only the SEND, MESSAGE, and ERROR frames MAY have a body."
            raise MalformedFrame(f"{frame.command} must not have a body")
        handler(self, frame)

    def _bad_command(self, command: str) -> StompError:
        if command not in self._ESTABLISHED and command not in self._BEFORE_LOGIN:
            return BadCommand(f"{shown(command)} is no command of a client")
        return BadCommand("already connected" if self.established else f"{command} before CONNECT")

    def _connect(self, frame: Frame) -> None:
        request = read_connect(frame, self._settings.heart_beat_floor_ms)
        self._parser.version = request.version
        self._intervals = request.intervals
        credentials = request.credentials
        self._origin = Origin(PROTOCOL, credentials.client_id, credentials.username or "")
        # What follows is not looked at before the peer is let in.
        self._parsing = False
        self._ask(Authenticate(credentials, _LOGIN))

    def _send(self, frame: Frame) -> None:
        headers = frame.headers
        if not _CHECKED_ON_SEND.isdisjoint(headers):
            self._check_send(headers)
        known = self._destinations.get(headers.get("destination", ""))
        destination = known or self._dialect.parse(required(frame, "destination"))
        message = to_message(headers, destination.address, frame.body, self._origin)
        if known is None:
            self._open_destination(destination, frame)
        if self._unanswered >= self._settings.max_unanswered:
            raise Refused(f"more than {self._settings.max_unanswered} messages wait for a result")
        self._ask(Publish(message, headers.get("receipt", _NO_RECEIPT)))

    def _check_send(self, headers: Mapping[str, str]) -> None:
        _refuse_transaction(headers)
        if "message-id" in headers:  # as RabbitMQ: the server gives it; a client's own is amqp-message-id
            raise BadHeader("message-id is not allowed in a SEND")
        if headers.get("user-id", self._origin.user) != self._origin.user:
            raise BadHeader("user-id is not the name that this connection has logged in with")

    def _open_destination(self, destination: Destination, frame: Frame) -> None:
        """The first SEND to a destination sees to it that a queue exists."""
        if destination.kind is Kind.QUEUE:
            self._dialect.check_send(destination, frame.headers)
            step = _Step("Queue not available", frame.headers.get("receipt"), last=False)
            self._ask(DeclareQueue(destination.address.routing_key, _DURABLE, step))
        if len(self._destinations) >= MAX_KNOWN_DESTINATIONS:
            self._destinations.clear()
        self._destinations[frame.headers["destination"]] = destination

    def _subscribe(self, frame: Frame) -> None:
        subscription_id = required(frame, "id")
        if subscription_id in self._active:
            raise BadHeader(f"id {shown(subscription_id)} is subscribed already")
        if len(self._subscriptions) >= self._settings.max_subscriptions:
            raise Refused(f"more than {self._settings.max_subscriptions} subscriptions")
        destination = self._dialect.parse(required(frame, "destination"))
        self._dialect.check_subscribe(destination, frame.headers)
        live = destination.kind is Kind.EXCHANGE
        number = self._subscribed = self._subscribed + 1
        subscription = Subscription(
            subscription_id,
            f"{self._session_id}{ACK_SEPARATOR}{number}",
            f"stomp-subscription-{self._session_id}-{number}" if live else destination.address.routing_key,
            ack_mode(frame),
            self._dialect,
            self._parser.version,
        )
        prefetch = self._prefetch(frame)
        self._subscriptions[subscription.tag] = self._active[subscription_id] = subscription
        self._ask_for_queue(subscription, destination, frame)
        self._ask(Consume(subscription.tag, subscription.queue, prefetch, _last_step(frame)))

    def _ask_for_queue(self, subscription: Subscription, destination: Destination, frame: Frame) -> None:
        step = _Step(_TITLES[frame.command], frame.headers.get("receipt"), last=False)
        if destination.kind is Kind.QUEUE:
            self._ask(DeclareQueue(subscription.queue, _DURABLE, step))
        elif destination.kind is Kind.EXCHANGE:
            subscription.binding = binding = destination.address
            self._ask(DeclareQueue(subscription.queue, _LIVE, step))
            self._ask(Bind(subscription.queue, binding.exchange, binding.routing_key, step))

    def _prefetch(self, frame: Frame) -> int:
        text = frame.headers.get("prefetch-count")
        if text is None:
            return self._settings.default_prefetch
        most = self._settings.max_prefetch
        # AMQP's prefetch-count, where 0 is unlimited.
        return min(parse_number("prefetch-count", text, _MAX_PREFETCH_COUNT), most) or most

    def _unsubscribe(self, frame: Frame) -> None:
        subscription_id = required(frame, "id")
        subscription = self._active.pop(subscription_id, None)
        if subscription is None:
            raise BadHeader(f"id {shown(subscription_id)} is not subscribed")
        subscription.active = False
        self._forget_if_settled(subscription)
        binding = subscription.binding
        if binding is not None:
            step = _Step(_TITLES[frame.command], frame.headers.get("receipt"), last=False)
            self._ask(Unbind(subscription.queue, binding.exchange, binding.routing_key, step))
        self._ask(Cancel(subscription.tag, _last_step(frame)))

    def _ack(self, frame: Frame) -> None:
        self._settle(frame, Outcome.ACCEPTED)

    def _nack(self, frame: Frame) -> None:
        # RabbitMQ's extension: requeue:false is for good (dead-lettered where the queue has a dead-letter target).
        self._settle(frame, Outcome.REJECTED if frame.headers.get("requeue") == "false" else Outcome.RELEASED)

    def _settle(self, frame: Frame, outcome: Outcome) -> None:
        headers = frame.headers
        _refuse_transaction(headers)
        ack_id = headers.get("id") or required(frame, "id")
        tag, _, number = ack_id.rpartition(ACK_SEPARATOR)
        subscription = self._subscriptions.get(tag)
        deliveries = NOTHING if subscription is None else subscription.settle(number)
        if subscription is None or not deliveries:
            raise UnknownMessage(f"{frame.command} of {shown(ack_id)}: not held by this connection")
        if not subscription.active:
            self._forget_if_settled(subscription)
        self._command_settle(deliveries, outcome)
        receipt = headers.get("receipt")
        if receipt is not None:
            self._write_receipt(receipt)

    def _command_settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Consecutive ACKs of one read become one command."""
        commands = self._commands
        last = commands[-1] if commands else None
        if isinstance(last, Settle) and last.outcome is outcome and isinstance(last.deliveries, list):
            last.deliveries.extend(deliveries)
        else:
            commands.append(Settle(list(deliveries), outcome))

    def _forget_if_settled(self, subscription: Subscription) -> None:
        if not subscription.held():
            del self._subscriptions[subscription.tag]

    def _transaction(self, frame: Frame) -> None:
        raise Refused(f"{frame.command}: {_NO_TRANSACTIONS}")

    def _disconnect(self, frame: Frame) -> None:
        receipt = frame.headers.get("receipt")
        # [STOMP 1.2, DISCONNECT] its receipt says that all previous frames have been received; here also processed.
        self._leave(b"" if receipt is None else self._receipt_frame(receipt), Close("disconnected"))

    def _ask(self, command: Command) -> None:
        """Add a command that will be answered."""
        self._unanswered += 1
        self._commands.append(command)

    def _take_commands(self) -> Sequence[Command]:
        commands = self._commands
        if not commands:
            return NO_COMMANDS
        self._commands = []
        return commands

    def _hold_until_login(self, data: bytes) -> None:
        self._parser.receive_data(data)
        if self._parser.buffered > MAX_HELD_BEFORE_LOGIN:
            self._fail(FrameTooLarge(f"over {MAX_HELD_BEFORE_LOGIN} bytes before CONNECTED"))

    def _write_receipt(self, receipt: str) -> None:
        self._out.append(self._receipt_frame(receipt))

    def _receipt_frame(self, receipt: str) -> bytes:
        return f"RECEIPT\nreceipt-id:{self._parser.version.escape(receipt)}\n\n\0".encode()

    def _error_frame(self, title: str, detail: str, receipt: str | None, more: Sequence[tuple[str, str]] = ()) -> bytes:
        headers = [("message", title), ("content-type", "text/plain"), *more]
        if receipt is not None:
            headers.append(("receipt-id", receipt))
        return encode_frame("ERROR", headers, self._parser.version, detail.encode(errors="replace"))

    # Results

    def _login_decided(self, result: Result, now: float) -> None:
        if self._farewell is not None:
            return
        if result.outcome is not Outcome.ACCEPTED:
            error = result.error or NotAuthorized("access refused")
            self._end_with_error(error, "Bad CONNECT", "access refused", None)
            return
        self.established = True
        self._handlers = self._ESTABLISHED
        headers = (
            ("version", self._parser.version.name),
            ("heart-beat", str(self._intervals)),
            ("session", self._session_id),
            ("server", self._server),
        )
        self._out.append(encode_frame("CONNECTED", headers, UNESCAPED))
        if any(self._intervals):
            self._heart_beat = HeartBeat(self._intervals, self._settings.heart_beat_tolerance, now)
            self._received_at = now
            self.deadline = self._heart_beat.deadline(now)
        self._parsing = True
        self._parse()

    def _step_done(self, step: _Step, result: Result) -> None:
        if self._returned:
            self._command_settle(self._returned, Outcome.RELEASED)
            self._returned = []
        if result.outcome is not Outcome.ACCEPTED:
            error = result.error or Refused("no reason was given")
            self._end_with_error(error, step.title, str(error), step.receipt)
        elif step.last and step.receipt is not None:
            self._write_receipt(step.receipt)

    def _publish_failed(self, receipt: str | None, result: Result) -> None:
        error = result.error or Refused("no reason was given")
        title = "Message rejected" if result.outcome is Outcome.REJECTED else "Message not accepted"
        self._end_with_error(error, title, str(error), receipt)

    # Endings

    def _fail(self, error: MqliftError, receipt: str | None = None) -> None:
        title = error.title if isinstance(error, StompError) else "Refused"
        self._end_with_error(error, title, str(error), receipt)

    def _end_with_error(self, error: MqliftError, title: str, detail: str, receipt: str | None) -> None:
        # [STOMP 1.2, ERROR] "it MUST then close the connection just after sending the ERROR frame"
        headers = error.headers if isinstance(error, StompError) else ()
        frame = self._error_frame(title, detail, receipt, headers)
        self._stop_working()
        self._depart((frame, Close(f"{title}: {detail}", error)))

    def _leave(self, frame: bytes, close: Close) -> None:
        """Take no more frames, and end once all earlier ones have been answered."""
        self._stop_working()
        if self._heart_beat is not None:
            self._heart_beat.listen(active=False)
            self.deadline = self._heart_beat.deadline(self._received_at)
        self._farewell = (frame, close)
        if not self._unanswered:
            self._depart(self._farewell)

    def _stop_working(self) -> None:
        self._parsing = False
        for subscription in self._active.values():
            subscription.active = False

    def _depart(self, farewell: tuple[bytes, Close]) -> None:
        frame, close = farewell
        self._out.append(frame)
        self._commands.append(close)
        self._closed = True
        self.deadline = NEVER

    # What a client may send, and when.

    _BEFORE_LOGIN: ClassVar[_Handlers] = {"CONNECT": _connect, "STOMP": _connect}
    _ESTABLISHED: ClassVar[_Handlers] = {
        "SEND": _send,
        "SUBSCRIBE": _subscribe,
        "UNSUBSCRIBE": _unsubscribe,
        "ACK": _ack,
        "NACK": _nack,
        "BEGIN": _transaction,
        "COMMIT": _transaction,
        "ABORT": _transaction,
        "DISCONNECT": _disconnect,
    }


_Handlers: TypeAlias = Mapping[str, Callable[[StompSession, Frame], None]]


def open_session(context: SessionContext, now: float) -> StompSession:
    """A session of a new connection. `context.settings` is a `Settings`."""
    settings = context.settings
    if not isinstance(settings, Settings):
        raise TypeError(f"settings of a STOMP session: {type(settings).__name__}")
    return StompSession(context, settings, now)
