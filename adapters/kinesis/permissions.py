"""Which permissions a stream needs that a rule names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from adapters.aws.permissions import ANY, Grant, Scope, Use
from adapters.kinesis.naming import parse_reference

_SEND: Final = frozenset({"kinesis:DescribeStreamSummary", "kinesis:PutRecords"})
_CREATE: Final = frozenset({"kinesis:CreateStream"})
_READ: Final = frozenset({"kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"})
_READ_BY: Final = frozenset({Use.HOME, Use.TAIL})


def permissions(name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For a stream by name or ARN, with `ANY` in place of what is captured. An ARN is somebody else's to create."""
    reference = parse_reference(name.replace(ANY, "0"))
    actions = _SEND | _READ if use in _READ_BY else _SEND
    if reference.ours:
        yield Grant(scope.arn("kinesis", f"stream/{name}"), actions | _CREATE if create else actions)
    else:
        yield Grant(name, actions)
