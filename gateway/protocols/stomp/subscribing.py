"""SUBSCRIBE and UNSUBSCRIBE, and what is delivered between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from gateway.core.arguments import SELECTOR
from gateway.core.commands import Bind, Cancel, Consume, DeclareQueue, DeleteQueue, Presence, Rebind
from gateway.core.delivery import Delivery
from gateway.core.errors import Refused
from gateway.core.message import Message
from gateway.core.outcome import Outcome
from gateway.core.selector import SelectorError, compile_selector
from gateway.protocols.stomp.client import Client, Step
from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.dialect import Source, Wishes
from gateway.protocols.stomp.errors import (
    BadSelector,
    DuplicateSubscription,
    MissingDestinationOrId,
    UnknownSubscription,
    quoted,
    shown,
)
from gateway.protocols.stomp.headers import required
from gateway.protocols.stomp.subscription import ACK_SEPARATOR, AckMode, Subscription, ack_mode
from gateway.protocols.stomp.versions import V1_0

_SUBSCRIBE: Final = "Subscription failed"
_UNSUBSCRIBE: Final = "Unsubscription failed"


class Subscribing:
    """The consuming half of a session.

    A subscription has a consumer for each of its sources, and each consumer a tag. The first one's names the messages.
    """

    __slots__ = ("_active", "_by_tag", "_client", "_made", "_returned")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._made = 0  # subscriptions ever made; each has its own number
        self._by_tag: dict[str, Subscription] = {}  # also ended ones that hold deliveries
        self._active: dict[str, Subscription] = {}  # by what the client calls them
        self._returned: list[Delivery] = []  # came for a subscription that had ended

    # SUBSCRIBE

    def subscribe(self, frame: Frame) -> None:
        """Raises `StompError` or `Refused`."""
        client, headers = self._client, frame.headers
        required(frame, "destination")
        subscription_id = self._subscription_id(frame)
        key = _key(headers)
        if key in self._active:
            raise DuplicateSubscription(f"A subscription identified by {shown(key)} already exists.")
        live_queue = f"stomp-subscription-{client.owner.session_id}-{self._made + 1}"
        sources = client.dialect.sources(headers, client.owner, live_queue)
        if headers.get("selector"):
            sources = _filtered(sources, self._selector(headers["selector"]), live_queue)
        wishes = client.dialect.wishes(headers)
        if wishes.others_only:
            sources = [self._of_others(source) for source in sources]
        subscription = self._make(subscription_id, sources, ack_mode(frame))
        self._start(key, subscription, wishes, headers.get("receipt"))

    def receive_replies(self, source: Source, subscription_id: str, receipt: str | None) -> None:
        """Subscribe for the client, once, to a temporary queue that it has named as `reply-to`."""
        key = f"reply-to={subscription_id}"
        if key not in self._active:
            subscription = self._make(subscription_id, [source], AckMode.AUTO)
            self._start(key, subscription, Wishes(), receipt, answers=False)

    def _subscription_id(self, frame: Frame) -> str | None:
        client = self._client
        if client.version is V1_0 or not client.dialect.ids_required:
            return frame.headers.get("id") or None
        return required(frame, "id")  # [STOMP 1.1, SUBSCRIBE id Header]

    def _selector(self, text: str) -> str:
        """As the hub reads it. It is read here too, so that the client is told in words of its protocol."""
        selector = self._client.dialect.selector(text)
        try:
            compile_selector(selector)
        except SelectorError as error:
            raise BadSelector(str(error)) from None
        return selector

    def _of_others(self, source: Source) -> Source:
        """The source without what this connection publishes."""
        spec, own = source.spec, self._client.sender.origin
        if spec is None or not spec.virtual or not source.bindings:
            raise Refused("noLocal: only a live subscription to a topic can leave out what its own connection sends")

        def of_others(message: Message) -> bool:
            # Each connection has one origin: two of the same client and user are still two.
            return message.origin is not own

        return replace(source, spec=replace(spec, accepts=of_others))

    def _make(self, subscription_id: str | None, sources: Sequence[Source], mode: AckMode) -> Subscription:
        client = self._client
        limit = client.settings.max_subscriptions
        if len(self._by_tag) + len(sources) > limit:
            raise Refused(f"more than {limit} subscriptions")
        self._made += 1
        tag = f"{client.dialect.message_id_prefix}{client.owner.session_id}{ACK_SEPARATOR}{self._made}"
        subscription = Subscription(
            subscription_id, tag, sources[0].queue, mode, client.dialect, client.version, client.owner
        )
        subscription.sources = {tag if not number else f"{tag}.{number}": each for number, each in enumerate(sources)}
        return subscription

    def _start(
        self,
        key: str,
        subscription: Subscription,
        wishes: Wishes,
        receipt: str | None,
        *,
        answers: bool = True,
    ) -> None:
        client = self._client
        self._active[key] = subscription
        step = Step(_SUBSCRIBE, receipt, last=False)
        for tag, source in subscription.sources.items():
            self._by_tag[tag] = subscription
            self._open(source, step)
        prefetch = self._prefetch(wishes.prefetch)
        last = next(reversed(subscription.sources))
        for tag, source in subscription.sources.items():
            token = Step(_SUBSCRIBE, receipt, last=True) if answers and tag == last else step
            client.ask(
                Consume(
                    tag,
                    source.queue,
                    prefetch,
                    token,
                    exclusive=source.exact,
                    sole=wishes.sole,
                    priority=wishes.priority,
                    cancellable=True,
                    arguments=wishes.arguments,
                    acknowledges=subscription.acknowledges,
                    selector=source.selector,
                )
            )

    def _open(self, source: Source, step: Step) -> None:
        """Have the queue, and what leads to it."""
        ask = self._client.ask
        if source.spec is not None:
            presence = Presence.RENEWED if source.exact else Presence.ANY
            ask(DeclareQueue(source.queue, source.spec, step, presence))
        if source.exact:
            ask(Rebind(source.queue, source.bindings, step))
            return
        for exchange, pattern in source.bindings:
            ask(Bind(source.queue, exchange, pattern, step))

    def _prefetch(self, wanted: int | None) -> int:
        settings = self._client.settings
        if wanted is None:
            return settings.default_prefetch
        # AMQP's prefetch-count, where 0 is unlimited; clients also write -1 for that.
        return min(wanted, settings.max_prefetch) if wanted > 0 else settings.max_prefetch

    # UNSUBSCRIBE

    def unsubscribe(self, frame: Frame) -> None:
        """Raises `StompError`."""
        client, headers = self._client, frame.headers
        key = _key(headers)
        subscription = self._active.pop(key, None)
        sources = () if subscription is None else tuple(subscription.sources.values())
        forgotten = client.dialect.forgotten(headers, client.owner, sources)
        if subscription is None and not forgotten:
            self._complain(frame, key)
        receipt = headers.get("receipt")
        step = Step(_UNSUBSCRIBE, receipt, last=False)
        last = Step(_UNSUBSCRIBE, receipt, last=True)
        tags = () if subscription is None else tuple(subscription.sources)
        for number, tag in enumerate(tags, 1):
            client.ask(Cancel(tag, last if number == len(tags) and not forgotten else step))
        for number, queue in enumerate(forgotten, 1):
            client.ask(DeleteQueue(queue, last if number == len(forgotten) else step))
        if subscription is not None:
            subscription.active = False
            self.forget_if_settled(subscription)

    def _complain(self, frame: Frame, key: str) -> None:
        headers = frame.headers
        if not headers.get("id") and not headers.get("destination"):
            raise MissingDestinationOrId
        raise UnknownSubscription(
            f"UNSUBSCRIBE must refer to an existing subscription.\nSubscription to {quoted(key)} not found.\n"
        )

    # Deliveries

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        """See `core.session.Session.deliver`."""
        subscription = self._by_tag.get(tag)
        if subscription is None or not subscription.active:
            self._returned.append(delivery)
            return True
        return subscription.deliver(delivery, self._client.out)

    def find(self, tag: str) -> Subscription | None:
        """By the tag of one of its consumers."""
        return self._by_tag.get(tag)

    def forget_if_settled(self, subscription: Subscription) -> None:
        if not subscription.active and not subscription.held():
            for tag in subscription.sources:
                self._by_tag.pop(tag, None)

    def return_late(self) -> None:
        """Give back what came for subscriptions that had ended."""
        if self._returned:
            self._client.settle(self._returned, Outcome.RELEASED)
            self._returned = []

    def stop(self) -> None:
        """Show nothing more to the client."""
        for subscription in self._active.values():
            subscription.active = False

    def unsettled(self) -> list[Delivery]:
        held = [delivery for each in set(self._by_tag.values()) for delivery in each.held()]
        return held + self._returned


def _filtered(sources: Sequence[Source], selector: str, live_queue: str) -> Sequence[Source]:
    """A queue of the subscription's own gets nothing else; from any other queue, its consumer does."""
    return [
        replace(source, spec=replace(source.spec, arguments={**source.spec.arguments, SELECTOR: selector}))
        if source.spec is not None and (source.exact or source.queue == live_queue)
        else replace(source, selector=selector)
        for source in sources
    ]


def _key(headers: Mapping[str, str]) -> str:
    """What a client calls a subscription: its id or, without one, its destination."""
    subscription_id = headers.get("id")
    return f"id='{subscription_id}'" if subscription_id else f"destination='{headers.get('destination', '')}'"
