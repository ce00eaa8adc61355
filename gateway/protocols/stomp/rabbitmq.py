"""RabbitMQ's dialect: the rules of its STOMP plugin (https://www.rabbitmq.com/docs/stomp), tried out on 3.10."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from hashlib import md5
from urllib.parse import quote

from gateway.core.backend import QueueSpec
from gateway.core.errors import Refused
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address, Message
from gateway.protocols.stomp.dialect import (
    LIVE,
    NOBODY,
    Owner,
    ReplyTo,
    Sender,
    Source,
    Target,
    Wishes,
    bounded,
    temporary_name,
)
from gateway.protocols.stomp.errors import BadDestination, InvalidDestination, MissingHeader, ReservedName, shown
from gateway.protocols.stomp.headers import optional_integer, parse_number
from gateway.protocols.stomp.rabbitmq_headers import message_headers, to_message
from gateway.protocols.stomp.versions import Version

_TEMPORARY = "/temp-queue"
_RESERVED = "amq."
"""Begins the names that a server gives; such a queue can be used (`/amq/queue/`, `/reply-queue/`), and not declared."""

_MAX_ARGUMENT = 2**63 - 1  # AMQP's `long`, which the plugin makes of these
_TEXT_ARGUMENTS = frozenset({"x-dead-letter-exchange", "x-dead-letter-routing-key", "x-queue-type", "x-max-age"})
_NUMBER_ARGUMENTS = frozenset(
    {
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-message-ttl",
        "x-stream-max-segment-size-bytes",
    }
)
_STREAM_HEADERS = ("x-stream-offset", "x-stream-name")
_STREAM_FILTERS = frozenset({"x-stream-filter", "x-stream-match-unfiltered"})

_WRITTEN_AS_IS = "".join(chr(code) for code in range(0x20, 0x80) if chr(code) not in "/%")

_LIST_OF_BYTES = b"\x6b"
_EMPTY_LIST = b"\x6a"
_PAIR = b"\x83\x68\x02"


class _Kind(Enum):
    """What a destination is, which decides what has to exist before it can be used."""

    QUEUE = auto()
    """A queue that is declared on first use."""
    EXISTING_QUEUE = auto()
    """A queue that somebody else has declared."""
    EXCHANGE = auto()
    """An exchange with a routing key (SEND) or a pattern (SUBSCRIBE)."""


class RabbitMQ:
    """See `dialect.Dialect`, the port that this is."""

    ids_required = False
    early_receipts = False
    message_id_prefix = ""
    redelivered_lines = ("redelivered:false\n", "redelivered:true\n")
    claims_client_ids = False
    dead_letter_queue: str | None = None

    # SEND

    def targets(self, destination: str, headers: Mapping[str, str], owner: Owner) -> Sequence[Target]:  # noqa: ARG002
        kind, address = _parse(destination, "SEND")
        if kind is not _Kind.QUEUE:
            return (Target(address),)
        return (Target(address, _queue_source(address.routing_key, headers, persistent=None)),)

    def reply_to(self, reply_to: str, owner: Owner) -> ReplyTo | None:
        if not reply_to.startswith(f"{_TEMPORARY}/"):
            return None
        name = reply_to.removeprefix(f"{_TEMPORARY}/")
        if not name:
            raise InvalidDestination(f"{shown(reply_to)} names no temporary queue")
        queue = bounded(temporary_name(owner, name), reply_to)
        return ReplyTo(queue, queue, subscription=reply_to)

    def to_message(self, headers: Mapping[str, str], address: Address, body: bytes, sender: Sender) -> Message:
        return to_message(headers, address, body, sender.origin)  # times and ids are the publisher's here

    # SUBSCRIBE

    def sources(self, headers: Mapping[str, str], owner: Owner, live_queue: str) -> Sequence[Source]:  # noqa: ARG002
        for name in _STREAM_FILTERS & headers.keys():
            raise Refused(f"{name}: streams are not filtered")
        durable = _is_true(headers.get("durable")) or _is_true(headers.get("persistent"))
        if durable and not headers.get("id"):
            raise MissingHeader("Header 'id' is required for durable subscriptions")
        kind, address = _parse(headers["destination"], "SUBSCRIBE")
        persistent = headers.get("persistent")
        if kind is _Kind.QUEUE:
            return (_queue_source(address.routing_key, headers, persistent),)
        if kind is _Kind.EXISTING_QUEUE:
            return (Source(address.routing_key, None),)
        return (_subscription_source(headers, address, durable, live_queue),)

    def wishes(self, headers: Mapping[str, str]) -> Wishes:
        return Wishes(
            prefetch=optional_integer("prefetch-count", headers),
            priority=optional_integer("x-priority", headers) or 0,
            arguments={name: headers[name] for name in _STREAM_HEADERS if name in headers},
        )

    def forgotten(self, headers: Mapping[str, str], owner: Owner, sources: Sequence[Source]) -> Sequence[str]:  # noqa: ARG002
        # As the plugin: an UNSUBSCRIBE that says durable ends a durable subscription to a topic for good.
        if not (_is_true(headers.get("durable")) or _is_true(headers.get("persistent"))):
            return ()
        return [
            source.queue
            for source in sources
            if any(binding.exchange == TOPIC_EXCHANGE for binding in source.bindings)
            and source.spec is not None
            and source.spec.durable
        ]

    def selector(self, selector: str) -> str:
        return selector

    # MESSAGE

    def format(self, address: Address, owner: Owner = NOBODY) -> str:  # noqa: ARG002
        exchange, key = address
        if exchange == DEFAULT_EXCHANGE:
            return f"/queue/{_escape(key)}"
        if exchange == TOPIC_EXCHANGE:
            return f"/topic/{_escape(key)}"
        return f"/exchange/{_escape(exchange)}/{_escape(key)}" if key else f"/exchange/{_escape(exchange)}"

    def original(self, address: Address, queue: str) -> Address | None:  # noqa: ARG002
        return None

    def message_lines(self, message: Message, version: Version, owner: Owner = NOBODY) -> str:  # noqa: ARG002
        lines = message_headers(message, _reply_to, version)
        return f"{lines}content-length:{len(message.body)}\n" if message.body else lines


def durable_subscription_queue(key: str, subscription_id: str) -> str:
    """The plugin's name of a durable subscription's queue, so that those of both brokers can be matched.

    It is the MD5 of the Erlang term `{Key, Id}`, two lists of bytes, in Erlang's external format
    (https://www.erlang.org/doc/apps/erts/erl_ext_dist).
    """
    term = _PAIR + _erlang_list(key) + _erlang_list(subscription_id)
    digest = md5(term, usedforsecurity=False).digest()
    return f"stomp-subscription-{urlsafe_b64encode(digest).decode().rstrip('=')}"


def _erlang_list(text: str) -> bytes:
    octets = text.encode(errors="replace")
    return _LIST_OF_BYTES + len(octets).to_bytes(2) + octets if octets else _EMPTY_LIST


def _subscription_source(headers: Mapping[str, str], address: Address, durable: bool, live_queue: str) -> Source:
    """The queue of a SUBSCRIBE to an exchange: one for this subscription, unless the client says more about it."""
    named = headers.get("x-queue-name")
    arguments = _arguments(headers)
    if not durable and not named and not arguments and headers.keys().isdisjoint(("auto-delete", "exclusive")):
        return Source(live_queue, LIVE, (address,))
    if named and named.startswith(_RESERVED):
        raise ReservedName(named)
    queue = named or (durable_subscription_queue(address.routing_key, headers["id"]) if durable else live_queue)
    spec = QueueSpec(
        durable=durable,
        # The plugin's defaults: only `auto-delete:false` lets a durable subscription outlive its consumers.
        auto_delete=_is_true(headers.get("auto-delete", "true")),
        exclusive=_is_true(headers.get("exclusive", "false" if durable or named else "true")),
        arguments=arguments,
        lossy=not durable,
    )
    return Source(bounded(queue, queue), spec, (address,))


def _queue_source(queue: str, headers: Mapping[str, str], persistent: str | None) -> Source:
    """Of a /queue: durable unless the client says otherwise. `persistent` of a SUBSCRIBE means the same."""
    if queue.startswith(_RESERVED):
        raise ReservedName(queue)
    spec = QueueSpec(
        durable=_is_true(headers.get("durable", persistent or "true")),
        auto_delete=_is_true(headers.get("auto-delete")),
        exclusive=_is_true(headers.get("exclusive")),
        arguments=_arguments(headers),
    )
    return Source(queue, spec)


def _arguments(headers: Mapping[str, str]) -> dict[str, object]:
    """The `x-` headers that are arguments of a queue, with the types that the plugin gives them. Raises `BadHeader`."""
    arguments: dict[str, object] = {}
    for name, value in headers.items():
        if name in _NUMBER_ARGUMENTS:
            arguments[name] = parse_number(name, value, _MAX_ARGUMENT)
        elif name in _TEXT_ARGUMENTS:
            arguments[name] = value.strip()
    return arguments


def _is_true(text: str | None) -> bool:
    return text == "true"


def _reply_to(reply_to: str) -> str:
    return reply_to if reply_to.startswith(_PREFIXES) else f"/reply-queue/{reply_to}"


def _parse(destination: str, command: str) -> tuple[_Kind, Address]:
    """Raises `BadDestination`. Of a queue, the routing key is its name."""
    prefix = next((each for each in _FORMS if destination == each or destination.startswith(f"{each}/")), None)
    if prefix is not None:
        return _parse_form(destination, prefix, command)
    if "/" in destination:
        raise BadDestination(
            f"{shown(destination)} is not a valid destination.\nValid destination types are: {_OFFERED}.\n"
        )
    # A name alone is a queue's.
    return _Kind.QUEUE, Address(DEFAULT_EXCHANGE, _words(destination, [destination], "queue")[0])


def _parse_form(destination: str, prefix: str, command: str) -> tuple[_Kind, Address]:
    title, kind, exchange = _FORMS[prefix]
    rest = destination[len(prefix) :]
    if prefix == "/reply-queue" and len(rest) > 1:
        # The plugin gives these out itself, and the name after the prefix may hold slashes.
        return kind, Address(exchange, bounded(rest[1:], destination))
    words = _words(rest, rest.split("/")[1:], title)
    if prefix == _TEMPORARY:
        raise InvalidDestination(f"{shown(destination)} is not a valid destination for '{command}'\n")
    if prefix == "/exchange":
        return kind, Address(words[0], words[1] if len(words) > 1 else "")
    return kind, Address(exchange, words[0])


_FORMS = {
    "/temp-queue": ("temp_queue", _Kind.QUEUE, DEFAULT_EXCHANGE),
    "/exchange": ("exchange", _Kind.EXCHANGE, ""),
    "/topic": ("topic", _Kind.EXCHANGE, TOPIC_EXCHANGE),
    "/queue": ("queue", _Kind.QUEUE, DEFAULT_EXCHANGE),
    "/amq/queue": ("amqqueue", _Kind.EXISTING_QUEUE, DEFAULT_EXCHANGE),
    "/reply-queue": ("reply_queue", _Kind.EXISTING_QUEUE, DEFAULT_EXCHANGE),
}
"""What the plugin calls each form in its errors, and what it is. That of an exchange names it."""
_PREFIXES = tuple(_FORMS)
_OFFERED = "/temp-queue, /exchange, /topic, /queue, /amq/queue, /reply-queue/"


def _words(rest: str, words: Sequence[str], title: str) -> Sequence[str]:
    most = 2 if title == "exchange" else 1
    if not 0 < len(words) <= most or not words[0]:
        raise InvalidDestination(f"{shown(rest)} is not a valid {title} destination\n")
    return [bounded(_unescape(word), rest) for word in words]


def _escape(name: str) -> str:
    """A slash in a name is written %2F, and what is no printable ASCII byte by byte, as the plugin does."""
    return quote(name, safe=_WRITTEN_AS_IS, errors="replace")


def _unescape(name: str) -> str:
    """Only a slash is read as what was escaped, as by the plugin: `%20` is part of a name, for AMQP's clients too."""
    return name.replace("%2F", "/")
