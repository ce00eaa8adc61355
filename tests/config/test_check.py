"""What `mqlift check` prints, and its exit code."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from adapters.dynamodb.items import table_request
from gateway.check import EXIT_FAILED, EXIT_MISTAKE, EXIT_RIGHT, check
from tests.rig.counting import SqsClient
from tests.rig.processes import AWS_ENVIRONMENT, Ministack, free_port
from tests.rig.streams import aws_client

Write = Callable[[str], Path]

LISTENER = "listeners: [{protocol: mqtt, port: 1883}]\n"
ROUTES = """
prefix: test-
routes:
- match: {topic: "a/{site}/#"}
  to: [{queue: "in-{site}"}, {sqs: all.fifo, group_id: "{site}:{topic}:{header:g}", attributes: [x, y]}]
- {match: {queue: "payments.*"}, to: [{sqs: payments.fifo}, {sqs: audit}]}
- {match: {exchange: logs, key: "#.{level}"}, to: [{sqs: "log-{level}"}]}
- {match: {topic: "foreign/{account}"}, to: [{sqs: "{account}"}]}
"""
STANDARD = "    note: a standard queue, which keeps order as well as it can"


def run(path: Path, *explain: str, aws: bool = False) -> tuple[int, list[str]]:
    out = io.StringIO()
    code = check(path, explain, aws, out)
    return code, out.getvalue().splitlines()


def test_a_right_file(write: Write) -> None:
    path = write(LISTENER + "auth: {anonymous: true}\naws: {region: eu-west-1}\nprefix: p-")
    code, lines = run(path)
    assert code == EXIT_RIGHT
    assert lines == [
        f"{path}: OK",
        "  listens: mqtt on 127.0.0.1:1883",
        "  admin: http://127.0.0.1:9090",
        "  aws: eu-west-1",
        "  routes: 0 rules; other queues are SQS queues named p-NAME",
        "  note: SQS standard queues keep order as well as they can; only .fifo queues promise it",
    ]


@pytest.mark.parametrize(
    ("host", "anonymous", "warned"),
    [("0.0.0.0", "true", True), ("0.0.0.0", "false", False), ("127.0.0.1", "true", False)],
)
def test_an_open_door_is_warned_of(host: str, anonymous: str, warned: bool, write: Write) -> None:
    path = write(f"listeners: [{{protocol: mqtt, host: {host}, port: 1}}]\nauth: {{anonymous: {anonymous}}}")
    _, lines = run(path)
    assert any(line.startswith("  warning: everybody") for line in lines) is warned


def test_mistakes_of_the_file(write: Write) -> None:
    path = write(LISTENER + "prefix: 5\nprovison: auto\n")
    assert run(path) == (
        EXIT_MISTAKE,
        [
            f"{path}: prefix: 5 is not text; put it in quotes",
            f"{path}: provison: there is no such key; did you mean provision?",
        ],
    )


def test_mistakes_of_a_protocol(write: Write) -> None:
    path = write("listeners: [{protocol: mqtt, port: 1, delivery_windw: 1}]")
    assert run(path) == (
        EXIT_MISTAKE,
        [f"{path}: listeners.0.delivery_windw: there is no such key; did you mean delivery_window?"],
    )


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        (
            "topic:a/hall/1",
            [
                "  rule: routes.0, topic a/{site}/#",
                "  captures: site = 'hall'",
                "  to: queue in-hall",
                "    lives in: sqs test-in-hall",
                f"  {STANDARD}",
                "  to: sqs all.fifo (group_id = hall:a/hall/1:{header:g}, attributes = x, y)",
                "  and live to clients that are subscribed",
            ],
        ),
        ("topic:b", ["  no rule for this topic: it lives among connected clients only, and is not kept"]),
        (
            "queue:payments.eu",
            [
                "  rule: routes.1, queue payments.*",
                "  lives in: sqs payments.fifo",
                "  copied to: sqs audit",
                STANDARD,
            ],
        ),
        (
            "queue:orders",
            ["  no rule for this queue: it lives where queues do by default", "  lives in: sqs test-orders", STANDARD],
        ),
        (
            "exchange:logs/app.error",
            [
                "  rule: routes.2, exchange logs key #.{level}",
                "  captures: level = 'error'",
                "  to: sqs log-error",
                STANDARD,
                "  and to the queues that clients bind to it",
            ],
        ),
        (
            "exchange:other/k",
            ["  no rule for this exchange: messages go to the queues that clients bind to it"],
        ),
        ("exchange:amq.topic/b", ["  no rule for this topic: it lives among connected clients only, and is not kept"]),
        (
            "exchange:/orders",
            ["  no rule for this queue: it lives where queues do by default", "  lives in: sqs test-orders", STANDARD],
        ),
        (
            "topic:foreign/arn:x",
            [
                "  rule: routes.3, topic foreign/{account}",
                "  captures: account = 'arn:x'",
                "  refused: sqs {account}: 'arn:x' is no name, but elsewhere",
            ],
        ),
    ],
)
def test_explanations(place: str, lines: list[str], write: Write) -> None:
    assert run(write(LISTENER + ROUTES), place) == (EXIT_RIGHT, [place, *lines])


STREAMS = """
routes:
- match: {topic: "t/{device}"}
  to:
  - {kinesis: telemetry, partition_key: "{device}/{header:h}", aggregate: true, envelope: json, compression: gzip}
  - {firehose: archive, best_effort: true}
- {match: {topic: constant}, to: [{kinesis: telemetry, partition_key: all}]}
- {match: {topic: loose}, to: [{firehose: archive, delimiter: x, best_effort: true}]}
- {match: {queue: in}, to: [{kinesis: telemetry}]}
"""


def test_streams_are_explained(write: Write) -> None:
    path = write(LISTENER + STREAMS)
    code, lines = run(path, "topic:t/7", "queue:in")
    assert code == EXIT_RIGHT
    stream, archive, note = lines[3:6]
    assert stream == (
        "  to: kinesis telemetry (envelope = json, compression = gzip, partition_key = 7/{header:h}, aggregate = True, "
        "max_record_bytes = 1048576)"
    )
    assert archive == "  to: firehose archive (best effort)"
    assert note.startswith("    note: Firehose writes records one behind the other")
    assert lines[-1].startswith("  lives in: kinesis telemetry (partition_key = {key}")


def test_enhanced_fan_out_is_explained_with_its_price(write: Write) -> None:
    rules = """
routes:
- {match: {queue: in}, to: [{kinesis: telemetry, enhanced_fan_out: [billing, audit]}]}
- {match: {topic: t/#}, to: [{kinesis: telemetry, tail: t, enhanced_fan_out: [live]}]}
- {match: {queue: plain}, to: [{kinesis: telemetry}]}
"""
    path = write(LISTENER + rules)
    _, lines = run(path, "queue:in")
    assert [line.strip() for line in lines[3:8]] == [
        "enhanced fan-out: consumers named billing, audit get records some 70 ms after they were written;",
        "others read twice a second, and share five reads and 2 MiB a second of each shard",
        "provisioned: $0.015 an hour ($10.95 a month) for each shard and name, and",
        "$0.013 for each GB brought; reading costs nothing",
        "on demand: $0.05 for each GB brought, $0.04 where it is read",
    ]
    _, lines = run(path, "topic:t/1")
    assert any("live subscribers, as the consumer live, get" in line for line in lines)
    _, lines = run(path, "queue:plain")
    assert not any("enhanced" in line for line in lines)


def test_what_rules_hardly_mean_is_warned_of(write: Write) -> None:
    _, lines = run(write(LISTENER + "auth: {anonymous: true}\n" + STREAMS))
    warnings = [line for line in lines if "warning" in line]
    assert [line.partition(": ")[2][:60] for line in warnings] == [
        "routes.0.to.1: Firehose writes records one behind the other,",
        "routes.1.to.0: every message has the same partition key, so ",
        "routes.2: every target is best_effort: publishes are acknowl",
        "routes.3.to.0: every message has the same partition key, so ",
    ]


def test_a_name_that_sqs_does_not_allow_is_shown_as_it_will_be(write: Write) -> None:
    _, lines = run(write(LISTENER), "queue:café/orders")
    assert lines[2].startswith("  lives in: sqs caf--orders-")


@pytest.mark.parametrize("place", ["orders", "queue:", "stream:x", ""])
def test_a_place_that_is_none(place: str, write: Write) -> None:
    line = f"--explain: {place!r} is no place; queue:NAME, topic:A/B or exchange:NAME/KEY"
    assert run(write(LISTENER), place) == (EXIT_MISTAKE, [line])


def test_a_filter_is_no_topic(write: Write) -> None:
    code, (line,) = run(write(LISTENER), "topic:a/#")
    assert code == EXIT_MISTAKE
    assert line == "--explain: topic:a/# is a filter; a topic as it is published, without wildcards"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def config(write: Write, endpoint: str, *rules: str, provision: str = "auto") -> Path:
    return write(
        LISTENER
        + f"aws: {{region: us-east-1, endpoint_url: '{endpoint}'}}\nprovision: {provision}\nroutes:\n"
        + "".join(f"- {{match: {{topic: 'a/{{b}}'}}, to: [{rule}]}}\n" for rule in rules)
    )


@pytest.mark.usefixtures("aws", "queue")
def test_each_resource_that_is_named_is_tried_once(ministack: Ministack, queue_name: str, write: Write) -> None:
    path = config(
        write,
        ministack.url,
        f"{{queue: {queue_name}}}, {{sqs: {queue_name}-absent}}",
        f"{{sqs: {queue_name}}}, {{sqs: 'x-{{b}}'}}",
    )
    code, lines = run(path, aws=True)
    assert lines[0] == f"{path}: OK"
    assert code == EXIT_RIGHT
    assert lines[-4].startswith("credentials: OK, arn:aws:")
    assert lines[-3:] == [
        f"sqs {queue_name}: OK",
        f"sqs {queue_name}-absent: not there yet; it is created when it is first used",
        "sqs x-{b}: not tried, as its name depends on the client's",
    ]


@pytest.mark.parametrize(("prefix", "provision"), [("arn:aws:sqs:us-east-1:000000000000:", "auto"), ("", "never")])
@pytest.mark.usefixtures("aws")
def test_what_may_not_be_created_has_to_be_there(
    prefix: str, provision: str, ministack: Ministack, queue_name: str, write: Write
) -> None:
    path = config(write, ministack.url, f"{{sqs: '{prefix}{queue_name}'}}", provision=provision)
    code, lines = run(path, aws=True)
    assert code == EXIT_FAILED
    assert lines[-1].startswith("sqs queue ")
    assert f"{queue_name} (sqs:GetQueueUrl): " in lines[-1]


@pytest.mark.usefixtures("aws")
def test_an_endpoint_that_does_not_answer(write: Write) -> None:
    code, lines = run(config(write, f"http://127.0.0.1:{free_port()}", "{sqs: orders}"), aws=True)
    assert code == EXIT_FAILED
    assert lines[-2].startswith("credentials: the credentials (sts:GetCallerIdentity): ")
    assert lines[-1].startswith("sqs queue orders (sqs:GetQueueUrl): ")


def with_table(write: Write, endpoint: str, table: str, provision: str) -> Path:
    aws = f"aws: {{region: us-east-1, endpoint_url: '{endpoint}'}}\n"
    return write(LISTENER + aws + f"prefix: p-\nprovision: {provision}\nstate: 'dynamodb://{table}'\n")


@pytest.mark.usefixtures("aws")
def test_the_table_of_the_state_is_tried(ministack: Ministack, queue_name: str, write: Write) -> None:
    path = with_table(write, ministack.url, queue_name, "auto")
    code, lines = run(path, aws=True)
    assert f"  state: DynamoDB table {queue_name}, in items of p-/" in lines
    assert (code, lines[-1]) == (
        EXIT_RIGHT,
        f"dynamodb table {queue_name}: not there yet; it is created when the gateway starts",
    )
    dynamodb = aws_client("dynamodb", ministack.url)
    dynamodb.create_table(**orjson.loads(table_request(queue_name)))
    code, lines = run(path, aws=True)
    assert (code, lines[-1]) == (EXIT_RIGHT, f"dynamodb table {queue_name}: OK")


@pytest.mark.usefixtures("aws")
def test_another_table_is_no_place_for_state(ministack: Ministack, queue_name: str, write: Write) -> None:
    path = with_table(write, ministack.url, queue_name, "never")
    code, lines = run(path, aws=True)
    assert code == EXIT_FAILED
    assert lines[-1] == (
        f"{path}: state: there is no DynamoDB table {queue_name} in us-east-1; "
        "create it as docs/operations.md says, or set provision: auto"
    )
    aws_client("dynamodb", ministack.url).create_table(
        TableName=queue_name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    code, lines = run(path, aws=True)
    assert code == EXIT_FAILED
    assert lines[-1].startswith(f"{path}: state: the DynamoDB table {queue_name} is not one of mqlift's")


@pytest.mark.usefixtures("aws")
def test_an_unknown_profile(write: Write) -> None:
    path = write(LISTENER + "aws: {region: us-east-1, profile: nobody}")
    code, lines = run(path, aws=True)
    assert code == EXIT_MISTAKE
    assert lines[-1].startswith(f"{path}: aws")
    assert "nobody" in lines[-1]


def test_topics_that_are_listened_to(write: Write, ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    aws = f"aws: {{region: us-east-1, endpoint_url: '{ministack.url}'}}\n"
    path = write(LISTENER + aws + "prefix: p-\ningress: [{sns: not-there, topic: t}]\n")
    code, lines = run(path, aws=True)
    assert code == EXIT_RIGHT
    assert "  listens to: sns not-there, through the queue p-mqlift-ingress-not-there" in lines
    assert lines[-1] == "sns not-there: not there yet; it is created when it is first used"


SELECTIVE = """
routes:
- {match: {queue: jobs}, to: [{sqs: NAME}], selectors: {pass_over: 60}}
"""


def test_what_selectors_cost_is_explained(write: Write) -> None:
    path = write(LISTENER + SELECTIVE)
    _, lines = run(path, "queue:jobs")
    assert "  selectors: what no consumer takes is passed over: hidden for 60 s, then looked at again" in lines
    assert "    a million passes: $0.08 to $0.80" in lines
    assert lines[-1] == "    1,000 messages that nobody takes, 43.2 million passes a month: $3.46 to $34.56"
    _, summary = run(path)
    assert "  warning: routes.0.selectors: what nobody takes costs; --explain queue:NAME says how much" in summary


@pytest.mark.usefixtures("aws")
def test_a_redrive_policy_and_selectors_do_not_go_together(
    ministack: Ministack, sqs: SqsClient, queue: str, queue_name: str, write: Write
) -> None:
    endpoint = f"aws: {{region: us-east-1, endpoint_url: '{ministack.url}'}}\n"
    path = write(LISTENER + endpoint + SELECTIVE.replace("NAME", queue_name))
    assert run(path, aws=True)[0] == EXIT_RIGHT
    dead = sqs.create_queue(QueueName=f"{queue_name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy})
    code, lines = run(path, aws=True)
    assert code == EXIT_FAILED
    assert lines[-1] == (
        f"selectors: sqs queue '{queue_name}' has a redrive policy, and a message would be moved away once it was "
        "passed over 3 times; remove that policy"
    )


FANOUT = """
prefix: p-
sns: {fanout_wait: 960}
routes:
- {match: {exchange: events}, to: [{sns: news, fanout: true}]}
- {match: {topic: "t/#"}, to: [{sns: captured, fanout: true}, {sns: plain}]}
- {match: {queue: orders}, to: [{sqs: orders.fifo}]}
- {match: {queue: stream}, to: [{kinesis: stream}]}
"""


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (
            "exchange:events/a.b",
            [
                "  to: sns news (fan-out)",
                "  fan-out: sns news brings messages to the queues in SQS that are bound here,",
                "    200 at most, each 16 minutes after its first message; --explain queue:NAME tells which can",
                "      fan-out   $0.05 to $0.50: published once",
                "      gateway   $0.45 to $4.50: published once, and sent to each queue",
            ],
        ),
        ("topic:t/1", ["  to: sns captured (fan-out)", "  to: sns plain"]),
        (
            "queue:orders",
            [
                "  fan-out of routes.1, if bound to topic t/#: the gateway sends to it: a FIFO queue keeps its order",
                "    a million messages: $0.05 to $0.50 by the gateway",
            ],
        ),
        (
            "queue:stream",
            [
                (
                    "  fan-out of routes.0, if bound to exchange events: the gateway sends to it: "
                    "a queue that lives in kinesis, which SNS does not send to"
                ),
            ],
        ),
        (
            "queue:audit",
            [
                "  fan-out of routes.0, if bound to exchange events: sns news brings messages",
                "  fan-out of routes.1, if bound to topic t/#: sns captured brings messages",
                "    a million messages: $0.04 to $0.40 by the gateway, $0.00 by fan-out",
            ],
        ),
    ],
)
def test_fan_out_is_explained(place: str, told: list[str], write: Write) -> None:
    code, lines = run(write(LISTENER + FANOUT), place)
    assert code == EXIT_RIGHT
    assert set(told) <= set(lines)


def test_what_kinesis_costs_is_no_matter_of_messages(write: Write) -> None:
    _, lines = run(write(LISTENER + FANOUT), "queue:stream")
    assert not any("a million messages" in line for line in lines)
