"""Exchanges, queues and bindings that other gateways declare and delete take effect here: the store's word counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import structlog

from gateway.core.backend import QueueSpec
from gateway.core.durable import DurableTopology
from gateway.core.errors import MqliftError
from gateway.core.exchanges import ExchangeSpec, ToExchange
from gateway.core.fleet.recordfollower import READS
from gateway.core.message import DEFAULT_EXCHANGE
from gateway.core.statewriter import StateWriter
from gateway.core.store import Record, StateStore, every_record
from gateway.core.topology import PREDECLARED, Binding, Topology
from gateway.core.topologyrecords import (
    BINDING,
    EXCHANGE,
    QUEUE,
    binding_key,
    parse_binding,
    unpack_exchange,
    unpack_queue,
)

log = structlog.get_logger("mqlift.topology")

FollowQueue = Callable[[str, QueueSpec | None], Sequence[Binding] | None]
"""`QueueTable.follow`."""

Place = tuple[str, str]
"""The kind and the key of a record."""


class TopologyFollower:
    """See `membership.Follower`. What is being written here is left alone until it is: then it is read again."""

    kinds = (EXCHANGE, QUEUE, BINDING)

    def __init__(
        self,
        store: StateStore,
        writer: StateWriter,
        topology: Topology,
        durable: DurableTopology,
        follow_queue: FollowQueue,
    ) -> None:
        self._store = store
        self._writer = writer
        self._topology = topology
        self._durable = durable
        self._follow_queue = follow_queue
        self._again: set[Place] = set()
        """What could not be followed when it was read."""
        self._refused: set[Place] = set()
        """What cannot be followed: it cannot be read, or is over a limit of this gateway."""

    async def follow(self, changes: Mapping[str, Collection[str]]) -> None:
        """As `Follower.follow`."""
        places = [(kind, key) for kind in self.kinds for key in changes.get(kind, ())]
        places += self._again.difference(places)
        for start in range(0, len(places), READS):
            await self._read_all(places[start : start + READS])

    async def rescan(self) -> None:
        """As `Follower.rescan`."""
        self._refused.clear()
        for kind, here in ((EXCHANGE, self._exchanges), (QUEUE, self._queues), (BINDING, self._bindings)):
            with self._writer.watching() as written:
                found = {record.key: record async for record in every_record(self._store, kind)}
                gone = set(here()) - found.keys()
                unfit = self._apply_all([(kind, key, found.get(key)) for key in [*found, *gone]], written)
            await self._mend(unfit)

    async def read(self, kind: str, key: str) -> None:
        """Follow one record. Raises `StoreError`."""
        await self._writer.settled(kind, key)
        await self._read_all([(kind, key)])

    async def _read_all(self, places: Sequence[Place]) -> None:
        with self._writer.watching() as written:
            records = await asyncio.gather(*(self._store.get(kind, key) for kind, key in places))
            found = [(kind, key, record) for (kind, key), record in zip(places, records, strict=True)]
            unfit = self._apply_all(found, written)
        await self._mend(unfit)

    def _apply_all(self, found: Iterable[tuple[str, str, Record | None]], written: set[Place]) -> list[Place]:
        """Follow records; the bindings that have to be read again, because an end is not there or has changed."""
        unfit: list[Place] = []
        for kind, key, record in found:
            if (kind, key) in written:
                self._again.add((kind, key))
                continue
            self._again.discard((kind, key))
            self._refused.discard((kind, key))
            try:
                unfit += self._apply(kind, key, record)
            except (MqliftError, AttributeError, KeyError, TypeError, ValueError) as error:
                self._refused.add((kind, key))
                log.error("record_not_followed", kind=kind, key=key, problem=str(error))  # noqa: TRY400 - in one line
        return unfit

    def _apply(self, kind: str, key: str, record: Record | None) -> Iterable[Place]:
        self._durable.followed(kind, key)
        if kind == BINDING:
            return self._apply_binding(key, record)
        ended: Sequence[Binding] | None
        if kind == EXCHANGE:
            spec = None if record is None else unpack_exchange(record.value)
            ended = self._apply_exchange(key, spec)
        else:
            ended = self._follow_queue(key, None if record is None else unpack_queue(record.value))
        if ended is None:
            self._again.add((kind, key))
            return ()
        self._writer.known(kind, key, 0 if record is None else record.version)
        return [(BINDING, binding_key(binding)) for binding in ended]

    # Exchanges

    def _exchanges(self) -> list[str]:
        return [name for name, spec in self._topology.exchanges() if spec.durable and name not in PREDECLARED]

    def _apply_exchange(self, name: str, spec: ExchangeSpec | None) -> Sequence[Binding]:
        """The durable bindings that end with what was here."""
        topology = self._topology
        ended: Sequence[Binding] = ()
        if topology.has_exchange(name):
            here = topology.exchange_spec(name)
            if here == spec or name in PREDECLARED or not here.durable:
                if spec is not None and not here.durable:
                    log.warning("exchange_differs", exchange=name)  # until this one is deleted
                return ()
            ended = topology.withdraw_exchange(name)
        if spec is not None:
            with topology.untold():
                topology.declare_exchange(name, spec)
        return ended

    # Queues

    def _queues(self) -> list[str]:
        return [name for name in self._topology.queues() if self._topology.is_durable(name)]

    # Bindings

    def _bindings(self) -> list[str]:
        topology = self._topology
        return [
            binding_key(each) for each in topology.all_bindings() if topology.is_kept(each.source, each.destination)
        ]

    def _apply_binding(self, key: str, record: Record | None) -> Sequence[Place]:
        binding = parse_binding(key)
        if record is None:
            self._topology.withdraw_binding(binding)
        elif self._missing(binding):
            return [(BINDING, key)]
        else:
            with self._topology.untold():
                self._topology.bind(binding.destination, binding.source, binding.pattern, binding.arguments)
        return ()

    def _missing(self, binding: Binding) -> list[Place]:
        """The ends of a binding that are not known here."""
        source, destination = binding.source, binding.destination
        missing = [] if source == DEFAULT_EXCHANGE or self._topology.has_exchange(source) else [(EXCHANGE, source)]
        if isinstance(destination, ToExchange):
            known = self._topology.has_exchange(destination.exchange)
            return missing if known else [*missing, (EXCHANGE, destination.exchange)]
        return missing if self._topology.has_queue(destination) else [*missing, (QUEUE, destination)]

    async def _mend(self, unfit: Iterable[Place]) -> None:
        """Bindings whose ends are not as they were: see what the store has of the ends first, and then of them."""
        for kind, key in unfit:
            binding = parse_binding(key)
            for end in self._missing(binding):
                await self._read_all([end])
            with self._writer.watching() as written:
                record = await self._store.get(kind, key)
                if (kind, key) in written:
                    self._again.add((kind, key))
                    continue
                missing = self._missing(binding) if record is not None else []
                if not missing:
                    self._apply_all([(kind, key, record)], written)
            if missing and record is not None:
                await self._discard(record, missing)

    async def _discard(self, record: Record, missing: Sequence[Place]) -> None:
        """Remove a binding that was made while one of its ends was being deleted: nobody else knows of it."""
        for kind, key in missing:
            if (kind, key) in self._refused:
                log.warning("binding_not_followed", binding=record.key)  # as its end, until the next rescan
                return
            if self._writer.is_pending(kind, key) or await self._store.get(kind, key) is not None:
                self._again.add((BINDING, record.key))
                return
        self._writer.known(BINDING, record.key, record.version)
        self._writer.write(BINDING, record.key, None, conditional=True)
        self._again.add((BINDING, record.key))
        log.info("binding_ended", binding=record.key)
