"""The commands of one session, executed in order; what each does is in `commands`.

At a command that has to wait for the broker the rest waits behind it, and the peer is not read. So a peer can pipeline
as much as one read brings, and no more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from gateway.core.broker import Broker, Owner
from gateway.core.commands import (
    Aside,
    Authenticate,
    ChangePrefetch,
    Close,
    Command,
    ControlCommand,
    EndSession,
    Get,
    Got,
    Publish,
    Settle,
)
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError, NotAuthorized, Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import Session
from gateway.core.statewriter import Done
from gateway.net import audited
from gateway.net.commands import (
    AT_THE_END,
    CONCURRENT,
    IMMEDIATE,
    WAITING,
    Begin,
    Do,
    Peer,
    Wait,
    end_session,
    result_of,
)
from gateway.net.limits import ConnectionLimits
from gateway.net.metrics import ConnectionMetrics
from gateway.net.quotas import Seat

log = structlog.get_logger("mqlift.connection")

_WAITS: Final = "a command waits for the broker"


class Answered(Protocol):
    """A command that is in one of the tables: all of those are answered."""

    @property
    def token(self) -> object: ...


class Host(Owner, Protocol):
    """The connection that a session lives in."""

    number: int

    def publish(self, command: Publish) -> None:
        """Have the broker route a message, and its result told to the session."""

    def begin(self, start: Callable[[Done], None], token: object) -> None:
        """Start what goes on beside what follows, and tell the session when it is done."""

    def carry(self, delivery: Delivery) -> None:
        """The session has a delivery with a large body."""

    def close(self, command: Close) -> None:
        """Write what is left to send, and take part in nothing any more."""

    def abort(self) -> None:
        """Close at once."""

    def flush_soon(self) -> None:
        """The session may have something to send."""


class Executor:
    """Executes what the session wants of the broker, and tells it what came of that.

    Each command with a token is answered once, unless the connection closes first: then nobody waits for it.
    """

    __slots__ = (
        "_beside",
        "_ending",
        "_host",
        "_left",
        "_loop",
        "_metrics",
        "_queue",
        "_session",
        "_task",
        "_token",
        "peer",
    )

    def __init__(
        self,
        session: Session,
        broker: Broker,
        host: Host,
        metrics: ConnectionMetrics,
        limits: ConnectionLimits,
        seat: Seat,
    ) -> None:
        self.peer = Peer(broker, host, limits, seat)
        self._session = session
        self._host = host
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._left = False
        self._ending = False
        """The session has been told of its end: nothing that takes a while is begun for it."""
        self._queue: deque[Command] | None = None
        """Not None while commands are executed, or wait for `_task`."""
        self._task: asyncio.Task[None] | None = None
        self._token: object = None
        """Of the command that `_task` executes."""
        self._beside: dict[asyncio.Task[None], ControlCommand | Get] = {}
        """What is executed beside all that, with its command."""

    @property
    def waiting(self) -> bool:
        """Whether there are commands that have not been executed yet."""
        return bool(self._queue)

    def append(self, commands: Sequence[Command]) -> None:
        """Execute what the peer has asked for, behind all that it asked for before."""
        if self._queue is not None:
            self._queue.extend(commands)
        elif commands:
            self._run(deque(commands))

    def insert(self, commands: Sequence[Command]) -> None:
        """Execute what an answer or the clock gave, ahead of what waits: it is about what came before.

        A `Close` after a publish that failed must not let the publishes behind it go out first.
        """
        if self._queue is not None:
            self._queue.extendleft(reversed(commands))
        elif commands:
            self._run(deque(commands))

    def end(self, farewell: Callable[[], Sequence[Command]]) -> None:
        """Execute a session's last commands, whatever it was waiting for.

        What is interrupted by that, or waited to be begun, is answered: a session may have to wait for all answers
        before it closes. What the peer has published and settled behind it still counts, unless the session closes.
        """
        self._ending = True
        waiting, self._queue = self._queue, None
        try:
            self._run(deque(farewell()))
            self._interrupt()
        except Exception:
            log.exception("session_failed", connection=self._host.number)
            self._host.abort()
        self._run(waiting or deque())

    def leave(self) -> None:
        """The connection closes: only what the peer has settled, and what it leaves behind, still counts."""
        if not self._left:
            self._left = True
            if self._task is not None:
                self._task.cancel()
            self._call_off()  # a queue that was declared from now on would never end
            self.peer.leave()

    def lost(self) -> None:
        """The socket is gone, after `leave`: execute what still counts."""
        # What the peer settled and sent it settled and sent, though it was behind a command that waited.
        self._run(self._queue or deque())
        self._run(deque(self._session.connection_lost()))

    def _run(self, queue: deque[Command]) -> None:
        """Execute commands in order; at one that has to wait, keep the rest."""
        self._queue = queue
        while queue:
            command = queue.popleft()
            if isinstance(command, Settle):
                for delivery in command.deliveries:
                    delivery.source.settle(delivery, command.outcome)
            elif isinstance(command, Publish):
                if not self._left or command.token is None:
                    self._host.publish(command)
            elif isinstance(command, EndSession):
                end_session(self.peer, command)
            elif self._left and type(command) not in AT_THE_END:
                continue  # nobody can be answered
            elif not self._perform(command, queue):
                return
        self._queue = None

    def _perform(self, command: Command, queue: deque[Command]) -> bool:
        """Execute a command that is for one who is there. False when what is behind it has to wait."""
        match command:
            case Close():
                self._host.close(command)
            case ChangePrefetch(shared, limit):
                shared.change(limit)
            case Get():
                self._start(WAITING[Get], command)
            case Aside(aside):
                self._execute_aside(aside, queue)
            case Publish() | Settle() | EndSession():
                raise AssertionError("executed by `_run`")
            case _:
                return self._execute(command, queue)
        return True

    def _execute(self, command: Answered, queue: deque[Command]) -> bool:
        """Execute a command by its table. False when what is behind it has to wait."""
        kind = type(command)
        if (do := IMMEDIATE.get(kind)) is not None:
            result = self._do(do, command)
            if isinstance(result, Result) or self._ending:
                result = result if isinstance(result, Result) else _INTERRUPTED
                queue.extendleft(reversed(self._answer(command.token, result)))
                return True
            self._wait(lambda *_: _after(result), command)
            return False
        if (begin := CONCURRENT.get(kind)) is not None:
            self._begin(begin, command)
            return True
        if self._ending:
            queue.extendleft(reversed(self._answer(command.token, _INTERRUPTED)))
            return True
        self._wait(WAITING[kind], command)
        return False

    def _execute_aside(self, command: ControlCommand, queue: deque[Command]) -> None:
        """Execute a command that nothing waits for but its answer."""
        kind = type(command)
        do = IMMEDIATE.get(kind)
        result = None if do is None else self._do(do, command)
        if isinstance(result, Result):
            queue.extendleft(reversed(self._answer(command.token, result)))
        elif result is not None and not self._ending:
            self._start(lambda *_: _after(result), command)
        elif self._ending:
            queue.extendleft(reversed(self._answer(command.token, _INTERRUPTED)))
        else:
            self._start(WAITING[kind], command)

    def _do(self, do: Do, command: Answered) -> Result | Awaitable[None]:
        try:
            changed = audited.change(self.peer.broker, command)
            result = do(self.peer, command) or ACCEPTED
        except MqliftError as error:
            return result_of(error)
        if changed is not None:
            audited.tell(self.peer, self._host.number, changed)
        return result

    def _start(self, wait: Wait, command: ControlCommand | Get) -> None:
        task = self._loop.create_task(self._answer_aside(wait, command))
        self._beside[task] = command
        task.add_done_callback(self._ended_aside)

    async def _answer_aside(self, wait: Wait, command: ControlCommand | Get) -> None:
        try:
            result = await self._wait_audited(wait, command)
        except MqliftError as error:
            result = result_of(error)
        task = asyncio.current_task()
        assert task is not None
        self._beside.pop(task, None)  # what follows may be the end, which interrupts what is beside
        if self._left:
            if isinstance(result, Got) and result.delivery is not None:
                result.delivery.source.settle(result.delivery, Outcome.RELEASED)
            return
        self.insert(self._answer(command.token, result))
        if isinstance(result, Got) and result.delivery is not None and result.delivery.large is not None:
            self._host.carry(result.delivery)
        self._host.flush_soon()

    def _ended_aside(self, task: asyncio.Task[None]) -> None:
        self._beside.pop(task, None)
        self._waited(task)

    def _call_off(self) -> list[ControlCommand]:
        """Interrupt what is executed aside. But a message that is on its way to somebody is waited for, or it would
        stay hidden until its visibility ends.
        """
        interrupted: list[ControlCommand] = []
        for task, command in list(self._beside.items()):
            if not isinstance(command, Get):
                task.cancel()
                del self._beside[task]
                interrupted.append(command)
        return interrupted

    def _begin(self, begin: Begin, command: Answered) -> None:
        def start(done: Done) -> None:
            try:
                begin(self.peer, command, done)
            except MqliftError as error:
                done(error)

        self._host.begin(start, command.token)

    def _wait(self, wait: Wait, command: Answered) -> None:
        self._host.pause(_WAITS)
        self._token = command.token
        self._task = self._loop.create_task(self._wait_for(wait, command))
        self._task.add_done_callback(self._waited)

    async def _wait_for(self, wait: Wait, command: Answered) -> None:
        """Execute a command that may take a while, then those behind it."""
        try:
            result = await self._wait_audited(wait, command)
        except MqliftError as error:
            result = result_of(error)
            if isinstance(command, Authenticate) and isinstance(error, NotAuthorized):
                self._metrics.logins_refused.inc()
        self._task = None
        followers = deque(self._answer(command.token, result))
        followers.extend(self._queue or ())
        self._host.resume(_WAITS)
        self._run(followers)
        self._host.flush_soon()

    async def _wait_audited(self, wait: Wait, command: Answered) -> Result:
        changed = audited.change(self.peer.broker, command)
        result = await wait(self.peer, command)
        if changed is not None:
            audited.tell(self.peer, self._host.number, changed)
        return result

    def _waited(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("command_failed_unexpectedly", connection=self._host.number, exc_info=error)
            self._host.abort()

    def _interrupt(self) -> None:
        """Give up the commands that wait, and say so to a session that is still there."""
        for command in self._call_off():
            if not self._left:
                self._run(deque(self._answer(command.token, _INTERRUPTED)))
        if self._task is None:
            return
        self._task.cancel()
        self._task = None
        self._host.resume(_WAITS)
        if not self._left:
            self._run(deque(self._answer(self._token, _INTERRUPTED)))

    def _answer(self, token: object, result: Result) -> Sequence[Command]:
        return self._session.answer(token, result, self._loop.time())


async def _after(durable: Awaitable[None]) -> Result:
    await durable
    return ACCEPTED


_INTERRUPTED: Final = Result(Outcome.RELEASED, Unavailable("the connection ends before this was done"))
