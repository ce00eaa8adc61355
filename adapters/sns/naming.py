"""Names of SNS topics, read from a configuration (a name or an ARN). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from adapters.aws.names import is_fifo, legal_name

# "only uppercase and lowercase ASCII letters, numbers, underscores, and hyphens, and […] between 1 and 256 characters
# long. For a FIFO topic, the name must end with the .fifo suffix." (SNS API reference, CreateTopic)
NAME_LIMIT: Final = 256

_ARN = re.compile(r"arn:(aws[a-z-]*):sns:([a-z0-9-]+):([0-9]{12}):([^:]+)", re.DOTALL)
# Any ARN: of the caller, whose account is that of bare names.
_CALLER = re.compile(r"arn:([^:]+):[^:]*:[^:]*:([0-9]{12}):.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TopicReference:
    """Which topic is meant. `arn` and `region` are empty where the text was a bare name."""

    name: str
    arn: str = ""
    region: str = ""

    @property
    def fifo(self) -> bool:
        return is_fifo(self.name)

    @property
    def ours(self) -> bool:
        """Whether it is in the gateway's own account and region, where it may create the topic."""
        return not self.arn


def parse_reference(text: str) -> TopicReference:
    """Read a name or an ARN; the name in it is made legal, for a capture may have put anything into it.

    Raises `ValueError` with a one-line text.
    """
    if found := _ARN.fullmatch(text):
        partition, region, account, name = found.groups()
        name = legal_name(name, NAME_LIMIT)
        return TopicReference(name, f"arn:{partition}:sns:{region}:{account}:{name}", region)
    if text.startswith("arn:"):
        raise ValueError(f"{text!r} is not the ARN of an SNS topic, arn:aws:sns:REGION:ACCOUNT:NAME")
    if "://" in text:
        raise ValueError(f"{text!r} is not the name or the ARN of an SNS topic")
    return TopicReference(legal_name(text, NAME_LIMIT))


def topic_arn(name: str, region: str, caller: str) -> str:
    """The ARN of a topic in the account of `caller`, which is an ARN too. Raises `ValueError` for what is none."""
    found = _CALLER.fullmatch(caller)
    if found is None:
        raise ValueError(f"{caller!r} has no account")
    partition, account = found.groups()
    return f"arn:{partition}:sns:{region}:{account}:{name}"
