"""What a scenario wants from a client of somebody: the port that each of them is put behind."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Literal, Self

from tests.rig.processes import HOST

TIMEOUT = 15.0
POLL_INTERVAL = 0.005

AckMode = Literal["auto", "client", "client-individual"]
Version = Literal["1.0", "1.1", "1.2"]
Transport = Literal["tcp", "websocket", "websocket-binary"]

LOGIN = "guest"
PASSCODE = "guest"


class Refused(Exception):
    """The server has said no: with an ERROR frame, or by closing the connection."""


@dataclass(frozen=True, slots=True)
class Message:
    """A MESSAGE, with what its client wants back to acknowledge it."""

    body: bytes
    headers: dict[str, str]
    handle: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Where a client connects, and in which version. Heart-beats in milliseconds, the same in both directions."""

    port: int
    version: Version
    transport: Transport
    heart_beat: int = 0

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}/ws"


class Client(ABC):
    """One connection of somebody's client. It does not connect again by itself."""

    drops: ClassVar[bool] = True
    """Whether it can lose its connection without a DISCONNECT."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.received: list[Message] = []

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the connection is gone."""

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and wait for CONNECTED. Raises `Refused`."""

    @abstractmethod
    async def subscribe(self, destination: str, ack: AckMode) -> None:
        """SUBSCRIBE; what this client sends next comes after it."""

    @abstractmethod
    async def send(self, destination: str, body: bytes, headers: dict[str, str]) -> None:
        """SEND, and wait for the RECEIPT. Raises `Refused`."""

    @abstractmethod
    async def transact(self, destination: str, bodies: Sequence[bytes], *, commit: bool) -> None:
        """SEND all in one transaction, and end it."""

    @abstractmethod
    async def ack(self, message: Message) -> None: ...

    @abstractmethod
    async def nack(self, message: Message) -> None: ...

    @abstractmethod
    async def disconnect(self) -> None:
        """DISCONNECT, with a receipt where the client can, and the end of the connection."""

    @abstractmethod
    async def drop(self) -> None:
        """Lose the connection without a DISCONNECT."""

    async def close(self) -> None:
        """Give back what is held, however the connection is. Can be called twice."""
        if not self.ended:
            await self.disconnect()

    async def wait_received(self, count: int) -> list[Message]:
        """Wait until so many messages have come in all; the messages."""
        await until(lambda: len(self.received) >= count or self.ended, lambda: f"{count} messages: {self.received}")
        assert len(self.received) >= count, "the connection has ended"
        return self.received

    async def wait_ended(self) -> None:
        await until(lambda: self.ended, lambda: "the connection has ended")

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait for a condition. `AssertionError` after `TIMEOUT` seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT:g} s: {what()}")
        await asyncio.sleep(POLL_INTERVAL)
