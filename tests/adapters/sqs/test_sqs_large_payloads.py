"""Bodies in S3, in front of scripted answers of SQS: what an emulator cannot be brought to do."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest

from adapters.aws.payloads import LargePayloadSettings, Pointer
from adapters.sqs.backend import SqsBackend, open_backend
from adapters.sqs.settings import Settings
from gateway.core.backend import Received, Target
from gateway.core.errors import Unavailable
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome
from tests.adapters.sns.scripted_sns import Objects
from tests.adapters.sqs.scripted_aws import ScriptedAws

TARGET = Target(kind="sqs", name="orders", queue="orders")


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def aws(objects: Objects) -> ScriptedAws:
    scripted = ScriptedAws()
    scripted.objects = objects  # type: ignore[attr-defined]
    scripted.answers |= {"ChangeMessageVisibilityBatch": all_well, "DeleteMessageBatch": all_well}
    return scripted


@pytest.fixture
def backend(aws: ScriptedAws) -> SqsBackend:
    large = LargePayloadSettings(bucket="payloads", threshold=1000, remove_after_ack=True)
    return open_backend(aws, prefix="", provision="auto", settings=Settings(large_payloads=large))  # type: ignore[arg-type]


def all_well(request: Mapping[str, list[Mapping[str, str]]]) -> object:
    return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}


def pointing(key: str, size: object = 10, group: str = "", attribute: str = "ExtendedPayloadSize") -> dict[str, object]:
    """A message whose body is in S3, as SQS hands it out."""
    return {
        "MessageId": f"m-{key}",
        "ReceiptHandle": f"r-{key}",
        "Body": Pointer("payloads", key).text,
        "Attributes": {"ApproximateReceiveCount": "1"} | ({"MessageGroupId": group} if group else {}),
        "MessageAttributes": {attribute: {"DataType": "Number", "StringValue": str(size)}},
    }


def plain(body: str, group: str = "") -> dict[str, object]:
    return pointing(body, group=group) | {"Body": body, "MessageAttributes": {}}


async def received(backend: SqsBackend, aws: ScriptedAws, *messages: object) -> list[Received]:
    aws.answers["ReceiveMessage"] = {"Messages": list(messages)}
    return list(await backend.receive(TARGET, 10, 0.0, 30.0))


async def body_of(each: Received) -> bytes:
    return each.message.body if each.large is None else await each.large.fetch()


def released(aws: ScriptedAws) -> list[str]:
    return [
        entry["ReceiptHandle"]
        for call in aws.calls
        if call.action == "ChangeMessageVisibilityBatch"
        for entry in call.request["Entries"]  # type: ignore[attr-defined]
    ]


async def test_bodies_come_when_they_are_asked_for(backend: SqsBackend, aws: ScriptedAws, objects: Objects) -> None:
    objects.kept = {("payloads", "a"): b"from S3", ("payloads", "b"): b"\xff\xfe", ("payloads", "c"): b"old"}
    old = pointing("c", attribute="SQSLargePayloadSize")
    messages = await received(backend, aws, pointing("a"), plain("here"), pointing("b", "?"), old)
    assert [each.message.body for each in messages] == [b"", b"here", b"", b""]
    assert [each.large is None for each in messages] == [False, True, False, False]
    assert [await body_of(each) for each in messages] == [b"from S3", b"here", b"\xff\xfe", b"old"]


async def test_base64_is_undone_once(backend: SqsBackend, aws: ScriptedAws, objects: Objects) -> None:
    objects.kept = {("payloads", "a"): b"AP8="}
    message = pointing("a")
    message["MessageAttributes"]["mqlift.encoding"] = {"DataType": "String", "StringValue": "base64"}  # type: ignore[index]
    (each,) = await received(backend, aws, message)
    assert await body_of(each) == b"\x00\xff"
    assert not each.message.headers
    assert backend.unreadable == 0


async def test_a_pointer_elsewhere_is_a_body(backend: SqsBackend, aws: ScriptedAws) -> None:
    text = Pointer("secrets", "a").text
    (each,) = await received(backend, aws, pointing("a") | {"Body": text})
    assert await body_of(each) == text.encode()


@pytest.mark.parametrize(
    ("queue", "group", "ordered"),
    [("orders", "", False), ("orders", "fair", False), ("orders.fifo", "g", True)],
)
async def test_order_counts_in_fifo_queues_alone(
    backend: SqsBackend, aws: ScriptedAws, objects: Objects, queue: str, group: str, ordered: bool
) -> None:
    objects.kept = {("payloads", "a"): b"a"}
    aws.answers["ReceiveMessage"] = {"Messages": [pointing("a", group=group)]}
    (each,) = await backend.receive(Target(kind="sqs", name=queue, queue=queue), 10, 0.0, 30.0)
    assert each.large is not None
    assert each.large.ordered is ordered


async def test_a_body_is_removed_after_its_message(backend: SqsBackend, aws: ScriptedAws, objects: Objects) -> None:
    objects.kept = {("payloads", key): b"x" for key in "abc"}
    aws.answers["ReceiveMessage"] = {"Messages": [pointing("a"), pointing("b"), pointing("c"), plain("d")]}
    first, second, third, fourth = [each.receipt for each in await backend.receive(TARGET, 10, 0.0, 30.0)]

    def second_fails(request: Mapping[str, object]) -> object:
        return {"Successful": [{"Id": "0"}, {"Id": "2"}], "Failed": [{"Id": "1", "Code": "InternalError"}]}

    await backend.settle(TARGET, [third], Outcome.RELEASED)
    await backend.extend(TARGET, [third], 30.0)
    assert released(aws) == ["r-c", "r-c"]
    aws.answers["DeleteMessageBatch"] = second_fails
    results = await backend.settle(TARGET, [first, second, fourth], Outcome.ACCEPTED)
    assert [result.outcome for result in results] == [Outcome.ACCEPTED, Outcome.RELEASED, Outcome.ACCEPTED]
    entries = aws.calls[-1].request["Entries"]
    assert [entry["ReceiptHandle"] for entry in entries] == ["r-a", "r-b", "r-d"]  # type: ignore[attr-defined]
    assert objects.kept.keys() == {("payloads", "b"), ("payloads", "c")}


async def test_a_body_that_stays_does_not_bring_its_message_back(
    backend: SqsBackend, aws: ScriptedAws, objects: Objects
) -> None:
    objects.kept = {("payloads", "a"): b"x"}
    aws.answers["ReceiveMessage"] = {"Messages": [pointing("a")]}
    (delivery,) = await backend.receive(TARGET, 10, 0.0, 30.0)
    objects.failures = [Unavailable("S3 is down")]
    assert list(await backend.settle(TARGET, [delivery.receipt], Outcome.ACCEPTED)) == [ACCEPTED]


async def test_sent_only_when_s3_has_it(backend: SqsBackend, aws: ScriptedAws, objects: Objects) -> None:
    aws.answers["SendMessageBatch"] = all_well
    objects.failures = [Unavailable("S3 is down")]
    bodies = (b"x" * 3000, b"small", b"y" * 3000)
    batch = [backend.encode(TARGET, Message(Address("", "orders"), body)) for body in bodies]
    assert [entry.size for entry in batch][::2] == [3000, 3000]
    results = await backend.send(TARGET, batch)
    assert [result.outcome for result in results] == [Outcome.RELEASED, Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert len(aws.calls[-1].request["Entries"]) == 2  # type: ignore[arg-type]
    assert list(await backend.send(TARGET, [batch[0], batch[2]])) == [ACCEPTED] * 2
    assert objects.puts == 3, "what is stored is not stored again"
    sent = aws.calls[-1].request["Entries"][0]  # type: ignore[index]
    assert sent["MessageAttributes"]["ExtendedPayloadSize"] == {"DataType": "Number", "StringValue": "3000"}
    assert orjson.loads(sent["MessageBody"])[1]["s3BucketName"] == "payloads"


async def test_with_all_s3_requests_failing_nothing_is_sent(
    backend: SqsBackend, aws: ScriptedAws, objects: Objects
) -> None:
    objects.failures = [Unavailable("S3 is down")]
    entry = backend.encode(TARGET, Message(Address("", "orders"), b"x" * 3000))
    (result,) = await backend.send(TARGET, [entry])
    assert result.outcome is Outcome.RELEASED
    assert "SendMessageBatch" not in aws.actions()
