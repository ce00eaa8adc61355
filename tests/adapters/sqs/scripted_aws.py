"""An SQS that answers what a test says."""

from __future__ import annotations

from tests.rig import scripted_aws

URL = "https://sqs.us-east-1.amazonaws.com/111122223333/orders"


class ScriptedAws(scripted_aws.ScriptedAws):
    """Knows one queue."""

    def __init__(self) -> None:
        super().__init__("sqs")
        self.answers["GetQueueUrl"] = {"QueueUrl": URL}
