"""What takes several control commands, written as one generator: it yields a command and gets that command's result.

Procedures of a session run one after the other, each command when the one before was answered. So whatever a client
pipelines is done in its order, and each procedure sees the tables as the one before left them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from enum import Enum
from typing import TypeAlias, TypeVar

from gateway.core.commands import NO_COMMANDS, Command
from gateway.core.outcome import Result

R = TypeVar("R")

Procedure: TypeAlias = Generator[Command, Result, R]


class Token(Enum):
    """Tokens of commands of which no more than one is under way, or whose results are all alike."""

    CONTROL = "control"
    """Of the procedure's command that is under way."""
    INFLIGHT = "inflight"
    """Of a `KeepInflight`."""
    UNWAITED = "unwaited"
    """Of what nobody waits for: a `Retain` at QoS 0."""


class Procedures:
    """Runs procedures; the results of their commands come back to `answered`. Both raise what a procedure raises."""

    __slots__ = ("_current", "_waiting")

    def __init__(self) -> None:
        self._current: Procedure[None] | None = None
        self._waiting: deque[Procedure[None]] | None = None

    def start(self, procedure: Procedure[None]) -> Sequence[Command]:
        """Begin, or wait for those before it."""
        if self._current is None:
            return self._begin(procedure)
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(procedure)
        return NO_COMMANDS

    def answered(self, result: Result) -> Sequence[Command]:
        """The result of the command that is under way."""
        assert self._current is not None
        try:
            return (self._current.send(result),)
        except StopIteration:
            self._current = None
        while self._waiting:
            commands = self._begin(self._waiting.popleft())
            if commands:
                return commands
        return NO_COMMANDS

    def _begin(self, procedure: Procedure[None]) -> Sequence[Command]:
        try:
            command = next(procedure)
        except StopIteration:
            return NO_COMMANDS
        self._current = procedure
        return (command,)
