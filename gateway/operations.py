"""What operators see of one gateway, and do with it: the site of its admin server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Final

from prometheus_client import CollectorRegistry

from gateway.admin.pages import page
from gateway.admin.port import Listing, NoSuch, Readiness, Row
from gateway.core.broker import Broker
from gateway.core.errors import BackendError
from gateway.core.exchanges import ExchangeSpec, ToExchange
from gateway.core.health import Health
from gateway.core.metrics import Metrics
from gateway.core.queues import BackendQueue
from gateway.core.queuetable import Queue
from gateway.core.topology import Binding, UnknownQueue
from gateway.core.virtual import VirtualQueue
from gateway.net.connection import Connection
from gateway.net.listener import Listener

DEPTHS_AT_ONCE: Final = 10
"""Requests for the counts of queues under way at once."""


class Operations:
    """One gateway's `Site`. `worker` is its number among those that share its ports, 1 for one alone."""

    def __init__(
        self, broker: Broker, listeners: Sequence[Listener], metrics: Metrics, health: Health, worker: int = 1
    ) -> None:
        self._broker = broker
        self._listeners = listeners
        self._metrics = metrics
        self._health = health
        self._worker = worker
        self._started = time.time()

    async def registry(self) -> CollectorRegistry:
        return self._metrics.registry

    async def readiness(self) -> Readiness:
        health = self._health
        return Readiness(ready=health.ready, draining=health.draining, problems=tuple(health.problems))

    async def overview(self) -> Row:
        connections = [connection for _, connection in self._connections()]
        queues = list(self._broker.queues())
        return {
            "version": metadata.version("mqlift"),
            "started": self._started,
            "workers": 1,
            "ready": self._health.ready,
            "problems": len(self._health.problems),
            "connections": len(connections),
            "paused": sum(bool(connection.paused) for connection in connections),
            "queues": len(queues),
            "bindings": self._broker.bindings,
            "sessions": self._broker.kept_sessions,
            "retained": self._broker.retained_messages,
            "published": self._metrics.total("mqlift_publishes"),
            "delivered": self._metrics.total("mqlift_messages_delivered"),
            "unrouted": self._metrics.total("mqlift_unrouted"),
            "inflight": self._broker.inflight,
            "unsettled": sum(queue.unsettled for queue in queues),
        }

    async def rows(self, listing: Listing, limit: int, after: str, *, depth: bool) -> list[Row]:
        match listing:
            case Listing.CONNECTIONS:
                found = page(self._connections(), lambda each: self._id(each[1]), limit, after)
                return [self._connection(listener, connection) for listener, connection in found]
            case Listing.QUEUES:
                return await self._queue_rows(
                    page(self._broker.queues(), lambda queue: queue.name, limit, after), depth
                )
            case Listing.EXCHANGES:
                exchanges = page(self._broker.topology.exchanges(), lambda each: each[0], limit, after)
                return [_exchange(name, spec) for name, spec in exchanges]
            case Listing.BINDINGS:
                bindings = page(self._broker.topology.all_bindings(), _binding_id, limit, after)
                return [_binding(binding) for binding in bindings]

    async def purge(self, queue: str) -> int:
        try:
            return (await self._broker.purge_queue(queue, None)).messages
        except UnknownQueue as error:
            raise NoSuch(str(error)) from error

    async def close(self, connection: str) -> None:
        for _, each in self._connections():
            if self._id(each) == connection:
                each.shutdown()
                return
        raise NoSuch(f"no connection {connection!r}")

    def _connections(self) -> Iterable[tuple[Listener, Connection]]:
        return ((listener, each) for listener in self._listeners for each in listener.connections)

    def _id(self, connection: Connection) -> str:
        return f"{self._worker}-{connection.number}"

    def _connection(self, listener: Listener, connection: Connection) -> Row:
        peer = connection.peer
        return {
            "id": self._id(connection),
            "peer": peer.address,
            "protocol": listener.options.protocol,
            "port": listener.options.port,
            "user": peer.identity.user if peer.identity is not None else "",
            "client_id": peer.client_id,
            "since": connection.connected_at,
            "published": connection.published,
            "delivered": connection.delivered,
            "inflight": connection.inflight,
            "paused": connection.paused,
            "subscriptions": peer.subscriptions,
        }

    async def _queue_rows(self, queues: Sequence[Queue], depth: bool) -> list[Row]:
        asking = asyncio.Semaphore(DEPTHS_AT_ONCE)

        async def row(queue: Queue) -> Row:
            shown = _queue(queue)
            if depth and isinstance(queue, BackendQueue):
                async with asking:
                    shown |= await _depth(queue)
            return shown

        return list(await asyncio.gather(*(row(queue) for queue in queues)))


def _queue(queue: Queue) -> Row:
    virtual = isinstance(queue, VirtualQueue)
    return {
        "name": queue.name,
        "kind": "virtual" if virtual else "durable",
        "home": "memory of the gateway"
        if isinstance(queue, VirtualQueue)
        else f"{queue.target.kind} {queue.target.name}",
        "consumers": queue.consumers,
        "unsettled": queue.unsettled,
        "ready": queue.ready if isinstance(queue, VirtualQueue) else None,
        "published": queue.published,
        "delivered": queue.delivered,
    }


async def _depth(queue: BackendQueue) -> Row:
    try:
        return {"ready": (await queue.depth()).ready}
    except BackendError as error:
        return {"problem": str(error)}


def _exchange(name: str, spec: ExchangeSpec) -> Row:
    return {
        "name": name,
        "type": spec.type.value,
        "durable": spec.durable,
        "auto_delete": spec.auto_delete,
        "internal": spec.internal,
        "alternate": spec.alternate,
    }


def _binding_id(binding: Binding) -> str:
    """Tells one binding from all others."""
    arguments = sorted(binding.arguments.items(), key=lambda item: item[0])
    return f"{binding.source} {binding.destination} {binding.pattern} {arguments or ''}".rstrip()


def _binding(binding: Binding) -> Row:
    destination = binding.destination
    to_exchange = isinstance(destination, ToExchange)
    return {
        "id": _binding_id(binding),
        "exchange": binding.source,
        "destination": destination.exchange if isinstance(destination, ToExchange) else destination,
        "destination_type": "exchange" if to_exchange else "queue",
        "pattern": binding.pattern,
        "arguments": {name: str(value) for name, value in binding.arguments.items()},
    }
