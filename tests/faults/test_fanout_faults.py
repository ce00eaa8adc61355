"""Fan-out by SNS, while SNS and SQS fail and the gateway is killed: what was acknowledged is in every queue that it was
routed to, and in no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

from tests.conftest import serving
from tests.faults.conftest import quick_config
from tests.rig.amqp import AmqpClient
from tests.rig.clients import MqttPublisher
from tests.rig.counting import (
    SqsClient,
    assert_exactly,
    assert_nothing_lost,
    assert_stored_before_acknowledged,
    drain,
)
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import (
    ACCESS_DENIED,
    BAD_GATEWAY,
    INTERNAL_FAILURE,
    REQUEST_THROTTLED,
    CutAnswer,
    Fault,
    NoAnswer,
    Reset,
    Slow,
)
from tests.rig.processes import HOST, Gateway, Ministack, free_port
from tests.rig.query_faults import SNS_INTERNAL, SNS_THROTTLED, PublishFailures, QueryError, batch_of, published
from tests.rig.streams import aws_client
from tests.rig.topics import topic_arn
from tests.rig.waiting import wait_for

EXCHANGE = "amq.topic"
SIDES = ("north", "south")
BURST = 120
PATIENCE = 60.0
BATCH = range(10)

ENTRIES_FAIL = (
    *(PublishFailures((position,)) for position in BATCH),
    *(PublishFailures(range(size)) for size in BATCH),
    *(PublishFailures(range(position, 10, 2), "Throttled") for position in (0, 1)),
)
NOT_APPLIED: Mapping[str, Sequence[Fault]] = {
    "entries fail": ENTRIES_FAIL,
    "throttles": (SNS_THROTTLED, PublishFailures(BATCH, "Throttled")),
    "the service fails": (SNS_INTERNAL, BAD_GATEWAY, PublishFailures(BATCH)),
    "the network fails": (Reset(), NoAnswer(), Slow(0.2), Slow(0.2, before=True)),
}
MAYBE_APPLIED: Mapping[str, Sequence[Fault]] = {
    "entries fail and are done": (
        *(PublishFailures((position,), applied=True) for position in BATCH),
        PublishFailures((1, 4, 8), "", applied=True),
    ),
    "lost answers": (CutAnswer(), Reset(applied=True), NoAnswer(applied=True)),
    "everything": (*ENTRIES_FAIL, SNS_THROTTLED, SNS_INTERNAL, Reset(), Reset(applied=True), CutAnswer()),
}

DENIED = QueryError(403, "AuthorizationError")
SETTING_UP: Mapping[str, Mapping[str, Fault]] = {
    "throttled": {
        "CreateTopic": SNS_THROTTLED,
        "GetTopicAttributes": SNS_THROTTLED,
        "Subscribe": SNS_THROTTLED,
        "GetSubscriptionAttributes": SNS_THROTTLED,
        "GetQueueAttributes": REQUEST_THROTTLED,
        "SetQueueAttributes": REQUEST_THROTTLED,
    },
    "server errors": {
        "CreateTopic": SNS_INTERNAL,
        "GetTopicAttributes": BAD_GATEWAY,
        "Subscribe": SNS_INTERNAL,
        "GetSubscriptionAttributes": BAD_GATEWAY,
        "GetQueueUrl": INTERNAL_FAILURE,
        "SetQueueAttributes": INTERNAL_FAILURE,
    },
    "denied": {
        "Subscribe": DENIED,
        "GetSubscriptionAttributes": DENIED,
        "GetQueueAttributes": ACCESS_DENIED,
        "SetQueueAttributes": ACCESS_DENIED,
    },
    "lost answers": {
        "CreateTopic": Reset(applied=True),
        "GetTopicAttributes": CutAnswer(),
        "Subscribe": NoAnswer(applied=True),
        "GetSubscriptionAttributes": NoAnswer(),
        "GetQueueAttributes": CutAnswer(),
        "SetQueueAttributes": Reset(applied=True),
    },
}


class Bound(NamedTuple):
    """A queue, and which sides of the topic are routed to it."""

    name: str
    sides: Sequence[str]
    arguments: Mapping[str, object] = {}


class Site:
    """A topic, the queues behind it, and what was published there."""

    def __init__(self, gateway: Gateway, sqs: SqsClient, name: str) -> None:
        self.gateway = gateway
        self.name = name
        self._sqs = sqs
        self._brought = [Bound(f"{name}-all", SIDES), *(Bound(f"{name}-{side}", [side]) for side in SIDES)]
        # It has a length, so the gateway sends to it: one publish goes both ways.
        self._queues = [*self._brought, Bound(f"{name}-sent", SIDES, {"x_max_length": 100_000})]
        self.sent: dict[str, list[str]] = {side: [] for side in SIDES}

    def bind(self) -> None:
        with AmqpClient(self.gateway.port("amqp091")) as amqp:
            for queue in self._queues:
                amqp.declare(queue.name, **queue.arguments)
                for side in queue.sides:
                    amqp.channel.queue_bind(queue.name, EXCHANGE, f"fan.{self.name}.{side}")

    def publish(self, publisher: MqttPublisher, number: int) -> None:
        """So many more messages to each side."""
        for side, bodies in self.sent.items():
            more = [f"{side} {serial:05}" for serial in range(len(bodies), len(bodies) + number)]
            publisher.publish_all(f"fan/{self.name}/{side}", more)
            bodies += more

    @property
    def total(self) -> int:
        return sum(map(len, self.sent.values()))

    def wait_brought(self, times: int = 1) -> None:
        """Wait until SNS brings messages to all queues that it can, for the so-and-so-many-th time."""
        wait_for(lambda: self._told("fanout_by_service") == times * len(self._brought), "they are subscribed", PATIENCE)

    def _told(self, event: str) -> int:
        return sum(event in line and self.name in line for line in self.gateway.log.splitlines())

    def assert_each(self, compare: Callable[[list[str], list[str]], None]) -> None:
        """Compare what was sent to each queue's sides with what is in the queue, and empty it."""
        for queue in self._queues:
            url = self._sqs.get_queue_url(QueueName=queue.name)["QueueUrl"]
            found = list(drain(self._sqs, url).elements())
            expected = [body for side in queue.sides for body in self.sent[side]]
            assert set(found) <= set(expected), f"{queue.name} has what was not routed to it"
            compare(expected, found)


@pytest.fixture(scope="module")
def fanout_gateway(endpoint: FaultEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Its state outlives it; and as the emulator's filters are in force at once, nothing is waited for."""
    directory = tmp_path_factory.mktemp("fanout")
    # What the emulator only takes long for is not sent again.
    config = quick_config(endpoint.url, aws={"read_timeout": 2}) | {
        "listeners": [{"protocol": name, "host": HOST, "port": free_port()} for name in ("mqtt", "amqp091")],
        "state": f"sqlite://{directory / 'state.db'}",
        "routes": [{"match": {"topic": "fan/{name}/#"}, "to": [{"sns": "{name}", "fanout": True}]}],
        "sns": {"fanout_wait": 0},
    }
    running = Gateway(config, directory)
    with serving(running):
        yield running


@pytest.fixture
def site(fanout_gateway: Gateway, endpoint: FaultEndpoint, sqs: SqsClient, queue_name: str) -> Iterator[Site]:
    """Its queues are declared and bound, and nothing was published yet."""
    bound = Site(fanout_gateway, sqs, queue_name)
    bound.bind()
    yield bound
    endpoint.clear()


@pytest.fixture
def brought(site: Site) -> Site:
    """SNS brings the messages."""
    with MqttPublisher(site.gateway.port("mqtt")) as publisher:
        site.publish(publisher, 1)
        publisher.wait_acknowledged(site.total)
    site.wait_brought()
    return site


def publish_through(site: Site, endpoint: FaultEndpoint, plan: Sequence[Fault]) -> None:
    """Publish while every second request meets a fault; nothing is refused."""
    before = endpoint.injected()
    endpoint.chaos(plan, 0.5, seed=11, actions=["PublishBatch"])
    with MqttPublisher(site.gateway.port("mqtt"), site.name) as publisher:
        site.publish(publisher, BURST)
        publisher.wait_acknowledged(2 * BURST, PATIENCE)
        assert not publisher.disconnects
    endpoint.clear()
    assert (endpoint.injected() - before).total() > 5
    assert_stored_before_acknowledged(publisher.acknowledged, published(endpoint, site.name))


@pytest.mark.parametrize("plan", NOT_APPLIED.values(), ids=NOT_APPLIED)
def test_what_has_no_effect_loses_and_doubles_nothing(
    plan: Sequence[Fault], brought: Site, endpoint: FaultEndpoint
) -> None:
    publish_through(brought, endpoint, plan)
    brought.assert_each(assert_exactly)


@pytest.mark.parametrize("plan", MAYBE_APPLIED.values(), ids=MAYBE_APPLIED)
def test_what_may_have_had_an_effect_loses_nothing(
    plan: Sequence[Fault], brought: Site, endpoint: FaultEndpoint
) -> None:
    publish_through(brought, endpoint, plan)
    brought.assert_each(assert_nothing_lost)


def test_one_call_carries_a_message_to_every_queue(brought: Site, endpoint: FaultEndpoint) -> None:
    before = len(endpoint.history)
    with MqttPublisher(brought.gateway.port("mqtt")) as publisher:
        brought.publish(publisher, 1)
        publisher.wait_acknowledged(2)
    calls = [each.call for each in endpoint.history[before:]]
    entries = [entry for call in calls if call.action == "PublishBatch" for entry in batch_of(call)[1]]
    named = sorted(value for entry in entries for value in entry.values() if value.startswith('["'))
    assert named == [f'["{brought.name}-all","{brought.name}-{side}"]' for side in SIDES]
    assert {each.queue for each in calls if each.action == "SendMessageBatch"} == {f"{brought.name}-sent"}
    brought.assert_each(assert_exactly)


@pytest.mark.parametrize("plan", SETTING_UP.values(), ids=SETTING_UP)
def test_until_a_queue_is_subscribed_the_gateway_sends_to_it(
    plan: Mapping[str, Fault], site: Site, endpoint: FaultEndpoint
) -> None:
    before = endpoint.injected()
    for action, fault in plan.items():
        endpoint.inject(fault, action=action)
    with MqttPublisher(site.gateway.port("mqtt"), site.name) as publisher:
        site.publish(publisher, 10)
        publisher.wait_acknowledged(site.total)
        site.wait_brought()
        assert endpoint.injected() - before == Counter(plan.values())
        site.publish(publisher, 10)
        publisher.wait_acknowledged(site.total)
        assert not publisher.disconnects
    site.assert_each(assert_exactly)


def test_a_topic_that_somebody_deletes(brought: Site, ministack: Ministack, endpoint: FaultEndpoint) -> None:
    """It is made again, without subscriptions; what names queues is given back until the gateway has made those."""
    sns = aws_client("sns", ministack.url)
    with MqttPublisher(brought.gateway.port("mqtt"), brought.name) as publisher:
        brought.publish(publisher, BURST)
        wait_for(lambda: publisher.acknowledged, "some is acknowledged")
        sns.delete_topic(TopicArn=topic_arn(sns, brought.name))
        brought.publish(publisher, BURST)
        publisher.wait_acknowledged(4 * BURST, PATIENCE)
        brought.wait_brought(2)
        brought.publish(publisher, BURST)
        publisher.wait_acknowledged(6 * BURST, PATIENCE)
    brought.assert_each(assert_nothing_lost)


def test_kill_9_in_the_stream(brought: Site, endpoint: FaultEndpoint) -> None:
    gateway = brought.gateway
    # Slow enough that a kill always meets requests under way, on both sides of the emulator's work.
    endpoint.chaos((Slow(0.05), Slow(0.05, before=True)), 1.0, seed=1)
    with MqttPublisher(gateway.port("mqtt"), brought.name) as publisher:
        for kill in range(2):
            done = len(publisher.acknowledged)
            brought.publish(publisher, BURST)
            wait_for(lambda done=done: len(publisher.acknowledged) > done, "some is acknowledged")  # type: ignore[misc]
            gateway.kill9()
            assert len(publisher.acknowledged) < 2 * BURST * (kill + 1)
            gateway.start()
            brought.wait_brought(kill + 2)
        brought.publish(publisher, BURST)
        publisher.wait_acknowledged(3 * 2 * BURST, PATIENCE)
        assert publisher.disconnects >= 2
    brought.assert_each(assert_nothing_lost)
