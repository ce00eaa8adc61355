"""Fan-out by SNS, of two gateways with one DynamoDB table: each queue gets each message once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pika.exceptions import NackError, UnroutableError

from tests.conftest import finish
from tests.rig.amqp import AmqpClient
from tests.rig.counting import SqsClient, assert_exactly, drain
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import aws_client
from tests.rig.waiting import wait_for

TOPIC = "e2e-fleet-fanout"
EXCHANGE = "fleet.fanned.out"
PREFIX = "fleet-fan-"
QUEUES = ("all", "north")


@pytest.fixture(scope="module")
def gateways(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Gateway]]:
    directory = tmp_path_factory.mktemp("fleet-fanout")
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(2):
            config = gateway_config(
                ministack.url,
                protocols=("amqp091",),
                prefix=PREFIX,
                state="dynamodb://mqlift-fleet-fanout",
                routes=[{"match": {"exchange": EXCHANGE}, "to": [{"sns": TOPIC, "fanout": True}]}],
                sns={"fanout_wait": 0},
            )
            gateway = Gateway(config, directory)
            stack.callback(finish, gateway)
            gateway.start()
            started.append(gateway)
        yield started[0], started[1]


class Published:
    """The bodies that the gateways have acknowledged."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused: list[str] = []

    def publish(self, client: AmqpClient, key: str) -> bool:
        body = f"{key} {len(self.accepted) + len(self.refused)}"
        try:
            client.publish(key, body, EXCHANGE)
        except (NackError, UnroutableError):
            self.refused.append(body)
            return False
        self.accepted.append(body)
        return True


def url(sqs: SqsClient, queue: str) -> str:
    return str(sqs.get_queue_url(QueueName=f"{PREFIX}{queue}")["QueueUrl"])


def fanned_out(sqs: SqsClient, queue: str, number: int) -> Counter[str]:
    """Take so many messages; those that SNS has brought, which say so."""
    found: Counter[str] = Counter()
    taken: list[Any] = []

    def more() -> bool:
        answer = sqs.receive_message(QueueUrl=url(sqs, queue), MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        for message in answer.get("Messages", ()):
            taken.append(message)
            sqs.delete_message(QueueUrl=url(sqs, queue), ReceiptHandle=message["ReceiptHandle"])
        return len(taken) >= number

    wait_for(more, f"{number} messages are in {queue}")
    found.update(message["Body"] for message in taken if "mqlift.queues" in message["MessageAttributes"])
    return found


def test_what_is_bound_at_one_gets_what_is_published_at_the_other(
    gateways: tuple[Gateway, Gateway], sqs: SqsClient
) -> None:
    one, other = gateways
    with AmqpClient(one.port("amqp091")) as here, AmqpClient(other.port("amqp091")) as there:
        here.channel.exchange_declare(EXCHANGE, "topic", durable=True)
        for queue, pattern in zip(QUEUES, ("#", "*.north"), strict=True):
            here.declare(queue)
            here.channel.queue_bind(queue, EXCHANGE, pattern)
        there.channel.exchange_declare(EXCHANGE, "topic", durable=True)  # knows all that was answered until now
        published = Published()
        published.publish(here, "a.north")
        published.publish(there, "a.north")
        for gateway in gateways:
            wait_for(lambda gateway=gateway: gateway.log.count("fanout_by_service") == len(QUEUES), "it is relied on")  # type: ignore[misc]
        for queue in QUEUES:
            assert_exactly(published.accepted, drain(sqs, url(sqs, queue)))
        published = Published()
        for client in (there, here, there):
            assert published.publish(client, "a.north")
        for queue in QUEUES:
            assert_exactly(published.accepted, fanned_out(sqs, queue, 3).elements())
        assert published.publish(there, "a.south")
        assert_exactly(published.accepted[-1:], fanned_out(sqs, "all", 1).elements())
        assert not drain(sqs, url(sqs, "north"))


def test_a_topic_that_is_deleted_and_made_again_loses_nothing_that_was_acknowledged(
    gateways: tuple[Gateway, Gateway], sqs: SqsClient, ministack: Ministack
) -> None:
    """After the test before: both gateways let SNS bring everything."""
    one, other = gateways
    sns = aws_client("sns", ministack.url)
    arn = next(each["TopicArn"] for each in sns.list_topics()["Topics"] if each["TopicArn"].endswith(f":{TOPIC}"))
    with AmqpClient(one.port("amqp091")) as here, AmqpClient(other.port("amqp091")) as there:
        sns.delete_topic(TopicArn=arn)
        published = Published()
        wait_for(lambda: published.publish(there, "a.north"), "the topic is made again")
        assert published.refused, "what was published to the topic that is gone was given back"
        for client in (here, here, there):
            assert published.publish(client, "a.north")
        # And the subscriptions too: from then on each gateway lets SNS bring the messages once more.
        for gateway in gateways:
            wait_for(lambda gateway=gateway: gateway.log.count("fanout_by_service") == 2 * len(QUEUES), "again")  # type: ignore[misc]
        for client in (here, there):
            assert published.publish(client, "a.north")
        found = {queue: drain(sqs, url(sqs, queue)) for queue in QUEUES}
    for queue in QUEUES:
        assert_exactly(published.accepted, found[queue].elements())
