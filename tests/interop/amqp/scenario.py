"""Scenarios: what clients do, and what they then have to observe, whichever broker they are connected to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from pamqp.commands import Confirm, Exchange, Queue

from tests.interop.amqp.peer import Ended, Login, Peer, PeerChannel
from tests.interop.amqp.recording import Log

_numbers = itertools.count(1)
AT_ONCE = 8
"""Scenarios that are played at the same time: most of what they do is wait."""
_TITLE = "# "
_LAST = 99
"""Sorts after all connections."""


@dataclass(frozen=True, slots=True)
class Target:
    """A broker to run scenarios against."""

    name: str
    port: int
    login: Login = field(default_factory=Login)


class Run:
    """One scenario against one target: its connections, and names that no other run uses."""

    def __init__(self, target: Target, stack: ExitStack, *, durable: bool) -> None:
        suffix = f"-run{next(_numbers)}"
        self.log = Log(suffix)
        self._suffix = suffix
        self._durable = durable
        self._target = target
        self._stack = stack
        self._connections = itertools.count(1)

    def name(self, base: str) -> str:
        """A name of this run's own; lines have `base` for it."""
        return base + self._suffix

    def peer(self) -> Peer:
        """A connection on which nothing has been sent."""
        peer = Peer(self._target.port, self.log, next(self._connections))
        return self._stack.enter_context(peer)

    def login(self, **details: object) -> Login:
        return replace(self._target.login, **details)  # type: ignore[arg-type]

    def connect(self, **details: object) -> Peer:
        """An open connection. The details are those of `Login`."""
        return self.peer().open(self.login(**details))

    def channel(self, *, confirms: bool = False) -> PeerChannel:
        """Channel 1 of a connection of its own."""
        channel = self.connect().channel()
        if confirms:
            channel.call(Confirm.Select(), quiet=True)
        return channel

    def queue(self, channel: PeerChannel, base: str = "q", **details: object) -> str:
        """Declare a queue, durable or not as the scenario is played, unless told. Its name."""
        name = self.name(base)
        channel.call(Queue.Declare(queue=name, **{"durable": self._durable, **details}), quiet=True)  # type: ignore[arg-type]
        return name

    def exchange(self, channel: PeerChannel, kind: str, base: str = "x", **details: object) -> str:
        """Declare a durable exchange, unless told otherwise. Its name."""
        name = self.name(base)
        declare = Exchange.Declare(exchange=name, exchange_type=kind, **{"durable": True, **details})  # type: ignore[arg-type]
        channel.call(declare, quiet=True)
        return name

    def bind(self, channel: PeerChannel, queue: str, exchange: str, routing_key: str = "", **details: object) -> None:
        bind = Queue.Bind(queue=queue, exchange=exchange, routing_key=routing_key, **details)  # type: ignore[arg-type]
        channel.call(bind, quiet=True)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What clients do. `group` is where it is written, and where the lines are that RabbitMQ makes of it."""

    group: str
    name: str
    play: Callable[[Run], None]
    durable: bool = True
    """Whether its queues are, which makes no difference for what clients observe."""

    def __str__(self) -> str:
        return f"{self.group}-{self.name}" + ("" if self.durable else "-transient")

    def observe(self, target: Target) -> list[str]:
        """Play it. What ends it early is a line too, so that it shows beside what came before."""
        with ExitStack() as stack:
            run = Run(target, stack, durable=self.durable)
            try:
                self.play(run)
            except Ended:
                pass  # the lines say how
            except TimeoutError as error:
                run.log.add(_LAST, 0, f"the scenario waits in vain: {error}")
            return run.log.lines()


Observations = Callable[[Scenario], list[str]]
"""What a scenario has come to."""


class Group:
    """The scenarios of a module, in their order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.scenarios: list[Scenario] = []

    def __call__(self, play: Callable[[Run], None]) -> Callable[[Run], None]:
        """Add a function, as its decorator."""
        self.scenarios.append(Scenario(self.name, play.__name__, play))
        return play

    def transient(self) -> list[Scenario]:
        """The same scenarios, with queues that are not durable."""
        return [replace(each, durable=False) for each in self.scenarios]

    def expected(self) -> dict[str, list[str]]:
        """The lines that RabbitMQ makes of each scenario."""
        lines: dict[str, list[str]] = {}
        for line in _expected_path(self.name).read_text().splitlines():
            if line.startswith(_TITLE):
                current = lines.setdefault(line.removeprefix(_TITLE), [])
            elif line:
                current.append(line)
        return lines

    def record(self, target: Target) -> None:
        """Write down what a broker makes of each scenario, to be read and kept as what is expected."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            observed = list(threads.map(lambda each: each.observe(target), self.scenarios))
        parts = ["\n".join([_TITLE + each.name, *lines]) for each, lines in zip(self.scenarios, observed, strict=True)]
        _expected_path(self.name).write_text("\n\n".join(parts) + "\n")


def _expected_path(group: str) -> Path:
    return Path(__file__).parent / "expected" / f"{group}.txt"
