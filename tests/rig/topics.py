"""Topics of an emulator, and the queues that they hand messages to, with boto3."""

from __future__ import annotations

from typing import Any, TypeAlias

from tests.rig.counting import SqsClient
from tests.rig.waiting import wait_for

SnsClient: TypeAlias = Any  # boto3 makes its clients at run time


def new_topic(sns: SnsClient, name: str) -> str:
    """The ARN of a topic that is made as the gateway makes it."""
    tags = [{"Key": "mqlift:name", "Value": name}]
    fifo = {"FifoTopic": "true"} if name.endswith(".fifo") else {}
    return str(sns.create_topic(Name=name, Attributes=fifo, Tags=tags)["TopicArn"])


def topic_arn(sns: SnsClient, name: str) -> str:
    """Of a topic that is there."""
    topics = sns.list_topics()["Topics"]
    (found,) = [topic["TopicArn"] for topic in topics if topic["TopicArn"].endswith(f":{name}")]
    return str(found)


def subscribed_queue(sns: SnsClient, sqs: SqsClient, arn: str, name: str, **attributes: str) -> str:
    """The URL of a new queue that gets a topic's messages raw."""
    more = {"FifoQueue": "true"} if arn.endswith(".fifo") else {}
    url = sqs.create_queue(QueueName=name, Attributes=more)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(
        TopicArn=arn, Protocol="sqs", Endpoint=queue_arn, Attributes={"RawMessageDelivery": "true", **attributes}
    )
    return str(url)


def take_bodies(sqs: SqsClient, url: str, number: int) -> list[str]:
    """The bodies of so many messages, which are deleted."""
    found: list[str] = []

    def received() -> bool:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in answer.get("Messages", ()):
            found.append(message["Body"])
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return len(found) >= number

    wait_for(received, f"{number} messages are in {url}")
    return found
