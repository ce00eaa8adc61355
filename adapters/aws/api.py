"""The port that every adapter of an AWS service codes against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeAlias

from adapters.aws.content import Content
from gateway.core.budget import ByteBudget
from gateway.core.errors import (
    AccessDenied,
    BackendError,
    Contended,
    CredentialsInvalid,
    Invalid,
    MqliftError,
    NotFound,
    ReceiptExpired,
    Throttled,
    TooLarge,
    Unavailable,
)


class Version(NamedTuple):
    """What an object was when it was looked at."""

    size: int
    """Bytes."""
    etag: str
    """Another one when the object has been written again."""


class Changed(MqliftError):
    """An object is not the one any more that was looked at. What is there now may be read, from the beginning."""


class ObjectStore(Protocol):
    """Objects in S3: bodies that are too large for a queue or a topic, sent and read in parts.

    Raises nothing but `BackendError`, with the bucket in it, and what is said below.
    """

    @property
    def budget(self) -> ByteBudget:
        """The memory that bodies share. What is read has to have its place there before."""

    async def put(self, bucket: str, key: str, content: Content, deadline: float) -> None:
        """Store an object; it is there, as a whole, for every reader when this returns, and not at all when it fails.

        Parts that fail are sent again until `deadline`, on the event loop's clock.
        """

    async def look(self, bucket: str, key: str) -> Version:
        """Find an object, in one attempt. Raises `NotFound`."""

    async def get(self, bucket: str, key: str, version: Version, *, base64: bool) -> bytes:
        """Read a whole object, of that version alone; with `base64`, the payload in it.

        Raises `Changed` when it was written again meanwhile, and `ValueError` for what is not base64.
        """

    async def delete(self, bucket: str, key: str) -> None:
        """Remove an object, in one attempt. One that is not there is removed already."""


class AwsClient(Protocol):
    """Calls AWS, signed with the credentials of the usual AWS chain. Used only from the event loop."""

    region: str
    """Where calls go that name no other region."""

    @property
    def objects(self) -> ObjectStore:
        """S3."""

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
        """Make one attempt of one API call: service `sqs`, action `SendMessageBatch`, body the request's JSON.

        Services of the query protocol (`sns`) get their parameters as a form, see `adapters.aws.query`.

        Returns the JSON body of a 2xx answer, made of the XML where the service speaks that. Raises nothing but
        `BackendError`, of the class that `errors.classify` chose, with `resource` (`sqs queue orders`) in it; timeouts,
        resets and 5xx answers are `Unavailable`.

        `region`: of the resource, when its ARN or URL names another one than ours. `read_timeout`: seconds for the
        answer, for calls that wait on purpose (a long poll: its wait and the usual time on top). Calls with a longer
        `read_timeout` than the configured one never stand in the way of the others.
        """

    def events(
        self, service: str, action: str, body: bytes, *, silence: float, resource: str = "", region: str | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Make one attempt of a call that is answered with events, such as `SubscribeToShard`; the JSON of each event.

        Entered when the service has accepted the call, and ended with the context. Each call has a connection of its
        own, as many as `max_connections` at once. Events that nobody asks for stay in the network. `silence`: seconds
        between two events at most. Entering and iterating raise nothing but `BackendError`, as `call` does.
        """

    async def caller(self) -> str:
        """Return the ARN of who we are (sts:GetCallerIdentity). Raises `BackendError`."""

    async def aclose(self) -> None:
        """Close connections; calls in flight fail with `Unavailable`. Idempotent."""


Observer: TypeAlias = Callable[[str, str, str, float], None]
"""Told once about each call: service, action, outcome (`OUTCOMES`), and seconds until the answer. Must not raise."""

ACCEPTED = "accepted"
CANCELLED = "cancelled"

ERROR_OUTCOMES: dict[type[BackendError], str] = {
    AccessDenied: "access_denied",
    Contended: "contended",
    CredentialsInvalid: "credentials_invalid",
    Invalid: "invalid",
    NotFound: "not_found",
    ReceiptExpired: "receipt_expired",
    Throttled: "throttled",
    TooLarge: "too_large",
    Unavailable: "unavailable",
    BackendError: "error",
}
OUTCOMES = frozenset({ACCEPTED, CANCELLED, *ERROR_OUTCOMES.values()})
"""A closed set, for the label of a metric."""


def observe_nothing(service: str, action: str, outcome: str, seconds: float) -> None:
    """Take the place of an `Observer` where nobody counts."""
