"""Subscriptions that hand messages to queues for the gateway: made, looked at, and undone."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from adapters.sns.backend import SnsBackend
from adapters.sns.fanout import SnsSubscriber, open_subscriber, statement_id
from adapters.sns.queues import without_statement
from adapters.sns.settings import Settings, SnsOptions, parse_target
from adapters.sqs.encoding import Decoder
from gateway.core.backend import Target
from gateway.core.errors import BackendError, ConfigError, Invalid, NotFound, Unavailable
from gateway.core.fanout import TOLD
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.core.packing import pack_meta
from gateway.core.transform import Transform
from tests.adapters.sns.scripted_sns import ACCOUNT, ScriptedSns, attributes, entries
from tests.rig.clock import on_clock

ARN = f"arn:aws:sns:eu-west-1:{ACCOUNT}:events"
QUEUE_ARN = f"arn:aws:sqs:eu-west-1:{ACCOUNT}:p-orders"
SUBSCRIPTION = f"{ARN}:1"
USUAL = object()
QUEUE = Target(kind="sqs", name="p-orders", queue="orders", options=USUAL)
TOPIC = parse_target("events", {"fanout": True}, frozenset())
FILTER = '{"mqlift.queues":["p-orders"]}'


@pytest.fixture
def subscriber(sns: ScriptedSns) -> SnsSubscriber:
    sns.answers |= {
        "GetQueueUrl": {"QueueUrl": "https://q"},
        "GetQueueAttributes": {"Attributes": {"QueueArn": QUEUE_ARN}},
        "SetQueueAttributes": {},
        "Subscribe": {"SubscriptionArn": SUBSCRIPTION},
        "Unsubscribe": {},
    }
    return open_subscriber(sns, settings=Settings(), usual=USUAL)


def requests(sns: ScriptedSns, action: str) -> list[dict[str, Any]]:
    return [dict(call.request) for call in sns.calls if call.action == action]


async def subscribed(sns: ScriptedSns, subscriber: SnsSubscriber) -> str:
    """Subscribe, and let SNS and SQS say from now on what they were told."""
    subscription = await subscriber.subscribe(TOPIC, QUEUE)
    (set_policy,) = requests(sns, "SetQueueAttributes")
    policy = set_policy["Attributes"]["Policy"]
    sns.answers["GetQueueAttributes"] = {"Attributes": {"QueueArn": QUEUE_ARN, "Policy": policy}}
    said = {"TopicArn": ARN, "RawMessageDelivery": "true", "FilterPolicy": FILTER}
    sns.answers["GetSubscriptionAttributes"] = {"Attributes": said}
    return subscription


async def test_subscribe(sns: ScriptedSns, subscriber: SnsSubscriber) -> None:
    assert await subscriber.subscribe(TOPIC, QUEUE) == SUBSCRIPTION
    (request,) = requests(sns, "Subscribe")
    assert request["TopicArn"] == ARN
    assert request["Endpoint"] == QUEUE_ARN
    assert request["Attributes.entry.1.key"] == "RawMessageDelivery"
    assert request["Attributes.entry.2.value"] == FILTER
    (set_policy,) = requests(sns, "SetQueueAttributes")
    (statement,) = orjson.loads(set_policy["Attributes"]["Policy"])["Statement"]
    assert statement["Sid"] == statement_id(ARN)
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": ARN}}


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"QueueArn": QUEUE_ARN.replace(ACCOUNT, "999999999999")}, "another account or region"),
        ({"QueueArn": QUEUE_ARN.replace("eu-west-1", "eu-west-2")}, "another account or region"),
        ({"QueueArn": QUEUE_ARN, "KmsMasterKeyId": "alias/ours"}, "KMS key"),
    ],
)
async def test_what_sns_would_not_bring(
    sns: ScriptedSns, subscriber: SnsSubscriber, said: dict[str, str], problem: str
) -> None:
    sns.answers["GetQueueAttributes"] = {"Attributes": said}
    with pytest.raises(Invalid, match=problem):
        await subscriber.subscribe(TOPIC, QUEUE)
    assert "Subscribe" not in sns.actions()


async def test_it_holds(sns: ScriptedSns, subscriber: SnsSubscriber) -> None:
    subscription = await subscribed(sns, subscriber)
    assert await subscriber.holds(TOPIC, QUEUE, subscription)


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("GetSubscriptionAttributes", NotFound("no such subscription")),
        ("GetQueueUrl", NotFound("no such queue")),
        ("GetQueueAttributes", {"Attributes": {"QueueArn": QUEUE_ARN}}),  # it was made anew, without a policy
        (
            "GetSubscriptionAttributes",
            {"Attributes": {"TopicArn": ARN, "RawMessageDelivery": "false", "FilterPolicy": FILTER}},
        ),
        ("GetSubscriptionAttributes", {"Attributes": {"TopicArn": ARN, "RawMessageDelivery": "true"}}),
    ],
)
async def test_it_does_not_hold(sns: ScriptedSns, subscriber: SnsSubscriber, action: str, answer: object) -> None:
    subscription = await subscribed(sns, subscriber)
    sns.answers[action] = answer
    assert not await subscriber.holds(TOPIC, QUEUE, subscription)


async def test_whether_it_holds_is_not_known(sns: ScriptedSns, subscriber: SnsSubscriber) -> None:
    subscription = await subscribed(sns, subscriber)
    answers: tuple[object, ...] = (b"<html>", {"Attributes": {}})
    for answer in answers:
        sns.answers["GetSubscriptionAttributes"] = answer
        with pytest.raises(Unavailable):
            await subscriber.holds(TOPIC, QUEUE, subscription)


async def test_unsubscribe(sns: ScriptedSns, subscriber: SnsSubscriber) -> None:
    subscription = await subscribed(sns, subscriber)
    await subscriber.unsubscribe(TOPIC, QUEUE, subscription)
    assert requests(sns, "Unsubscribe") == [{"SubscriptionArn": SUBSCRIPTION}]
    assert requests(sns, "SetQueueAttributes")[-1]["Attributes"] == {"Policy": ""}


async def test_unsubscribe_a_queue_that_has_gone(sns: ScriptedSns, subscriber: SnsSubscriber) -> None:
    subscription = await subscribed(sns, subscriber)
    sns.answers["GetQueueUrl"] = NotFound("no such queue")
    await subscriber.unsubscribe(TOPIC, QUEUE, subscription)
    assert sns.actions().count("SetQueueAttributes") == 1


async def test_what_cannot_be_undone_is_told(sns: ScriptedSns, subscriber: SnsSubscriber) -> None:
    subscription = await subscribed(sns, subscriber)
    sns.answers["Unsubscribe"] = Unavailable("out of order")
    with pytest.raises(BackendError):
        await subscriber.unsubscribe(TOPIC, QUEUE, subscription)


def test_what_a_policy_says_besides_stays() -> None:
    theirs = {"Sid": "theirs", "Effect": "Deny"}
    policy = orjson.dumps({"Version": "2012-10-17", "Statement": [theirs, {"Sid": "ours"}]}).decode()
    rest = without_statement(policy, "ours")
    assert rest is not None
    assert orjson.loads(rest) == {"Version": "2012-10-17", "Statement": [theirs]}
    assert without_statement(rest, "ours") is None


@pytest.mark.parametrize(
    ("topic", "queue", "objection"),
    [
        (TOPIC, QUEUE, ""),
        (TOPIC, replace(QUEUE, options=None), ""),
        (TOPIC, replace(QUEUE, kind="memory"), "lives in memory"),
        (TOPIC, replace(QUEUE, name="p-orders.fifo"), "FIFO"),
        (replace(TOPIC, name="captured.fifo"), QUEUE, "FIFO"),
        (TOPIC, replace(QUEUE, name=QUEUE_ARN), "ARN or URL"),
        (TOPIC, replace(QUEUE, options=SnsOptions()), "says more"),
        (TOPIC, replace(QUEUE, transform=Transform(envelope=True)), "says more"),
    ],
)
def test_objections(subscriber: SnsSubscriber, topic: Target, queue: Target, objection: str) -> None:
    found = subscriber.objection(topic, queue)
    assert objection in found
    assert bool(found) is bool(objection)


def test_the_option() -> None:
    assert TOPIC.fanout == ()
    assert parse_target("events", {"fanout": False}, frozenset()).fanout is None
    for name, value in (("events", "yes"), ("events.fifo", True)):
        with pytest.raises(ConfigError) as told:
            parse_target(name, {"fanout": value}, frozenset())
        assert told.value.key == "fanout"


async def test_a_message_names_its_queues(sns: ScriptedSns, backend: SnsBackend) -> None:
    message = Message(Address("events", "k"), b"body", headers={"h": 1})
    for target in (TOPIC, replace(TOPIC, fanout=("p-orders", "p-audit")), replace(TOPIC, fanout=("p-orders",))):
        for each in (message, replace(message, headers={})):
            entry = backend.encode(target, each)
            await backend.send(target, [entry])
            (sent,) = entries(sns.calls[-1].request)
            named = attributes(sent).get("mqlift.queues")
            expected = ("String.Array", orjson.dumps(target.fanout).decode()) if target.fanout else None
            assert named == expected
            assert entry.size == len(sent["Message"]) + sum(
                len(name) + len(kind) + len(value) for name, (kind, value) in attributes(sent).items()
            )


@on_clock
async def test_a_topic_that_is_made_again_has_no_subscriptions(sns: ScriptedSns, backend: SnsBackend) -> None:
    """What names queues is given back then, and told why; the rest goes to the new topic."""
    message = Message(Address("events", "k"), b"body")
    named = [backend.encode(replace(TOPIC, fanout=("p-orders",)), message) for _ in range(2)]
    plain = backend.encode(TOPIC, message)
    assert [each.outcome for each in await backend.send(TOPIC, [named[0], plain])] == [Outcome.ACCEPTED] * 2

    accepted, sns.answers["PublishBatch"] = sns.answers["PublishBatch"], NotFound("Topic does not exist")
    told, retried = await backend.send(TOPIC, [named[0], plain])
    assert (told.outcome, type(told.error)) == (Outcome.RELEASED, NotFound)
    assert (retried.outcome, type(retried.error)) == (Outcome.RELEASED, Unavailable)

    sns.answers |= {
        "PublishBatch": accepted,
        "GetTopicAttributes": NotFound("no topic"),
        "CreateTopic": {"TopicArn": ARN},
    }
    await asyncio.sleep(TOLD)
    outdated, sent = await backend.send(TOPIC, [named[1], plain])
    assert (outdated.outcome, type(outdated.error)) == (Outcome.RELEASED, NotFound)
    assert sent is ACCEPTED
    assert len(entries(sns.calls[-1].request)) == 1
    assert list(await backend.send(TOPIC, [backend.encode(replace(TOPIC, fanout=("p-orders",)), message)])) == [
        ACCEPTED
    ]


async def test_what_a_rule_makes_of_a_message_is_published(sns: ScriptedSns, backend: SnsBackend) -> None:
    target = Target(kind="sns", name="events", transform=Transform(envelope=True, content_type="text/x"))
    message = Message(Address("events", "k"), b"body", headers={"h": 1})
    await backend.send(target, [backend.encode(target, message)])
    (sent,) = entries(sns.calls[-1].request)
    assert orjson.loads(sent["Message"])["headers"] == {"h": 1}
    assert "text/x" in attributes(sent)["mqlift.meta"][1]


def test_what_is_not_due_is_refused(backend: SnsBackend) -> None:
    with pytest.raises(Invalid, match="a sns topic cannot delay single messages"):
        backend.encode(TOPIC, Message(Address("events", "k"), b"", not_before=2e9))


def test_a_message_that_was_handed_over_is_as_if_it_had_been_sent() -> None:
    sent = Message(Address("events", "k"), b"body", headers={"h": 1})
    text = {"mqlift.meta": pack_meta(sent), "mqlift.origin": "mqlift", "mqlift.key": "k", "mqlift.queues": '["q"]'}
    received = {name: {"DataType": "String", "StringValue": value} for name, value in text.items()}

    def report(queue: str, problem: str) -> None:
        raise AssertionError(f"{queue}: {problem}")

    decode = Decoder(report).decode
    assert decode("body", received, {}, "orders") == sent
    # Where a topic is listened to, it has to be known whose message it was.
    assert decode("body", received, {}, "mqlift-ingress-events").headers == {"h": 1, "mqlift.origin": "mqlift"}
