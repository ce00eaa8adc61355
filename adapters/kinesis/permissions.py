"""Which permissions a stream needs that a rule names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from adapters.aws.permissions import ANY, Grant, Scope, Use
from adapters.kinesis.naming import parse_reference
from adapters.kinesis.settings import HOSTNAME

_SEND: Final = frozenset({"kinesis:DescribeStreamSummary", "kinesis:PutRecords"})
_CREATE: Final = frozenset({"kinesis:CreateStream"})
_READ: Final = frozenset({"kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"})
_PUSH: Final = frozenset({"kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"})
_REGISTER: Final = frozenset({"kinesis:RegisterStreamConsumer"})
_READ_BY: Final = frozenset({Use.HOME, Use.TAIL})


def permissions(name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For a stream by name or ARN, with `ANY` in place of what is captured. An ARN is somebody else's to create."""
    reference = parse_reference(name.replace(ANY, "0"))
    actions = _SEND | _READ if use in _READ_BY else _SEND
    if reference.ours:
        yield Grant(scope.arn("kinesis", f"stream/{name}"), actions | _CREATE if create else actions)
    else:
        yield Grant(name, actions)


def push_permissions(name: str, consumers: Sequence[str], scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For enhanced fan-out consumers of a stream, as the rule names them."""
    reference = parse_reference(name.replace(ANY, "0"))
    stream = scope.arn("kinesis", f"stream/{name}") if reference.ours else name
    actions = _PUSH | _REGISTER if create and reference.ours else _PUSH
    # Each of these actions names both the stream and the consumer (Service Authorization Reference, "Amazon Kinesis
    # Data Streams").
    yield Grant(stream, actions)
    for consumer in consumers:
        # The ARN of a consumer ends in when it was registered, NAME:SECONDS. A host may have any name.
        head, host, _ = consumer.partition(HOSTNAME)
        yield Grant(f"{stream}/consumer/{head}{ANY if host else f':{ANY}'}", actions)
