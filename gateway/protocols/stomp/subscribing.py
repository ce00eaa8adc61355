"""SUBSCRIBE and UNSUBSCRIBE, and what is delivered between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from gateway.core.errors import Refused
from gateway.core.message import NO_HEADERS, Headers
from gateway.core.outcome import Outcome
from gateway.core.selector import SelectorError, compile_selector
from gateway.core.session import Bind, Cancel, Consume, DeclareQueue, DeleteQueue, Delivery, Presence, Rebind
from gateway.protocols.stomp.client import Client, Step
from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.dialect import Source
from gateway.protocols.stomp.errors import (
    BadSelector,
    DuplicateSubscription,
    MissingDestinationOrId,
    UnknownSubscription,
    quoted,
    shown,
)
from gateway.protocols.stomp.headers import parse_integer, required
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
            sources = self._filtered(sources, headers["selector"])
        subscription = self._make(subscription_id, sources, ack_mode(frame))
        prefetch = self._prefetch(headers)
        priority = client.dialect.priority(headers)
        arguments = client.dialect.stream_arguments(headers)
        self._start(key, subscription, prefetch, priority, headers.get("receipt"), arguments)

    def receive_replies(self, source: Source, subscription_id: str, receipt: str | None) -> None:
        """Subscribe for the client, once, to a temporary queue that it has named as `reply-to`."""
        key = f"reply-to={subscription_id}"
        if key not in self._active:
            subscription = self._make(subscription_id, [source], AckMode.AUTO)
            self._start(key, subscription, self._client.settings.default_prefetch, 0, receipt, answers=False)

    def _subscription_id(self, frame: Frame) -> str | None:
        client = self._client
        if client.version is V1_0 or not client.dialect.ids_required:
            return frame.headers.get("id") or None
        return required(frame, "id")  # [STOMP 1.1, SUBSCRIBE id Header]

    def _filtered(self, sources: Sequence[Source], selector: str) -> Sequence[Source]:
        text, converts = self._client.dialect.selector(selector)
        try:
            accepts = compile_selector(text, texts_as_numbers=converts)
        except SelectorError as error:
            raise BadSelector(str(error)) from None
        filtered = []
        for source in sources:
            if source.spec is None or not source.spec.virtual or not source.bindings:
                raise Refused(
                    f"selector: only a live subscription to a topic can have one; "
                    f"queue {shown(source.queue)} would keep what does not match for ever, and read it again and again"
                )
            filtered.append(replace(source, spec=replace(source.spec, accepts=accepts)))
        return filtered

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
        prefetch: int,
        priority: int,
        receipt: str | None,
        arguments: Headers = NO_HEADERS,
        *,
        answers: bool = True,
    ) -> None:
        client = self._client
        self._active[key] = subscription
        step = Step(_SUBSCRIBE, receipt, last=False)
        for tag, source in subscription.sources.items():
            self._by_tag[tag] = subscription
            if source.spec is not None:
                presence = Presence.RENEWED if source.exact else Presence.ANY
                client.ask(DeclareQueue(source.queue, source.spec, step, presence))
            if source.exact:
                client.ask(Rebind(source.queue, source.bindings, step))
                continue
            for exchange, pattern in source.bindings:
                client.ask(Bind(source.queue, exchange, pattern, step))
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
                    priority=priority,
                    cancellable=True,
                    arguments=arguments,
                    acknowledges=subscription.acknowledges,
                )
            )

    def _prefetch(self, headers: Mapping[str, str]) -> int:
        settings = self._client.settings
        text = self._client.dialect.prefetch(headers)
        if text is None:
            return settings.default_prefetch
        most = settings.max_prefetch
        # AMQP's prefetch-count, where 0 is unlimited; clients also write -1 for that.
        wanted = parse_integer("prefetch-count", text)
        return min(wanted, most) if wanted > 0 else most

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


def _key(headers: Mapping[str, str]) -> str:
    """What a client calls a subscription: its id or, without one, its destination."""
    subscription_id = headers.get("id")
    return f"id='{subscription_id}'" if subscription_id else f"destination='{headers.get('destination', '')}'"
