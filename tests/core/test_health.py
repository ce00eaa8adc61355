"""Problems: told once, shown while they last, and what they mean for readiness."""

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import (
    AccessDenied,
    BackendError,
    CredentialsInvalid,
    MqliftError,
    NotFound,
    Refused,
    Throttled,
    TooLarge,
    Unavailable,
)
from gateway.core.health import MAX_PROBLEMS, Health


def test_a_new_gateway_is_ready_and_a_draining_one_is_not() -> None:
    health = Health()
    assert health.ready
    health.draining = True
    assert not health.ready


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (Unavailable("no answer"), True),
        (CredentialsInvalid("expired"), True),
        (Throttled("slow down"), True),
        (BackendError("who knows"), True),
        (AccessDenied("may not"), False),
        (NotFound("not there"), False),
        (TooLarge("too large"), False),
        (Refused("a limit"), False),
    ],
)
def test_what_stops_everything_makes_it_unready(error: MqliftError, fatal: bool) -> None:
    health = Health()
    health.report("sqs orders", error)
    assert health.ready is not fatal
    assert health.is_fatal("sqs orders") is fatal
    assert [problem.text for problem in health.problems] == [str(error)]
    health.clear("sqs orders")
    assert health.ready
    assert not health.problems


def test_a_problem_is_logged_when_it_begins_changes_and_ends() -> None:
    health = Health()
    with capture_logs() as lines:
        health.report("q", Unavailable("no answer"))
        health.report("q", Unavailable("no answer"))
        health.report("q", AccessDenied("may not", action="sqs:SendMessage"))
        health.clear("q")
        health.clear("q")
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("resource_failing", "warning"),
        ("resource_unusable", "error"),
        ("resource_recovered", "info"),
    ]
    assert "sqs:SendMessage" in lines[1]["problem"]


def test_one_resource_does_not_mend_another() -> None:
    health = Health()
    health.report("a", Unavailable("no answer"))
    health.report("b", Unavailable("no answer"))
    health.clear("a")
    assert not health.ready
    assert not health.is_fatal("a")
    assert health.is_fatal("b")


def test_the_number_of_problems_is_bounded_and_known_ones_still_change() -> None:
    health = Health()
    for number in range(MAX_PROBLEMS + 5):
        health.report(f"queue {number}", NotFound("not there"))
    assert len(health.problems) == MAX_PROBLEMS
    health.report("queue 0", Unavailable("no answer"))
    assert health.is_fatal("queue 0")
    health.report("one more", Unavailable("no answer"))
    assert not health.is_fatal("one more")
