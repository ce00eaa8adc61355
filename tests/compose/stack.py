"""The brokers that legacy applications are run against, and those applications as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3  # type: ignore[import-untyped]

from tests.rig.processes import ROOT, ServerProcess
from tests.rig.waiting import wait_for

APPLICATIONS = ROOT / "examples" / "legacy"
PATIENCE = 90.0
"""Seconds that an application may take: its own patience, and some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where applications connect. `aws`: the endpoint where its queues live, empty for a broker that keeps its own."""

    name: str
    host: str
    mqtt_port: int
    amqp_port: int
    """0 for one that does not speak AMQP."""
    stomp_port: int
    user: str
    password: str
    aws: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """All that an application is told."""
        return {
            "BROKER_HOST": self.host,
            "MQTT_PORT": str(self.mqtt_port),
            "AMQP_PORT": str(self.amqp_port),
            "STOMP_PORT": str(self.stomp_port),
            "BROKER_USER": self.user,
            "BROKER_PASSWORD": self.password,
        }


def in_compose(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the brokers are those of docker-compose.yml; otherwise the tests start their own."""
    return "COMPOSE_GATEWAY" in environment


def compose_broker(name: str, environment: Mapping[str, str] = os.environ) -> Broker:
    """One of the brokers of docker-compose.yml, on its usual ports."""
    host = environment["COMPOSE_GATEWAY" if name == "mqlift" else "COMPOSE_RABBITMQ"]
    return Broker(
        name=name,
        host=host,
        mqtt_port=1883,
        amqp_port=5672,
        stomp_port=61613,
        user=environment["BROKER_USER"],
        password=environment["BROKER_PASSWORD"],
        aws=environment["COMPOSE_EMULATOR"] if name == "mqlift" else "",
    )


class Running(ServerProcess):
    """An application that goes on until it has done its work; started once it has said `ready_line`."""

    def __init__(self, broker: Broker, directory: Path, ready_line: str, *command: str, **environment: str) -> None:
        self._ready_line = ready_line
        script = str(APPLICATIONS / command[0])
        super().__init__(
            " ".join(command),
            [sys.executable, script, *command[1:]],
            directory / f"{command[0]}-{broker.name}.log",
            environment=broker.environment | environment,
        )

    @property
    def lines(self) -> list[str]:
        return self.log.splitlines()

    def ready(self) -> bool:
        return self._ready_line in self.lines

    def close(self) -> None:
        """End it, however it is; for fixtures. These programs have nothing to clean up."""
        self.kill9()


def run(broker: Broker, *command: str, **environment: str) -> list[str]:
    """Run an application to its end; the lines that it wrote. `AssertionError` when it fails."""
    done = subprocess.run(
        [sys.executable, str(APPLICATIONS / command[0]), *command[1:]],
        env=os.environ | broker.environment | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command} on {broker.name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


class Queues:
    """The queues of a broker as a cloud-native application sees them: in SQS, by boto3."""

    def __init__(self, endpoint_url: str) -> None:
        self._sqs = boto3.client(
            "sqs",
            endpoint_url=endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def bodies(self, name: str, count: int) -> list[str]:
        """The bodies of `count` messages, sorted; they stay where they are."""
        url = self._url(name)
        found: dict[str, str] = {}

        def complete() -> bool:
            answer = self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
            found.update((message["MessageId"], message["Body"]) for message in answer.get("Messages", ()))
            return len(found) >= count

        wait_for(complete, f"{count} messages are in {name}")
        return sorted(found.values())

    def wait_until_empty(self, name: str) -> None:
        """All that was delivered is acknowledged, and so deleted."""
        url = self._url(name)
        counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

        def empty() -> bool:
            attributes = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(counts))["Attributes"]
            return all(attributes[name] == "0" for name in counts)

        wait_for(empty, f"{name} is empty")

    def close(self) -> None:
        self._sqs.close()

    def _url(self, name: str) -> str:
        url: str = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return url
