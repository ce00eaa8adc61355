"""Names of SQS queues: made from legacy names, and read from a configuration (a name, an ARN or a URL). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapters.aws.names import is_fifo, legal_name

# "A queue name can have up to 80 characters: alphanumeric characters, hyphens and underscores. The name of a FIFO queue
# must end with the .fifo suffix, [which] counts towards the 80-character quota." (SQS API reference, CreateQueue)
NAME_LIMIT = 80

_ARN = re.compile(r"arn:aws[a-z-]*:sqs:([a-z0-9-]+):([0-9]{12}):(.+)", re.DOTALL)
_URL = re.compile(r"(https?://([^/?#\s]+)/([0-9]{1,12}))/(.+)", re.DOTALL)
# sqs.REGION.amazonaws.com(.cn), vpce-….sqs.REGION.vpce.amazonaws.com, REGION.queue.amazonaws.com (the legacy form).
_URL_REGION = re.compile(r"(?:.*\.)?sqs(?:-fips)?\.([a-z0-9-]+)\.|([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.queue\.amazonaws\.com")


@dataclass(frozen=True, slots=True)
class QueueReference:
    """Which queue is meant. `account`, `region` and `url` are empty where the text did not say."""

    name: str
    account: str = ""
    region: str = ""
    url: str = ""

    @property
    def fifo(self) -> bool:
        return is_fifo(self.name)

    @property
    def ours(self) -> bool:
        """Whether it is a bare name: the gateway's own account and region, where it may create the queue."""
        return not self.account and not self.url


def queue_name(name: str, *, fifo: bool = False) -> str:
    """The SQS queue name of any text, see `legal_name`. Raises `ValueError` for a name with nothing in it."""
    return legal_name(name, NAME_LIMIT, fifo=fifo)


def parse_reference(text: str) -> QueueReference:
    """Read a name, an ARN or a URL; the name in it is made legal, for a capture may have put anything into it.

    Raises `ValueError` with a one-line text.
    """
    if arn := _ARN.fullmatch(text):
        region, account, name = arn.groups()
        return QueueReference(queue_name(name), account=account, region=region)
    if url := _URL.fullmatch(text):
        base, host, account, name = url.groups()
        name = queue_name(name)
        return QueueReference(name, account=account, region=_region_of(host), url=f"{base}/{name}")
    if text.startswith("arn:"):
        raise ValueError(f"{text!r} is not the ARN of an SQS queue, arn:aws:sqs:REGION:ACCOUNT:NAME")
    if "://" in text:
        raise ValueError(f"{text!r} is not the URL of an SQS queue, https://HOST/ACCOUNT/NAME")
    return QueueReference(queue_name(text))


def _region_of(host: str) -> str:
    found = _URL_REGION.match(host)
    return (found.group(1) or found.group(2)) if found else ""
