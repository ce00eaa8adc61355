"""The table: created, waited for, and refused when it is another one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import orjson
import pytest

from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from adapters.dynamodb.calls import Calls
from adapters.dynamodb.items import table_request
from adapters.dynamodb.store import open_store, probe
from adapters.dynamodb.table import CREATION_SECONDS, find_or_create
from gateway.core.errors import AccessDenied, BackendError, ConfigError, CredentialsInvalid, NotFound, Unavailable
from gateway.core.store import StoreError
from tests.rig.clock import on_clock
from tests.rig.processes import AWS_ENVIRONMENT, Ministack, free_port
from tests.rig.scripted_aws import ScriptedAws

MISSING = NotFound("ResourceNotFoundException: no")


def description(status: str = "ACTIVE", index_status: str = "ACTIVE", **changes: object) -> dict[str, object]:
    document: dict[str, object] = orjson.loads(table_request("state")) | {"TableStatus": status}
    indexes = document["GlobalSecondaryIndexes"]
    assert isinstance(indexes, list)
    indexes[0]["IndexStatus"] = index_status
    return document | changes


def scripted(*answers: object) -> tuple[ScriptedAws, Calls]:
    """`DescribeTable` answers these, one after the other."""
    aws = ScriptedAws("dynamodb")
    left = list(answers)
    aws.answers["DescribeTable"] = lambda _: left.pop(0) if len(left) > 1 else left[0]
    aws.answers["CreateTable"] = {"TableDescription": description("CREATING", "CREATING")}
    return aws, Calls(aws, "state", 15.0)  # type: ignore[arg-type]  # no objects are stored


def table(document: Mapping[str, object]) -> object:
    return {"Table": document}


@on_clock
async def test_a_table_that_is_there_is_used() -> None:
    aws, calls = scripted(table(description()))
    await find_or_create(calls, "never")
    assert aws.actions() == ["DescribeTable"]


@on_clock
async def test_a_missing_table_is_created_and_waited_for() -> None:
    aws, calls = scripted(
        MISSING, MISSING, table(description("CREATING", "CREATING")), table(description("ACTIVE", "CREATING")),
        table(description()),
    )  # fmt: skip
    await find_or_create(calls, "auto")
    assert aws.actions() == ["DescribeTable", "CreateTable", *["DescribeTable"] * 4]
    assert aws.calls[1].request["BillingMode"] == "PAY_PER_REQUEST"


@on_clock
async def test_a_table_that_another_gateway_creates_now_is_used() -> None:
    aws, calls = scripted(MISSING, table(description("CREATING", "CREATING")), table(description()))
    aws.answers["CreateTable"] = BackendError("ResourceInUseException: Table already exists: state")
    await find_or_create(calls, "auto")


@on_clock
async def test_a_table_that_does_not_come_is_an_error_in_time() -> None:
    _, calls = scripted(MISSING, table(description("CREATING")))
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreError, match="not usable 60 s after"):
        await find_or_create(calls, "auto")
    assert asyncio.get_running_loop().time() - began == pytest.approx(CREATION_SECONDS, abs=1.0)


OTHER_KEYS = [{"AttributeName": "id", "KeyType": "HASH"}]
OTHER_TYPES = [{"AttributeName": name, "AttributeType": "S"} for name in ("kind", "key", "expires_at")]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            description(KeySchema=OTHER_KEYS),
            "state: the DynamoDB table state is not one of mqlift's",
        ),
        (description(AttributeDefinitions=OTHER_TYPES), "has no index expiry"),
        (description(AttributeDefinitions=[]), "it has other keys; another table"),
        (description(GlobalSecondaryIndexes=[]), "has no index expiry of kind and expires_at; add it as docs"),
        (description(GlobalSecondaryIndexes=None), "has no index expiry"),
        (description(GlobalSecondaryIndexes=[{"IndexName": "expiry", "KeySchema": OTHER_KEYS}]), "has no index expiry"),
        (description("ARCHIVED"), "is archived; a table that can be used"),
        (description("DELETING"), "is deleting; a table that can be used"),
    ],
)
@on_clock
async def test_another_table_is_a_mistake(document: Mapping[str, object], told: str) -> None:
    aws, calls = scripted(table(document))
    with pytest.raises(ConfigError) as refused:
        await find_or_create(calls, "auto")
    assert told in str(refused.value)
    assert aws.actions() == ["DescribeTable"]


@on_clock
async def test_a_missing_table_is_a_mistake_where_none_is_created() -> None:
    _, calls = scripted(MISSING)
    with pytest.raises(ConfigError) as refused:
        await find_or_create(calls, "never")
    assert str(refused.value) == (
        "state: there is no DynamoDB table state in us-east-1; create it as docs/operations.md says, "
        "or set provision: auto"
    )


@pytest.mark.parametrize("action", ["DescribeTable", "CreateTable"])
@on_clock
async def test_a_missing_permission_is_named(action: str) -> None:
    aws, calls = scripted(MISSING)
    aws.answers[action] = AccessDenied("no", resource="dynamodb table state", action=f"dynamodb:{action}")
    with pytest.raises(ConfigError) as refused:
        await find_or_create(calls, "auto")
    assert str(refused.value) == (
        f"state: dynamodb table state (dynamodb:{action}): no; grant dynamodb:{action}, as mqlift iam-policy prints"
    )


@pytest.mark.parametrize("error", [Unavailable("no connection"), CredentialsInvalid("expired")], ids=repr)
@on_clock
async def test_what_is_no_mistake_of_the_table_is_told_as_it_is(error: BackendError) -> None:
    _, calls = scripted(error)
    with pytest.raises(StoreError, match=error.problem):
        await find_or_create(calls, "auto")


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}"])
@on_clock
async def test_what_is_not_dynamodb_is_told(answer: bytes) -> None:
    _, calls = scripted(answer)
    with pytest.raises(StoreError, match="not DynamoDB's"):
        await find_or_create(calls, "auto")


# --- with the emulator


@pytest.fixture
def aws_settings(ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> AwsSettings:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return AwsSettings(region="us-east-1", endpoint_url=ministack.url)


async def test_many_gateways_start_at_once(aws_settings: AwsSettings, queue_name: str) -> None:
    clients = [await open_client(aws_settings) for _ in range(4)]
    assert not await probe(clients[0], queue_name, provision="auto", read_timeout=15.0)
    stores = await asyncio.gather(
        *(open_store(aws, queue_name, prefix="", provision="auto", read_timeout=15.0) for aws in clients)
    )
    await stores[0].put("queue", "q", b"1")
    assert [await store.get("queue", "q") for store in stores] == [await stores[0].get("queue", "q")] * 4
    assert await probe(clients[0], queue_name, provision="never", read_timeout=15.0)
    for store, aws in zip(stores, clients, strict=True):
        await store.aclose()
        await aws.aclose()


async def test_nobody_answers(aws_settings: AwsSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.dynamodb.calls.PATIENCE", 0.3)
    nobody = aws_settings.model_copy(update={"endpoint_url": f"http://127.0.0.1:{free_port()}"})
    aws = await open_client(nobody)
    with pytest.raises(StoreError, match="no connection"):
        await open_store(aws, "state", prefix="", provision="auto", read_timeout=15.0)
    await aws.aclose()
