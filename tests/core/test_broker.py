"""The one door: routing to queues and destinations, merged answers, declared queues, claims and endings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.memory.backend import MemoryBackend
from adapters.memory.store import MemoryStore
from gateway.core.auth import Credentials, Identity
from gateway.core.backend import Backend, Entry, QueueSpec, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.commands import Consume, Presence, SessionRecord
from gateway.core.errors import (
    AccessDenied,
    CredentialsInvalid,
    InUse,
    Invalid,
    NotAuthorized,
    NotSupported,
    Refused,
    Unavailable,
)
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.health import Health
from gateway.core.merge import Merge
from gateway.core.message import TOPIC_EXCHANGE, Address, Message
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import QUEUE_KIND, Pattern, QueueMatch, Routes, Rule, RuleTarget, TopicMatch
from gateway.core.subscription import Subscription
from gateway.core.topology import InternalExchange, Topology, UnknownExchange
from tests.rig.clock import at_end, on_clock, settle_down, until
from tests.rig.scripted import Consumer, ScriptedBackend, message, never, new_metrics, raising

LIVE = QueueSpec(durable=False, exclusive=True)
LIVE_AUTO_DELETE = QueueSpec(durable=False, exclusive=True, auto_delete=True)
DURABLE = QueueSpec()


class Anyone:
    async def authenticate(self, credentials: Credentials) -> Identity:
        if credentials.username == "nobody":
            raise NotAuthorized("not let in")
        return Identity(user=credentials.username or "")


def topic_rule(pattern: str, *targets: Target) -> Rule:
    match = TopicMatch(Pattern.topic(pattern))
    return Rule("routes.0", match, tuple(RuleTarget.of(target, match.captures) for target in targets))


def queue_rule(pattern: str, *targets: Target) -> Rule:
    match = QueueMatch(Pattern.name(pattern))
    return Rule("routes.1", match, tuple(RuleTarget.of(target, match.captures) for target in targets))


def place(name: str, kind: str = "scripted") -> Target:
    return Target(kind=kind, name=name)


class Rig:
    def __init__(
        self,
        *rules: Rule,
        backends: Mapping[str, Backend] | None = None,
        limits: BrokerLimits | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        self.backend = ScriptedBackend()
        backends = backends or {"scripted": self.backend}
        self.topology = Topology()
        self.store = store or MemoryStore()
        self.metrics = new_metrics()
        self.broker = Broker(
            topology=self.topology,
            routes=Routes(rules),
            backends=backends,
            home=next(iter(backends)),
            authenticator=Anyone(),
            sending=BatchPolicy(timeout=5.0, backoff_base=0.1, backoff_cap=0.5),
            receiving=ReceivePolicy(),
            limits=limits or BrokerLimits(),
            store=self.store,
            metrics=self.metrics,
            health=Health(),
        )
        at_end(self.broker.aclose)
        self.client = Consumer()

    async def publish(self, message: Message, token: object = "token") -> Result:
        """Publish and wait for the one answer."""
        known = len(self.client.answers)
        self.broker.publish(message, self.client, token)
        await until(lambda: len(self.client.answers) > known, "an answer")
        (answer,) = self.client.answers[known:]
        assert answer[0] == token
        return answer[1]

    def sample(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"mqlift_{name}") or 0.0


def on_topic(key: str, body: bytes = b"hello") -> Message:
    return Message(Address(TOPIC_EXCHANGE, key), body)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([Outcome.ACCEPTED, Outcome.ACCEPTED], Outcome.ACCEPTED),
        ([Outcome.RELEASED, Outcome.ACCEPTED], Outcome.RELEASED),
        ([Outcome.RELEASED, Outcome.REJECTED, Outcome.ACCEPTED], Outcome.REJECTED),
    ],
)
def test_a_merge_answers_once_with_the_worst(answers: list[Outcome], expected: Outcome) -> None:
    client = Consumer()
    merge = Merge(len(answers), client, 7)
    for number, outcome in enumerate(answers):
        assert not client.answers, f"answered after {number} of {len(answers)}"
        merge.answer(None, Result(outcome))
    assert [(token, result.outcome) for token, result in client.answers] == [(7, expected)]


@on_clock
async def test_a_message_for_nobody_is_accepted_and_counted() -> None:
    rig = Rig()
    assert await rig.publish(on_topic("a.b")) is UNROUTED
    assert rig.sample("unrouted_total") == 1


@on_clock
async def test_an_unknown_exchange_is_refused() -> None:
    rig = Rig()
    result = await rig.publish(Message(Address("nowhere", "a"), b""))
    assert result.outcome is Outcome.REJECTED
    assert isinstance(result.error, UnknownExchange)


@on_clock
async def test_a_declared_queue_gets_messages_before_they_are_acknowledged() -> None:
    rig = Rig()
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    assert rig.backend.ensured == ["orders"]
    gate = asyncio.Event()

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        await gate.wait()
        return [ACCEPTED] * len(entries)

    rig.backend.on_send = send
    rig.broker.publish(message(b"a"), rig.client, 1)
    await settle_down()
    assert rig.backend.sent == [[b"a"]]
    assert not rig.client.answers
    gate.set()
    await settle_down()
    assert rig.client.answers == [(1, ACCEPTED)]


@on_clock
async def test_each_place_gets_a_message_once_whatever_leads_there() -> None:
    rig = Rig(
        topic_rule("a/#", place("orders"), place("copy"), place("orders", QUEUE_KIND), place("copy")),
        queue_rule("orders", place("orders"), place("copy")),
    )
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    rig.broker.bind("orders", TOPIC_EXCHANGE, "a.*")
    rig.broker.bind("orders", TOPIC_EXCHANGE, "#")
    assert (await rig.publish(on_topic("a.b"))).outcome is Outcome.ACCEPTED
    assert rig.backend.sent == [[b"hello"], [b"hello"]]
    assert len(rig.broker._resources._senders) == 2


@on_clock
async def test_live_subscribers_and_a_rule_both_get_it_and_the_worst_is_told() -> None:
    rig = Rig(topic_rule("a/#", place("orders", QUEUE_KIND)))
    await rig.broker.declare_queue("live", LIVE, rig.client)
    rig.broker.bind("live", TOPIC_EXCHANGE, "a.*")
    rig.broker.consume(Consume("tag", "live", 10, None), rig.client)
    rig.backend.on_send = raising(AccessDenied("may not"))
    result = await rig.publish(on_topic("a.b"))
    assert rig.client.bodies == [b"hello"]
    assert result.outcome is Outcome.RELEASED
    assert isinstance(result.error, AccessDenied)


@on_clock
async def test_bindings_count_from_the_next_publish_on() -> None:
    rig = Rig()
    await rig.broker.declare_queue("live", LIVE, rig.client)
    rig.broker.consume(Consume("tag", "live", 10, None), rig.client)
    assert await rig.publish(on_topic("a.b")) is UNROUTED
    rig.broker.bind("live", TOPIC_EXCHANGE, "a.b")
    assert await rig.publish(on_topic("a.b", b"bound")) is ACCEPTED
    rig.broker.unbind("live", TOPIC_EXCHANGE, "a.b")
    assert await rig.publish(on_topic("a.b")) is UNROUTED
    assert rig.client.bodies == [b"bound"]


@on_clock
async def test_a_queue_that_is_bound_anew_has_no_other_bindings() -> None:
    rig = Rig()
    await rig.broker.declare_queue("live", LIVE, rig.client)
    for pattern in ("a.*", "b.#"):
        rig.broker.bind("live", TOPIC_EXCHANGE, pattern)
    rig.broker.rebind("live", [(TOPIC_EXCHANGE, "b.#"), (TOPIC_EXCHANGE, "c")])
    assert [(each.source, each.pattern) for each in rig.topology.bindings("live")] == [
        (TOPIC_EXCHANGE, "b.#"),
        (TOPIC_EXCHANGE, "c"),
    ]
    with pytest.raises(UnknownExchange):
        rig.broker.rebind("live", [("nowhere", "d")])
    assert len(rig.topology.bindings("live")) == 2


@on_clock
async def test_a_client_id_is_one_connections_until_that_ends() -> None:
    rig = Rig()
    other = Consumer()
    rig.broker.claim_client_id("c", rig.client)
    rig.broker.claim_client_id("c", rig.client)
    with pytest.raises(InUse):
        rig.broker.claim_client_id("c", other)
    rig.broker.disconnected(other, "c")
    with pytest.raises(InUse):
        rig.broker.claim_client_id("c", other)
    rig.broker.disconnected(rig.client, "c")
    rig.broker.claim_client_id("c", other)


@on_clock
async def test_a_queue_that_a_rule_makes_known_is_no_longer_unrouted_by_its_name() -> None:
    rig = Rig(topic_rule("a/#", place("orders", QUEUE_KIND)))
    assert await rig.publish(message(key="orders")) is UNROUTED
    assert await rig.publish(on_topic("a.b")) is ACCEPTED
    assert await rig.publish(message(b"by name", key="orders")) is ACCEPTED
    assert rig.backend.sent == [[b"hello"], [b"by name"]]


@on_clock
async def test_a_queue_lives_where_its_rule_says_and_its_copies_go_there_too() -> None:
    rig = Rig(queue_rule("orders", place("elsewhere"), place("archive")))
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    assert rig.backend.ensured == ["elsewhere"]
    assert await rig.publish(message(b"a")) is ACCEPTED
    assert sorted(rig.broker._resources._senders) == [("scripted", "archive"), ("scripted", "elsewhere")]


@on_clock
async def test_a_rule_that_cannot_name_its_target_rejects_the_message() -> None:
    rig = Rig(topic_rule("a/{site}", place("{site}")))
    assert await rig.publish(on_topic("a.home")) is ACCEPTED
    result = await rig.publish(on_topic("a."))
    assert result.outcome is Outcome.REJECTED
    assert isinstance(result.error, Invalid)


@on_clock
async def test_declaring_tries_again_while_it_may_help_and_tells_when_it_does_not() -> None:
    rig = Rig()
    errors: list[Exception] = [Unavailable("no answer"), Unavailable("no answer")]

    async def ensure(target: Target) -> None:
        if errors:
            raise errors.pop()

    rig.backend.on_ensure = ensure
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    assert rig.backend.ensured == ["orders"]

    errors.append(AccessDenied("may not"))
    with pytest.raises(AccessDenied):
        await rig.broker.declare_queue("other", DURABLE, rig.client)
    assert await rig.publish(message(key="other")) is UNROUTED, "it is not there"
    with pytest.raises(Refused):
        rig.broker.consume(Consume("tag", "other", 1, None), rig.client)

    errors.extend(Unavailable("no answer") for _ in range(1_000))
    start = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await rig.broker.declare_queue("third", DURABLE, rig.client)
    assert asyncio.get_running_loop().time() - start <= 5.0


@on_clock
async def test_a_declared_queue_is_asked_for_once_and_one_of_a_rule_when_it_is_declared() -> None:
    rig = Rig(topic_rule("a/#", place("orders", QUEUE_KIND)))
    await rig.publish(on_topic("a.b"))
    assert not rig.backend.ensured
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    assert rig.backend.ensured == ["orders"]


@on_clock
async def test_a_declaration_that_is_cancelled_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.backend.on_ensure = never
    declare = asyncio.create_task(rig.broker.declare_queue("orders", DURABLE, rig.client))
    await settle_down()
    declare.cancel()
    await asyncio.gather(declare, return_exceptions=True)
    assert not rig.topology.has_queue("orders")


@on_clock
async def test_two_that_declare_one_queue_at_once_share_it() -> None:
    rig = Rig()
    gate = asyncio.Event()

    async def ensure(target: Target) -> None:
        await gate.wait()

    rig.backend.on_ensure = ensure
    declares = [asyncio.create_task(rig.broker.declare_queue("orders", DURABLE, rig.client)) for _ in range(2)]
    await settle_down()
    gate.set()
    await asyncio.gather(*declares)
    assert await rig.publish(message()) is ACCEPTED
    assert len(rig.broker._queues._durable) == 1


@on_clock
async def test_limits_are_kept_before_anything_is_created() -> None:
    rig = Rig(
        topic_rule("a/{site}", place("site-{site}")),
        limits=BrokerLimits(durable_queues=1, destinations=1),
    )
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    with pytest.raises(Refused, match="queue 'more'"):
        await rig.broker.declare_queue("more", DURABLE, rig.client)
    assert rig.backend.ensured == ["orders"]
    assert not rig.topology.has_queue("more")
    assert await rig.publish(on_topic("a.one")) is ACCEPTED
    result = await rig.publish(on_topic("a.two"))
    assert result.outcome is Outcome.REJECTED
    assert isinstance(result.error, Refused)


@on_clock
async def test_a_virtual_queue_ends_with_its_owner_and_takes_its_bindings_along() -> None:
    rig = Rig()
    owner = Consumer()
    await rig.broker.declare_queue("live", LIVE, owner)
    await rig.broker.declare_queue("live-2", LIVE, owner)
    rig.broker.bind("live", TOPIC_EXCHANGE, "#")
    assert await rig.publish(on_topic("a.b")) is ACCEPTED
    rig.broker.disconnected(rig.client, "")
    assert await rig.publish(on_topic("a.b")) is ACCEPTED
    rig.broker.disconnected(owner, "")
    rig.broker.disconnected(owner, "")
    assert await rig.publish(on_topic("a.b")) is UNROUTED
    assert not rig.topology.has_queue("live-2")
    assert not rig.broker._queues._virtual
    assert not rig.broker._queues._owned


@on_clock
async def test_an_auto_delete_queue_ends_with_its_last_consumer() -> None:
    rig = Rig()
    owner = Consumer()
    await rig.broker.declare_queue("live", LIVE_AUTO_DELETE, owner)
    rig.broker.bind("live", TOPIC_EXCHANGE, "#")
    first = rig.broker.consume(Consume("1", "live", 10, None), owner)
    second = rig.broker.consume(Consume("2", "live", 10, None), owner)
    first.cancel()
    assert await rig.publish(on_topic("a")) is ACCEPTED
    second.cancel()
    assert await rig.publish(on_topic("a")) is UNROUTED
    assert not rig.broker._queues._virtual
    assert not rig.broker._queues._owned
    rig.broker.disconnected(owner, "")


@on_clock
async def test_a_shared_auto_delete_queue_outlives_its_declarer_and_ends_with_its_last_consumer() -> None:
    rig = Rig()
    owner, guest = Consumer(), Consumer()
    await rig.broker.declare_queue("live", QueueSpec(durable=False, auto_delete=True), owner)
    assert await rig.publish(message(b"a", key="live")) is ACCEPTED, "there before its first consumer"
    rig.broker.disconnected(owner, "")
    subscription = rig.broker.consume(Consume("tag", "live", 5, None), guest)
    await settle_down()
    assert guest.bodies == [b"a"]
    subscription.cancel()
    assert await rig.publish(message(key="live")) is UNROUTED


@on_clock
async def test_a_consumer_that_leaves_a_queue_which_has_ended_ends_no_other_of_that_name() -> None:
    rig = Rig()
    owner, successor = Consumer(), Consumer()
    await rig.broker.declare_queue("live", LIVE_AUTO_DELETE, owner)
    subscription = rig.broker.consume(Consume("tag", "live", 5, None), owner)
    await rig.broker.delete_queue("live", owner)
    await rig.broker.declare_queue("live", LIVE_AUTO_DELETE, successor)
    subscription.cancel()
    assert await rig.publish(message(key="live")) is ACCEPTED
    assert not owner.deliveries


@on_clock
async def test_a_virtual_queue_that_the_topology_refuses_is_not_half_there() -> None:
    rig = Rig()
    rig.topology._max_queues = 0
    with pytest.raises(Refused):
        await rig.broker.declare_queue("live", LIVE, rig.client)
    assert not rig.broker._queues._virtual
    with pytest.raises(Refused):
        await rig.broker.declare_queue("orders", DURABLE, rig.client)
    with pytest.raises(Refused):
        rig.broker.consume(Consume("tag", "orders", 1, None), rig.client)


@on_clock
async def test_a_claim_takes_over_from_another_connection_and_not_from_oneself() -> None:
    rig = Rig()
    first, second = Consumer(), Consumer()
    await rig.broker.open_session("device", first, clean=False)
    await rig.broker.open_session("device", first, clean=False)
    assert not first.taken
    await rig.broker.open_session("device", second, clean=False)
    assert first.taken
    rig.broker.disconnected(first, "device")
    third = Consumer()
    await rig.broker.open_session("device", third, clean=False)
    assert second.taken, "the ending of the first one did not end the second one's claim"
    rig.broker.disconnected(third, "device")
    await rig.broker.open_session("device", Consumer(), clean=False)
    assert not third.taken
    assert rig.sample("takeovers_total") == 2


@on_clock
async def test_who_may_connect_is_the_authenticators_word() -> None:
    rig = Rig()
    credentials = Credentials(protocol="mqtt", username="nobody")
    with pytest.raises(NotAuthorized):
        await rig.broker.authenticate(credentials)
    assert (await rig.broker.authenticate(Credentials(protocol="mqtt", username="me"))).user == "me"


@on_clock
async def test_too_much_in_flight_pauses_publishers_whichever_destination() -> None:
    rig = Rig(topic_rule("a/{site}", place("site-{site}")), limits=BrokerLimits(inflight_messages=4))
    rig.backend.on_send = never
    for number in range(4):
        rig.broker.publish(on_topic(f"a.{number}"), rig.client, number)
    assert len(rig.client.pauses) == 1
    assert rig.sample("inflight_messages") == 4
    with capture_logs():
        await rig.broker.aclose()
    assert len(rig.client.answers) == 4
    assert not rig.client.pauses
    assert (rig.sample("inflight_messages"), rig.sample("inflight_bytes")) == (0, 0)


@on_clock
async def test_draining_answers_publishes_and_settlements_and_waits_for_polls() -> None:
    rig = Rig()
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    rig.broker.consume(Consume("tag", "orders", 10, None), rig.client)
    rig.backend.arrive(b"a")
    await settle_down()
    rig.broker.publish(message(b"b"), rig.client, 1)
    rig.broker.stop_polling()
    rig.client.settle()
    await rig.broker.answered()
    assert rig.client.answers == [(1, ACCEPTED)]
    await rig.broker.drain()
    assert rig.backend.polls == 0
    assert rig.backend.deleted == ["r-a"]
    await rig.broker.aclose()
    assert rig.backend.closed


@on_clock
async def test_watching_lets_an_idle_destination_recover() -> None:
    rig = Rig()
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    rig.backend.on_send = raising(CredentialsInvalid("expired"))
    await rig.publish(message())
    assert not rig.broker.health.ready
    watch = asyncio.create_task(rig.broker.watch())
    await asyncio.sleep(5.1)
    assert rig.broker.health.ready
    watch.cancel()


@on_clock
async def test_with_the_memory_backend_a_message_comes_round_and_back_after_a_refusal() -> None:
    rig = Rig(backends={"memory": MemoryBackend()})
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    subscription = rig.broker.consume(Consume("tag", "orders", 10, None), rig.client)
    assert await rig.publish(message(b"a")) is ACCEPTED
    await until(lambda: rig.client.deliveries, "the delivery")
    assert [delivery.attempt for delivery in rig.client.deliveries] == [1]
    rig.client.settle(Outcome.RELEASED)
    await until(lambda: rig.client.deliveries, "the redelivery")
    assert [delivery.attempt for delivery in rig.client.deliveries] == [2]
    await asyncio.sleep(100)
    assert len(rig.client.deliveries) == 1, "renewed: hidden from everybody for longer than its timeout"
    rig.client.settle()
    await asyncio.sleep(100)
    assert not rig.client.deliveries
    assert subscription.held == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["publish", "publish", "accept", "release", "block", "unblock", "leave", "join", "wait"]),
        st.integers(0, 3),
    ),
    max_size=60,
)


class Crowd:
    """Consumers of one queue that come and go as they like, and what they accepted."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.members: list[tuple[Subscription, Consumer]] = []
        self.accepted: list[bytes] = []

    def join(self, prefetch: int) -> None:
        consumer = Consumer()
        self.members.append((self.broker.consume(Consume("tag", "orders", prefetch, None), consumer), consumer))

    def accept(self, consumer: Consumer) -> None:
        self.accepted += consumer.bodies
        consumer.settle()

    def leave(self, subscription: Subscription, consumer: Consumer) -> None:
        """As a connection that is lost."""
        self.members.remove((subscription, consumer))
        subscription.cancel()
        consumer.settle(Outcome.RELEASED)

    def act(self, step: str, which: int) -> None:
        if step == "join" or not self.members:
            self.join(1 + 3 * which)
            return
        subscription, consumer = self.members[which % len(self.members)]
        match step:
            case "accept":
                self.accept(consumer)
            case "release":
                consumer.settle(Outcome.RELEASED)
            case "block":
                subscription.blocked = True
            case "unblock":
                subscription.unblock()
            case "leave":
                self.leave(subscription, consumer)


@settings(max_examples=60, deadline=None)
@given(STEPS)
@on_clock
async def test_whoever_comes_and_goes_each_message_is_accepted_once(steps: list[tuple[str, int]]) -> None:
    backend = MemoryBackend()
    rig = Rig(backends={"memory": backend})
    await rig.broker.declare_queue("orders", DURABLE, rig.client)
    crowd = Crowd(rig.broker)
    published = 0
    for step, which in steps:
        if step == "publish":
            for _ in range(1 + 4 * which):
                rig.broker.publish(message(b"%d" % published), rig.client, published)
                published += 1
        elif step == "wait":
            await asyncio.sleep(0.01 * 12**which)  # up to 17 s: over a renewal
        else:
            crowd.act(step, which)
        await settle_down(3)
    for subscription, consumer in list(crowd.members):
        crowd.leave(subscription, consumer)
    crowd.join(1_000)
    ((_, last),) = crowd.members
    await until(lambda: len(crowd.accepted) + len(last.deliveries) >= published, "all are delivered")
    crowd.accept(last)
    rig.broker.stop_polling()
    await rig.broker.drain()
    assert sorted(map(int, crowd.accepted)) == list(range(published))
    assert len(rig.client.answers) == published
    depth = await backend.depth(backend.home("orders", DURABLE))
    assert (depth.ready, depth.unsettled) == (0, 0)


@on_clock
async def test_a_session_that_another_connection_goes_on_with_is_not_ended_by_the_one_before() -> None:
    rig = Rig()
    first, second = Consumer(), Consumer()
    await rig.broker.open_session("device", first, clean=False)
    rig.broker.keep_session("device", SessionRecord(), lambda error: None)
    rig.broker.disconnected(first, "device")  # its socket is cut, and it has not said so yet
    await rig.broker.open_session("device", second, clean=False)
    await rig.broker.declare_queue("live", LIVE, second)
    rig.broker.bind("live", TOPIC_EXCHANGE, "last.words")
    rig.broker.consume(Consume("tag", "live", 10, None), second)
    rig.broker.end_session("device", first, 0.0, on_topic("last.words"), 0.0)
    assert rig.broker.kept_sessions == 1
    assert len(second.deliveries) == 1
    rig.broker.end_session("device", second, 0.0, None, 0.0)
    assert rig.broker.kept_sessions == 0


@on_clock
async def test_a_client_id_is_its_users_while_it_is_connected_and_while_its_session_is_kept() -> None:
    rig = Rig()
    ann = Consumer()
    await rig.broker.open_session("device", ann, clean=False, user="ann")

    def refused() -> list[str]:
        users = ("ann", "bob", "")
        return [user for user in users if _is_refused(rig, user)]

    assert refused() == ["bob", ""]
    rig.broker.keep_session("device", SessionRecord(), lambda error: None)
    rig.broker.disconnected(ann, "device")
    rig.broker.end_session("device", ann, 60.0, None, 0.0)
    assert refused() == ["bob", ""]
    rig.broker.client_ids_shared = True
    assert refused() == []
    rig.broker.client_ids_shared = False
    rig.broker.end_session("device", ann, 0.0, None, 0.0)
    assert refused() == [], "nothing is left of it"


@on_clock
async def test_what_an_anonymous_peer_has_is_anybodys() -> None:
    rig = Rig()
    await rig.broker.open_session("device", Consumer(), clean=False)
    assert not any(_is_refused(rig, user) for user in ("ann", ""))
    await rig.broker.open_session("device", Consumer(), clean=False, user="ann")
    assert _is_refused(rig, "")


def _is_refused(rig: Rig, user: str) -> bool:
    try:
        rig.broker.check_client_id("device", user)
    except NotAuthorized:
        return True
    return False


# Exchanges with a will of their own, and the ways of the dead


def fanout(**options: bool) -> ExchangeSpec:
    return ExchangeSpec(type=ExchangeType.FANOUT, **options)  # type: ignore[arg-type]


def dying(exchange: str, **arguments: object) -> QueueSpec:
    """A queue in memory of one message, whose older ones go to an exchange."""
    given = {"x-max-length": 1, "x-dead-letter-exchange": exchange}
    return QueueSpec(durable=False, arguments={**given, **{key.replace("_", "-"): arguments[key] for key in arguments}})


@on_clock
async def test_clients_do_not_publish_to_an_internal_exchange_and_the_dead_go_there() -> None:
    rig = Rig()
    rig.broker.declare_exchange("graves", fanout(internal=True), Presence.EQUIVALENT)
    await rig.broker.declare_queue("orders", dying("graves"), rig.client)
    await rig.broker.declare_queue("dead", LIVE, rig.client)
    rig.broker.bind("dead", "graves", "")
    for body in (b"a", b"b"):
        assert await rig.publish(message(body)) is ACCEPTED
    got = await rig.broker.get("dead", rig.client)
    assert got.delivery is not None
    assert got.delivery.message.body == b"a"
    for _ in range(2):
        result = await rig.publish(message(exchange="graves"))
        assert result.outcome is Outcome.REJECTED
        assert isinstance(result.error, InternalExchange)


@on_clock
async def test_a_dead_letter_goes_round_once_and_other_queues_still_get_it() -> None:
    rig = Rig()
    rig.broker.declare_exchange("graves", fanout(), Presence.EQUIVALENT)
    await rig.broker.declare_queue("orders", dying("graves"), rig.client)
    await rig.broker.declare_queue("dead", LIVE, rig.client)
    for queue in ("orders", "dead"):
        rig.broker.bind(queue, "graves", "")
    for body in (b"a", b"b"):
        assert await rig.publish(message(body)) is ACCEPTED
    got = await rig.broker.get("dead", rig.client)
    assert got.delivery is not None
    assert (await rig.broker.get("dead", rig.client)).delivery is None
    got = await rig.broker.get("orders", rig.client)
    assert got.delivery is not None
    assert got.delivery.message.body == b"b", "the dead one did not come back to its queue"


@on_clock
async def test_a_dead_letter_without_a_place_is_counted() -> None:
    rig = Rig()
    await rig.broker.declare_queue("orders", dying("nowhere"), rig.client)
    for body in (b"a", b"b"):
        assert await rig.publish(message(body)) is ACCEPTED
    assert rig.sample("dead_letters_dropped_total") == 1


@on_clock
async def test_a_long_circle_of_full_queues_comes_to_an_end() -> None:
    rig = Rig()
    count = 100
    for number in range(count):
        spec = dying("", x_dead_letter_routing_key=str((number + 1) % count))
        await rig.broker.declare_queue(str(number), spec, rig.client)
        assert await rig.publish(message(b"old", key=str(number))) is ACCEPTED
    assert await rig.publish(message(b"new", key="0")) is ACCEPTED
    assert rig.sample("virtual_queue_messages") == count
    assert rig.sample("dead_letters_dropped_total") >= 1


@on_clock
async def test_a_delayed_exchange_holds_back_as_long_as_the_header_says() -> None:
    rig = Rig()
    spec = ExchangeSpec(type=ExchangeType.DELAYED, arguments={"x-delayed-type": "direct"})
    rig.broker.declare_exchange("later", spec, Presence.EQUIVALENT)
    await rig.broker.declare_queue("live", LIVE, rig.client)
    rig.broker.bind("live", "later", "k")
    rig.broker.consume(Consume("tag", "live", 10, None), rig.client)
    for delay in (None, 0, -5, "soon", True, 60_000):
        headers = {} if delay is None else {"x-delay": delay}
        assert await rig.publish(Message(Address("later", "k"), repr(delay).encode(), headers=headers)) is ACCEPTED
    assert [body.decode() for body in rig.client.bodies] == ["None", "0", "-5", "'soon'", "True"]
    queue = rig.broker._queues.virtual("live")
    assert queue is not None
    ((_, _, waiting),) = queue._delayed
    assert waiting.headers == {"x-delay": -60_000}, "as it was, for who gets it, and not to be delayed again"


@on_clock
async def test_more_keys_lead_to_more_places_each_once() -> None:
    rig = Rig()
    for name in ("a", "b", "c"):
        await rig.broker.declare_queue(name, QueueSpec(durable=False), rig.client)
    rig.broker.publish(message(key="a"), rig.client, 1, ("b", "a", "nowhere"))
    assert rig.client.answers == [(1, ACCEPTED)]
    rig.broker.publish(message(key="a"), rig.client, 2)
    counts = [(await rig.broker.get(name, rig.client)).remaining for name in ("a", "b", "c")]
    assert counts == [1, 0, 0]
    assert rig.sample("virtual_queue_messages") == 1


@on_clock
async def test_headers_are_looked_at_for_every_message() -> None:
    rig = Rig()
    await rig.broker.declare_queue("live", LIVE, rig.client)
    rig.broker.bind("live", "amq.headers", "", {"x": 1})
    for value, expected in ((1, ACCEPTED), (2, UNROUTED), (1, ACCEPTED)):
        assert await rig.publish(Message(Address("amq.headers", "k"), b"", headers={"x": value})) is expected


@on_clock
async def test_a_best_effort_target_is_not_waited_for() -> None:
    rig = Rig(topic_rule("a", place("needed"), replace(place("extra"), best_effort=True)))

    async def send(entries: Sequence[Entry]) -> Sequence[Result]:
        if rig.backend.sent == [[b"hello"]]:
            return [ACCEPTED] * len(entries)
        raise AccessDenied("may not")

    rig.backend.on_send = send
    assert (await rig.publish(on_topic("a"))).outcome is Outcome.ACCEPTED
    await until(lambda: len(rig.backend.sent) == 2, "both were tried")


@on_clock
async def test_what_one_rule_needs_another_cannot_make_best_effort() -> None:
    shared = ScriptedBackend()
    shared.on_send = raising(AccessDenied("may not"))
    rig = Rig(
        topic_rule("a", Target(kind=QUEUE_KIND, name="q"), replace(place("log", "shared"), best_effort=True)),
        queue_rule("q", place("home"), place("log", "shared")),
        backends={"scripted": ScriptedBackend(), "shared": shared},
    )
    await rig.broker.declare_queue("q", DURABLE, rig.client)
    rig.broker.bind("q", TOPIC_EXCHANGE, "a")
    assert (await rig.publish(on_topic("a"))).outcome is Outcome.RELEASED
    assert len(shared.sent) == 1, "it is sent there once"


@on_clock
async def test_a_queue_that_lives_where_nothing_comes_out_is_sent_to_and_not_consumed() -> None:
    rig = Rig(queue_rule("q", place("stream")))
    rig.backend.limits = replace(rig.backend.limits, receive_entries=0)
    await rig.broker.declare_queue("q", DURABLE, rig.client)
    with pytest.raises(NotSupported, match="queue 'q': nothing can be consumed from scripted"):
        rig.broker.consume(Consume("tag", "q", 10, None), rig.client)
    assert (await rig.publish(Message(Address("", "q"), b"x"))).outcome is Outcome.ACCEPTED
    assert rig.backend.sent == [[b"x"]]
