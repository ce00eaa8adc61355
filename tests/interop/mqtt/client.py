"""What the scenarios ask of a client, whoever wrote it. Each adapter puts one implementation behind it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import ClassVar, Literal, Self

from tests.rig.processes import HOST

TIMEOUT = 10.0
POLL_INTERVAL = 0.005
KEEP_ALIVE = 30
SESSION_EXPIRY = 600
"""Seconds that an MQTT 5 client wants its session to be kept."""

Transport = Literal["tcp", "websocket"]


class Version(IntEnum):
    """Protocol levels, as CONNECT has them."""

    V3_1 = 3
    V3_1_1 = 4
    V5 = 5


class Refused(Exception):
    """What the client was to do did not happen, and it knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A publish, a will, or what was received. What stands below `retain` exists in MQTT 5 only."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Where a client connects, and as whom. `kept`: its session outlives the connection, and is gone on with."""

    port: int
    version: Version
    transport: Transport
    client_id: str
    kept: bool = False
    will: Message | None = None

    @property
    def url(self) -> str:
        """The address, as mqtt.js and amqtt want it."""
        return f"ws://{HOST}:{self.port}/mqtt" if self.transport == "websocket" else f"mqtt://{HOST}:{self.port}"


class Client(ABC):
    """One connection of somebody's client. It acknowledges what it receives, and does not connect again by itself."""

    many_publishes: ClassVar[bool] = True
    """Whether it publishes more than one message in a connection."""

    hears_refusals: ClassVar[bool] = True
    """Whether it tells an MQTT 5 acknowledgement that says no from one that says yes."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.received: list[Message] = []

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the server has closed the connection, or it is lost."""

    @property
    def end_reason(self) -> int | None:
        """The reason code of the server's DISCONNECT, where the client shows it."""
        return None

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and wait for CONNACK."""

    @abstractmethod
    async def subscribe(self, filters: Sequence[str], qos: int) -> None:
        """Subscribe to all, and wait until they are granted as they were asked for."""

    @abstractmethod
    async def publish(self, message: Message) -> None:
        """Publish, and wait for the last acknowledgement. Raises `Refused` for a failure, or the connection's end."""

    @abstractmethod
    async def disconnect(self) -> None:
        """DISCONNECT, and the end of the connection."""

    @abstractmethod
    async def drop(self) -> None:
        """Lose the connection without a DISCONNECT."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what is held, however the connection is. Can be called twice."""

    async def publish_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            await self.publish(message)

    async def wait_received(self, count: int) -> list[Message]:
        """Wait until so many messages have come in all; the messages."""
        await until(
            lambda: len(self.received) >= count or self.ended, lambda: f"{count} messages, not {len(self.received)}"
        )
        assert len(self.received) >= count, "the connection has ended"
        return self.received

    async def wait_ended(self) -> None:
        await until(lambda: self.ended, "the connection has ended")

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def until(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Wait for a condition. `AssertionError` after `TIMEOUT` seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(POLL_INTERVAL)


async def unless_ended(client: Client, acknowledgement: Awaitable[object]) -> None:
    """Wait for an acknowledgement. Raises `Refused` when the connection ends before it comes."""
    task = asyncio.ensure_future(acknowledgement)
    try:
        await until(lambda: task.done() or client.ended, "an acknowledgement, or the connection's end")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    if task.cancelled():
        raise Refused("the connection has ended")
    error = task.exception()
    if error is not None:
        raise Refused(str(error)) from error
