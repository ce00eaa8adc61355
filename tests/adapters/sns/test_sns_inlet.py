from typing import Any

import orjson
import pytest

from adapters.sns.inlet import STATEMENT, Inlet, filter_policy, is_fifo, open_inlet, queue_name
from adapters.sns.queues import with_statement
from adapters.sns.settings import parse_target
from gateway.core.backend import Target
from gateway.core.errors import BackendError, Invalid, NotFound, Unavailable
from gateway.core.message import Address, Headers, Message, Origin, Properties
from gateway.core.packing import pack_meta
from tests.adapters.sns.scripted_sns import ACCOUNT, ScriptedSns

ARN = f"arn:aws:sns:eu-west-1:{ACCOUNT}:events"
QUEUE_ARN = f"arn:aws:sqs:eu-west-1:{ACCOUNT}:mqlift-ingress-events"
QUEUE = Target(kind="sqs", name="mqlift-ingress-events", queue="mqlift-ingress-events")


def inlet(sns: ScriptedSns, **settings: Any) -> Inlet:
    usual = {"prefix": "", "provision": "auto", "envelope": False, "filtered": False}
    topic = parse_target("events", {}, frozenset())
    return open_inlet(sns, topic=topic, queue=QUEUE, **usual | settings)


@pytest.fixture
def sns(sns: ScriptedSns) -> ScriptedSns:
    sns.answers |= {
        "GetQueueUrl": {"QueueUrl": "https://q"},
        "GetQueueAttributes": {"Attributes": {"QueueArn": QUEUE_ARN}},
        "SetQueueAttributes": {},
        "Subscribe": {"SubscriptionArn": "s"},
    }
    return sns


def native(body: bytes, headers: Headers) -> Message:
    return Message(Address("", "mqlift-ingress-events"), body, headers=headers)


class TestAttach:
    async def test_the_queue_is_subscribed(self, sns: ScriptedSns) -> None:
        await inlet(sns).attach()
        calls = {call.action: call.request for call in sns.calls}
        (statement,) = orjson.loads(calls["SetQueueAttributes"]["Attributes"]["Policy"])["Statement"]  # type: ignore[index]
        assert statement["Resource"] == QUEUE_ARN
        assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": ARN}}
        assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
        assert calls["Subscribe"] == {
            "TopicArn": ARN,
            "Protocol": "sqs",
            "Endpoint": QUEUE_ARN,
            "ReturnSubscriptionArn": "true",
            "Attributes.entry.1.key": "RawMessageDelivery",
            "Attributes.entry.1.value": "true",
        }

    async def test_with_a_filter(self, sns: ScriptedSns) -> None:
        await inlet(sns, filtered=True, prefix="prod-").attach()
        request = sns.calls[-1].request
        assert request["Attributes.entry.2.key"] == "FilterPolicy"
        policy = orjson.loads(request["Attributes.entry.2.value"])
        assert policy == {"mqlift.origin": [{"exists": False}, {"anything-but": ["prod-"]}]}

    async def test_a_policy_that_is_right_stays(self, sns: ScriptedSns) -> None:
        await inlet(sns).attach()
        (policy,) = [call.request["Attributes"]["Policy"] for call in sns.calls if call.action == "SetQueueAttributes"]  # type: ignore[index]
        sns.calls.clear()
        sns.answers["GetQueueAttributes"] = {"Attributes": {"QueueArn": QUEUE_ARN, "Policy": policy}}
        await inlet(sns).attach()
        assert "SetQueueAttributes" not in sns.actions()

    async def test_provision_never_makes_nothing(self, sns: ScriptedSns) -> None:
        await inlet(sns, provision="never").attach()
        assert sns.actions() == ["GetCallerIdentity", "GetTopicAttributes"]

    async def test_a_subscription_of_another_kind_is_told(self, sns: ScriptedSns) -> None:
        sns.answers["Subscribe"] = Invalid("InvalidParameter: already exists with different attributes")
        with pytest.raises(BackendError, match="remove that subscription") as told:
            await inlet(sns).attach()
        assert not told.value.permanent

    async def test_a_topic_that_is_gone_is_made_again(self, sns: ScriptedSns) -> None:
        attached = inlet(sns)
        await attached.attach()
        sns.answers["Subscribe"] = NotFound("Topic does not exist")
        with pytest.raises(NotFound):
            await attached.attach()
        sns.answers |= {
            "Subscribe": {"SubscriptionArn": "s"},
            "GetTopicAttributes": NotFound("no topic"),
            "CreateTopic": {"TopicArn": ARN},
        }
        await attached.attach()
        assert "CreateTopic" in sns.actions()

    @pytest.mark.parametrize("answer", [{}, {"Attributes": {}}, b"<html>"])
    async def test_what_is_no_answer(self, sns: ScriptedSns, answer: object) -> None:
        sns.answers["GetQueueAttributes"] = answer
        with pytest.raises(Unavailable):
            await inlet(sns).attach()


OTHER = {"Sid": "theirs", "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "*"}


@pytest.mark.parametrize("found", [[OTHER], OTHER, [OTHER, {"Sid": STATEMENT, "Resource": "former"}]])
def test_what_a_policy_says_already_stays(found: object) -> None:
    policy = with_statement(
        orjson.dumps({"Version": "2008-10-17", "Statement": found}).decode(), QUEUE_ARN, ARN, STATEMENT
    )
    assert policy is not None
    parsed = orjson.loads(policy)
    assert parsed["Version"] == "2008-10-17"
    assert [each["Sid"] for each in parsed["Statement"]] == ["theirs", STATEMENT]
    assert with_statement(policy, QUEUE_ARN, ARN, STATEMENT) is None


@pytest.mark.parametrize("policy", ["not JSON", "[]", "{}", '{"Statement": [1]}'])
def test_a_policy_that_is_none_is_left_alone(policy: str) -> None:
    with pytest.raises(Unavailable):
        with_statement(policy, QUEUE_ARN, ARN, STATEMENT)


def test_names() -> None:
    assert queue_name("events") == queue_name(ARN) == "mqlift-ingress-events"
    assert queue_name("jobs.fifo") == "mqlift-ingress-jobs.fifo"
    assert is_fifo("jobs.fifo")
    assert not is_fifo(ARN)
    assert orjson.loads(filter_policy("a")) == {"mqlift.origin": [{"exists": False}, {"anything-but": ["a"]}]}


class TestTake:
    async def test_a_raw_message(self, sns: ScriptedSns) -> None:
        attached = inlet(sns)
        await attached.attach()
        incoming = attached.take(native(b"body", {"site": "north"}))
        assert incoming is not None
        assert incoming.captures == {"subject": ""}
        assert incoming.message == Message(
            Address("", "mqlift-ingress-events"), b"body", headers={"site": "north"}, origin=Origin("sns", ARN)
        )

    def test_our_own(self, sns: ScriptedSns) -> None:
        assert inlet(sns).take(native(b"x", {"mqlift.origin": "mqlift"})) is None
        assert inlet(sns, prefix="a-").take(native(b"x", {"mqlift.origin": "a-"})) is None

    def test_those_of_another_gateway(self, sns: ScriptedSns) -> None:
        incoming = inlet(sns).take(native(b"x", {"mqlift.origin": "other", "a": 1}))
        assert incoming is not None
        assert incoming.message.headers == {"a": 1}


def enveloped(message: str, subject: str | None = None, **attributes: tuple[str, str]) -> bytes:
    document: dict[str, object] = {"Type": "Notification", "MessageId": "m", "TopicArn": ARN, "Message": message}
    if subject is not None:
        document["Subject"] = subject
    if attributes:
        document["MessageAttributes"] = {
            name.replace("__", "."): {"Type": kind, "Value": value} for name, (kind, value) in attributes.items()
        }
    return orjson.dumps(document)


class TestEnvelope:
    def taken(self, sns: ScriptedSns, body: bytes) -> tuple[bytes, Headers, str]:
        incoming = inlet(sns, envelope=True).take(native(body, {}))
        assert incoming is not None
        return incoming.message.body, incoming.message.headers, incoming.captures["subject"]

    def test_it_is_taken_off(self, sns: ScriptedSns) -> None:
        body = enveloped("größer", "hello", text=("String", "t"), number=("Number", "7"), raw=("Binary", "AP8="))
        headers = {"text": "t", "number": 7, "raw": b"\x00\xff"}
        assert self.taken(sns, body) == ("größer".encode(), headers, "hello")

    def test_without_subject_and_attributes(self, sns: ScriptedSns) -> None:
        assert self.taken(sns, enveloped("x")) == (b"x", {}, "")

    def test_our_own(self, sns: ScriptedSns) -> None:
        body = enveloped("x", mqlift__origin=("String", "mqlift"))
        assert inlet(sns, envelope=True).take(native(body, {})) is None

    def test_those_of_another_gateway(self, sns: ScriptedSns) -> None:
        # A client that sets the header does not pass for another gateway.
        told = Message(Address("a", "b"), b"", Properties(type="t"), {"h": 1, "mqlift.origin": "forged"})
        more = {
            "mqlift__meta": ("String", pack_meta(told)),
            "mqlift__encoding": ("String", "base64"),
            "mqlift__origin": ("String", "other"),
            "mqlift__key": ("String", "b"),
        }
        incoming = inlet(sns, envelope=True).take(native(enveloped("AP8=", **more), {}))
        assert incoming is not None
        assert incoming.message.body == b"\x00\xff"
        assert incoming.message.properties == Properties(type="t")
        assert incoming.message.headers == {"h": 1}
        forged = enveloped("AP8=", **more | {"mqlift__origin": ("String", "mqlift")})
        assert inlet(sns, envelope=True).take(native(forged, {})) is None

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"plain",
            b"[]",
            b"{}",
            b'{"Type": "SubscriptionConfirmation", "Message": "m"}',
            b'{"Type": "Notification", "Message": 1}',
            b'{"Type": "Notification", "Message": "m", "MessageAttributes": {"a": 1}}',
            b'{"Type": "Notification", "Message": "", "MessageAttributes": {"mqlift.meta": {"Value": ""}}}',
        ],
    )
    def test_what_is_in_none_is_taken_as_it_is(self, sns: ScriptedSns, body: bytes) -> None:
        assert self.taken(sns, body) == (body, {}, "")
