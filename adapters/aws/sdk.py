"""The aiobotocore transport: for services without a JSON protocol, for HTTP proxies, and for doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import orjson
from botocore import xform_name

from adapters.aws.api import ObjectStore, Observer
from adapters.aws.objects import S3Objects
from adapters.aws.observed import observed
from adapters.aws.s3client import S3Client
from adapters.aws.sdkevents import SdkEvents
from adapters.aws.session import AwsSession, SdkServiceClient
from adapters.aws.shapes import from_form, to_json, to_python
from adapters.aws.translated import translated
from gateway.core.budget import ByteBudget
from gateway.core.errors import CredentialsInvalid, Unavailable


class SdkClient:
    """`AwsClient` over aiobotocore. Long polls have a client, and so connections, of their own."""

    def __init__(self, session: AwsSession, observe: Observer, budget: ByteBudget | None = None) -> None:
        """`budget`: memory for what is read from S3; one of its own where nobody else needs any."""
        self.region = session.region
        self._session = session
        self._observe = observe
        self._clients: dict[tuple[str, str, bool], SdkServiceClient] = {}
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()
        self._closed = False
        self.objects: ObjectStore = S3Objects(self._s3, session.settings.read_timeout, observe, budget)

    async def call(
        self,
        service: str,
        action: str,
        body: bytes,
        *,
        resource: str = "",
        region: str | None = None,
        read_timeout: float | None = None,
    ) -> bytes:
        """As `AwsClient.call`."""
        attempt = self.attempt(service, action, body, resource, region or self.region, read_timeout)
        return await observed(self._observe, service, action, attempt)

    async def attempt(
        self, service: str, action: str, body: bytes, resource: str, region: str, read_timeout: float | None
    ) -> bytes:
        """Make a call without counting it."""
        usual = self._session.settings.read_timeout
        limit = usual if read_timeout is None else read_timeout
        answered = self._answered(service, action, body, resource, region, limit, polls=limit > usual)
        client, answer = await answered
        model = client.meta.service_model.operation_model(action)
        return orjson.dumps(answer if model.output_shape is None else to_json(model.output_shape, answer))

    async def _answered(
        self, service: str, action: str, body: bytes, resource: str, region: str, limit: float, *, polls: bool
    ) -> tuple[SdkServiceClient, dict[str, object]]:
        """Who was asked, and the answer in Python's values. `limit`: seconds."""
        try:
            with translated(service, action, resource):
                client = await self._client(service, region, polls)
                async with asyncio.timeout(limit):
                    return client, await _invoke(client, action, body)
        except CredentialsInvalid:
            keys = self._session.credentials.current()
            if keys is not None:
                self._session.credentials.refused(keys)
            raise

    @asynccontextmanager
    async def events(
        self, service: str, action: str, body: bytes, *, silence: float, resource: str = "", region: str | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """As `AwsClient.events`."""
        limit = self._session.settings.read_timeout
        # Connections of long polls: those of a service that has none.
        attempt = self._answered(service, action, body, resource, region or self.region, limit, polls=True)
        client, answer = await observed(self._observe, service, action, attempt)
        model = client.meta.service_model.operation_model(action)
        events = SdkEvents(service, action, resource, model, answer, silence)
        try:
            yield events
        finally:
            events.close()

    async def caller(self) -> str:
        """As `AwsClient.caller`."""
        answer = await self.call("sts", "GetCallerIdentity", b"", resource="the credentials")
        return str(orjson.loads(answer)["Arn"])

    async def aclose(self) -> None:
        """As `AwsClient.aclose`."""
        async with self._opening:  # what is being opened is there, to be closed
            self._closed = True
            self._clients.clear()
            await self._open.aclose()

    async def _s3(self) -> S3Client:
        return cast("S3Client", await self._client("s3", self.region, polls=False))

    async def _client(self, service: str, region: str, polls: bool) -> SdkServiceClient:
        key = (service, region, polls)
        client = self._clients.get(key)
        if client is not None:
            return client
        async with self._opening:
            if self._closed:
                raise Unavailable("the client is closed")
            if key not in self._clients:
                self._clients[key] = await self._open.enter_async_context(self._session.client(service, region))
            return self._clients[key]


async def _invoke(client: SdkServiceClient, action: str, body: bytes) -> dict[str, object]:
    service = client.meta.service_model
    model = service.operation_model(action)
    parameters: object
    if service.metadata["protocol"] == "query":
        parameters = {} if model.input_shape is None else from_form(model.input_shape, body)
    else:
        parameters = orjson.loads(body)
        if model.input_shape is not None:
            parameters = to_python(model.input_shape, parameters)
    method: Callable[..., Awaitable[dict[str, object]]] = getattr(client, xform_name(action))
    answer = await method(**cast("dict[str, object]", parameters))
    answer.pop("ResponseMetadata", None)
    return answer
