"""Channels in any order of what clients ask and the hub answers: a client that keeps accounts, and a small hub."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pamqp import frame as pamqp_frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Confirm, Connection, Queue
from pamqp.header import ContentHeader

from gateway.core.commands import (
    Aside,
    Bind,
    Cancel,
    Close,
    Command,
    Consume,
    Counted,
    DeclareQueue,
    DeleteQueue,
    Get,
    Got,
    Presence,
    Publish,
    Settle,
)
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.core.session import Session
from gateway.core.topology import Topology, UnknownQueue
from tests.sessions.amqp091.peer import Peer, delivery, published, refused

CHANNELS = st.sampled_from((1, 2, 3))
QUEUES = st.sampled_from(("a", "b"))
KEYS = st.sampled_from(("a", "b", "k"))


class Hub:
    """Executes commands at once, and answers them when it is told to."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.topology = Topology()
        self.topology.declare_exchange("x", ExchangeSpec(type=ExchangeType.DIRECT))
        self.queues: dict[str, deque[tuple[bytes, int]]] = {}
        """Bodies, and how often they came."""
        self.consumers: dict[str, str] = {}
        self.held: dict[int, tuple[Delivery, str]] = {}
        self.answers: list[tuple[object, Result]] = []
        self.accepted: set[bytes] = set()
        """Bodies that the client was done with."""
        self.closed = False

    def run(self, commands: Any) -> None:
        for command in commands:
            plain = command.command if isinstance(command, Aside) else command
            assert not self.closed or isinstance(plain, Settle)
            self._execute(plain)

    def _execute(self, command: Command) -> None:
        if isinstance(command, Settle):
            for each in command.deliveries:
                self._settle(each, command.outcome)
        elif isinstance(command, Close):
            self.closed = True
        else:
            try:
                result = self._do(command)
            except MqliftError as error:
                result = refused(error)
            self.answers.append((command.token, result))  # type: ignore[union-attr]

    def _do(self, command: Command) -> Result:  # noqa: C901 - a table of commands
        match command:
            case Publish(message=message):
                queues = self.topology.route(*message.address)
                for queue in queues:
                    self.queues[queue].append((message.body, 1))
                return ACCEPTED if queues else UNROUTED
            case DeclareQueue(queue=queue, presence=presence):
                if presence is Presence.REQUIRED and queue not in self.queues:
                    raise UnknownQueue(queue)
                self.topology.declare_queue(queue)
                self.queues.setdefault(queue, deque())
                return Counted(len(self.queues[queue]))
            case DeleteQueue(queue=queue):
                self.topology.delete_queue(queue)
                for tag in [tag for tag, source in self.consumers.items() if source == queue]:
                    del self.consumers[tag]
                    self.run(self.session.cancelled(tag))
                return Counted(len(self.queues.pop(queue, ())))
            case Bind():
                self.topology.bind(command.queue, command.exchange, command.pattern)
            case Consume():
                self._queue(command.queue)
                self.consumers[command.tag] = command.queue
            case Cancel():
                self.consumers.pop(command.tag, None)
            case Get(queue=queue):
                return Got(self._take(queue) if self._queue(queue) else None)
            case _:
                raise AssertionError(command)
        return ACCEPTED

    def _queue(self, queue: str) -> deque[tuple[bytes, int]]:
        if queue not in self.queues:
            raise UnknownQueue(queue)
        return self.queues[queue]

    def _take(self, queue: str) -> Delivery:
        body, attempt = self.queues[queue].popleft()
        taken = delivery(body, attempt=attempt)
        self.held[id(taken)] = taken, queue
        return taken

    def _settle(self, settled: Delivery, outcome: Outcome) -> None:
        _, queue = self.held.pop(id(settled))
        body = settled.message.body
        if outcome is Outcome.RELEASED:
            if queue in self.queues:
                self.queues[queue].appendleft((body, settled.attempt + 1))
        else:
            self.accepted.add(body)

    def answer(self, choice: int) -> None:
        token, result = self.answers.pop(choice % len(self.answers))
        self.run(self.session.answer(token, result, 0.0))

    def deliver(self, choice: int) -> None:
        ready = [tag for tag, queue in self.consumers.items() if self.queues.get(queue)]
        if ready:
            tag = ready[choice % len(ready)]
            taken = self._take(self.consumers[tag])
            if not self.session.deliver(tag, taken):
                self._settle(taken, Outcome.ACCEPTED)


class Side:
    """One channel as its client sees it."""

    def __init__(self) -> None:
        self.expected: deque[tuple[type, ...]] = deque()
        """Answers that have to come, in this order."""
        self.closing = False
        self.consumers: set[str] = set()
        self.last_tag = 0
        self.held: dict[int, bytes] = {}
        self.automatic: set[str] = set()
        self.automatic_gets: deque[bool] = deque()
        self.published = 0
        self.unconfirmed: set[int] | None = None


class Channels(RuleBasedStateMachine):
    @initialize()
    def connect(self) -> None:
        peer = Peer()
        peer.connect(tune=(2047, 131072, 0))
        self.session = peer.session
        self.hub = Hub(self.session)
        self.sides: dict[int, Side] = {}
        self.bodies = (str(number).encode() for number in itertools.count())
        self.done: set[bytes] = set()
        """Bodies that the client has acknowledged, or got without need."""

    # The client

    def send(self, channel: int, *methods: Any) -> None:
        self.feed(b"".join(pamqp_frame.marshal(method, channel) for method in methods))

    def feed(self, data: bytes) -> None:
        self.hub.run(self.session.receive_data(data, 0.0))
        self.read()

    def ask(self, channel: int, method: Any, *answers: type) -> None:
        side = self.sides.get(channel)
        if side is not None and not side.closing:
            side.expected.append(answers)
            self.send(channel, method)

    def read(self) -> None:
        data = self.session.data_to_send()
        current: tuple[int, Any] | None = None
        while data:
            count, channel, value = pamqp_frame.unmarshal(data)
            data = data[count:]
            if isinstance(value, ContentBody):
                assert current is not None
                self.content(*current, value.value)
            elif isinstance(value, ContentHeader):
                assert value.body_size
            elif isinstance(value, Basic.Deliver | Basic.GetOk | Basic.Return):
                current = channel, value
            elif channel:
                self.method(channel, value)
            else:
                assert isinstance(value, Connection.CloseOk)

    def method(self, channel: int, method: Any) -> None:
        side = self.sides[channel]
        if isinstance(method, Channel.Close):
            assert method.reply_code == 404
            assert not side.closing or side.expected
            if not side.closing:  # or the answer to its own comes as well
                del self.sides[channel]
            self.send(channel, Channel.CloseOk())
        elif isinstance(method, Channel.CloseOk):
            assert side.closing
            del self.sides[channel]
        elif isinstance(method, Basic.Ack):
            assert side.unconfirmed is not None
            told = {each for each in side.unconfirmed if method.multiple and each <= method.delivery_tag}
            told |= {method.delivery_tag} & side.unconfirmed
            assert told
            side.unconfirmed -= told
        elif isinstance(method, Basic.Cancel):
            side.consumers.remove(method.consumer_tag)
        else:
            assert isinstance(method, side.expected.popleft())
            if isinstance(method, Basic.ConsumeOk):
                side.consumers.add(method.consumer_tag)
            elif isinstance(method, Basic.CancelOk):
                side.consumers.discard(method.consumer_tag)
            elif isinstance(method, Basic.GetEmpty):
                side.automatic_gets.popleft()

    def content(self, channel: int, method: Any, body: bytes) -> None:
        side = self.sides[channel]
        if isinstance(method, Basic.Return):
            return
        side.last_tag += 1
        assert method.delivery_tag == side.last_tag
        if isinstance(method, Basic.GetOk):
            assert Basic.GetOk in side.expected.popleft()
            automatic = side.automatic_gets.popleft()
        else:
            assert method.consumer_tag in side.consumers
            automatic = method.consumer_tag in side.automatic
        if automatic:
            self.done.add(body)
        else:
            side.held[method.delivery_tag] = body

    # What clients do

    @rule(channel=CHANNELS)
    def open(self, channel: int) -> None:
        if channel not in self.sides:
            side = self.sides[channel] = Side()
            side.expected.append((Channel.OpenOk,))
            self.send(channel, Channel.Open())

    @rule(channel=CHANNELS)
    def close(self, channel: int) -> None:
        side = self.sides.get(channel)
        if side is not None and not side.closing:
            side.closing = True
            self.send(channel, Channel.Close(200, "", 0, 0))

    @rule(channel=CHANNELS, queue=QUEUES, passive=st.booleans())
    def declare(self, channel: int, queue: str, passive: bool) -> None:
        self.ask(channel, Queue.Declare(queue=queue, passive=passive), Queue.DeclareOk)

    @rule(channel=CHANNELS, queue=QUEUES)
    def delete(self, channel: int, queue: str) -> None:
        self.ask(channel, Queue.Delete(queue=queue), Queue.DeleteOk)

    @rule(channel=CHANNELS, queue=QUEUES)
    def bind(self, channel: int, queue: str) -> None:
        self.ask(channel, Queue.Bind(queue=queue, exchange="x", routing_key="k"), Queue.BindOk)

    @rule(channel=CHANNELS)
    def confirm(self, channel: int) -> None:
        side = self.sides.get(channel)
        if side is not None and side.unconfirmed is None and not side.closing:
            side.unconfirmed = set()
            side.published = 0
            self.ask(channel, Confirm.Select(), Confirm.SelectOk)

    @rule(channel=CHANNELS, key=KEYS, exchange=st.sampled_from(("", "x", "x", "none")), mandatory=st.booleans())
    def publish(self, channel: int, key: str, exchange: str, mandatory: bool) -> None:
        side = self.sides.get(channel)
        if side is None or side.closing:
            return
        side.published += 1
        if side.unconfirmed is not None:
            side.unconfirmed.add(side.published)
        self.feed(published(channel, key, next(self.bodies), exchange=exchange, mandatory=mandatory))

    @rule(channel=CHANNELS, queue=QUEUES, tag=st.sampled_from(("c", "d")), automatic=st.booleans())
    def consume(self, channel: int, queue: str, tag: str, automatic: bool) -> None:
        side = self.sides.get(channel)
        if side is None or tag in side.consumers or side.expected:
            return  # a tag that is in use closes the connection
        (side.automatic.add if automatic else side.automatic.discard)(tag)
        self.ask(channel, Basic.Consume(queue=queue, consumer_tag=tag, no_ack=automatic), Basic.ConsumeOk)

    @rule(channel=CHANNELS, tag=st.sampled_from(("c", "d")))
    def cancel(self, channel: int, tag: str) -> None:
        self.ask(channel, Basic.Cancel(tag), Basic.CancelOk)

    @rule(channel=CHANNELS, queue=QUEUES, automatic=st.booleans())
    def get(self, channel: int, queue: str, automatic: bool) -> None:
        side = self.sides.get(channel)
        if side is not None and not side.closing:
            side.automatic_gets.append(automatic)
            self.ask(channel, Basic.Get(queue=queue, no_ack=automatic), Basic.GetOk, Basic.GetEmpty)

    @rule(
        channel=CHANNELS,
        choice=st.integers(0, 20),
        multiple=st.booleans(),
        how=st.sampled_from(["ack", "nack", "drop"]),
    )
    def settle(self, channel: int, choice: int, multiple: bool, how: str) -> None:
        side = self.sides.get(channel)
        if side is None or side.closing or not side.held:
            return
        tag = list(side.held)[choice % len(side.held)]
        spoken_of = [each for each in side.held if each == tag or (multiple and each < tag)]
        bodies = {side.held.pop(each) for each in spoken_of}
        if how == "nack":
            self.send(channel, Basic.Nack(tag, multiple=multiple))
            return
        self.done |= bodies
        drop = Basic.Nack(tag, multiple=multiple, requeue=False)
        self.send(channel, Basic.Ack(tag, multiple=multiple) if how == "ack" else drop)

    # What the hub does

    @precondition(lambda self: self.hub.answers)
    @rule(choice=st.integers(0, 50))
    def answer(self, choice: int) -> None:
        self.hub.answer(choice)
        self.read()

    @rule(choice=st.integers(0, 50))
    def deliver(self, choice: int) -> None:
        self.hub.deliver(choice)
        self.read()

    @rule()
    def settle_down(self) -> None:
        """Everything is answered: then nobody waits for anything."""
        while self.hub.answers:
            self.answer(0)
        if self.session.deadline <= 0.0:
            self.hub.run(self.session.tick(0.0))
            self.read()
        for side in self.sides.values():
            assert not side.expected
            assert not side.closing
            assert not side.unconfirmed
        assert not self.session.congested

    # What has to be so

    @invariant()
    def nothing_is_lost_or_settled_twice(self) -> None:
        waiting = [result.delivery for _, result in self.hub.answers if isinstance(result, Got)]
        expected = sorted(key for key in self.hub.held if key not in {id(each) for each in waiting})
        assert sorted(id(each) for each in self.session.unsettled()) == expected

    @invariant()
    def nothing_is_accepted_that_the_client_has_not_got(self) -> None:
        assert self.hub.accepted <= self.done
        assert not self.hub.closed

    def teardown(self) -> None:
        if hasattr(self, "hub"):
            self.settle_down()
            self.send(0, Connection.Close(200, "", 0, 0))
            assert self.hub.closed


TestChannels = Channels.TestCase
TestChannels.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
