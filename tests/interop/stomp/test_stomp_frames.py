"""What a client sees of mqlift is what it sees of the broker whose dialect mqlift speaks; differences are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop.stomp.scenarios import Scenario
from tests.interop.stomp.servers import DIALECTS, Listeners
from tests.interop.stomp.stage import Dialect, Server, staged
from tests.interop.stomp.transcripts import (
    SCENARIOS,
    UNEXPLAINED,
    differing,
    read_differences,
    read_observed,
    until_errors,
)

every_scenario = pytest.mark.parametrize(
    ("dialect", "scenario"),
    [(dialect, scenario) for dialect in DIALECTS for scenario in SCENARIOS[dialect]],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)


def played(scenario: Scenario, server: Server) -> list[str]:
    with staged(server) as stage:
        scenario(stage)
    return stage.transcript


@every_scenario
def test_a_broker_says_what_was_recorded(
    broker: Callable[[Dialect], Server], dialect: Dialect, scenario: Scenario
) -> None:
    assert played(scenario, broker(dialect)) == read_observed(dialect)[scenario.__name__]


@every_scenario
def test_mqlift_says_what_the_broker_says(
    gateway_listeners: Callable[[Dialect], Listeners], dialect: Dialect, scenario: Scenario
) -> None:
    ours = played(scenario, Server(dialect, gateway_listeners(dialect).tcp))
    known = read_differences(dialect).get(scenario.__name__)
    assert differing(dialect, read_observed(dialect)[scenario.__name__], ours) == (() if known is None else known.lines)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_recorded_is_of_scenarios_that_exist(dialect: Dialect) -> None:
    names = [scenario.__name__ for scenario in SCENARIOS[dialect]]
    assert list(read_observed(dialect)) == names
    assert set(read_differences(dialect)) <= set(names)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_difference_has_a_reason(dialect: Dialect) -> None:
    assert [name for name, each in read_differences(dialect).items() if each.reason in ("", UNEXPLAINED)] == []


def test_a_difference_is_seen() -> None:
    assert differing("rabbitmq", ["a: RECEIPT", "a: MESSAGE x"], ["a: RECEIPT", "a: MESSAGE y"]) == (
        "-a: MESSAGE x",
        "+a: MESSAGE y",
    )
    assert differing("rabbitmq", ["# one", "a: RECEIPT"], ["# one", "a: RECEIPT"]) == ()


def test_what_follows_an_error_is_not_compared() -> None:
    assert until_errors(["a: RECEIPT", "a: ERROR x", "b: RECEIPT", "# two", "a: RECEIPT", "b: MESSAGE"]) == [
        "a: RECEIPT",
        "a: ERROR x",
        "b: RECEIPT",
        "# two",
        "b: MESSAGE",
    ]
