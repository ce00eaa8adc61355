"""One channel: frames to the part that they belong to, in order.

Where a method has to wait for the hub, what comes behind it on the channel waits too; other channels go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from gateway.core.commands import Aside, Get, Got
from gateway.core.delivery import Delivery
from gateway.core.outcome import Outcome, Result
from gateway.protocols.amqp091.arguments import method_payload
from gateway.protocols.amqp091.assembly import Assembly
from gateway.protocols.amqp091.consuming import Consuming
from gateway.protocols.amqp091.content import write_content
from gateway.protocols.amqp091.errors import AmqpError, ChannelException, ConnectionException, ReplyCode
from gateway.protocols.amqp091.frames import BodyFrame, HeaderFrame, MethodFrame, Publication
from gateway.protocols.amqp091.link import Link
from gateway.protocols.amqp091.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicQos,
    BasicRecover,
    BasicRecoverAsync,
    BasicReject,
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelFlowOk,
    ConfirmSelect,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
    ExchangeUnbind,
    Method,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueuePurge,
    QueueUnbind,
    TxCommit,
    TxRollback,
    TxSelect,
)
from gateway.protocols.amqp091.procedures import Procedure
from gateway.protocols.amqp091.publishing import Publishing
from gateway.protocols.amqp091.refusals import channel_error, connection_error
from gateway.protocols.amqp091.topology import Topology

HELD_FRAME_BYTES: Final = 512
"""What a frame that waits costs, besides its bytes on the wire."""

ChannelFrame: TypeAlias = Publication | MethodFrame | HeaderFrame | BodyFrame


class Owner(Protocol):
    """The connection, which knows its channels by their numbers."""

    def forget(self, channel: Channel) -> None:
        """The channel's number is free."""


class Channel:
    """One channel, from `channel.open` until its number is free again."""

    __slots__ = (
        "_assembly",
        "_held",
        "_link",
        "_owner",
        "_procedure",
        "closing",
        "consuming",
        "number",
        "publishing",
        "ready",
        "serial",
        "topology",
    )

    def __init__(self, link: Link, owner: Owner, number: int, serial: int) -> None:
        self.number = number
        self.serial = serial
        self.publishing = Publishing(link, number, serial, self)
        self.topology = Topology(link, number, self)
        self.consuming = Consuming(link, number, self, self.topology, self.publishing)
        self.ready = True
        """Whether a whole publication may go to `publishing` without a look at anything else."""
        self._link = link
        self._owner = owner
        self.closing = False
        """`channel.close` was sent: nothing counts but its answer (spec §1.5.2.5)."""
        self._procedure: Procedure | None = None
        self._held: deque[tuple[ChannelFrame, int]] = deque()
        """Frames that wait, and what each costs."""
        self._assembly: Assembly | None = None

    # Frames

    def publish(self, frame: Publication) -> None:
        """A whole message, while the channel is `ready`. Raises `ConnectionException`."""
        try:
            procedure = self.publishing.publish(frame.method, frame.content, frame.body)
            if procedure is not None:
                self._start(procedure)
        except ChannelException as error:
            self.fail(error)

    def receive(self, frame: ChannelFrame) -> None:
        """Raises `ConnectionException`."""
        if self._procedure is not None and not self.closing:
            self._hold(frame)
        else:
            self._handle(frame)

    def _hold(self, frame: ChannelFrame) -> None:
        weight = _weight(frame)
        self._held.append((frame, weight))
        self._link.held += weight

    def _handle(self, frame: ChannelFrame) -> None:
        if self.closing:
            self._handle_closing(frame)
            return
        try:
            if isinstance(frame, Publication):
                self._no_content_expected()
                self.publish(frame)
            elif isinstance(frame, MethodFrame):
                self._no_content_expected()
                self._receive_method(frame.method)
            else:
                self._receive_content(frame)
        except ChannelException as error:
            self.fail(error)

    def _handle_closing(self, frame: ChannelFrame) -> None:
        if isinstance(frame, MethodFrame):
            if isinstance(frame.method, ChannelCloseOk):
                self._owner.forget(self)
            elif isinstance(frame.method, ChannelClose):  # both sides have closed it
                self._link.write(self.number, ChannelCloseOk())

    def _receive_method(self, method: Method) -> None:
        handle = _METHODS.get(type(method))
        if handle is None:
            raise connection_error(ReplyCode.COMMAND_INVALID, "unimplemented method", type(method))
        procedure = handle(self, method)
        if procedure is not None:
            self._start(procedure)

    # Content

    def _no_content_expected(self) -> None:
        if self._assembly is not None:
            raise self._assembly.unexpected()

    def _begin_content(self, method: BasicPublish) -> None:
        self._assembly = Assembly(method)
        self.ready = False

    def _receive_content(self, frame: HeaderFrame | BodyFrame) -> None:
        assembly = self._assembly
        if assembly is None:
            problem = "expected method frame, got non method frame instead"
            raise ConnectionException(ReplyCode.UNEXPECTED_FRAME, problem)
        if isinstance(frame, HeaderFrame):
            if assembly.content is not None:
                raise assembly.unexpected()
            self._check_size(frame.body_size)
            assembly.begin(frame)
            self._link.unfinished += assembly.size
        elif assembly.content is None:
            raise assembly.unexpected()
        else:
            assembly.add(frame)
        if assembly.complete and assembly.content is not None:
            self._drop_content()
            self._start(self.publishing.publish(assembly.method, assembly.content, assembly.body()))

    def _check_size(self, size: int) -> None:
        settings = self._link.settings
        if size > settings.max_message_size:
            problem = f"message size {size} is larger than configured max size {settings.max_message_size}"
            raise channel_error(ReplyCode.PRECONDITION_FAILED, problem, BasicPublish)
        if self._link.unfinished + size > settings.max_unfinished_bytes:
            problem = f"more than {settings.max_unfinished_bytes} bytes of unfinished messages on this connection"
            raise channel_error(ReplyCode.RESOURCE_ERROR, problem, BasicPublish)

    def _drop_content(self) -> None:
        if self._assembly is not None:
            self._link.unfinished -= self._assembly.size
            self._assembly = None
        self.ready = self._procedure is None and not self.closing

    # Waiting

    def _start(self, procedure: Procedure | None) -> None:
        if procedure is None:
            return
        self._procedure = procedure
        self.ready = False
        self._link.waiting += 1
        self._advance(procedure, None)

    def _advance(self, procedure: Procedure, result: Result | None) -> None:
        try:
            command = next(procedure) if result is None else procedure.send(result)
        except StopIteration:
            self._end_procedure()
        except AmqpError:
            self._end_procedure()
            raise
        else:
            if isinstance(command, Get):
                self._link.commands.append(command)
            elif command is not None:
                self._link.commands.append(Aside(command))

    def _end_procedure(self) -> None:
        self._procedure = None
        self._link.waiting -= 1
        self.ready = self._assembly is None and not self.closing

    def answered(self, result: Result) -> None:
        """The hub's answer to what the channel waits for. Raises `ConnectionException`."""
        procedure = self._procedure
        if procedure is None:
            return
        if self.closing:
            self._abandon(procedure, result)
            return
        try:
            self._advance(procedure, result)
        except ChannelException as error:
            self.fail(error)
        while self._held and self._procedure is None:
            frame, weight = self._held.popleft()
            self._link.held -= weight
            self._handle(frame)

    def _abandon(self, procedure: Procedure, result: Result) -> None:
        """Nobody waits for it any more; but a message that has come must not stay here."""
        procedure.close()
        self._end_procedure()
        if isinstance(result, Got) and result.delivery is not None:
            self._link.settle((result.delivery,), Outcome.RELEASED)

    def published(self, token: int, result: Result) -> None:
        """The hub's result of a publish. Raises `ConnectionException`."""
        if self.closing:
            return
        try:
            result_of_all = self.publishing.answered(token, result)
        except ChannelException as error:
            self.fail(error)
        else:
            if result_of_all is not None:
                self.answered(result_of_all)

    # The end

    def fail(self, error: ChannelException) -> None:
        """Close the channel, and say why."""
        if self.closing:
            return
        held = self._end()
        self._link.write(
            self.number,
            ChannelClose(
                reply_code=error.reply_code,
                reply_text=error.reply_text,
                class_id=error.class_id,
                method_id=error.method_id,
            ),
        )
        if any(isinstance(frame, MethodFrame) and isinstance(frame.method, ChannelClose) for frame in held):
            self._link.write(self.number, ChannelCloseOk())  # both sides have closed it

    def _end(self) -> list[ChannelFrame]:
        """Stop everything. Returns the frames that nobody looks at any more."""
        self.closing = True
        held = [frame for frame, _ in self._held]
        self._link.held -= sum(weight for _, weight in self._held)
        self._held.clear()
        self._drop_content()
        self.publishing.end()
        self.consuming.end()
        return held

    def _close(self, _: ChannelClose) -> None:
        self._end()
        self._link.write(self.number, ChannelCloseOk())
        self._owner.forget(self)

    def _flow(self, method: ChannelFlow) -> None:
        if not method.active:  # as RabbitMQ, which leaves that to prefetch
            raise connection_error(ReplyCode.NOT_IMPLEMENTED, "active=false", ChannelFlow)
        self._link.write(self.number, ChannelFlowOk(active=True))

    def _roll_back(self, method: TxRollback) -> None:
        self.consuming.restore(self.publishing.tx_rollback(method))

    def unsettled(self) -> list[Delivery]:
        """What the client has not settled."""
        return self.consuming.unsettled()


def _weight(frame: ChannelFrame) -> int:
    """What a frame costs that waits."""
    match frame:
        case Publication(content=content, body=body):
            return HELD_FRAME_BYTES + len(body) + len(write_content(content.properties, content.headers))
        case HeaderFrame(content=content):
            return HELD_FRAME_BYTES + len(write_content(content.properties, content.headers))
        case BodyFrame(payload=payload):
            return HELD_FRAME_BYTES + len(payload)
        case MethodFrame(method=method):
            return HELD_FRAME_BYTES + len(method_payload(method))


_Handler: TypeAlias = Callable[[Channel, Any], Procedure | None]

_METHODS: Final[Mapping[type[Method], _Handler]] = {
    BasicPublish: Channel._begin_content,  # noqa: SLF001 - the class's own table
    BasicAck: lambda channel, method: channel.consuming.ack(method),
    BasicNack: lambda channel, method: channel.consuming.nack(method),
    BasicReject: lambda channel, method: channel.consuming.reject(method),
    BasicGet: lambda channel, method: channel.consuming.get(method),
    BasicConsume: lambda channel, method: channel.consuming.consume(method),
    BasicCancel: lambda channel, method: channel.consuming.cancel(method),
    BasicQos: lambda channel, method: channel.consuming.qos(method),
    BasicRecover: lambda channel, method: channel.consuming.recover(method),
    BasicRecoverAsync: lambda channel, method: channel.consuming.recover(method),
    ExchangeDeclare: lambda channel, method: channel.topology.declare_exchange(method),
    ExchangeDelete: lambda channel, method: channel.topology.delete_exchange(method),
    ExchangeBind: lambda channel, method: channel.topology.bind_exchange(method),
    ExchangeUnbind: lambda channel, method: channel.topology.unbind_exchange(method),
    QueueDeclare: lambda channel, method: channel.topology.declare_queue(method),
    QueueDelete: lambda channel, method: channel.topology.delete_queue(method),
    QueueBind: lambda channel, method: channel.topology.bind_queue(method),
    QueueUnbind: lambda channel, method: channel.topology.unbind_queue(method),
    QueuePurge: lambda channel, method: channel.topology.purge_queue(method),
    ConfirmSelect: lambda channel, method: channel.publishing.confirm_select(method),
    TxSelect: lambda channel, method: channel.publishing.tx_select(method),
    TxCommit: lambda channel, method: channel.publishing.tx_commit(method),
    TxRollback: Channel._roll_back,  # noqa: SLF001
    ChannelFlow: Channel._flow,  # noqa: SLF001
    ChannelClose: Channel._close,  # noqa: SLF001
}
