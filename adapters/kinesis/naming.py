"""Which stream a rule names: a name or an ARN. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Service model 2013-12-02, StreamName and StreamARN.
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_ARN = re.compile(r"arn:aws[a-z-]*:kinesis:([a-z0-9-]+):[0-9]{12}:stream/([a-zA-Z0-9_.-]{1,128})")


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
