"""Names of SQS queues: made from legacy names, and read from a configuration (a name, an ARN or a URL). Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# "A queue name can have up to 80 characters: alphanumeric characters, hyphens and underscores. The name of a FIFO queue
# must end with the .fifo suffix, [which] counts towards the 80-character quota." (SQS API reference, CreateQueue)
NAME_LIMIT = 80
FIFO_SUFFIX = ".fifo"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ILLEGAL_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")

DIGEST_LENGTH = 8
"""Hexadecimal digits of SHA-256 behind a changed name: 32 bits, among names that look alike once they are changed."""

# Tag values: letters, digits and white space of any script, and _ . : / = + - @; at most 256 characters (AWS tagging
# guide, "Tag naming limits"). Other scripts are escaped all the same: services differ in what they call a letter.
TAG_VALUE_LIMIT = 256
_ILLEGAL_IN_TAG = re.compile(r"[^A-Za-z0-9 _.:/+@-]")

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


def is_fifo(name: str) -> bool:
    return name.endswith(FIFO_SUFFIX)


def queue_name(name: str, *, fifo: bool = False) -> str:
    """The SQS queue name of any text: itself where it is legal, else changed or cut, with a short hash of the original.

    A name that ends in `.fifo` is that of a FIFO queue; `fifo` adds the suffix where it is not there.
    Raises `ValueError` for a name with nothing in it.
    """
    stem = name.removesuffix(FIFO_SUFFIX)
    if not stem:
        raise ValueError("an SQS queue cannot have an empty name")
    suffix = FIFO_SUFFIX if fifo or stem != name else ""
    if _NAME.fullmatch(stem) and len(stem) + len(suffix) <= NAME_LIMIT:
        return stem + suffix
    digest = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]
    room = NAME_LIMIT - len(suffix) - DIGEST_LENGTH - 1
    return f"{_ILLEGAL_IN_NAME.sub('-', stem)[:room]}-{digest}{suffix}"


def tag_value(name: str) -> str:
    """A legacy name as the value of a tag: what a tag cannot hold is `=` and two hexadecimal digits for each byte."""
    return _ILLEGAL_IN_TAG.sub(_escape, name)[:TAG_VALUE_LIMIT]


def _escape(character: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in character.group().encode("utf-8", "surrogatepass"))


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
