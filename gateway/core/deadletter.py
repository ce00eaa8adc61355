"""What a dead letter looks like: a message that a queue gave up, on its way to the queue's dead-letter exchange. Pure.

The headers are RabbitMQ's (https://www.rabbitmq.com/docs/dlx#effects): `x-death` has one table for each pair of queue
and reason, the latest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Protocol

from gateway.core.arguments import QueuePolicy
from gateway.core.message import Address, Headers, HeaderValue, Message
from gateway.core.outcome import Result

DEATHS: Final = "x-death"
COPIES: Final = "CC"
"""Header: more routing keys that a message was published with."""

MAX_DEATHS: Final = 64
"""Entries of `x-death` that are kept. A message that wanders through so many queues without anybody rejecting it would
go on for ever, as far as can be told."""


class Reason(Enum):
    """Why a queue gave a message up, under RabbitMQ's names."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    MAXLEN = "maxlen"
    DELIVERY_LIMIT = "delivery_limit"


class DeadLettering(Protocol):
    """A queue that gives messages up."""

    @property
    def name(self) -> str: ...

    @property
    def policy(self) -> QueuePolicy: ...


class Bury(Protocol):
    """What becomes of a message that a queue gave up: it goes to the queue's dead-letter exchange, if there is one.

    `done` is called once: ACCEPTED means that the queue may forget it.
    """

    def __call__(
        self, queue: DeadLettering, message: Message, reason: Reason, done: Callable[[Result], None]
    ) -> None: ...


def dead_letter(message: Message, queue: str, reason: Reason, now: float, exchange: str, key: str | None) -> Message:
    """The message as the dead-letter exchange gets it. `key`: its new routing key, None for its own.

    `now`: seconds since 1970-01-01 UTC.
    """
    headers = dict(message.headers)
    deaths = deaths_of(headers)
    known = next((entry for entry in deaths if _same(entry, queue, reason)), None)
    death = _died_again(known) if known is not None else _death(message, queue, reason, now)
    others = [entry for entry in deaths if not _same(entry, queue, reason)]
    headers[DEATHS] = [death, *others[: MAX_DEATHS - 1]]
    for place, value in (("reason", reason.value), ("queue", queue), ("exchange", message.address.exchange)):
        headers.setdefault(f"x-first-death-{place}", value)
        headers[f"x-last-death-{place}"] = value
    if key is not None:
        headers.pop(COPIES, None)
    return replace(
        message,
        address=Address(exchange, message.address.routing_key if key is None else key),
        headers=headers,
        properties=replace(message.properties, expiration=None),
        not_before=0.0,
    )


def _died_again(known: dict[str, HeaderValue]) -> HeaderValue:
    """The first time, exchange and keys stay, as in RabbitMQ."""
    count = known.get("count")
    return {**known, "count": count + 1 if isinstance(count, int) else 1}


def _death(message: Message, queue: str, reason: Reason, now: float) -> HeaderValue:
    keys: list[HeaderValue] = [message.address.routing_key, *copies_of(message.headers)]
    death: dict[str, HeaderValue] = {
        "count": 1,
        "reason": reason.value,
        "queue": queue,
        "time": datetime.fromtimestamp(int(now), UTC),
        "exchange": message.address.exchange,
        "routing-keys": keys,
    }
    if message.properties.expiration is not None:
        death["original-expiration"] = str(message.properties.expiration)
    return death


def copies_of(headers: Headers) -> list[str]:
    """The further routing keys that a message carries."""
    copies = headers.get(COPIES)
    return [key for key in copies if isinstance(key, str)] if isinstance(copies, list) else []


def deaths_of(headers: Headers) -> list[dict[str, HeaderValue]]:
    """The entries of `x-death`, the latest first; what a client has made of the header otherwise is left out."""
    deaths = headers.get(DEATHS)
    return [entry for entry in deaths if isinstance(entry, dict)] if isinstance(deaths, list) else []


def circles(letter: Message, queues: Iterable[str]) -> set[str]:
    """The queues that have given a dead letter up already, with nobody rejecting it since: it would go round for ever.

    As in RabbitMQ, which drops it there ("Dead-Lettered Effects on Messages", automatic cycles).
    """
    deaths = deaths_of(letter.headers)
    return {queue for queue in queues if _circle(deaths, queue)}


def _circle(deaths: Sequence[dict[str, HeaderValue]], queue: str) -> bool:
    for entry in deaths:
        if entry.get("reason") == Reason.REJECTED.value:
            return False
        if entry.get("queue") == queue:
            return True
    return len(deaths) >= MAX_DEATHS


def _same(entry: dict[str, HeaderValue], queue: str, reason: Reason) -> bool:
    return entry.get("queue") == queue and entry.get("reason") == reason.value
