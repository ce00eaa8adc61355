"""What RabbitMQ's queue arguments (`x-…`) ask for, read and checked once. Pure.

https://www.rabbitmq.com/docs/queues#optional-arguments. Arguments that are not known are kept and mean nothing, also
when the queue is declared again, as for RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import Final

from gateway.core.backend import QueueSpec
from gateway.core.errors import Inequivalent, InvalidArgument
from gateway.core.exchanges import shown
from gateway.core.message import HeaderValue
from gateway.core.selector import Selector, SelectorError, compile_selector

MAX_PRIORITIES: Final = 255
"""As RabbitMQ; the queue in AWS has fewer levels, see `docs/compatibility.md`."""

MAX_MILLISECONDS: Final = 315_360_000_000
"""Ten years: RabbitMQ's limit for times to live and for expiry."""

QUEUE_TYPE: Final = "x-queue-type"
DEAD_LETTER_EXCHANGE: Final = "x-dead-letter-exchange"
DEAD_LETTER_ROUTING_KEY: Final = "x-dead-letter-routing-key"
CLASSIC: Final = "classic"

SELECTOR: Final = "x-selector"
"""An argument of ours: of what is routed to the queue, it gets what this selector (JMS 2.0 §3.8) matches. So a durable
subscription is filtered also while its subscriber is away: the queue, with its arguments, is in the state store."""

QUORUM_DELIVERY_LIMIT: Final = 20
"""What a quorum queue has when it does not say, since RabbitMQ 4.0."""


class Overflow(Enum):
    """What gives way in a queue that is full."""

    DROP_HEAD = "drop-head"
    REJECT_PUBLISH = "reject-publish"
    REJECT_PUBLISH_DLX = "reject-publish-dlx"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """The arguments that mean something here. Times in milliseconds; None: not asked for."""

    message_ttl: int | None = None
    expires: int | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: Overflow = Overflow.DROP_HEAD
    max_priority: int | None = None
    single_active_consumer: bool = False
    stream: bool = False
    delivery_limit: int | None = None
    """Deliveries that may fail before a message is dead-lettered; None for any number."""
    accepts: Selector | None = field(default=None, compare=False)
    """Which of the messages that are routed to the queue come into it; None for all."""

    @property
    def bounded(self) -> bool:
        return self.max_length is not None or self.max_length_bytes is not None


NO_POLICY: Final = QueuePolicy()


def read_policy(spec: QueueSpec) -> QueuePolicy:
    """Raises `InvalidArgument`."""
    arguments = spec.arguments
    if not arguments:
        return NO_POLICY
    values: dict[str, object] = {}
    for name, (meaning, read) in _KNOWN.items():
        if name in arguments:
            values[meaning] = read(name, arguments[name])
    kind = _one_of(QUEUE_TYPE, arguments.get(QUEUE_TYPE, CLASSIC), (CLASSIC, "quorum", "stream"), "queue type")
    _one_of("x-queue-mode", arguments.get("x-queue-mode", "default"), ("default", "lazy"), "queue mode")
    if kind == "stream":
        _check_durable(spec, "stream")
        for name in sorted(_NOT_OF_STREAMS & arguments.keys()):
            raise InvalidArgument(name, "streams have no such argument")
        return QueuePolicy(max_length_bytes=values.get("max_length_bytes"), stream=True)  # type: ignore[arg-type]  # read
    if values.get("dead_letter_routing_key") is not None and values.get("dead_letter_exchange") is None:
        raise InvalidArgument(DEAD_LETTER_ROUTING_KEY, "routing_key_but_no_dlx_defined")
    if values.get("max_length_bytes") is not None and not spec.virtual:
        raise InvalidArgument(
            "x-max-length-bytes", "a queue in AWS does not know its bytes; x-max-length counts messages"
        )
    if values.get("max_priority") and spec.arguments.get("x-fifo") in (True, "true"):
        raise InvalidArgument("x-max-priority", "a FIFO queue has one order")
    if kind == "quorum":
        _check_durable(spec, "quorum")
        values.setdefault("delivery_limit", QUORUM_DELIVERY_LIMIT)
    return QueuePolicy(**values)  # type: ignore[arg-type]  # each was read by its own reader


def is_stream(spec: QueueSpec) -> bool:
    """Whether a stream was asked for."""
    return spec.arguments.get(QUEUE_TYPE) == "stream"


def read_stream_policy(spec: QueueSpec) -> QueuePolicy:
    """As `read_policy`, of a queue that is a stream because of where it lives. Raises `InvalidArgument`."""
    kind = spec.arguments.get(QUEUE_TYPE, "stream")
    if kind != "stream":
        raise InvalidArgument(QUEUE_TYPE, f"the queue lives in a stream, and cannot be {kind!r}")
    return read_policy(replace(spec, arguments={**spec.arguments, QUEUE_TYPE: "stream"}))


def _check_durable(spec: QueueSpec, kind: str) -> None:
    for flag, name in ((not spec.durable, "durable"), (spec.exclusive, "exclusive"), (spec.auto_delete, "auto-delete")):
        if flag:
            raise InvalidArgument(name, f"a {kind} queue is durable, and neither exclusive nor auto-delete")


def check_equivalent(queue: str, current: QueueSpec, asked: QueueSpec) -> None:
    """Raises `Inequivalent` for the first thing that differs, in RabbitMQ's order."""
    for flag, received, present in (
        ("durable", asked.durable, current.durable),
        ("exclusive", asked.exclusive, current.exclusive),
        ("auto_delete", asked.auto_delete, current.auto_delete),
    ):
        if received != present:
            raise Inequivalent("queue", queue, flag, shown(received), shown(present))
    for name in _COMPARED:
        given, had = asked.arguments.get(name), current.arguments.get(name)
        default = CLASSIC if name == QUEUE_TYPE else None
        if _comparable(given, default) != _comparable(had, default):
            raise Inequivalent("queue", queue, name, _shown(given), _shown(had))


_NOT_OF_STREAMS: Final = frozenset(
    {
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-delivery-limit",
        "x-expires",
        "x-max-length",
        "x-max-priority",
        "x-message-ttl",
        "x-overflow",
        "x-selector",
        "x-single-active-consumer",
    }
)
"""https://www.rabbitmq.com/docs/streams#feature-comparison"""


def _comparable(value: object, default: object) -> object:
    """Numbers are equal whatever type they came in, and booleans are no numbers."""
    if value is None:
        return default
    if isinstance(value, bool):
        return (bool, value)
    return (int, value) if isinstance(value, (int, float, Decimal)) else value


def _shown(value: object) -> str:
    known: tuple[type, ...] = (str, bool, int, float)
    return shown(value) if value is None or isinstance(value, known) else repr(value)  # type: ignore[arg-type]


def _number(least: int, most: int | None = None, too_large: str = "value_too_large") -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidArgument(name, f'"expected integer, got {_type_name(value)}"')
        if value < 0 or value < least:
            raise InvalidArgument(name, f"{{value_negative,{value}}}" if value < 0 else f"{{value_zero,{value}}}")
        if most is not None and value > most:
            raise InvalidArgument(name, f"{{{too_large},{value}}}")
        return value

    return read


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(name, f"{{unacceptable_type,{_type_name(value)}}}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(name, f"{{unacceptable_type,{_type_name(value)}}}")
    return value


def _delivery_limit(name: str, value: object) -> int | None:
    """-1 asks for none (RabbitMQ 4)."""
    return None if value == -1 else _number(0)(name, value)


def _selector(name: str, value: object) -> Selector:
    try:
        return compile_selector(_text(name, value))
    except SelectorError as error:
        raise InvalidArgument(name, str(error)) from None


def _overflow(name: str, value: object) -> Overflow:
    try:
        return Overflow(_text(name, value))
    except ValueError:
        raise InvalidArgument(name, "invalid_overflow") from None


def _one_of(name: str, value: object, allowed: tuple[str, ...], what: str) -> str:
    text = _text(name, value)
    if text not in allowed:
        raise InvalidArgument(name, f"\"unsupported {what} '{text}'\"")
    return text


def _type_name(value: HeaderValue | object) -> str:
    """AMQP's name of a value's type, as RabbitMQ puts it in its texts."""
    names: Mapping[type, str] = {
        str: "longstr",
        bool: "bool",
        int: "long",
        float: "double",
        bytes: "binary",
        list: "array",
        dict: "table",
        Decimal: "decimal",
        type(None): "void",
    }
    return names.get(type(value), "timestamp")


_KNOWN: Final[Mapping[str, tuple[str, Callable[[str, object], object]]]] = {
    "x-message-ttl": ("message_ttl", _number(0, MAX_MILLISECONDS)),
    "x-expires": ("expires", _number(1, MAX_MILLISECONDS)),
    DEAD_LETTER_EXCHANGE: ("dead_letter_exchange", _text),
    DEAD_LETTER_ROUTING_KEY: ("dead_letter_routing_key", _text),
    "x-max-length": ("max_length", _number(0)),
    "x-max-length-bytes": ("max_length_bytes", _number(0)),
    "x-overflow": ("overflow", _overflow),
    "x-max-priority": ("max_priority", _number(0, MAX_PRIORITIES, "max_value_exceeded")),
    "x-single-active-consumer": ("single_active_consumer", _flag),
    "x-delivery-limit": ("delivery_limit", _delivery_limit),
    SELECTOR: ("accepts", _selector),
}

_COMPARED: Final = (*sorted({*_KNOWN, QUEUE_TYPE, "x-fifo"}),)
"""What has to be the same when a queue is declared again."""
