"""RabbitMQ's dialect: the rules of its STOMP plugin (https://www.rabbitmq.com/docs/stomp), tried out on 3.10."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from hashlib import md5
from urllib.parse import quote, unquote_to_bytes

from gateway.core.backend import QueueSpec
from gateway.core.errors import Refused
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address, Headers, Message, Origin
from gateway.protocols.stomp.dialect import (
    LIVE,
    NOBODY,
    Owner,
    ReplyTo,
    Source,
    Target,
    bounded,
    temporary_name,
)
from gateway.protocols.stomp.errors import BadDestination, InvalidDestination, MissingHeader, shown
from gateway.protocols.stomp.headers import parse_integer, parse_number
from gateway.protocols.stomp.rabbitmq_headers import message_headers, to_message
from gateway.protocols.stomp.versions import Version

_PREFIXES = ("/temp-queue", "/topic", "/exchange", "/queue", "/amq/queue", "/reply-queue")
_TEMPORARY = "/temp-queue/"

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

    # SEND

    def targets(self, destination: str, headers: Mapping[str, str], owner: Owner) -> Sequence[Target]:  # noqa: ARG002
        kind, address = _parse(destination)
        if kind is not _Kind.QUEUE:
            return (Target(address),)
        spec = _queue_spec(headers, persistent=None)
        return (Target(address, Source(address.routing_key, spec)),)

    def reply_to(self, reply_to: str, owner: Owner) -> ReplyTo | None:
        if not reply_to.startswith(_TEMPORARY):
            return None
        name = reply_to.removeprefix(_TEMPORARY)
        if not name:
            raise InvalidDestination(f"{shown(reply_to)} names no temporary queue")
        queue = bounded(temporary_name(owner, name), reply_to)
        return ReplyTo(queue, queue, subscription=reply_to)

    def to_message(
        self,
        headers: Mapping[str, str],
        address: Address,
        body: bytes,
        origin: Origin,
        clock: Callable[[], float],  # noqa: ARG002 - times are the publisher's here
    ) -> Message:
        return to_message(headers, address, body, origin)

    # SUBSCRIBE

    def sources(self, headers: Mapping[str, str], owner: Owner, live_queue: str) -> Sequence[Source]:  # noqa: ARG002
        for name in _STREAM_FILTERS & headers.keys():
            raise Refused(f"{name}: streams are not filtered")
        durable = _is_true(headers.get("durable")) or _is_true(headers.get("persistent"))
        if durable and not headers.get("id"):
            raise MissingHeader("Header 'id' is required for durable subscriptions")
        kind, address = _parse(headers["destination"])
        persistent = headers.get("persistent")
        if kind is _Kind.QUEUE:
            return (Source(address.routing_key, _queue_spec(headers, persistent)),)
        if kind is _Kind.EXISTING_QUEUE:
            return (Source(address.routing_key, None),)
        return (_subscription_source(headers, address, durable, live_queue),)

    def prefetch(self, headers: Mapping[str, str]) -> str | None:
        return headers.get("prefetch-count")

    def stream_arguments(self, headers: Mapping[str, str]) -> Headers:
        return {name: headers[name] for name in _STREAM_HEADERS if name in headers}

    def priority(self, headers: Mapping[str, str]) -> int:
        return parse_integer("x-priority", headers["x-priority"]) if "x-priority" in headers else 0

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

    def selector(self, selector: str) -> tuple[str, bool]:
        return selector, False

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
        return f"{message_headers(message, _reply_to, version)}content-length:{len(message.body)}\n"


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


def _queue_spec(headers: Mapping[str, str], persistent: str | None) -> QueueSpec:
    """Of a /queue: durable unless the client says otherwise. `persistent` of a SUBSCRIBE means the same."""
    return QueueSpec(
        durable=_is_true(headers.get("durable", persistent or "true")),
        auto_delete=_is_true(headers.get("auto-delete")),
        exclusive=_is_true(headers.get("exclusive")),
        arguments=_arguments(headers),
    )


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


def _parse(destination: str) -> tuple[_Kind, Address]:
    """Raises `BadDestination`. Of a queue, the routing key is its name."""
    if destination.startswith("/reply-queue/"):
        # The plugin gives these out itself, and the name after the prefix may hold slashes.
        name = destination.removeprefix("/reply-queue/")
        if not name:
            raise InvalidDestination("/reply-queue/ names no queue")
        return _Kind.EXISTING_QUEUE, Address(DEFAULT_EXCHANGE, bounded(name, destination))
    if destination.startswith(_TEMPORARY):
        raise InvalidDestination(f"{shown(destination)}: a temporary queue can only be the reply-to of a SEND")
    if destination.startswith("/exchange/"):
        exchange, *key = _words(destination, "/exchange/", most=2)
        if exchange in ("", "amq.default"):
            raise InvalidDestination(f"{shown(destination)} does not name an exchange")
        return _Kind.EXCHANGE, Address(exchange, key[0] if key else "")
    for prefix, kind, exchange in _SIMPLE:
        if destination.startswith(prefix):
            return kind, Address(exchange, _words(destination, prefix, most=1)[0])
    if "/" in destination:
        raise BadDestination(f"{shown(destination)} is not one of {', '.join(_PREFIXES)} followed by a name")
    return _Kind.QUEUE, Address(DEFAULT_EXCHANGE, _words(destination, "", most=1)[0])  # a name alone is a queue's


_SIMPLE = (
    ("/queue/", _Kind.QUEUE, DEFAULT_EXCHANGE),
    ("/topic/", _Kind.EXCHANGE, TOPIC_EXCHANGE),
    ("/amq/queue/", _Kind.EXISTING_QUEUE, DEFAULT_EXCHANGE),
)


def _words(destination: str, prefix: str, most: int) -> list[str]:
    words = destination[len(prefix) :].split("/")
    if len(words) > most or not words[0]:
        raise InvalidDestination(f"{shown(destination)} has not the form {prefix}{'/'.join(['name', 'key'][:most])}")
    return [bounded(_unescape(word, destination), destination) for word in words]


def _escape(name: str) -> str:
    """A slash in a name is written %2F, and what is no printable ASCII byte by byte, as the plugin does."""
    return quote(name, safe=_WRITTEN_AS_IS, errors="replace")


def _unescape(name: str, destination: str) -> str:
    if "%" not in name:
        return name
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise InvalidDestination(f"{shown(destination)} is not UTF-8 once its escapes are undone") from None
