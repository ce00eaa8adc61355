"""Runs targets in turn for a time, watches the process, and reports."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.fuzz.cases import Case, Target
from tests.fuzz.minimise import SECONDS, failure, minimise

PROGRESS_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that failed, cut down, and what it raises."""

    seed: str
    """Of the case as it was made, before it was cut down."""
    case: Case
    error: Exception
    original_size: int


def make(target: Target, seed: str) -> Case:
    """The case of a seed. Seeds are text: `random` hashes it, the same way in every process."""
    return target.generate(random.Random(seed))


def fuzz(
    targets: Sequence[Target],
    seed: int,
    *,
    running: Callable[[int], bool],
    progress: Callable[[int], None] = lambda _: None,
    minimise_seconds: float = SECONDS,
) -> Finding | None:
    """Run cases while `running(cases so far)`, until one fails. `progress` is called every now and then."""
    done = 0
    due = time.monotonic() + PROGRESS_SECONDS
    while running(done):
        target = targets[done % len(targets)]
        case_seed = f"{seed}/{target.name}/{done // len(targets)}"
        case = make(target, case_seed)
        error = failure(target, case)
        done += 1
        if error is not None:
            smaller = minimise(target, case, error, minimise_seconds)
            return Finding(case_seed, smaller, failure(target, smaller) or error, case.size())
        if time.monotonic() >= due:
            progress(done)
            due = time.monotonic() + PROGRESS_SECONDS
    progress(done)
    return None
