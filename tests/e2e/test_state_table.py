"""The state of a gateway in DynamoDB: what outlives it, and what is told when the table cannot be used."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import paho.mqtt.client as paho

from tests.conftest import GatewayFactory
from tests.rig.amqp import AmqpClient
from tests.rig.clients import MqttPublisher, MqttSubscriber
from tests.rig.processes import HOST, Gateway, Ministack, clean_environment, free_port, gateway_config, mqlift_serve
from tests.rig.streams import aws_client
from tests.rig.waiting import wait_for

LARGEST = 400_000
"""Bytes of payload that are over an item's size."""


def test_what_was_kept_is_there_for_the_next_gateway(gateway_factory: GatewayFactory, queue_name: str) -> None:
    """Nothing of the first is left but the table: the other one runs on another machine."""
    settings = {"protocols": ("amqp091", "mqtt"), "prefix": f"{queue_name}-", "state": "dynamodb://state"}
    first = gateway_factory(**settings)
    with AmqpClient(first.port("amqp091")) as client, MqttPublisher(first.port("mqtt"), "device") as publisher:
        client.channel.exchange_declare("events", "topic", durable=True)
        client.declare("orders")
        client.channel.queue_bind("orders", "events", "order.#")
        publisher.publish("last/words", "kept", retain=True)
        publisher.wait_acknowledged(1)
    first.kill9()
    second = gateway_factory(**settings)
    with AmqpClient(second.port("amqp091")) as client, MqttSubscriber(second.port("mqtt")) as subscriber:
        client.publish("order.new", "bound", "events")
        assert client.take("orders").body == "bound"
        subscriber.subscribe("last/#")
        wait_for(lambda: [each.body for each in subscriber.messages] == [b"kept"], "the retained message")


def test_what_is_too_large_for_an_item_is_not_acknowledged(gateway_factory: GatewayFactory, queue_name: str) -> None:
    gateway = gateway_factory(protocols=("mqtt",), prefix=f"{queue_name}-", state="dynamodb://state")
    reasons = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "device", protocol=paho.MQTTv5)
    client.on_publish = lambda _client, _data, _mid, reason, _properties: reasons.append(reason)
    client.connect(HOST, gateway.port("mqtt"))
    client.loop_start()
    client.publish("large", bytes(LARGEST), qos=1, retain=True)
    wait_for(lambda: len(reasons) == 1, "an answer")
    assert reasons[0].is_failure
    client.publish("small", b"", qos=1, retain=True)
    wait_for(lambda: len(reasons) == 2, "another answer")
    assert not reasons[1].is_failure
    client.disconnect()
    client.loop_stop()
    assert "this state store takes" in gateway.log


def refused(directory: Path, config: Mapping[str, object]) -> tuple[int, str]:
    """The exit code of a gateway that cannot start, and what it wrote."""
    path = directory / "mqlift.yaml"
    path.write_text(json.dumps(config))
    ended = subprocess.run(
        mqlift_serve(path), capture_output=True, text=True, env=clean_environment({}), timeout=60, check=False
    )
    return ended.returncode, ended.stderr


def test_a_table_that_cannot_be_used_is_one_line(ministack: Ministack, queue_name: str, tmp_path: Path) -> None:
    config = gateway_config(ministack.url, state=f"dynamodb://{queue_name}", provision="never")
    code, told = refused(tmp_path, config)
    assert code == 2
    assert told == (
        f"state: there is no DynamoDB table {queue_name} in us-east-1; "
        "create it as docs/operations.md says, or set provision: auto\n"
    )
    aws_client("dynamodb", ministack.url).create_table(
        TableName=queue_name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "kind", "KeyType": "HASH"}, {"AttributeName": "key", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("kind", "key")],
    )
    code, told = refused(tmp_path, config)
    assert code == 2
    assert told.startswith(f"state: the DynamoDB table {queue_name} has no index expiry")
    assert told.count("\n") == 1


def test_nobody_answers(tmp_path: Path) -> None:
    config = gateway_config(f"http://{HOST}:{free_port()}", state="dynamodb://state")
    code, told = refused(tmp_path, config)
    assert code == 1
    assert told.startswith("mqlift: dynamodb table state (dynamodb:DescribeTable): no connection")
    assert told.count("\n") == 1


def test_a_table_that_goes_away(gateway_factory: GatewayFactory, ministack: Ministack, queue_name: str) -> None:
    """What cannot be kept is not acknowledged; the rest goes on."""
    gateway: Gateway = gateway_factory(
        protocols=("mqtt",), prefix=f"{queue_name}-", state=f"dynamodb://{queue_name}",
        routes=[{"match": {"topic": "kept/#"}, "to": [{"sqs": queue_name}]}],
    )  # fmt: skip
    with MqttPublisher(gateway.port("mqtt"), "device") as device, MqttPublisher(gateway.port("mqtt"), "other") as other:
        aws_client("dynamodb", ministack.url).delete_table(TableName=queue_name)
        device.publish("kept/1", "goes to SQS")
        device.wait_acknowledged(1)
        other.publish("a", "is retained", retain=True)
        wait_for(lambda: "state_not_written" in gateway.log, "it is told")
        assert other.acknowledged == {}
        device.publish("kept/2", "goes to SQS still")
        device.wait_acknowledged(2)
