"""What the audit log says of commands: changes of the topology, by whom. Live subscriptions are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from gateway.core.audit import audit
from gateway.core.broker import Broker
from gateway.core.commands import (
    Bind,
    BindExchange,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Presence,
    PurgeQueue,
    Unbind,
    UnbindExchange,
)
from gateway.core.exchanges import ToExchange
from gateway.net.commands import Peer

Fields: TypeAlias = Mapping[str, str]
Change: TypeAlias = tuple[str, Fields]
"""The name of the event, and what it is about."""


def change(broker: Broker, command: object) -> Change | None:
    """What a command that succeeds changes, judged before it is executed; None for most.

    Raises `InvalidArgument` for arguments that the command will be refused for.
    """
    judge = _JUDGES.get(type(command))
    return None if judge is None else judge(broker, command)


def tell(peer: Peer, connection: int, told: Change) -> None:
    """Write the line, after the command has succeeded."""
    event, fields = told
    user = peer.identity.user if peer.identity is not None else ""
    audit.info(event, user=user, client_id=peer.client_id, peer=peer.address, connection=connection, **fields)


def _declare_queue(broker: Broker, command: DeclareQueue) -> Change | None:
    renewed = command.presence is Presence.RENEWED and not broker.is_declared_as(command.queue, command.spec)
    if command.spec.virtual or (broker.topology.has_queue(command.queue) and not renewed):
        return None
    return "queue_declared", {"queue": command.queue}


def _delete_queue(broker: Broker, command: DeleteQueue) -> Change | None:
    return ("queue_deleted", {"queue": command.queue}) if broker.is_durable(command.queue) else None


def _purge_queue(_: Broker, command: PurgeQueue) -> Change | None:
    return "queue_purged", {"queue": command.queue}


def _declare_exchange(broker: Broker, command: DeclareExchange) -> Change | None:
    if broker.topology.has_exchange(command.exchange):
        return None
    return "exchange_declared", {"exchange": command.exchange, "type": command.spec.type.value}


def _delete_exchange(broker: Broker, command: DeleteExchange) -> Change | None:
    if not broker.topology.has_exchange(command.exchange):
        return None
    return "exchange_deleted", {"exchange": command.exchange}


def _bind(broker: Broker, command: Bind) -> Change | None:
    if not broker.is_durable(command.queue) or _is_bound(broker, command.queue, command):
        return None
    return "queue_bound", _binding(command.exchange, command.pattern, queue=command.queue)


def _unbind(broker: Broker, command: Unbind) -> Change | None:
    if not broker.is_durable(command.queue) or not _is_bound(broker, command.queue, command):
        return None
    return "queue_unbound", _binding(command.exchange, command.pattern, queue=command.queue)


def _is_bound(broker: Broker, queue: str, command: Bind | Unbind) -> bool:
    return broker.topology.has_binding(queue, command.exchange, command.pattern, command.arguments)


def _bind_exchange(broker: Broker, command: BindExchange) -> Change | None:
    if _leads_on(broker, command):
        return None
    return "exchange_bound", _binding(command.source, command.pattern, to=command.destination)


def _unbind_exchange(broker: Broker, command: UnbindExchange) -> Change | None:
    if not _leads_on(broker, command):
        return None
    return "exchange_unbound", _binding(command.source, command.pattern, to=command.destination)


def _leads_on(broker: Broker, command: BindExchange | UnbindExchange) -> bool:
    destination = ToExchange(command.destination)
    return broker.topology.has_binding(destination, command.source, command.pattern, command.arguments)


def _binding(exchange: str, pattern: str, **destination: str) -> Fields:
    return {"exchange": exchange, "pattern": pattern, **destination}


# Each judge takes the commands of its own type only.
_JUDGES: Final[Mapping[type[object], Callable[[Broker, Any], Change | None]]] = {
    DeclareQueue: _declare_queue,
    DeleteQueue: _delete_queue,
    PurgeQueue: _purge_queue,
    DeclareExchange: _declare_exchange,
    DeleteExchange: _delete_exchange,
    Bind: _bind,
    Unbind: _unbind,
    BindExchange: _bind_exchange,
    UnbindExchange: _unbind_exchange,
}
