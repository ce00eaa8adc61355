"""The table: found, created where that is allowed, and looked at before it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

import orjson
import structlog

from adapters.aws.errors import code_of
from adapters.dynamodb.calls import Calls
from adapters.dynamodb.items import ATTRIBUTE_TYPES, INDEX, INDEX_SCHEMA, KEY_SCHEMA, table_request
from gateway.core.backend import Provision
from gateway.core.errors import AccessDenied, BackendError, ConfigError, NotFound
from gateway.core.store import StoreError

KEY: Final = "state"
"""Of the configuration, where a table is named."""

CREATION_SECONDS: Final = 60.0
"""How long a table may take to become usable; a new one takes about ten."""

POLL_SECONDS: Final = 0.5

_USABLE: Final = frozenset({"ACTIVE", "UPDATING"})
_COMING: Final = frozenset({"CREATING", ""})

_log = structlog.get_logger("mqlift.dynamodb")

_Description: TypeAlias = Mapping[str, object]


async def find(calls: Calls, provision: Provision) -> _Description | None:
    """What DynamoDB says of the table. None when there is none, and it may be created.

    Raises `ConfigError` for a table that cannot be used, and `StoreError` when DynamoDB does not answer.
    """
    description = await _describe(calls)
    if description is not None:
        _check(calls.table, description)
    elif provision == "never":
        problem = f"there is no DynamoDB table {calls.table} in {calls.region}"
        raise ConfigError(KEY, problem, "create it as docs/operations.md says, or set provision: auto")
    return description


async def find_or_create(calls: Calls, provision: Provision) -> None:
    """Have a table that can be used. Raises as `find`."""
    description = await find(calls, provision)
    if description is None:
        description = await _create(calls)
    await _wait_usable(calls, description)


async def _describe(calls: Calls) -> _Description | None:
    try:
        answer = await calls.call_aws("DescribeTable", orjson.dumps({"TableName": calls.table}))
    except NotFound:
        return None
    except BackendError as error:
        raise _refused(error) from error
    return _read(answer, "Table")


def _check(table: str, description: _Description) -> None:
    """Raises `ConfigError` for a table that is made in another way, or cannot be used any more."""
    types = {
        str(each.get("AttributeName")): each.get("AttributeType") for each in _list(description, "AttributeDefinitions")
    }
    if not _same(_list(description, "KeySchema"), KEY_SCHEMA, types):
        raise ConfigError(KEY, f"the DynamoDB table {table} is not one of mqlift's: it has other keys", "another table")
    indexes = [each for each in _list(description, "GlobalSecondaryIndexes") if each.get("IndexName") == INDEX]
    if not indexes or not _same(_list(indexes[0], "KeySchema"), INDEX_SCHEMA, types):
        problem = f"the DynamoDB table {table} has no index {INDEX} of kind and expires_at"
        raise ConfigError(KEY, problem, "add it as docs/operations.md says, or name another table")
    status = _status(description)
    if status not in _USABLE | _COMING:
        raise ConfigError(KEY, f"the DynamoDB table {table} is {status.lower()}", "a table that can be used")


async def _create(calls: Calls) -> _Description | None:
    """None when another gateway has created it in this moment."""
    try:
        answer = await calls.call_aws("CreateTable", table_request(calls.table))
    except BackendError as error:
        if code_of(error) == "ResourceInUseException":
            return None
        raise _refused(error) from error
    _log.info("state_table_created", table=calls.table)
    return _read(answer, "TableDescription")


async def _wait_usable(calls: Calls, description: _Description | None) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CREATION_SECONDS
    while description is None or not _usable(description):
        if loop.time() >= deadline:
            raise StoreError(f"dynamodb table {calls.table}: not usable {CREATION_SECONDS:g} s after its creation")
        await asyncio.sleep(POLL_SECONDS)
        description = await _describe(calls)
    _check(calls.table, description)


def _usable(description: _Description) -> bool:
    indexes = _list(description, "GlobalSecondaryIndexes")
    statuses = [str(index.get("IndexStatus", "")) for index in indexes if index["IndexName"] == INDEX]
    return {_status(description), *statuses} <= _USABLE


def _refused(error: BackendError) -> ConfigError | StoreError:
    if isinstance(error, AccessDenied):
        return ConfigError(KEY, str(error), f"grant {error.action}, as mqlift iam-policy prints")
    return StoreError(str(error))


def _same(
    found: Sequence[Mapping[str, object]], wanted: Sequence[Mapping[str, str]], types: Mapping[str, object]
) -> bool:
    """Whether a key has the attributes that it should, each of its type."""
    keys = {str(each.get("AttributeName")): str(each.get("KeyType")) for each in found}
    return keys == {each["AttributeName"]: each["KeyType"] for each in wanted} and all(
        types.get(name) == ATTRIBUTE_TYPES[name] for name in keys
    )


def _status(description: _Description) -> str:
    return str(description.get("TableStatus", ""))


def _list(description: _Description, name: str) -> Sequence[Mapping[str, object]]:
    found = description.get(name)
    return cast("Sequence[Mapping[str, object]]", found) if isinstance(found, list) else ()


def _read(answer: bytes, member: str) -> _Description:
    try:
        return cast("_Description", orjson.loads(answer)[member])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"an answer that is not DynamoDB's: {error!r}") from None
