"""One client's connection: bytes between a socket and a session, and how fast they come and go.

Nothing here knows a protocol, and what a session wants of the broker is the executor's. Reads are parsed as they come;
writes are joined and leave once for each turn of the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

import structlog

from gateway.core.broker import Broker
from gateway.core.commands import Close, Command, Publish
from gateway.core.delivery import Delivery
from gateway.core.flow import Watermark
from gateway.core.outcome import Outcome, Result
from gateway.core.session import Session
from gateway.core.statewriter import Done
from gateway.core.subscription import Subscription
from gateway.net.commands import Peer, result_of
from gateway.net.executor import Executor
from gateway.net.large import PROGRESS, STALLED, UNCOUNTED, LargeBodies
from gateway.net.limits import ConnectionLimits, Heavy
from gateway.net.metrics import ConnectionMetrics
from gateway.net.quotas import Seat
from gateway.net.transports import shown

log = structlog.get_logger("mqlift.connection")

LINGER: Final = 5.0
"""Seconds that a peer has to read the last bytes of a connection that is being closed, and to close it as well."""

UNSENT_BYTES: Final = 1024 * 1024
"""Answers that wait for a peer that does not read, before it is not read any more either. Deliveries stop long before,
at the first byte that waits; but its acknowledgements are still taken, or both sides could wait for each other."""

STUCK: Final = 60.0
"""Seconds after which a peer that sends and never reads its answers is cut off. One that has read `PROGRESS` of them,
such as of a large message, has as long again."""

SHORTEST_REST: Final = 0.001
"""Seconds; a peer that published too much for less than that goes on, and owes it."""

_UNSENT: Final = "the peer does not read"
_CONGESTED: Final = "the session holds back too much"
_SHUTDOWN: Final = "the gateway stops"
_PAUSED_BY_MARK: Final = "a destination or the gateway holds too much"
_PAUSED_BY_ITSELF: Final = "too many of its publishes have no result"
_NO_ROOM: Final = "there is no room for a large message"
_TOO_FAST: Final = "the peer publishes faster than it may"

_numbers = itertools.count(1)


class Connection(asyncio.Protocol):
    """Hosts one session from `connection_made` to `connection_lost`; the broker's publisher, consumer and owner."""

    __slots__ = (
        "_broker",
        "_carried",
        "_closing",
        "_due",
        "_executor",
        "_flush_handle",
        "_gone",
        "_handshake_ends",
        "_large",
        "_light",
        "_limits",
        "_loop",
        "_lost",
        "_metrics",
        "_on_lost",
        "_on_made",
        "_open_session",
        "_pauses",
        "_rested_at",
        "_sent",
        "_session",
        "_share",
        "_stalled_at",
        "_stuck_at",
        "_stuck_from",
        "_timer",
        "_transport",
        "_unwritten",
        "_writing",
        "connected_at",
        "delivered",
        "inflight",
        "number",
        "published",
        "seat",
    )

    def __init__(
        self,
        open_session: Callable[[str, float], Session],
        broker: Broker,
        metrics: ConnectionMetrics,
        limits: ConnectionLimits,
        seat: Seat,
        on_made: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.number = next(_numbers)
        self.inflight = 0
        """Published messages without a result; a heavy one counts as several."""
        self.published = 0
        self.delivered = 0
        self.connected_at = time.time()
        """Seconds since 1970-01-01 UTC."""
        self.seat = seat
        if (pace := limits.publish_rate.pace()) is not None:
            seat.paces = (pace,)
        self._open_session = open_session
        self._broker = broker
        self._metrics = metrics
        self._limits = limits
        self._share = limits.share
        self._light = min(limits.share, UNCOUNTED)
        """Bytes of a body that no account is kept of."""
        self._carried = 0
        """Bytes of what carries the protocol, and is not complete."""
        self._large: LargeBodies | None = None  # most connections never have any
        self._on_made = on_made
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._lost = False
        self._stuck_at = float("inf")
        self._stuck_from = 0
        """Bytes that the peer had taken when it was last found to be stuck."""
        self._stalled_at = float("inf")
        """When the peer has taken nothing for too long of what it was sent."""
        self._rested_at = float("inf")
        """When a peer that published too fast is read again."""
        self._sent = 0
        """Bytes that were written."""
        self._gone = 0
        """Those of them that the peer had taken when it was last looked at."""
        self._pauses: set[object] | None = None  # made when needed, as most connections are idle most of the time
        # Deliveries that are settled by being written: in the session's bytes; then given to the transport.
        self._unwritten: list[Delivery] | None = None
        self._writing: list[Delivery] | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        now = self._loop.time()
        peer = shown(transport.get_extra_info("peername"))
        self._session = self._open_session(peer, now)
        self._executor = Executor(self._session, self._broker, self, self._metrics, self._limits, self.seat)
        self._executor.peer.transport = transport
        self._executor.peer.address = peer
        self._handshake_ends = now + self._limits.connect_timeout
        # Told as soon as a single byte stays behind: a delivery counts as written only when all of it has gone.
        # (asyncio's TLS is paused at the high mark already, not above it, and would never go on with 0. Behind it up to
        # 64 KiB of ciphertext may wait in the plain transport, which it shows to nobody: they count as written.)
        high = 0 if transport.get_extra_info("sslcontext") is None else 1
        self._transport.set_write_buffer_limits(high=high, low=0)  # may call `pause_writing`: TLS has bytes of its own
        self._metrics.opened.inc()
        self._metrics.connections.inc()
        self._on_made(self)
        self._arm()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._metrics.received.count += len(data)
        commands = self._session.receive_data(data, self._loop.time())
        if commands:
            self._executor.append(commands)
        if self._large is not None or self._session.assembling > UNCOUNTED:
            self._assemble(len(data))
        self.flush_soon()

    def gather(self, size: int, received: int) -> None:
        """As `websocket.Gathering.gather`."""
        self._carried = size
        self._assemble(received)

    def eof_received(self) -> bool:
        return False  # nobody could be answered on a half-closed connection: close it

    def pause_writing(self) -> None:
        self._executor.peer.block()
        if self._limits.write_timeout:
            self._gone = self._taken
            self._stalled_at = self._loop.time() + self._limits.write_timeout
            self._arm()

    def resume_writing(self) -> None:
        self._stuck_at = self._stalled_at = float("inf")
        self._accept_written()
        if self._large is not None:
            self._large.written()
        self._executor.peer.unblock()
        self.resume(_UNSENT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        for handle in (self._timer, self._flush_handle):
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
            self._executor.lost()
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
        self._metrics.results[result.outcome].count += 1
        if type(token) is Heavy:
            if token.size > UNCOUNTED and self._large is not None:
                self._large.published(token.size)
            self._answered(token.token, result, token.weight)
        else:
            self._answered(token, result, 1)

    def _answered(self, token: object, result: Result, weight: int) -> None:
        """Make room for what comes next, and tell the session, unless nobody waits for it any more."""
        self.inflight -= weight
        if self._pauses and self.inflight <= self._limits.inflight // 2:
            self.resume(self)
        if self._lost:
            return
        if token is not None:
            try:
                commands = self._session.answer(token, result, self._loop.time())
                if commands:
                    self._executor.insert(commands)
            except Exception:
                # A bug in a session must not keep the rest of the batch from those that it belongs to.
                log.exception("session_failed", connection=self.number)
                self.abort()
        if self._flush_handle is None:
            self.flush_soon()

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """One message for the peer."""
        peer = self._executor.peer
        if peer.guard is not None and not peer.may_receive(subscription, delivery.message.address):
            delivery.source.settle(delivery, Outcome.ACCEPTED)
            return
        if self._broker.tracer is not None:
            self._broker.tracer.delivering(subscription.queue.name, delivery)
        self._metrics.delivered.count += 1
        self.delivered += 1
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
        if delivery.large is not None:
            self.carry(delivery)
            self._write()  # so that it is in memory twice only now
        if self._flush_handle is None:
            self.flush_soon()

    def carry(self, delivery: Delivery) -> None:
        """Have the memory of a large body given back when it is written."""
        self._larges().deliver(delivery)
        self._arm()

    def cancelled(self, subscription: Subscription) -> None:
        """The queue of a consumer is gone."""
        self._executor.peer.unsubscribe(subscription.tag)
        if not self._closing:
            self._executor.insert(self._session.cancelled(subscription.tag))
            self.flush_soon()

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
            now = self._loop.time()
            self._session.reading(True, now)
            if self._large is not None:
                self._large.reads_since = now
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def taken_over(self) -> None:
        """Another connection has claimed the client id."""
        self._executor.peer.client_id = ""
        self._end(self._session.taken_over)

    # What the listener calls

    def stop_reading(self) -> None:
        """Take nothing more from the peer; answers and settlements still go out."""
        self.pause(_SHUTDOWN)

    def shutdown(self) -> None:
        """The gateway stops: end the session as its protocol asks for, then close."""
        self._end(self._session.shutdown)

    @property
    def peer(self) -> Peer:
        """Who it is, and what it consumes; to be looked at."""
        return self._executor.peer

    @property
    def paused(self) -> list[str]:
        """Why it is not read, if it is not."""
        reasons = self._pauses or ()
        return sorted({_PAUSED_BY_MARK if isinstance(each, Watermark) else self._shown(each) for each in reasons})

    def _shown(self, reason: object) -> str:
        return _PAUSED_BY_ITSELF if reason is self else str(reason)

    def abort(self) -> None:
        """Close at once, without waiting for the peer to read."""
        self._leave()
        self._transport.abort()

    # What the executor calls

    def publish(self, command: Publish) -> None:
        """Have a message routed; `answer` follows."""
        message, token = command.message, command.token
        self._metrics.publishes.count += 1
        self.published += 1
        size = len(message.body)
        if size > self._light:
            token = Heavy(token, size, self._share)
            self.inflight += token.weight
            if size > UNCOUNTED:
                self._larges().publish(size)
        else:
            self.inflight += 1
        guard = self._executor.peer.guard
        refusal = None if guard is None else guard.refusal_of(command)
        if refusal is None:
            self._broker.publish(message, self, token, command.also)
        else:
            self.answer(token, Result(Outcome.REJECTED, refusal))
        if self.inflight >= self._limits.inflight:
            self.pause(self)
        if self.seat.paces:
            self._keep_pace(size)

    def _larges(self) -> LargeBodies:
        if self._large is None:
            self._large = LargeBodies(self.seat.budget, self._has_room, self._loop.time())
        return self._large

    def _assemble(self, received: int) -> None:
        """See that there is memory for what the peer has announced, before it sends more of that."""
        if self._closing or self._executor.waiting:
            return  # what is complete, and waits to be published, is still here
        size = max(self._session.assembling, self._carried)
        if size > UNCOUNTED and not self._session.established:
            self._cut("the peer announces too much before it is let in")
        elif self._larges().assemble(size, received, self._loop.time()):
            self.resume(_NO_ROOM)
        else:
            self.pause(_NO_ROOM)

    def _has_room(self) -> None:
        self.resume(_NO_ROOM)

    def _keep_pace(self, size: int) -> None:
        """Count what was published, and let the peer rest when that was too much."""
        now = self._loop.time()
        rest = max(pace.spend(size, now) for pace in self.seat.paces)
        if rest > SHORTEST_REST:
            self._rested_at = now + rest
            self.pause(_TOO_FAST)

    def begin(self, start: Callable[[Done], None], token: object) -> None:
        """Start what goes on beside what follows, and tell the session when it is done."""
        self.inflight += 1
        start(lambda error: self._answered(token, result_of(error), 1))
        if self.inflight >= self._limits.inflight:
            self.pause(self)

    def close(self, command: Close) -> None:
        """Write what is left to send, then close the socket when the peer has read it."""
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
        if self._large is not None:
            self._large.lost()
        if self._pauses:
            self._metrics.paused.dec()
            if not self._transport.is_closing():
                self._transport.resume_reading()  # to see the end; what comes before it is dropped
        self._executor.leave()

    def _end(self, farewell: Callable[[], Sequence[Command]]) -> None:
        """Execute a session's last commands, whatever it was waiting for."""
        if not self._closing:  # what it has to publish at its end, it publishes when the socket is gone
            self._executor.end(farewell)

    # Writing

    def flush_soon(self) -> None:
        if self._flush_handle is None and not self._lost:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has gathered in this turn of the event loop, and do what is due once for each turn."""
        self._flush_handle = None
        self._write()
        if self._executor.peer.blocked and self._transport.get_write_buffer_size() > UNSENT_BYTES:
            if self._stuck_at == float("inf"):
                self._get_stuck()
            self.pause(_UNSENT)
        self._arm()

    def _write(self) -> None:
        data = self._session.data_to_send()
        if self._session.congested:
            self.pause(_CONGESTED)
        elif self._pauses:
            self.resume(_CONGESTED)
        if self._closing:
            return  # what was not written is not delivered
        unwritten, self._unwritten = self._unwritten, None
        if unwritten:
            self._writing = self._writing + unwritten if self._writing else unwritten
        if self._large is not None:
            self._large.encoded(self._session, self._loop.time())
        if data:
            self._metrics.sent.count += len(data)
            self._sent += len(data)
            self._transport.write(data)
        if self._large is not None and not self._executor.peer.blocked:
            self._large.written()
        if unwritten and not self._executor.peer.blocked:
            # Not now: that a write has failed shows in the next turn, when the transport says that it is closing.
            self._loop.call_soon(self._accept_gone)

    def _accept_gone(self) -> None:
        if not self._executor.peer.blocked and not self._transport.is_closing():
            self._accept_written()

    def _accept_written(self) -> None:
        """What the operating system has taken is delivered, for a consumer that does not acknowledge."""
        written, self._writing = self._writing, None
        for delivery in written or ():
            delivery.source.settle(delivery, Outcome.ACCEPTED)

    # Time

    def _arm(self) -> None:
        """See that the timer goes off by the next deadline. A later one is left alone until then: activity is free."""
        due = min(
            self._session.deadline, self._stuck_at, self._stalled_at, self._rested_at, self._executor.peer.ends_at
        )
        if self._large is not None:
            due = min(due, self._large.checked_at + STALLED)
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
        elif now >= self._stuck_at and not self._drains():
            self._cut("the peer sends and does not read")
        elif not self._session.established and now >= self._handshake_ends:
            self._cut("the peer did not connect in time")
        elif now >= self._executor.peer.ends_at:
            self._cut("the proof of who the peer is has expired")
        elif now >= self._stalled_at and not self._moves(now):
            self._cut("the peer does not read")
        elif self._large is not None and now >= self._large.checked_at + STALLED and self._keeps_room(now):
            self._cut("the peer keeps room for a large message that others wait for, and does not go on")
        else:
            if now >= self._rested_at:
                self._rested_at = float("inf")
                self.resume(_TOO_FAST)
            if now >= self._session.deadline:
                self._executor.insert(self._session.tick(now))
                self.flush_soon()
            self._arm()

    def _get_stuck(self) -> None:
        self._stuck_at = self._loop.time() + STUCK
        self._stuck_from = self._taken

    def _drains(self) -> bool:
        """Whether the peer has read a fair part of what it was sent; then it has as long again."""
        before = self._stuck_from
        self._get_stuck()
        return self._stuck_from - before >= PROGRESS

    @property
    def _taken(self) -> int:
        """Bytes that the peer, or the operating system for it, has taken, ever."""
        return self._sent - self._transport.get_write_buffer_size()

    def _moves(self, now: float) -> bool:
        """Whether the peer has taken something since it was last looked at; then it has as long again."""
        before, self._gone = self._gone, self._taken
        self._stalled_at = now + self._limits.write_timeout
        return self._gone > before

    def _keeps_room(self, now: float) -> bool:
        assert self._large is not None
        if self._large.idle:
            self._large = None
            return False
        paused = self._pauses is not None and any(reason is not _NO_ROOM for reason in self._pauses)
        return self._large.stalls(now, self._taken, waits_for_us=paused)

    def _cut(self, reason: str) -> None:
        self._metrics.errors.inc()
        log.info("connection_refused", connection=self.number, reason=reason)
        self.abort()
