"""The port that every adapter of an AWS service codes against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from gateway.core.errors import (
    AccessDenied,
    BackendError,
    CredentialsInvalid,
    Invalid,
    NotFound,
    ReceiptExpired,
    Throttled,
    TooLarge,
    Unavailable,
)


class AwsClient(Protocol):
    """Calls AWS, signed with the credentials of the usual AWS chain. Used only from the event loop."""

    region: str
    """Where calls go that name no other region."""

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

        Returns the JSON body of a 2xx answer. Raises nothing but `BackendError`, of the class that `errors.classify`
        chose, with `resource` (`sqs queue orders`) in it; timeouts, resets and 5xx answers are `Unavailable`.

        `region`: of the resource, when its ARN or URL names another one than ours. `read_timeout`: seconds for the
        answer, for calls that wait on purpose (a long poll: its wait and the usual time on top). Calls with a longer
        `read_timeout` than the configured one never stand in the way of the others.
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
