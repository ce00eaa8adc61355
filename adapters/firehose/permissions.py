"""Which permissions a delivery stream needs that a rule names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from adapters.aws.permissions import Grant, Scope, Use

_SEND: Final = frozenset({"firehose:DescribeDeliveryStream", "firehose:PutRecordBatch"})


def permissions(name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]:  # noqa: ARG001 - never created
    """For a delivery stream by its name, with `ANY` in place of what is captured."""
    yield Grant(scope.arn("firehose", f"deliverystream/{name}"), _SEND)
