"""Consumers of a queue: what each may hold, and whose turn it is."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gateway.core.session import Delivery


class Consumer(Protocol):
    """A connection that deliveries are handed to."""

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """Take a delivery within the subscription's credit. Called from the event loop; must not raise."""


class ConsumedQueue(Protocol):
    """The queue's side of a subscription."""

    name: str

    def credited(self, subscription: Subscription) -> None:
        """A consumer may have credit again."""

    def unsubscribe(self, subscription: Subscription) -> None:
        """No more deliveries to it; what it holds stays with it until settled."""


class Subscription:
    """One consumer of one queue. `held` deliveries are not settled yet, of `prefetch` at most."""

    __slots__ = ("blocked", "cancelled", "consumer", "held", "in_turn", "prefetch", "queue", "tag")

    def __init__(self, tag: str, queue: ConsumedQueue, consumer: Consumer, prefetch: int) -> None:
        self.tag = tag
        self.queue = queue
        self.consumer = consumer
        self.prefetch = prefetch
        self.held = 0
        self.blocked = False
        """The consumer does not read what it was sent: it gets no more until it does."""
        self.cancelled = False
        self.in_turn = False
        """Whether it waits among the queue's `Turns`."""

    @property
    def credit(self) -> int:
        """Deliveries that it takes now."""
        return 0 if self.blocked or self.cancelled else self.prefetch - self.held

    def settled(self) -> None:
        """One of the deliveries that it held has ended."""
        self.held -= 1
        self.queue.credited(self)

    def unblock(self) -> None:
        self.blocked = False
        self.queue.credited(self)

    def cancel(self) -> None:
        """Stop the deliveries. Idempotent."""
        if not self.cancelled:
            self.cancelled = True
            self.queue.unsubscribe(self)


class Turns:
    """The consumers of one queue, taking turns, so that each with credit gets its share.

    Only those that have credit stand in the line: what one delivery costs does not grow with the number of consumers.
    """

    __slots__ = ("_consumers", "_line")

    def __init__(self) -> None:
        self._consumers = 0
        self._line: deque[Subscription] = deque()

    def __len__(self) -> int:
        return self._consumers

    def add(self, subscription: Subscription) -> None:
        self._consumers += 1
        self.offer(subscription)

    def remove(self, subscription: Subscription) -> None:
        self._consumers -= 1
        if subscription.in_turn:
            subscription.in_turn = False
            self._line.remove(subscription)

    def offer(self, subscription: Subscription) -> None:
        """Give a turn to a consumer that may have credit again."""
        if not subscription.in_turn and subscription.credit > 0:
            subscription.in_turn = True
            self._line.append(subscription)

    def hand(self, delivery: Delivery) -> bool:
        """Deliver to whose turn it is, against credit. False when nobody has any."""
        line = self._line
        while line:
            subscription = line.popleft()
            credit = subscription.credit
            if credit > 1:
                line.append(subscription)
            else:
                subscription.in_turn = False
            if credit > 0:
                subscription.held += 1
                delivery.subscription = subscription
                subscription.consumer.deliver(subscription, delivery)
                return True
        return False

    def credit(self, enough: int) -> int:
        """What all take together; counting stops at `enough`."""
        total = 0
        for subscription in self._line:
            total += subscription.credit
            if total >= enough:
                return enough
        return total
