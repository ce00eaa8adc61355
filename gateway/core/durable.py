"""The topology that outlives the gateway: durable exchanges, queues and bindings, as the state store keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import Final

import structlog

from gateway.core.backend import QueueSpec
from gateway.core.errors import MqliftError
from gateway.core.exchanges import ExchangeSpec
from gateway.core.statewriter import StateWriter
from gateway.core.store import Conflict, StateStore, every_record
from gateway.core.topology import Binding, Topology
from gateway.core.topologyrecords import (
    BINDING,
    BOUND,
    EXCHANGE,
    QUEUE,
    binding_key,
    pack_exchange,
    pack_queue,
    parse_binding,
    unpack_exchange,
    unpack_queue,
)

log = structlog.get_logger("mqlift.topology")

UNDONE: Final = 100_000
"""Records that are remembered until they are written: as many as the writer takes."""


class DurableTopology:
    """Writes down every durable change, and reads it back. The topology's journal."""

    def __init__(self, store: StateStore, writer: StateWriter) -> None:
        self._store = store
        self._writer = writer
        self._unwritten: list[asyncio.Future[None]] = []
        self._undone: dict[tuple[str, str], _Write] = {}
        """What is being written, or could not be: who asks for the same again must not be told that it is durable."""

    def exchange_changed(self, name: str, spec: ExchangeSpec | None) -> None:
        self._write(EXCHANGE, name, None if spec is None else pack_exchange(spec))

    def binding_changed(self, binding: Binding, *, bound: bool) -> None:
        self._write(BINDING, binding_key(binding), BOUND if bound else None)

    def exchange_repeated(self, name: str) -> None:
        self._repeat(EXCHANGE, name)

    def binding_repeated(self, binding: Binding) -> None:
        if self._undone:
            self._repeat(BINDING, binding_key(binding))

    def queue_repeated(self, name: str) -> None:
        """A queue was asked for again, or to be deleted and is not there."""
        self._repeat(QUEUE, name)

    def queue_changed(self, name: str, spec: QueueSpec | None) -> None:
        """A queue was declared, or with None deleted."""
        self._write(QUEUE, name, None if spec is None else pack_queue(spec))

    def followed(self, kind: str, key: str) -> None:
        """What the store has of a record is in effect: what was asked for here, and could not be written, is not."""
        self._undone.pop((kind, key), None)

    def written(self) -> Awaitable[None] | None:
        """What to wait for until everything that was told since the last call is durable; None for nothing.

        To be called before anything else may happen, or others would wait in one's place. Raises `StoreError` when
        awaited.
        """
        if not self._unwritten:
            return None
        unwritten, self._unwritten = self._unwritten, []
        return Writes(unwritten)

    def forget(self) -> None:
        """Nobody waits for what was told since the last call; the writer logs what goes wrong."""
        self._unwritten.clear()

    async def restore(self, topology: Topology) -> Mapping[str, QueueSpec]:
        """Declare the exchanges that are kept, and give the queues. Raises `StoreError`."""
        async for record in every_record(self._store, EXCHANGE):
            try:
                topology.declare_exchange(record.key, unpack_exchange(record.value))
                self._writer.known(EXCHANGE, record.key, record.version)
            except (MqliftError, AttributeError, KeyError, TypeError, ValueError) as error:
                log.error("exchange_unreadable", exchange=record.key, problem=str(error))  # noqa: TRY400
        queues: dict[str, QueueSpec] = {}
        async for record in every_record(self._store, QUEUE):
            try:
                queues[record.key] = unpack_queue(record.value)
                self._writer.known(QUEUE, record.key, record.version)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.error("queue_unreadable", queue=record.key, problem=str(error))  # noqa: TRY400
        return queues

    async def restore_bindings(self, topology: Topology) -> None:
        """After the queues are there again. Raises `StoreError`."""
        async for record in every_record(self._store, BINDING):
            try:
                binding = parse_binding(record.key)
                topology.bind(binding.destination, binding.source, binding.pattern, binding.arguments)
            except (MqliftError, AttributeError, TypeError, ValueError) as error:
                log.error("binding_unreadable", binding=record.key, problem=str(error))  # noqa: TRY400

    def _repeat(self, kind: str, key: str) -> None:
        if (kind, key) in self._undone:
            self._write(kind, key, self._undone[kind, key].value)

    def _write(self, kind: str, key: str, value: bytes | None) -> None:
        write: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        noted = self._note(kind, key, value)

        def done(error: MqliftError | None) -> None:
            over = error is None or isinstance(error, Conflict)  # then it is somebody else's word that counts
            if over and self._undone.get((kind, key)) is noted:
                del self._undone[kind, key]
            if write.cancelled():
                return
            if error is None:
                write.set_result(None)
            else:
                write.set_exception(error)
                write.exception()  # whether or not anybody waits for it; the writer has logged it

        self._unwritten.append(write)
        # What others may have declared otherwise is not to be overwritten; a binding cannot be another one.
        conditional = self._writer.shared and value is not None and kind != BINDING
        self._writer.write(kind, key, value, done, conditional=conditional)

    def _note(self, kind: str, key: str, value: bytes | None) -> _Write:
        if len(self._undone) >= UNDONE:
            del self._undone[next(iter(self._undone))]
        noted = self._undone[kind, key] = _Write(value)
        return noted


class _Write:
    """The latest that was asked for of one record; None removes it."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | None) -> None:
        self.value = value


class Writes:
    """Writes that somebody may wait for, or not. Raises `StoreError` for the first that failed."""

    __slots__ = ("_writes",)

    def __init__(self, writes: Sequence[asyncio.Future[None]]) -> None:
        self._writes = writes

    def __await__(self) -> Generator[object, None, None]:
        for write in self._writes:
            yield from write
