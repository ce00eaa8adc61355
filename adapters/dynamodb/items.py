"""How records lie in the table, and the requests that read and write them. Pure.

| attribute | type | what |
|---|---|---|
| `kind` | S, partition key | the prefix of the installation, `/`, and the record's kind |
| `key` | S, sort key | `=` and the record's key: a sort key may not be empty |
| `value` | B | |
| `version` | N | grows with every write |
| `expires_at` | N, where the record has one | seconds since 1970; the sort key of the index `expiry` |
| `writer`, `stamp` | S, N | which process wrote it, and the number of that write |

A request that is carried out twice must not do more than one that is carried out once, and one that arrives late must
not undo what the same process has written since: conditions on `version`, or on `writer` and `stamp`, see to that.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, cast

import orjson

from gateway.core.store import Record, StoreError

Json: TypeAlias = dict[str, object]

INDEX: Final = "expiry"

KEY_BYTES: Final = 1_023
"""A sort key has 1,024 bytes at most (DynamoDB guide, "Quotas"), of which one is ours."""

VALUE_BYTES: Final = 400 * 1024 - 2_048
"""An item has 400 KB at most, names and values of all attributes together; those besides `value` take less than 2."""

KEY_SCHEMA: Final = ({"AttributeName": "kind", "KeyType": "HASH"}, {"AttributeName": "key", "KeyType": "RANGE"})
INDEX_SCHEMA: Final = (
    {"AttributeName": "kind", "KeyType": "HASH"},
    {"AttributeName": "expires_at", "KeyType": "RANGE"},
)
ATTRIBUTE_TYPES: Final = {"kind": "S", "key": "S", "expires_at": "N"}

# Names stand for attributes in every expression: `key` and `value` are among the reserved words.
_NAMES: Final = {f"#{name}": name for name in ("kind", "key", "value", "version", "expires_at", "writer", "stamp")}

# Neither a duplicate of this write, nor one that another of the same process has overtaken.
_IN_ORDER: Final = "attribute_not_exists(#writer) OR #writer <> :writer OR #stamp < :stamp"


class Stamp(NamedTuple):
    """A write: the process that makes it, and its number there, which is the time in microseconds or more."""

    writer: str
    number: int


class Written(NamedTuple):
    """What is in the table of a record, and who wrote it."""

    record: Record
    stamp: Stamp


class Place(NamedTuple):
    """A table, and the installation of which the records in it are."""

    table: str
    prefix: str

    def partition(self, kind: str) -> Json:
        return {"S": f"{self.prefix}/{kind}"}

    def address(self, kind: str, key: str) -> Json:
        return {"kind": self.partition(kind), "key": _text_key(key)}


def get_request(place: Place, kind: str, key: str) -> bytes:
    return orjson.dumps({"TableName": place.table, "Key": place.address(kind, key), "ConsistentRead": True})


def put_request(
    place: Place, kind: str, key: str, value: bytes, *, stamp: Stamp, expected: int | None, expires_at: float | None
) -> bytes:
    """`UpdateItem`, which counts the version on."""
    changes = (
        "SET #version = if_not_exists(#version, :stamp) + :one, #value = :value, #writer = :writer, #stamp = :stamp"
    )
    values: Json = {
        ":one": {"N": "1"},
        ":value": {"B": base64.b64encode(value).decode()},
        ":stamp": {"N": str(stamp.number)},
        ":writer": {"S": stamp.writer},
    }
    if expires_at is None:
        changes += " REMOVE #expires_at"
    else:
        changes += ", #expires_at = :expires_at"
        values[":expires_at"] = _number(expires_at)
    if expected is None:
        condition = _IN_ORDER
    elif expected:
        condition = "#version = :expected"
        values[":expected"] = {"N": str(expected)}
    else:
        condition = "attribute_not_exists(#key)"
    return _expressed(
        {
            "TableName": place.table,
            "Key": place.address(kind, key),
            "UpdateExpression": changes,
            "ConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ReturnValues": "UPDATED_NEW",
        }
    )


def delete_request(place: Place, kind: str, key: str, *, stamp: Stamp, expected: int | None) -> bytes:
    if expected is None:
        condition = _IN_ORDER
        values: Json = {":stamp": {"N": str(stamp.number)}, ":writer": {"S": stamp.writer}}
    else:
        condition = "attribute_not_exists(#key) OR #version = :expected"
        values = {":expected": {"N": str(expected)}}
    return _expressed(
        {
            "TableName": place.table,
            "Key": place.address(kind, key),
            "ConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ReturnValues": "ALL_OLD",
        }
    )


def scan_request(place: Place, kind: str, *, prefix: str, after: str, limit: int) -> bytes:
    """`Query` of what comes after `after`, which begins with `prefix`, or is empty."""
    condition = "#kind = :kind"
    values: Json = {":kind": place.partition(kind)}
    request: Json = {"TableName": place.table, "ConsistentRead": True, "Limit": limit}
    if prefix:
        condition += " AND begins_with(#key, :key)"
        values[":key"] = _text_key(prefix)
        if after:
            request["ExclusiveStartKey"] = place.address(kind, after)
    else:
        condition += " AND #key > :key"
        values[":key"] = _text_key(after)
    return _expressed(request | {"KeyConditionExpression": condition, "ExpressionAttributeValues": values})


def expired_request(place: Place, kind: str, now: float, *, limit: int) -> bytes:
    """`Query` of the index, which knows keys only."""
    return _expressed(
        {
            "TableName": place.table,
            "IndexName": INDEX,
            "KeyConditionExpression": "#kind = :kind AND #expires_at <= :now",
            "ExpressionAttributeValues": {":kind": place.partition(kind), ":now": _number(now)},
            "Limit": limit,
        }
    )


def table_request(table: str) -> bytes:
    """`CreateTable`."""
    return orjson.dumps(
        {
            "TableName": table,
            "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": KEY_SCHEMA,
            "AttributeDefinitions": [
                {"AttributeName": name, "AttributeType": each} for name, each in ATTRIBUTE_TYPES.items()
            ],
            "GlobalSecondaryIndexes": [
                {"IndexName": INDEX, "KeySchema": INDEX_SCHEMA, "Projection": {"ProjectionType": "KEYS_ONLY"}}
            ],
        }
    )


def read_item(kind: str, answer: bytes) -> Written | None:
    """The record of a `GetItem`. Raises `StoreError`, as all that read answers, for one that is none of DynamoDB's."""
    item = _document(answer).get("Item")
    return None if item is None else _written(kind, item)


def read_page(kind: str, answer: bytes) -> tuple[Sequence[Record], str | None]:
    """The records of a `Query`, and the key to go on after, if there may be more."""
    document = _document(answer)
    records = [_written(kind, item).record for item in _items(document)]
    last = document.get("LastEvaluatedKey")
    return records, None if last is None else _key(last)


def read_keys(answer: bytes) -> Sequence[str]:
    """The keys that a `Query` of the index gave."""
    return [_key(item) for item in _items(_document(answer))]


def read_version(answer: bytes) -> int:
    """The version that an `UpdateItem` gave."""
    return int(_field(_document(answer).get("Attributes"), "version", "N"))


def read_existed(answer: bytes) -> bool:
    """Whether a `DeleteItem` has found something."""
    return bool(_document(answer).get("Attributes"))


def _text_key(key: str) -> Json:
    return {"S": f"={key}"}


def _number(value: float) -> Json:
    return {"N": repr(value)}


def _expressed(request: Json) -> bytes:
    """With the names that its expressions use: DynamoDB refuses others."""
    text = " ".join(str(value) for name, value in request.items() if name.endswith("Expression"))
    used = {name: meaning for name, meaning in _NAMES.items() if name in text}
    return orjson.dumps(request | {"ExpressionAttributeNames": used})


def _document(answer: bytes) -> Mapping[str, object]:
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise StoreError(f"an answer that is not DynamoDB's: {error}") from None
    if not isinstance(document, dict):
        raise StoreError("an answer that is not DynamoDB's")
    return cast("Mapping[str, object]", document)


def _items(document: Mapping[str, object]) -> Sequence[object]:
    items = document.get("Items")
    if not isinstance(items, list):
        raise StoreError("an answer that is not DynamoDB's: it has no Items")
    return cast("Sequence[object]", items)


def _written(kind: str, item: object) -> Written:
    expires_at = _field(item, "expires_at", "N", absent="")
    try:
        record = Record(
            kind=kind,
            key=_key(item),
            value=base64.b64decode(_field(item, "value", "B"), validate=True),
            version=int(_field(item, "version", "N")),
            expires_at=float(expires_at) if expires_at else None,
        )
        return Written(record, Stamp(_field(item, "writer", "S"), int(_field(item, "stamp", "N"))))
    except ValueError as error:
        raise StoreError(f"an item of the table is none of mqlift's: {error}") from None


def _key(item: object) -> str:
    return _field(item, "key", "S").removeprefix("=")


def _field(item: object, name: str, type_name: str, absent: str | None = None) -> str:
    """The text of one attribute value, whatever it means."""
    try:
        attribute = cast("Mapping[str, Mapping[str, str]]", item)
        if absent is not None and name not in attribute:
            return absent
        return str(attribute[name][type_name])
    except (KeyError, TypeError) as error:
        raise StoreError(f"an item of the table is none of mqlift's: no {name} in it, {error!r:.100}") from None
