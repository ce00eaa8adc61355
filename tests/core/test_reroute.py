"""What changes while a gateway runs: rules and limits."""

from __future__ import annotations

from typing import TypeVar

import pytest

from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.backend import QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Presence, SessionRecord
from gateway.core.errors import MqliftError, NotSupported, Refused
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.health import Health
from gateway.core.message import RETAIN, TOPIC_EXCHANGE, Address, Message
from gateway.core.outcome import ACCEPTED, UNROUTED, Result
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import QUEUE_KIND, Pattern, QueueMatch, Routes, Rule, RuleTarget, TopicMatch
from gateway.core.shared import SESSION
from gateway.core.topology import Topology
from gateway.core.workerbroker import WorkerBroker
from tests.rig.clock import at_end, on_clock, until
from tests.rig.scripted import Consumer, ScriptedBackend, message, new_metrics

B = TypeVar("B", bound=Broker)


class Open:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity()


def topic(pattern: str, *targets: Target) -> Rule:
    match = TopicMatch(Pattern.topic(pattern))
    return Rule("routes.0", match, tuple(RuleTarget.of(target, match.captures) for target in targets))


def queue(pattern: str, target: Target) -> Rule:
    match = QueueMatch(Pattern.name(pattern))
    return Rule("routes.0", match, (RuleTarget.of(target, match.captures),))


def place(name: str, kind: str = "scripted") -> Target:
    return Target(kind=kind, name=name)


def new_broker(kind: type[B], backend: ScriptedBackend, *rules: Rule) -> B:
    broker = kind(
        topology=Topology(),
        routes=Routes(rules),
        backends={"scripted": backend},
        home="scripted",
        authenticator=Open(),
        sending=BatchPolicy(),
        receiving=ReceivePolicy(),
        limits=BrokerLimits(),
        store=MemoryStore(),
        metrics=new_metrics(),
        health=Health(),
    )
    at_end(broker.aclose)
    return broker


async def publish(broker: Broker, published: Message) -> Result:
    client = Consumer()
    broker.publish(published, client, 1)
    await until(lambda: client.answers, "an answer")
    ((_, result),) = client.answers
    return result


def on_topic(key: str) -> Message:
    return Message(Address(TOPIC_EXCHANGE, key), b"hello")


# Rules


@on_clock
async def test_the_next_message_follows_the_new_rules() -> None:
    old, new = ScriptedBackend(), ScriptedBackend()
    broker = new_broker(Broker, old, topic("a/#", place("one")))
    assert await publish(broker, on_topic("a.b")) is ACCEPTED
    assert broker.reroute(Routes([topic("a/#", place("two", "other"))]), {"other": new}) == []
    assert await publish(broker, on_topic("a.b")) is ACCEPTED
    assert (len(old.sent), len(new.sent)) == (1, 1)
    broker.reroute(Routes(), {})
    assert await publish(broker, on_topic("a.b")) is UNROUTED
    assert new.closed is False


@on_clock
async def test_a_known_queue_stays_and_is_told() -> None:
    broker = new_broker(Broker, ScriptedBackend(), queue("orders", place("one")))
    await broker.restore()
    (moved,) = broker.reroute(Routes([queue("orders", place("two"))]), {})
    assert (moved.queue, moved.home.name, moved.wanted) == ("orders", "one", "scripted two")
    (known,) = broker.queues()
    assert known.name == "orders"
    assert broker.reroute(Routes([queue("orders", place("one"))]), {}) == []


@on_clock
async def test_a_queue_that_a_rule_names_is_there_at_once() -> None:
    broker = new_broker(Broker, ScriptedBackend())
    assert await publish(broker, message(key="orders")) is UNROUTED
    broker.reroute(Routes([queue("orders", place("one"))]), {})
    assert await publish(broker, message(key="orders")) is ACCEPTED


@on_clock
async def test_a_hub_queue_may_become_a_target() -> None:
    broker = new_broker(Broker, ScriptedBackend())
    broker.reroute(Routes([topic("a/#", place("orders", QUEUE_KIND))]), {})
    assert await publish(broker, on_topic("a.b")) is ACCEPTED
    assert [each.name for each in broker.queues()] == ["orders"]


# Limits


@on_clock
async def test_new_limits_hold_for_what_comes() -> None:
    broker = new_broker(Broker, ScriptedBackend())
    client = Consumer()
    await broker.declare_queue("one", QueueSpec(), client)
    broker.limit(BrokerLimits(durable_queues=1, inflight_messages=7))
    with pytest.raises(Refused, match="1 queues"):
        await broker.declare_queue("two", QueueSpec(), client)
    await broker.declare_queue("one", QueueSpec(), client)
    broker.limit(BrokerLimits(durable_queues=2))
    await broker.declare_queue("two", QueueSpec(), client)


# One of several workers


@on_clock
async def test_a_worker_refuses_what_others_would_have_to_know() -> None:
    broker = new_broker(WorkerBroker, ScriptedBackend())
    client = Consumer()
    for spec in (
        QueueSpec(durable=False, exclusive=True),
        QueueSpec(durable=False, auto_delete=True),
        QueueSpec(arguments={SESSION: True}),
    ):
        with pytest.raises(NotSupported, match="workers: 1"):
            await broker.declare_queue("q", spec, client)
    await broker.declare_queue("q", QueueSpec(), client, Presence.EQUIVALENT)
    with pytest.raises(NotSupported, match="workers: 1"):
        broker.bind("q", TOPIC_EXCHANGE, "a.b")
    with pytest.raises(NotSupported, match="workers: 1"):
        broker.rebind("q", [(TOPIC_EXCHANGE, "a.b")])
    errors: list[MqliftError | None] = []
    broker.keep_session("device", SessionRecord(), errors.append)
    broker.retain(Message(Address(TOPIC_EXCHANGE, "a"), b"x", headers={RETAIN: True}), errors.append)
    assert [type(error) for error in errors] == [NotSupported, NotSupported]
    assert (broker.kept_sessions, broker.retained_messages) == (0, 0)
    broker.declare_exchange("x", ExchangeSpec(type=ExchangeType.DIRECT), Presence.EQUIVALENT)


@on_clock
async def test_a_worker_takes_a_queue_of_another_to_be_there() -> None:
    backend = ScriptedBackend()
    broker = new_broker(WorkerBroker, backend)
    assert await publish(broker, message(key="orders")) is ACCEPTED
    assert backend.sent == [[b"hello"]]
    for key in ("amq.gen-1", "amq.rabbitmq.reply-to.x", ""):
        assert await publish(broker, message(key=key)) is UNROUTED
    assert await publish(broker, on_topic("orders")) is UNROUTED
