"""Every service, with every kind of fault: nothing that was acknowledged is lost, what has no effect doubles nothing,
and each key stays in order where the service keeps one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.conftest import serving
from tests.faults.conftest import quick_config
from tests.faults.services import (
    HARMLESS,
    LARGE_PAYLOADS,
    LOST_ANSWERS,
    QUEUE,
    ROUTES,
    SERVICES,
    STREAM,
    TOPIC,
    Account,
    Service,
)
from tests.rig.clients import MqttPublisher
from tests.rig.counting import assert_exactly, assert_nothing_lost, assert_stored_before_acknowledged
from tests.rig.fault_endpoint import FaultEndpoint, Stored
from tests.rig.faults import ACCESS_DENIED, Fault, NoAnswer
from tests.rig.processes import Gateway, Ministack
from tests.rig.query_faults import QueryError
from tests.rig.record_faults import RecordFailures
from tests.rig.waiting import wait_for

KEYS = 12
MESSAGES = 15
ROUND = 3
PATIENCE = 60.0

CASES = [
    pytest.param(service, kind, id=f"{name}: {kind}") for name, service in SERVICES.items() for kind in service.faults
]


@pytest.fixture(scope="module")
def account(ministack: Ministack) -> Iterator[Account]:
    opened = Account(ministack.url)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def gateway(endpoint: FaultEndpoint, account: Account, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    large = {"large_payloads": LARGE_PAYLOADS}
    # What the emulator only takes long for is not sent again.
    config = quick_config(endpoint.url, aws={"read_timeout": 3}) | {"routes": ROUTES, "sqs": large, "sns": large}
    running = Gateway(config, tmp_path_factory.mktemp("services"))
    with serving(running):
        yield running


def bodies_to_send(size: int) -> dict[str, list[str]]:
    """What is sent with each key, in order."""
    return {f"k{key}": [f"k{key}/{number:02}".ljust(size, ".") for number in range(MESSAGES)] for key in range(KEYS)}


def publish(port: int, topic: str, client_id: str, sent: dict[str, list[str]]) -> dict[str, float]:
    """When each body was acknowledged. In rounds, so that there are several requests: all of it would be one or two."""
    with MqttPublisher(port, client_id) as publisher:
        for start in range(0, MESSAGES, ROUND):
            for number in range(start, start + ROUND):
                for key, bodies in sent.items():
                    publisher.publish(f"{topic}/{key}", bodies[number])
            publisher.wait_acknowledged(KEYS * (start + ROUND), PATIENCE)
        assert not publisher.disconnects  # a client that resends makes duplicates
        return publisher.acknowledged


def by_key(bodies: Sequence[str]) -> dict[str, list[str]]:
    """Each body once, where it came first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for body in dict.fromkeys(bodies):
        found[body.partition("/")[0]].append(body)
    return dict(found)


@pytest.mark.parametrize(("service", "kind"), CASES)
def test_faults(
    service: Service, kind: str, gateway: Gateway, endpoint: FaultEndpoint, account: Account, queue_name: str
) -> None:
    plan: Sequence[Fault] = service.faults[kind]
    service.make(account, queue_name)
    before = endpoint.injected()
    if kind == LOST_ANSWERS:
        endpoint.inject(NoAnswer(applied=True), action=service.actions[-1])
    endpoint.chaos(plan, service.chance, seed=2, actions=service.actions)
    sent = bodies_to_send(service.size)
    acknowledged = publish(gateway.port("mqtt"), f"{service.topic}/{queue_name}", queue_name, sent)
    endpoint.clear()
    assert (endpoint.injected() - before).total() >= 3
    found = service.found(account, queue_name)
    compare = assert_exactly if service.deduplicated or kind in HARMLESS else assert_nothing_lost
    compare(acknowledged, found)
    if service.ordered:
        assert by_key(found) == sent
    stored = [Stored(each.queue, account.body(each.body), each.at) for each in service.stored(endpoint, queue_name)]
    assert_stored_before_acknowledged(acknowledged, stored)


REFUSALS: Mapping[str, Fault] = {
    "SendMessageBatch": ACCESS_DENIED,
    "PublishBatch": QueryError(403, "AuthorizationError"),
    "PutRecords": RecordFailures(range(500), "AccessDeniedException"),
}


@pytest.mark.parametrize("action", REFUSALS)
def test_the_worst_of_several_targets_is_the_answer(
    action: str, gateway: Gateway, endpoint: FaultEndpoint, account: Account, queue_name: str
) -> None:
    """MQTT 3.1.1 has no negative acknowledgement: the connection is closed, and the client sends it again."""
    QUEUE.make(account, queue_name)
    TOPIC.make(account, f"{queue_name}-topic")
    STREAM.make(account, queue_name)
    bodies = [str(number) for number in range(20)]
    endpoint.inject(REFUSALS[action], action=action)
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish_all(f"several/{queue_name}/d", bodies)
        publisher.wait_acknowledged(len(bodies))
        assert publisher.disconnects == 1
        acknowledged = publisher.acknowledged
    for service, suffix in ((QUEUE, ""), (TOPIC, "-topic"), (STREAM, "")):
        assert_nothing_lost(bodies, service.found(account, queue_name + suffix))
        assert_stored_before_acknowledged(acknowledged, service.stored(endpoint, queue_name + suffix))
    # There is no such delivery stream, which nobody waits for.
    lost = f'mqlift_best_effort_lost_total{{destination="firehose:{queue_name}"}}'
    wait_for(lambda: gateway.metrics().get(lost, 0) >= len(bodies), "what it has not taken is counted")


def test_what_is_retried_for_one_target_is_not_sent_again_to_the_others(
    gateway: Gateway, endpoint: FaultEndpoint, account: Account, queue_name: str
) -> None:
    QUEUE.make(account, queue_name)
    TOPIC.make(account, f"{queue_name}-topic")
    STREAM.make(account, queue_name)
    endpoint.chaos(STREAM.faults["throttles"], 0.8, seed=4, actions=STREAM.actions)
    bodies = [str(number) for number in range(20)]
    with MqttPublisher(gateway.port("mqtt"), queue_name) as publisher:
        publisher.publish_all(f"several/{queue_name}/d", bodies)
        publisher.wait_acknowledged(len(bodies))
        assert not publisher.disconnects
    endpoint.clear()
    for service, suffix in ((QUEUE, ""), (TOPIC, "-topic"), (STREAM, "")):
        assert_exactly(bodies, service.found(account, queue_name + suffix))
