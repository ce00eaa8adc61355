"""Nothing acknowledged is lost on its way to SNS and S3, and one bad entry fails alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.sns.backend import SnsBackend
from adapters.sns.settings import parse_target
from gateway.core.backend import Entry
from gateway.core.batcher import Batcher, BatchPolicy
from gateway.core.message import Address, Message
from gateway.core.outcome import Outcome, Result
from tests.adapters.sns.scripted_sns import ScriptedSns, entries
from tests.conftest import finish
from tests.faults.conftest import quick_config
from tests.rig.clients import MqttPublisher, StompClient
from tests.rig.clock import on_clock
from tests.rig.counting import SqsClient, assert_exactly, assert_nothing_lost, drain
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.faults import BAD_GATEWAY, SERVICE_UNAVAILABLE, CutAnswer, Fault, Reset, Slow
from tests.rig.processes import Gateway, Ministack
from tests.rig.query_faults import SNS_INTERNAL, SNS_THROTTLED, PublishFailures, StorageFault, batch_of
from tests.rig.streams import aws_client
from tests.rig.topics import SnsClient, new_topic, subscribed_queue
from tests.rig.waiting import wait_for

BUCKET = "mqlift-faults"
LARGE = "x" * 5_000
BODIES = [f"message {number}" for number in range(200)]

NOT_APPLIED: Sequence[Fault] = (
    SNS_THROTTLED,
    SNS_INTERNAL,
    BAD_GATEWAY,
    Slow(0.1),
    Reset(),
    *(PublishFailures(range(0, size, 2)) for size in range(1, 11)),
    *(PublishFailures(range(size)) for size in range(1, 11)),
)


@pytest.fixture(scope="module")
def sns(ministack: Ministack) -> Iterator[SnsClient]:
    client = aws_client("sns", ministack.url)
    yield client
    client.close()


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


def test_faults_that_have_no_effect_lose_and_double_nothing(
    topic_gateway: Callable[..., Gateway], faults: FaultEndpoint, sqs: SqsClient, topic_queue: str, queue_name: str
) -> None:
    gateway = topic_gateway()
    faults.chaos(NOT_APPLIED, 0.5, seed=7, actions=["PublishBatch"])
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish_all(f"out/{queue_name}", BODIES)
        publisher.wait_acknowledged(len(BODIES))
        assert not publisher.disconnects
    assert_exactly(BODIES, drain(sqs, topic_queue).elements())
    assert sum(faults.injected().values()) > 5


def test_cut_answers_lose_nothing(
    topic_gateway: Callable[..., Gateway], faults: FaultEndpoint, sqs: SqsClient, topic_queue: str, queue_name: str
) -> None:
    gateway = topic_gateway()
    faults.chaos((CutAnswer(), Reset(applied=True)), 0.3, seed=7, actions=["PublishBatch"])
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish_all(f"out/{queue_name}", BODIES)
        publisher.wait_acknowledged(len(BODIES))
    assert_nothing_lost(BODIES, drain(sqs, topic_queue).elements())


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


TARGET = parse_target("arn:aws:sns:eu-west-1:111122223333:events", {}, frozenset())


@pytest.mark.parametrize("size", range(1, 11))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_only_what_failed_is_sent_again(size: int, data: st.DataObject) -> None:
    """Whatever fails in batches of every size: each entry is stored once, unchanged, and its own publisher is told."""
    failing = data.draw(st.lists(st.sets(st.integers(0, size - 1)), max_size=3))
    rejected = data.draw(st.sets(st.integers(0, size - 1), max_size=2))
    run_batches(size, [set(each) for each in failing], rejected)


@on_clock
async def run_batches(size: int, failing: list[set[int]], rejected: set[int]) -> None:
    stored: Counter[str] = Counter()
    sent: dict[str, set[str]] = {}

    def answer(request: dict[str, str]) -> object:
        bad = failing.pop(0) if failing else set()
        result: dict[str, list[dict[str, str]]] = {"Successful": [], "Failed": []}
        for position, entry in enumerate(entries(request)):
            sent.setdefault(entry["Message"], set()).add(str({**entry, "Id": ""}))
            if int(entry["Message"]) in rejected:
                result["Failed"].append({"Id": entry["Id"], "Code": "InvalidParameter"})
            elif position in bad:
                result["Failed"].append({"Id": entry["Id"], "Code": "Throttled"})
            else:
                stored[entry["Message"]] += 1
                result["Successful"].append({"Id": entry["Id"]})
        return result

    sns = ScriptedSns()
    sns.answers["PublishBatch"] = answer
    backend = SnsBackend(sns)
    told: dict[int, Outcome] = {}

    async def send(batch: Sequence[Entry]) -> Sequence[Result]:
        return await backend.send(TARGET, batch)

    def done(batch: Sequence[Entry], results: Sequence[Result]) -> None:
        for entry, result in zip(batch, results, strict=True):
            assert isinstance(entry.token, int)
            told[entry.token] = result.outcome

    batcher = Batcher(send, done, batch_entries=10, batch_bytes=262_144, policy=BatchPolicy())
    for number in range(size):
        entry = backend.encode(TARGET, Message(Address("amq.topic", "k"), b"%d" % number))
        entry.token = number
        batcher.put(entry)
    await batcher.drain()
    expected = {number: Outcome.REJECTED if number in rejected else Outcome.ACCEPTED for number in range(size)}
    assert told == expected
    assert stored == {str(number): 1 for number in range(size) if number not in rejected}
    assert all(len(forms) == 1 for forms in sent.values()), "a retry is what was sent before"
