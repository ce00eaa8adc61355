"""What each command of a session does at the broker. When, and what follows, is the executor's.

A command is one line in one of three tables, and one function. Those of `WAITING` await something: what is behind them
waits too, and the peer is not read. Those of `CONCURRENT` are begun, and answered when they are done, while others go
on. Those of `IMMEDIATE` are done when they return, unless they return something to wait for: that what they did is
durable. All say by an `MqliftError` what went wrong.

What happens with every message, `Publish` and `Settle`, is in no table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import structlog

from gateway.core.broker import Broker, Owner
from gateway.core.errors import MqliftError, NotAuthorized, Refused
from gateway.core.exchanges import ToExchange
from gateway.core.message import DEFAULT_EXCHANGE, Address
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.session import (
    Authenticate,
    Authenticated,
    Bind,
    BindExchange,
    Cancel,
    Consume,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    EndSession,
    Get,
    KeepInflight,
    KeepSession,
    Opened,
    OpenSession,
    PurgeQueue,
    Retain,
    SendRetained,
    Unbind,
    UnbindExchange,
)
from gateway.core.statewriter import Done
from gateway.core.subscription import Subscription
from gateway.net.guard import Guard

log = structlog.get_logger("mqlift.connection")


class Peer:
    """One connection, as commands see it: who it is at the broker, and what it consumes there."""

    __slots__ = ("_subscriptions", "blocked", "broker", "client_id", "guard", "owner")

    def __init__(self, broker: Broker, owner: Owner) -> None:
        self.broker = broker
        self.owner = owner
        self.client_id = ""
        """What it has claimed, until another connection claims it."""
        self.guard = None if broker.authorizer is None else Guard(broker.authorizer)
        self.blocked = False
        """Whether it does not read what it was sent."""
        self._subscriptions: dict[str, Subscription] | None = None  # most connections have none

    def subscribe(self, command: Consume) -> Awaitable[None] | None:
        """What to wait for until it consumes, if anything.

        Raises `Refused` for a tag that is in use, and what `Broker.consume` raises.
        """
        if self._subscriptions is None:
            self._subscriptions = {}
        if command.tag in self._subscriptions:
            raise Refused(f"there is a consumer '{command.tag}' already")
        subscription = self.broker.consume(command, self.owner)
        if self.blocked:
            subscription.blocked = True
        self._subscriptions[command.tag] = subscription
        return subscription.begun

    def unsubscribe(self, tag: str) -> None:
        """Stop a consumer, if there is one of this tag."""
        subscription = self._subscriptions.pop(tag, None) if self._subscriptions else None
        if subscription is not None:
            subscription.cancel()

    def may_receive(self, subscription: Subscription, address: Address) -> bool:
        """A wildcard may bring what is not for this peer. What a shared queue has is for whoever may consume it."""
        if self.guard is None or not self.broker.is_private(subscription.queue.name, self.owner):
            return True
        return self.guard.may_receive(address)

    def block(self) -> None:
        """No more deliveries, until the peer has read what it was sent."""
        self.blocked = True
        for subscription in self._consuming():
            subscription.blocked = True

    def unblock(self) -> None:
        self.blocked = False
        for subscription in self._consuming():
            subscription.unblock()

    def leave(self) -> None:
        """Take part in nothing any more: no deliveries, no claim, and no queues of its own. Idempotent."""
        for subscription in self._consuming():
            subscription.cancel()
        self.broker.disconnected(self.owner, self.client_id)

    def _consuming(self) -> list[Subscription]:
        return list(self._subscriptions.values()) if self._subscriptions else []


# Waiting


async def _authenticate(peer: Peer, command: Authenticate) -> Result:
    identity = await peer.broker.authenticate(command.credentials)
    if peer.guard is not None:
        peer.guard.identity = identity
    return Authenticated(identity)


async def _open_session(peer: Peer, command: OpenSession) -> Result:
    peer.client_id = command.client_id
    return Opened(await peer.broker.open_session(command.client_id, peer.owner, clean=command.clean))


async def _keep_session(peer: Peer, command: KeepSession) -> Result:
    return await _told(lambda done: peer.broker.keep_session(command.client_id, command.record, done))


async def _declare_queue(peer: Peer, command: DeclareQueue) -> Result:
    return await peer.broker.declare_queue(command.queue, command.spec, peer.owner, command.presence)


async def _delete_queue(peer: Peer, command: DeleteQueue) -> Result:
    return await peer.broker.delete_queue(
        command.queue, peer.owner, if_unused=command.if_unused, if_empty=command.if_empty
    )


async def _purge_queue(peer: Peer, command: PurgeQueue) -> Result:
    return await peer.broker.purge_queue(command.queue, peer.owner)


async def _get(peer: Peer, command: Get) -> Result:
    _check_consuming(peer, command.queue)
    return await peer.broker.get(command.queue, peer.owner)


async def _send_retained(peer: Peer, command: SendRetained) -> Result:
    return await _told(
        lambda done: peer.broker.send_retained(
            command.queue, command.exchange, command.pattern, peer.owner, _Waiter(done)
        )
    )


async def _told(begin: Callable[[Done], None]) -> Result:
    """Begin something that tells a callback when it is done, and wait for that."""
    answered: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(error: MqliftError | None) -> None:
        if not answered.done():
            answered.set_result(result_of(error))

    begin(done)
    return await answered


class _Waiter:
    """Passes the one answer to retained messages on."""

    __slots__ = ("_done",)

    def __init__(self, done: Done) -> None:
        self._done = done

    def answer(self, token: object, result: Result) -> None:  # noqa: ARG002 - there is one
        self._done(result.error)


# Concurrent


def _retain(peer: Peer, command: Retain, done: Done) -> None:
    if peer.guard is not None:
        peer.guard.check_publishing(command.message.address)
    peer.broker.retain(command.message, done)


def _keep_inflight(peer: Peer, command: KeepInflight, done: Done) -> None:
    peer.broker.keep_inflight(command.client_id, command.inflight, done)


# Immediate


def _declare_exchange(peer: Peer, command: DeclareExchange) -> Awaitable[None] | None:
    return peer.broker.declare_exchange(command.exchange, command.spec, command.presence)


def _delete_exchange(peer: Peer, command: DeleteExchange) -> Awaitable[None] | None:
    return peer.broker.delete_exchange(command.exchange, if_unused=command.if_unused)


def _bind(peer: Peer, command: Bind) -> Awaitable[None] | None:
    if peer.guard is not None:
        peer.guard.check_subscribing(command.exchange, command.pattern)
    return peer.broker.bind(command.queue, command.exchange, command.pattern, command.arguments)


def _unbind(peer: Peer, command: Unbind) -> Awaitable[None] | None:
    return peer.broker.unbind(command.queue, command.exchange, command.pattern, command.arguments)


def _bind_exchange(peer: Peer, command: BindExchange) -> Awaitable[None] | None:
    if peer.guard is not None:
        peer.guard.check_subscribing(command.source, command.pattern)
    return peer.broker.bind(ToExchange(command.destination), command.source, command.pattern, command.arguments)


def _unbind_exchange(peer: Peer, command: UnbindExchange) -> Awaitable[None] | None:
    return peer.broker.unbind(ToExchange(command.destination), command.source, command.pattern, command.arguments)


def _consume(peer: Peer, command: Consume) -> Awaitable[None] | None:
    _check_consuming(peer, command.queue)
    begun = peer.subscribe(command)
    return None if begun is None else _begun(peer, command.tag, begun)


async def _begun(peer: Peer, tag: str, begun: Awaitable[None]) -> None:
    try:
        await begun
    except BaseException:
        peer.unsubscribe(tag)
        raise


def _cancel(peer: Peer, command: Cancel) -> None:
    peer.unsubscribe(command.tag)


def _check_consuming(peer: Peer, queue: str) -> None:
    if peer.guard is not None and not peer.broker.is_private(queue, peer.owner):
        peer.guard.check_subscribing(DEFAULT_EXCHANGE, queue)


def end_session(peer: Peer, command: EndSession) -> None:
    """Has no answer, and is executed whatever has become of the connection: so it is in no table."""
    will = command.will
    if will is not None and peer.guard is not None and (refusal := peer.guard.refusal(will.address)) is not None:
        log.info("will_not_allowed", client_id=command.client_id, problem=str(refusal))
        will = None
    peer.broker.end_session(command.client_id, peer.owner, command.expiry, will, command.will_delay)


Wait: TypeAlias = Callable[[Peer, Any], Awaitable[Result]]
Begin: TypeAlias = Callable[[Peer, Any, Done], None]
Do: TypeAlias = Callable[[Peer, Any], Awaitable[None] | None]

WAITING: Final[Mapping[type[object], Wait]] = {
    Authenticate: _authenticate,
    OpenSession: _open_session,
    KeepSession: _keep_session,
    DeclareQueue: _declare_queue,
    DeleteQueue: _delete_queue,
    PurgeQueue: _purge_queue,
    Get: _get,
    SendRetained: _send_retained,
}
CONCURRENT: Final[Mapping[type[object], Begin]] = {
    Retain: _retain,
    KeepInflight: _keep_inflight,
}
IMMEDIATE: Final[Mapping[type[object], Do]] = {
    DeclareExchange: _declare_exchange,
    DeleteExchange: _delete_exchange,
    BindExchange: _bind_exchange,
    UnbindExchange: _unbind_exchange,
    Bind: _bind,
    Unbind: _unbind,
    Consume: _consume,
    Cancel: _cancel,
}

AT_THE_END: Final = frozenset({KeepInflight})
"""Executed also when nobody is left to be answered."""


def result_of(error: MqliftError | None) -> Result:
    """What a session is told of a fault: a limit or a ban is a refusal, everything else may pass."""
    if error is None:
        return ACCEPTED
    return Result(Outcome.REJECTED if isinstance(error, Refused | NotAuthorized) else Outcome.RELEASED, error)
