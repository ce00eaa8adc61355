"""Exchanges, queues and bindings: which queues a message goes to. Pure; nothing here waits or does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.core.errors import InUse, NotAuthorized, NotSupported, Refused
from gateway.core.exchanges import (
    BindingKey,
    Destination,
    Exchange,
    ExchangeSpec,
    ExchangeType,
    ToExchange,
    predeclared,
)
from gateway.core.message import DEFAULT_EXCHANGE, NO_HEADERS, Headers

MAX_EXCHANGES: Final = 10_000
MAX_QUEUES: Final = 200_000
MAX_BINDINGS: Final = 1_000_000
"""Far above what one gateway's connections need: a stop for a client that declares in a loop."""

PREDECLARED: Final = frozenset({DEFAULT_EXCHANGE, *predeclared()})

_DEFAULT_SPEC: Final = ExchangeSpec(type=ExchangeType.DIRECT, durable=True)


class UnknownExchange(Refused):
    """There is no exchange of this name (AMQP: 404 NOT_FOUND)."""

    def __init__(self, exchange: str) -> None:
        super().__init__(f"no exchange {exchange!r}")
        self.exchange = exchange


class UnknownQueue(Refused):
    """There is no queue of this name (AMQP: 404 NOT_FOUND)."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"no queue {queue!r}")
        self.queue = queue


class InternalExchange(NotAuthorized):
    """Only other exchanges publish to it (AMQP: 403 ACCESS_REFUSED)."""

    def __init__(self, exchange: str) -> None:
        super().__init__(f"exchange {exchange!r} is internal: messages reach it through bindings only")
        self.exchange = exchange


@dataclass(frozen=True, slots=True)
class Binding:
    """One binding, as it was asked for."""

    source: str
    destination: Destination
    pattern: str
    arguments: Headers = field(default_factory=lambda: NO_HEADERS)


class Journal(Protocol):
    """Is told of every change to what is durable, right after it: of exchanges, and bindings with two durable ends."""

    def exchange_changed(self, name: str, spec: ExchangeSpec | None) -> None:
        """Declared, or with None deleted."""

    def binding_changed(self, binding: Binding, *, bound: bool) -> None: ...

    def exchange_repeated(self, name: str) -> None:
        """Asked for again, or to be deleted and not there: nothing has changed, but it may still be unwritten."""

    def binding_repeated(self, binding: Binding) -> None:
        """The same, of a binding or its end."""


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
        journal: Journal | None = None,
    ) -> None:
        self.version = 0
        self.delaying: set[str] = set()
        """The exchanges that honour `x-delay`."""
        self.binding_count = 0
        self.journal = journal
        self._max_exchanges = max_exchanges
        self._max_queues = max_queues
        self._max_bindings = max_bindings
        self._exchanges = predeclared()
        self._headers_bindings = 0
        self._queues: dict[str, bool] = {}
        """Name and whether it is durable."""
        self._incoming: dict[Destination, dict[tuple[str, BindingKey], None]] = {}

    # Routing

    def route(self, exchange: str, routing_key: str, headers: Headers = NO_HEADERS) -> tuple[str, ...]:
        """The names of the queues that a message goes to, each once.

        Raises `UnknownExchange`, and `Refused` for a key of more than `MAX_WORDS` words on a topic exchange.
        """
        if exchange == DEFAULT_EXCHANGE:
            return (routing_key,) if routing_key in self._queues else ()
        first = self._exchange(exchange)
        if not first.onward and first.spec.alternate is None:
            return first.route(routing_key, headers)  # type: ignore[return-value]  # it leads to queues only
        return self._explore(exchange, routing_key, headers)

    def _explore(self, exchange: str, routing_key: str, headers: Headers) -> tuple[str, ...]:
        """Follow bindings between exchanges, and alternate exchanges; each decides once, whatever the loops."""
        queues: dict[str, None] = {}
        seen = {exchange}
        ahead = [exchange]
        while ahead:
            name = ahead.pop()
            if name == DEFAULT_EXCHANGE:  # as an alternate exchange
                if routing_key in self._queues:
                    queues[routing_key] = None
                continue
            current = self._exchanges.get(name)
            if current is None:
                continue  # an alternate exchange that is not there gets nothing, as in RabbitMQ
            destinations = current.route(routing_key, headers)
            following: list[str] = []
            for destination in destinations:
                if isinstance(destination, ToExchange):
                    following.append(destination.exchange)
                else:
                    queues[destination] = None
            if not destinations and current.spec.alternate is not None:
                following.append(current.spec.alternate)
            ahead += [each for each in following if each not in seen]
            seen.update(following)
        return tuple(queues)

    def routes_by_headers(self, exchange: str) -> bool:
        """Whether messages with the same address may go to different queues."""
        first = self._exchanges.get(exchange)
        if first is None or not self._headers_bindings:
            return False
        return first.by_headers or bool(first.onward) or first.spec.alternate is not None

    def check_publish(self, exchange: str) -> None:
        """Whether clients may publish to it. Raises `UnknownExchange` and `InternalExchange`."""
        if exchange != DEFAULT_EXCHANGE and self._exchange(exchange).spec.internal:
            raise InternalExchange(exchange)

    # Exchanges

    def declare_exchange(self, exchange: str, spec: ExchangeSpec) -> bool:
        """Whether it is new. Raises `Inequivalent` when it exists as another one, `InvalidArgument`, `Refused`."""
        existing = self._exchanges.get(exchange)
        if exchange == DEFAULT_EXCHANGE or existing is not None:
            (existing.spec if existing is not None else _DEFAULT_SPEC).check_equivalent(exchange, spec)
            self._repeat_exchange(exchange)
            return False
        _check_room(len(self._exchanges), self._max_exchanges, "exchanges")
        self._exchanges[exchange] = Exchange(spec)
        if spec.type is ExchangeType.DELAYED:
            self.delaying.add(exchange)
        self.version += 1
        if spec.durable and self.journal is not None:
            self.journal.exchange_changed(exchange, spec)
        return True

    def delete_exchange(self, exchange: str, *, if_unused: bool = False) -> bool:
        """Whether there was one; its bindings end with it. Raises `Refused` for a predeclared one, `InUse`."""
        if exchange in PREDECLARED:
            raise Refused(f"exchange {exchange!r} is predeclared and stays")
        gone = self._exchanges.get(exchange)
        if gone is None:
            self._repeat_exchange(exchange)
            return False
        if if_unused and gone.bindings:
            raise InUse(f"exchange {exchange!r} has bindings")
        for binding in list(gone.bindings):
            self._drop_binding(exchange, binding)
        self._remove_exchanges([exchange])
        return True

    def _remove_exchanges(self, unused: list[str]) -> None:
        """Remove exchanges that have no bindings, with what leads to them; auto-delete ones may follow, and so on."""
        while unused:
            exchange = unused.pop()
            for source, key in list(self._incoming.get(ToExchange(exchange), ())):
                if self._drop_binding(source, key):
                    unused.append(source)
            self._forget_exchange(exchange)

    def _forget_exchange(self, exchange: str) -> None:
        gone = self._exchanges.pop(exchange)
        self.delaying.discard(exchange)
        self.version += 1
        if gone.spec.durable and self.journal is not None:
            self.journal.exchange_changed(exchange, None)

    def _repeat_exchange(self, exchange: str) -> None:
        if self.journal is not None:
            self.journal.exchange_repeated(exchange)

    def exchange_spec(self, exchange: str) -> ExchangeSpec:
        """How it was declared. Raises `UnknownExchange`."""
        return _DEFAULT_SPEC if exchange == DEFAULT_EXCHANGE else self._exchange(exchange).spec

    def has_exchange(self, exchange: str) -> bool:
        return exchange in self._exchanges

    def exchanges(self) -> Iterator[tuple[str, ExchangeSpec]]:
        """All of them, but the default exchange."""
        return ((name, exchange.spec) for name, exchange in self._exchanges.items())

    # Queues

    def declare_queue(self, queue: str, *, durable: bool = False) -> bool:
        """Whether it is new. `durable`: the journal is told of its bindings. Raises `Refused` at the limit."""
        if queue in self._queues:
            return False
        _check_room(len(self._queues), self._max_queues, "queues")
        self._queues[queue] = durable
        self.version += 1
        return True

    def delete_queue(self, queue: str) -> bool:
        """Whether there was one; its bindings end with it."""
        if queue not in self._queues:
            return False
        self._unbind_all(queue)
        del self._queues[queue]
        self.version += 1
        return True

    def has_queue(self, queue: str) -> bool:
        return queue in self._queues

    def is_durable(self, queue: str) -> bool:
        """Whether its durable bindings are written down; False also for one that is not there."""
        return self._queues.get(queue, False)

    def queues(self) -> Iterator[str]:
        """All names, in the order of their declaration."""
        return iter(self._queues)

    # Bindings

    def bind(self, destination: Destination, source: str, pattern: str, arguments: Headers = NO_HEADERS) -> bool:
        """Whether it is new. Raises `UnknownQueue`, `UnknownExchange`, `InvalidArgument`, `NotSupported` for a delayed
        exchange as the destination, and `Refused` at a limit.

        The default exchange takes no bindings: every queue is bound to it by its name (AMQP 0-9-1 §3.1.3.1).
        """
        self._check_destination(destination)
        if DEFAULT_EXCHANGE in (source, *_exchange_of(destination)):
            raise Refused("the default exchange takes no bindings")
        exchange = self._exchange(source)
        key = BindingKey.of(destination, pattern, arguments)
        if key in exchange.bindings:
            self._repeat_binding(source, key, arguments)
            return False
        if isinstance(destination, ToExchange) and destination.exchange in self.delaying:
            raise NotSupported(f"exchange '{destination.exchange}' delays messages: nothing can be bound to it")
        _check_room(self.binding_count, self._max_bindings, "bindings")
        exchange.bind(key, arguments)
        self._incoming.setdefault(destination, {})[source, key] = None
        self._headers_bindings += exchange.by_headers
        self.binding_count += 1
        self.version += 1
        self._tell(source, key, arguments, bound=True)
        return True

    def unbind(self, destination: Destination, source: str, pattern: str, arguments: Headers = NO_HEADERS) -> bool:
        """Whether there was such a binding; a queue or exchange that is not there has none."""
        exchange = self._exchanges.get(source)
        key = BindingKey.of(destination, pattern, arguments)
        if exchange is None or key not in exchange.bindings:
            self._repeat_binding(source, key, arguments)
            return False
        self._unbind(source, key)
        return True

    def _repeat_binding(self, source: str, key: BindingKey, arguments: Headers) -> None:
        if self.journal is not None:
            self.journal.binding_repeated(Binding(source, key.destination, key.pattern, arguments))

    def bindings(self, destination: Destination) -> tuple[Binding, ...]:
        """What leads to a queue or exchange, in the order it was made. Raises `UnknownQueue`, `UnknownExchange`."""
        self._check_destination(destination)
        return tuple(
            Binding(source, destination, key.pattern, self._exchanges[source].bindings[key])
            for source, key in self._incoming.get(destination, ())
        )

    def has_binding(self, destination: Destination, source: str, pattern: str, arguments: Headers) -> bool:
        """Whether `bind` would change nothing. Raises `InvalidArgument` for arguments that no binding can have."""
        exchange = self._exchanges.get(source)
        return exchange is not None and BindingKey.of(destination, pattern, arguments) in exchange.bindings

    def all_bindings(self) -> Iterator[Binding]:
        """All of them, those of one exchange together."""
        return (
            Binding(source, key.destination, key.pattern, arguments)
            for source, exchange in self._exchanges.items()
            for key, arguments in exchange.bindings.items()
        )

    # What others have changed

    @contextmanager
    def untold(self) -> Iterator[None]:
        """Changes within are written down already: the journal is not told of them."""
        journal, self.journal = self.journal, None
        try:
            yield
        finally:
            self.journal = journal

    def withdraw_exchange(self, exchange: str) -> list[Binding]:
        """Remove an exchange that another gateway has removed; the durable bindings that end with it.

        No auto-delete exchange follows: who has removed its last binding has seen to that.
        """
        leading = [(exchange, key) for key in self._exchanges[exchange].bindings]
        leading += self._incoming.get(ToExchange(exchange), ())
        with self.untold():
            bindings = self._withdraw_bindings(dict.fromkeys(leading))  # one to itself leads both ways
            self._forget_exchange(exchange)
        return bindings

    def withdraw_queue(self, queue: str) -> list[Binding]:
        """As `withdraw_exchange`."""
        with self.untold():
            bindings = self._withdraw_bindings(list(self._incoming.get(queue, ())))
            self.delete_queue(queue)
        return bindings

    def _withdraw_bindings(self, leading: Iterable[tuple[str, BindingKey]]) -> list[Binding]:
        """Drop bindings; those of them that are durable."""
        kept = []
        for source, key in leading:
            if self.is_kept(source, key.destination):
                arguments = self._exchanges[source].bindings[key]
                kept.append(Binding(source, key.destination, key.pattern, arguments))
            self._drop_binding(source, key)
        return kept

    def withdraw_binding(self, binding: Binding) -> None:
        """Remove a binding that another gateway has removed, if it is here. As `withdraw_exchange`."""
        exchange = self._exchanges.get(binding.source)
        key = BindingKey.of(binding.destination, binding.pattern, binding.arguments)
        if exchange is not None and key in exchange.bindings:
            with self.untold():
                self._drop_binding(binding.source, key)

    def _unbind_all(self, destination: Destination) -> None:
        for source, key in list(self._incoming.get(destination, ())):
            self._unbind(source, key)

    def _unbind(self, source: str, key: BindingKey) -> None:
        if self._drop_binding(source, key):
            self._remove_exchanges([source])

    def _drop_binding(self, source: str, key: BindingKey) -> bool:
        """Whether its exchange is to go with it: an auto-delete one that has lost its last binding."""
        exchange = self._exchanges[source]
        arguments = exchange.bindings[key]
        exchange.unbind(key)
        incoming = self._incoming[key.destination]
        del incoming[source, key]
        if not incoming:
            del self._incoming[key.destination]
        self._headers_bindings -= exchange.by_headers
        self.binding_count -= 1
        self.version += 1
        self._tell(source, key, arguments, bound=False)
        return exchange.spec.auto_delete and not exchange.bindings

    def _tell(self, source: str, key: BindingKey, arguments: Headers, *, bound: bool) -> None:
        if self.journal is not None and self.is_kept(source, key.destination):
            self.journal.binding_changed(Binding(source, key.destination, key.pattern, arguments), bound=bound)

    def is_kept(self, source: str, destination: Destination) -> bool:
        """Whether bindings between the two, which are there, are durable: as both are."""
        if not self._exchanges[source].spec.durable:
            return False
        if isinstance(destination, ToExchange):
            return self._exchanges[destination.exchange].spec.durable
        return self._queues[destination]

    def _check_destination(self, destination: Destination) -> None:
        if isinstance(destination, ToExchange):
            self.exchange_spec(destination.exchange)
        elif destination not in self._queues:
            raise UnknownQueue(destination)

    def _exchange(self, name: str) -> Exchange:
        exchange = self._exchanges.get(name)
        if exchange is None:
            raise UnknownExchange(name)
        return exchange


def _exchange_of(destination: Destination) -> tuple[str, ...]:
    return (destination.exchange,) if isinstance(destination, ToExchange) else ()


def _check_room(count: int, limit: int, what: str) -> None:
    if count >= limit:
        raise Refused(f"there are {count} {what} already, the limit")
