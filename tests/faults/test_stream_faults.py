"""Faults between the gateway and Kinesis or Firehose: nothing acknowledged is lost, each key stays in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pytest

from tests.conftest import finish
from tests.faults.conftest import quick_config
from tests.rig.clients import MqttPublisher
from tests.rig.counting import assert_nothing_lost, assert_stored_before_acknowledged
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import (
    BAD_GATEWAY,
    INTERNAL_FAILURE,
    SERVICE_UNAVAILABLE,
    CutAnswer,
    Fault,
    NoAnswer,
    Reset,
    Slow,
)
from tests.rig.processes import Gateway, Ministack
from tests.rig.record_faults import (
    ARCHIVE_THROTTLED,
    STREAM_THROTTLED,
    RecordFailures,
    ShardFailures,
    put_records,
)
from tests.rig.streams import Client, aws_client, bodies_by_key, delivered_objects, make_delivery_stream

DEVICES = 12
MESSAGES = 15
ROUND = 3
SHARDS = 4

ROUTES: list[object] = [
    {"match": {"topic": "stream/{name}/{device}"}, "to": [{"kinesis": "{name}", "partition_key": "{device}"}]},
    {
        "match": {"topic": "aggregate/{name}/{device}"},
        "to": [{"kinesis": "{name}", "partition_key": "{device}", "aggregate": True}],
    },
    {"match": {"topic": "archive/{name}/#"}, "to": [{"firehose": "{name}"}]},
]

BROKEN_NETWORK = (Reset(), Reset(applied=True), CutAnswer(), NoAnswer(applied=True), Slow(0.2, before=True))
SERVER_ERRORS = (INTERNAL_FAILURE, SERVICE_UNAVAILABLE, BAD_GATEWAY)
RECORDS_FAIL = (RecordFailures((0, 2, 5)), RecordFailures((1, 4), "InternalFailure"), RecordFailures(range(500)))
RECORDS_FAIL_AND_ARE_DONE = (RecordFailures((0, 3, 7), applied=True), RecordFailures((1, 2), "InternalFailure", True))

STREAM_PLANS: dict[str, Sequence[Fault]] = {
    "records fail": RECORDS_FAIL,
    "records fail and are done": RECORDS_FAIL_AND_ARE_DONE,
    "throttles": (STREAM_THROTTLED, RecordFailures(range(500))),
    "one shard fails": (ShardFailures(1, SHARDS), ShardFailures(1, SHARDS, "InternalFailure")),
    "lost answers": BROKEN_NETWORK,
    "everything": (*SERVER_ERRORS, *RECORDS_FAIL, *RECORDS_FAIL_AND_ARE_DONE, *BROKEN_NETWORK, STREAM_THROTTLED),
}
ARCHIVE_PLANS: dict[str, Sequence[Fault]] = {
    "records fail": (RecordFailures((0, 3), "InternalFailure"), RecordFailures((1, 2), "ServiceUnavailableException")),
    "throttles": (ARCHIVE_THROTTLED,),
    "everything": (*SERVER_ERRORS, *RECORDS_FAIL_AND_ARE_DONE, *BROKEN_NETWORK, ARCHIVE_THROTTLED),
}


@pytest.fixture(scope="module")
def stream_gateway(endpoint: FaultEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = quick_config(endpoint.url) | {"routes": ROUTES}
    running = Gateway(config, tmp_path_factory.mktemp("streams"))
    with contextlib.ExitStack() as stack:
        stack.callback(finish, running)
        running.start()
        yield running


@pytest.fixture(scope="module")
def kinesis(ministack: Ministack) -> Client:
    return aws_client("kinesis", ministack.url)


def publish(port: int, topic: str, name: str) -> tuple[dict[str, list[str]], dict[str, float]]:
    """What each device has sent, in order, and when each body was acknowledged.

    In rounds, so that there are several requests: all of it together would be one or two.
    """
    sent = {f"d{device}": [f"{device}/{number}" for number in range(MESSAGES)] for device in range(DEVICES)}
    with MqttPublisher(port, name) as publisher:
        for start in range(0, MESSAGES, ROUND):
            for number in range(start, start + ROUND):
                for device, bodies in sent.items():
                    publisher.publish(f"{topic}/{device}", bodies[number])
            publisher.wait_acknowledged(DEVICES * (start + ROUND), 60)
        assert publisher.disconnects == 0
        return sent, publisher.acknowledged


def first_times(bodies: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(bodies))


@pytest.mark.parametrize("way", ["stream", "aggregate"])
@pytest.mark.parametrize("plan", STREAM_PLANS.values(), ids=STREAM_PLANS)
def test_streams(
    plan: Sequence[Fault],
    way: str,
    stream_gateway: Gateway,
    endpoint: FaultEndpoint,
    kinesis: Client,
    queue_name: str,
) -> None:
    kinesis.create_stream(StreamName=queue_name, ShardCount=SHARDS)
    before = endpoint.injected()
    endpoint.chaos(plan, 0.6, seed=2, actions=["PutRecords"])
    sent, acknowledged = publish(stream_gateway.port("mqtt"), f"{way}/{queue_name}", queue_name)
    endpoint.clear()
    assert (endpoint.injected() - before).total() >= 3
    found = bodies_by_key(kinesis, queue_name)
    assert {device: first_times(bodies) for device, bodies in found.items()} == sent
    assert_stored_before_acknowledged(acknowledged, put_records(endpoint, queue_name))


@pytest.mark.parametrize("plan", ARCHIVE_PLANS.values(), ids=ARCHIVE_PLANS)
def test_archives(
    plan: Sequence[Fault], stream_gateway: Gateway, endpoint: FaultEndpoint, ministack: Ministack, queue_name: str
) -> None:
    s3 = aws_client("s3", ministack.url)
    make_delivery_stream(aws_client("firehose", ministack.url), s3, queue_name)
    before = endpoint.injected()
    endpoint.chaos(plan, 0.6, seed=3, actions=["PutRecordBatch"])
    _, acknowledged = publish(stream_gateway.port("mqtt"), f"archive/{queue_name}", queue_name)
    endpoint.clear()
    assert (endpoint.injected() - before).total() >= 3
    assert_nothing_lost(acknowledged, [body.decode() for body in delivered_objects(s3, queue_name)])
    assert_stored_before_acknowledged(acknowledged, put_records(endpoint, queue_name))


def test_a_stream_that_fails_all_the_time_gives_back_what_it_did_not_take(
    stream_gateway: Gateway, endpoint: FaultEndpoint, kinesis: Client, queue_name: str
) -> None:
    """MQTT 3.1.1 has no negative acknowledgement: the connection is closed, and the client sends it again."""
    kinesis.create_stream(StreamName=queue_name, ShardCount=1)
    endpoint.inject(RecordFailures(range(500), "AccessDeniedException"), action="PutRecords")
    with MqttPublisher(stream_gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(f"stream/{queue_name}/d", "again")
        publisher.wait_acknowledged(1)
        assert publisher.disconnects == 1
    assert bodies_by_key(kinesis, queue_name) == {"d": ["again"]}
