"""The fault endpoint injects what it says, and remembers what really happened."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest

from tests.conftest import sqs_client
from tests.rig.counting import SqsClient, depth, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import (
    ACCESS_DENIED,
    ALL_ENTRIES,
    BAD_GATEWAY,
    EXPIRED_TOKEN,
    INTERNAL_FAILURE,
    OVER_LIMIT,
    REQUEST_THROTTLED,
    SERVICE_UNAVAILABLE,
    THROTTLING,
    TRANSIENT,
    UNKNOWN_CREDENTIALS,
    CutAnswer,
    Document,
    EntryFailures,
    ErrorAnswer,
    MissingEntries,
    NoAnswer,
    PlainError,
    Reset,
    Slow,
)
from tests.rig.processes import Ministack

BODIES = [f"message {number}" for number in range(10)]


@pytest.fixture
def through(faults: FaultEndpoint) -> Iterator[SqsClient]:
    """A client that reaches the emulator only through the fault endpoint."""
    client = sqs_client(faults.url)
    yield client
    client.close()


@pytest.fixture
def url(through: SqsClient, queue_name: str) -> str:
    answer: str = through.create_queue(QueueName=queue_name)["QueueUrl"]
    return answer


def send_batch(client: SqsClient, url: str) -> dict[str, list[Document]]:
    entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(BODIES)]
    answer: dict[str, list[Document]] = client.send_message_batch(QueueUrl=url, Entries=entries)
    return answer


def ids(entries: list[Document]) -> set[int]:
    return {int(entry["Id"]) for entry in entries}


def test_it_forwards_everything_and_remembers_it(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    assert url.startswith(faults.url), "clients that follow the URL stay on this endpoint"
    before = time.monotonic()
    assert len(send_batch(through, url)["Successful"]) == len(BODIES)
    received = through.receive_message(QueueUrl=url, MaxNumberOfMessages=2)["Messages"]
    through.delete_message(QueueUrl=url, ReceiptHandle=received[0]["ReceiptHandle"])
    through.change_message_visibility(QueueUrl=url, ReceiptHandle=received[1]["ReceiptHandle"], VisibilityTimeout=0)
    name = url.rpartition("/")[2]
    assert [each.body for each in faults.stored(name)] == BODIES
    assert [each.body for each in faults.deleted(name)] == [received[0]["Body"]]
    assert [each.body for each in faults.released(name)] == [received[1]["Body"]]
    assert not faults.stored("another")
    assert not faults.deleted("another")
    assert not faults.released("another")
    assert before < faults.stored()[0].at < faults.deleted()[0].at < faults.released()[0].at < time.monotonic()
    assert drain(through, url) == Counter(BODIES) - Counter([received[0]["Body"]])


@pytest.mark.parametrize(
    "fault",
    [
        INTERNAL_FAILURE,
        SERVICE_UNAVAILABLE,
        REQUEST_THROTTLED,
        THROTTLING,
        OVER_LIMIT,
        ACCESS_DENIED,
        EXPIRED_TOKEN,
        UNKNOWN_CREDENTIALS,
    ],
)
def test_errors_of_the_service(fault: ErrorAnswer, through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(fault, action="SendMessageBatch")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        send_batch(through, url)
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == fault.status
    assert response["Error"]["Code"] == fault.code
    assert faults.stored() == []
    assert faults.injected() == {fault: 1}
    assert len(send_batch(through, url)["Successful"]) == len(BODIES), "once was asked for"


@pytest.mark.parametrize("fault", [BAD_GATEWAY, PlainError(503)])
def test_errors_that_are_not_of_the_service(
    fault: PlainError, through: SqsClient, url: str, faults: FaultEndpoint
) -> None:
    faults.inject(fault)
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        send_batch(through, url)
    assert caught.value.response["Error"]["Code"] == str(fault.status), "nothing but the status to go by"
    assert faults.stored() == []


@pytest.mark.parametrize(("sender_fault", "applied"), [(True, False), (False, False), (False, True)])
def test_single_entries_fail(
    sender_fault: bool, applied: bool, through: SqsClient, url: str, faults: FaultEndpoint
) -> None:
    fault = EntryFailures((1, 4, 40), code="SomeCode", sender_fault=sender_fault, applied=applied)
    faults.inject(fault, action="SendMessageBatch")
    answer = send_batch(through, url)
    assert ids(answer["Failed"]) == {1, 4}
    assert ids(answer["Successful"]) == set(range(10)) - {1, 4}
    assert {(entry["Code"], entry["SenderFault"]) for entry in answer["Failed"]} == {("SomeCode", sender_fault)}
    there = set(BODIES) if applied else set(BODIES) - {BODIES[1], BODIES[4]}
    assert {each.body for each in faults.stored()} == there
    assert drain(through, url) == Counter(there)


def test_all_entries_fail(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(EntryFailures(ALL_ENTRIES), action="SendMessageBatch")
    answer = send_batch(through, url)
    assert ids(answer["Failed"]) == set(range(10))
    assert not answer.get("Successful")
    assert depth(through, url) == (0, 0)


def test_calls_that_are_no_batch_pass_entry_failures(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(EntryFailures(ALL_ENTRIES))
    through.send_message(QueueUrl=url, MessageBody="alone")
    assert [each.body for each in faults.stored()] == ["alone"]


def test_an_answer_that_forgets_entries(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(MissingEntries((0, 9)), action="SendMessageBatch")
    answer = send_batch(through, url)
    assert ids(answer["Successful"]) == set(range(1, 9))
    assert not answer.get("Failed")
    assert drain(through, url) == Counter(BODIES)


@pytest.mark.parametrize("applied", [False, True])
def test_no_answer(applied: bool, queue_name: str, faults: FaultEndpoint) -> None:
    impatient = sqs_client(faults.url, read_timeout=1)
    url = impatient.create_queue(QueueName=queue_name)["QueueUrl"]
    faults.inject(NoAnswer(applied=applied))
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        send_batch(impatient, url)
    assert drain(impatient, url) == (Counter(BODIES) if applied else Counter())
    impatient.close()


@pytest.mark.parametrize("applied", [False, True])
def test_reset(applied: bool, through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(Reset(applied=applied))
    with pytest.raises(botocore.exceptions.ConnectionClosedError) as caught:
        send_batch(through, url)
    assert "ConnectionResetError" in repr(caught.value.kwargs["error"])
    assert drain(through, url) == (Counter(BODIES) if applied else Counter())


def test_an_answer_cut_in_the_middle(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(CutAnswer())
    with pytest.raises(botocore.exceptions.BotoCoreError):
        send_batch(through, url)
    assert drain(through, url) == Counter(BODIES)


@pytest.mark.parametrize("before", [False, True])
def test_slow_answers(before: bool, through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(Slow(0.3, before=before))
    start = time.monotonic()
    send_batch(through, url)
    end = time.monotonic()
    assert end - start >= 0.3
    stored = faults.stored()[0].at
    assert (stored - start >= 0.3) if before else (end - stored >= 0.3)


def test_a_fault_waits_for_its_action(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(INTERNAL_FAILURE, action="DeleteMessage", times=None)
    through.send_message(QueueUrl=url, MessageBody="one")
    receipt = through.receive_message(QueueUrl=url)["Messages"][0]["ReceiptHandle"]
    for _ in range(2):
        with pytest.raises(botocore.exceptions.ClientError):
            through.delete_message(QueueUrl=url, ReceiptHandle=receipt)
    faults.clear()
    through.delete_message(QueueUrl=url, ReceiptHandle=receipt)
    assert [exchange.fault for exchange in faults.calls("DeleteMessage")] == [INTERNAL_FAILURE, INTERNAL_FAILURE, None]
    assert len(faults.deleted()) == 3, "asked for, with or without effect"


def test_faults_come_in_the_order_they_were_injected(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    faults.inject(INTERNAL_FAILURE, times=2)
    faults.inject(REQUEST_THROTTLED)
    codes = []
    for _ in range(3):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            through.send_message(QueueUrl=url, MessageBody="x")
        codes.append(caught.value.response["Error"]["Code"])
    assert codes == ["InternalFailure", "InternalFailure", "RequestThrottled"]


def test_chaos_is_repeatable_and_knows_what_was_kept(sqs: SqsClient, ministack: Ministack, queue: str) -> None:
    met = []
    stored: Counter[str] = Counter()
    for _ in range(2):
        with FaultEndpoint(ministack.url) as endpoint:
            endpoint.chaos(TRANSIENT, 0.5, seed=7, actions=["SendMessage"])
            client = sqs_client(endpoint.url)
            for number in range(30):
                # Which calls fail is the seed's choice.
                with contextlib.suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                    client.send_message(QueueUrl=queue, MessageBody=str(number))
            client.close()
            met.append([exchange.fault for exchange in endpoint.history])
            stored.update(each.body for each in endpoint.stored())
    assert met[0] == met[1]
    assert 5 < sum(fault is not None for fault in met[0]) < 25
    assert drain(sqs, queue) == stored


def test_a_long_poll_ends_with_its_client(through: SqsClient, url: str, faults: FaultEndpoint) -> None:
    impatient = sqs_client(faults.url, read_timeout=1)
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        impatient.receive_message(QueueUrl=url, WaitTimeSeconds=20)
    impatient.close()
    poll = faults.calls("ReceiveMessage")[0]
    through.send_message(QueueUrl=url, MessageBody="for somebody else")
    assert through.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"][0]["Body"] == "for somebody else"
    assert poll.forwarded == []


def test_a_long_poll_gets_what_comes(through: SqsClient, sqs: SqsClient, url: str, queue_name: str) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        poll = pool.submit(through.receive_message, QueueUrl=url, WaitTimeSeconds=20)
        sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=queue_name)["QueueUrl"], MessageBody="news")
        assert poll.result(timeout=10)["Messages"][0]["Body"] == "news"


def test_a_long_poll_ends_when_its_time_is_over(through: SqsClient, url: str) -> None:
    start = time.monotonic()
    assert "Messages" not in through.receive_message(QueueUrl=url, WaitTimeSeconds=1)
    assert 1 <= time.monotonic() - start < 10


def test_an_emulator_that_is_gone_is_a_bad_gateway(queue_name: str) -> None:
    with FaultEndpoint("http://127.0.0.1:9") as endpoint:
        client = sqs_client(endpoint.url)
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.create_queue(QueueName=queue_name)
        client.close()
    assert caught.value.response["Error"]["Code"] == "502"
