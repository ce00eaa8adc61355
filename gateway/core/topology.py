"""Exchanges, queues and bindings: which queues a message goes to. Pure; nothing here waits or does I/O.

A pattern and a routing key are words separated by `.`; in a pattern `*` is one word and `#` any number of words, none
included (AMQP 0-9-1 §3.1.3.3). Words may be empty: `a..b` has three.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Generic, Protocol, TypeVar

from gateway.core.errors import MqliftError, Refused
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE

T = TypeVar("T")

MAX_WORDS = 256
"""Of a pattern or a routing key. AMQP's short strings hold no more (255 bytes); Mosquitto's limit is 200 levels.
Matching costs at worst the product of both, so neither may be long."""
MAX_EXCHANGES = 10_000
MAX_QUEUES = 200_000
MAX_BINDINGS = 1_000_000
"""Far above what one gateway's connections need: a stop for a client that declares in a loop."""
CACHED_ROUTES = 16_384
"""Routing keys whose queues one exchange remembers; then it forgets all and starts again."""
CACHED_KEY_LENGTH = 512
CACHED_QUEUES = 64
"""A longer key, or one that leads to more queues, is routed anew each time, so that a cache stays under 20 MB."""

_SWAP = str.maketrans("./", "/.")


class UnknownExchange(MqliftError):
    """There is no exchange of this name (AMQP: 404 NOT_FOUND)."""

    def __init__(self, exchange: str) -> None:
        super().__init__(f"no exchange {exchange!r}")
        self.exchange = exchange


class UnknownQueue(MqliftError):
    """There is no queue of this name (AMQP: 404 NOT_FOUND)."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"no queue {queue!r}")
        self.queue = queue


class Inequivalent(MqliftError):
    """The exchange exists and is of another type (AMQP: 406 PRECONDITION_FAILED)."""


class ExchangeType(Enum):
    """How an exchange decides, under AMQP's names."""

    DIRECT = "direct"
    FANOUT = "fanout"
    TOPIC = "topic"
    HEADERS = "headers"


def swap_separators(name: str) -> str:
    """A routing key as an MQTT topic, or the other way round: `.` and `/` change places, as in RabbitMQ."""
    return name.translate(_SWAP)


def split_words(text: str) -> list[str]:
    """The words of a pattern or a routing key. The empty key has none, so `#` matches it and `*` does not."""
    return text.split(".") if text else []


class _Node(Generic[T]):
    """One word of one or more patterns. Tables are made when they are needed: most nodes have few entries or none."""

    __slots__ = ("any_words", "children", "one_word", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] | None = None
        self.one_word: _Node[T] | None = None
        self.any_words: _Node[T] | None = None
        self.values: dict[T, None] | None = None

    @property
    def empty(self) -> bool:
        return not (self.children or self.values or self.one_word or self.any_words)

    def child(self, word: str) -> _Node[T] | None:
        if word == "*":
            return self.one_word
        if word == "#":
            return self.any_words
        return self.children.get(word) if self.children else None

    def add_child(self, word: str) -> _Node[T]:
        node: _Node[T] = _Node()
        if word == "*":
            self.one_word = node
        elif word == "#":
            self.any_words = node
        elif self.children is None:
            self.children = {word: node}
        else:
            self.children[word] = node
        return node

    def drop_child(self, word: str) -> None:
        if word == "*":
            self.one_word = None
        elif word == "#":
            self.any_words = None
        elif self.children is not None:
            del self.children[word]


class TopicTrie(Generic[T]):
    """Values by pattern, found by routing key. Values must be hashable.

    With `shield_dollar`, a pattern that starts with a wildcard does not match a key that starts with `$`: the
    server's own topics are not part of "everything" [MQTT-4.7.2-1].
    """

    __slots__ = ("_root", "_shield_dollar")

    def __init__(self, *, shield_dollar: bool = False) -> None:
        self._root: _Node[T] = _Node()
        self._shield_dollar = shield_dollar

    def insert(self, pattern: str, value: T) -> bool:
        """Whether it was not there before. Raises `Refused` for a pattern of more than `MAX_WORDS` words."""
        words = split_words(pattern)
        check_words(words)
        node = self._root
        for word in words:
            node = node.child(word) or node.add_child(word)
        if node.values is None:
            node.values = {}
        if value in node.values:
            return False
        node.values[value] = None
        return True

    def remove(self, pattern: str, value: T) -> bool:
        """Whether it was there. Nodes that nothing needs any more go with it."""
        path: list[tuple[_Node[T], str]] = []
        node = self._root
        for word in split_words(pattern):
            child = node.child(word)
            if child is None:
                return False
            path.append((node, word))
            node = child
        if node.values is None or value not in node.values:
            return False
        del node.values[value]
        while path and node.empty:
            node, word = path.pop()
            node.drop_child(word)
        return True

    def match(self, key: str) -> list[T]:
        """The values of all patterns that match, one for each pattern; in the same order for equal histories.

        All patterns advance together, one word at a time, and a `#` that was reached stays reached: so the cost is at
        worst words times nodes, whatever the patterns are.
        """
        root = self._root
        shielded = self._shield_dollar and key.startswith("$")
        live = [root]
        hashes: dict[_Node[T], None] = {}
        if not shielded:
            _reach_hashes(live, hashes)
        for word in split_words(key):
            reached: list[_Node[T]] = []
            for nodes in (live, hashes):
                for node in nodes:
                    if node.children is not None and (child := node.children.get(word)) is not None:
                        reached.append(child)
                    if node.one_word is not None and not (shielded and node is root):
                        reached.append(node.one_word)
            live = reached
            _reach_hashes(live, hashes)
            if not (live or hashes):
                break
        return [value for nodes in (live, hashes) for node in nodes if node.values for value in node.values]

    def __bool__(self) -> bool:
        return not self._root.empty


def check_words(words: list[str]) -> None:
    """Raises `Refused` for more than `MAX_WORDS`."""
    if len(words) > MAX_WORDS:
        raise Refused(f"{len(words)} words are more than the limit of {MAX_WORDS}")


def _reach_hashes(live: list[_Node[T]], hashes: dict[_Node[T], None]) -> None:
    """Add the `#` nodes that follow the live nodes, also one after another (`#.#`), unless they are there already."""
    for node in live:
        follower = node.any_words
        while follower is not None and follower not in hashes:
            hashes[follower] = None
            follower = follower.any_words


class _Router(Protocol):
    """The part of an exchange that differs by type. Each binding is added once, and removed at most once."""

    def add(self, queue: str, pattern: str) -> None:
        """Raises `Refused` for a pattern that is over a limit."""

    def remove(self, queue: str, pattern: str) -> None: ...

    def match(self, key: str) -> list[str]:
        """Queues, possibly several times. Raises `Refused` for a key that is over a limit."""


class _Direct:
    """The routing key equals the binding's."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, None]] = {}

    def add(self, queue: str, pattern: str) -> None:
        self._queues.setdefault(pattern, {})[queue] = None

    def remove(self, queue: str, pattern: str) -> None:
        queues = self._queues[pattern]
        del queues[queue]
        if not queues:
            del self._queues[pattern]

    def match(self, key: str) -> list[str]:
        return list(self._queues.get(key, ()))


class _Unconditional:
    """Every message goes to every bound queue; bindings are counted, because a queue may have several."""

    __slots__ = ("_bindings",)

    def __init__(self) -> None:
        self._bindings: dict[str, int] = {}

    def add(self, queue: str, pattern: str) -> None:  # noqa: ARG002 - the port's
        self._bindings[queue] = self._bindings.get(queue, 0) + 1

    def remove(self, queue: str, pattern: str) -> None:  # noqa: ARG002 - the port's
        self._bindings[queue] -= 1
        if not self._bindings[queue]:
            del self._bindings[queue]

    def match(self, key: str) -> list[str]:  # noqa: ARG002 - the port's
        return list(self._bindings)


class _Topic:
    """Patterns of words."""

    __slots__ = ("_trie",)

    def __init__(self, *, shield_dollar: bool = False) -> None:
        self._trie: TopicTrie[str] = TopicTrie(shield_dollar=shield_dollar)

    def add(self, queue: str, pattern: str) -> None:
        self._trie.insert(pattern, queue)

    def remove(self, queue: str, pattern: str) -> None:
        self._trie.remove(pattern, queue)

    def match(self, key: str) -> list[str]:
        if key.count(".") >= MAX_WORDS:
            check_words(split_words(key))
        return self._trie.match(key)


class _Exchange:
    """A router and what it said lately."""

    __slots__ = ("_routes", "kind", "router")

    def __init__(self, kind: ExchangeType, router: _Router) -> None:
        self.kind = kind
        self.router = router
        self._routes: dict[str, tuple[str, ...]] = {}

    def route(self, key: str) -> tuple[str, ...]:
        queues = self._routes.get(key)
        if queues is None:
            queues = tuple(dict.fromkeys(self.router.match(key)))
            if len(queues) <= CACHED_QUEUES and len(key) <= CACHED_KEY_LENGTH:
                if len(self._routes) >= CACHED_ROUTES:
                    self._routes.clear()
                self._routes[key] = queues
        return queues

    def changed(self) -> None:
        self._routes.clear()


def _new_router(kind: ExchangeType) -> _Router:
    if kind is ExchangeType.DIRECT:
        return _Direct()
    if kind is ExchangeType.TOPIC:
        return _Topic()
    # A headers binding that names no header matches every message, as in RabbitMQ; bindings hold no arguments here.
    return _Unconditional()


def _predeclared() -> dict[str, _Exchange]:
    """The exchanges of every AMQP server (AMQP 0-9-1 §3.1.3), but the default one, which is the list of queues."""
    kinds = {
        "amq.direct": ExchangeType.DIRECT,
        "amq.fanout": ExchangeType.FANOUT,
        "amq.headers": ExchangeType.HEADERS,
        "amq.match": ExchangeType.HEADERS,
    }
    exchanges = {name: _Exchange(kind, _new_router(kind)) for name, kind in kinds.items()}
    # The exchange that MQTT topics live on keeps MQTT's rule for `$`, for every protocol.
    exchanges[TOPIC_EXCHANGE] = _Exchange(ExchangeType.TOPIC, _Topic(shield_dollar=True))
    return exchanges


PREDECLARED = frozenset({DEFAULT_EXCHANGE, *_predeclared()})


class Topology:
    """All exchanges, queues and bindings that this gateway knows.

    `version` grows with every change that can alter what `route` answers, so that callers know when to forget.
    """

    def __init__(
        self,
        *,
        max_exchanges: int = MAX_EXCHANGES,
        max_queues: int = MAX_QUEUES,
        max_bindings: int = MAX_BINDINGS,
    ) -> None:
        self.version = 0
        self._max_exchanges = max_exchanges
        self._max_queues = max_queues
        self._max_bindings = max_bindings
        self._exchanges = _predeclared()
        self._queues: dict[str, dict[tuple[str, str], None]] = {}
        self.binding_count = 0

    def route(self, exchange: str, routing_key: str) -> tuple[str, ...]:
        """The names of the queues that a message goes to, each once.

        Raises `UnknownExchange`, and `Refused` for a key of more than `MAX_WORDS` words on a topic exchange.
        """
        if exchange == DEFAULT_EXCHANGE:
            return (routing_key,) if routing_key in self._queues else ()
        return self._exchange(exchange).route(routing_key)

    def declare_exchange(self, exchange: str, kind: ExchangeType) -> bool:
        """Whether it is new. Raises `Inequivalent` when it exists with another type, `Refused` at the limit."""
        existing = ExchangeType.DIRECT if exchange == DEFAULT_EXCHANGE else self._kind(exchange)
        if existing is None:
            _check_room(len(self._exchanges), self._max_exchanges, "exchanges")
            self._exchanges[exchange] = _Exchange(kind, _new_router(kind))
            self.version += 1
            return True
        if existing is not kind:
            raise Inequivalent(f"exchange {exchange!r} is of type {existing.value}, not {kind.value}")
        return False

    def delete_exchange(self, exchange: str) -> bool:
        """Whether there was one; its bindings end with it. Raises `Refused` for a predeclared exchange."""
        if exchange in PREDECLARED:
            raise Refused(f"exchange {exchange!r} is predeclared and stays")
        if self._exchanges.pop(exchange, None) is None:
            return False
        for bindings in self._queues.values():
            gone = [binding for binding in bindings if binding[0] == exchange]
            for binding in gone:
                del bindings[binding]
            self.binding_count -= len(gone)
        self.version += 1
        return True

    def declare_queue(self, queue: str) -> bool:
        """Whether it is new. Raises `Refused` at the limit."""
        if queue in self._queues:
            return False
        _check_room(len(self._queues), self._max_queues, "queues")
        self._queues[queue] = {}
        self.version += 1
        return True

    def delete_queue(self, queue: str) -> bool:
        """Whether there was one; its bindings end with it."""
        bindings = self._queues.pop(queue, None)
        if bindings is None:
            return False
        for exchange, pattern in bindings:
            self._forget(queue, exchange, pattern)
        self.version += 1
        return True

    def bind(self, queue: str, exchange: str, pattern: str) -> bool:
        """Whether it is new. Raises `UnknownQueue`, `UnknownExchange`, and `Refused` at a limit.

        The default exchange takes no bindings: every queue is bound to it by its name (AMQP 0-9-1 §3.1.3.1).
        """
        if exchange == DEFAULT_EXCHANGE:
            raise Refused("the default exchange takes no bindings")
        target = self._exchange(exchange)
        bindings = self._bindings_of(queue)
        if (exchange, pattern) in bindings:
            return False
        _check_room(self.binding_count, self._max_bindings, "bindings")
        target.router.add(queue, pattern)
        target.changed()
        bindings[exchange, pattern] = None
        self.binding_count += 1
        self.version += 1
        return True

    def unbind(self, queue: str, exchange: str, pattern: str) -> bool:
        """Whether there was such a binding; a queue or exchange that is not there has none."""
        bindings = self._queues.get(queue)
        if bindings is None or (exchange, pattern) not in bindings:
            return False
        del bindings[exchange, pattern]
        self._forget(queue, exchange, pattern)
        self.version += 1
        return True

    def has_queue(self, queue: str) -> bool:
        return queue in self._queues

    def queues(self) -> Iterator[str]:
        """All names, in the order of their declaration."""
        return iter(self._queues)

    def exchanges(self) -> Iterator[tuple[str, ExchangeType]]:
        """All names and types, but the default exchange."""
        return ((name, exchange.kind) for name, exchange in self._exchanges.items())

    def bindings(self, queue: str) -> tuple[tuple[str, str], ...]:
        """(exchange, pattern) of a queue, in the order they were made. Raises `UnknownQueue`."""
        return tuple(self._bindings_of(queue))

    def _exchange(self, name: str) -> _Exchange:
        exchange = self._exchanges.get(name)
        if exchange is None:
            raise UnknownExchange(name)
        return exchange

    def _kind(self, name: str) -> ExchangeType | None:
        exchange = self._exchanges.get(name)
        return None if exchange is None else exchange.kind

    def _bindings_of(self, queue: str) -> dict[tuple[str, str], None]:
        bindings = self._queues.get(queue)
        if bindings is None:
            raise UnknownQueue(queue)
        return bindings

    def _forget(self, queue: str, exchange: str, pattern: str) -> None:
        target = self._exchanges[exchange]
        target.router.remove(queue, pattern)
        target.changed()
        self.binding_count -= 1


def _check_room(count: int, limit: int, what: str) -> None:
    if count >= limit:
        raise Refused(f"there are {count} {what} already, the limit")
