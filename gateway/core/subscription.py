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

    def wake(self) -> None:
        """Some consumer has credit again."""

    def unsubscribe(self, subscription: Subscription) -> None:
        """No more deliveries to it; what it holds stays with it until settled."""


class Subscription:
    """One consumer of one queue. `held` deliveries are not settled yet, of `prefetch` at most."""

    __slots__ = ("blocked", "cancelled", "consumer", "held", "prefetch", "queue", "tag")

    def __init__(self, tag: str, queue: ConsumedQueue, consumer: Consumer, prefetch: int) -> None:
        self.tag = tag
        self.queue = queue
        self.consumer = consumer
        self.prefetch = prefetch
        self.held = 0
        self.blocked = False
        """The consumer does not read what it was sent: it gets no more until it does."""
        self.cancelled = False

    @property
    def credit(self) -> int:
        """Deliveries that it takes now."""
        return 0 if self.blocked or self.cancelled else self.prefetch - self.held

    def hand(self, delivery: Delivery) -> None:
        """Deliver one message, against credit."""
        self.held += 1
        delivery.subscription = self
        self.consumer.deliver(self, delivery)

    def unblock(self) -> None:
        self.blocked = False
        self.queue.wake()

    def cancel(self) -> None:
        """Stop the deliveries. Idempotent."""
        if not self.cancelled:
            self.cancelled = True
            self.queue.unsubscribe(self)


class Turns:
    """The consumers of one queue, taking turns, so that each with credit gets its share."""

    __slots__ = ("_subscriptions",)

    def __init__(self) -> None:
        self._subscriptions: deque[Subscription] = deque()

    def __len__(self) -> int:
        return len(self._subscriptions)

    def add(self, subscription: Subscription) -> None:
        self._subscriptions.append(subscription)

    def remove(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)

    def next(self) -> Subscription | None:
        """Whose turn it is; None when nobody has credit."""
        subscriptions = self._subscriptions
        for _ in range(len(subscriptions)):
            subscription = subscriptions[0]
            subscriptions.rotate(-1)
            if subscription.credit > 0:
                return subscription
        return None

    def credit(self, enough: int) -> int:
        """What all take together; counting stops at `enough`."""
        total = 0
        for subscription in self._subscriptions:
            if subscription.credit > 0:
                total += subscription.credit
                if total >= enough:
                    return enough
        return total
