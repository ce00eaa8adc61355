"""Both transports, over one port: against a scripted server and against the emulator."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import AsyncIterator
from email.utils import format_datetime
from pathlib import Path
from typing import Literal, TypeAlias

import orjson
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from adapters.aws import credentials
from adapters.aws.api import OUTCOMES, AwsClient
from adapters.aws.client import open_client
from adapters.aws.lean import PROTOCOLS, LeanClient
from adapters.aws.session import AwsSession
from adapters.aws.settings import AwsSettings
from gateway.core.errors import (
    AccessDenied,
    BackendError,
    ConfigError,
    CredentialsInvalid,
    Invalid,
    NotFound,
    Throttled,
    Unavailable,
)
from tests.adapters.aws.scripted_server import (
    HOST,
    Request,
    ScriptedServer,
    Step,
    answers,
    make_authority,
    sends,
    sends_and_closes,
    sends_and_resets,
    waits_for,
)
from tests.rig.processes import Ministack

Transport: TypeAlias = Literal["lean", "aiobotocore"]
Observed: TypeAlias = tuple[str, str, str]

QUEUE = "sqs queue orders"


class Calls(list[Observed]):
    """An observer that remembers."""

    def __call__(self, service: str, action: str, outcome: str, seconds: float) -> None:
        assert outcome in OUTCOMES
        assert seconds >= 0
        self.append((service, action, outcome))


@pytest.fixture(params=["lean", "aiobotocore"])
def transport(request: pytest.FixtureRequest) -> Transport:
    chosen: Transport = request.param
    return chosen


@contextlib.asynccontextmanager
async def opened(url: str, calls: Calls | None = None, **values: object) -> AsyncIterator[AwsClient]:
    settings = AwsSettings.model_validate({"region": "eu-west-1", "endpoint_url": url, **values})
    client = await open_client(settings, Calls() if calls is None else calls)
    try:
        yield client
    finally:
        await client.aclose()


def url(server: ScriptedServer) -> str:
    return f"http://{HOST}:{server.port}"


def refusal(code: str, status: int, *headers: str) -> Step:
    return answers(orjson.dumps({"__type": code, "message": "because"}), status, *headers)


# --- one call, whichever the transport


async def test_a_call(server: ScriptedServer, transport: Transport) -> None:
    server.steps.append(answers(b'{"QueueUrls":["a","b"]}', 200, "x-amzn-RequestId: 1"))
    calls = Calls()
    async with opened(url(server), calls, transport=transport) as client:
        answer = await client.call("sqs", "ListQueues", b'{"QueueNamePrefix":"orders"}', resource=QUEUE)
    assert orjson.loads(answer) == {"QueueUrls": ["a", "b"]}
    (request,) = server.requests
    assert orjson.loads(request.body) == {"QueueNamePrefix": "orders"}
    assert request.headers["x-amz-target"] == "AmazonSQS.ListQueues"
    assert request.headers["content-type"] == "application/x-amz-json-1.0"
    assert "/eu-west-1/sqs/aws4_request" in request.headers["authorization"]
    assert calls == [("sqs", "ListQueues", "accepted")]


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_an_empty_answer_is_an_empty_object(server: ScriptedServer, transport: Transport, body: bytes) -> None:
    server.steps.append(answers(body))
    async with opened(url(server), transport=transport) as client:
        assert await client.call("sqs", "DeleteQueue", b'{"QueueUrl":"q"}') == b"{}"


async def test_blobs_cross_both_transports_alike(server: ScriptedServer, transport: Transport) -> None:
    server.otherwise = answers(b'{"Records":[{"SequenceNumber":"1","ShardId":"s"}],"FailedRecordCount":0}')
    body = b'{"StreamName":"s","Records":[{"Data":"AAH/","PartitionKey":"k"}]}'
    async with opened(url(server), transport=transport) as client:
        answer = await client.call("kinesis", "PutRecords", body)
    assert orjson.loads(server.requests[0].body) == orjson.loads(body)
    assert orjson.loads(answer)["FailedRecordCount"] == 0


@pytest.mark.parametrize(
    ("code", "status", "expected", "outcome"),
    [
        ("com.amazonaws.sqs#QueueDoesNotExist", 400, NotFound, "not_found"),
        ("com.amazonaws.sqs#RequestThrottled", 403, Throttled, "throttled"),
        ("com.amazon.coral.service#AccessDeniedException", 400, AccessDenied, "access_denied"),
        ("com.amazon.coral.service#UnrecognizedClientException", 400, CredentialsInvalid, "credentials_invalid"),
        ("com.amazonaws.sqs#InvalidMessageContents", 400, Invalid, "invalid"),
        ("com.amazon.coral.service#InternalFailure", 500, Unavailable, "unavailable"),
        ("SomethingNew", 400, BackendError, "error"),
    ],
)
async def test_refusals(
    server: ScriptedServer, transport: Transport, code: str, status: int, expected: type[BackendError], outcome: str
) -> None:
    server.otherwise = refusal(code, status)
    calls = Calls()
    async with opened(url(server), calls, transport=transport) as client:
        with pytest.raises(BackendError, match="because") as raised:
            await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', resource=QUEUE)
    assert type(raised.value) is expected
    assert raised.value.resource == QUEUE
    assert raised.value.action == "sqs:ReceiveMessage"
    assert calls == [("sqs", "ReceiveMessage", outcome)]
    assert len(server.requests) == 1  # one attempt: retries are the hub's


async def test_codes_of_the_former_query_protocol(server: ScriptedServer, transport: Transport) -> None:
    header = "x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender"
    server.otherwise = answers(b"{}", 400, header)
    async with opened(url(server), transport=transport) as client:
        with pytest.raises(NotFound, match="NonExistentQueue"):
            await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}')


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b"<html><body>Service Unavailable</body></html>", Unavailable),
        (500, b"", Unavailable),
        (429, b"[]", Throttled),
        (413, b"null", Invalid),
    ],
)
async def test_answers_of_something_before_the_service(
    server: ScriptedServer, status: int, body: bytes, expected: type[BackendError]
) -> None:
    server.otherwise = answers(body, status)
    async with opened(url(server)) as client:
        with pytest.raises(expected, match=f"HTTP {status}"):
            await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}')


@pytest.mark.parametrize(
    "step",
    [
        sends_and_closes(),
        sends_and_resets(),
        sends_and_resets(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{"),
        sends(b"?"),
    ],
    ids=["closed", "reset", "broken off", "no HTTP"],
)
async def test_broken_connections_are_unavailable(server: ScriptedServer, transport: Transport, step: Step) -> None:
    server.steps.append(step)
    async with opened(url(server), transport=transport, read_timeout=1) as client:
        with pytest.raises(Unavailable) as raised:
            await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', resource=QUEUE)
        assert raised.value.resource == QUEUE
        assert await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}') == b"{}"


async def test_nobody_listens(unused_tcp_port: int, transport: Transport) -> None:
    async with opened(f"http://{HOST}:{unused_tcp_port}", transport=transport) as client:
        with pytest.raises(Unavailable):
            await client.call("sqs", "ListQueues", b"{}")


async def test_a_call_has_a_time_limit(server: ScriptedServer, transport: Transport) -> None:
    never = asyncio.Event()
    server.otherwise = waits_for(never, answers())
    async with opened(url(server), transport=transport, read_timeout=0.05) as client:
        for limit in (None, 0.1):
            with pytest.raises(Unavailable, match="in time"):
                await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', read_timeout=limit)


async def test_a_long_poll_may_take_longer(server: ScriptedServer, transport: Transport) -> None:
    go = asyncio.Event()
    server.otherwise = waits_for(go, answers())
    async with opened(url(server), transport=transport, read_timeout=0.05) as client:
        poll = asyncio.ensure_future(client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', read_timeout=20))
        await server.wait_for(lambda: len(server.requests) == 1)
        with pytest.raises(Unavailable):  # by now the usual limit has passed
            await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}')
        go.set()
        assert await poll == b"{}"


async def test_long_polls_stand_in_nobodys_way(server: ScriptedServer, transport: Transport) -> None:
    go = asyncio.Event()
    server.steps.append(waits_for(go, answers()))
    async with opened(url(server), transport=transport, max_connections=1) as client:
        poll = asyncio.ensure_future(client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', read_timeout=30))
        await server.wait_for(lambda: len(server.requests) == 1)
        assert await client.call("sqs", "DeleteMessageBatch", b'{"QueueUrl":"q","Entries":[]}') == b"{}"
        go.set()
        await poll


async def test_cancelling_a_call(server: ScriptedServer, transport: Transport) -> None:
    server.steps.append(waits_for(asyncio.Event(), answers()))
    calls = Calls()
    async with opened(url(server), calls, transport=transport, max_connections=1) as client:
        call = asyncio.ensure_future(client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}'))
        await server.wait_for(lambda: len(server.requests) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}') == b"{}"
    assert [outcome for _, _, outcome in calls] == ["cancelled", "accepted"]


async def test_a_closed_client(server: ScriptedServer, transport: Transport) -> None:
    server.otherwise = waits_for(asyncio.Event(), answers())
    async with opened(url(server), transport=transport) as client:
        call = asyncio.ensure_future(client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}'))
        await server.wait_for(lambda: len(server.requests) == 1)
        await client.aclose()
        with pytest.raises(Unavailable):
            await call
        for region in (None, "eu-north-1"):
            with pytest.raises(Unavailable):
                await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', region=region)


async def test_another_region(server: ScriptedServer, transport: Transport) -> None:
    async with opened(url(server), transport=transport) as client:
        await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', region="ap-south-1")
    assert "/ap-south-1/sqs/aws4_request" in server.requests[0].headers["authorization"]


async def test_services_of_the_query_protocol(server: ScriptedServer, transport: Transport) -> None:
    """SNS speaks form fields and XML; callers see JSON."""
    server.otherwise = answers(
        b'<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult>'
        b"<MessageId>m-1</MessageId></PublishResult></PublishResponse>"
    )
    calls = Calls()
    async with opened(url(server), calls, transport=transport) as client:
        answer = await client.call("sns", "Publish", b"TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A1%3At&Message=hello")
    assert orjson.loads(answer) == {"MessageId": "m-1"}
    assert b"Message=hello" in server.requests[0].body
    assert calls == [("sns", "Publish", "accepted")]


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NotFound", 404, NotFound),
        ("AuthorizationError", 403, AccessDenied),
        ("Throttling", 400, Throttled),
        ("InternalError", 500, Unavailable),
        ("InvalidParameter", 400, Invalid),
    ],
)
async def test_refusals_of_the_query_protocol(
    code: str, status: int, expected: type[BackendError], server: ScriptedServer, transport: Transport
) -> None:
    server.otherwise = answers(
        b'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
        b"<Code>%b</Code><Message>told</Message></Error></ErrorResponse>" % code.encode(),
        status,
    )
    async with opened(url(server), transport=transport) as client:
        with pytest.raises(expected, match=f"{code}: told"):
            await client.call("sns", "GetTopicAttributes", b"TopicArn=t")


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 200), (b"<PublishBatchResponse><Publish", 200), (b"<html>", 502), (b"", 503)]
)
async def test_what_is_no_answer_of_the_query_protocol(body: bytes, status: int, server: ScriptedServer) -> None:
    server.otherwise = answers(body, status)
    async with opened(url(server), transport="lean") as client:
        with pytest.raises(Unavailable):
            await client.call("sns", "GetTopicAttributes", b"TopicArn=t")


async def test_who_we_are(server: ScriptedServer, transport: Transport) -> None:
    server.otherwise = answers(
        b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
        b"<Arn>arn:aws:iam::111122223333:user/gateway</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>"
    )
    async with opened(url(server), transport=transport) as client:
        assert await client.caller() == "arn:aws:iam::111122223333:user/gateway"


async def test_who_we_are_not(server: ScriptedServer, transport: Transport) -> None:
    server.otherwise = answers(
        b'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        b"<Code>InvalidClientTokenId</Code><Message>The security token is invalid.</Message></Error></ErrorResponse>",
        403,
    )
    async with opened(url(server), transport=transport) as client:
        with pytest.raises(CredentialsInvalid, match="security token is invalid"):
            await client.caller()


async def test_parameters_that_botocore_refuses(server: ScriptedServer) -> None:
    async with opened(url(server), transport="aiobotocore") as client:
        with pytest.raises(Invalid, match="QueueUrl"):
            await client.call("sqs", "ReceiveMessage", b"{}", resource=QUEUE)


# --- credentials


async def test_without_credentials(
    server: ScriptedServer, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with opened(url(server), transport=transport) as client:
        with pytest.raises(CredentialsInvalid, match="no AWS credentials") as raised:
            await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}', resource=QUEUE)
    assert (raised.value.resource, raised.value.action) == (QUEUE, "sqs:ReceiveMessage")
    assert server.requests == []


async def test_mended_credentials_are_found_without_a_restart(
    server: ScriptedServer, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Keys that AWS refuses are looked up again: somebody may have corrected the file."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    shared = tmp_path / "aws-credentials"
    shared.write_text("[default]\naws_access_key_id = AKIDOLD\naws_secret_access_key = old\n")

    async def judge(request: Request, writer: asyncio.StreamWriter) -> None:
        old = "AKIDOLD" in request.headers["authorization"]
        step = refusal("ExpiredTokenException", 400) if old else answers()
        await step(request, writer)

    server.otherwise = judge
    async with opened(url(server), transport=transport) as client:
        with pytest.raises(CredentialsInvalid):
            await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}')
        shared.write_text("[default]\naws_access_key_id = AKIDNEW\naws_secret_access_key = new\n")
        assert await client.call("sqs", "ReceiveMessage", b'{"QueueUrl":"q"}') == b"{}"


async def test_session_tokens_are_sent(
    server: ScriptedServer, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-the-session")
    async with opened(url(server), transport=transport) as client:
        await client.call("sqs", "ListQueues", b"{}")
    assert server.requests[0].headers["x-amz-security-token"] == "token-of-the-session"
    assert "x-amz-security-token" in server.requests[0].headers["authorization"]


async def test_credentials_of_an_assumed_role_are_refreshed(
    server: ScriptedServer, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """STS, the profile's role and its refresh are aiobotocore's; both transports sign with what comes of it."""
    monkeypatch.setattr(credentials, "FRESH_FOR", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url(server))
    (tmp_path / "aws-credentials").write_text("[base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = base\n")
    (tmp_path / "aws-config").write_text(
        "[profile gateway]\nrole_arn = arn:aws:iam::111122223333:role/gateway\nsource_profile = base\n"
    )
    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    roles: list[str] = []

    async def aws(request: Request, writer: asyncio.StreamWriter) -> None:
        if b"Action=AssumeRole" not in request.body:
            await answers()(request, writer)
            return
        roles.append(request.headers["authorization"])
        secrets = f"<AccessKeyId>AKIDROLE</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>t{len(roles)}"
        result = (
            f"<Credentials>{secrets}</SessionToken><Expiration>{expiry:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
        )
        body = f"<AssumeRoleResponse><AssumeRoleResult>{result}</AssumeRoleResult></AssumeRoleResponse>"
        await answers(body.encode())(request, writer)

    server.otherwise = aws
    async with opened(url(server), transport=transport, profile="gateway") as client:
        for _ in range(2):
            await client.call("sqs", "ListQueues", b"{}")
    assert all("AKIDBASE" in role and "/eu-west-1/sts/" in role for role in roles)
    calls = [each for each in server.requests if "x-amz-target" in each.headers]
    assert all("AKIDROLE" in each.headers["authorization"] for each in calls)
    first, second = (each.headers["x-amz-security-token"] for each in calls)
    assert first != second


# --- the clock


@pytest.mark.parametrize("skew", [-7200.0, 3600.0])
async def test_a_wrong_clock_is_corrected(server: ScriptedServer, skew: float) -> None:
    """The server accepts signatures of its own time only, as AWS does."""
    aws_time = time.time() + skew

    async def judge(request: Request, writer: asyncio.StreamWriter) -> None:
        signed = datetime.datetime.fromisoformat(request.headers["x-amz-date"]).timestamp()
        right = abs(signed - aws_time) < 300
        date = f"Date: {format_datetime(datetime.datetime.fromtimestamp(aws_time, datetime.UTC), usegmt=True)}"
        step = answers() if right else refusal("com.amazon.coral.service#InvalidSignatureException", 400, date)
        await step(request, writer)

    server.otherwise = judge
    calls = Calls()
    async with opened(url(server), calls) as client:
        await asyncio.gather(*(client.call("sqs", "ListQueues", b"{}") for _ in range(3)))
        assert len(server.requests) == 6
        await client.call("sqs", "ListQueues", b"{}")
    assert len(server.requests) == 7  # the correction was kept
    assert calls == [("sqs", "ListQueues", "accepted")] * 4


@pytest.mark.parametrize("headers", [(), ("Date: nonsense",), ("Date: Sun, 22 Nov 2026 22:22:22 GMT",)])
async def test_a_signature_that_is_wrong_for_other_reasons(server: ScriptedServer, headers: tuple[str, ...]) -> None:
    server.otherwise = refusal("SignatureDoesNotMatch", 403, *headers)
    settings = AwsSettings(region="eu-west-1", endpoint_url=url(server))
    now = datetime.datetime(2026, 11, 22, 22, 24, 0, tzinfo=datetime.UTC).timestamp()
    client = LeanClient(AwsSession(settings), Calls(), clock=lambda: now)
    with pytest.raises(CredentialsInvalid, match="SignatureDoesNotMatch"):
        await client.call("sqs", "ListQueues", b"{}")
    await client.aclose()
    assert len(server.requests) == 1


async def test_a_clock_that_cannot_be_corrected(server: ScriptedServer) -> None:
    """The request is signed again once, not for ever."""
    server.otherwise = refusal("SignatureDoesNotMatch", 403, "Date: Thu, 01 Jan 2015 00:00:00 GMT")
    async with opened(url(server)) as client:
        with pytest.raises(CredentialsInvalid):
            await client.call("sqs", "ListQueues", b"{}")
    assert len(server.requests) == 2


# --- opening


async def test_no_region(transport: Transport) -> None:
    with pytest.raises(ConfigError, match=r"aws\.region: no region is known; set aws\.region, AWS_REGION"):
        await open_client(AwsSettings(transport=transport))


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
async def test_the_region_of_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "sa-east-1")
    client = await open_client(AwsSettings())
    assert client.region == "sa-east-1"
    await client.aclose()


async def test_the_region_of_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in all AWS SDKs, the environment comes before the profile."""
    (tmp_path / "aws-config").write_text("[profile gateway]\nregion = ca-central-1\n")
    for expected in ("ca-central-1", "sa-east-1"):
        client = await open_client(AwsSettings(profile="gateway"))
        assert client.region == expected
        await client.aclose()
        monkeypatch.setenv("AWS_REGION", "sa-east-1")


async def test_an_unknown_profile(transport: Transport) -> None:
    with pytest.raises(ConfigError, match=r"aws\.profile.*nobody"):
        await open_client(AwsSettings(profile="nobody", region="eu-west-1", transport=transport))


async def test_a_bad_region() -> None:
    with pytest.raises(ConfigError, match=r"check aws\.region"):
        await open_client(AwsSettings(region="eu west"))


async def test_a_missing_ca_bundle(tmp_path: Path, transport: Transport) -> None:
    with pytest.raises(ConfigError, match=r"aws\.ca_bundle: .*nowhere\.pem is not a file"):
        await open_client(AwsSettings(region="eu-west-1", ca_bundle=tmp_path / "nowhere.pem", transport=transport))


async def test_a_ca_bundle_without_certificates(tmp_path: Path) -> None:
    bundle = tmp_path / "empty.pem"
    bundle.write_text("nothing")
    with pytest.raises(ConfigError, match=r"aws\.ca_bundle: .*cannot be used"):
        await open_client(AwsSettings(region="eu-west-1", ca_bundle=bundle))


async def test_a_proxy_needs_the_other_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    expected = (
        "aws.transport: lean does not go through the proxy in HTTPS_PROXY; "
        "set aws.transport: aiobotocore or add sqs.eu-west-1.amazonaws.com to NO_PROXY"
    )
    with pytest.raises(ConfigError) as raised:
        await open_client(AwsSettings(region="eu-west-1"))
    assert str(raised.value) == expected
    monkeypatch.setenv("NO_PROXY", "sqs.eu-west-1.amazonaws.com")
    client = await open_client(AwsSettings(region="eu-west-1"))
    with pytest.raises(BackendError, match="proxy in HTTPS_PROXY"):  # an endpoint that was not known at the start
        await client.call("sqs", "ListQueues", b"{}", region="eu-north-1")
    await client.aclose()


async def test_the_proxy_is_used_by_the_other_transport(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", url(server))
    async with opened("http://sqs.example", transport="aiobotocore") as client:
        assert await client.call("sqs", "ListQueues", b"{}") == b"{}"
    assert server.requests[0].line.startswith("POST http://sqs.example/")


async def test_tls_through_the_client(tmp_path: Path, transport: Transport) -> None:
    authority = make_authority(tmp_path, HOST)
    server = ScriptedServer(answers())
    async with server.running(authority.server):
        secure = f"https://{HOST}:{server.port}"
        async with opened(secure, transport=transport, ca_bundle=str(authority.ca_file)) as client:
            assert await client.call("sqs", "ListQueues", b"{}") == b"{}"
        async with opened(secure, transport=transport) as client:
            with pytest.raises(Unavailable, match=r"(?i)certificate"):
                await client.call("sqs", "ListQueues", b"{}")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("region", "variables", "expected"),
    [
        ("eu-west-1", {}, "sqs.eu-west-1.amazonaws.com"),
        ("cn-north-1", {}, "sqs.cn-north-1.amazonaws.com.cn"),
        ("us-east-1", {"AWS_USE_FIPS_ENDPOINT": "true"}, "sqs-fips.us-east-1.amazonaws.com"),
        ("us-west-2", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "sqs.us-west-2.api.aws"),
        ("us-west-2", {"AWS_ENDPOINT_URL": "http://localhost:4566"}, "localhost:4566"),
        ("us-west-2", {"AWS_ENDPOINT_URL_SQS": "http://localhost:9324/base"}, "localhost:9324"),
    ],
)
async def test_endpoints_are_botocores(
    region: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    endpoint = await AwsSession(AwsSettings(region=region)).endpoint("sqs", region)
    assert (endpoint.authority, endpoint.region) == (expected, region)


async def test_the_table_of_protocols_is_botocores() -> None:
    session = AwsSession(AwsSettings(region="eu-west-1"))
    for service, known in PROTOCOLS.items():
        async with session.client(service, "eu-west-1") as client:
            metadata = client.meta.service_model.metadata  # type: ignore[attr-defined]
        if metadata["protocol"] == "query":
            assert known[:3] == ("application/x-www-form-urlencoded; charset=utf-8", "", metadata["apiVersion"])
        else:
            assert metadata["protocol"] == "json"
            assert known[:3] == (f"application/x-amz-json-{metadata['jsonVersion']}", metadata["targetPrefix"], "")


async def test_the_signature_on_the_wire_is_botocores(server: ScriptedServer) -> None:
    """As the server sees it, with the headers and the path that it got."""
    body = '{"MessageBody":"größer ☃"}'.encode()
    async with opened(f"{url(server)}/base//path") as client:
        await client.call("sqs", "SendMessage", body)
    (request,) = server.requests
    signed = request.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    oracle = AWSRequest(method="POST", url=f"{url(server)}/base//path", data=request.body)
    for name in signed:
        if name != "host":
            oracle.headers[name] = request.headers[name]
    oracle.context["timestamp"] = request.headers["x-amz-date"]
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", "test-secret"), "sqs", "eu-west-1")
    canonical = signer.canonical_request(oracle)
    signature = signer.signature(signer.string_to_sign(oracle, canonical), oracle)
    assert request.headers["authorization"].endswith(f"Signature={signature}")
    assert request.line == "POST /base//path HTTP/1.1"
    assert request.body == body


# --- the emulator


async def test_the_emulator(ministack: Ministack, queue_name: str, transport: Transport) -> None:
    async with opened(ministack.url, transport=transport) as client:
        created = orjson.loads(await client.call("sqs", "CreateQueue", orjson.dumps({"QueueName": queue_name})))
        listed = orjson.loads(await client.call("sqs", "ListQueues", orjson.dumps({"QueueNamePrefix": queue_name})))
        assert listed["QueueUrls"] == [created["QueueUrl"]]
        entries = [{"Id": str(number), "MessageBody": f"größer ☃ {number}"} for number in range(10)]
        batch = orjson.dumps({"QueueUrl": created["QueueUrl"], "Entries": entries})
        sent = orjson.loads(await client.call("sqs", "SendMessageBatch", batch))
        assert [entry["Id"] for entry in sent["Successful"]] == [entry["Id"] for entry in entries]
        receive = orjson.dumps({"QueueUrl": created["QueueUrl"], "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1})
        received = orjson.loads(await client.call("sqs", "ReceiveMessage", receive, read_timeout=30))
        assert {message["Body"] for message in received["Messages"]} <= {entry["MessageBody"] for entry in entries}
        assert (await client.caller()).startswith("arn:aws:")


async def test_a_queue_that_the_emulator_does_not_have(ministack: Ministack, transport: Transport) -> None:
    async with opened(ministack.url, transport=transport) as client:
        with pytest.raises(NotFound):
            await client.call("sqs", "GetQueueUrl", b'{"QueueName":"nowhere"}')
