"""What the scenarios ask of a client, whoever wrote it. Each adapter puts one implementation behind it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Self, TypeVar

USER = "guest"
PASSWORD = "guest"
TIMEOUT = 15.0
HEARTBEAT = 30
POLL_INTERVAL = 0.005
PUMP_INTERVAL = 0.05
"""Seconds that a blocking client waits for something to come before it is asked again."""

T = TypeVar("T")


class Refused(Exception):
    """What the client was to do did not happen, and it knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is published, or was received."""

    body: bytes
    reply_to: str | None = None
    correlation_id: str | None = None
    content_type: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    redelivered: bool = False
    """Of what was received."""


class Client(ABC):
    """One connection of somebody's client, with one channel that confirms. It knows when it has lost it."""

    recovers: ClassVar[bool] = False
    """Whether it connects and consumes again by itself when the connection is lost."""

    many_publishes: ClassVar[bool] = True
    """Whether it has confirms, replies, and more than one publish in a connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[Message] = []

    @abstractmethod
    async def connect(self) -> None:
        """Connect, or connect again after the connection was lost; wait until it can be used."""

    @abstractmethod
    async def declare(self, queue: str = "") -> str:
        """Declare a durable queue, or an exclusive one that the server names. Its name."""

    @abstractmethod
    async def publish(self, queue: str, message: Message) -> None:
        """Publish to a queue, persistently and mandatorily, and wait for the confirm. Raises `Refused` without one."""

    @abstractmethod
    async def consume(self, queue: str, *, acknowledge: bool = True) -> None:
        """Consume from a queue. `acknowledge`: each message, when it has come in; otherwise never."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what is held, however the connection is. Can be called twice."""

    async def wait_received(self, count: int) -> list[Message]:
        """Wait until so many messages have come in all; the messages."""
        await until(lambda: len(self.received) >= count, lambda: f"{count} messages, not {len(self.received)}")
        return self.received

    @abstractmethod
    async def wait_lost(self) -> None:
        """Wait until it has noticed that its connection is lost."""

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class BlockingClient(Client):
    """A client that waits in its calls: all of them in one thread of its own."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._thread = ThreadPoolExecutor(1)
        self._closed = False

    @abstractmethod
    def do_connect(self) -> None:
        """`connect`, in the thread; likewise below."""

    @abstractmethod
    def do_declare(self, queue: str) -> str: ...

    @abstractmethod
    def do_publish(self, queue: str, message: Message) -> None: ...

    @abstractmethod
    def do_consume(self, queue: str, *, acknowledge: bool) -> None: ...

    @abstractmethod
    def do_pump(self) -> None:
        """Take in what comes within `PUMP_INTERVAL`. Raises one of `lost` when the connection is lost."""

    @abstractmethod
    def do_close(self) -> None: ...

    lost: ClassVar[tuple[type[Exception], ...]]
    """What it raises when its connection is lost."""

    async def connect(self) -> None:
        await self._call(self.do_connect)

    async def declare(self, queue: str = "") -> str:
        return await self._call(lambda: self.do_declare(queue))

    async def publish(self, queue: str, message: Message) -> None:
        await self._call(lambda: self.do_publish(queue, message))

    async def consume(self, queue: str, *, acknowledge: bool = True) -> None:
        await self._call(lambda: self.do_consume(queue, acknowledge=acknowledge))

    async def wait_received(self, count: int) -> list[Message]:
        deadline = time.monotonic() + TIMEOUT
        while len(self.received) < count and time.monotonic() < deadline:
            await self._call(self.do_pump)
        assert len(self.received) >= count, f"{count} messages, not {len(self.received)}"
        return self.received

    async def wait_lost(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                await self._call(self.do_pump)
            except self.lost:
                return
        raise AssertionError("it does not notice that its connection is lost")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._call(self.do_close)
        finally:
            self._thread.shutdown()

    async def _call(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


async def until(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Wait for a condition. `AssertionError` after `TIMEOUT` seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(POLL_INTERVAL)
