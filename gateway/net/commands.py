"""What each command of a session does at the broker. When, and what follows, is the executor's.

A command is one line in one of three tables, and one function. Those of `WAITING` await something: what is behind them
waits too, and the peer is not read. Those of `CONCURRENT` are begun, and answered when they are done, while others go
on. Those of `IMMEDIATE` are done when they return, unless they return something to wait for: that what they did is
durable. All say by an `MqliftError` what went wrong.

What happens with every message, `Publish` and `Settle`, is in no table.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

import structlog

from gateway.core.arguments import DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY
from gateway.core.audit import audit
from gateway.core.auth import Credentials, Identity, renewed
from gateway.core.broker import Broker, Owner
from gateway.core.certificate import Certificate
from gateway.core.commands import (
    Authenticate,
    Authenticated,
    Bind,
    BindExchange,
    Cancel,
    ClaimClientId,
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
    Prefetch,
    Presence,
    PurgeQueue,
    Rebind,
    Retain,
    SendRetained,
    Unbind,
    UnbindExchange,
)
from gateway.core.errors import MqliftError, NotAuthorized, Refused
from gateway.core.exchanges import ToExchange
from gateway.core.later import Later
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address, Message
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.shared import SESSION, SHARED
from gateway.core.statewriter import Done
from gateway.core.subscription import Subscription
from gateway.core.topology import UnknownQueue
from gateway.net.guard import Guard
from gateway.net.limits import ConnectionLimits
from gateway.net.quotas import Seat
from gateway.net.transports import address

log = structlog.get_logger("mqlift.connection")


class Peer:
    """One connection, as commands see it: who it is at the broker, and what it consumes there."""

    __slots__ = (
        "_subscriptions",
        "address",
        "blocked",
        "broker",
        "client_id",
        "ends_at",
        "guard",
        "holding",
        "identity",
        "kept_queue",
        "limits",
        "owner",
        "seat",
        "session",
        "transport",
    )

    def __init__(self, broker: Broker, owner: Owner, limits: ConnectionLimits, seat: Seat) -> None:
        self.broker = broker
        self.owner = owner
        self.client_id = ""
        """What it has claimed, until another connection claims it."""
        self.session = ""
        """The client id whose session it was given: its end is this connection's to tell, also after a takeover."""
        self.guard = None if broker.authorizer is None else Guard(broker.authorizer)
        self.kept_queue = ""
        """That of its own session, which is kept."""
        self.identity: Identity | None = None
        """Who it has proved to be."""
        self.ends_at = math.inf
        """When that proof is no longer good, by the event loop's clock."""
        self.transport: asyncio.BaseTransport | None = None
        self.address = ""
        """Where it connects from."""
        self.blocked = False
        """Whether it does not read what it was sent."""
        self.limits = limits
        self.seat = seat
        self.holding = Prefetch(limits.unacknowledged) if limits.unacknowledged else None
        """What its consumers hold together."""
        self._subscriptions: dict[str, Subscription] | None = None  # most connections have none

    def owns(self, queue: str) -> bool:
        """Whether only this connection consumes a queue. Somebody else's kept session is not for it."""
        if self.broker.is_kept_session(queue):
            return queue == self.kept_queue
        return self.broker.is_private(queue, self.owner)

    def subscribe(self, command: Consume) -> Awaitable[None] | None:
        """What to wait for until it consumes, if anything.

        Raises `Refused` for a tag that is in use and for one too many, and what `Broker.consume` raises.
        """
        if self._subscriptions is None:
            self._subscriptions = {}
        if command.tag in self._subscriptions:
            raise Refused(f"there is a consumer '{command.tag}' already")
        if len(self._subscriptions) >= self.limits.consumers:
            raise Refused(f"there are {self.limits.consumers} consumers already")
        if command.shared is None and self.holding is not None:
            command = replace(command, shared=self.holding)
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

    @property
    def subscriptions(self) -> int:
        return len(self._subscriptions) if self._subscriptions else 0

    def may_receive(self, subscription: Subscription, address: Address) -> bool:
        """A wildcard may bring what is not for this peer. What a shared queue has is for whoever may consume it."""
        if self.guard is None or not self.owns(subscription.queue.name):
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
    """A peer that is in may prove again who it is, as the same user: it stays for as long as the new proof is good."""
    identity = await peer.broker.authenticate(_with_proofs(command.credentials, peer.transport))
    identity = identity if peer.identity is None else renewed(peer.identity, identity)
    peer.seat.belongs_to(identity.user)
    peer.identity = identity
    now = asyncio.get_running_loop().time()
    peer.ends_at = math.inf if identity.expires_at is None else now + identity.expires_at - time.time()
    if peer.guard is not None:
        peer.guard.identity = identity
    return Authenticated(identity)


def _with_proofs(credentials: Credentials, transport: asyncio.BaseTransport | None) -> Credentials:
    """With what only the connection knows: where the peer is, and the certificate that TLS has verified."""
    if transport is None:
        return credentials
    return replace(
        credentials,
        peer=address(transport.get_extra_info("peername")),
        certificate=Certificate.of(transport.get_extra_info("peercert")),
    )


async def _open_session(peer: Peer, command: OpenSession) -> Result:
    client_id, user = command.client_id, "" if peer.identity is None else peer.identity.user
    try:
        peer.broker.check_client_id(client_id, user)
    except NotAuthorized:
        audit.warning("client_id_refused", user=user, client_id=client_id, peer=peer.address)
        raise
    peer.client_id = peer.session = client_id
    return Opened(await peer.broker.open_session(client_id, peer.owner, clean=command.clean, user=user))


async def _keep_session(peer: Peer, command: KeepSession) -> Result:
    record = replace(command.record, will=_allowed_will(peer, command.client_id, command.record.will))
    return await _told(lambda done: peer.broker.keep_session(command.client_id, record, done))


def _allowed_will(peer: Peer, client_id: str, will: Message | None) -> Message | None:
    """A will that the peer may not publish is none."""
    if will is None or peer.guard is None or (refusal := peer.guard.refusal(will.address)) is None:
        return will
    log.info("will_not_allowed", client_id=client_id, problem=str(refusal))
    return None


async def _declare_queue(peer: Peer, command: DeclareQueue) -> Result:
    presence = _allowed_presence(peer, command)
    _check_dead_letters(peer, command)
    if command.spec.arguments.get(SESSION):
        peer.kept_queue = command.queue
    try:
        return await peer.broker.declare_queue(command.queue, command.spec, peer.owner, presence)
    except UnknownQueue as error:
        if presence is command.presence:
            raise
        raise NotAuthorized(f"configuring '{command.queue}' is not allowed") from error


def _allowed_presence(peer: Peer, command: DeclareQueue) -> Presence:
    """A protocol that has no declarations wants a queue that will do: then who may make none may use what is there.

    Raises `NotAuthorized` where the client itself declares.
    """
    guard, presence, spec = peer.guard, command.presence, command.spec
    if guard is None or presence is Presence.REQUIRED:
        return presence
    if presence is Presence.EQUIVALENT:
        guard.check_declaring(DEFAULT_EXCHANGE, command.queue)
        return presence
    if presence is Presence.RENEWED and not peer.broker.is_declared_as(command.queue, spec):
        guard.check_declaring(DEFAULT_EXCHANGE, command.queue)
        return presence
    of_a_protocol = spec.virtual or spec.arguments.get(SESSION) or spec.arguments.get(SHARED)
    return presence if of_a_protocol or guard.may_declare(DEFAULT_EXCHANGE, command.queue) else Presence.REQUIRED


def _check_dead_letters(peer: Peer, command: DeclareQueue) -> None:
    """As RabbitMQ, where a queue is made: its dead letters go where the peer may publish, and are such as it may read.

    A queue in memory is the peer's own: it may read that. Raises `NotAuthorized`.
    """
    arguments = command.spec.arguments
    exchange, key = arguments.get(DEAD_LETTER_EXCHANGE), arguments.get(DEAD_LETTER_ROUTING_KEY)
    made = command.presence is not Presence.REQUIRED and not peer.broker.topology.has_queue(command.queue)
    if peer.guard is None or not made or not isinstance(exchange, str):
        return
    key = key if isinstance(key, str) else ""
    if command.spec.virtual:
        peer.guard.check_onward(exchange, key)
    else:
        peer.guard.check_dead_letters(command.queue, exchange, key)


async def _delete_queue(peer: Peer, command: DeleteQueue) -> Result:
    if peer.guard is not None and not peer.owns(command.queue):
        peer.guard.check_declaring(DEFAULT_EXCHANGE, command.queue)
    return await peer.broker.delete_queue(
        command.queue, peer.owner, if_unused=command.if_unused, if_empty=command.if_empty
    )


async def _purge_queue(peer: Peer, command: PurgeQueue) -> Result:
    _check_consuming(peer, command.queue)
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


def _claim_client_id(peer: Peer, command: ClaimClientId) -> None:
    peer.broker.claim_client_id(command.client_id, peer.owner)
    peer.client_id = command.client_id


def _declare_exchange(peer: Peer, command: DeclareExchange) -> Awaitable[None] | None:
    if peer.guard is not None and command.presence is not Presence.REQUIRED:
        peer.guard.check_declaring(command.exchange, "")
        alternate = command.spec.alternate
        if alternate is not None and not peer.broker.topology.has_exchange(command.exchange):
            peer.guard.check_alternate(command.exchange, alternate)
    return peer.broker.declare_exchange(command.exchange, command.spec, command.presence)


def _delete_exchange(peer: Peer, command: DeleteExchange) -> Awaitable[None] | None:
    if peer.guard is not None:
        peer.guard.check_declaring(command.exchange, "")
    return peer.broker.delete_exchange(command.exchange, if_unused=command.if_unused)


def _bind(peer: Peer, command: Bind) -> Awaitable[None] | None:
    _check_binding(peer, command)
    peer.broker.check_owner(command.queue, peer.owner)
    return peer.broker.bind(command.queue, command.exchange, command.pattern, command.arguments)


def _unbind(peer: Peer, command: Unbind) -> Awaitable[None] | None:
    if not peer.owns(command.queue):
        _check_binding(peer, command)
    peer.broker.check_owner(command.queue, peer.owner)
    return peer.broker.unbind(command.queue, command.exchange, command.pattern, command.arguments)


def _rebind(peer: Peer, command: Rebind) -> Awaitable[None] | None:
    if peer.guard is not None:
        for exchange, pattern in command.bindings:
            peer.guard.check_subscribing(exchange, pattern)
    return peer.broker.rebind(command.queue, command.bindings)


def _bind_exchange(peer: Peer, command: BindExchange) -> Awaitable[None] | None:
    _check_exchange_binding(peer, command)
    return peer.broker.bind(ToExchange(command.destination), command.source, command.pattern, command.arguments)


def _unbind_exchange(peer: Peer, command: UnbindExchange) -> Awaitable[None] | None:
    _check_exchange_binding(peer, command)
    return peer.broker.unbind(ToExchange(command.destination), command.source, command.pattern, command.arguments)


def _consume(peer: Peer, command: Consume) -> Awaitable[None] | None:
    finding = peer.broker.finding(command.queue)
    return (
        _begin_consuming(peer, command) if finding is None else Later(lambda: _find_and_consume(peer, command, finding))
    )


async def _find_and_consume(peer: Peer, command: Consume, finding: Awaitable[None]) -> None:
    await finding
    begun = _begin_consuming(peer, command)
    if begun is not None:
        await begun


def _begin_consuming(peer: Peer, command: Consume) -> Awaitable[None] | None:
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
    """The queue of a shared subscription is for those who may have what is routed to it."""
    if peer.guard is None or peer.owns(queue):
        return
    sources = peer.broker.shared_sources(queue)
    for exchange, pattern in sources or ():
        peer.guard.check_binding(exchange, pattern)
    if not sources:
        peer.guard.check_subscribing(DEFAULT_EXCHANGE, queue)


def _check_binding(peer: Peer, command: Bind | Unbind) -> None:
    """What comes to a queue of the peer's own is asked about later, message by message; to others' it is not."""
    if peer.guard is None:
        return
    queue, exchange, pattern = command.queue, command.exchange, command.pattern
    if peer.owns(queue):
        peer.guard.check_subscribing(exchange, pattern)
        return
    peer.guard.check_binding(exchange, pattern)
    if exchange != TOPIC_EXCHANGE or peer.broker.shared_sources(queue) is None:
        peer.guard.check_feeding(DEFAULT_EXCHANGE, queue)


def _check_exchange_binding(peer: Peer, command: BindExchange | UnbindExchange) -> None:
    if peer.guard is not None:
        peer.guard.check_binding(command.source, command.pattern)
        peer.guard.check_feeding(command.destination, "")


def end_session(peer: Peer, command: EndSession) -> None:
    """Has no answer, and is executed whatever has become of the connection: so it is in no table."""
    if peer.session != command.client_id:
        return  # it was refused, or the connection ended before it was asked for: it is somebody else's
    will = _allowed_will(peer, command.client_id, command.will)
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
    ClaimClientId: _claim_client_id,
    DeclareExchange: _declare_exchange,
    DeleteExchange: _delete_exchange,
    BindExchange: _bind_exchange,
    UnbindExchange: _unbind_exchange,
    Bind: _bind,
    Unbind: _unbind,
    Rebind: _rebind,
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
