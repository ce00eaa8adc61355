"""The tables of commands: complete, without doubles, and each line with the function of its command."""

from __future__ import annotations

import inspect
import typing

import pytest

from gateway.core.auth import Action, Identity
from gateway.core.backend import QueueSpec
from gateway.core.commands import (
    Aside,
    ChangePrefetch,
    ClaimClientId,
    Close,
    Command,
    ControlCommand,
    DeclareQueue,
    EndSession,
    Presence,
    Publish,
    Settle,
)
from gateway.core.outcome import Outcome
from gateway.core.shared import SUBSCRIPTION
from gateway.net.commands import AT_THE_END, CONCURRENT, IMMEDIATE, WAITING, Peer
from tests.rig.clock import on_clock
from tests.rig.hosting import Rig


class NoDeclarations:
    """Allows everything but declarations."""

    def allows(self, identity: Identity, action: Action, exchange: str, key: str) -> bool:
        return action is not Action.DECLARE


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


@on_clock
async def test_who_may_not_declare_uses_a_subscription_that_is_there_and_changes_none() -> None:
    def renewal(topic: str) -> DeclareQueue:
        return DeclareQueue("mine", QueueSpec(arguments={SUBSCRIPTION: topic}), topic, Presence.RENEWED)

    rig = Rig()
    await rig.connect().sends(renewal("a"))
    rig.broker.authorizer = NoDeclarations()
    peer = rig.connect()
    await peer.sends(renewal("a"), renewal("b"))
    assert (peer.outcome_of("a"), peer.outcome_of("b")) == (Outcome.ACCEPTED, Outcome.REJECTED)
    assert rig.broker.is_declared_as("mine", renewal("a").spec)


@on_clock
async def test_a_client_id_is_given_back_with_the_connection() -> None:
    rig = Rig()
    first, second = rig.connect(), rig.connect()
    await first.sends(ClaimClientId("c", "first"))
    await second.sends(ClaimClientId("c", "second"))
    assert (first.outcome_of("first"), second.outcome_of("second")) == (Outcome.ACCEPTED, Outcome.REJECTED)
    await first.sends(Close("done"))
    await second.sends(ClaimClientId("c", "again"))
    assert second.outcome_of("again") is Outcome.ACCEPTED
