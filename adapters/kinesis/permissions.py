"""Which permissions a stream needs that a rule names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from adapters.aws.permissions import ANY, Grant, Scope, Use
from adapters.kinesis.naming import parse_reference

_SEND: Final = frozenset({"kinesis:DescribeStreamSummary", "kinesis:PutRecords"})
_CREATE: Final = frozenset({"kinesis:CreateStream"})


def permissions(name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]:  # noqa: ARG001 - sent to only
    """For a stream by name or ARN, with `ANY` in place of what is captured. An ARN is somebody else's to create."""
    reference = parse_reference(name.replace(ANY, "0"))
    if reference.ours:
        yield Grant(scope.arn("kinesis", f"stream/{name}"), _SEND | _CREATE if create else _SEND)
    else:
        yield Grant(name, _SEND)
