"""Clients of several gateways with one store: what one of them declares, the others have."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.core.backend import QueueSpec, Target
from gateway.core.commands import Consume, Counted, Presence, SessionRecord
from gateway.core.errors import Inequivalent, NotAuthorized, Refused
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.fleet.membership import LEASE_SECONDS
from gateway.core.message import Address, Message
from gateway.core.outcome import Outcome
from gateway.core.routes import Pattern, QueueMatch, Rule, RuleTarget
from gateway.core.shared import SESSION
from gateway.core.store import StoreError
from gateway.core.topology import UnknownExchange, UnknownQueue
from tests.rig.clock import on_clock, until
from tests.rig.fleetmates import Mate, fleet
from tests.rig.scripted import Consumer

TOPIC = ExchangeSpec(type=ExchangeType.TOPIC, durable=True)
DURABLE = QueueSpec()


async def declare_exchange(mate: Mate, name: str, spec: ExchangeSpec = TOPIC) -> None:
    declared = mate.broker.declare_exchange(name, spec, Presence.EQUIVALENT)
    if declared is not None:
        await declared


async def declare_queue(
    mate: Mate, name: str, spec: QueueSpec = DURABLE, presence: Presence = Presence.EQUIVALENT
) -> Counted:
    return await mate.broker.declare_queue(name, spec, mate.client, presence)


async def bind(mate: Mate, queue: str, exchange: str, pattern: str) -> None:
    bound = mate.broker.bind(queue, exchange, pattern)
    if bound is not None:
        await bound


def to(exchange: str, key: str) -> Message:
    return Message(Address(exchange, key), b"hello")


async def ready(mate: Mate, queue: str) -> int:
    return (await declare_queue(mate, queue, presence=Presence.REQUIRED)).messages


@on_clock
async def test_a_message_published_here_reaches_a_queue_declared_and_bound_there() -> None:
    one, other = await fleet()
    await declare_exchange(one, "logs")
    await declare_queue(one, "orders")
    await bind(one, "orders", "logs", "a.#")
    await asyncio.sleep(1.0)
    assert (await other.publish(to("logs", "a.b"))).outcome is Outcome.ACCEPTED
    assert (await other.publish(to("", "orders"))).outcome is Outcome.ACCEPTED
    assert await ready(one, "orders") == 2


@on_clock
async def test_a_declaration_meets_what_was_declared_elsewhere_at_once() -> None:
    one, other = await fleet()
    await declare_exchange(one, "logs")
    await declare_queue(one, "orders", QueueSpec(arguments={"x-message-ttl": 1_000}))
    with pytest.raises(Inequivalent, match="logs"):
        await declare_exchange(other, "logs", ExchangeSpec(type=ExchangeType.DIRECT, durable=True))
    with pytest.raises(Inequivalent, match="x-message-ttl"):
        await declare_queue(other, "orders")
    await declare_queue(other, "orders", QueueSpec(arguments={"x-message-ttl": 1_000}))
    await bind(other, "orders", "logs", "a")


@on_clock
async def test_what_is_used_without_a_declaration_is_found_at_once() -> None:
    one, other = await fleet()
    await declare_exchange(one, "logs")
    await declare_queue(one, "orders")
    await one.publish(to("", "orders"))
    passive = other.broker.declare_exchange("logs", TOPIC, Presence.REQUIRED)
    assert passive is not None
    await passive
    assert await ready(other, "orders") == 1
    await declare_queue(one, "more")
    finding = other.broker.finding("more")
    assert finding is not None
    await finding
    other.broker.consume(Consume("tag", "more", 1, None), Consumer())
    await declare_queue(one, "third")
    await one.publish(to("", "third"))
    got = await other.broker.get("third", other.client)
    assert got.delivery is not None


@on_clock
async def test_what_nobody_has_declared_is_unknown() -> None:
    _, other = await fleet()
    passive = other.broker.declare_exchange("nowhere", TOPIC, Presence.REQUIRED)
    assert passive is not None
    with pytest.raises(UnknownExchange):
        await passive
    with pytest.raises(UnknownQueue):
        await other.broker.purge_queue("nothing", other.client)


@on_clock
async def test_a_queue_deleted_elsewhere_ends_its_consumers_here() -> None:
    one, other = await fleet()
    await declare_queue(one, "orders")
    await bind(one, "orders", "amq.topic", "a")
    await asyncio.sleep(1.0)
    consumer = Consumer()
    other.broker.consume(Consume("tag", "orders", 1, None, cancellable=True), consumer)
    await one.broker.delete_queue("orders", one.client)
    await asyncio.sleep(1.0)
    assert not other.topology.has_queue("orders")
    assert not other.broker.is_durable("orders")
    assert other.broker.bindings == 0
    assert (await other.publish(to("amq.topic", "a"))).outcome is Outcome.ACCEPTED
    assert other.metrics.registry.get_sample_value("mqlift_unrouted_total") == 1


@on_clock
async def test_a_queue_deleted_and_declared_anew_as_another_is_that_one_everywhere() -> None:
    one, other = await fleet()
    await declare_queue(one, "orders", QueueSpec(arguments={"x-max-length": 5}))
    await bind(one, "orders", "amq.topic", "a")
    await asyncio.sleep(1.0)
    await one.broker.delete_queue("orders", one.client)
    await declare_queue(one, "orders", QueueSpec(arguments={"x-max-length": 9}))
    await asyncio.sleep(1.0)
    (queue,) = [queue for queue in other.broker.queues() if queue.name == "orders"]
    assert queue.policy.max_length == 9
    assert other.broker.bindings == 0


@on_clock
async def test_of_two_that_declare_a_queue_differently_at_once_one_is_refused() -> None:
    one, other = await fleet()
    specs = [QueueSpec(arguments={"x-max-length": 5}), QueueSpec(arguments={"x-max-length": 9})]
    for mate in (one, other):
        mate.store.delay = lambda: 0.01
    results = await asyncio.gather(
        *(declare_queue(mate, "orders", spec) for mate, spec in zip((one, other), specs, strict=True)),
        declare_queue(one, "orders", specs[0]),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Inequivalent)]
    winner = 9 if len(refused) == 2 else 5
    assert len(refused) in (1, 2)
    assert not [result for result in results if isinstance(result, StoreError)]
    await asyncio.sleep(2.0)
    for mate in (one, other):
        (queue,) = mate.broker.queues()
        assert queue.policy.max_length == winner


@on_clock
async def test_a_change_that_nobody_waits_for_is_not_made() -> None:
    one, _ = await fleet()
    one.broker.declare_exchange("logs", TOPIC, Presence.EQUIVALENT)
    await asyncio.sleep(2.0)
    assert not one.topology.has_exchange("logs")


@on_clock
async def test_without_the_store_nothing_is_declared_and_messages_still_flow() -> None:
    one, other = await fleet()
    await declare_queue(one, "orders")
    await asyncio.sleep(1.0)
    other.store.fail()
    with capture_logs():
        with pytest.raises(StoreError):
            await declare_queue(other, "more")
        with pytest.raises(StoreError):
            await bind(other, "orders", "amq.topic", "a")
        assert (await other.publish(to("", "orders"))).outcome is Outcome.ACCEPTED
        await asyncio.sleep(5.0)
        other.store.heal()
    await declare_queue(other, "more")


@on_clock
async def test_bindings_of_queues_in_memory_cost_no_call() -> None:
    one, _ = await fleet()
    await one.broker.declare_queue("live", QueueSpec(durable=False, exclusive=True), one.client)
    one.store.calls.clear()
    assert one.broker.bind("live", "amq.topic", "a") is None
    assert one.broker.unbind("live", "amq.topic", "a") is None
    assert one.broker.rebind("live", [("amq.topic", "b")]) is None
    assert one.store.calls == []


@on_clock
async def test_a_queue_that_a_rule_names_stays_though_no_record_does() -> None:
    match = QueueMatch(Pattern.name("orders"))
    rule = Rule("routes.0", match, (RuleTarget.of(Target(kind="memory", name="there"), match.captures),))
    one, other = await fleet(rule)
    assert other.topology.has_queue("orders")
    await asyncio.sleep(400)  # everything was read again
    assert other.topology.has_queue("orders")
    await declare_queue(one, "orders")
    await asyncio.sleep(1.0)
    await one.broker.delete_queue("orders", one.client)
    await asyncio.sleep(1.0)
    assert not other.topology.has_queue("orders"), "as where it was deleted"


@on_clock
async def test_a_name_in_use_here_for_a_queue_in_memory_is_the_others_when_it_is_free() -> None:
    one, other = await fleet()
    await other.broker.declare_queue("orders", QueueSpec(durable=False, exclusive=True), other.client)
    await declare_queue(one, "orders")
    await asyncio.sleep(1.0)
    assert not other.broker.is_durable("orders")
    other.broker.disconnected(other.client, "")
    await asyncio.sleep(1.0)
    assert other.broker.is_durable("orders")


@on_clock
async def test_a_limit_of_this_gateway_holds_for_what_others_declare_too() -> None:
    one, other = await fleet()
    other.broker._queues.limit = 1
    with capture_logs() as lines:
        await declare_queue(one, "a")
        await declare_queue(one, "b")
        await bind(one, "b", "amq.topic", "x")
        await until(lambda: other.topology.has_queue("a"), "a queue")
        await asyncio.sleep(3.0)
    assert {line["event"] for line in lines if line["log_level"] in ("error", "warning")} == {
        "record_not_followed",
        "binding_not_followed",
    }
    assert not other.topology.has_queue("b")
    with pytest.raises(Refused):
        await declare_queue(other, "b")


# Clients and their sessions


class Client(Consumer):
    """A connection with a client id, which ends its session when it is taken over."""

    def __init__(self, mate: Mate, client_id: str = "a", will: Message | None = None) -> None:
        super().__init__()
        self.mate = mate
        self.client_id = client_id
        self.will = will
        self.gone = False

    def taken_over(self) -> None:
        self.gone = True
        self.mate.broker.end_session(self.client_id, self, self.expiry, self.will, 0.0)
        self.mate.broker.disconnected(self, self.client_id)

    expiry = 0.0

    async def connect(self, *, user: str = "") -> SessionRecord | None:
        return await self.mate.broker.open_session(self.client_id, self, clean=False, user=user)


class KeptClient(Client):
    """One whose session is kept, with a queue."""

    expiry = 600.0

    async def subscribe(self, pattern: str) -> None:
        queue = f"mqtt-session-{self.client_id}"
        broker = self.mate.broker
        await broker.declare_queue(queue, QueueSpec(arguments={SESSION: True, "x-fifo": True}), self)
        assert broker.bind(queue, "amq.topic", pattern) is None
        await self.keep(SessionRecord(queue=queue, bindings=(("amq.topic", pattern),), expiry=600.0))

    async def keep(self, record: SessionRecord) -> None:
        kept: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.mate.broker.keep_session(self.client_id, record, kept.set_result)
        assert await kept is None


@on_clock
async def test_what_is_published_here_waits_for_a_client_that_was_there() -> None:
    one, other = await fleet()
    client = KeptClient(one)
    assert await client.connect() is None
    await client.subscribe("a.#")
    await asyncio.sleep(1.0)
    assert (await other.publish(to("amq.topic", "a.b"))).outcome is Outcome.ACCEPTED
    assert other.metrics.registry.get_sample_value("mqlift_unrouted_total") == 0
    again = KeptClient(other)
    record = await again.connect()
    assert record is not None
    await asyncio.sleep(1.0)
    assert client.gone
    assert not again.gone
    got = await other.broker.get(record.queue, again)
    assert got.delivery is not None
    other.broker.end_session("a", again, 0.0, None, 0.0)
    await asyncio.sleep(1.0)
    assert not one.topology.has_queue(record.queue)
    assert not other.topology.has_queue(record.queue)
    assert one.broker.bindings == other.broker.bindings == 0


@on_clock
async def test_what_a_session_stops_to_ask_for_is_not_routed_to_it_elsewhere() -> None:
    one, other = await fleet()
    client = KeptClient(one)
    await client.connect()
    await client.subscribe("a")
    await asyncio.sleep(1.0)
    assert one.broker.unbind("mqtt-session-a", "amq.topic", "a") is None
    await client.keep(SessionRecord(queue="mqtt-session-a", expiry=600.0))
    await asyncio.sleep(1.0)
    assert other.topology.route("amq.topic", "a") == ()


@on_clock
async def test_a_client_that_nothing_is_kept_of_has_one_connection_too() -> None:
    one, other = await fleet()
    will = to("amq.topic", "gone")
    first, second = Client(one, will=will), Client(other)
    await first.connect()
    await asyncio.sleep(2.0)
    await second.connect()
    await asyncio.sleep(1.0)
    assert first.gone
    assert not second.gone
    await asyncio.sleep(5.0)
    assert not second.gone
    assert one.metrics.registry.get_sample_value("mqlift_takeovers_total") == 1


@on_clock
async def test_a_client_that_moves_faster_than_gateways_look_keeps_its_new_connection() -> None:
    one, other = await fleet()
    for number in range(6):
        mate = (one, other)[number % 2]
        client = Client(mate)
        await client.connect()
        if number % 3:
            mate.broker.disconnected(client, "a")
    await asyncio.sleep(3.0)
    assert not client.gone


@on_clock
async def test_a_client_id_of_another_user_is_nobodys_to_take() -> None:
    one, other = await fleet()
    kept, plain = KeptClient(one, "kept"), Client(one, "plain")
    await kept.connect(user="alice")
    await kept.subscribe("a")
    await plain.connect(user="alice")
    with pytest.raises(NotAuthorized):
        await KeptClient(other, "kept").connect(user="bob")
    await Client(other, "plain").connect(user="bob")
    await asyncio.sleep(2.0)
    assert not kept.gone
    assert not plain.gone, "nobody but its user ends its connection"
    await KeptClient(other, "kept").connect(user="alice")
    await asyncio.sleep(1.0)
    assert kept.gone


@on_clock
async def test_a_gateway_that_was_frozen_gives_its_sessions_up_and_keeps_its_other_clients() -> None:
    one, other = await fleet()
    kept, plain = KeptClient(one, "kept"), Client(one, "plain")
    await kept.connect()
    await kept.subscribe("a")
    await plain.connect()
    await one.freeze()
    with capture_logs():
        await asyncio.sleep(LEASE_SECONDS + 5.0)
        one.thaw()
        await asyncio.sleep(2.0)
    assert kept.gone
    assert not plain.gone
    record = await KeptClient(other, "kept").connect()
    assert record is not None


@on_clock
async def test_without_the_store_nobody_is_let_in() -> None:
    one, _ = await fleet()
    one.store.fail()
    with capture_logs(), pytest.raises(StoreError):
        await Client(one).connect()


@on_clock
async def test_who_leaves_is_gone_for_the_others() -> None:
    one, other = await fleet()
    await asyncio.sleep(1.0)
    await one.stop()
    await asyncio.sleep(1.0)
    assert other.broker._fleet.size == 1
