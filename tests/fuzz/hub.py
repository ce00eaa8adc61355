"""A model of the gateway around one session: executes its commands as the port says, and watches what it does.

Every freedom that the port leaves is taken by the steps of a case: which command is answered next and how, what is
delivered when, how time passes. `gateway.core.session` is the contract.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, Protocol

from gateway.core.auth import Identity
from gateway.core.backend import Received
from gateway.core.commands import (
    Aside,
    Authenticate,
    Authenticated,
    Cancel,
    ChangePrefetch,
    Close,
    Command,
    Consume,
    ControlCommand,
    Counted,
    DeclareQueue,
    DeleteQueue,
    EndSession,
    Get,
    Got,
    KeepInflight,
    Opened,
    OpenSession,
    Publish,
    PurgeQueue,
    Retain,
    Settle,
)
from gateway.core.delivery import Delivery
from gateway.core.errors import (
    Inequivalent,
    InUse,
    Locked,
    MqliftError,
    NotAuthorized,
    NotFound,
    Refused,
    TooLarge,
    Unavailable,
)
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address, HeaderValue, Message, Origin, Properties
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.core.session import Session
from gateway.core.topology import UnknownExchange, UnknownQueue
from tests.fuzz.cases import Step, Violation
from tests.fuzz.footprint import footprint

MAX_INFLIGHT: Final = 200
"""Publishes without an answer before the hub answers some: a connection stops reading (`ConnectionLimits.inflight`)."""

MAX_WAITING: Final = 200
"""Commands behind one that is not answered, before the hub answers it: here a connection does not read at all."""

MAX_ANSWERS: Final = 100_000
"""Commands of one case. A session that asks for ever is broken."""

OUTPUT_BYTES: Final = 16_384
OUTPUT_PER_BYTE: Final = 400
"""A session writes no more than so much, and so much for each byte that came in: the longest answer is an error's text
to the shortest request. Deliveries count apart."""


class Client(Protocol):
    """The peer: knows what it sent, reads what comes back, and complains."""

    accepted_by_client: float
    """Deliveries that the bytes sent so far can have accepted, at most."""

    def sent(self, data: bytes) -> None:
        """The session is about to be given these bytes."""

    def received(self, data: bytes) -> None:
        """Raises `Violation` for what a server must not write."""

    def react(self, choice: int) -> bytes:
        """What the client answers to what it has received; `choice` decides how. Perhaps nothing."""

    def check(self, hub: Hub) -> None:
        """After each step. Raises `Violation`."""

    def check_settled(self, hub: Hub) -> None:
        """When the hub has answered everything. Raises `Violation`."""


class Consumer:
    """A `Consume` that was executed."""

    __slots__ = ("held", "prefetch")

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch
        self.held = 0


class Queue:
    """Where deliveries come from. A session settles by its commands, never here."""

    name = "queue"

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        raise Violation("a session has settled a delivery by itself")


QUEUE: Final = Queue()


def accepted(command: Command) -> Result:
    """What "yes" looks like: the one place that knows of commands whose result says more."""
    match command:
        case Authenticate():
            return Authenticated(Identity())
        case OpenSession():
            return Opened(None)
        case DeclareQueue() | DeleteQueue() | PurgeQueue():
            return Counted(1, 1)
        case Get():
            return Got(None)
        case _:
            return ACCEPTED


def result_of(command: Command, choice: int) -> Result:
    """Mostly yes; sometimes one of all that can go wrong."""
    if isinstance(command, Get) and choice % 16 < 9:
        return Got(Delivery(Received(message_of(choice), "receipt", 1 + choice % 3 // 2), QUEUE), choice % 5)
    if choice % 16 < 13:
        return UNROUTED if isinstance(command, Publish) and choice % 16 == 12 else accepted(command)
    errors = _LOGIN_ERRORS if isinstance(command, Authenticate) else _ERRORS
    error = errors[choice // 16 % len(errors)]
    return Result(Outcome.REJECTED if choice % 16 == 15 else Outcome.RELEASED, error)


_ERRORS: Final[Sequence[MqliftError | None]] = (
    Unavailable("no answer", resource="sqs queue q", action="sqs:SendMessage"),
    NotFound("there is no such queue"),
    UnknownQueue("q"),
    UnknownExchange("x"),
    Inequivalent("queue", "q", "durable", "true", "false"),
    Locked("q"),
    InUse("consumers"),
    TooLarge("1 byte more than SQS takes"),
    Refused("é\n\0 \ud800 " + "long " * 100),
    None,
)
_LOGIN_ERRORS: Final[Sequence[MqliftError]] = (NotAuthorized("not known"), Unavailable("nobody to ask"))

# What others publish: also what no client of this protocol could.
_KEYS: Final = (
    "a.b",
    "a.b",
    "q",
    "a",
    "",
    "a/b",
    "*",
    "#",
    "$SYS.x",
    "é.☃",
    "a\0b",
    "\ud800",
    "k" * 70_000,
    "x:\n\r\\",
)
_BODIES: Final = (b"", b"hello", b"\0\xff", b"x" * 300, b"y" * 20_000)
_HEADERS: Final[Sequence[Mapping[str, HeaderValue]]] = (
    {},
    {},
    {"own": "value"},
    {"a:b\n": "c\r\\\0", "": "no name", "message-id": "m", "priority": "9"},
    {"number": 1, "yes": True, "none": None, "raw": b"\xff", "list": [1, {"a": None}], "\ud800": "\ud800"},
    {"x": "v" * 70_000},
)
_PROPERTIES: Final[Sequence[Properties]] = (
    Properties(),
    Properties(delivery_mode=2),
    Properties(delivery_mode=1),
    Properties(delivery_mode=2, expiration=0, timestamp=1, priority=9),
    Properties(
        content_type="a\nb\0", correlation_id=b"\xff", reply_to="/queue/r", message_id="\ud800", type="t" * 70_000
    ),
    Properties(reply_to="#", correlation_id="c", user_id="u", app_id="", content_encoding="gzip", expiration=2**40),
)


def message_of(choice: int) -> Message:
    """One of many messages, mostly harmless ones."""
    rng = random.Random(choice)
    key = rng.choice(_KEYS[:3] if rng.random() < 0.7 else _KEYS)
    exchange = rng.choice((TOPIC_EXCHANGE, TOPIC_EXCHANGE, DEFAULT_EXCHANGE, "x\n"))
    properties = rng.choice(_PROPERTIES[:3] if rng.random() < 0.7 else _PROPERTIES)
    headers = rng.choice(_HEADERS[:3] if rng.random() < 0.7 else _HEADERS)
    return Message(Address(exchange, key), rng.choice(_BODIES), properties, headers, Origin("amqp091"))


def _waits(command: Command) -> bool:
    """Whether a command is answered."""
    return hasattr(command, "token")


class Hub:
    """Hosts one session for one case."""

    def __init__(self, session: Session, client: Client, now: float, state_bytes: int) -> None:
        """`state_bytes`: what the session may keep, deliveries and unfinished frames not counted."""
        self.session = session
        self.closed = False
        self.publishes_accepted = 0
        """That somebody waited for."""
        self._client = client
        self._now = now
        self._state_bytes = state_bytes
        self._commands: deque[Command] = deque()
        self._control: Command | None = None
        self._concurrent: list[Publish | Retain | KeepInflight | Get | ControlCommand] = []
        self._consumers: dict[str, Consumer] = {}
        self._held: dict[int, tuple[Delivery, Consumer]] = {}
        self._input_bytes = 0
        self._delivered_bytes = 0
        self._output_bytes = 0
        self._answers = 0
        self._settled_by_client = 0
        self._over = False

    # Steps

    def run(self, steps: Sequence[Step]) -> None:
        """All steps, then the end of the connection. Raises `Violation`, and what the session raises."""
        for kind, value in steps:
            if self._over:
                break
            if isinstance(value, bytes):
                self._feed(value)
            else:
                self._STEPS[kind](self, value)
            self._write()
        if not self._over:
            self._settle_down(0)
            self._write()
            self._lose(0)

    def _feed(self, data: bytes) -> None:
        """Bytes arrive, unless the connection would not read now."""
        while len(self._concurrent) > MAX_INFLIGHT or (self.session.congested and self._concurrent):
            self._answer(0)
        while len(self._commands) > MAX_WAITING and self._control is not None:
            self._answer_control(accepted(self._control))
        self._input_bytes += len(data)
        if not self.closed:
            self._client.sent(data)
            self._execute(self.session.receive_data(data, self._now))
        elif not all(isinstance(command, Settle) for command in self.session.receive_data(data, self._now)):
            raise Violation("commands for what came after the close")

    def _react(self, choice: int) -> None:
        """The client answers what it has received."""
        data = self._client.react(choice)
        if data:
            self._feed(data)

    def _answer(self, choice: int) -> None:
        """One of the commands that wait for an answer gets it."""
        waiting = len(self._concurrent) + (self._control is not None)
        if not waiting:
            return
        number = choice // 64 % waiting
        if number == len(self._concurrent):
            assert self._control is not None
            self._answer_control(result_of(self._control, choice))
        else:
            command = self._concurrent.pop(number)
            result = result_of(command, choice)
            self.publishes_accepted += isinstance(command, Publish) and result.outcome is Outcome.ACCEPTED
            self._note_answer(command, result)
            self._count_answer()
            self._execute(self.session.answer(command.token, result, self._now))

    def _answer_control(self, result: Result) -> None:
        command, self._control = self._control, None
        assert command is not None
        assert not isinstance(command, Publish | Retain | KeepInflight | Settle | EndSession | Close)
        self._note_answer(command, result)
        self._count_answer()
        followers = self.session.answer(command.token, result, self._now)
        self._commands.extendleft(reversed(followers))
        self._run()

    def _note_answer(self, command: Command, result: Result) -> None:
        if isinstance(command, Consume) and result.outcome is not Outcome.ACCEPTED:
            self._consumers.pop(command.tag, None)
        elif isinstance(result, Got) and result.delivery is not None:
            self._delivered_bytes += 10 * len(repr(result.delivery.message))
            self._held[id(result.delivery)] = result.delivery, Consumer(1)

    def _count_answer(self) -> None:
        self._answers += 1
        if self._answers > MAX_ANSWERS:
            raise Violation("the session asks without end")

    def _settle_down(self, _choice: int) -> None:
        """Everything is answered, with yes."""
        while self._concurrent or self._control is not None:
            while self._concurrent:
                self._answer(0)
            if self._control is not None:
                self._answer_control(accepted(self._control))
        self._write()
        if not self.closed:
            self._client.check_settled(self)

    def _deliver(self, choice: int) -> None:
        """A message for one of the consumers that has room."""
        ready = [tag for tag, consumer in self._consumers.items() if consumer.held < consumer.prefetch]
        if self.closed or not ready:
            return
        tag = ready[choice % len(ready)]
        consumer = self._consumers[tag]
        message = message_of(choice)
        delivery = Delivery(Received(message, "receipt", 1 + choice % 3 // 2), QUEUE)
        self._delivered_bytes += 10 * len(repr(message))
        held = self.session.deliver(tag, delivery)
        if held:
            self._held[id(delivery)] = delivery, consumer
            consumer.held += 1

    def _pass_time(self, choice: int) -> None:
        """Eighths of a second pass: they are exact."""
        self._now += choice % 4096 / 8
        if self.closed or self._now < self.session.deadline:
            return
        self._execute(self.session.tick(self._now))
        self._check_deadline()

    def _read_or_not(self, choice: int) -> None:
        if not self.closed:
            self.session.reading(choice % 2 == 0, self._now)

    def _shut_down(self, _choice: int) -> None:
        if not self.closed:
            self._farewell(self.session.shutdown())

    def _take_over(self, _choice: int) -> None:
        if not self.closed:
            self._farewell(self.session.taken_over())

    def _farewell(self, commands: Sequence[Command]) -> None:
        """Executed at once, whatever waits."""
        for command in commands:
            self._perform(command)

    def _lose(self, _choice: int) -> None:
        """The socket is gone; what the session holds is given back."""
        self._check_state()
        for command in self.session.connection_lost():
            if isinstance(command, Publish):
                if command.token is not None:
                    raise Violation("a publish that waits for an answer, from a connection that is lost")
            elif _waits(command) or isinstance(command, Close):
                raise Violation(f"{type(command).__name__} from a connection that is lost")
            else:
                self._perform(command)
        self.closed = True
        for command in self._commands:
            if isinstance(command, Settle):
                self._perform(command)
        unsettled = [id(delivery) for delivery in self.session.unsettled()]
        if sorted(unsettled) != sorted(self._held):
            raise Violation(f"{len(unsettled)} deliveries are unsettled, of {len(self._held)} that were left with it")
        self._over = True

    # Commands

    def _execute(self, commands: Sequence[Command]) -> None:
        self._commands.extend(commands)
        self._run()

    def _run(self) -> None:
        while self._commands and self._control is None:
            self._perform(self._commands.popleft())

    def _perform(self, command: Command) -> None:
        if isinstance(command, Settle):
            self._settle(command)
        elif self.closed:
            if isinstance(command, Close):
                raise Violation("closed twice")
        elif isinstance(command, Close):
            self.closed = True
            self._consumers.clear()
        elif isinstance(command, Publish | Retain | KeepInflight | Get):
            if command.token is not None:
                self._concurrent.append(command)
        elif isinstance(command, Aside):
            self._concurrent.append(command.command)
            self._note(command.command)
        elif isinstance(command, ChangePrefetch):
            command.shared.change(command.limit)
        elif _waits(command):
            self._control = command
            self._note(command)

    def _note(self, command: Command) -> None:
        if isinstance(command, Consume):
            if command.tag in self._consumers:
                raise Violation(f"two consumers of the tag {command.tag!r}")
            # Deliveries may come before the answer to this.
            self._consumers[command.tag] = Consumer(command.prefetch)
        elif isinstance(command, Cancel):
            self._consumers.pop(command.tag, None)

    def _settle(self, command: Settle) -> None:
        for delivery in command.deliveries:
            if id(delivery) not in self._held:
                raise Violation("settled what it does not hold")
            _, consumer = self._held.pop(id(delivery))
            consumer.held -= 1
            self._settled_by_client += command.outcome is Outcome.ACCEPTED
        if self._settled_by_client > self._client.accepted_by_client:
            raise Violation("a delivery is deleted that the client has not acknowledged")

    # What is checked after each step

    def _write(self) -> None:
        data = self.session.data_to_send()
        self._output_bytes += len(data)
        if self._output_bytes > OUTPUT_BYTES + OUTPUT_PER_BYTE * self._input_bytes + self._delivered_bytes:
            raise Violation(f"{self._output_bytes} bytes out for {self._input_bytes} in")
        self._client.received(data)
        self._client.check(self)

    def _check_deadline(self) -> None:
        if not self.closed and self._control is None and self.session.deadline <= self._now:
            raise Violation(f"after tick({self._now}) the deadline is {self.session.deadline}: it would spin")

    def _check_state(self) -> None:
        kept = footprint(self.session, lambda each: isinstance(each, Delivery))
        if kept > self._state_bytes:
            raise Violation(f"the session keeps {kept} bytes; {self._state_bytes} were enough")

    _STEPS: ClassVar[Mapping[str, Callable[[Hub, int], None]]] = {
        "react": _react,
        "answer": _answer,
        "settle down": _settle_down,
        "deliver": _deliver,
        "time": _pass_time,
        "reading": _read_or_not,
        "shutdown": _shut_down,
        "takeover": _take_over,
        "lose": _lose,
    }
