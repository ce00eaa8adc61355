"""Cut a failing case down to what makes it fail: delta debugging, over its steps and then over the bytes of each.

A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002: the part that removes pieces, large
ones first; and then every piece, because input with lengths in it cannot be cut just anywhere.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from tests.fuzz.cases import Case, Step, Target

SECONDS: Final = 30.0
"""Spent on one failure at most."""

WINDOW: Final = 100
"""Elements: each width is tried at each place, which takes as many runs as both together have."""

S = TypeVar("S", bytes, tuple[Step, ...])


def signature(error: BaseException) -> str:
    """What makes two failures the same: the type, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} {where}"


def failure(target: Target, case: Case) -> Exception | None:
    """What the target raises for this case."""
    try:
        target.run(case)
    except Exception as error:  # noqa: BLE001 - whatever comes out is a finding
        return error
    return None


def minimise(target: Target, case: Case, found: Exception, seconds: float = SECONDS) -> Case:
    """A smaller case with the same failure; the same case if there is none, or no time."""
    wanted = signature(found)
    end = time.monotonic() + seconds

    def fails(candidate: Case) -> bool:
        if time.monotonic() >= end:
            return False
        error = failure(target, candidate)
        return error is not None and signature(error) == wanted

    for reduce in (_remove_blocks, _remove_windows):
        case = _reduced(case, reduce, fails)
    return case


def _reduced(case: Case, reduce: Reduce, fails: Callable[[Case], bool]) -> Case:
    """Steps first, then the bytes of each, until nothing helps any more."""
    size = case.size() + 1
    while case.size() < size:
        size = case.size()
        case = _fewer_steps(case, reduce, fails)
        for number in range(len(case.steps)):
            case = _fewer_bytes(case, number, reduce, fails)
    return case


def _fewer_steps(case: Case, reduce: Reduce, fails: Callable[[Case], bool]) -> Case:
    return case.with_steps(reduce(case.steps, lambda steps: fails(case.with_steps(steps))))


def _fewer_bytes(case: Case, number: int, reduce: Reduce, fails: Callable[[Case], bool]) -> Case:
    """Of one step."""
    kind, value = case.steps[number]
    if not isinstance(value, bytes):
        return case

    def with_value(data: bytes) -> Case:
        return case.with_steps((*case.steps[:number], (kind, data), *case.steps[number + 1 :]))

    return with_value(reduce(value, lambda data: fails(with_value(data))))


class Reduce(Protocol):
    """Makes something shorter that still fails."""

    def __call__(self, whole: S, fails: Callable[[S], bool]) -> S: ...


def _remove_blocks(whole: S, fails: Callable[[S], bool]) -> S:
    """Halves, quarters and so on to single elements."""
    width = len(whole)
    while width > 1:
        width = (width + 1) // 2
        start = 0
        while start < len(whole):
            shorter = whole[:start] + whole[start + width :]
            if fails(shorter):
                whole = shorter
            else:
                start += width
    return whole


def _remove_windows(whole: S, fails: Callable[[S], bool]) -> S:
    """Anything of some length anywhere: what is framed by lengths only goes whole."""
    for width in range(min(len(whole), WINDOW), 0, -1):
        start = 0
        while start + width <= len(whole):
            shorter = whole[:start] + whole[start + width :]
            if fails(shorter):
                whole = shorter
            else:
                start += 1
    return whole
