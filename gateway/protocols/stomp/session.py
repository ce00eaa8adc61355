"""One STOMP connection, without its socket: frames in, commands for the hub and frames out.

https://stomp.github.io/stomp-specification-1.2.html, and those of 1.1 and 1.0.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, TypeAlias

from gateway.core.commands import NO_COMMANDS, Authenticate, ClaimClientId, Close, Command
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError, NotAuthorized, Refused
from gateway.core.outcome import Outcome, Result
from gateway.core.session import SessionContext
from gateway.protocols.stomp.acknowledging import Acknowledging
from gateway.protocols.stomp.client import Client, Step, Together, error_of
from gateway.protocols.stomp.codec import Frame, FrameLimits, FrameParser, encode_frame
from gateway.protocols.stomp.dialect import Owner
from gateway.protocols.stomp.dialects import DIALECTS
from gateway.protocols.stomp.errors import (
    BadCommand,
    FrameTooLarge,
    IllegalCommand,
    Silence,
    StompError,
    SubscriptionCancelled,
    from_amqp,
    quoted,
    shown,
)
from gateway.protocols.stomp.heartbeat import NEVER, NO_HEART_BEATS, HeartBeat
from gateway.protocols.stomp.login import read_connect
from gateway.protocols.stomp.sending import NO_RECEIPT, Sending
from gateway.protocols.stomp.settings import Settings
from gateway.protocols.stomp.subscribing import Subscribing
from gateway.protocols.stomp.transactions import Transaction, Transactions
from gateway.protocols.stomp.versions import OFFERED, UNESCAPED

MAX_HELD_BEFORE_LOGIN = 256 * 1024
"""Bytes that may follow a CONNECT before it was answered: what one read of the connection can bring."""

MAX_SHOWN: Final = 100
"""Characters of a name of user or client that are repeated when it is refused."""

_SESSION_ID_BYTES = 9
"""Random bytes of a session's id: enough that no client meets an id twice, and short in each message id."""

_LOGIN: Final = object()
"""The token of the Authenticate command."""
_CLAIM: Final = object()
"""That of the ClaimClientId command."""


class StompSession:
    """The state of one connection. Implements `gateway.core.session.Session`."""

    __slots__ = (
        "_acknowledging",
        "_client",
        "_closed",
        "_farewell",
        "_handlers",
        "_heart_beat",
        "_intervals",
        "_now",
        "_out",
        "_parser",
        "_parsing",
        "_received_at",
        "_sending",
        "_server",
        "_settings",
        "_subscribing",
        "_transactions",
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
        self._client = client = Client(
            settings, DIALECTS[settings.dialect], Owner(secrets.token_urlsafe(_SESSION_ID_BYTES)), context.time
        )
        self._out = client.out
        self._transactions = Transactions(client)
        self._subscribing = Subscribing(client)
        self._sending = Sending(client, self._transactions, self._subscribing)
        self._acknowledging = Acknowledging(client, self._transactions, self._subscribing)
        self._parser = FrameParser(
            FrameLimits(settings.max_headers, settings.max_header_line, settings.max_header_section, settings.max_body)
        )
        self._parsing = True  # False while a login is decided, and for good once the session is ending
        self._closed = False
        self._farewell: tuple[bytes, Close] | None = None  # what to end with, once everything is answered
        self._handlers = self._BEFORE_LOGIN
        self._now = self._received_at = now
        self._intervals = NO_HEART_BEATS
        self._heart_beat: HeartBeat | None = None

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        self._now = self._received_at = now
        if self._parsing:
            self._parser.receive_data(data)
            self._parse()
        elif not self._closed and self._farewell is None:
            self._hold_until_login(data)
        return self._client.take_commands()

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        client = self._client
        client.unanswered -= 1
        if self._closed:
            return NO_COMMANDS
        if isinstance(token, str):
            if result.outcome is Outcome.ACCEPTED:
                self._out.append(client.receipt_frame(token))
            else:
                self._publish_failed(token, result)
        elif token is NO_RECEIPT:
            if result.outcome is not Outcome.ACCEPTED:
                self._publish_failed(None, result)
        elif isinstance(token, Together):
            self._part_done(token, result)
        elif isinstance(token, Step):
            self._step_done(token, result)
        else:
            self._now = now
            if token is _LOGIN:
                self._login_decided(result)
            else:
                self._client_id_decided(result)
        if self._farewell is not None and not client.unanswered and not self._closed:
            self._depart(self._farewell)
        return client.take_commands()

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        return self._subscribing.deliver(tag, delivery)

    def tick(self, now: float) -> Sequence[Command]:
        if self._closed:
            self.deadline = NEVER
            return NO_COMMANDS
        heart_beat = self._heart_beat
        try:
            if heart_beat is not None and heart_beat.peer_is_silent(self._received_at, now):
                raise Silence(f"nothing came for {now - self._received_at:.1f} seconds")
            if self._farewell is None:
                self._transactions.check_time(now)
        except StompError as error:
            self._fail(error)
            return self._client.take_commands()
        if heart_beat is not None and heart_beat.beat_due(now):
            self._out.append(b"\n")
        self._set_deadline()
        return NO_COMMANDS

    def reading(self, active: bool, now: float) -> None:
        if self._heart_beat is None or self._closed:
            return
        self._received_at = now
        self._heart_beat.listen(active and self._farewell is None)
        self._set_deadline()

    def data_to_send(self) -> bytes:
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def cancelled(self, tag: str) -> Sequence[Command]:
        subscription = self._subscribing.find(tag)
        if not self._closed and subscription is not None and subscription.active:
            name = subscription.queue if subscription.id is None else subscription.id
            self._fail(
                SubscriptionCancelled(f"No more messages will be delivered for {shown(name)}: its queue is gone")
            )
        return self._client.take_commands()

    @property
    def assembling(self) -> int:
        return self._parser.assembling

    def needs_body(self, delivery: Delivery) -> bool:  # noqa: ARG002 - all are alike
        # It is encoded when it is delivered; but a NACK may have to publish it as a dead letter.
        return self._client.dialect.dead_letter_queue is not None

    def unsettled(self) -> Sequence[Delivery]:
        return self._subscribing.unsettled() + self._transactions.unsettled()

    def taken_over(self) -> Sequence[Command]:
        if not self._closed:
            self._fail(Refused("another connection has taken over"))
        return self._client.take_commands()

    def shutdown(self) -> Sequence[Command]:
        if not self._closed and self._farewell is None:
            error = self._error_frame("Shutdown", "the gateway stops; connect again", None)
            self._leave(error, Close("the gateway stops"))
        return self._client.take_commands()

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
        # [STOMP 1.2, STOMP Frames] "Only the SEND, MESSAGE, and ERROR frames MAY have a body." What others have means
        # nothing, as to both brokers.
        handler(self, frame)

    def _bad_command(self, command: str) -> StompError:
        if not self.established:
            return IllegalCommand()
        if command in self._BEFORE_LOGIN:
            return BadCommand("already connected")
        return BadCommand(f"Could not interpret command {quoted(command)}\n")

    def _connect(self, frame: Frame) -> None:
        request = read_connect(frame, self._settings.heart_beat_floor_ms)
        self._parser.version = request.version
        self._intervals = request.intervals
        credentials = request.credentials
        self._client.introduce(request.version, credentials.client_id, credentials.username or "")
        # What follows is not looked at before the peer is let in.
        self._parsing = False
        self._client.ask(Authenticate(credentials, _LOGIN))

    def _send(self, frame: Frame) -> None:
        self._sending.send(frame)

    def _subscribe(self, frame: Frame) -> None:
        self._subscribing.subscribe(frame)

    def _unsubscribe(self, frame: Frame) -> None:
        self._subscribing.unsubscribe(frame)

    def _ack(self, frame: Frame) -> None:
        self._acknowledging.ack(frame)

    def _nack(self, frame: Frame) -> None:
        transaction = self._acknowledging.nack(frame)
        if transaction is not None:
            self._complete(transaction, frame.headers.get("receipt"))

    def _begin(self, frame: Frame) -> None:
        self._transactions.begin(frame, self._now)
        self._set_deadline()

    def _commit(self, frame: Frame) -> None:
        self._complete(self._transactions.take(frame), frame.headers.get("receipt"))
        self._set_deadline()

    def _complete(self, transaction: Transaction, receipt: str | None) -> None:
        settlements = self._acknowledging.resolve(transaction)
        together = self._transactions.commit(transaction, settlements, receipt)
        if not together.missing:
            self._finish(together)

    def _abort(self, frame: Frame) -> None:
        self._transactions.abort(frame)
        self._set_deadline()

    def _disconnect(self, frame: Frame) -> None:
        receipt = frame.headers.get("receipt")
        # [STOMP 1.2, DISCONNECT] its receipt says that all previous frames have been received; here also processed.
        # [STOMP 1.2, BEGIN] "will be implicitly aborted if the client disconnects": what is open is forgotten.
        farewell = b"" if receipt is None else self._client.receipt_frame(receipt)
        self._leave(farewell, Close("disconnected"))

    def _hold_until_login(self, data: bytes) -> None:
        self._parser.receive_data(data)
        if self._parser.buffered > MAX_HELD_BEFORE_LOGIN:
            self._fail(FrameTooLarge(f"over {MAX_HELD_BEFORE_LOGIN} bytes before CONNECTED"))

    # Results

    def _login_decided(self, result: Result) -> None:
        if self._farewell is not None:
            return
        if result.outcome is not Outcome.ACCEPTED:
            error = result.error or NotAuthorized("access refused")
            user = self._client.sender.origin.user
            self._end_with_error(error, "Bad CONNECT", f"Access refused for user '{user[:MAX_SHOWN]}'\n", None)
            return
        client_id = self._client.owner.client_id
        if client_id and self._client.dialect.claims_client_ids:
            self._client.ask(ClaimClientId(client_id, _CLAIM))
        else:
            self._greet()

    def _client_id_decided(self, result: Result) -> None:
        if self._farewell is not None:
            return
        if result.outcome is Outcome.ACCEPTED:
            self._greet()
            return
        error = error_of(result)
        title = f"Client: {self._client.owner.client_id[:MAX_SHOWN]} already connected"  # ActiveMQ's words
        self._end_with_error(error, title, str(error), None)

    def _greet(self) -> None:
        self.established = True
        self._handlers = self._ESTABLISHED
        headers = (
            ("version", self._parser.version.name),
            ("heart-beat", str(self._intervals)),
            ("session", self._client.owner.session_id),
            ("server", self._server),
        )
        self._out.append(encode_frame("CONNECTED", headers, UNESCAPED))
        if any(self._intervals):
            self._heart_beat = HeartBeat(self._intervals, self._settings.heart_beat_tolerance, self._now)
            self._received_at = self._now
            self._set_deadline()
        self._parsing = True
        self._parse()

    def _step_done(self, step: Step, result: Result) -> None:
        self._subscribing.return_late()
        if step.failed(result):
            error = error_of(result)
            self._end_with_error(error, *(from_amqp(error) or (step.title, str(error))), step.receipt)
        elif step.last and step.receipt is not None:
            self._client.write_receipt(step.receipt)

    def _part_done(self, together: Together, result: Result) -> None:
        done = together.answered(result)
        if together.result.outcome is not Outcome.ACCEPTED:
            # The rest need not be waited for; what was acknowledged with it goes back when the connection has ended.
            self._publish_failed(together.receipt, together.result)
        elif done:
            self._finish(together)

    def _finish(self, together: Together) -> None:
        self._transactions.finished(together)
        for deliveries, outcome in together.settlements:
            self._client.settle(deliveries, outcome)
        for receipt in together.receipts:
            self._client.write_receipt(receipt)
        if together.receipt is not None:
            self._client.write_receipt(together.receipt)

    def _publish_failed(self, receipt: str | None, result: Result) -> None:
        error = error_of(result)
        title = "Message rejected" if result.outcome is Outcome.REJECTED else "Message not accepted"
        self._end_with_error(error, *(from_amqp(error) or (title, str(error))), receipt)

    # Time

    def _set_deadline(self) -> None:
        # What is left of a connection that ends is bounded by its host.
        transactions = self._transactions.deadline if self._farewell is None else NEVER
        heart_beat = self._heart_beat
        beats = NEVER if heart_beat is None else heart_beat.deadline(self._received_at)
        self.deadline = min(transactions, beats)

    # Endings

    def _fail(self, error: MqliftError, receipt: str | None = None) -> None:
        title = error.title if isinstance(error, StompError) else "Refused"
        self._end_with_error(error, title, str(error), receipt)

    def _error_frame(self, title: str, detail: str, receipt: str | None) -> bytes:
        # [STOMP 1.2, Protocol Negotiation] wants the versions when none is common; RabbitMQ names them in every ERROR.
        headers = [("message", title), ("content-type", "text/plain"), ("version", ",".join(OFFERED))]
        if receipt is not None:
            headers.append(("receipt-id", receipt))
        return encode_frame("ERROR", headers, self._parser.version, detail.encode(errors="replace"))

    def _end_with_error(self, error: MqliftError, title: str, detail: str, receipt: str | None) -> None:
        # [STOMP 1.2, ERROR] "it MUST then close the connection just after sending the ERROR frame"
        frame = self._error_frame(title, detail, receipt)
        self._stop_working()
        self._depart((frame, Close(f"{title}: {detail.rstrip()}", error)))

    def _leave(self, frame: bytes, close: Close) -> None:
        """Take no more frames, and end once all earlier ones have been answered."""
        self._stop_working()
        self._farewell = (frame, close)
        if self._heart_beat is not None:
            self._heart_beat.listen(active=False)
        self._set_deadline()
        if not self._client.unanswered:
            self._depart(self._farewell)

    def _stop_working(self) -> None:
        self._parsing = False
        self._subscribing.stop()

    def _depart(self, farewell: tuple[bytes, Close]) -> None:
        frame, close = farewell
        self._out.append(frame)
        self._client.commands.append(close)
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
        "BEGIN": _begin,
        "COMMIT": _commit,
        "ABORT": _abort,
        "DISCONNECT": _disconnect,
    }


_Handlers: TypeAlias = Mapping[str, Callable[[StompSession, Frame], None]]


def open_session(context: SessionContext, now: float) -> StompSession:
    """A session of a new connection. `context.settings` is a `Settings`."""
    settings = context.settings
    if not isinstance(settings, Settings):
        raise TypeError(f"settings of a STOMP session: {type(settings).__name__}")
    return StompSession(context, settings, now)
