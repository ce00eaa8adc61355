"""The lean transport: our own signature and connections for the services that are called for each message.

It makes a call in a small part of the processor time that aiobotocore takes (docs/performance.md). Everything that
differs from one AWS setup to another (credentials, endpoints, certificates) still comes from aiobotocore.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import structlog

from adapters.aws import query
from adapters.aws.api import ObjectStore, Observer
from adapters.aws.endpoint import Endpoint
from adapters.aws.errors import classify, fault_text, read_fault, short_code
from adapters.aws.http import Answer, ExchangeFailed
from adapters.aws.leanevents import LeanEvents
from adapters.aws.observed import observed
from adapters.aws.pool import Pool
from adapters.aws.sdk import SdkClient
from adapters.aws.session import AwsSession
from adapters.aws.sigv4 import Keys, Signer
from adapters.aws.translated import translated
from gateway.core.budget import ByteBudget
from gateway.core.errors import BackendError, ConfigError, CredentialsInvalid, Unavailable

SKEW_LIMIT: Final = 240.0
"""Seconds between AWS's clock and ours that are taken for the reason of a refused signature: AWS allows 300."""

_SKEW_CODES = frozenset(
    {
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)

log = structlog.get_logger(__name__)


class Protocol(NamedTuple):
    """How a service speaks: AWS's JSON protocol, or the query protocol where there is a `version`.

    `repeats`: whether a request may be sent twice without who makes the call being told (`Pool`).
    """

    content_type: str
    target_prefix: str = ""
    version: str = ""
    repeats: bool = True


PROTOCOLS = {
    "dynamodb": Protocol("application/x-amz-json-1.0", "DynamoDB_20120810", repeats=False),
    "firehose": Protocol("application/x-amz-json-1.1", "Firehose_20150804"),
    "kinesis": Protocol("application/x-amz-json-1.1", "Kinesis_20131202"),
    "sns": Protocol(query.CONTENT_TYPE, version="2010-03-31"),
    "sqs": Protocol("application/x-amz-json-1.0", "AmazonSQS"),
}
"""From the `metadata` of botocore's service models. Other services go through aiobotocore."""


class Route:
    """One service in one region: who signs, and which connections are used. Long polls have their own ones."""

    __slots__ = ("polls", "pool", "protocol", "signer")

    def __init__(self, protocol: Protocol, signer: Signer, pool: Pool, polls: Pool) -> None:
        self.protocol = protocol
        self.signer = signer
        self.pool = pool
        self.polls = polls

    def request(self, action: str, body: bytes, keys: Keys, now: float) -> bytes:
        """A whole request, signed for this time."""
        protocol = self.protocol
        if protocol.version:
            body = b"Action=%b&Version=%b&%b" % (action.encode(), protocol.version.encode(), body)
            return self.signer.head(keys, b"", body, now) + body
        return self.signer.head(keys, f"{protocol.target_prefix}.{action}".encode(), body, now) + body

    def result(self, answer: Answer) -> bytes:
        """What a 2xx answer says, as JSON."""
        if self.protocol.version:
            return query.to_json(answer.body)
        return answer.body or b"{}"

    def fault(self, answer: Answer) -> tuple[str, str]:
        """Code and message of an error answer, empty where it does not say (a load balancer's HTML, say)."""
        if not self.protocol.version:
            return _json_fault(answer)
        try:
            return query.fault(answer.body)
        except ValueError:
            return "", ""


Exchange: TypeAlias = Callable[[Route, bytes], Awaitable[Answer]]
"""Sends a signed request, and waits for its answer."""


class LeanClient:
    """`AwsClient` with our own HTTP. Services that are not among `PROTOCOLS` are called through aiobotocore."""

    def __init__(
        self,
        session: AwsSession,
        observe: Observer,
        budget: ByteBudget | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`budget` as of `SdkClient`. `clock` is the time of day, in seconds since 1970."""
        self.region = session.region
        self._session = session
        self._observe = observe
        self._clock = clock
        self._clock_offset = 0.0
        self._credentials = session.credentials
        self._read_timeout = session.settings.read_timeout
        self._routes: dict[tuple[str, str], Route] = {}
        self._opening = asyncio.Lock()
        self._tls: ssl.SSLContext | None = None
        self._sdk = SdkClient(session, observe, budget)
        self.objects: ObjectStore = self._sdk.objects
        self._events: set[LeanEvents] = set()
        self._closed = False

    async def open(self, services: Iterable[str]) -> None:
        """Resolve the endpoints of these services in our region. Raises `ConfigError`."""
        for service in services:
            if service in PROTOCOLS:
                await self._open_route(service, self.region)

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
        where = region or self.region
        if service in PROTOCOLS:
            attempt = self._attempt(service, action, body, resource, where, read_timeout)
        else:
            attempt = self._sdk.attempt(service, action, body, resource, where, read_timeout)
        return await observed(self._observe, service, action, attempt)

    @asynccontextmanager
    async def events(
        self, service: str, action: str, body: bytes, *, silence: float, resource: str = "", region: str | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """As `AwsClient.events`."""
        if self._closed:
            raise Unavailable("the client is closed", resource=resource)
        limit = self._session.settings.max_connections
        if len(self._events) >= limit:
            raise Unavailable(f"all {limit} connections for events are busy", resource=resource)
        events = LeanEvents(service, action, resource, timeout=self._read_timeout, silence=silence)
        self._events.add(events)

        def exchange(route: Route, request: bytes) -> Awaitable[Answer]:
            return events.exchange(route.pool, request)

        try:
            attempt = self._answered(service, action, body, resource, region or self.region, exchange)
            await observed(self._observe, service, action, attempt)
            yield events
        finally:
            self._events.discard(events)
            events.close()

    async def caller(self) -> str:
        """As `AwsClient.caller`."""
        return await self._sdk.caller()

    async def aclose(self) -> None:
        """As `AwsClient.aclose`."""
        async with self._opening:  # what is being opened is there, to be closed
            self._closed = True
        for events in self._events:
            events.close()
        for route in self._routes.values():
            await route.pool.aclose()
            await route.polls.aclose()
        await self._sdk.aclose()

    # --- one call

    async def _attempt(
        self, service: str, action: str, body: bytes, resource: str, region: str, read_timeout: float | None
    ) -> bytes:
        def exchange(route: Route, request: bytes) -> Awaitable[Answer]:
            if read_timeout is None:
                return route.pool.exchange(request, self._read_timeout)
            pool = route.polls if read_timeout > self._read_timeout else route.pool
            return pool.exchange(request, read_timeout)

        route, answer = await self._answered(service, action, body, resource, region, exchange)
        return _read(route, answer, service, action, resource)

    async def _answered(
        self, service: str, action: str, body: bytes, resource: str, region: str, exchange: Exchange
    ) -> tuple[Route, Answer]:
        """The answer of a call that was carried out, and where it went. Raises `BackendError` for any other."""
        try:
            route = self._routes.get((service, region)) or await self._late_route(service, action, region)
            keys = self._credentials.current() or await self._credentials.load()
            offset = self._clock_offset
            answer = await exchange(route, route.request(action, body, keys, self._clock() + offset))
            if answer.status >= 300 and self._corrects_clock(route, answer, offset):
                answer = await exchange(route, route.request(action, body, keys, self._clock() + self._clock_offset))
        except ExchangeFailed as error:
            raise Unavailable(str(error), resource=resource, action=f"{service}:{action}") from error
        except BackendError as error:
            raise type(error)(error.problem, resource=resource, action=f"{service}:{action}") from error
        if answer.status < 300:
            return route, answer
        code, message = route.fault(answer)
        refusal = classify(service, action, code, message, resource, status=answer.status)
        if isinstance(refusal, CredentialsInvalid):
            self._credentials.refused(keys)
        raise refusal

    def _corrects_clock(self, route: Route, answer: Answer, used: float) -> bool:
        """Take over AWS's time when a signature was refused for ours; `used` is the offset that it was made with.

        False: the clock is not the reason.
        """
        code = short_code(route.fault(answer)[0])
        date = _date(answer)
        if code not in _SKEW_CODES or date is None:
            return False
        offset = date - self._clock()
        if abs(offset - used) < SKEW_LIMIT:
            return False
        if used == self._clock_offset:  # no other request has corrected it meanwhile
            log.warning("aws_clock_skew", seconds=round(offset), code=code)
            self._clock_offset = offset
        return True

    # --- endpoints

    async def _late_route(self, service: str, action: str, region: str) -> Route:
        """Open a route that was not opened at the start."""
        try:
            with translated(service, action, ""):
                return await self._open_route(service, region)
        except ConfigError as error:
            raise BackendError(str(error)) from error

    async def _open_route(self, service: str, region: str) -> Route:
        async with self._opening:
            if self._closed:
                raise Unavailable("the client is closed")
            key = (service, region)
            if key not in self._routes:
                self._routes[key] = self._route(service, await self._session.endpoint(service, region))
            return self._routes[key]

    def _route(self, service: str, endpoint: Endpoint) -> Route:
        variable = endpoint.proxy_variable()
        if variable is not None:
            raise ConfigError(
                "aws.transport",
                f"lean does not go through the proxy in {variable}",
                f"set aws.transport: aiobotocore or add {endpoint.host} to NO_PROXY",
            )
        protocol = PROTOCOLS[service]
        signer = Signer(
            service=service,
            region=endpoint.region,
            host=endpoint.authority,
            path=endpoint.path,
            content_type=protocol.content_type,
            targeted=not protocol.version,
        )
        return Route(protocol, signer, self._pool(endpoint, protocol), self._pool(endpoint, protocol))

    def _pool(self, endpoint: Endpoint, protocol: Protocol) -> Pool:
        if endpoint.tls and self._tls is None:
            self._tls = tls_context(Path(self._session.ca_bundle))
        settings = self._session.settings
        return Pool(
            endpoint.host,
            endpoint.port,
            self._tls if endpoint.tls else None,
            max_connections=settings.max_connections,
            connect_timeout=settings.connect_timeout,
            repeats=protocol.repeats,
        )


def tls_context(ca_bundle: Path) -> ssl.SSLContext:
    """Trust the authorities in a PEM file, and check host names. Raises `ConfigError`."""
    try:
        context = ssl.create_default_context(cafile=str(ca_bundle))
    except (ssl.SSLError, OSError) as error:
        raise ConfigError("aws.ca_bundle", f"{ca_bundle} cannot be used: {error}", "name a PEM file") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(route: Route, answer: Answer, service: str, action: str, resource: str) -> bytes:
    try:
        return route.result(answer)
    except ValueError as error:
        raise Unavailable(f"unreadable answer: {error}", resource=resource, action=f"{service}:{action}") from error


def _json_fault(answer: Answer) -> tuple[str, str]:
    fault = read_fault(answer.body)
    # x-amzn-query-error: `AWS.SimpleQueueService.NonExistentQueue;Sender`, from services that spoke another protocol.
    query_code = answer.header("x-amzn-query-error").partition(";")[0]
    code = fault.get("__type") or query_code or answer.header("x-amzn-errortype")
    return str(code), fault_text(fault)


def _date(answer: Answer) -> float | None:
    """Return the time of an answer, in seconds since 1970."""
    try:
        date: datetime = parsedate_to_datetime(answer.header("date"))
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
