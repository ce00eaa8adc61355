"""Names of streams: made from legacy names, and read from a rule (a name or an ARN). Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# Service model 2013-12-02, StreamName and StreamARN.
NAME_LIMIT = 128
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_ILLEGAL_IN_NAME = re.compile(r"[^a-zA-Z0-9_.-]")
_ARN = re.compile(r"arn:aws[a-z-]*:kinesis:([a-z0-9-]+):[0-9]{12}:stream/([a-zA-Z0-9_.-]{1,128})")


DIGEST_LENGTH = 8
"""Hexadecimal digits of SHA-256 behind a changed name, as for queues in SQS."""


@dataclass(frozen=True, slots=True)
class StreamReference:
    """Which stream is meant. `arn` and `region` are empty for a bare name."""

    name: str
    arn: str = ""
    region: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is a bare name: the gateway's own account and region, where it may create the stream."""
        return not self.arn

    @property
    def member(self) -> tuple[str, str]:
        """The member of a request that says which stream, and its value."""
        return ("StreamARN", self.arn) if self.arn else ("StreamName", self.name)


def parse_reference(text: str) -> StreamReference:
    """Read a name or an ARN. Raises `ValueError` with a one-line text."""
    if _NAME.fullmatch(text):
        return StreamReference(text)
    if found := _ARN.fullmatch(text):
        region, name = found.groups()
        return StreamReference(name, arn=text, region=region)
    if text.startswith("arn:"):
        raise ValueError(f"{text!r} is not the ARN of a Kinesis stream, arn:aws:kinesis:REGION:ACCOUNT:stream/NAME")
    raise ValueError(f"{text!r} is not the name of a Kinesis stream: A-Z a-z 0-9 _ . - and 128 characters at most")


def stream_name(name: str) -> str:
    """The stream of any text: itself where it is legal, else changed or cut, with a short hash of the original."""
    if _NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]
    return f"{_ILLEGAL_IN_NAME.sub('-', name)[: NAME_LIMIT - DIGEST_LENGTH - 1]}-{digest}"
