"""The port that every adapter of an AWS service codes against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from gateway.core.errors import (
    AccessDenied,
    BackendError,
    Contended,
    CredentialsInvalid,
    Invalid,
    NotFound,
    ReceiptExpired,
    Throttled,
    TooLarge,
    Unavailable,
)


class ObjectStore(Protocol):
    """Objects in S3: bodies that are too large for a queue or a topic. Each method makes one attempt.

    Raises nothing but `BackendError`, with the bucket in it.
    """

    async def put(self, bucket: str, key: str, body: bytes) -> None:
        """Store an object; it is there for every reader when this returns."""

    async def get(self, bucket: str, key: str, limit: int) -> bytes:
        """Read a whole object. Raises `NotFound`, and `TooLarge` for one of more than `limit` bytes."""

    async def delete(self, bucket: str, key: str) -> None:
        """Remove an object. One that is not there is removed already."""


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
