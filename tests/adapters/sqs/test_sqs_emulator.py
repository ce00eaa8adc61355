"""What other applications see of mqlift's queues, and mqlift of theirs: boto3 on the other side of the emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from adapters.sqs.backend import SqsBackend, open_backend
from adapters.sqs.settings import parse_target
from gateway.core.backend import QueueSpec, Target
from gateway.core.errors import NotFound
from gateway.core.message import NATIVE, NO_PROPERTIES, PERSISTENT, Address, Headers, Message, Origin
from gateway.core.outcome import ACCEPTED, Outcome
from tests.rig.processes import AWS_ENVIRONMENT, Ministack

NOBODY: frozenset[str] = frozenset()


@pytest.fixture
async def aws(ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsClient]:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    client = await open_client(AwsSettings(region="us-east-1", endpoint_url=ministack.url))
    yield client
    await client.aclose()


@pytest.fixture
def backend(aws: AwsClient) -> SqsBackend:
    return open_backend(aws, prefix="", provision="auto")


def hub_queue(name: str, **options: object) -> Target:
    parsed = parse_target(name, options, NOBODY)
    return Target(kind="sqs", name=name, queue="hub-queue", options=parsed.options)


async def publish(backend: SqsBackend, target: Target, body: bytes, headers: Headers) -> Message:
    message = Message(Address("amq.topic", "a.b"), body, PERSISTENT, headers, Origin("mqtt", "dev-1", "alice"))
    assert await backend.send(target, [backend.encode(target, message)]) == [ACCEPTED]
    return message


def native(sqs: Any, url: str) -> dict[str, Any]:
    """The one message in a queue, as a native application sees it."""
    answer = sqs.receive_message(
        QueueUrl=url, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"], WaitTimeSeconds=5
    )
    (message,) = answer["Messages"]
    found: dict[str, Any] = message
    return found


async def test_a_body_is_read_by_anybody(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    await publish(backend, hub_queue(queue_name), b'{"temperature": 21.5}', {"tenant": "t1"})
    message = native(sqs, queue)
    assert message["Body"] == '{"temperature": 21.5}'
    (meta,) = message["MessageAttributes"].values()
    assert orjson.loads(meta["StringValue"]) == {
        "v": 1,
        "x": "amq.topic",
        "k": "a.b",
        "p": {"dm": 2},
        "h": {"tenant": "t1"},
        "o": ["mqtt", "dev-1", "alice"],
    }


@pytest.mark.parametrize(("body", "text", "encoding"), [(b"\x00\xff", "AP8=", "base64"), (b"", "-", "empty")])
async def test_what_sqs_cannot_carry_is_marked(
    backend: SqsBackend, sqs: Any, queue: str, queue_name: str, body: bytes, text: str, encoding: str
) -> None:
    await publish(backend, hub_queue(queue_name), body, {})
    message = native(sqs, queue)
    assert message["Body"] == text
    assert message["MessageAttributes"]["mqlift.encoding"]["StringValue"] == encoding


async def test_exposed_headers_are_attributes(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    target = hub_queue(queue_name, attributes=["tenant", "count", "key", "absent", "none"])
    headers: Headers = {"tenant": "t1", "count": 7, "key": b"\x00\xff", "none": None, "private": "x"}
    sent = await publish(backend, target, b"\x00", headers)
    attributes = native(sqs, queue)["MessageAttributes"]
    assert attributes.keys() == {"mqlift.meta", "mqlift.encoding", "tenant", "count", "key"}
    assert attributes["tenant"] == {"DataType": "String", "StringValue": "t1"}
    assert attributes["count"] == {"DataType": "Number", "StringValue": "7"}
    assert attributes["key"] == {"DataType": "Binary", "BinaryValue": b"\x00\xff"}
    sqs.purge_queue(QueueUrl=queue)
    await publish(backend, target, b"\x00", headers)
    (received,) = await backend.receive(target, 1, 5.0, 30.0)
    assert received.message == sent


async def test_native_messages(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    sqs.send_message(
        QueueUrl=queue,
        MessageBody="grüße",
        MessageAttributes={
            "text": {"DataType": "String", "StringValue": "t1"},
            "labelled": {"DataType": "String.json", "StringValue": "{}"},
            "whole": {"DataType": "Number", "StringValue": "7"},
            "half": {"DataType": "Number", "StringValue": "0.5"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        },
    )
    (received,) = await backend.receive(hub_queue(queue_name), 1, 5.0, 30.0)
    assert received.message == Message(
        Address("", "hub-queue"),
        "grüße".encode(),
        NO_PROPERTIES,
        {"text": "t1", "labelled": "{}", "whole": 7, "half": 0.5, "bytes": b"\x00\xff"},
        NATIVE,
    )
    assert received.attempt == 1


async def test_native_messages_in_groups(backend: SqsBackend, sqs: Any, queue_name: str) -> None:
    target = hub_queue(f"{queue_name}.fifo")
    await backend.ensure(target, QueueSpec())
    url = sqs.get_queue_url(QueueName=target.name)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="x", MessageGroupId="g7", MessageDeduplicationId="1")
    (received,) = await backend.receive(target, 1, 5.0, 30.0)
    assert received.message.headers == {"JMSXGroupID": "g7"}


async def test_broken_metadata_loses_nothing(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    broken = {"mqlift.meta": {"DataType": "String", "StringValue": '{"v":2}'}}
    sqs.send_message(QueueUrl=queue, MessageBody="kept", MessageAttributes=broken)
    (received,) = await backend.receive(hub_queue(queue_name), 1, 5.0, 30.0)
    assert received.message == Message(Address("", "hub-queue"), b"kept", headers={"mqlift.meta": '{"v":2}'})
    assert backend.unreadable == 1


async def test_the_trace_of_a_native_message(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": header}}
    sqs.send_message(QueueUrl=queue, MessageBody="x", MessageSystemAttributes=trace)
    (received,) = await backend.receive(hub_queue(queue_name), 1, 5.0, 30.0)
    assert received.message.headers == {"traceparent": "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"}


@pytest.mark.xfail(reason="ministack 1.5.33 drops MessageSystemAttributes of SendMessageBatch; SQS keeps them")
async def test_the_trace_is_seen_by_xray(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    headers = {"traceparent": "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"}
    await publish(backend, hub_queue(queue_name), b"x", headers)
    assert native(sqs, queue)["Attributes"]["AWSTraceHeader"].startswith("Root=1-5759e988-bd862e3fe1be46a994272793")


async def test_groups_and_ids_are_seen(backend: SqsBackend, sqs: Any, queue_name: str) -> None:
    target = hub_queue(f"{queue_name}.fifo", group_id="{header:tenant}", deduplication_id="{header:id}")
    await publish(backend, target, b"x", {"tenant": "t1", "id": "7"})
    system = native(sqs, sqs.get_queue_url(QueueName=target.name)["QueueUrl"])["Attributes"]
    assert (system["MessageGroupId"], system["MessageDeduplicationId"]) == ("t1", "7")


async def test_a_fair_queue(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    await publish(backend, hub_queue(queue_name, group_id="{header:tenant}"), b"x", {"tenant": "t1"})
    assert native(sqs, queue)["Attributes"]["MessageGroupId"] == "t1"


async def test_what_a_new_queue_is_like(backend: SqsBackend, sqs: Any, queue_name: str) -> None:
    legacy = f"{queue_name}/Grüße"
    for spec, fifo in ((QueueSpec(), False), (QueueSpec(arguments={"x-fifo": True}), True)):
        target = backend.home(legacy, spec)
        await backend.ensure(target, spec)
        url = sqs.get_queue_url(QueueName=target.name)["QueueUrl"]
        assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"mqlift:name": f"{queue_name}/Gr=C3=BC=C3=9Fe"}
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert attributes["MessageRetentionPeriod"] == str(14 * 24 * 3600)
        assert attributes.get("FifoQueue", "false") == ("true" if fifo else "false")
        if fifo:
            assert attributes["ContentBasedDeduplication"] == "false"
            assert attributes["DeduplicationScope"] == "messageGroup"
            assert attributes["FifoThroughputLimit"] == "perMessageGroupId"


async def test_queues_of_others_are_used_as_they_are(aws: AwsClient, queue: str, queue_name: str) -> None:
    backend = open_backend(aws, prefix="", provision="never")
    for name in (queue_name, queue, f"arn:aws:sqs:us-east-1:000000000000:{queue_name}"):
        target = Target(kind="sqs", name=name, queue="hub-queue")
        await backend.ensure(target, QueueSpec())
        await backend.probe(target)
        sent = await publish(backend, target, name.encode(), {})
        (received,) = await backend.receive(target, 1, 5.0, 30.0)
        assert received.message == sent
        assert await backend.settle(target, [received.receipt], Outcome.ACCEPTED) == [ACCEPTED]


async def test_a_queue_that_somebody_deletes(backend: SqsBackend, sqs: Any, queue: str, queue_name: str) -> None:
    target = hub_queue(queue_name)
    await publish(backend, target, b"before", {})
    sqs.delete_queue(QueueUrl=queue)
    with pytest.raises(NotFound):
        await backend.receive(target, 1, 0.0, 30.0)
    sent = await publish(backend, target, b"after", {})
    (received,) = await backend.receive(target, 1, 5.0, 30.0)
    assert received.message == sent
