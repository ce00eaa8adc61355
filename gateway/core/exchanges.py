"""Exchanges: what they are declared with, and how each type decides where a message goes (AMQP 0-9-1 §3.1.3). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypeAlias

import orjson

from gateway.core.errors import Inequivalent, InvalidArgument
from gateway.core.message import NO_HEADERS, Headers, HeaderValue
from gateway.core.packing import pack_value
from gateway.core.trie import MAX_WORDS, TopicTrie, check_words, split_words

CACHED_ROUTES: Final = 16_384
"""Routing keys whose destinations one exchange remembers; then it forgets all and starts again."""
CACHED_KEY_LENGTH: Final = 512
CACHED_DESTINATIONS: Final = 64
"""A longer key, or one that leads to more places, is routed anew each time, so that a cache stays under 20 MB."""

ALTERNATE: Final = "alternate-exchange"
DELAYED_TYPE: Final = "x-delayed-type"


class ExchangeType(Enum):
    """How an exchange decides, under the names that RabbitMQ's clients use."""

    DIRECT = "direct"
    FANOUT = "fanout"
    TOPIC = "topic"
    HEADERS = "headers"
    DELAYED = "x-delayed-message"
    """Decides as its `x-delayed-type` says; its messages wait as long as their header `x-delay` asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSpec:
    """How an exchange was asked for."""

    type: ExchangeType
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)

    @property
    def alternate(self) -> str | None:
        """The exchange that gets what this one has no place for."""
        value = self.arguments.get(ALTERNATE)
        return value if isinstance(value, str) else None

    @property
    def deciding(self) -> ExchangeType:
        """The type that decides. Raises `InvalidArgument` for a delayed exchange that does not say."""
        if self.type is not ExchangeType.DELAYED:
            return self.type
        try:
            decides = ExchangeType(self.arguments.get(DELAYED_TYPE))
        except ValueError:
            decides = ExchangeType.DELAYED
        if decides is ExchangeType.DELAYED:
            raise InvalidArgument(DELAYED_TYPE, "must be an existing exchange type")
        return decides

    def check_equivalent(self, name: str, asked: ExchangeSpec) -> None:
        """Raises `Inequivalent` for the first thing that differs, in RabbitMQ's order."""
        for argument, received, current in (
            ("type", asked.type.value, self.type.value),
            ("durable", asked.durable, self.durable),
            ("auto_delete", asked.auto_delete, self.auto_delete),
            ("internal", asked.internal, self.internal),
            (ALTERNATE, asked.alternate, self.alternate),
            (DELAYED_TYPE, asked.arguments.get(DELAYED_TYPE), self.arguments.get(DELAYED_TYPE)),
        ):
            if received != current:
                raise Inequivalent("exchange", name, argument, shown(received), shown(current))


def shown(value: HeaderValue) -> str:
    """A value in an error's text, as RabbitMQ writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


class ToExchange(NamedTuple):
    """A destination that is another exchange."""

    exchange: str


Destination: TypeAlias = "str | ToExchange"
"""A queue, by its name, or another exchange."""


class BindingKey(NamedTuple):
    """What tells a binding of one exchange from its others."""

    destination: Destination
    pattern: str
    arguments: str = ""
    """The arguments in one canonical text; empty for none."""

    @classmethod
    def of(cls, destination: Destination, pattern: str, arguments: Headers) -> BindingKey:
        """Raises `InvalidArgument` for arguments that cannot be kept."""
        if not arguments:
            return cls(destination, pattern)
        try:
            packed = {name: pack_value(value) for name, value in arguments.items()}
            return cls(destination, pattern, orjson.dumps(packed, option=orjson.OPT_SORT_KEYS).decode())
        except (TypeError, ValueError) as error:
            raise InvalidArgument("arguments", str(error)) from None


class Router(Protocol):
    """The part of an exchange that differs by type. Each binding is added once, and removed at most once."""

    def add(self, binding: BindingKey, arguments: Headers) -> None:
        """Raises `Refused` for a pattern that is over a limit, `InvalidArgument` for arguments that mean nothing."""

    def remove(self, binding: BindingKey) -> None: ...

    def match(self, key: str, headers: Headers) -> list[Destination]:
        """Destinations, possibly several times. Raises `Refused` for a key that is over a limit."""


class _Direct:
    """The routing key equals the binding's."""

    __slots__ = ("_bindings",)

    def __init__(self) -> None:
        self._bindings: dict[str, dict[BindingKey, None]] = {}

    def add(self, binding: BindingKey, arguments: Headers) -> None:  # noqa: ARG002 - the port's
        self._bindings.setdefault(binding.pattern, {})[binding] = None

    def remove(self, binding: BindingKey) -> None:
        bindings = self._bindings[binding.pattern]
        del bindings[binding]
        if not bindings:
            del self._bindings[binding.pattern]

    def match(self, key: str, headers: Headers) -> list[Destination]:  # noqa: ARG002 - the port's
        return [binding.destination for binding in self._bindings.get(key, ())]


class _Fanout:
    """Every message goes everywhere."""

    __slots__ = ("_bindings",)

    def __init__(self) -> None:
        self._bindings: dict[BindingKey, None] = {}

    def add(self, binding: BindingKey, arguments: Headers) -> None:  # noqa: ARG002 - the port's
        self._bindings[binding] = None

    def remove(self, binding: BindingKey) -> None:
        del self._bindings[binding]

    def match(self, key: str, headers: Headers) -> list[Destination]:  # noqa: ARG002 - the port's
        return [binding.destination for binding in self._bindings]


class _Topic:
    """Patterns of words."""

    __slots__ = ("_trie",)

    def __init__(self, *, shield_dollar: bool = False) -> None:
        self._trie: TopicTrie[BindingKey] = TopicTrie(shield_dollar=shield_dollar)

    def add(self, binding: BindingKey, arguments: Headers) -> None:  # noqa: ARG002 - the port's
        self._trie.insert(binding.pattern, binding)

    def remove(self, binding: BindingKey) -> None:
        self._trie.remove(binding.pattern, binding)

    def match(self, key: str, headers: Headers) -> list[Destination]:  # noqa: ARG002 - the port's
        if key.count(".") >= MAX_WORDS:
            check_words(split_words(key))
        return [binding.destination for binding in self._trie.match(key)]


class _HeadersMatch:
    """What a headers binding asks for."""

    __slots__ = ("_any", "_wanted")

    def __init__(self, arguments: Headers) -> None:
        mode = arguments.get("x-match", "all")
        if mode not in ("all", "any", "all-with-x", "any-with-x"):
            raise InvalidArgument("x-match", f"{mode!r:.80} is none of all, any, all-with-x and any-with-x")
        assert isinstance(mode, str)
        self._any = mode.startswith("any")
        with_x = mode.endswith("-with-x")
        self._wanted = [
            (name, value)
            for name, value in arguments.items()
            if name != "x-match" and (with_x or not name.startswith("x-"))
        ]

    def matches(self, headers: Headers) -> bool:
        found = (name in headers and _equal(value, headers[name]) for name, value in self._wanted)
        return any(found) if self._any else all(found)


def _equal(wanted: HeaderValue, given: HeaderValue) -> bool:
    """A binding without a value asks for the header's presence; as for RabbitMQ, 1 equals 1.0 and not true."""
    return wanted is None or (isinstance(wanted, bool) is isinstance(given, bool) and wanted == given)


class _Headers:
    """The message's headers against the binding's arguments."""

    __slots__ = ("_bindings",)

    def __init__(self) -> None:
        self._bindings: dict[BindingKey, _HeadersMatch] = {}

    def add(self, binding: BindingKey, arguments: Headers) -> None:
        self._bindings[binding] = _HeadersMatch(arguments)

    def remove(self, binding: BindingKey) -> None:
        del self._bindings[binding]

    def match(self, key: str, headers: Headers) -> list[Destination]:  # noqa: ARG002 - the port's
        return [binding.destination for binding, wanted in self._bindings.items() if wanted.matches(headers)]


class Exchange:
    """One exchange, its bindings, and what it said lately."""

    __slots__ = ("_router", "_routes", "bindings", "by_headers", "onward", "spec")

    def __init__(self, spec: ExchangeSpec, *, shield_dollar: bool = False) -> None:
        """Raises `InvalidArgument`."""
        self.spec = spec
        self.bindings: dict[BindingKey, Headers] = {}
        self.onward = 0
        """Bindings to other exchanges."""
        if spec.arguments.get(ALTERNATE) is not None and spec.alternate is None:
            raise InvalidArgument(ALTERNATE, "is the name of an exchange")
        deciding = spec.deciding
        self.by_headers = deciding is ExchangeType.HEADERS
        self._router: Router = _new_router(deciding, shield_dollar=shield_dollar)
        self._routes: dict[str, tuple[Destination, ...]] = {}

    def bind(self, binding: BindingKey, arguments: Headers) -> None:
        self._router.add(binding, arguments)
        self.bindings[binding] = arguments
        self.onward += isinstance(binding.destination, ToExchange)
        self._routes.clear()

    def unbind(self, binding: BindingKey) -> None:
        self._router.remove(binding)
        del self.bindings[binding]
        self.onward -= isinstance(binding.destination, ToExchange)
        self._routes.clear()

    def route(self, key: str, headers: Headers) -> tuple[Destination, ...]:
        """Each destination once. Raises `Refused` for a key over a limit."""
        if self.by_headers:
            return tuple(dict.fromkeys(self._router.match(key, headers)))
        destinations = self._routes.get(key)
        if destinations is None:
            destinations = tuple(dict.fromkeys(self._router.match(key, headers)))
            if len(destinations) <= CACHED_DESTINATIONS and len(key) <= CACHED_KEY_LENGTH:
                if len(self._routes) >= CACHED_ROUTES:
                    self._routes.clear()
                self._routes[key] = destinations
        return destinations


def _new_router(kind: ExchangeType, *, shield_dollar: bool) -> Router:
    if kind is ExchangeType.DIRECT:
        return _Direct()
    if kind is ExchangeType.FANOUT:
        return _Fanout()
    if kind is ExchangeType.HEADERS:
        return _Headers()
    return _Topic(shield_dollar=shield_dollar)


_PREDECLARED_TYPES: Final[Mapping[str, ExchangeType]] = {
    "amq.direct": ExchangeType.DIRECT,
    "amq.fanout": ExchangeType.FANOUT,
    "amq.topic": ExchangeType.TOPIC,
    "amq.headers": ExchangeType.HEADERS,
    "amq.match": ExchangeType.HEADERS,
}


def predeclared() -> dict[str, Exchange]:
    """The exchanges of every AMQP server (AMQP 0-9-1 §3.1.3), but the default one, which is the list of queues.

    `amq.topic`, where MQTT topics live, keeps MQTT's rule for `$` for every protocol.
    """
    return {
        name: Exchange(ExchangeSpec(type=kind, durable=True), shield_dollar=kind is ExchangeType.TOPIC)
        for name, kind in _PREDECLARED_TYPES.items()
    }
