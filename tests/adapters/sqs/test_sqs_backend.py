"""Answers of SQS that the emulator cannot be brought to give, and what is asked of it."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from adapters.aws.directory import LIMIT, NEGATIVE_SECONDS
from adapters.sqs.backend import MAX_VISIBILITY, RECEIVE_MARGIN, SqsBackend, open_backend
from adapters.sqs.queues import SETTLING_SECONDS
from adapters.sqs.settings import parse_target
from gateway.core.backend import QueueSpec, Target
from gateway.core.errors import (
    AccessDenied,
    BackendError,
    CredentialsInvalid,
    Invalid,
    NotFound,
    ReceiptExpired,
    Throttled,
    TooLarge,
    Unavailable,
)
from gateway.core.message import Address, Message
from gateway.core.metrics import ReadsMessages
from gateway.core.outcome import ACCEPTED, Outcome
from tests.adapters.sqs.scripted_aws import URL, ScriptedAws

ORDERS = Target(kind="sqs", name="orders", queue="orders")
MESSAGE = Message(Address("", "orders"), b"hello")
MISSING = NotFound("QueueDoesNotExist: no", resource="sqs queue orders", action="sqs:GetQueueUrl")


def succeeded(*ids: int) -> list[dict[str, object]]:
    return [{"Id": str(index), "MessageId": "m", "MD5OfMessageBody": "d"} for index in ids]


def failed(index: int, code: str, text: str = "", *, sender: bool = False) -> dict[str, object]:
    return {"Id": str(index), "Code": code, "Message": text, "SenderFault": sender}


async def send(backend: SqsBackend, count: int = 1, target: Target = ORDERS) -> list[object]:
    entries = [backend.encode(target, MESSAGE) for _ in range(count)]
    return [result.error or result.outcome for result in await backend.send(target, entries)]


class TestSend:
    async def test_the_request(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["SendMessageBatch"] = {"Successful": succeeded(0, 1)}
        assert await send(scripted_backend, 2) == [Outcome.ACCEPTED, Outcome.ACCEPTED]
        call = scripted.calls[-1]
        assert call.request["QueueUrl"] == URL
        assert call.resource == "sqs queue orders"
        assert call.region is None
        entries = call.request["Entries"]
        assert isinstance(entries, list)
        assert [entry["Id"] for entry in entries] == ["0", "1"]
        assert all(set(entry) == {"Id", "MessageBody", "MessageAttributes"} for entry in entries)

    async def test_each_entry_has_its_own_result(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["SendMessageBatch"] = {
            "Failed": [
                failed(1, "InternalError"),
                failed(3, "RequestThrottled"),
                failed(4, "InvalidMessageContents", sender=True),
                failed(5, "InvalidParameterValue", "Message must be shorter than 1024 bytes", sender=True),
                failed(6, "AccessDenied", sender=True),
                failed(7, "SomethingNew", "who knows", sender=True),
                failed(8, "KmsDisabled", "an operator can mend it", sender=True),
            ],
            "Successful": succeeded(9, 0),
        }
        results = await send(scripted_backend, 10)
        assert [results[0], results[9]] == [Outcome.ACCEPTED, Outcome.ACCEPTED]
        expected = [Unavailable, Unavailable, Throttled, Invalid, TooLarge, AccessDenied, BackendError, BackendError]
        assert [type(result) for result in results[1:9]] == expected
        assert "sqs queue orders (sqs:SendMessage): AccessDenied" in str(results[6])
        assert "said nothing" in str(results[2])

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [("InternalError", Outcome.RELEASED), ("InvalidMessageContents", Outcome.REJECTED)],
    )
    async def test_only_what_can_never_be_taken_is_rejected(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend, error: str, outcome: Outcome
    ) -> None:
        scripted.answers["SendMessageBatch"] = {"Failed": [failed(0, error)]}
        (result,) = await scripted_backend.send(ORDERS, [scripted_backend.encode(ORDERS, MESSAGE)])
        assert result.outcome is outcome

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"<html>",
            b"[]",
            b"1",
            b'{"Successful":[{}]}',
            b'{"Successful":[{"Id":"7"}]}',
            b'{"Failed":[{"Id":"0"}]}',
        ],
    )
    async def test_what_is_no_answer(self, scripted: ScriptedAws, scripted_backend: SqsBackend, answer: bytes) -> None:
        scripted.answers["SendMessageBatch"] = answer
        with pytest.raises(Unavailable, match="not the service's"):
            await send(scripted_backend)

    async def test_an_empty_answer_accepts_nothing(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["SendMessageBatch"] = {}
        assert [type(result) for result in await send(scripted_backend, 2)] == [Unavailable, Unavailable]

    async def test_a_retry_sends_the_same_bytes(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        target = Target(kind="sqs", name="orders.fifo", queue="orders")
        entry = scripted_backend.encode(target, MESSAGE)
        scripted.answers["SendMessageBatch"] = {"Failed": [failed(0, "InternalError")]}
        for _ in range(2):
            await scripted_backend.send(target, [entry])
        assert scripted.calls[-1] == scripted.calls[-2]
        entries = scripted.calls[-1].request["Entries"]
        assert isinstance(entries, list)
        assert entries[0]["MessageGroupId"] == "mqlift"
        assert entries[0]["MessageDeduplicationId"]

    async def test_a_group_makes_a_standard_queue_fair(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend
    ) -> None:
        target = parse_target("orders", {"group_id": "{header:tenant}"}, frozenset())
        entry = scripted_backend.encode(target, Message(Address("", "q"), b"x", headers={"tenant": "a b"}))
        assert entry.key is None
        fields = orjson.loads(b'{"Id":"0",' + entry.payload)  # type: ignore[operator]
        assert fields["MessageGroupId"].startswith("a-b-")
        assert "MessageDeduplicationId" not in fields
        plain = scripted_backend.encode(target, MESSAGE)
        assert b"MessageGroupId" not in plain.payload  # type: ignore[operator]

    def test_publishes_have_ids_of_their_own(self, scripted: ScriptedAws) -> None:
        target = Target(kind="sqs", name="orders.fifo")
        ids = set()
        for _ in range(2):
            backend = open_backend(scripted, prefix="", provision="auto")
            for _ in range(3):
                payload = backend.encode(target, MESSAGE).payload
                assert isinstance(payload, bytes)
                ids.add(orjson.loads(b"{" + payload)["MessageDeduplicationId"])
        assert len(ids) == 6

    def test_what_json_cannot_hold_is_refused_for_good(self, scripted_backend: SqsBackend) -> None:
        with pytest.raises(Invalid, match="orders"):
            scripted_backend.encode(ORDERS, Message(Address("", "\ud800"), b"x"))


class TestReceive:
    async def test_the_request(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["ReceiveMessage"] = {}
        assert await scripted_backend.receive(ORDERS, 7, 19.9, 30.2) == []
        call = scripted.calls[-1]
        assert call.request == {
            "QueueUrl": URL,
            "MaxNumberOfMessages": 7,
            "WaitTimeSeconds": 19,
            "VisibilityTimeout": 31,
            "MessageSystemAttributeNames": [
                "ApproximateReceiveCount",
                "MessageGroupId",
                "SentTimestamp",
                "AWSTraceHeader",
            ],
            "MessageAttributeNames": ["All"],
        }
        assert call.read_timeout == 19 + RECEIVE_MARGIN

    async def test_times_stay_within_what_sqs_takes(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["ReceiveMessage"] = {}
        await scripted_backend.receive(ORDERS, 1, 60.0, 1e6)
        request = scripted.calls[-1].request
        assert (request["WaitTimeSeconds"], request["VisibilityTimeout"]) == (20, MAX_VISIBILITY)

    async def test_a_message(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        entry = orjson.loads(b"{" + scripted_backend.encode(ORDERS, MESSAGE).payload)  # type: ignore[operator]
        scripted.answers["ReceiveMessage"] = {
            "Messages": [
                {
                    "MessageId": "m",
                    "ReceiptHandle": "r1",
                    "Body": entry["MessageBody"],
                    "Attributes": {"ApproximateReceiveCount": "3"},
                    "MessageAttributes": entry["MessageAttributes"],
                },
                {"MessageId": "n", "ReceiptHandle": "r2", "Body": "native"},
            ]
        }
        ours, native = await scripted_backend.receive(ORDERS, 10, 0.0, 30.0)
        assert (ours.message, ours.receipt, ours.attempt) == (MESSAGE, "r1", 3)
        expected = Message(Address("", "orders"), b"native")
        assert (native.message, native.receipt, native.attempt) == (expected, "r2", 1)

    @pytest.mark.parametrize(
        "answer", [b"", b"[]", b'{"Messages":[{}]}', b'{"Messages":[{"Body":"x"}]}', b'{"Messages":[1]}']
    )
    async def test_what_is_no_answer(self, scripted: ScriptedAws, scripted_backend: SqsBackend, answer: bytes) -> None:
        scripted.answers["ReceiveMessage"] = answer
        with pytest.raises(Unavailable):
            await scripted_backend.receive(ORDERS, 10, 0.0, 30.0)

    async def test_unreadable_messages_are_counted(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        broken = {"mqlift.meta": {"DataType": "String", "StringValue": '{"v":9}'}}
        message = {"ReceiptHandle": "r", "Body": "x", "MessageAttributes": broken}
        scripted.answers["ReceiveMessage"] = {"Messages": [message, message]}
        received = await scripted_backend.receive(ORDERS, 10, 0.0, 30.0)
        assert [item.message.body for item in received] == [b"x", b"x"]
        assert scripted_backend.unreadable == 2
        assert isinstance(scripted_backend, ReadsMessages), "metrics show it"

    async def test_too_much_in_flight(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["ReceiveMessage"] = Throttled("OverLimit")
        with pytest.raises(Throttled):
            await scripted_backend.receive(ORDERS, 10, 0.0, 30.0)


class TestSettle:
    async def test_the_requests(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        for action in ("DeleteMessageBatch", "ChangeMessageVisibilityBatch"):
            scripted.answers[action] = {"Successful": [{"Id": "0"}, {"Id": "1"}]}
        expected = [ACCEPTED, ACCEPTED]
        assert await scripted_backend.settle(ORDERS, ["a", "b"], Outcome.REJECTED) == expected
        assert scripted.calls[-1].request == {
            "QueueUrl": URL,
            "Entries": [{"Id": "0", "ReceiptHandle": "a"}, {"Id": "1", "ReceiptHandle": "b"}],
        }
        assert await scripted_backend.extend(ORDERS, ["a", "b"], 0.5) == expected
        assert scripted.calls[-1].request["Entries"] == [
            {"Id": "0", "ReceiptHandle": "a", "VisibilityTimeout": 1},
            {"Id": "1", "ReceiptHandle": "b", "VisibilityTimeout": 1},
        ]

    @pytest.mark.parametrize(
        ("outcome", "code", "text"),
        [
            (Outcome.ACCEPTED, "ReceiptHandleIsInvalid", "The input receipt handle is invalid"),
            (
                Outcome.ACCEPTED,
                "InvalidParameterValue",
                "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            ),
            (Outcome.RELEASED, "MessageNotInflight", ""),
            (
                Outcome.RELEASED,
                "InvalidParameterValue",
                "Message does not exist or is not available for visibility timeout change.",
            ),
        ],
    )
    async def test_deliveries_that_are_lost_to_us(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend, outcome: Outcome, code: str, text: str
    ) -> None:
        answer = {"Failed": [failed(1, code, text, sender=True)], "Successful": [{"Id": "0"}]}
        scripted.answers["DeleteMessageBatch"] = scripted.answers["ChangeMessageVisibilityBatch"] = answer
        first, second, third = await scripted_backend.settle(ORDERS, ["a", "b", "c"], outcome)
        assert first == ACCEPTED
        assert isinstance(second.error, ReceiptExpired)
        assert isinstance(third.error, Unavailable)


class TestFinding:
    async def test_the_url_is_asked_for_once(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["SendMessageBatch"] = {"Successful": succeeded(0)}
        scripted.gate = asyncio.Event()
        sends = [asyncio.create_task(send(scripted_backend)) for _ in range(5)]
        await asyncio.wait(sends, timeout=0.01)
        scripted.gate.set()
        assert await asyncio.gather(*sends) == [[Outcome.ACCEPTED]] * 5
        assert scripted.actions() == ["GetQueueUrl", *["SendMessageBatch"] * 5]

    async def test_one_that_gives_up_does_not_take_the_others_along(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend
    ) -> None:
        scripted.answers["SendMessageBatch"] = {"Successful": succeeded(0)}
        scripted.gate = asyncio.Event()
        first, second = (asyncio.create_task(send(scripted_backend)) for _ in range(2))
        await asyncio.wait([first, second], timeout=0.01)
        first.cancel()
        await asyncio.wait([first])
        scripted.gate.set()
        assert await second == [Outcome.ACCEPTED]

    async def test_an_arn_names_account_and_region(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["SendMessageBatch"] = {"Successful": succeeded(0)}
        target = Target(kind="sqs", name="arn:aws:sqs:eu-west-1:444455556666:orders")
        assert await send(scripted_backend, target=target) == [Outcome.ACCEPTED]
        assert scripted.calls[0].request == {"QueueName": "orders", "QueueOwnerAWSAccountId": "444455556666"}
        assert [call.region for call in scripted.calls] == ["eu-west-1", "eu-west-1"]

    async def test_a_url_is_not_asked_for(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["SendMessageBatch"] = {"Successful": succeeded(0)}
        url = "https://sqs.eu-west-1.amazonaws.com/444455556666/orders"
        assert await send(scripted_backend, target=Target(kind="sqs", name=url)) == [Outcome.ACCEPTED]
        assert scripted.actions() == ["SendMessageBatch"]
        assert scripted.calls[0].request["QueueUrl"] == url
        assert scripted.calls[0].region == "eu-west-1"

    @pytest.mark.parametrize(
        "name", ["arn:aws:sqs:us-east-1:111122223333:orders", "https://sqs.us-east-1.amazonaws.com/111122223333/orders"]
    )
    async def test_only_bare_names_are_created(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend, name: str
    ) -> None:
        scripted.answers["GetQueueUrl"] = scripted.answers["GetQueueAttributes"] = MISSING
        with pytest.raises(NotFound, match=r"create it$"):
            await scripted_backend.ensure(Target(kind="sqs", name=name), QueueSpec())
        assert "CreateQueue" not in scripted.actions()

    async def test_a_name_that_a_capture_broke(self, scripted_backend: SqsBackend) -> None:
        with pytest.raises(Invalid, match="not the ARN"):
            await scripted_backend.probe(Target(kind="sqs", name="arn:aws:sqs:us-east-1:1:orders"))

    async def test_a_missing_queue_is_not_asked_for_again_at_once(self, scripted: ScriptedAws) -> None:
        backend = open_backend(scripted, prefix="", provision="never")
        scripted.answers["GetQueueUrl"] = MISSING
        for _ in range(3):
            with pytest.raises(NotFound, match=r"provision: auto.*sqs:CreateQueue and sqs:TagQueue"):
                await send(backend)
        assert scripted.actions() == ["GetQueueUrl"]

    async def test_it_recovers_by_itself(self, scripted: ScriptedAws) -> None:
        backend = open_backend(scripted, prefix="", provision="never")
        scripted.answers["GetQueueUrl"] = CredentialsInvalid("ExpiredToken")
        with pytest.raises(CredentialsInvalid):
            await send(backend)
        scripted.answers |= {"GetQueueUrl": {"QueueUrl": URL}, "SendMessageBatch": {"Successful": succeeded(0)}}
        async with asyncio.timeout(NEGATIVE_SECONDS * 5):
            while True:
                try:
                    assert await send(backend) == [Outcome.ACCEPTED]
                except CredentialsInvalid:
                    await asyncio.sleep(0.01)
                else:
                    break
        assert scripted.actions() == ["GetQueueUrl", "GetQueueUrl", "SendMessageBatch"]

    async def test_what_others_waited_for_is_theirs_too(self, scripted: ScriptedAws) -> None:
        backend = open_backend(scripted, prefix="", provision="auto")
        scripted.answers["GetQueueUrl"] = Unavailable("down")
        scripted.gate = asyncio.Event()
        sends = [asyncio.create_task(send(backend)) for _ in range(3)]
        await asyncio.wait(sends, timeout=0.01)
        scripted.gate.set()
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        assert scripted.actions() == ["GetQueueUrl"]

    async def test_a_probe_always_asks(self, scripted: ScriptedAws) -> None:
        backend = open_backend(scripted, prefix="", provision="never")
        scripted.answers["GetQueueUrl"] = MISSING
        with pytest.raises(NotFound):
            await backend.ensure(ORDERS, QueueSpec())
        scripted.answers |= {"GetQueueUrl": {"QueueUrl": URL}, "GetQueueAttributes": {"Attributes": {}}}
        await backend.probe(ORDERS)
        assert scripted.actions() == ["GetQueueUrl", "GetQueueUrl", "GetQueueAttributes"]

    async def test_a_name_that_was_deleted_just_now(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        scripted.answers["GetQueueUrl"] = MISSING
        scripted.answers["CreateQueue"] = Unavailable("QueueDeletedRecently: wait 60 seconds")
        with pytest.raises(Unavailable, match="60 seconds") as refused:
            await scripted_backend.ensure(ORDERS, QueueSpec())
        assert refused.value.retriable

    async def test_a_queue_that_was_deleted_is_created_again(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend
    ) -> None:
        scripted.answers["SendMessageBatch"] = {"Successful": succeeded(0)}
        await send(scripted_backend)
        scripted.answers |= {"SendMessageBatch": MISSING, "GetQueueUrl": MISSING, "CreateQueue": {"QueueUrl": URL}}
        with pytest.raises(Unavailable):  # which the sender retries
            await send(scripted_backend)
        scripted.answers["SendMessageBatch"] = {"Successful": succeeded(0)}
        assert await send(scripted_backend) == [Outcome.ACCEPTED]
        assert scripted.actions()[2:] == ["SendMessageBatch", "GetQueueUrl", "CreateQueue", "SendMessageBatch"]

    async def test_consumers_are_told_that_their_queue_is_gone(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend
    ) -> None:
        scripted.answers["ReceiveMessage"] = MISSING
        with pytest.raises(NotFound):
            await scripted_backend.receive(ORDERS, 1, 0.0, 30.0)
        scripted.answers["ReceiveMessage"] = {}
        await scripted_backend.receive(ORDERS, 1, 0.0, 30.0)
        assert scripted.actions() == ["GetQueueUrl", "ReceiveMessage"] * 2

    async def test_a_queue_just_created_is_given_time(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend
    ) -> None:
        assert SETTLING_SECONDS > 1
        scripted.answers |= {"GetQueueUrl": MISSING, "CreateQueue": {"QueueUrl": URL}, "ReceiveMessage": MISSING}
        await scripted_backend.ensure(ORDERS, QueueSpec())
        with pytest.raises(Unavailable):
            await scripted_backend.receive(ORDERS, 1, 0.0, 30.0)

    async def test_a_missing_key_is_not_a_missing_queue(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend
    ) -> None:
        scripted.answers["SendMessageBatch"] = NotFound("KmsNotFound: no such key", action="sqs:SendMessageBatch")
        with pytest.raises(NotFound, match="KmsNotFound"):
            await send(scripted_backend)

    async def test_remembered_queues_are_bounded(self, scripted: ScriptedAws, scripted_backend: SqsBackend) -> None:
        directory = scripted_backend._queues
        for number in range(LIMIT + 5):
            directory.find(Target(kind="sqs", name=f"q{number}"))
        assert len(directory._queues) == LIMIT
        assert "q0" not in directory._queues

    @pytest.mark.parametrize(
        ("answer", "after"),
        [
            (b"{}", None),
            (b'{"Attributes":{}}', None),
            (b'{"Attributes":{"RedrivePolicy":"{\\"deadLetterTargetArn\\":\\"a\\",\\"maxReceiveCount\\":5}"}}', 5),
            (b'{"Attributes":{"RedrivePolicy":"{\\"maxReceiveCount\\":\\"7\\"}"}}', 7),
        ],
    )
    async def test_a_redrive_policy(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend, answer: bytes, after: int | None
    ) -> None:
        scripted.answers["GetQueueAttributes"] = answer
        assert await scripted_backend.redriven_after(ORDERS) == after

    @pytest.mark.parametrize(
        "answer",
        [b"[]", b'{"Attributes":{"RedrivePolicy":"{}"}}', b'{"Attributes":{"RedrivePolicy":"nonsense"}}'],
    )
    async def test_a_redrive_policy_that_is_none(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend, answer: bytes
    ) -> None:
        scripted.answers["GetQueueAttributes"] = answer
        with pytest.raises(Unavailable):
            await scripted_backend.redriven_after(ORDERS)

    @pytest.mark.parametrize("answer", [b"", b"{}", b'{"Attributes":{}}', b'{"Attributes":{"x":"y"}}'])
    async def test_a_depth_that_is_none(
        self, scripted: ScriptedAws, scripted_backend: SqsBackend, answer: bytes
    ) -> None:
        scripted.answers["GetQueueAttributes"] = answer
        with pytest.raises(Unavailable):
            await scripted_backend.depth(ORDERS)
