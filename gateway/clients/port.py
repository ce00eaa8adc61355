"""What the two clients have in common, and what the command line knows of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, Self

from gateway.core.errors import MqliftError

ANSWER_TIMEOUT: Final = 10.0
"""Seconds that a server may take to accept a connection, or to answer anything but a publish."""

DEFAULT_PORTS: Final[Mapping[str, int]] = {"topic": 1883, "queue": 61613}
"""By what a place is: topics are spoken to in MQTT, queues in STOMP."""


class ClientError(MqliftError):
    """The server cannot be reached, refused something, or went away."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to publish to or read from, as written on the command line."""

    kind: Literal["topic", "queue"]
    name: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """`topic:a/b` or `queue:orders`. Raises `ClientError`."""
        kind, _, name = text.partition(":")
        if name:
            if kind == "topic":
                return cls("topic", name)
            if kind == "queue":
                return cls("queue", name)
        raise ClientError(f"{text!r} is no place; write topic:NAME or queue:NAME")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the gateway listens, and who we are."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def unreachable(self, reason: str) -> ClientError:
        return ClientError(f"cannot connect to {self.host} port {self.port}: {reason}")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that was read, with the headers that its protocol shows."""

    body: bytes
    headers: Mapping[str, str]


class Connection(Protocol):
    """A client is a context manager: connected inside, and leaving in an orderly way. Raises `ClientError`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, /, *rest: object) -> None: ...


class Publisher(Connection, Protocol):
    def publish(self, body: bytes) -> None:
        """Returns once the server has taken responsibility. Raises `ClientError`."""


class Subscriber(Connection, Protocol):
    """Subscribed once entered."""

    def messages(self) -> Iterator[Incoming]:
        """As many as were asked for, or endless. Raises `ClientError`.

        Where the protocol lets the client say when, a message is acknowledged when the next one is asked for.
        """


def reason_of(error: OSError) -> str:
    """The operating system's words, without the address that asyncio puts in their place."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return error.strerror or str(error)  # name resolution has its own, negative, numbers
