"""Outcomes, results, and which of several wins."""

import functools
import itertools

import pytest

from gateway.core.errors import Invalid, Unavailable
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result, failed, worse

RELEASED = Result(Outcome.RELEASED, Unavailable("no answer"))
REJECTED = Result(Outcome.REJECTED, Invalid("a bad byte"))


@pytest.mark.parametrize("order", list(itertools.permutations([ACCEPTED, RELEASED, REJECTED])))
def test_the_worst_of_several_wins_in_any_order(order: tuple[Result, ...]) -> None:
    assert functools.reduce(worse, order) is REJECTED


def test_the_first_of_equals_speaks() -> None:
    other = Result(Outcome.RELEASED, Unavailable("another"))
    assert worse(RELEASED, other) is RELEASED
    assert worse(other, RELEASED) is other


def test_what_never_succeeds_is_rejected_and_the_rest_released() -> None:
    assert failed(Invalid("a bad byte")).outcome is Outcome.REJECTED
    assert failed(Unavailable("no answer")).outcome is Outcome.RELEASED


def test_results_are_equal_by_what_they_say() -> None:
    assert Result(Outcome.ACCEPTED) == ACCEPTED
    assert ACCEPTED != UNROUTED
    assert Result(Outcome.RELEASED, RELEASED.error) == RELEASED
    assert Result(Outcome.RELEASED, Unavailable("no answer")) != RELEASED
    assert ACCEPTED != "ACCEPTED"
    with pytest.raises(TypeError):
        hash(ACCEPTED)


def test_a_result_shows_what_was_wrong() -> None:
    assert repr(RELEASED) == "Result(RELEASED, Unavailable('no answer'), routed=True)"
