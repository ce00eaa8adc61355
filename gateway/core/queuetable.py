"""All queues that this gateway knows, durable and virtual: who may have them, and how they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import structlog

from gateway.core.arguments import NO_POLICY, QueuePolicy, check_equivalent, read_policy, read_stream_policy
from gateway.core.backend import Backend, QueueSpec, Target
from gateway.core.commands import Consume, Counted, Got, Presence
from gateway.core.deadletter import Bury
from gateway.core.delivery import Delivery
from gateway.core.durable import DurableTopology
from gateway.core.errors import BackendError, InUse, InvalidArgument, Locked, MqliftError, NotEmpty, NotFound, Refused
from gateway.core.fleet.usage import Usage
from gateway.core.health import Health
from gateway.core.metrics import Metrics
from gateway.core.onebyone import OneByOne
from gateway.core.queues import BackendQueue
from gateway.core.receiver import Keeper, Receiver
from gateway.core.sender import Publisher, Sender
from gateway.core.shared import SESSION, SHARED, SharedQueues
from gateway.core.store import Conflict, StateStore
from gateway.core.streams.offset import STREAM_OFFSET
from gateway.core.streams.port import StreamBackend
from gateway.core.streams.queue import StreamQueue
from gateway.core.subscription import Consumer, Subscription
from gateway.core.topology import Binding, Topology, UnknownExchange, UnknownQueue
from gateway.core.virtual import VirtualQueue

log = structlog.get_logger("mqlift.queues")

T = TypeVar("T")

DurableQueue: TypeAlias = BackendQueue | StreamQueue
Queue: TypeAlias = DurableQueue | VirtualQueue


class Resources(Protocol):
    """What queues need of the broker."""

    store: StateStore
    health: Health

    def backend(self, target: Target, policy: QueuePolicy) -> Backend:
        """What a queue lives in. Raises `InvalidArgument` for what it cannot have there."""

    def sender(self, target: Target) -> Sender:
        """Raises `Refused` at a limit."""

    def receiver(self, target: Target, keeper: Keeper, policy: QueuePolicy) -> Receiver: ...

    def home(self, queue: str, spec: QueueSpec) -> Target:
        """Where a durable queue lives. Raises `Invalid`."""

    async def ensure(self, target: Target, spec: QueueSpec, policy: QueuePolicy) -> None:
        """Find or create it, trying again while that may help. Raises `BackendError`."""

    async def remove(self, target: Target) -> None:
        """Remove it in the backend, once everything that was sent to it has its answer. Raises `BackendError`."""

    async def forget(self, target: Target) -> None:
        """Keep nothing open for it: somebody else has removed it."""


class QueueTable:
    """Queues by name. What belongs to a connection ends with it; what is durable is written down."""

    def __init__(
        self,
        *,
        topology: Topology,
        durable: DurableTopology,
        shared: SharedQueues,
        resources: Resources,
        bury: Bury,
        nobody: Publisher,
        metrics: Metrics,
        limit: int,
        usage: Usage | None = None,
    ) -> None:
        """`usage`: what other gateways use."""
        self._topology = topology
        self._usage = usage
        self._kept = durable
        self._shared = shared
        self._resources = resources
        self._bury = bury
        self._nobody = nobody
        self._metrics = metrics
        self.limit = limit
        self._loop = asyncio.get_running_loop()
        self._durable: dict[str, DurableQueue] = {}
        self._virtual: dict[str, VirtualQueue] = {}
        self._owners: dict[str, object] = {}
        self._owned: dict[object, set[str]] = {}
        self._one_by_one = OneByOne()
        """What changes the queue of one name: so a declaration never meets a half-made decision."""
        self._deletions: set[asyncio.Task[Any]] = set()
        metrics.virtual_ready.set_function(lambda: sum(queue.ready for queue in self._virtual.values()))

    # Looking

    def virtual(self, name: str) -> VirtualQueue | None:
        return self._virtual.get(name)

    def durable(self, name: str) -> DurableQueue | None:
        return self._durable.get(name)

    def all_durable(self) -> Iterator[DurableQueue]:
        return iter(list(self._durable.values()))

    @property
    def durable_count(self) -> int:
        return len(self._durable)

    @property
    def virtual_count(self) -> int:
        return len(self._virtual)

    def all(self) -> Iterator[Queue]:
        """Every queue, durable ones first."""
        return iter([*self._durable.values(), *self._virtual.values()])

    def is_private(self, name: str, owner: object) -> bool:
        """Whether only this connection consumes a queue: its exclusive one, or a kept session's."""
        durable = self._durable.get(name)
        if durable is not None:
            return bool(durable.spec.arguments.get(SESSION))
        return name in self._owned.get(owner, ())

    def is_kept_session(self, name: str) -> bool:
        """Whether a queue is that of a kept session, of whomever."""
        durable = self._durable.get(name)
        return durable is not None and bool(durable.spec.arguments.get(SESSION))

    def _find(self, name: str, owner: object) -> Queue:
        """Raises `UnknownQueue`, and `Locked` for somebody else's."""
        queue = self._durable.get(name) or self._virtual.get(name)
        if queue is None:
            raise UnknownQueue(name)
        self.check_owner(name, owner)
        return queue

    def check_owner(self, name: str, owner: object) -> None:
        """Raises `Locked` for somebody else's queue."""
        if self._owners.get(name, owner) is not owner:
            raise Locked(name)

    # Declaring

    async def declare(self, name: str, spec: QueueSpec, presence: Presence, owner: object) -> Counted:
        """Raises `Inequivalent`, `UnknownQueue`, `Locked`, `InUse`, `Refused`, `BackendError`, `StoreError`."""
        if presence is Presence.RENEWED:
            await self._in_any_case(self._make_way(name, spec, owner))
        async with self._one_by_one(name):
            known = self._known(name, spec, presence, owner)
            if known is None:
                if presence is Presence.REQUIRED:
                    known = await self._look_for(name)
                elif spec.virtual:
                    known = self._make_virtual(name, spec, owner)
                else:
                    known = await self._make_durable(name, spec)
            elif not isinstance(known, VirtualQueue):
                await self._repeat(known)
            known.used_at = self._loop.time()
        return await self._count(known, presence)

    def _known(self, name: str, spec: QueueSpec, presence: Presence, owner: object) -> Queue | None:
        """The queue, if there is nothing to be made. Raises `Inequivalent`, `Locked`."""
        if name not in self._virtual and name not in self._durable:
            return None
        queue = self._find(name, owner)
        if presence is Presence.REQUIRED:
            return queue
        if isinstance(queue, VirtualQueue):
            if presence is Presence.EQUIVALENT:
                check_equivalent(name, queue.spec, spec)
            return queue
        if presence is Presence.EQUIVALENT:
            if (
                not queue.declared
                and not spec.arguments.get("x-max-priority")
                and self._resources.home(name, spec) == queue.target
            ):
                check_equivalent(name, QueueSpec(arguments=spec.arguments), spec)
                return None
            check_equivalent(name, queue.spec, spec)
        return queue if queue.ensured else None

    async def _make_way(self, name: str, spec: QueueSpec, owner: object) -> None:
        """Remove a queue of other arguments, with its messages. Raises `Locked`, `InUse`, `BackendError`."""
        async with self._one_by_one(name):
            queue = self._durable.get(name)
            if queue is None or queue.spec.arguments == spec.arguments:
                return
            self.check_owner(name, owner)
            _check_unused(queue, if_unused=True)
            if self._resources.home(name, spec) != queue.target:
                await self._delete_durable(queue)
                return
            # A rule says where it lives: there it stays.
            for binding in self._topology.bindings(name):
                self._topology.unbind(name, binding.source, binding.pattern, binding.arguments)
            await queue.purge()
            queue.redefine(spec)
            self._kept.queue_changed(name, spec)
            await self._written()

    async def _repeat(self, queue: DurableQueue) -> None:
        """A queue was declared again: it may still be on its way into the store."""
        self._kept.queue_repeated(queue.name)
        await self._written()

    def _make_virtual(self, name: str, spec: QueueSpec, owner: object) -> VirtualQueue:
        queue = VirtualQueue(name, spec, self._metrics, bury=self._bury, on_unused=lambda: self._drop(name))
        self._topology.declare_queue(name)
        self._virtual[name] = queue
        if spec.exclusive:
            self._owners[name] = owner
            self._owned.setdefault(owner, set()).add(name)
        return queue

    async def _make_durable(self, name: str, spec: QueueSpec) -> Queue:
        known = self._durable.get(name)
        if known is None:
            self._check_room(name)
        elif known.declared:
            spec = known.spec
        target = known.target if known is not None else self._resources.home(name, spec)
        policy = self._policy(target, spec)  # before anything is created
        await self._resources.ensure(target, spec, policy)
        queue = self.known(name, spec)
        if not queue.declared:
            queue.redefine(spec)
        repeated = queue.declared
        queue.ensured = queue.declared = True
        if spec.arguments.get(SHARED):
            self._shared.declare(name, spec.arguments)
        elif not spec.arguments.get(SESSION):
            if repeated:
                self._kept.queue_repeated(name)
            else:
                self._kept.queue_changed(name, spec)
            await self._agreed(queue)
        queue.watch_expiry()
        return queue

    async def _agreed(self, queue: DurableQueue) -> None:
        """As `_written`. When another gateway was faster, its word counts: this is a queue that nobody has declared."""
        try:
            await self._written()
        except Conflict:
            queue.ensured = queue.declared = False
            raise

    async def _written(self) -> None:
        """Wait for what has just been told to the store. Nothing may come between; raises `StoreError`."""
        if (written := self._kept.written()) is not None:
            await written

    async def _look_for(self, name: str) -> DurableQueue:
        """A queue that nobody has declared here may be there all the same: made by another gateway, or in AWS."""
        target = self._resources.home(name, QueueSpec())
        try:
            await self._resources.backend(target, NO_POLICY).probe(target)
        except NotFound:
            raise UnknownQueue(name) from None
        queue = self.known(name, QueueSpec())
        queue.ensured = True
        self._kept.queue_changed(name, queue.spec)
        await self._agreed(queue)
        return queue

    async def _count(self, queue: Queue, presence: Presence) -> Counted:
        if isinstance(queue, VirtualQueue):
            return Counted(queue.ready, queue.consumers)
        if presence is Presence.ANY:
            return Counted(0, queue.consumers)  # nobody is told the numbers
        return Counted((await queue.depth()).ready, queue.consumers)

    def known(self, name: str, spec: QueueSpec) -> DurableQueue:
        """The durable queue of this name, made known here if it was not. Raises `Refused`, `Invalid`."""
        queue = self._durable.get(name)
        if queue is not None:
            return queue
        self._check_room(name)
        queue = self._make(self._resources.home(name, spec), spec)
        if self._usage is not None:
            queue.be_alone(False)  # until it is known what the others do with it
        self._topology.declare_queue(name, durable=not (spec.arguments.get(SESSION) or spec.arguments.get(SHARED)))
        self._durable[name] = queue
        return queue

    def _policy(self, target: Target, spec: QueueSpec) -> QueuePolicy:
        """What a queue's arguments mean where it lives. Raises `InvalidArgument`."""
        if isinstance(self._resources.backend(target, NO_POLICY), StreamBackend):
            return read_stream_policy(spec)
        return read_policy(spec)

    def _make(self, target: Target, spec: QueueSpec) -> DurableQueue:
        """Raises `InvalidArgument`, `NotSupported`."""
        resources = self._resources
        backend = resources.backend(target, self._policy(target, spec))
        if isinstance(backend, StreamBackend):
            return StreamQueue(
                target,
                spec,
                backend,
                open_sender=resources.sender,
                store=resources.store,
                metrics=self._metrics,
                health=resources.health,
            )
        return BackendQueue(
            target,
            spec,
            backend,
            open_sender=resources.sender,
            open_receiver=resources.receiver,
            bury=self._bury,
            nobody=self._nobody,
        )

    def adopt(
        self,
        name: str,
        arguments: Mapping[str, object],
        bindings: Iterable[tuple[str, str]] = (),
        *,
        declared: bool = True,
    ) -> None:
        """Make a kept queue known again. It is not asked for in AWS before it is used."""
        queue = self.known(name, QueueSpec(arguments=arguments))
        queue.declared = declared
        for exchange, pattern in bindings:
            self._topology.bind(name, exchange, pattern)
        queue.watch_expiry()

    # What others have changed

    def follow(self, name: str, spec: QueueSpec | None) -> Sequence[Binding] | None:
        """Have a queue as another gateway has declared it, or with None deleted it.

        The durable bindings that end with the one that was here. None: not now, as something is on its way here.
        Raises `Refused`, `Invalid`.
        """
        if name in self._virtual or name in self._one_by_one:
            return None
        queue = self._durable.get(name)
        ended: Sequence[Binding] = ()
        if queue is not None and self._is_gone(queue, spec):
            ended = self._withdraw(queue)
            queue = None
        if spec is not None and queue is None:
            self.adopt(name, spec.arguments)
        elif spec is not None and queue is not None and not (queue.declared and queue.spec == spec):
            queue.redefine(spec)
            queue.declared = True
        return ended

    def _is_gone(self, queue: DurableQueue, spec: QueueSpec | None) -> bool:
        """Whether a queue was deleted elsewhere, and may have been declared anew as another one."""
        if spec is None:
            return queue.declared  # what a rule names is there without anybody's word
        if queue.spec == spec:
            return False
        undefined = not (queue.declared and queue.spec.arguments)
        in_place = not spec.arguments.get("x-max-priority") and self._resources.home(queue.name, spec) == queue.target
        return not (undefined and in_place)

    def withdraw(self, name: str) -> None:
        """Have a queue no more that another gateway has deleted, if it is here."""
        queue = self._durable.get(name)
        if queue is not None:
            self._withdraw(queue)

    def _withdraw(self, queue: DurableQueue) -> Sequence[Binding]:
        self._remove(queue.name)
        ended = self._topology.withdraw_queue(queue.name)
        queue.cancel_consumers()
        self._in_background(self._close(queue))
        return ended

    async def _close(self, queue: DurableQueue) -> None:
        await queue.aclose()
        await self._resources.forget(queue.target)

    def _check_room(self, name: str) -> None:
        if len(self._durable) >= self.limit:
            raise Refused(f"queue '{name}': {self.limit} queues are in use, the limit of this gateway")

    # Deleting

    async def delete(self, name: str, owner: object, *, if_unused: bool, if_empty: bool) -> Counted:
        """`Counted` also when there was none. Raises `InUse`, `NotEmpty`, `Locked`, `BackendError`, `StoreError`.

        Whoever asks for it may vanish: it is done all the same, and nobody declares the queue anew before it is.
        """
        return await self._in_any_case(self._delete(name, owner, if_unused=if_unused, if_empty=if_empty))

    async def _in_any_case(self, deletion: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._in_background(deletion))

    def _in_background(self, deletion: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(deletion)
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)
        return task

    async def _delete(self, name: str, owner: object, *, if_unused: bool, if_empty: bool) -> Counted:
        async with self._one_by_one(name):
            try:
                queue = self._find(name, owner)
            except UnknownQueue:
                self._kept.queue_repeated(name)
                await self._written()
                return Counted(0)
            _check_unused(queue, if_unused=if_unused)
            count = queue.ready if isinstance(queue, VirtualQueue) else await self._waiting_in(queue, if_empty=if_empty)
            if if_empty and count:
                raise NotEmpty(f"queue '{name}' has messages")
            _check_unused(queue, if_unused=if_unused)  # somebody may have come meanwhile
            if isinstance(queue, VirtualQueue):
                self._drop(name)
            else:
                await self._delete_durable(queue)
        return Counted(count)

    async def finish_deletions(self) -> None:
        """Wait until what is being deleted is gone."""
        await asyncio.gather(*self._deletions, return_exceptions=True)

    async def aclose(self) -> None:
        """Give up the deletions under way, and close every queue."""
        for deletion in list(self._deletions):
            deletion.cancel()
        await self.finish_deletions()
        for virtual in list(self._virtual.values()):
            virtual.close()
        for queue in self.all_durable():
            await queue.aclose()

    async def _waiting_in(self, queue: DurableQueue, *, if_empty: bool) -> int:
        try:
            depth = await queue.depth(fresh=if_empty)
        except NotFound:
            return 0
        except BackendError:
            if if_empty:
                raise
            return 0  # the number is a courtesy; the deletion says what is wrong
        return depth.ready + depth.delayed + (depth.unsettled + queue.unsent if if_empty else 0)

    async def _delete_durable(self, queue: DurableQueue) -> None:
        """Remove a durable queue with its messages and bindings. Raises `BackendError`, and it stays as it was."""
        name = queue.name
        if self._durable.get(name) is not queue:
            return  # two have asked for it
        bindings = self._topology.bindings(name)
        durable = self._topology.is_durable(name)
        self._remove(name)
        self._topology.delete_queue(name)  # nothing is routed to it from now on, or that would make it anew
        self._kept.forget()
        try:
            await self._resources.remove(queue.target)
        except BackendError:
            self._put_back(queue, bindings, durable=durable)
            raise
        self._kept.queue_changed(name, None)
        written = self._kept.written()
        queue.cancel_consumers()
        await queue.aclose()
        if isinstance(queue, StreamQueue):
            await queue.forget()
        if written is not None:
            await written

    def _put_back(self, queue: DurableQueue, bindings: Iterable[Binding], *, durable: bool) -> None:
        self._topology.declare_queue(queue.name, durable=durable)
        self._durable.setdefault(queue.name, queue)  # a rule may have made it known again
        for binding in bindings:
            try:
                self._topology.bind(binding.destination, binding.source, binding.pattern, binding.arguments)
            except UnknownExchange as error:
                log.info("binding_ended", queue=queue.name, problem=str(error))  # its exchange has gone meanwhile
        self._kept.forget()

    def pop_durable(self, name: str) -> DurableQueue | None:
        """Forget a durable queue here; somebody else removes it in AWS."""
        self._topology.delete_queue(name)
        self._kept.forget()
        return self._remove(name)

    def _remove(self, name: str) -> DurableQueue | None:
        if self._usage is not None:
            self._usage.forget(name)
        return self._durable.pop(name, None)

    def disconnected(self, owner: object) -> None:
        """A connection has ended, and its queues with it."""
        for name in list(self._owned.get(owner, ())):
            self._drop(name)

    def _drop(self, name: str) -> None:
        """End a virtual queue."""
        queue = self._virtual.pop(name, None)
        if queue is None:
            return
        self._topology.delete_queue(name)
        self._kept.forget()  # an exchange that goes with its last binding
        owner = self._owners.pop(name, None)
        if owner is not None:
            owned = self._owned[owner]
            owned.discard(name)
            if not owned:
                del self._owned[owner]
        queue.close()

    # Using

    def consume(self, command: Consume, consumer: Consumer, owner: object) -> Subscription:
        """Raises `UnknownQueue`, `Locked`, `InUse`, `InvalidArgument`, `NotSupported`."""
        queue = self._find(command.queue, owner)
        if STREAM_OFFSET in command.arguments and not isinstance(queue, StreamQueue):
            raise InvalidArgument(STREAM_OFFSET, "the queue is no stream")
        return queue.consume(command, consumer)

    async def get(self, name: str, owner: object) -> Got:
        """Raises `UnknownQueue`, `Locked`, `BackendError`."""
        queue = self._find(name, owner)
        if isinstance(queue, VirtualQueue):
            return Got(queue.get(), queue.ready)
        delivery = await queue.get()
        return Got(delivery, 0 if delivery is None else await self._remaining(queue, delivery))

    async def _remaining(self, queue: DurableQueue, delivery: Delivery) -> int:
        try:
            return await queue.remaining()
        except BackendError as error:
            log.debug("depth_unknown", queue=queue.name, problem=str(error), attempt=delivery.attempt)
            return 0  # the message is what was asked for

    async def purge(self, name: str, owner: object) -> Counted:
        """`owner` None is nobody's connection. Raises `UnknownQueue`, `Locked`, `BackendError`."""
        queue = self._find(name, owner)
        return Counted(queue.purge() if isinstance(queue, VirtualQueue) else await queue.purge())

    # Time

    async def sweep(self) -> None:
        """End the queues that nobody has used for as long as they were declared to stay (`x-expires`)."""
        now = self._loop.time()
        queues: list[Queue] = [*self._virtual.values(), *self._durable.values()]
        for queue in queues:
            if self._usage is not None and not isinstance(queue, VirtualQueue):
                self._usage.look(queue)
            expires = queue.policy.expires
            if expires is None or queue.consumers or now - queue.used_at < expires / 1000:
                continue
            if not self._is_expired_everywhere(queue, expires / 1000):
                continue
            log.info("queue_expired", queue=queue.name)
            if isinstance(queue, VirtualQueue):
                self._drop(queue.name)
            else:
                await self._in_any_case(self._expire(queue))

    def _is_expired_everywhere(self, queue: Queue, expires: float) -> bool:
        return self._usage is None or isinstance(queue, VirtualQueue) or self._usage.is_expired(queue, expires)

    async def _expire(self, queue: DurableQueue) -> None:
        async with self._one_by_one(queue.name):
            try:
                if not queue.consumers:
                    await self._delete_durable(queue)
            except MqliftError as error:
                log.warning("queue_not_deleted", queue=queue.name, problem=str(error))  # and is tried again

    async def check_lengths(self) -> None:
        """Keep queues to their `x-max-length`."""
        for queue in self.all_durable():
            if self._usage is not None and not self._usage.keeps_length(queue):
                continue
            try:
                await queue.check_length()
            except MqliftError as error:
                log.warning("length_unknown", queue=queue.name, problem=str(error))


def _check_unused(queue: Queue, *, if_unused: bool) -> None:
    if if_unused and queue.consumers:
        raise InUse(f"queue '{queue.name}' has consumers")
