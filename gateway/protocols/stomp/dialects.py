"""Destinations and the headers around them: what each kind of broker calls its queues and topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from gateway.core.errors import Refused
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address
from gateway.protocols.stomp.errors import BadDestination, shown

MAX_NAME = 255
"""Bytes of a queue name, exchange name or routing key: AMQP's short string, as in RabbitMQ."""


class Kind(Enum):
    """What a destination is, which decides what has to exist before it can be used."""

    QUEUE = auto()
    """A durable queue, declared on first use."""
    EXISTING_QUEUE = auto()
    """A queue that somebody else has declared."""
    EXCHANGE = auto()
    """An exchange with a routing key (SEND) or a pattern (SUBSCRIBE)."""
    REPLY_QUEUE = auto()
    """Somebody's queue for answers: to send to only."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination header, understood. Of a queue, the routing key is the queue's name."""

    kind: Kind
    address: Address


class Dialect(Protocol):
    """How one kind of broker reads and writes destinations."""

    def parse(self, destination: str) -> Destination:
        """Raises `BadDestination`, or `Refused` for one that is known and not offered."""

    def format(self, address: Address) -> str:
        """The destination header of a message that was published to `address`."""

    def reply_to(self, reply_to: str) -> str:
        """The `reply-to` header that an answer can be sent to."""

    def check_send(self, destination: Destination, headers: Mapping[str, str]) -> None:
        """Raises `Refused` for headers of the first SEND to a queue that ask for another kind of queue."""

    def check_subscribe(self, destination: Destination, headers: Mapping[str, str]) -> None:
        """Raises `Refused` for headers of a SUBSCRIBE that ask for what is not offered."""


_PREFIXES = ("/queue", "/topic", "/exchange", "/amq/queue", "/reply-queue", "/temp-queue")

_QUEUE_ARGUMENTS = frozenset(
    {
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-expires",
        "x-max-age",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-message-ttl",
        "x-queue-name",
        "x-queue-type",
        "x-stream-filter-size-bytes",
        "x-stream-max-segment-size-bytes",
    }
)
_SUBSCRIBE_ARGUMENTS = frozenset(
    {"selector", "x-priority", "x-stream-filter", "x-stream-match-unfiltered", "x-stream-offset"}
)
_OTHER_QUEUE = frozenset({("durable", "false"), ("auto-delete", "true"), ("exclusive", "true")})
_DURABLE_SUBSCRIPTION = frozenset({("durable", "true"), ("persistent", "true"), ("auto-delete", "false")})

_WRITTEN_AS_IS = "".join(chr(code) for code in range(0x20, 0x80) if chr(code) not in "/%")


class RabbitMQ:
    """The rules of RabbitMQ's STOMP plugin (https://www.rabbitmq.com/docs/stomp)."""

    def parse(self, destination: str) -> Destination:
        if destination.startswith("/reply-queue/"):
            # The plugin gives these out itself, and the name after the prefix may hold slashes.
            name = destination.removeprefix("/reply-queue/")
            if not name:
                raise BadDestination("/reply-queue/ names no queue")
            return Destination(Kind.REPLY_QUEUE, Address(DEFAULT_EXCHANGE, _bounded(name, destination)))
        if destination.startswith("/temp-queue/"):
            raise Refused("temporary queues (/temp-queue/) are not available")
        if destination.startswith("/exchange/"):
            exchange, *key = self._words(destination, "/exchange/", most=2)
            if exchange in ("", "amq.default"):
                raise BadDestination(f"{shown(destination)} does not name an exchange")
            return Destination(Kind.EXCHANGE, Address(exchange, key[0] if key else ""))
        for prefix, kind, exchange in (
            ("/queue/", Kind.QUEUE, DEFAULT_EXCHANGE),
            ("/topic/", Kind.EXCHANGE, TOPIC_EXCHANGE),
            ("/amq/queue/", Kind.EXISTING_QUEUE, DEFAULT_EXCHANGE),
        ):
            if destination.startswith(prefix):
                return Destination(kind, Address(exchange, self._words(destination, prefix, most=1)[0]))
        raise BadDestination(f"{shown(destination)} is not one of {', '.join(_PREFIXES)} followed by a name")

    def format(self, address: Address) -> str:
        exchange, key = address
        if exchange == DEFAULT_EXCHANGE:
            return f"/queue/{_escape(key)}"
        if exchange == TOPIC_EXCHANGE:
            return f"/topic/{_escape(key)}"
        return f"/exchange/{_escape(exchange)}/{_escape(key)}" if key else f"/exchange/{_escape(exchange)}"

    def reply_to(self, reply_to: str) -> str:
        return reply_to if reply_to.startswith(_PREFIXES) else f"/reply-queue/{reply_to}"

    def check_send(self, destination: Destination, headers: Mapping[str, str]) -> None:
        if destination.kind is Kind.QUEUE:
            _refuse(headers, _QUEUE_ARGUMENTS, _OTHER_QUEUE)

    def check_subscribe(self, destination: Destination, headers: Mapping[str, str]) -> None:
        if destination.kind is Kind.REPLY_QUEUE:
            raise BadDestination("/reply-queue/ is to send to, not to subscribe to")
        live = destination.kind is Kind.EXCHANGE
        _refuse(headers, _QUEUE_ARGUMENTS | _SUBSCRIBE_ARGUMENTS, _DURABLE_SUBSCRIPTION if live else _OTHER_QUEUE)

    def _words(self, destination: str, prefix: str, most: int) -> list[str]:
        words = destination[len(prefix) :].split("/")
        if len(words) > most or not words[0]:
            raise BadDestination(f"{shown(destination)} has not the form {prefix}{'/'.join(['name', 'key'][:most])}")
        return [_bounded(_unescape(word, destination), destination) for word in words]


def _refuse(headers: Mapping[str, str], names: frozenset[str], values: frozenset[tuple[str, str]]) -> None:
    for name, value in headers.items():
        if name in names or (name, value) in values:
            raise Refused(f"{name}:{shown(value)} is not available here")


def _bounded(name: str, destination: str) -> str:
    if len(name.encode()) > MAX_NAME:
        raise BadDestination(f"{shown(destination)} has a name over {MAX_NAME} bytes")
    return name


def _escape(name: str) -> str:
    """A slash in a name is written %2F, and what is no printable ASCII byte by byte, as the plugin does."""
    return quote(name, safe=_WRITTEN_AS_IS, errors="replace")


def _unescape(name: str, destination: str) -> str:
    if "%" not in name:
        return name
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise BadDestination(f"{shown(destination)} is not UTF-8 once its escapes are undone") from None


DIALECTS: Mapping[str, Dialect] = {"rabbitmq": RabbitMQ()}
"""By the name in a listener's settings."""
