"""Consumers of a queue: what each may hold, and whose turn it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from typing import Protocol

from gateway.core.commands import Consume, Prefetch
from gateway.core.delivery import Delivery
from gateway.core.errors import InUse
from gateway.core.message import Message
from gateway.core.selector import compile_selector


class Consumer(Protocol):
    """A connection that deliveries are handed to."""

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """Take a delivery within the subscription's credit. Called from the event loop; must not raise."""

    def cancelled(self, subscription: Subscription) -> None:
        """The queue is gone; the subscription has been cancelled. Called from the event loop; must not raise."""


class ConsumedQueue(Protocol):
    """The queue's side of a subscription."""

    name: str

    def credited(self, subscription: Subscription) -> None:
        """A consumer may have credit again."""

    def unsubscribe(self, subscription: Subscription) -> None:
        """No more deliveries to it; what it holds stays with it until settled."""


class Subscription:
    """One consumer of one queue. `held` deliveries are not settled yet, of `prefetch` at most."""

    __slots__ = (
        "accepts",
        "begun",
        "blocked",
        "cancellable",
        "cancelled",
        "consumer",
        "exclusive",
        "held",
        "in_turn",
        "prefetch",
        "priority",
        "queue",
        "shared",
        "sole",
        "tag",
    )

    def __init__(self, command: Consume, queue: ConsumedQueue, consumer: Consumer) -> None:
        """Raises `SelectorError`."""
        self.accepts = compile_selector(command.selector) if command.selector else None
        """Which messages of the queue it wants; None for all."""
        self.tag = command.tag
        self.queue = queue
        self.consumer = consumer
        self.prefetch = command.prefetch
        self.exclusive = command.exclusive
        self.sole = command.sole
        self.priority = command.priority
        self.cancellable = command.cancellable
        self.shared = command.shared
        if self.shared is not None:
            self.shared.consumers.append(self)
        self.begun: Awaitable[None] | None = None
        """What to wait for before anybody is told that it consumes; it fails with why it cannot."""
        self.held = 0
        self.blocked = False
        """The consumer does not read what it was sent: it gets no more until it does."""
        self.cancelled = False
        self.in_turn = False
        """Whether it waits among the queue's `Turns`."""

    @property
    def credit(self) -> int:
        """Deliveries that it takes now."""
        if self.blocked or self.cancelled:
            return 0
        own = self.prefetch - self.held
        if self.shared is None or not self.shared.limit:
            return own
        return min(own, self.shared.limit - self.shared.held)

    def wants(self, message: Message) -> bool:
        """Whether its selector matches, if it has one."""
        return self.accepts is None or self.accepts(message)

    def taken(self) -> None:
        """It has been given one more delivery."""
        self.held += 1
        if self.shared is not None:
            self.shared.held += 1

    def settled(self) -> None:
        """One of the deliveries that it held has ended."""
        self.held -= 1
        shared = self.shared
        if shared is None:
            self.queue.credited(self)
            return
        shared.held -= 1
        if shared.limit and shared.held == shared.limit - 1:
            shared.offer()  # all had to wait, and now one may go on
        else:
            self.queue.credited(self)

    def credited(self) -> None:
        """It may have room again."""
        self.queue.credited(self)

    def unblock(self) -> None:
        self.blocked = False
        self.queue.credited(self)

    def cancel(self) -> None:
        """Stop the deliveries. Idempotent."""
        if not self.cancelled:
            self.cancelled = True
            if self.shared is not None:
                self.shared.consumers.remove(self)
            self.queue.unsubscribe(self)


class Turns:
    """The consumers of one queue, taking turns, so that each with credit gets its share.

    Only those that have credit stand in a line: what one delivery costs does not grow with the number of consumers.
    There is a line for each priority; those of a lower one get what the higher ones have no credit for. Where one gets
    everything, no other stands in a line.
    """

    __slots__ = ("_all", "_lines", "_single", "_sole", "handed", "selective")

    def __init__(self, *, single: bool = False) -> None:
        """`single`: only the consumer that came first gets deliveries, until it leaves (single active consumer)."""
        self._single = single
        self._sole: Subscription | None = None
        self.handed = 0
        """Deliveries that consumers were given, ever."""
        self.selective = 0
        """Consumers that have a selector."""
        self._all: dict[Subscription, None] = {}
        self._lines: list[tuple[int, deque[Subscription]]] = [(0, deque())]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._all))

    def be_single(self, single: bool) -> None:
        """Who holds deliveries keeps them."""
        self._single = single
        self._choose()

    def check(self, *, exclusive: bool) -> None:
        """Whether one more may come. Raises `InUse` when it, or one that is here, wants to be alone."""
        if self._all and (exclusive or next(iter(self._all)).exclusive):
            raise InUse("the queue has an exclusive consumer" if not exclusive else "the queue has other consumers")

    def add(self, subscription: Subscription) -> None:
        self._all[subscription] = None
        self.selective += subscription.accepts is not None
        if self._single or subscription.sole:
            self._choose()
        self.offer(subscription)

    def remove(self, subscription: Subscription) -> None:
        if subscription not in self._all:
            return  # it has left before it came
        del self._all[subscription]
        self.selective -= subscription.accepts is not None
        if subscription.in_turn:
            subscription.in_turn = False
            self._line(subscription.priority).remove(subscription)
        if subscription.priority and all(other.priority != subscription.priority for other in self._all):
            self._lines = [ranked for ranked in self._lines if ranked[0] != subscription.priority]
        if subscription is self._sole:
            self._choose()

    def offer(self, subscription: Subscription) -> None:
        """Give a turn to a consumer that may have credit again."""
        if subscription.in_turn or subscription.credit <= 0:
            return
        if self._sole is not None and subscription is not self._sole:
            return
        subscription.in_turn = True
        self._line(subscription.priority).append(subscription)

    def _choose(self) -> None:
        """Who gets everything, if anybody does: the first that came, of those that want that the first with the highest
        priority.
        """
        if self._single:
            sole = next(iter(self._all), None)
        else:
            sole = max((each for each in self._all if each.sole), key=lambda each: each.priority, default=None)
        if sole is self._sole:
            return
        self._sole = sole
        self._lines = [(0, deque())]
        for subscription in self._all:
            subscription.in_turn = False
        for subscription in self._all:
            self.offer(subscription)

    def hand(self, delivery: Delivery) -> bool:
        """Deliver to whose turn it is, against credit. False when nobody has any, or wants what it is."""
        lines = self._lines if not self.selective else self._led_by_one_who_wants(delivery.message)
        for _, line in lines:
            while line:
                subscription = line.popleft()
                credit = subscription.credit
                if credit > 1:
                    line.append(subscription)
                else:
                    subscription.in_turn = False
                if credit > 0:
                    subscription.taken()
                    self.handed += 1
                    delivery.subscription = subscription
                    subscription.consumer.deliver(subscription, delivery)
                    return True
        return False

    def _led_by_one_who_wants(self, message: Message) -> Sequence[tuple[int, deque[Subscription]]]:
        """The first line in which somebody has credit and wants a message, with that one at its head; empty for none.

        What this costs grows with the number of consumers, up to the first that wants it.
        """
        for ranked in self._lines:
            _, line = ranked
            for subscription in line:
                if subscription.credit > 0 and subscription.wants(message):
                    line.remove(subscription)
                    line.appendleft(subscription)
                    return (ranked,)
        return ()

    def takes(self, message: Message) -> bool:
        """Whether somebody has credit, and wants a message."""
        return bool(self._led_by_one_who_wants(message))

    @property
    def takes_anything(self) -> bool:
        """Whether somebody has credit, and no selector."""
        return any(each.accepts is None and each.credit > 0 for _, line in self._lines for each in line)

    def wanted(self, message: Message) -> bool:
        """Whether somebody would take a message if it had credit."""
        if self._sole is not None:
            return self._sole.wants(message)
        return any(subscription.wants(message) for subscription in self._all)

    def credit(self, enough: int) -> int:
        """What all take together; counting stops at `enough`."""
        total = 0
        room: dict[Prefetch, int] = {}  # what is left of each shared limit
        for _, line in self._lines:
            for subscription in line:
                credit = subscription.credit
                shared = subscription.shared
                if shared is not None and shared.limit:
                    left = room.get(shared, shared.limit - shared.held)
                    credit = min(credit, left)
                    room[shared] = left - credit
                total += credit
                if total >= enough:
                    return enough
        return total

    def _line(self, priority: int) -> deque[Subscription]:
        for rank, line in self._lines:
            if rank == priority:
                return line
        added: deque[Subscription] = deque()
        self._lines.append((priority, added))
        self._lines.sort(key=lambda ranked: -ranked[0])
        return added
