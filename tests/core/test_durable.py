"""The topology that outlives the gateway: written before it is told, to whom it concerns, and read back as it was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from adapters.memory.store import MemoryStore
from gateway.core.backend import QueueSpec
from gateway.core.durable import DurableTopology
from gateway.core.exchanges import ExchangeSpec, ExchangeType, ToExchange
from gateway.core.message import HeaderValue
from gateway.core.statewriter import StateWriter
from gateway.core.store import Record, StoreError
from gateway.core.topology import Topology
from gateway.core.topologyrecords import BINDING, EXCHANGE, QUEUE
from tests.rig.clock import on_clock, settle_down

DURABLE = ExchangeSpec(type=ExchangeType.TOPIC, durable=True)


class Store(MemoryStore):
    """Fails, or waits, when a test wants it to."""

    def __init__(self) -> None:
        super().__init__()
        self.error: StoreError | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.writes = 0

    async def put(
        self, kind: str, key: str, value: bytes, *, expected: int | None = None, expires_at: float | None = None
    ) -> Record:
        await self._wait()
        return await super().put(kind, key, value, expected=expected, expires_at=expires_at)

    async def delete(self, kind: str, key: str, *, expected: int | None = None) -> bool:
        await self._wait()
        return await super().delete(kind, key, expected=expected)

    async def _wait(self) -> None:
        self.writes += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error


class Rig:
    def __init__(self) -> None:
        self.store = Store()
        self.durable = DurableTopology(self.store, StateWriter(self.store))
        self.topology = Topology(journal=self.durable)

    async def written(self) -> None:
        written = self.durable.written()
        assert written is not None
        await written

    async def restored(self) -> tuple[Topology, dict[str, QueueSpec]]:
        """What another gateway finds."""
        topology = Topology()
        durable = DurableTopology(self.store, StateWriter(self.store))
        queues = dict(await durable.restore(topology))
        for name in queues:
            topology.declare_queue(name, durable=True)
        await durable.restore_bindings(topology)
        return topology, queues


ARGUMENTS: dict[str, HeaderValue] = {
    "text": "a",
    "number": 2**60,
    "flag": True,
    "nothing": None,
    "bytes": b"\xff",
    "decimal": Decimal("1.50"),
    "time": datetime(2026, 1, 1, tzinfo=UTC),
    "table": {"list": [1, "x"]},
}


@on_clock
async def test_everything_durable_comes_back_as_it_was() -> None:
    rig = Rig()
    logs = ExchangeSpec(type=ExchangeType.HEADERS, durable=True, internal=True, auto_delete=True, arguments=ARGUMENTS)
    rig.topology.declare_exchange("logs", logs)
    rig.topology.declare_exchange("in", DURABLE)
    rig.topology.declare_queue("orders", durable=True)
    rig.durable.queue_changed("orders", QueueSpec(arguments=ARGUMENTS))
    rig.topology.bind("orders", "logs", "k", ARGUMENTS)
    rig.topology.bind(ToExchange("logs"), "in", "a.#")
    await rig.written()
    topology, queues = await rig.restored()
    assert topology.exchange_spec("logs") == logs
    assert topology.exchange_spec("in") == DURABLE
    assert queues == {"orders": QueueSpec(arguments=ARGUMENTS)}
    assert topology.bindings("orders") == rig.topology.bindings("orders")
    assert topology.bindings(ToExchange("logs")) == rig.topology.bindings(ToExchange("logs"))
    assert topology.route("in", "a.b", ARGUMENTS) == ("orders",)


@on_clock
async def test_what_ends_is_forgotten_with_all_that_hangs_on_it() -> None:
    rig = Rig()
    rig.topology.declare_exchange("logs", DURABLE)
    rig.topology.declare_queue("orders", durable=True)
    rig.topology.bind("orders", "logs", "a")
    rig.topology.bind("orders", "amq.topic", "b")
    await rig.written()
    rig.topology.delete_exchange("logs")
    await rig.written()
    assert not await rig.store.scan(EXCHANGE)
    assert len(await rig.store.scan(BINDING)) == 1
    rig.topology.delete_queue("orders")
    await rig.written()
    assert not await rig.store.scan(BINDING)


@on_clock
async def test_only_what_is_durable_at_both_ends_is_written() -> None:
    rig = Rig()
    rig.topology.declare_exchange("passing", ExchangeSpec(type=ExchangeType.TOPIC))
    rig.topology.declare_queue("live")
    rig.topology.declare_queue("orders", durable=True)
    rig.topology.bind("live", "amq.topic", "a")
    rig.topology.bind("orders", "passing", "a")
    rig.topology.bind(ToExchange("passing"), "amq.topic", "a")
    rig.topology.delete_queue("live")
    rig.topology.delete_exchange("passing")
    assert rig.durable.written() is None
    assert rig.store.writes == 0


@on_clock
async def test_who_changed_it_waits_for_it_and_is_told_what_went_wrong() -> None:
    rig = Rig()
    rig.store.open.clear()
    rig.topology.declare_exchange("a", DURABLE)
    first = rig.durable.written()
    assert first is not None
    assert rig.durable.written() is None, "one's own writes only"
    waiting = asyncio.ensure_future(first)
    await settle_down()
    assert not waiting.done()
    rig.store.error = StoreError("out of space")
    rig.store.open.set()
    with capture_logs(), pytest.raises(StoreError, match="out of space"):
        await waiting


@on_clock
async def test_who_asks_again_is_not_told_that_it_is_durable_before_it_is() -> None:
    rig = Rig()
    rig.store.error = StoreError("out of space")
    rig.topology.declare_queue("orders", durable=True)
    with capture_logs():
        for change in (
            lambda: rig.topology.declare_exchange("logs", DURABLE),
            lambda: rig.topology.declare_exchange("logs", DURABLE),
            lambda: rig.topology.bind("orders", "logs", "a"),
            lambda: rig.topology.bind("orders", "logs", "a"),
            lambda: rig.durable.queue_changed("orders", QueueSpec()),
            lambda: rig.durable.queue_repeated("orders"),
        ):
            change()
            with pytest.raises(StoreError):
                await rig.written()
    rig.store.error = None
    rig.topology.declare_exchange("logs", DURABLE)
    rig.topology.bind("orders", "logs", "a")
    rig.durable.queue_repeated("orders")
    await rig.written()
    topology, queues = await rig.restored()
    assert topology.route("logs", "a") == ("orders",)
    assert list(queues) == ["orders"]
    rig.topology.declare_exchange("logs", DURABLE)
    assert rig.durable.written() is None, "it is written"


@on_clock
async def test_a_deletion_that_failed_is_tried_again_by_who_asks_for_it_again() -> None:
    rig = Rig()
    rig.topology.declare_exchange("logs", DURABLE)
    await rig.written()
    rig.store.error = StoreError("out of space")
    with capture_logs():
        rig.topology.delete_exchange("logs")
        with pytest.raises(StoreError):
            await rig.written()
    rig.store.error = None
    assert not rig.topology.delete_exchange("logs")
    await rig.written()
    assert not await rig.store.scan(EXCHANGE)


@on_clock
async def test_a_later_change_is_not_taken_for_written_with_an_earlier_one() -> None:
    rig = Rig()
    rig.store.open.clear()
    rig.topology.declare_exchange("logs", DURABLE)
    first = rig.durable.written()
    await settle_down()
    rig.topology.delete_exchange("logs")
    rig.durable.forget()
    rig.store.open.set()
    assert first is not None
    await first
    await settle_down(50)
    assert not await rig.store.scan(EXCHANGE)
    assert not rig.durable._undone


@on_clock
async def test_a_record_that_cannot_be_read_costs_only_itself() -> None:
    rig = Rig()
    rig.topology.declare_exchange("good", DURABLE)
    rig.durable.queue_changed("orders", QueueSpec())
    await rig.written()
    for kind, key, value in (
        (EXCHANGE, "text", b"no json"),
        (EXCHANGE, "type", b'{"type":"odd","auto_delete":false,"internal":false,"arguments":{}}'),
        (EXCHANGE, "list", b'{"type":"topic","auto_delete":false,"internal":false,"arguments":[]}'),
        (QUEUE, "empty", b"{}"),
        (QUEUE, "list", b'{"arguments":[]}'),
        (BINDING, "no json", b"{}"),
        (BINDING, '["gone","queue","orders","a",{}]', b"{}"),
        (BINDING, '["good","queue","nobody","a",{}]', b"{}"),
    ):
        await rig.store.put(kind, key, value)
    with capture_logs() as lines:
        topology, queues = await rig.restored()
    assert len(lines) == 8
    assert list(queues) == ["orders"]
    assert topology.exchange_spec("good") == DURABLE
