"""One client's connection: bytes between a socket and a session, commands between the session and the broker.

Nothing here knows a protocol. Reads are parsed as they come; writes are joined and leave once for each turn of the
event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import structlog

from gateway.core.auth import Action, Authorizer, Identity
from gateway.core.broker import Broker
from gateway.core.errors import MqliftError, NotAuthorized, Refused
from gateway.core.flow import Watermark
from gateway.core.message import DEFAULT_EXCHANGE, Message
from gateway.core.metrics import Metrics
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import (
    Authenticate,
    Authenticated,
    Bind,
    Cancel,
    Close,
    Command,
    Consume,
    DeclareQueue,
    DeleteQueue,
    Delivery,
    EndSession,
    KeepInflight,
    KeepSession,
    Opened,
    OpenSession,
    Publish,
    Retain,
    SendRetained,
    Session,
    Settle,
    Unbind,
)
from gateway.core.subscription import Subscription

log = structlog.get_logger("mqlift.connection")

LINGER: Final = 5.0
"""Seconds that a peer has to read the last bytes of a connection that is being closed, and to close it as well."""

UNSENT_BYTES: Final = 1024 * 1024
"""Answers that wait for a peer that does not read, before it is not read any more either. Deliveries stop long before,
at the first byte that waits; but its acknowledgements are still taken, or both sides could wait for each other."""

STUCK: Final = 60.0
"""Seconds after which a peer that sends and never reads its answers is cut off."""

_COMMAND: Final = "a command waits for the backend"
_UNSENT: Final = "the peer does not read"
_SHUTDOWN: Final = "the gateway stops"

_Waiting: TypeAlias = Authenticate | OpenSession | KeepSession | DeclareQueue | DeleteQueue | SendRetained
_WAITING: Final = (Authenticate, OpenSession, KeepSession, DeclareQueue, DeleteQueue, SendRetained)

NOBODY: Final = Identity()
"""Who a peer is before it has said who it is: it may do nothing yet that is asked about."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one connection may ask of the gateway."""

    connect_timeout: float = 10.0
    """Seconds from accepting the socket to being let in."""
    inflight: int = 2_000
    """Published messages without a result before the connection is not read any more."""


class ConnectionMetrics:
    """The metrics of one listener's connections, with their labels resolved once."""

    __slots__ = (
        "connections",
        "delivered",
        "errors",
        "logins_refused",
        "opened",
        "paused",
        "publishes",
        "received",
        "results",
        "sent",
    )

    def __init__(self, metrics: Metrics, protocol: str) -> None:
        self.connections = metrics.connections.labels(protocol)
        self.opened = metrics.connections_total.labels(protocol)
        self.errors = metrics.protocol_errors.labels(protocol)
        self.logins_refused = metrics.logins_refused.labels(protocol)
        self.received = metrics.tally(metrics.received_bytes.labels(protocol))
        self.sent = metrics.tally(metrics.sent_bytes.labels(protocol))
        self.paused = metrics.reading_paused.labels(protocol)
        self.delivered = metrics.tally(metrics.delivered.labels(protocol))
        self.publishes = metrics.tally(metrics.publishes.labels(protocol))
        self.results = [metrics.tally(metrics.publish_results.labels(outcome.name.lower())) for outcome in Outcome]


class Connection(asyncio.Protocol):
    """Hosts one session from `connection_made` to `connection_lost`; the broker's publisher, consumer and owner."""

    __slots__ = (
        "_authorizer",
        "_broker",
        "_client_id",
        "_closing",
        "_commands",
        "_control",
        "_due",
        "_flush_handle",
        "_handshake_ends",
        "_identity",
        "_limits",
        "_loop",
        "_lost",
        "_metrics",
        "_on_lost",
        "_on_made",
        "_open_session",
        "_pauses",
        "_session",
        "_stuck_at",
        "_subscriptions",
        "_timer",
        "_transport",
        "_unwritten",
        "_write_paused",
        "_writing",
        "inflight",
        "number",
    )

    def __init__(
        self,
        open_session: Callable[[str, float], Session],
        broker: Broker,
        metrics: ConnectionMetrics,
        limits: ConnectionLimits,
        on_made: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.number = next(_numbers)
        self.inflight = 0
        """Published messages without a result."""
        self._open_session = open_session
        self._broker = broker
        self._metrics = metrics
        self._limits = limits
        self._on_made = on_made
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._client_id = ""
        self._identity = NOBODY
        self._authorizer = broker.authorizer
        self._closing = False
        self._lost = False
        self._write_paused = False
        self._stuck_at = float("inf")
        # Made when needed: most connections are idle most of the time.
        self._pauses: set[object] | None = None
        self._commands: deque[Command] | None = None
        """Not None while commands are executed, or wait for `_control`."""
        self._subscriptions: dict[str, Subscription] | None = None
        # Deliveries that are settled by being written: in the session's bytes; then given to the transport.
        self._unwritten: list[Delivery] | None = None
        self._writing: list[Delivery] | None = None
        self._control: asyncio.Task[None] | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Told as soon as a single byte stays behind: a delivery counts as written only when all of it has gone.
        # (asyncio's TLS is paused at the high mark already, not above it, and would never go on with 0. Behind it up to
        # 64 KiB of ciphertext may wait in the plain transport, which it shows to nobody: they count as written.)
        high = 0 if transport.get_extra_info("sslcontext") is None else 1
        self._transport.set_write_buffer_limits(high=high, low=0)
        now = self._loop.time()
        self._session = self._open_session(_peer(transport), now)
        self._handshake_ends = now + self._limits.connect_timeout
        self._metrics.opened.inc()
        self._metrics.connections.inc()
        self._on_made(self)
        self._arm()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._metrics.received.count += len(data)
        commands = self._session.receive_data(data, self._loop.time())
        if self._commands is not None:
            self._commands.extend(commands)  # behind the one that waits for the backend
        elif commands:
            self._execute(commands)
        self._flush_soon()

    def eof_received(self) -> bool:
        return False  # nobody could be answered on a half-closed connection: close it

    def pause_writing(self) -> None:
        self._write_paused = True
        for subscription in self._consuming():
            subscription.blocked = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._stuck_at = float("inf")
        self._accept_written()
        for subscription in self._consuming():
            subscription.unblock()
        self.resume(_UNSENT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        for handle in (self._timer, self._flush_handle, self._control):
            if handle is not None:
                handle.cancel()
        self._leave()
        try:
            self._last_words()
        finally:
            self._metrics.connections.dec()
            log.debug("connection_lost", connection=self.number, problem=str(exc) if exc else None)
            self._on_lost(self)

    def _last_words(self) -> None:
        """Publish what the protocol asks for at the end (a will), and give back what was not settled."""
        deliveries = [*(self._writing or ()), *(self._unwritten or ())]
        self._writing = self._unwritten = None
        try:
            # What the peer settled and sent it settled and sent, though it was behind a command that waited.
            self._run(self._commands or deque())
            self._run(deque(self._session.connection_lost()))
            deliveries += self._session.unsettled()
        finally:
            for delivery in deliveries:
                delivery.source.settle(delivery, Outcome.RELEASED)
            for reason in self._pauses or ():
                if isinstance(reason, Watermark):
                    reason.forget(self)

    # What the broker calls

    def answer(self, token: object, result: Result) -> None:
        """The result of a publish."""
        self.inflight -= 1
        self._metrics.results[result.outcome].count += 1
        if self._pauses and self.inflight <= self._limits.inflight // 2:
            self.resume(self)
        self._tell(token, result)

    def _tell(self, token: object, result: Result) -> None:
        """Give the session an answer, unless nobody waits for it any more."""
        if self._lost:
            return
        if token is not None:
            try:
                commands = self._session.answer(token, result, self._loop.time())
                if commands:
                    self._execute(commands)
            except Exception:
                # A bug in a session must not keep the rest of the batch from those that it belongs to.
                log.exception("session_failed", connection=self.number)
                self.abort()
        if self._flush_handle is None:
            self._flush_soon()

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """One message for the peer."""
        if self._authorizer is not None and not self._may_receive(subscription, delivery, self._authorizer):
            delivery.source.settle(delivery, Outcome.ACCEPTED)
            return
        self._metrics.delivered.count += 1
        try:
            held = self._session.deliver(subscription.tag, delivery)
        except Exception:
            log.exception("session_failed", connection=self.number)
            delivery.source.settle(delivery, Outcome.RELEASED)
            self.abort()
            return
        if not held:
            if self._unwritten is None:
                self._unwritten = []
            self._unwritten.append(delivery)
        if self._flush_handle is None:
            self._flush_soon()

    def _may_receive(self, subscription: Subscription, delivery: Delivery, authorizer: Authorizer) -> bool:
        """A wildcard may bring what is not for this peer. What a shared queue has is for whoever may consume it."""
        if not self._broker.is_private(subscription.queue.name, self):
            return True
        return authorizer.allows(self._identity, Action.RECEIVE, *delivery.message.address)

    def pause(self, reason: object) -> None:
        """Stop reading the socket: its buffers fill, and the peer has to wait."""
        if self._pauses is None:
            self._pauses = set()
        if not self._pauses and not self._closing:
            self._metrics.paused.inc()
            self._session.reading(False, self._loop.time())
            self._transport.pause_reading()
        self._pauses.add(reason)

    def resume(self, reason: object) -> None:
        """A reason to pause is over; read again when it was the last one."""
        if not self._pauses or reason not in self._pauses:
            return
        self._pauses.discard(reason)
        if not self._pauses and not self._closing:
            self._metrics.paused.dec()
            self._session.reading(True, self._loop.time())
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def taken_over(self) -> None:
        """Another connection has claimed the client id."""
        self._client_id = ""
        self._end(self._session.taken_over)

    # What the listener calls

    def stop_reading(self) -> None:
        """Take nothing more from the peer; answers and settlements still go out."""
        self.pause(_SHUTDOWN)

    def shutdown(self) -> None:
        """The gateway stops: end the session as its protocol asks for, then close."""
        self._end(self._session.shutdown)

    def abort(self) -> None:
        """Close at once, without waiting for the peer to read."""
        self._leave()
        self._transport.abort()

    # Commands

    def _execute(self, commands: Sequence[Command]) -> None:
        """Execute commands that an answer or the clock gave, ahead of those that wait: they are about what came before.

        A `Close` after a publish that failed must not let the publishes behind it go out first.
        """
        if self._commands is None:
            self._run(deque(commands))
        else:
            self._commands.extendleft(reversed(commands))

    def _run(self, commands: deque[Command]) -> None:
        """Execute commands in order; at one that has to wait, keep the rest and stop reading until it is answered."""
        self._commands = commands
        while commands:
            command = commands.popleft()
            if isinstance(command, Settle):
                for delivery in command.deliveries:
                    delivery.source.settle(delivery, command.outcome)
            elif isinstance(command, Publish):
                if not self._closing or command.token is None:
                    self._publish(command)
            elif isinstance(command, EndSession):
                self._end_session(command)
            elif self._closing and not isinstance(command, KeepInflight):
                continue  # nobody can be answered; but what the peer settled, and what it leaves behind, is done
            elif isinstance(command, _WAITING):
                self.pause(_COMMAND)
                self._control = self._loop.create_task(self._wait_for(command))
                self._control.add_done_callback(self._waited)
                return
            elif isinstance(command, Close):
                self._close(command)
            else:
                commands.extendleft(reversed(self._perform(command)))
        self._commands = None

    def _publish(self, command: Publish) -> None:
        self._metrics.publishes.count += 1
        self.inflight += 1
        refusal = None if self._authorizer is None else self._refusal(command.message, self._authorizer)
        if refusal is None:
            self._broker.publish(command.message, self, command.token)
        else:
            self.answer(command.token, Result(Outcome.REJECTED, refusal))
        if self.inflight >= self._limits.inflight:
            self.pause(self)

    def _refusal(self, message: Message, authorizer: Authorizer) -> NotAuthorized | None:
        """Why the peer may not publish a message; None when it may."""
        if authorizer.allows(self._identity, Action.PUBLISH, *message.address):
            return None
        return NotAuthorized(f"publishing to '{message.address.routing_key}' is not allowed")

    def _end_session(self, command: EndSession) -> None:
        will = command.will
        if will is not None and self._authorizer is not None and self._refusal(will, self._authorizer) is not None:
            log.info("will_not_allowed", connection=self.number)
            will = None
        self._broker.end_session(command.client_id, self, command.expiry, will, command.will_delay)

    def _keep(self, command: Retain | KeepInflight) -> None:
        """Have something kept, while what follows goes on; the answer comes when it is durable."""
        self.inflight += 1

        def done(error: MqliftError | None) -> None:
            self.inflight -= 1
            if self._pauses and self.inflight <= self._limits.inflight // 2:
                self.resume(self)
            self._tell(command.token, _result(error))

        if isinstance(command, KeepInflight):
            self._broker.keep_inflight(command.client_id, command.inflight, done)
        elif self._authorizer is not None and (refusal := self._refusal(command.message, self._authorizer)) is not None:
            done(refusal)
        else:
            self._broker.retain(command.message, done)
        if self.inflight >= self._limits.inflight:
            self.pause(self)

    async def _wait_for(self, command: _Waiting) -> None:
        """Execute a command that may take a while, then those behind it."""
        try:
            result = await self._await(command)
        except NotAuthorized as error:
            self._metrics.logins_refused.inc()
            result = Result(Outcome.REJECTED, error)
        except MqliftError as error:
            result = _result(error)
        self._control = None
        followers = deque(self._session.answer(command.token, result, self._loop.time()))
        followers.extend(self._commands or ())
        self.resume(_COMMAND)
        self._run(followers)
        self._flush_soon()

    async def _await(self, command: _Waiting) -> Result:
        match command:
            case Authenticate(credentials):
                self._identity = await self._broker.authenticate(credentials)
                return Authenticated(self._identity)
            case OpenSession(client_id, clean):
                self._client_id = client_id
                return Opened(await self._broker.open_session(client_id, self, clean=clean))
            case DeclareQueue(queue, spec):
                await self._broker.declare_queue(queue, spec, self)
            case DeleteQueue(queue):
                await self._broker.delete_queue(queue)
            case KeepSession(client_id, record):
                return await self._answered(lambda done: self._broker.keep_session(client_id, record, done))
            case SendRetained(queue, exchange, pattern):
                return await self._answered(
                    lambda done: self._broker.send_retained(queue, exchange, pattern, self, _Told(done))
                )
        return ACCEPTED

    async def _answered(self, begin: Callable[[Callable[[MqliftError | None], None]], None]) -> Result:
        """Begin something that tells a callback when it is done, and wait for that."""
        answered: asyncio.Future[Result] = self._loop.create_future()

        def done(error: MqliftError | None) -> None:
            if not answered.done():
                answered.set_result(_result(error))

        begin(done)
        return await answered

    def _waited(self, control: asyncio.Task[None]) -> None:
        if not control.cancelled() and (error := control.exception()) is not None:
            log.error("command_failed_unexpectedly", connection=self.number, exc_info=error)
            self.abort()

    def _perform(self, command: Retain | KeepInflight | Bind | Unbind | Consume | Cancel) -> Sequence[Command]:
        """Begin a command, or execute one that is done at once; gives what the session answers to its result."""
        if isinstance(command, Retain | KeepInflight):
            self._keep(command)
            return ()
        result = ACCEPTED
        try:
            match command:
                case Bind(queue, exchange, pattern):
                    self._check_subscribing(exchange, pattern)
                    self._broker.bind(queue, exchange, pattern)
                case Unbind(queue, exchange, pattern):
                    self._broker.unbind(queue, exchange, pattern)
                case Consume(tag, queue, prefetch):
                    self._consume(tag, queue, prefetch)
                case Cancel(tag):
                    self._cancel(tag)
        except MqliftError as error:
            result = Result(Outcome.REJECTED, error)
        return self._session.answer(command.token, result, self._loop.time())

    def _consume(self, tag: str, queue: str, prefetch: int) -> None:
        if self._subscriptions is None:
            self._subscriptions = {}
        if not self._broker.is_private(queue, self):
            self._check_subscribing(DEFAULT_EXCHANGE, queue)
        if tag in self._subscriptions:
            raise Refused(f"there is a consumer '{tag}' already")
        subscription = self._broker.consume(tag, queue, self, prefetch)
        subscription.blocked = self._write_paused
        self._subscriptions[tag] = subscription

    def _check_subscribing(self, exchange: str, key: str) -> None:
        if self._authorizer is not None and not self._authorizer.allows(
            self._identity, Action.SUBSCRIBE, exchange, key
        ):
            raise NotAuthorized(f"subscribing to '{key}' is not allowed")

    def _cancel(self, tag: str) -> None:
        subscription = self._subscriptions.pop(tag, None) if self._subscriptions else None
        if subscription is not None:
            subscription.cancel()

    def _consuming(self) -> list[Subscription]:
        return list(self._subscriptions.values()) if self._subscriptions else []

    def _close(self, command: Close) -> None:
        if command.error is not None:
            self._metrics.errors.inc()
            log.info("connection_refused", connection=self.number, reason=command.reason, problem=str(command.error))
        else:
            log.debug("connection_closed", connection=self.number, reason=command.reason)
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        self._flush()
        self._leave()
        # Closing a socket with unread bytes resets it, and what is on its way to the peer, such as the reason, is lost.
        # So it is read to its end, and the peer closes it. (TLS has a closing handshake of its own.)
        if not self._transport.is_closing():
            end = self._transport.write_eof if self._transport.can_write_eof() else self._transport.close
            end()
        self._set_timer(self._loop.time() + LINGER)

    def _leave(self) -> None:
        """Take part in nothing any more; answers that are on their way, and settlements, still come. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._pauses:
            self._metrics.paused.dec()
            if not self._transport.is_closing():
                self._transport.resume_reading()  # to see the end; what comes before it is dropped
        for subscription in self._consuming():
            subscription.cancel()
        self._broker.disconnected(self, self._client_id)

    def _end(self, farewell: Callable[[], Sequence[Command]]) -> None:
        """Execute a session's last commands, whatever it was waiting for."""
        if self._closing:
            return  # what it has to publish at its end, it publishes when the socket is gone
        if self._control is not None:
            self._control.cancel()
            self._control = None
        waiting, self._commands = self._commands, None
        try:
            self._run(deque(farewell()))
        except Exception:
            log.exception("session_failed", connection=self.number)
            self.abort()
        self._run(waiting or deque())

    # Writing

    def _flush_soon(self) -> None:
        if self._flush_handle is None and not self._lost:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has gathered in this turn of the event loop, and do what is due once for each turn."""
        self._flush_handle = None
        self._write()
        if self._write_paused and self._transport.get_write_buffer_size() > UNSENT_BYTES:
            self._stuck_at = min(self._stuck_at, self._loop.time() + STUCK)
            self.pause(_UNSENT)
        self._arm()

    def _write(self) -> None:
        data = self._session.data_to_send()
        if self._closing:
            return  # what was not written is not delivered
        unwritten, self._unwritten = self._unwritten, None
        if unwritten:
            self._writing = self._writing + unwritten if self._writing else unwritten
        if data:
            self._metrics.sent.count += len(data)
            self._transport.write(data)
        if unwritten and not self._write_paused:
            # Not now: that a write has failed shows in the next turn, when the transport says that it is closing.
            self._loop.call_soon(self._accept_gone)

    def _accept_gone(self) -> None:
        if not self._write_paused and not self._transport.is_closing():
            self._accept_written()

    def _accept_written(self) -> None:
        """What the operating system has taken is delivered, for a consumer that does not acknowledge."""
        written, self._writing = self._writing, None
        for delivery in written or ():
            delivery.source.settle(delivery, Outcome.ACCEPTED)

    # Time

    def _arm(self) -> None:
        """See that the timer goes off by the next deadline. A later one is left alone until then: activity is free."""
        due = min(self._session.deadline, self._stuck_at)
        if not self._session.established:
            due = min(due, self._handshake_ends)
        if due < self._due and not self._closing:
            self._set_timer(due)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        self._due = float("inf")
        now = self._loop.time()
        if self._closing:
            self._transport.abort()
        elif now >= self._stuck_at:
            self._cut("the peer sends and does not read")
        elif not self._session.established and now >= self._handshake_ends:
            self._cut("the peer did not connect in time")
        else:
            if now >= self._session.deadline:
                self._execute(self._session.tick(now))
                self._flush_soon()
            self._arm()

    def _cut(self, reason: str) -> None:
        self._metrics.errors.inc()
        log.info("connection_refused", connection=self.number, reason=reason)
        self.abort()


class _Told:
    """Passes the one answer to retained messages on."""

    __slots__ = ("_done",)

    def __init__(self, done: Callable[[MqliftError | None], None]) -> None:
        self._done = done

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - there is one
        self._done(result.error)


def _result(error: MqliftError | None) -> Result:
    """What a session is told of a fault: a limit or a ban is a refusal, everything else may pass."""
    if error is None:
        return ACCEPTED
    return Result(Outcome.REJECTED if isinstance(error, Refused | NotAuthorized) else Outcome.RELEASED, error)


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
