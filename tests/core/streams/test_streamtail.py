"""The broker and its streams: where declared ones live, what they refuse, and topics that a stream feeds."""

from __future__ import annotations

import pytest

from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.backend import QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Consume, Presence
from gateway.core.errors import Inequivalent, InvalidArgument, NotSupported, Unavailable
from gateway.core.health import Health
from gateway.core.message import TOPIC_EXCHANGE, Address, Message
from gateway.core.outcome import Outcome
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Pattern, QueueMatch, Routes, Rule, RuleTarget, TopicMatch
from gateway.core.streams.port import StreamRecord
from gateway.core.topology import Topology
from tests.rig.clock import at_end, on_clock, settle_down, until
from tests.rig.scripted import Consumer, ScriptedBackend, new_metrics
from tests.rig.stream_log import StreamLog

STREAM = QueueSpec(arguments={"x-queue-type": "stream"})
LIVE = QueueSpec(durable=False, exclusive=True, auto_delete=True, lossy=True)
FED = Rule(
    "routes.0",
    TopicMatch(Pattern.topic("fed/#")),
    (RuleTarget.of(Target(kind="stream", name="log", tail="fed/x"), frozenset()),),
)
IN_SQS = Rule(
    "routes.1", QueueMatch(Pattern.name("q")), (RuleTarget.of(Target(kind="scripted", name="q"), frozenset()),)
)

RULED = Rule(
    "routes.2", QueueMatch(Pattern.name("ruled")), (RuleTarget.of(Target(kind="stream", name="r"), frozenset()),)
)


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity(user="")


class Rig:
    def __init__(self) -> None:
        self.log = StreamLog("0")
        self.plain = ScriptedBackend()
        self.store = MemoryStore()
        self.broker = self.open()
        self.client = Consumer()

    def open(self) -> Broker:
        broker = Broker(
            topology=Topology(),
            routes=Routes([FED, IN_SQS, RULED]),
            backends={"scripted": self.plain, "stream": self.log},
            home="scripted",
            stream_home="stream",
            authenticator=Anyone(),
            sending=BatchPolicy(timeout=5.0, backoff_base=0.1, backoff_cap=0.5),
            receiving=ReceivePolicy(),
            limits=BrokerLimits(),
            store=self.store,
            metrics=new_metrics(),
            health=Health(),
        )
        at_end(broker.aclose)
        return broker

    def come(self, body: bytes, topic: str = "fed/x") -> None:
        """Somebody writes to the stream."""
        message = Message(Address(TOPIC_EXCHANGE, topic.replace("/", ".")), body)
        records = self.log.logs["0"].records
        records.append(StreamRecord(str(len(records) + 1), [message], self.log.now, len(body)))


@on_clock
async def test_a_declared_stream_lives_where_streams_do_and_is_there_again() -> None:
    rig = Rig()
    await rig.broker.declare_queue("orders", STREAM, rig.client, Presence.EQUIVALENT)
    assert (rig.log.ensured, rig.plain.ensured) == (["orders"], [])
    again = rig.open()
    await again.restore()
    rig.log.write("0", "a")
    again.consume(Consume("t", "orders", 5, None, arguments={"x-stream-offset": "first"}), rig.client)
    await until(lambda: rig.client.bodies == [b"a"], "a")
    with pytest.raises(Inequivalent):
        await again.declare_queue("orders", QueueSpec(), rig.client, Presence.EQUIVALENT)


@on_clock
async def test_what_is_no_stream() -> None:
    rig = Rig()
    for arguments in ({"x-max-priority": 5}, {"x-message-ttl": 5}, {"x-queue-type": "quorum"}):
        with pytest.raises(InvalidArgument):
            await rig.broker.declare_queue("ruled", QueueSpec(arguments=arguments), rig.client)
    assert rig.log.ensured == []
    with pytest.raises(NotSupported, match="has no streams"):
        await rig.broker.declare_queue("q", STREAM, rig.client)
    for spec in (
        QueueSpec(durable=False, arguments=STREAM.arguments),
        QueueSpec(exclusive=True, arguments=STREAM.arguments),
        QueueSpec(arguments={**STREAM.arguments, "x-message-ttl": 5}),
        QueueSpec(arguments={"x-queue-type": "river"}),
    ):
        with pytest.raises(InvalidArgument):
            await rig.broker.declare_queue("orders", spec, rig.client)
    await rig.broker.declare_queue("q", QueueSpec(), rig.client)
    with pytest.raises(InvalidArgument, match="no stream"):
        rig.broker.consume(Consume("t", "q", 5, None, arguments={"x-stream-offset": "first"}), rig.client)


@on_clock
async def test_purging_and_getting_are_refused_and_deleting_tells_consumers() -> None:
    rig = Rig()
    removed: list[str] = []

    async def remove(target: Target) -> None:
        removed.append(target.name)

    rig.log.remove = remove  # type: ignore[attr-defined]
    for name in ("orders", "others"):
        await rig.broker.declare_queue(name, STREAM, rig.client)
        reading = rig.broker.consume(Consume("t", name, 5, None, arguments={"name": "app"}), rig.client)
        assert reading.begun is not None
        await reading.begun
    with pytest.raises(NotSupported):
        await rig.broker.purge_queue("orders", rig.client)
    with pytest.raises(NotSupported):
        await rig.broker.get("orders", rig.client)
    await rig.broker.delete_queue("orders", rig.client)
    assert removed == ["orders"]
    assert {record.key.split('"')[1] for record in await rig.store.scan("stream")} == {"others"}


async def watched(rig: Rig) -> None:
    """The tail of the stream is read."""
    await rig.broker._tails.start()
    await rig.broker.declare_queue("live", LIVE, rig.client)
    rig.broker.bind("live", TOPIC_EXCHANGE, "fed.#")
    rig.broker.consume(Consume("t", "live", 100, None), rig.client)


@on_clock
async def test_what_a_stream_has_reaches_live_subscribers_and_our_own_comes_once() -> None:
    rig = Rig()
    rig.come(b"old")
    await watched(rig)
    rig.broker.publish(Message(Address(TOPIC_EXCHANGE, "fed.y"), b"ours"), rig.client, 1)
    await until(lambda: rig.client.answers, "accepted")
    assert rig.client.outcome_of(1) is Outcome.ACCEPTED
    assert rig.log.sent == [[b"ours"]]
    assert rig.client.bodies == []
    rig.come(b"ours", "fed/y")
    rig.come(b"theirs")
    await until(lambda: len(rig.client.bodies) == 2, "both")
    await settle_down()
    assert [(each.message.address.routing_key, each.message.body) for each in rig.client.deliveries] == [
        ("fed.y", b"ours"),
        ("fed.x", b"theirs"),
    ]
    assert not rig.client.deliveries[0].message.headers


@on_clock
async def test_durable_queues_get_what_is_published_at_once_and_not_from_the_stream() -> None:
    rig = Rig()
    await watched(rig)
    await rig.broker.declare_queue("q", QueueSpec(), rig.client)
    rig.broker.bind("q", TOPIC_EXCHANGE, "fed.#")
    rig.broker.publish(Message(Address(TOPIC_EXCHANGE, "fed.y"), b"ours"), rig.client, 1)
    await until(lambda: rig.client.answers, "accepted")
    rig.come(b"theirs")
    await until(lambda: rig.client.bodies == [b"theirs"], "live")
    assert rig.plain.sent == [[b"ours"]]


@on_clock
async def test_a_tail_that_could_not_begin_is_tried_again() -> None:
    rig = Rig()
    rig.log.failures = [Unavailable("down")] * 100
    await watched(rig)
    rig.log.failures = []
    await rig.broker._tails.start()
    rig.come(b"a")
    await until(lambda: rig.client.bodies == [b"a"], "a")
