"""Durable subscriptions: filtered while their subscriber is away and after a restart, and begun anew when changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from adapters.memory.backend import MemoryBackend
from adapters.memory.store import MemoryStore
from gateway.core.arguments import SELECTOR
from gateway.core.auth import Credentials, Identity
from gateway.core.backend import QueueSpec
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Consume, Presence
from gateway.core.errors import InvalidArgument
from gateway.core.health import Health
from gateway.core.message import TOPIC_EXCHANGE, Address, Message
from gateway.core.outcome import ACCEPTED, Result
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Routes
from gateway.core.selector import CONVERTING
from gateway.core.shared import SUBSCRIPTION
from gateway.core.topology import Topology
from tests.rig.clock import at_end, on_clock, until
from tests.rig.scripted import Consumer, new_metrics

NAME = "durable:c:n"


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity(user="")


class Rig:
    """A gateway; what outlives it is the backend and the store."""

    def __init__(self, backend: MemoryBackend, store: MemoryStore) -> None:
        self.client = Consumer()
        self.broker = Broker(
            topology=Topology(),
            routes=Routes(),
            backends={"memory": backend},
            home="memory",
            authenticator=Anyone(),
            sending=BatchPolicy(timeout=5.0),
            receiving=ReceivePolicy(),
            limits=BrokerLimits(),
            store=store,
            metrics=new_metrics(),
            health=Health(),
        )
        at_end(self.broker.aclose)

    async def publish(self, body: bytes, topic: str = "t", **headers: str | int) -> Result:
        known = len(self.client.answers)
        self.broker.publish(Message(Address(TOPIC_EXCHANGE, topic), body, headers=headers), self.client, None)
        await until(lambda: len(self.client.answers) > known, "an answer")
        return self.client.answers[-1][1]

    async def subscribe(self, selector: str = "", *topics: str) -> None:
        arguments: dict[str, object] = {SUBSCRIPTION: ",".join(sorted(topics or ("t",)))}
        if selector:
            arguments[SELECTOR] = selector
        await self.broker.declare_queue(NAME, QueueSpec(arguments=arguments), self.client, Presence.RENEWED)
        written = self.broker.rebind(NAME, [(TOPIC_EXCHANGE, topic) for topic in topics or ("t",)])
        if written is not None:
            await written

    async def gets(self, count: int) -> Sequence[bytes]:
        """So many messages, and that there are no others."""
        consumer = Consumer()
        subscription = self.broker.consume(Consume("tag", NAME, 10, None), consumer)
        await until(lambda: len(consumer.deliveries) >= count, "the messages")
        bodies = consumer.bodies
        consumer.settle()
        subscription.cancel()
        queue = next(self.broker.queues())
        await queue.drain()
        assert len(bodies) == count
        assert (await queue.depth(fresh=True)).ready == 0
        return bodies


async def started(backend: MemoryBackend, store: MemoryStore) -> Rig:
    rig = Rig(backend, store)
    await rig.broker.restore()
    return rig


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@on_clock
async def test_what_does_not_match_never_comes_into_the_queue(backend: MemoryBackend, store: MemoryStore) -> None:
    rig = await started(backend, store)
    await rig.subscribe("colour = 'red'")
    assert await rig.publish(b"red", colour="red") is ACCEPTED
    assert await rig.publish(b"blue", colour="blue") is ACCEPTED, "it is nobody's, as in every broker"
    queue = next(rig.broker.queues())
    assert queue.published == 1
    assert await rig.gets(1) == [b"red"]


@on_clock
async def test_it_goes_on_filtering_after_a_restart(backend: MemoryBackend, store: MemoryStore) -> None:
    first = await started(backend, store)
    await first.subscribe(f"{CONVERTING}weight > 2")
    second = await started(backend, store)
    for weight in ("1", "3"):
        await second.publish(weight.encode(), weight=weight)
    assert await second.gets(1) == [b"3"]
    await second.subscribe(f"{CONVERTING}weight > 2")
    await second.publish(b"5", weight="5")
    assert await second.gets(1) == [b"5"], "the same subscription as before, with nothing lost"


@pytest.mark.parametrize("selector", ["", "colour = 'blue'"])
@on_clock
async def test_with_another_selector_it_begins_anew(backend: MemoryBackend, store: MemoryStore, selector: str) -> None:
    rig = await started(backend, store)
    await rig.subscribe("colour = 'red'")
    await rig.publish(b"red, of the old one", colour="red")
    await rig.subscribe(selector)
    for colour in ("red", "blue"):
        await rig.publish(colour.encode(), colour=colour)
    assert await rig.gets(1 if selector else 2) == ([b"blue"] if selector else [b"red", b"blue"])
    later = await started(backend, store)
    await later.publish(b"red again", colour="red")
    assert await later.gets(0 if selector else 1) == ([] if selector else [b"red again"])


@on_clock
async def test_with_the_same_selector_it_goes_on(backend: MemoryBackend, store: MemoryStore) -> None:
    rig = await started(backend, store)
    await rig.subscribe("colour = 'red'", "t", "u")
    await rig.publish(b"1", colour="red")
    await rig.subscribe("colour = 'red'", "u", "t")
    await rig.publish(b"2", "u", colour="red")
    assert sorted(await rig.gets(2)) == [b"1", b"2"]


@on_clock
async def test_a_queue_cannot_be_declared_with_what_is_no_selector(backend: MemoryBackend, store: MemoryStore) -> None:
    rig = await started(backend, store)
    for selector in ("colour =", 5):
        with pytest.raises(InvalidArgument, match="x-selector"):
            await rig.broker.declare_queue(NAME, QueueSpec(arguments={SELECTOR: selector}), rig.client)
    assert await rig.publish(b"a") is not ACCEPTED


@on_clock
async def test_one_that_is_kept_and_cannot_be_read_is_told(backend: MemoryBackend, store: MemoryStore) -> None:
    await store.put("queue", NAME, b'{"arguments": {"x-selector": "colour ="}}')
    rig = Rig(backend, store)
    with capture_logs() as logs:
        await rig.broker.restore()
    assert [entry["event"] for entry in logs] == ["queue_not_restored"]
