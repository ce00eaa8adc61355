"""Each scenario, with what RabbitMQ is known to answer: RabbitMQ itself, and mqlift but for the differences it has."""

from __future__ import annotations

import pytest

from tests.interop.amqp.differences import DIFFERENCES, Difference
from tests.interop.amqp.scenario import Observations, Scenario, Target
from tests.interop.amqp.table import GROUPS, QUEUED

SCENARIOS = [scenario for group in GROUPS for scenario in group.scenarios]
TRANSIENT = [scenario for group in QUEUED for scenario in group.transient()]
EXPECTED = {(group.name, name): lines for group in GROUPS for name, lines in group.expected().items()}


@pytest.mark.parametrize("scenario", [*SCENARIOS, *TRANSIENT], ids=str)
def test_what_a_client_observes(target: Target, observations: Observations, scenario: Scenario) -> None:
    expected, observed = EXPECTED[scenario.group, scenario.name], observations(scenario)
    if target.name == "mqlift" and (difference := DIFFERENCES.get(str(scenario))) is not None:
        expected, observed = difference.comparable(difference.applied(expected)), difference.comparable(observed)
    assert observed == expected


def test_scenarios_and_expectations_belong_together() -> None:
    assert list(EXPECTED) == [(each.group, each.name) for each in SCENARIOS]
    assert DIFFERENCES.keys() <= {str(each) for each in [*SCENARIOS, *TRANSIENT]}


def test_a_difference_is_one_from_what_rabbitmq_gives() -> None:
    difference = Difference(reason="", instead={"a": (), "b": ("x", "y")})
    assert difference.applied(["a", "b", "c"]) == ["x", "y", "c"]
    with pytest.raises(AssertionError, match="not what RabbitMQ gives"):
        difference.applied(["a", "c"])
    difference = Difference(reason="", rewritten=((r"=(\d)", r"=\1\1"),))
    assert difference.applied(["a=1", "b"]) == ["a=11", "b"]
    with pytest.raises(AssertionError, match="not what RabbitMQ gives"):
        difference.applied(["a", "b"])


def test_where_the_order_makes_no_difference_numbers_make_none() -> None:
    lines = ["deliver delivery_tag=1 b", "deliver delivery_tag=2 a"]
    assert Difference(reason="", any_order=True).comparable(lines) == ["deliver a", "deliver b"]
    assert Difference(reason="").comparable(lines) == lines
