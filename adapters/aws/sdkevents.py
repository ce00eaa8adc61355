"""The events of one call, over aiobotocore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Protocol, cast

import orjson

from adapters.aws.eventstream import BROKEN
from adapters.aws.session import OperationModel
from adapters.aws.shapes import Shape, to_json
from adapters.aws.translated import translated
from gateway.core.errors import Unavailable


class SdkEventStream(Protocol):
    """aiobotocore's `AioEventStream`: each event is a mapping with its kind as the only key."""

    def __aiter__(self) -> AsyncIterator[Mapping[str, object]]: ...

    def close(self) -> None: ...


class SdkEvents:
    """An async iterator of the events' payloads, as the service wrote them."""

    def __init__(
        self,
        service: str,
        action: str,
        resource: str,
        model: OperationModel,
        answer: Mapping[str, object],
        silence: float,
    ) -> None:
        """`silence`: seconds between two events at most."""
        assert model.output_shape is not None
        name, self._shape = _event_member(model.output_shape, answer)
        self._stream = cast("SdkEventStream", answer[name])
        self._events = aiter(self._stream)
        self._call = (service, action, resource)
        self._silence = silence

    def close(self) -> None:
        self._stream.close()

    def __aiter__(self) -> SdkEvents:
        return self

    async def __anext__(self) -> bytes:
        """Raises `BackendError`."""
        with translated(*self._call):
            event = await self._next()
            ((kind, payload),) = event.items()
            return orjson.dumps(to_json(self._shape.members[kind], payload))

    async def _next(self) -> Mapping[str, object]:
        try:
            async with asyncio.timeout(self._silence):
                return await anext(self._events)
        except BROKEN as error:
            raise Unavailable(f"not an event stream: {type(error).__name__} {error}") from error


def _event_member(shape: Shape, answer: Mapping[str, object]) -> tuple[str, Shape]:
    """The member of an answer that is the stream of its events."""
    return next((name, shape.members[name]) for name, value in answer.items() if hasattr(value, "__aiter__"))
