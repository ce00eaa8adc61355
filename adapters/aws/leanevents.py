"""The events of one call, over the lean transport."""

from __future__ import annotations

from typing import Final

from adapters.aws.errors import classify
from adapters.aws.eventstream import INITIAL, Event, EventBuffer, EventFault
from adapters.aws.http import Answer, ExchangeFailed
from adapters.aws.pool import Pool
from adapters.aws.streaming import StreamingConnection
from gateway.core.errors import Unavailable

_NOT_OPEN: Final = "the call was not made"


class LeanEvents:
    """`exchange` makes the call; then an async iterator of the events' payloads, until `close`."""

    def __init__(self, service: str, action: str, resource: str, *, timeout: float, silence: float) -> None:
        """`timeout`: seconds for the answer to begin; `silence`: between two events at most."""
        self._service = service
        self._action = action
        self._resource = resource
        self._timeout = timeout
        self._silence = silence
        self._buffer = EventBuffer()
        self._connection: StreamingConnection | None = None
        self._closed = False

    async def exchange(self, pool: Pool, request: bytes) -> Answer:
        """Send the request, on a connection of its own, and wait until its answer begins; a refusal is whole.

        Raises `ExchangeFailed`.
        """
        self._hang_up()
        connection = self._connection = await pool.dial(StreamingConnection)
        if self._closed:
            self._hang_up()
        answer = await connection.begin(request, self._timeout)
        if answer.status < 300:
            return answer
        return Answer(answer.status, answer.headers, await connection.read_fault(self._timeout))

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def __aiter__(self) -> LeanEvents:
        return self

    async def __anext__(self) -> bytes:
        """Raises `BackendError`."""
        connection = self._connection
        if connection is None:
            raise self._unavailable(_NOT_OPEN)
        while True:
            event = self._take()
            if event is not None and event.kind != INITIAL:
                return event.payload
            if event is None:
                await self._read(connection)

    async def _read(self, connection: StreamingConnection) -> None:
        try:
            data = await connection.read(self._silence)
        except ExchangeFailed as error:
            raise self._unavailable(str(error)) from error
        if data:
            self._buffer.feed(data)
        elif self._buffer.within:
            raise self._unavailable("the answer ends within an event")
        else:
            raise StopAsyncIteration

    def _take(self) -> Event | None:
        try:
            return self._buffer.take()
        except EventFault as fault:
            raise classify(self._service, self._action, fault.code, fault.message, self._resource) from None
        except ValueError as error:
            raise self._unavailable(str(error)) from None

    def _unavailable(self, problem: str) -> Unavailable:
        return Unavailable(problem, resource=self._resource, action=f"{self._service}:{self._action}")
