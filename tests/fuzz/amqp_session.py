"""`open_session` of AMQP 0-9-1 as a target: clients that declare, publish and consume on a few channels."""

from __future__ import annotations

import random
import struct
from typing import Final

from gateway.core.message import HeaderValue, Properties
from gateway.protocols.amqp091 import session as amqp_session
from gateway.protocols.amqp091.content import write_content
from gateway.protocols.amqp091.frames import PROTOCOL_HEADER, FrameType
from gateway.protocols.amqp091.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicPublish,
    BasicQos,
    BasicRecover,
    BasicReject,
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelOpen,
    ConfirmSelect,
    ConnectionClose,
    ConnectionOpen,
    ConnectionStartOk,
    ConnectionTuneOk,
    ConnectionUpdateSecret,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
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
from gateway.protocols.amqp091.settings import Settings
from gateway.protocols.amqp091.writer import HEARTBEAT, write_frame, write_method
from tests.fuzz.amqp_client import AmqpClient
from tests.fuzz.cases import Case, often
from tests.fuzz.codecs import Deadline
from tests.fuzz.hub import Hub
from tests.fuzz.mutations import mutate
from tests.fuzz.sessions import NARROW, NARROW_STATE_BYTES, START, WIDE_STATE_BYTES, context, conversation

NARROW_AMQP: Final = Settings(
    frame_max=4096,
    channel_max=3,
    max_message_size=1024,
    max_unfinished_bytes=2048,
    max_held_bytes=2048,
    unlimited_prefetch=3,
    max_prefetch=5,
    max_unacknowledged=8,
    max_consumers=4,
    max_transaction_messages=5,
    max_transaction_bytes=2048,
)

QUEUES: Final = ("q", "q", "", "orders", "amq.gen-x", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.g-x", "é" * 100)
EXCHANGES: Final = ("", "x", "amq.topic", "amq.mine", "none")
ARGUMENTS: Final[tuple[dict[str, HeaderValue], ...]] = (
    {},
    {},
    {"x-expires": 1},
    {"alternate-exchange": "y"},
    {"alternate-exchange": 5},
    {"x-priority": 3},
    {"x-priority": "high"},
)
PROPERTIES: Final = (
    Properties(),
    Properties(delivery_mode=2),
    Properties(reply_to="amq.rabbitmq.reply-to"),
    Properties(user_id="guest"),
    Properties(user_id="other"),
    Properties(expiration=5),
)
HEADERS: Final[tuple[dict[str, HeaderValue], ...]] = (
    {},
    {},
    {"CC": ["a", 1], "BCC": ["b"]},
    {"CC": "a"},
    {"own": [1, {"a": None}]},
)


class ConversationMaker:
    """What a client sends."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def opening(self) -> bytes:
        """A handshake, mostly all of it, and channels."""
        rng = self._rng
        capabilities: dict[str, HeaderValue] = dict.fromkeys(
            ("consumer_cancel_notify", "connection.blocked", "authentication_failure_close"), rng.random() < 0.8
        )
        tune = ConnectionTuneOk(channel_max=3, frame_max=4096, heartbeat=rng.choice((0, 1, 60)))
        steps: list[Method] = [
            ConnectionStartOk(client_properties={"capabilities": capabilities}, response=b"\0guest\0guest"),
            tune if rng.random() < 0.95 else ConnectionTuneOk(channel_max=9, frame_max=1, heartbeat=1),
            ConnectionOpen(virtual_host=often(rng, {"/": 20, "no": 1})),
        ]
        opened = b"".join(write_method(channel, ChannelOpen()) for channel in (1, 2, 3)[: rng.randint(1, 3)])
        return PROTOCOL_HEADER + b"".join(write_method(0, step) for step in steps) + opened

    def frames(self) -> bytes:
        """One method, with its content."""
        rng = self._rng
        channel = often(rng, {1: 10, 2: 4, 3: 2, 0: 0.1, 9: 0.1})
        if rng.random() < 0.35:
            return self.publish(channel)
        if rng.random() < 0.02:
            return rng.choice((HEARTBEAT, write_method(0, ConnectionUpdateSecret(new_secret=b"s"))))
        return write_method(channel, self._method())

    def publish(self, channel: int) -> bytes:
        rng = self._rng
        body = rng.choice((b"", b"hello", b"x" * 900, b"x" * 1500))
        method = BasicPublish(
            exchange=rng.choice(EXCHANGES),
            routing_key=rng.choice(QUEUES),
            mandatory=rng.random() < 0.3,
            immediate=rng.random() < 0.01,
        )
        header = struct.pack(">HHQ", 60, 0, len(body)) + write_content(rng.choice(PROPERTIES), rng.choice(HEADERS))
        size = rng.choice((400, 4000))
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        frames = [
            write_method(channel, method),
            write_frame(FrameType.HEADER, channel, header),
            *(write_frame(FrameType.BODY, channel, piece) for piece in pieces),
        ]
        return b"".join(frames[: rng.choice((1, 2)) if rng.random() < 0.05 else None])

    def _method(self) -> Method:
        rng = self._rng
        queue, exchange, other = rng.choice(QUEUES), rng.choice(EXCHANGES), rng.choice(EXCHANGES)
        arguments, tag, flag, no_wait = rng.choice(ARGUMENTS), rng.randrange(6), rng.random() < 0.3, rng.random() < 0.1
        common: tuple[Method, ...] = (
            QueueDeclare(queue=queue, passive=flag, exclusive=rng.random() < 0.3, no_wait=no_wait, arguments=arguments),
            QueueBind(queue=queue, exchange=exchange, no_wait=no_wait),
            ExchangeDeclare(exchange=exchange, passive=flag, arguments=arguments),
            BasicConsume(queue=queue, consumer_tag=f"c{rng.randrange(99)}", no_ack=flag, no_wait=no_wait),
            BasicGet(queue=queue, no_ack=flag),
            BasicAck(delivery_tag=tag, multiple=flag),
            ConfirmSelect(no_wait=no_wait),
            ChannelCloseOk(),
            ChannelOpen(),
        )
        rare: tuple[Method, ...] = (
            QueueUnbind(queue=queue, exchange=exchange),
            QueueDelete(queue=queue, if_unused=flag),
            QueuePurge(queue=queue),
            ExchangeBind(destination=exchange, source=other),
            ExchangeDelete(exchange=exchange),
            BasicConsume(queue=queue, consumer_tag="c1", arguments=arguments),
            BasicCancel(consumer_tag=f"c{rng.randrange(99)}"),
            BasicQos(prefetch_count=rng.choice((0, 1, 99)), is_global=flag),
            BasicNack(delivery_tag=tag, multiple=flag, requeue=no_wait),
            BasicReject(delivery_tag=tag, requeue=flag),
            BasicRecover(requeue=rng.random() < 0.9),
            TxSelect(),
            TxCommit(),
            TxRollback(),
            ChannelFlow(active=rng.random() < 0.9),
            ChannelClose(reply_code=200),
        )
        if rng.random() < 0.005:
            return ConnectionClose(reply_code=200)
        return rng.choice(common if rng.random() < 0.7 else rare)


class AmqpSession:
    """`open_session` of AMQP 0-9-1."""

    name = "amqp-session"

    def generate(self, rng: random.Random) -> Case:
        maker = ConversationMaker(rng)

        def damage(wire: bytes) -> bytes:
            return mutate(rng, wire, maker.publish(1))

        steps = conversation(rng, maker.opening(), maker.frames, damage)
        return Case(target=self.name, options={NARROW: rng.randint(0, 1)}, steps=steps)

    def run(self, case: Case) -> None:
        narrow = case.options[NARROW]
        settings = NARROW_AMQP if narrow else Settings()
        session = amqp_session.open_session(context(settings), START)
        state_bytes = NARROW_STATE_BYTES if narrow else WIDE_STATE_BYTES
        with Deadline():
            Hub(session, AmqpClient(), START, state_bytes).run(case.steps)
