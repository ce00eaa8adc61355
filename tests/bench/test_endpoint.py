"""The instant endpoint speaks enough SQS for boto3, counts right, and takes requests cut anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3  # type: ignore[import-untyped]
import botocore.exceptions
import pytest

from tests.bench.endpoint import MAX_HEAD_BYTES, BadRequest, number_of, parse_request
from tests.bench.stage import EndpointProcess
from tests.conftest import sqs_client
from tests.rig.counting import SqsClient
from tests.rig.streams import aws_client

REQUEST = (
    b'POST / HTTP/1.1\r\nHost: x\r\nx-amz-TARGET: AmazonSQS.SendMessage\r\nConTent-Length:  7\r\nB: C\r\n\r\n{"a":1}'
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointProcess]:
    process = EndpointProcess(tmp_path_factory.mktemp("endpoint"))
    process.start()
    yield process
    assert process.terminate() == 0


@pytest.fixture
def client(endpoint: EndpointProcess) -> Iterator[SqsClient]:
    endpoint.control.reset({"supply": 0, "latency_ms": 0.0, "md5": False})
    client = sqs_client(endpoint.url)
    yield client
    client.close()


def entries(*bodies: str) -> list[dict[str, str]]:
    return [{"Id": f"id-{number}", "MessageBody": body} for number, body in enumerate(bodies)]


def test_requests_cut_anywhere() -> None:
    for cut in range(len(REQUEST)):
        assert parse_request(REQUEST[:cut]) is None
    parsed = parse_request(REQUEST + b"POST / HT")
    assert parsed is not None
    request, size = parsed
    assert (request.line, request.action, request.body) == (b"POST / HTTP/1.1", "SendMessage", b'{"a":1}')
    assert size == len(REQUEST)


def test_a_request_without_headers() -> None:
    parsed = parse_request(b"GET /stats HTTP/1.1\r\n\r\n")
    assert parsed is not None
    assert (parsed[0].line, parsed[0].action, parsed[0].body) == (b"GET /stats HTTP/1.1", "", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"x" * (MAX_HEAD_BYTES + 1),
        b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_it_does_not_understand(data: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(data)


def test_sends_are_counted(client: SqsClient, endpoint: EndpointProcess) -> None:
    url = client.get_queue_url(QueueName="bench")["QueueUrl"]
    assert url.startswith(endpoint.url)
    answer = client.send_message_batch(QueueUrl=url, Entries=entries("a", "b", "c"))
    assert [each["Id"] for each in answer["Successful"]] == ["id-0", "id-1", "id-2"]
    assert len({each["MessageId"] for each in answer["Successful"]}) == 3
    client.send_message(QueueUrl=url, MessageBody="d")
    actions = endpoint.control.stats()["actions"]
    assert (actions["SendMessageBatch"]["calls"], actions["SendMessageBatch"]["entries"]) == (1, 3)
    assert (actions["SendMessage"]["calls"], actions["SendMessage"]["entries"]) == (1, 1)
    endpoint.control.reset({})
    assert endpoint.control.stats()["actions"] == {}


def test_publishes_are_counted(endpoint: EndpointProcess) -> None:
    sns = boto3.client(
        "sns",
        endpoint_url=endpoint.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    attributes = {"a": {"DataType": "String", "StringValue": "&x.Id=1"}}
    batch = [{"Id": f"{number}", "Message": "m.Id=", "MessageAttributes": attributes} for number in range(10)]
    answer = sns.publish_batch(TopicArn="arn:aws:sns:us-east-1:000000000000:bench", PublishBatchRequestEntries=batch)
    assert [each["Id"] for each in answer["Successful"]] == [f"{number}" for number in range(10)]
    assert not answer["Failed"]
    sns.close()
    counted = endpoint.control.stats()["actions"]["PublishBatch"]
    assert (counted["calls"], counted["entries"]) == (1, 10)


def test_records_are_counted(endpoint: EndpointProcess) -> None:
    endpoint.control.reset({"latency_ms": 0.0})
    kinesis, firehose = (aws_client(service, endpoint.url) for service in ("kinesis", "firehose"))
    put = kinesis.put_records(StreamName="s", Records=[{"Data": b"x", "PartitionKey": "k"}] * 500)
    assert len({each["SequenceNumber"] for each in put["Records"]}) == 1
    assert (len(put["Records"]), put["FailedRecordCount"]) == (500, 0)
    archived = firehose.put_record_batch(DeliveryStreamName="a", Records=[{"Data": b"x"}] * 3)
    assert (len(archived["RequestResponses"]), archived["FailedPutCount"]) == (3, 0)
    actions = endpoint.control.stats()["actions"]
    assert (actions["PutRecords"]["calls"], actions["PutRecords"]["entries"]) == (1, 500)
    assert (actions["PutRecordBatch"]["calls"], actions["PutRecordBatch"]["entries"]) == (1, 3)


def test_md5_sums_are_true_when_asked_for(client: SqsClient, endpoint: EndpointProcess) -> None:
    endpoint.control.reset({"md5": True})
    answer = client.send_message_batch(QueueUrl=endpoint.url, Entries=entries("hello"))
    assert answer["Successful"][0]["MD5OfMessageBody"] == "5d41402abc4b2a76b9719d911017c592"


def test_the_supply_is_handed_out_once(client: SqsClient, endpoint: EndpointProcess) -> None:
    endpoint.control.reset({"supply": 12})
    messages = []
    for expected in (10, 2, 0):
        received = client.receive_message(QueueUrl=endpoint.url, MaxNumberOfMessages=10).get("Messages", [])
        assert len(received) == expected
        messages += received
    assert [int(message["Body"][:12]) for message in messages] == list(range(12))
    assert {len(message["Body"]) for message in messages} == {200}
    assert len({message["ReceiptHandle"] for message in messages}) == 12


def test_deletes_are_checked(client: SqsClient, endpoint: EndpointProcess) -> None:
    endpoint.control.reset({"supply": 5})
    messages = client.receive_message(QueueUrl=endpoint.url, MaxNumberOfMessages=5)["Messages"]
    handles = [message["ReceiptHandle"] for message in messages]
    doubtful = [*handles[:3], handles[0], "not one of ours", handles[0].replace("0", "9")]
    wanted = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(doubtful)]
    client.delete_message_batch(QueueUrl=endpoint.url, Entries=wanted)
    stats = endpoint.control.stats()
    assert (stats["received"], stats["deleted"]) == (5, 3)
    assert (stats["deleted_again"], stats["unknown_receipts"]) == (1, 2)


def test_a_stopped_supply_hands_out_nothing_more(client: SqsClient, endpoint: EndpointProcess) -> None:
    endpoint.control.reset({"supply": 3})
    client.receive_message(QueueUrl=endpoint.url, MaxNumberOfMessages=1)
    endpoint.control.stop_supply()
    assert "Messages" not in client.receive_message(QueueUrl=endpoint.url, WaitTimeSeconds=0)
    assert endpoint.control.stats()["received"] == 1


def test_a_waiting_poll_gets_what_comes(client: SqsClient, endpoint: EndpointProcess) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        poll = pool.submit(client.receive_message, QueueUrl=endpoint.url, WaitTimeSeconds=20)
        # Before the poll waits, or while it does: it has to come in both cases.
        endpoint.control.reset({"supply": 1})
        assert poll.result(timeout=10)["Messages"][0]["Body"].startswith("000000000000")


def test_a_poll_waits_no_longer_than_it_wants(client: SqsClient, endpoint: EndpointProcess) -> None:
    assert "Messages" not in client.receive_message(QueueUrl=endpoint.url, WaitTimeSeconds=1)
    assert endpoint.control.stats()["actions"]["ReceiveMessage"]["calls"] == 1


def test_what_a_gateway_needs_besides(client: SqsClient, endpoint: EndpointProcess) -> None:
    url = client.create_queue(QueueName="bench")["QueueUrl"]
    attributes = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["QueueArn"].endswith(":bench")
    answer = client.change_message_visibility_batch(
        QueueUrl=url, Entries=[{"Id": "x", "ReceiptHandle": "y", "VisibilityTimeout": 0}]
    )
    assert [each["Id"] for each in answer["Successful"]] == ["x"]
    with pytest.raises(botocore.exceptions.ClientError, match="not in this endpoint"):
        client.purge_queue(QueueUrl=url)


def test_receipts_of_others() -> None:
    assert number_of("") == number_of("x" * 200) == -1


def test_it_waits_when_it_is_told_to(client: SqsClient, endpoint: EndpointProcess) -> None:
    endpoint.control.reset({"latency_ms": 50.0})
    start = time.monotonic()
    client.send_message(QueueUrl=endpoint.url, MessageBody="later")
    assert time.monotonic() - start >= 0.05
