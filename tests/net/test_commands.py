"""The tables of commands: complete, without doubles, and each line with the function of its command."""

from __future__ import annotations

import inspect
import typing

import pytest

from gateway.core.session import Aside, ChangePrefetch, Close, Command, ControlCommand, EndSession, Publish, Settle
from gateway.net.commands import AT_THE_END, CONCURRENT, IMMEDIATE, WAITING, Peer

TABLES = (WAITING, CONCURRENT, IMMEDIATE)
EVERY_LINE = [(kind, function) for table in TABLES for kind, function in table.items()]


def test_every_command_is_executed_in_one_way() -> None:
    in_no_table = [Publish, Settle, EndSession, Close, Aside, ChangePrefetch]
    known = [kind for kind, _ in EVERY_LINE] + in_no_table
    assert len(known) == len(set(known))
    assert set(known) == set(typing.get_args(Command))


def test_a_control_command_is_answered_when_it_was_waited_for() -> None:
    """`Aside` takes any of them, and interrupts it at the end: so none may go on beside what follows by itself."""
    control = set(typing.get_args(ControlCommand))
    assert control <= {*WAITING, *IMMEDIATE}
    assert not control & {*CONCURRENT, *AT_THE_END}


def test_what_counts_at_the_end_waits_for_nothing() -> None:
    assert not AT_THE_END & set(WAITING)


@pytest.mark.parametrize(("kind", "function"), EVERY_LINE, ids=lambda one: getattr(one, "__name__", ""))
def test_a_function_is_that_of_its_command(kind: type[object], function: typing.Callable[..., object]) -> None:
    hints = typing.get_type_hints(function, vars(inspect.getmodule(function)))
    assert hints["peer"] is Peer
    assert hints["command"] is kind
    assert inspect.iscoroutinefunction(function) is (kind in WAITING)
