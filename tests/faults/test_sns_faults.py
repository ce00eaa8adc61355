"""Nothing acknowledged is lost on its way to SNS and S3, and one bad entry fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import finish
from tests.faults.conftest import quick_config
from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.counting import SqsClient, assert_nothing_lost, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import SERVICE_UNAVAILABLE, Slow
from tests.rig.processes import Gateway, Ministack
from tests.rig.query_faults import PublishFailures, StorageFault, batch_of
from tests.rig.streams import aws_client
from tests.rig.topics import SnsClient, new_topic, subscribed_queue
from tests.rig.waiting import wait_for

BUCKET = "mqlift-faults"
LARGE = "x" * 5_000
BODIES = [f"message {number}" for number in range(200)]


@pytest.fixture
def topic_gateway(faults: FaultEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways behind the test's own endpoint, whose publishes on `out/NAME` go to the topic of that name."""
    started: list[Gateway] = []

    def start(**sections: object) -> Gateway:
        routes = [
            {"match": {"topic": "out/{name}"}, "to": [{"sns": "{name}"}]},
            {"match": {"topic": "in/{queue}"}, "to": [{"queue": "{queue}"}]},
        ]
        gateway = Gateway(quick_config(faults.url) | {"routes": routes} | sections, tmp_path_factory.mktemp("gateway"))
        gateway.start()
        started.append(gateway)
        return gateway

    yield start
    faults.clear()
    for gateway in started:
        finish(gateway)


@pytest.fixture
def topic_queue(sns: SnsClient, sqs: SqsClient, queue_name: str) -> str:
    """The URL of a queue that gets what is published to the topic of the same name."""
    return subscribed_queue(sns, sqs, new_topic(sns, queue_name), queue_name)


def test_an_entry_that_sns_will_never_take_fails_alone(
    topic_gateway: Callable[..., Gateway], faults: FaultEndpoint, sqs: SqsClient, topic_queue: str, queue_name: str
) -> None:
    gateway = topic_gateway(sender={"requests": 1, "partial_requests": 1, "timeout": 20})
    faults.inject(Slow(0.3), action="PublishBatch")
    faults.inject(PublishFailures((1,), "InvalidParameter"), action="PublishBatch")
    with StompClient(gateway.port("stomp")) as bad, MqttPublisher(gateway.port("mqtt"), queue_name) as good:
        good.publish_all(f"out/{queue_name}", BODIES[:30])
        # One of them is refused, and its publisher cut off; then it sends again.
        good.wait_acknowledged(30)
        assert good.disconnects == 1
        bad.send(f"/topic/out.{queue_name}", "from STOMP")
    refused = next(each for each in faults.calls("PublishBatch") if isinstance(each.fault, PublishFailures))
    assert len(batch_of(refused.call)[1]) > 1
    assert_nothing_lost([*BODIES[:30], "from STOMP"], drain(sqs, topic_queue).elements())


@pytest.mark.parametrize("service", ["sqs", "sns"])
def test_nothing_is_acknowledged_while_s3_fails(
    service: str,
    topic_gateway: Callable[..., Gateway],
    faults: FaultEndpoint,
    ministack: Ministack,
    sqs: SqsClient,
    topic_queue: str,
    queue_name: str,
) -> None:
    s3 = aws_client("s3", ministack.url)
    s3.create_bucket(Bucket=BUCKET)
    gateway = topic_gateway(**{service: {"large_payloads": {"bucket": BUCKET, "threshold": 1000}}})
    before = s3.list_objects_v2(Bucket=BUCKET)["KeyCount"]
    faults.inject(StorageFault(SERVICE_UNAVAILABLE, BUCKET, "PUT"), times=None)
    topic = f"{'in' if service == 'sqs' else 'out'}/{queue_name}"
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish(topic, LARGE)
        publisher.publish(f"{topic}", "small")
        wait_for(lambda: sum(each.call.method == "PUT" for each in faults.history) >= 3, "S3 is asked again and again")
        assert LARGE not in publisher.acknowledged
        faults.clear()
        publisher.wait_acknowledged(2)
    found = drain(sqs, topic_queue)
    assert found.pop("small") == 1
    assert found.total() == 1, "the pointer is sent once, when S3 has what it points to"
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == before + 1
    s3.close()


def test_a_body_that_cannot_be_fetched_comes_later(
    topic_gateway: Callable[..., Gateway],
    faults: FaultEndpoint,
    ministack: Ministack,
    topic_queue: str,
    queue_name: str,
) -> None:
    s3 = aws_client("s3", ministack.url)
    s3.create_bucket(Bucket=BUCKET)
    gateway = topic_gateway(sqs={"large_payloads": {"bucket": BUCKET, "threshold": 1000}})
    faults.inject(StorageFault(SERVICE_UNAVAILABLE, BUCKET, "GET"), times=None)
    with (
        MqttPublisher(gateway.port("mqtt"), queue_name) as publisher,
        StompClient(gateway.port("stomp")) as consumer,
    ):
        publisher.publish(f"in/{queue_name}", LARGE)
        publisher.wait_acknowledged(1)
        consumer.subscribe(f"/queue/{queue_name}")
        wait_for(lambda: "large_payload_not_fetched" in gateway.log, "S3 has failed")
        assert not consumer.deliveries
        faults.clear()
        (delivery,) = consumer.wait_deliveries(1)
    assert delivery.body == LARGE
    s3.close()
