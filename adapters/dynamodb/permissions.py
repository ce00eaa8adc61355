"""Which permissions the state store needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from adapters.aws.permissions import Grant, Scope
from adapters.dynamodb.items import INDEX

_USE: Final = frozenset(
    {"dynamodb:DeleteItem", "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:Query", "dynamodb:UpdateItem"}
)
_CREATE: Final = frozenset({"dynamodb:CreateTable"})


def table_permissions(table: str, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For the table of the state store, by its name."""
    arn = scope.arn("dynamodb", f"table/{table}")
    yield Grant(arn, _USE | _CREATE if create else _USE)
    yield Grant(f"{arn}/index/{INDEX}", frozenset({"dynamodb:Query"}))
