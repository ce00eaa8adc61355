"""`mqlift iam-policy`: what it prints, and that a gateway with these permissions can do its work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pika
import pytest
from typer.testing import CliRunner, Result

from adapters.aws.permissions import Grant, Scope, Use, merged
from adapters.dynamodb.items import table_request
from adapters.sqs.naming import queue_name
from adapters.sqs.permissions import permissions as sqs_permissions
from gateway.cli import app
from tests.deploy.policies import ACCOUNT, Policy, allows, needs
from tests.rig.clients import MqttPublisher, StompClient, StompDelivery
from tests.rig.fault_endpoint import FaultEndpoint
from tests.rig.processes import Gateway, Ministack, gateway_config
from tests.rig.streams import aws_client, make_delivery_stream
from tests.rig.waiting import wait_for

SCOPE = Scope(region="eu-west-1", account="111122223333")
SQS = "arn:aws:sqs:eu-west-1:111122223333:"

PREFIX = "iam-"
ROUTES: list[dict[str, Any]] = [
    {"match": {"topic": "audited/#"}, "to": [{"sqs": "iam-test-audit"}]},
    {"match": {"topic": "tenants/{tenant}"}, "to": [{"sqs": "iam-test-tenant-{tenant}"}]},
    {"match": {"queue": "payments.{country}"}, "to": [{"sqs": "iam-test-{country}.fifo"}]},
    {"match": {"topic": "measured/#"}, "to": [{"kinesis": "iam-test-measured"}]},
    {"match": {"topic": "archived/{site}"}, "to": [{"firehose": "iam-test-archive-{site}"}]},
    {"match": {"topic": "announced/{site}"}, "to": [{"sns": "iam-test-announced-{site}"}]},
]
INGRESS = [{"sns": "iam-test-events", "topic": "events"}]
BUCKET = "iam-test-large"
LARGE = "x" * 300_000


def iam_policy(path: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["iam-policy", "--config", str(path), *options])


def write(directory: Path, config: object) -> Path:
    path = directory / "mqlift.yaml"
    path.write_text(json.dumps(config))
    return path


def document(directory: Path, *options: str, **settings: object) -> Policy:
    """The policy of a configuration."""
    config = {"aws": {"region": "eu-west-1"}, "listeners": [{"protocol": "mqtt", "port": 1883}]} | settings
    result = iam_policy(write(directory, config), "--account", "111122223333", *options)
    assert result.exit_code == 0, result.output
    policy: Policy = json.loads(result.stdout)
    return policy


# --- what it says


def test_fan_out_subscribes(tmp_path: Path) -> None:
    routes = [{"match": {"exchange": "events"}, "to": [{"sns": "events", "fanout": True}]}]
    policy = document(tmp_path, routes=routes, prefix=PREFIX)
    topic = "arn:aws:sns:eu-west-1:111122223333:events"
    for action in ("Publish", "Subscribe", "Unsubscribe", "GetSubscriptionAttributes", "CreateTopic"):
        assert allows(policy, f"sns:{action}", topic)
    assert allows(policy, "sqs:SetQueueAttributes", f"{SQS}{PREFIX}orders")
    assert not allows(policy, "sqs:SetQueueAttributes", f"{SQS}orders")


@pytest.mark.parametrize("create", [True, False])
def test_the_table_of_the_state(create: bool, tmp_path: Path) -> None:
    policy = document(tmp_path, "--create" if create else "--no-create", state="dynamodb://plant-state")
    table = "arn:aws:dynamodb:eu-west-1:111122223333:table/plant-state"
    for action in ("DescribeTable", "GetItem", "UpdateItem", "DeleteItem", "Query"):
        assert allows(policy, f"dynamodb:{action}", table)
    assert allows(policy, "dynamodb:Query", f"{table}/index/expiry")
    assert allows(policy, "dynamodb:CreateTable", table) is create
    assert not allows(policy, "dynamodb:Query", f"{table}-of-others")


def test_without_rules_it_is_the_queues_that_clients_name(tmp_path: Path) -> None:
    policy = document(tmp_path, "--no-create", prefix="plant-")
    assert policy == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Sqs1",
                "Effect": "Allow",
                "Action": [
                    "sqs:ChangeMessageVisibility",
                    "sqs:DeleteMessage",
                    "sqs:GetQueueAttributes",
                    "sqs:GetQueueUrl",
                    "sqs:ReceiveMessage",
                    "sqs:SendMessage",
                ],
                "Resource": [f"{SQS}plant-*"],
            }
        ],
    }


@pytest.mark.parametrize(
    ("provision", "options", "creates"),
    [
        ("auto", [], True),
        ("never", [], False),
        ("auto", ["--no-create"], False),
        ("never", ["--create"], True),
    ],
)
def test_the_right_to_create_is_as_the_configuration_or_the_option_says(
    tmp_path: Path, provision: str, options: list[str], creates: bool
) -> None:
    policy = document(tmp_path, *options, provision=provision)
    for action in ("sqs:CreateQueue", "sqs:TagQueue", "sqs:DeleteQueue"):
        assert allows(policy, action, f"{SQS}orders") is creates, action


def test_what_is_only_sent_to_is_not_read(tmp_path: Path) -> None:
    policy = document(tmp_path, prefix="plant-", routes=[{"match": {"topic": "a/#"}, "to": [{"sqs": "audit"}]}])
    assert allows(policy, "sqs:SendMessage", f"{SQS}audit")
    assert not allows(policy, "sqs:ReceiveMessage", f"{SQS}audit")
    assert not allows(policy, "sqs:DeleteQueue", f"{SQS}audit")


@pytest.mark.parametrize(
    ("route", "read"),
    [
        ({"match": {"queue": "measured"}, "to": [{"kinesis": "measured"}]}, True),
        ({"match": {"queue": "measured"}, "to": [{"sqs": "measured"}, {"kinesis": "measured"}]}, False),
        ({"match": {"topic": "measured/#"}, "to": [{"kinesis": "measured", "tail": "measured/x"}]}, True),
        ({"match": {"topic": "measured/#"}, "to": [{"kinesis": "measured"}]}, False),
    ],
)
def test_a_stream_is_read_where_something_consumes_it(route: object, read: bool, tmp_path: Path) -> None:
    policy = document(tmp_path, routes=[route])
    stream = "arn:aws:kinesis:eu-west-1:111122223333:stream/measured"
    assert allows(policy, "kinesis:PutRecords", stream)
    for action in ("kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"):
        assert allows(policy, action, stream) is read, action


@pytest.mark.parametrize("create", [True, False])
def test_enhanced_fan_out_consumers_are_used_and_only_where_allowed_made(create: bool, tmp_path: Path) -> None:
    rule = {"match": {"queue": "q"}, "to": [{"kinesis": "measured", "enhanced_fan_out": ["billing", "audit"]}]}
    policy = document(tmp_path, *([] if create else ["--no-create"]), routes=[rule])
    stream = "arn:aws:kinesis:eu-west-1:111122223333:stream/measured"
    for resource in (stream, f"{stream}/consumer/billing:1700000000", f"{stream}/consumer/audit:1700000000"):
        assert allows(policy, "kinesis:SubscribeToShard", resource)
        assert allows(policy, "kinesis:DescribeStreamConsumer", resource)
        assert allows(policy, "kinesis:RegisterStreamConsumer", resource) is create
    for action in ("kinesis:SubscribeToShard", "kinesis:RegisterStreamConsumer"):
        assert not allows(policy, action, f"{stream}/consumer/other:1700000000")
    assert not allows(policy, "kinesis:PutRecords", f"{stream}/consumer/billing:1700000000")
    assert allows(policy, "kinesis:GetRecords", stream), "other consumers of the queue read"


def test_consumers_of_a_stream_that_is_named_by_its_arn_are_not_made(tmp_path: Path) -> None:
    stream = "arn:aws:kinesis:us-east-1:444455556666:stream/theirs"
    rule = {"match": {"topic": "t/#"}, "to": [{"kinesis": stream, "tail": "t", "enhanced_fan_out": ["live"]}]}
    policy = document(tmp_path, routes=[rule])
    assert allows(policy, "kinesis:SubscribeToShard", f"{stream}/consumer/live:1700000000")
    assert not allows(policy, "kinesis:RegisterStreamConsumer", stream)


def test_a_host_may_have_any_name(tmp_path: Path) -> None:
    rule = {
        "match": {"topic": "t/#"},
        "to": [{"kinesis": "measured", "tail": "t", "enhanced_fan_out": ["live-{hostname}"]}],
    }
    policy = document(tmp_path, routes=[rule])
    stream = "arn:aws:kinesis:eu-west-1:111122223333:stream/measured"
    for host in ("gateway-0", "ip-10-0-0-1.internal"):
        assert allows(policy, "kinesis:SubscribeToShard", f"{stream}/consumer/live-{host}:1700000000")
    assert not allows(policy, "kinesis:SubscribeToShard", f"{stream}/consumer/other:1700000000")


def test_a_queue_lives_in_its_first_target_and_is_copied_to_the_others(tmp_path: Path) -> None:
    rule = {"match": {"queue": "orders"}, "to": [{"sqs": "new-orders"}, {"sqs": "copies"}]}
    policy = document(tmp_path, prefix="plant-", routes=[rule])
    assert allows(policy, "sqs:ReceiveMessage", f"{SQS}new-orders")
    assert allows(policy, "sqs:SendMessage", f"{SQS}copies")
    assert not allows(policy, "sqs:ReceiveMessage", f"{SQS}copies")


def test_where_rules_map_every_queue_no_other_is_allowed(tmp_path: Path) -> None:
    rules = [
        {"match": {"queue": "orders"}, "to": [{"sqs": "orders"}]},
        {"match": {"queue": "*"}, "to": [{"sqs": "all"}]},
    ]
    policy = document(tmp_path, routes=rules)
    resources = {resource for statement in policy["Statement"] for resource in statement["Resource"]}
    assert resources == {f"{SQS}orders", f"{SQS}all"}


def test_a_queue_of_the_gateway_is_allowed_where_it_lives(tmp_path: Path) -> None:
    policy = document(tmp_path, prefix="plant-", routes=[{"match": {"topic": "a/#"}, "to": [{"queue": "orders"}]}])
    resources = [resource for statement in policy["Statement"] for resource in statement["Resource"]]
    assert resources == [f"{SQS}plant-*"]


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("orders", f"{SQS}orders"),
        ("orders.fifo", f"{SQS}orders.fifo"),
        ("orders-*.fifo", f"{SQS}orders-*"),
        ("*-orders", f"{SQS}*"),
        ("a" * 75 + "*", f"{SQS}{'a' * 66}*"),
        ("arn:aws:sqs:us-east-2:444455556666:orders", "arn:aws:sqs:us-east-2:444455556666:orders"),
        ("arn:aws-cn:sqs:cn-north-1:444455556666:o-*", "arn:aws-cn:sqs:cn-north-1:444455556666:o-*"),
        ("https://sqs.us-east-2.amazonaws.com/444455556666/orders", "arn:aws:sqs:us-east-2:444455556666:orders"),
        ("https://sqs.us-east-2.amazonaws.com/444455556666/o-*", "arn:aws:sqs:us-east-2:444455556666:o-*"),
    ],
)
def test_the_resource_of_a_queue(name: str, resource: str) -> None:
    (grant,) = sqs_permissions(name, Use.SEND, SCOPE, create=False)
    assert grant.resource == resource


@pytest.mark.parametrize("name", ["arn:aws:sqs:us-east-2:444455556666:q", "https://sqs.eu-west-1.amazonaws.com/1/q"])
def test_what_belongs_to_somebody_else_is_not_created(name: str) -> None:
    (grant,) = sqs_permissions(name, Use.HOME, SCOPE, create=True)
    assert "sqs:CreateQueue" not in grant.actions
    assert "sqs:DeleteQueue" not in grant.actions


@pytest.mark.parametrize("captured", ["eu", "with space", "ü" * 40, "x" * 90])
def test_whatever_is_captured_the_queue_is_covered(captured: str) -> None:
    (grant,) = sqs_permissions("payments-*.fifo", Use.HOME, SCOPE, create=False)
    assert grant.covers(SQS + queue_name(f"payments-{captured}.fifo"))


def test_grants_are_merged_and_said_once() -> None:
    grants = [
        Grant("arn:a-*", frozenset({"s:Send"})),
        Grant("arn:a-b", frozenset({"s:Send", "s:Receive"})),
        Grant("arn:c", frozenset({"s:Send"})),
        Grant("arn:c", frozenset({"s:Receive"})),
    ]
    assert merged(grants) == [
        Grant("arn:a-*", frozenset({"s:Send"})),
        Grant("arn:a-b", frozenset({"s:Receive"})),
        Grant("arn:c", frozenset({"s:Send", "s:Receive"})),
    ]


@pytest.mark.parametrize(
    ("region", "partition"),
    [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("*", "aws")],
)
def test_the_partition_is_that_of_the_region(region: str, partition: str) -> None:
    assert Scope.of(region, "*").arn("sqs", "q") == f"arn:{partition}:sqs:{region}:*:q"


# --- the command


def test_what_helps_to_narrow_it_is_told_beside_it(tmp_path: Path) -> None:
    config = {"aws": {"region": "eu-west-1"}, "listeners": [{"protocol": "mqtt", "port": 1883}]}
    result = iam_policy(write(tmp_path, config))
    assert result.exit_code == 0
    assert "arn:aws:sqs:eu-west-1:*:*" in result.stdout
    assert "--account" in result.stderr
    assert "--kms-key" in result.stderr


def test_a_key_is_allowed_to_be_used(tmp_path: Path) -> None:
    key = "arn:aws:kms:eu-west-1:111122223333:key/1"
    policy = document(tmp_path, "--kms-key", key)
    assert allows(policy, "kms:Decrypt", key)
    assert allows(policy, "kms:GenerateDataKey", key)


def test_a_policy_that_is_too_large_is_told(tmp_path: Path) -> None:
    routes = [{"match": {"topic": f"t/{number}"}, "to": [{"sqs": f"queue-{number}"}]} for number in range(200)]
    config = {"aws": {"region": "eu-west-1"}, "prefix": "x-", "listeners": [{"protocol": "mqtt", "port": 1883}]}
    assert "6144" in iam_policy(write(tmp_path, config | {"routes": routes})).stderr


def test_a_mistake_in_the_configuration_is_one_line(tmp_path: Path) -> None:
    result = iam_policy(write(tmp_path, {"listeners": []}))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "listeners" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("account", ["", "1", "11112222333x", "1111-2222-3333"])
def test_what_is_no_account_is_refused(account: str, tmp_path: Path) -> None:
    config = {"aws": {"region": "eu-west-1"}, "listeners": [{"protocol": "mqtt", "port": 1883}]}
    result = iam_policy(write(tmp_path, config), "--account", account)
    assert result.exit_code == 2
    assert "12 digits" in result.stderr
    assert result.stdout == ""


# --- a gateway with these permissions can do its work


@pytest.fixture
def recorded(faults: FaultEndpoint) -> Callable[[], Iterator[tuple[str, str]]]:
    """What was needed so far: actions and resources."""

    def found() -> Iterator[tuple[str, str]]:
        for exchange in faults.history:
            yield from needs(exchange.call)

    return found


def tidy_up(gateway: Gateway, *, delete: bool) -> None:
    """What AMQP clients do to queues besides."""
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", gateway.port("amqp091"))) as connection:
        channel = connection.channel()
        channel.queue_declare("orders", durable=True)
        channel.queue_purge("orders")
        if delete:
            channel.queue_delete("orders")


def work(gateway: Gateway) -> None:
    """Publish, consume, give back, and consume again, so that every kind of call is made."""

    def decide(delivery: StompDelivery) -> Literal["ack", "nack"]:
        return "ack" if delivery.redelivered else "nack"

    with StompClient(gateway.port("stomp"), decide=decide) as worker, MqttPublisher(gateway.port("mqtt")) as device:
        worker.subscribe("/queue/orders", subscription="0")
        worker.subscribe("/queue/payments.eu", subscription="1")
        for topic in ("audited/1", "tenants/acme", "measured/1", "archived/north", "announced/north"):
            device.publish(topic, topic)
        worker.send("/queue/orders", LARGE)
        worker.send("/queue/payments.eu", "payment")
        device.publish("audited/2", LARGE)
        for body in ("kept for who comes later", ""):
            device.publish("last/words", body, retain=True)
        device.wait_acknowledged(8)
        worker.wait_deliveries(4)
        wait_for(lambda: "ingress_attached" in gateway.log, "the topic is listened to")


@pytest.mark.parametrize("provision", ["auto", "never"])
def test_every_call_of_a_run_is_allowed(
    provision: str,
    tmp_path: Path,
    ministack: Ministack,
    faults: FaultEndpoint,
    gateway_factory: Callable[..., Gateway],
    recorded: Callable[[], Iterator[tuple[str, str]]],
) -> None:
    prefix = f"{PREFIX}{provision}-"
    settings: dict[str, Any] = {
        "prefix": prefix,
        "protocols": ("mqtt", "stomp", "amqp091"),
        "routes": ROUTES,
        "provision": provision,
        "receiver": {"visibility": 3, "wait": 1},
        "ingress": INGRESS,
        "state": f"dynamodb://{prefix}state",
        "sqs": {"large_payloads": {"bucket": BUCKET, "threshold": 200_000, "remove_after_ack": True}},
    }
    make_archive(ministack)
    aws_client("s3", ministack.url).create_bucket(Bucket=BUCKET)
    if provision == "never":
        make_resources(ministack, prefix)
    gateway = gateway_factory(faults.url, **settings)
    work(gateway)
    tidy_up(gateway, delete=provision == "auto")
    gateway.terminate()

    config = gateway_config(faults.url, **settings)
    result = iam_policy(write(tmp_path, config), "--account", ACCOUNT)
    assert result.exit_code == 0, result.output
    policy: Policy = json.loads(result.stdout)
    needed = set(recorded())
    assert {need for need in needed if not allows(policy, *need)} == set()
    actions = {action for action, _ in needed}
    assert {"sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"} <= actions
    assert {"kinesis:PutRecords", "firehose:PutRecordBatch", "sns:Publish"} <= actions
    assert {"s3:PutObject", "s3:GetObject", "s3:DeleteObject"} <= actions
    assert {"dynamodb:DescribeTable", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:Query"} <= actions
    creating = {"sqs:CreateQueue", "sqs:DeleteQueue", "sqs:SetQueueAttributes", "sns:CreateTopic", "sns:Subscribe"}
    creating.add("dynamodb:CreateTable")
    assert actions & creating == (creating if provision == "auto" else set())


def make_archive(ministack: Ministack) -> None:
    """The delivery stream, which a gateway never makes."""
    firehose, s3 = aws_client("firehose", ministack.url), aws_client("s3", ministack.url)
    if "iam-test-archive-north" not in firehose.list_delivery_streams()["DeliveryStreamNames"]:
        make_delivery_stream(firehose, s3, "iam-test-archive-north")


def make_resources(ministack: Ministack, prefix: str) -> None:
    """What an operator makes who does not let the gateway create anything."""
    sqs, kinesis = aws_client("sqs", ministack.url), aws_client("kinesis", ministack.url)
    for name in (
        f"{prefix}orders",
        "iam-test-audit",
        "iam-test-tenant-acme",
        f"{prefix}mqlift-ingress-iam-test-events",
    ):
        sqs.create_queue(QueueName=name)
    aws_client("dynamodb", ministack.url).create_table(**json.loads(table_request(f"{prefix}state")))
    for name in ("iam-test-announced-north", "iam-test-events"):
        aws_client("sns", ministack.url).create_topic(Name=name)
    sqs.create_queue(QueueName="iam-test-eu.fifo", Attributes={"FifoQueue": "true"})
    if "iam-test-measured" not in kinesis.list_streams()["StreamNames"]:
        kinesis.create_stream(StreamName="iam-test-measured", ShardCount=1)
    wait_for(
        lambda: (
            kinesis.describe_stream_summary(StreamName="iam-test-measured")["StreamDescriptionSummary"]["StreamStatus"]
            == "ACTIVE"
        ),
        "the stream can be used",
    )
