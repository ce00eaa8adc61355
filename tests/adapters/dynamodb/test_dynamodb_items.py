"""Requests as DynamoDB's own model has them, and answers that are none of its."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import botocore.session
import orjson
import pytest
from botocore.validate import ParamValidator

from adapters.aws.shapes import Shape, to_python
from adapters.dynamodb.items import (
    Place,
    Stamp,
    delete_request,
    expired_request,
    get_request,
    put_request,
    read_existed,
    read_item,
    read_keys,
    read_page,
    read_version,
    scan_request,
    table_request,
)
from gateway.core.store import Record, StoreError

PLACE = Place("state", "p-")
STAMP = Stamp("writer", 17)
MODEL = botocore.session.Session().get_service_model("dynamodb")

REQUESTS: dict[str, tuple[str, bytes]] = {
    "get": ("GetItem", get_request(PLACE, "session", "")),
    "put": ("UpdateItem", put_request(PLACE, "session", "a", b"\0\xff", stamp=STAMP, expected=None, expires_at=None)),
    "expiring": ("UpdateItem", put_request(PLACE, "session", "a", b"", stamp=STAMP, expected=None, expires_at=1.5)),
    "create": ("UpdateItem", put_request(PLACE, "session", "a", b"", stamp=STAMP, expected=0, expires_at=None)),
    "replace": ("UpdateItem", put_request(PLACE, "session", "a", b"", stamp=STAMP, expected=5, expires_at=2.0)),
    "delete": ("DeleteItem", delete_request(PLACE, "session", "a", stamp=STAMP, expected=None)),
    "delete one": ("DeleteItem", delete_request(PLACE, "session", "a", stamp=STAMP, expected=5)),
    "scan": ("Query", scan_request(PLACE, "session", prefix="", after="", limit=10)),
    "scan on": ("Query", scan_request(PLACE, "session", prefix="", after="a", limit=10)),
    "scan some": ("Query", scan_request(PLACE, "session", prefix="a", after="", limit=10)),
    "scan some on": ("Query", scan_request(PLACE, "session", prefix="a", after="ab", limit=10)),
    "expired": ("Query", expired_request(PLACE, "session", 1.5, limit=10)),
    "table": ("CreateTable", table_request("state")),
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_the_service_model_knows_everything_in_it(request_name: str) -> None:
    action, request = REQUESTS[request_name]
    shape = MODEL.operation_model(action).input_shape
    parameters = to_python(cast("Shape", shape), orjson.loads(request))
    assert not ParamValidator().validate(parameters, shape).has_errors()


@pytest.mark.parametrize("request_name", REQUESTS)
def test_names_and_values_are_those_of_the_expressions(request_name: str) -> None:
    """DynamoDB refuses a request that defines what no expression uses, or uses what is not defined."""
    request = orjson.loads(REQUESTS[request_name][1])
    text = " ".join(value for name, value in request.items() if name.endswith("Expression"))
    assert set(re.findall(r"#\w+", text)) == set(request.get("ExpressionAttributeNames", ()))
    assert set(re.findall(r":\w+", text)) == set(request.get("ExpressionAttributeValues", ()))


def test_reads_are_consistent_but_for_the_index() -> None:
    for name in ("get", "scan", "scan on", "scan some", "scan some on"):
        assert orjson.loads(REQUESTS[name][1])["ConsistentRead"] is True
    assert "ConsistentRead" not in orjson.loads(REQUESTS["expired"][1])


def item(**changes: object) -> dict[str, object]:
    usual: dict[str, object] = {
        "kind": {"S": "p-/session"},
        "key": {"S": "=a"},
        "value": {"B": "AP8="},
        "version": {"N": "18"},
        "writer": {"S": "w"},
        "stamp": {"N": "17"},
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def test_an_item_is_a_record() -> None:
    written = read_item("session", orjson.dumps({"Item": item(expires_at={"N": "12.5"})}))
    assert written is not None
    assert written.record == Record(kind="session", key="a", value=b"\0\xff", version=18, expires_at=12.5)
    assert written.stamp == Stamp("w", 17)
    assert read_item("session", b"{}") is None


def test_a_page_says_where_it_goes_on() -> None:
    page: dict[str, object] = {"Items": [item(), item(key={"S": "=b"})]}
    records, after = read_page("session", orjson.dumps(page))
    assert ([record.key for record in records], after) == (["a", "b"], None)
    last = {"LastEvaluatedKey": {"kind": {"S": "p-/session"}, "key": {"S": "=b"}}}
    assert read_page("session", orjson.dumps(page | last))[1] == "b"


@pytest.mark.parametrize(
    "broken",
    [
        item(value=None),
        item(value={"S": "text"}),
        item(value={"B": "?"}),
        item(version=None),
        item(version={"N": "x"}),
        item(expires_at={"N": "x"}),
        item(key=None),
        item(writer=None),
        item(stamp={"N": ""}),
        item(value="text"),
        [],
        "text",
        5,
    ],
    ids=str,
)
def test_items_of_others_are_told(broken: object) -> None:
    with pytest.raises(StoreError, match=r"none of mqlift's"):
        read_item("session", orjson.dumps({"Item": broken}))
    with pytest.raises(StoreError, match=r"none of mqlift's"):
        read_page("session", orjson.dumps({"Items": [broken]}))


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"5", b'{"Items": 1}', b'{"Attributes": []}'], ids=str)
@pytest.mark.parametrize(
    "read", [lambda answer: read_page("session", answer), read_keys, read_version], ids=["page", "keys", "version"]
)
def test_answers_of_others_are_told(answer: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(StoreError, match=r"not DynamoDB's|none of mqlift's"):
        read(answer)


def test_what_was_deleted() -> None:
    assert read_existed(orjson.dumps({"Attributes": item()}))
    assert not read_existed(b"{}")
