"""An AWS client that answers what a test says: for answers that no emulator can be brought to give."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, TypeAlias

import orjson


class Call(NamedTuple):
    action: str
    request: dict[str, object]
    resource: str
    region: str | None
    read_timeout: float | None


Answer: TypeAlias = object
"""An exception to raise, bytes as they are, or what is answered as JSON."""


class ScriptedAws:
    """The client of one service: answers each action with `answers[action]`, which may be a function of the request.

    Keeps all calls.
    """

    region = "us-east-1"

    def __init__(self, service: str) -> None:
        self._service = service
        self.calls: list[Call] = []
        self.answers: dict[str, Answer | Callable[[dict[str, object]], Answer]] = {}
        self.gate: asyncio.Event | None = None
        """While it is not set, calls wait."""

    def actions(self) -> list[str]:
        return [call.action for call in self.calls]

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
        assert service == self._service
        answer = await self._answer(Call(action, orjson.loads(body), resource, region, read_timeout))
        return answer if isinstance(answer, bytes) else orjson.dumps(answer)

    @contextlib.asynccontextmanager
    async def events(
        self, service: str, action: str, body: bytes, *, silence: float, resource: str = "", region: str | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The answer is a list of what `call` answers with, one for each event."""
        assert service == self._service
        answer = await self._answer(Call(action, orjson.loads(body), resource, region, silence))
        assert isinstance(answer, list)

        async def each() -> AsyncIterator[bytes]:
            for event in answer:
                if isinstance(event, Exception):
                    raise event
                yield orjson.dumps(event)

        yield each()

    async def _answer(self, call: Call) -> Answer:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers[call.action]
        if callable(answer):
            answer = answer(call.request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def caller(self) -> str:
        return "arn:aws:iam::111122223333:user/test"

    async def aclose(self) -> None:
        """Nothing is open."""
