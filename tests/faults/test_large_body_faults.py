"""S3 fails while bodies are on their way, in parts: none is lost, none is half, and nothing is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError, NackError

from tests.conftest import serving
from tests.rig.counting import SqsClient, depth
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import BAD_GATEWAY, CutAnswer, Fault, NoAnswer, PlainError, Reset, Slow
from tests.rig.processes import HOST, Gateway, Ministack, gateway_config
from tests.rig.streams import aws_client
from tests.rig.waiting import wait_for

BUCKET = "mqlift-faulty"
MIB = 1024 * 1024
SIZE = 20 * MIB
"""Three parts."""
UNAVAILABLE = PlainError(503)
GIVES_UP = 3
"""Seconds after which nothing is sent again."""


@pytest.fixture(scope="module")
def s3(ministack: Ministack) -> Iterator[Any]:
    client = aws_client("s3", ministack.url)
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


@contextlib.contextmanager
def running_gateway(endpoint_url: str, directory: Path) -> Iterator[Gateway]:
    config = gateway_config(
        endpoint_url,
        protocols=("amqp091",),
        aws={"region": "us-east-1", "endpoint_url": endpoint_url, "read_timeout": 2},
        sqs={"large_payloads": {"bucket": BUCKET, "remove_after_ack": True}},
        sender={"timeout": GIVES_UP, "backoff_base": 0.01, "backoff_cap": 0.1},
        receiver={"wait": 1, "visibility": 2},
    )
    running = Gateway(config, directory)
    with serving(running):
        yield running


@pytest.fixture(scope="module")
def gateway(endpoint: FaultEndpoint, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(endpoint.url, tmp_path_factory.mktemp("faulty")) as running:
        yield running


@pytest.fixture
def body() -> bytes:
    return random.Random(21).randbytes(SIZE // 2).hex().encode()


def publish(gateway: Gateway, queue: str, body: bytes) -> None:
    """Raises `NackError` when it was not taken."""
    with amqp(gateway) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True)
        channel.basic_publish("", queue, body, mandatory=True)


def consume(gateway: Gateway, queue: str) -> list[bytes]:
    """What is in the queue now, and comes again within its visibility."""
    bodies: list[bytes] = []
    with amqp(gateway) as connection:
        channel = connection.channel()
        for method, _, body in channel.consume(queue, inactivity_timeout=8):
            if method is None:
                break
            bodies.append(body)
            channel.basic_ack(method.delivery_tag)
            break
        channel.cancel()
    return bodies


def amqp(gateway: Gateway) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.ConnectionParameters(HOST, gateway.port("amqp091"), heartbeat=0))


def objects(s3: Any) -> int:
    return int(s3.list_objects_v2(Bucket=BUCKET)["KeyCount"])


def uploads(s3: Any) -> list[Any]:
    return list(s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))


@pytest.mark.parametrize(
    ("action", "fault", "times"),
    [
        ("CreateMultipartUpload", UNAVAILABLE, 2),
        ("UploadPart", UNAVAILABLE, 4),
        ("UploadPart", Reset(), 2),
        ("UploadPart", Reset(applied=True), 2),
        ("CompleteMultipartUpload", BAD_GATEWAY, 2),
        ("CompleteMultipartUpload", Reset(applied=True), 1),
        ("HeadObject", UNAVAILABLE, 1),
        ("GetObject", UNAVAILABLE, 4),
        ("GetObject", CutAnswer(), 3),
        ("GetObject", Reset(), 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_fails_for_a_while_does_no_harm(
    gateway: Gateway,
    endpoint: FaultEndpoint,
    s3: Any,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
    body: bytes,
    action: str,
    fault: Fault,
    times: int,
) -> None:
    before = endpoint.injected()[fault]
    endpoint.inject(fault, action=action, times=times)
    publish(gateway, queue_name, body)
    assert [hashlib.sha256(each).digest() for each in consume(gateway, queue_name)] == [hashlib.sha256(body).digest()]
    wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")
    wait_for(lambda: objects(s3) == 0, "its body is removed")
    assert not uploads(s3)
    assert endpoint.injected()[fault] == before + times


@pytest.mark.parametrize(
    ("action", "fault"),
    [("UploadPart", UNAVAILABLE), ("UploadPart", NoAnswer()), ("CompleteMultipartUpload", PlainError(403))],
    ids=["no part", "no answer", "no completion"],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    gateway: Gateway,
    endpoint: FaultEndpoint,
    s3: Any,
    sqs: SqsClient,
    queue: str,
    queue_name: str,
    body: bytes,
    action: str,
    fault: Fault,
) -> None:
    endpoint.inject(fault, action=action, times=None)
    try:
        with pytest.raises(NackError):
            publish(gateway, queue_name, body)
    finally:
        endpoint.clear()
    assert depth(sqs, queue) == (0, 0)
    assert (objects(s3), uploads(s3)) == (0, [])
    assert gateway.metric("mqlift_large_body_bytes") == 0
    publish(gateway, queue_name, body)
    assert consume(gateway, queue_name) == [body]


def test_kill_9_in_an_upload_leaves_no_message_and_what_was_sent_again_comes_once(
    faults: FaultEndpoint, s3: Any, sqs: SqsClient, queue: str, queue_name: str, body: bytes, tmp_path: Path
) -> None:
    with running_gateway(faults.url, tmp_path) as gateway:
        kill_in_an_upload(gateway, faults, queue_name, body)
        assert (depth(sqs, queue), objects(s3)) == ((0, 0), 0)
        publish(gateway, queue_name, body)
        assert consume(gateway, queue_name) == [body]
        wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")
    (orphan,) = uploads(s3)
    s3.abort_multipart_upload(Bucket=BUCKET, Key=orphan["Key"], UploadId=orphan["UploadId"])  # as a lifecycle rule


def kill_in_an_upload(gateway: Gateway, faults: FaultEndpoint, queue_name: str, body: bytes) -> None:
    faults.inject(Slow(1.5, before=True), action="UploadPart", times=None)
    failures: list[Exception] = []

    def fail() -> None:
        try:
            publish(gateway, queue_name, body)
        except AMQPError as error:
            failures.append(error)

    publisher = threading.Thread(target=fail)
    publisher.start()
    wait_for(lambda: faults.calls("UploadPart"), "parts are under way")
    gateway.kill9()
    publisher.join()
    assert failures, "no acknowledgement"
    faults.clear()
    gateway.start()


def test_what_takes_longer_than_the_visibility_comes_once(
    gateway: Gateway, endpoint: FaultEndpoint, s3: Any, sqs: SqsClient, queue: str, queue_name: str, body: bytes
) -> None:
    """It is kept hidden while its parts are read."""
    publish(gateway, queue_name, body)
    heads, redeliveries = len(endpoint.calls("HeadObject")), gateway.metric("mqlift_redeliveries_total")
    endpoint.inject(Slow(4.0), action="GetObject", times=None)
    try:
        assert consume(gateway, queue_name) == [body]
    finally:
        endpoint.clear()
    wait_for(lambda: depth(sqs, queue) == (0, 0), "it is deleted")
    assert len(endpoint.calls("HeadObject")) == heads + 1
    assert gateway.metric("mqlift_redeliveries_total") == redeliveries
