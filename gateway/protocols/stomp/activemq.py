"""ActiveMQ's dialect (https://activemq.apache.org/components/classic/documentation/stomp).

Queues are queues of the hub, topics live on `amq.topic`: a client of another protocol sees the same names. `*` and `>`
are ActiveMQ's wildcards; `>` also stands for nothing, as `#` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from gateway.core.backend import QueueSpec
from gateway.core.errors import Refused
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address, Message
from gateway.core.selector import CONVERTING
from gateway.core.shared import SUBSCRIPTION
from gateway.protocols.stomp.activemq_headers import message_headers, to_message
from gateway.protocols.stomp.dialect import (
    DURABLE,
    LIVE,
    NOBODY,
    PRIVATE,
    TEMPORARY,
    Owner,
    ReplyTo,
    Sender,
    Source,
    Target,
    Wishes,
    bounded,
    temporary_name,
)
from gateway.protocols.stomp.errors import BadDestination, InvalidDestination, MissingHeader, shown
from gateway.protocols.stomp.headers import optional_integer
from gateway.protocols.stomp.versions import Version

MAX_COMPOSITE = 32
"""Destinations in one header."""

_PREFIXES = ("/queue/", "/topic/", "/temp-queue/", "/temp-topic/", "/remote-temp-queue/", "/remote-temp-topic/")

_WRITTEN_AS_URLS = ("queue://", "topic://")

_SUBSCRIPTION_NAMES = ("activemq.subscriptionName", "durable-subscription-name", "durable-subscriber-name")

_VIRTUAL_TOPIC_CONSUMER = re.compile(r"Consumer\.[^.]+\.(VirtualTopic\..+)")
"""ActiveMQ's default: `Consumer.*.` before the name of any topic below `VirtualTopic`."""

_REPLY_QUEUES = ("amq.gen-", "amq.rabbitmq.reply-to")
"""Begin the names that AMQP's clients get from the server, for answers mostly: such queues are there, or are gone."""

_TEMPORARY_TOPIC = f"/topic/{TEMPORARY}"

_DO_NOT_CONVERT = "no_convert_string_expressions:"


class _Place(NamedTuple):
    """One destination, understood: `kind` is its prefix without slashes."""

    kind: str
    name: str


class ActiveMQ:
    """See `dialect.Dialect`, the port that this is."""

    ids_required = True
    early_receipts = True
    message_id_prefix = "ID:"
    redelivered_lines = ("", "redelivered:true\n")
    claims_client_ids = True
    dead_letter_queue: str | None = "ActiveMQ.DLQ"

    # SEND

    def targets(self, destination: str, headers: Mapping[str, str], owner: Owner) -> Sequence[Target]:  # noqa: ARG002
        return [_target(place, owner, destination) for place in _parse(destination)]

    def reply_to(self, reply_to: str, owner: Owner) -> ReplyTo | None:
        if not reply_to.startswith(("/temp-queue/", "/temp-topic/")):
            return None
        place = _place(reply_to, reply_to)
        name = _temporary(place, owner)
        return ReplyTo(name, name) if place.kind == "temp-queue" else ReplyTo(f"/topic/{name}")

    def to_message(self, headers: Mapping[str, str], address: Address, body: bytes, sender: Sender) -> Message:
        destination = headers.get("destination", "")
        original = _composite_text(destination) if "," in destination else None
        return to_message(headers, address, body, sender, original)

    # SUBSCRIBE

    def sources(self, headers: Mapping[str, str], owner: Owner, live_queue: str) -> Sequence[Source]:
        if _is_true(headers.get("browser")):
            raise Refused("browser: nothing here shows messages without taking them")
        destination = headers["destination"]
        places = _parse(destination)
        patterns = tuple(
            _pattern(place, owner, destination) for place in places if place.kind.removeprefix("temp-") == "topic"
        )
        durable = _durable_queue(headers, owner)
        if durable is not None:
            if len(patterns) != len(places):
                raise InvalidDestination(f"{shown(destination)}: only a topic has durable subscriptions")
            return (Source(durable, _subscribed_to(patterns), patterns, exact=True),)
        sources = [
            _queue_source(place, owner, destination) for place in places if place.kind.removeprefix("temp-") != "topic"
        ]
        if patterns:
            sources.append(Source(live_queue, LIVE, patterns))
        return sources

    def wishes(self, headers: Mapping[str, str]) -> Wishes:
        prefetch = optional_integer("activemq.prefetchSize", headers)
        return Wishes(
            prefetch=optional_integer("prefetch-count", headers) if prefetch is None else prefetch,
            priority=optional_integer("activemq.priority", headers) or 0,
            sole=_is_true(headers.get("activemq.exclusive")),
            others_only=_is_true(headers.get("activemq.noLocal")),
        )

    def forgotten(self, headers: Mapping[str, str], owner: Owner, sources: Sequence[Source]) -> Sequence[str]:  # noqa: ARG002
        durable = _durable_queue(headers, owner)
        return () if durable is None else (durable,)

    def selector(self, selector: str) -> str:
        # As ActiveMQ's STOMP connector, which puts the first of these before every selector.
        selector = selector.removeprefix(CONVERTING)
        if selector.startswith(_DO_NOT_CONVERT):
            return selector.removeprefix(_DO_NOT_CONVERT)
        return CONVERTING + selector

    # MESSAGE

    def format(self, address: Address, owner: Owner = NOBODY) -> str:
        exchange, key = address
        if exchange == DEFAULT_EXCHANGE:
            return _written("queue", key, owner)
        if exchange == TOPIC_EXCHANGE:
            return _written("topic", key, owner)
        return f"/exchange/{exchange}/{key}"  # as nobody can write it who speaks this dialect

    def original(self, address: Address, queue: str) -> Address | None:
        # A virtual topic's consumer sees messages of its queue.
        virtual = _VIRTUAL_TOPIC_CONSUMER.fullmatch(queue)
        return address if virtual and address == Address(TOPIC_EXCHANGE, virtual[1]) else None

    def message_lines(self, message: Message, version: Version, owner: Owner = NOBODY) -> str:
        return message_headers(message, lambda reply_to: _reply_to(reply_to, owner), version)


def durable_subscriber_queue(client_id: str, name: str) -> str:
    """The queue of a durable subscriber. Both parts are escaped, so that no two subscribers share one."""
    return bounded(f"durable:{quote(client_id, safe='')}:{quote(name, safe='')}", name)


def _subscribed_to(patterns: Sequence[Address]) -> QueueSpec:
    """In JMS, changing what a durable subscription is to "is equivalent to unsubscribing the old one and creating a new
    one" (JMS 1.1, §6.11.1): the queues are different ones.
    """
    return QueueSpec(arguments={SUBSCRIPTION: ",".join(sorted({pattern.routing_key for pattern in patterns}))})


def _is_true(text: str | None) -> bool:
    """As Java reads it."""
    return text is not None and text.lower() == "true"


def _durable_queue(headers: Mapping[str, str], owner: Owner) -> str | None:
    name = next((headers[each] for each in _SUBSCRIPTION_NAMES if headers.get(each)), None)
    if name is None:
        return None
    if not owner.client_id:
        raise MissingHeader("a durable subscription needs a client-id in CONNECT")
    return durable_subscriber_queue(owner.client_id, name)


def _parse(destination: str) -> Sequence[_Place]:
    """All parts of a destination, which may be a composite: `/queue/a,/topic/b`."""
    parts = destination.strip().split(",", MAX_COMPOSITE)
    if len(parts) > MAX_COMPOSITE:
        raise InvalidDestination(f"{shown(destination)} names more than {MAX_COMPOSITE} destinations")
    first = _place(parts[0], destination)
    return [first, *(_further_place(part, first.kind, destination) for part in parts[1:])]


def _further_place(part: str, kind: str, destination: str) -> _Place:
    """Of a composite, all but the first may be names alone, of the kind of the first, or be written `queue://name`."""
    part = part.strip()
    if part.startswith(_WRITTEN_AS_URLS):
        return _place(f"/{part.replace('://', '/', 1)}", destination)
    return _place(part if part.startswith("/") else f"/{kind}/{part}", destination)


def _composite_text(destination: str) -> str:
    """As ActiveMQ shows a composite in `original-destination`."""
    first, *others = _parse(destination)
    return ",".join([f"/{first.kind}/{first.name}", *(f"{kind}://{name}" for kind, name in others)])


def _place(part: str, destination: str) -> _Place:
    prefix = next((prefix for prefix in _PREFIXES if part.startswith(prefix)), None)
    if prefix is None:
        raise BadDestination(
            f"Illegal destination name: [{shown(destination)}] -- ActiveMQ STOMP destinations must begin with one of: "
            "/queue/ /topic/ /temp-queue/ /temp-topic/"
        )
    name = part.removeprefix(prefix)
    if not name:
        raise InvalidDestination(f"{shown(destination)} has an empty name")
    if "?" in name:
        raise Refused(f"{shown(destination)}: destination options are not available; SUBSCRIBE headers may be")
    return _Place(prefix.strip("/"), bounded(name, destination))


def _target(place: _Place, owner: Owner, destination: str) -> Target:
    kind, name = place
    if kind.startswith("remote-temp-"):
        if not name.startswith(TEMPORARY):
            raise InvalidDestination(f"{shown(destination)} is no temporary destination of this gateway")
        return Target(Address(TOPIC_EXCHANGE if kind == "remote-temp-topic" else DEFAULT_EXCHANGE, name))
    if _has_wildcards(name):
        raise InvalidDestination(f"{shown(destination)}: a message cannot be sent to a wildcard")
    if kind == "topic":
        return Target(Address(TOPIC_EXCHANGE, name))
    if kind == "temp-topic":
        return Target(Address(TOPIC_EXCHANGE, _temporary(place, owner)))
    if name.startswith(_REPLY_QUEUES):
        return Target(Address(DEFAULT_EXCHANGE, name))
    source = _queue_source(place, owner, destination)
    return Target(Address(DEFAULT_EXCHANGE, source.queue), source)


def _queue_source(place: _Place, owner: Owner, destination: str) -> Source:
    kind, name = place
    if kind == "temp-queue":
        return Source(_temporary(place, owner), PRIVATE)
    if kind != "queue":
        raise InvalidDestination(f"{shown(destination)}: only its own connection can subscribe to it")
    if _has_wildcards(name):
        raise Refused(f"{shown(destination)}: queues cannot be consumed by a wildcard")
    virtual = _VIRTUAL_TOPIC_CONSUMER.fullmatch(name)
    return Source(name, DURABLE, (Address(TOPIC_EXCHANGE, virtual[1]),) if virtual else ())


def _pattern(place: _Place, owner: Owner, destination: str) -> Address:
    if place.kind == "temp-topic":
        return Address(TOPIC_EXCHANGE, _temporary(place, owner))
    words = place.name.split(".")
    if "#" in words:
        raise InvalidDestination(f"{shown(destination)}: # alone is a wildcard elsewhere, and cannot be subscribed to")
    return Address(TOPIC_EXCHANGE, ".".join(["#" if word == ">" else word for word in words]))


def _has_wildcards(name: str) -> bool:
    return not {"*", ">"}.isdisjoint(name.split("."))


def _temporary(place: _Place, owner: Owner) -> str:
    return bounded(temporary_name(owner, place.name), place.name)


def _written(kind: str, key: str, owner: Owner) -> str:
    if not key.startswith(TEMPORARY):
        return f"/{kind}/{key}"
    own = temporary_name(owner, "")
    return f"/temp-{kind}/{key.removeprefix(own)}" if key.startswith(own) else f"/remote-temp-{kind}/{key}"


def _reply_to(reply_to: str, owner: Owner) -> str:
    """Queues come as their names from publishers of other protocols, destinations as they were written."""
    if not reply_to.startswith("/"):
        return _written("queue", reply_to, owner)
    if reply_to.startswith(_TEMPORARY_TOPIC):
        return _written("topic", reply_to.removeprefix("/topic/"), owner)
    return reply_to
