"""JSON and botocore's Python values, by botocore's own service models."""

from __future__ import annotations

import base64
import datetime
import json

import pytest
from aiobotocore.session import AioSession
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.aws.session import OperationModel, ServiceModel
from adapters.aws.shapes import Shape, to_json, to_python

BINARY = b"\x00\x01\xff"
"""`AAH/` in base64."""


async def operation(service: str, action: str) -> OperationModel:
    model: ServiceModel = await AioSession().get_service_model(service)
    return model.operation_model(action)


async def input_shape(service: str, action: str) -> Shape:
    shape = (await operation(service, action)).input_shape
    assert shape is not None
    return shape


@pytest.fixture
async def put_records() -> OperationModel:
    return await operation("kinesis", "PutRecords")


def test_blobs_in_lists(put_records: OperationModel) -> None:
    assert put_records.input_shape is not None
    given_json = {
        "StreamName": "s",
        "Records": [{"Data": "AAH/", "PartitionKey": "k"}, {"Data": "", "PartitionKey": ""}],
    }
    python = {
        "StreamName": "s",
        "Records": [{"Data": BINARY, "PartitionKey": "k"}, {"Data": b"", "PartitionKey": ""}],
    }
    assert to_python(put_records.input_shape, given_json) == python
    assert to_json(put_records.input_shape, python) == given_json


async def test_blobs_in_maps() -> None:
    shape = await input_shape("sqs", "SendMessage")
    given_json = {
        "MessageBody": "x",
        "MessageAttributes": {"a": {"DataType": "Binary", "BinaryValue": "AAH/"}, "b": {"StringValue": "AAH/"}},
    }
    python = {
        "MessageBody": "x",
        "MessageAttributes": {
            "a": {"DataType": "Binary", "BinaryValue": b"\x00\x01\xff"},
            "b": {"StringValue": "AAH/"},
        },
    }
    assert to_python(shape, given_json) == python
    assert to_json(shape, python) == given_json


async def test_recursive_shapes() -> None:
    """DynamoDB's AttributeValue contains itself."""
    shape = await input_shape("dynamodb", "PutItem")
    given_json = {
        "TableName": "t",
        "Item": {"a": {"L": [{"B": "AAH/"}, {"M": {"x": {"BS": ["AAH/"]}}}, {"S": "AAH/"}]}},
    }
    binary = b"\x00\x01\xff"
    python = {"TableName": "t", "Item": {"a": {"L": [{"B": binary}, {"M": {"x": {"BS": [binary]}}}, {"S": "AAH/"}]}}}
    assert to_python(shape, given_json) == python
    assert to_json(shape, python) == given_json


async def test_timestamps_become_seconds() -> None:
    shape = (await operation("kinesis", "GetRecords")).output_shape
    assert shape is not None
    arrived = datetime.datetime(2026, 11, 22, 12, 0, 0, 250_000, datetime.UTC)
    answer = {"Records": [{"Data": b"x", "ApproximateArrivalTimestamp": arrived}], "MillisBehindLatest": 5}
    expected = [{"Data": "eA==", "ApproximateArrivalTimestamp": 1_795_348_800.25}]
    assert to_json(shape, answer) == {"Records": expected, "MillisBehindLatest": 5}


def test_unknown_members_are_left_to_botocore(put_records: OperationModel) -> None:
    assert put_records.input_shape is not None
    assert to_python(put_records.input_shape, {"Surprise": "AAH/", "Records": "no list"}) == {
        "Surprise": "AAH/",
        "Records": "no list",
    }


def test_bad_base64(put_records: OperationModel) -> None:
    assert put_records.input_shape is not None
    with pytest.raises(ValueError, match=r"base64|padding"):
        to_python(put_records.input_shape, {"Records": [{"Data": "%%%"}]})


record = st.fixed_dictionaries({"Data": st.binary(max_size=40), "PartitionKey": st.text(min_size=1, max_size=5)})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(record, min_size=1, max_size=4))
def test_agrees_with_botocore(put_records: OperationModel, records: list[dict[str, object]]) -> None:
    """Our JSON of a request is the one that botocore's serializer makes, and parses back to the same values."""
    assert put_records.input_shape is not None
    python = {"StreamName": "s", "Records": records}
    body = create_serializer("json").serialize_to_request(python, put_records)["body"]
    assert to_json(put_records.input_shape, python) == json.loads(body)
    assert to_python(put_records.input_shape, json.loads(body)) == python


async def test_answers_agree_with_botocore() -> None:
    shape = (await operation("kinesis", "GetRecords")).output_shape
    assert shape is not None
    data = base64.b64encode(bytes(range(256))).decode()
    answer = {"Records": [{"Data": data, "SequenceNumber": "1", "ApproximateArrivalTimestamp": 1_795_348_800.5}]}
    response = {"status_code": 200, "headers": {}, "body": json.dumps(answer).encode()}
    parsed = create_parser("json").parse(response, shape)
    parsed.pop("ResponseMetadata")
    assert to_json(shape, parsed) == answer
