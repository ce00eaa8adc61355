"""stompman: asyncio, STOMP 1.2. A task of its own holds the connection, because it is a task group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import ClassVar

import stompman

from tests.interop.stomp.client import LOGIN, PASSCODE, TIMEOUT, AckMode, Client, Message, Refused, Setup, until
from tests.rig.processes import HOST


class _Abort(Exception):
    """Leaves a transaction without a commit."""


class StompmanClient(Client):
    drops: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        beat = stompman.Heartbeat(setup.heart_beat, setup.heart_beat)
        server = stompman.ConnectionParameters(host=HOST, port=setup.port, login=LOGIN, passcode=PASSCODE)
        self._client = stompman.Client(
            [server], heartbeat=beat, connect_retry_attempts=1, write_retry_attempts=1, on_error_frame=None
        )
        self._subscriptions: list[stompman.ManualAckSubscription] = []
        self._connected = asyncio.Event()
        self._leaving = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self._holding is None or self._holding.done()

    async def connect(self) -> None:
        self._holding = asyncio.create_task(self._hold())
        await until(lambda: self._connected.is_set() or self.ended, lambda: "CONNECTED")
        if self._holding.done():
            raise Refused(str(self._holding.exception()))

    async def _hold(self) -> None:
        async with self._client:
            self._connected.set()
            await self._leaving.wait()

    async def subscribe(self, destination: str, ack: AckMode) -> None:
        subscription = await self._client.subscribe_with_manual_ack(
            destination, self._take, ack=ack, receipt_timeout=TIMEOUT
        )
        self._subscriptions.append(subscription)

    async def _take(self, frame: stompman.AckableMessageFrame) -> None:
        self.received.append(Message(frame.body, {**frame.headers}, frame))  # type: ignore[dict-item]

    async def send(self, destination: str, body: bytes, headers: dict[str, str]) -> None:
        try:
            await self._client.send(body, destination, headers=headers, receipt_timeout=TIMEOUT)
        except stompman.SendReceiptError as error:
            raise Refused(str(error)) from error

    async def transact(self, destination: str, bodies: Sequence[bytes], *, commit: bool) -> None:
        with contextlib.suppress(_Abort):
            async with self._client.begin() as transaction:
                for body in bodies:
                    await transaction.send(body, destination)
                if not commit:
                    raise _Abort

    async def ack(self, message: Message) -> None:
        assert isinstance(message.handle, stompman.AckableMessageFrame)
        await message.handle.ack()

    async def nack(self, message: Message) -> None:
        assert isinstance(message.handle, stompman.AckableMessageFrame)
        await message.handle.nack()

    async def disconnect(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._leaving.set()
        assert self._holding is not None
        await self._holding

    async def drop(self) -> None:
        raise NotImplementedError("stompman always says goodbye")
