"""Pages of a listing: bounded, in an order that holds while rows come and go."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

PAGE: Final = 100
"""Rows of a page when nothing is said."""
LARGEST_PAGE: Final = 1_000
"""Rows of a page: some hundred kilobytes."""
LARGEST_DEPTH_PAGE: Final = 100
"""Rows of a page that costs a request to AWS for each."""

_NUMBERS: Final = re.compile(r"([0-9]{1,18})")

_T = TypeVar("_T")


def place(key: str) -> tuple[list[str | int], str]:
    """Where a row stands: by its text, with numbers in the order of numbers."""
    parts = _NUMBERS.split(key)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], key


def page(rows: Iterable[_T], key: Callable[[_T], str], limit: int, after: str) -> list[_T]:
    """The first `limit` rows that stand behind `after`, in order."""
    floor = place(after)
    return heapq.nsmallest(
        limit, (row for row in rows if not after or place(key(row)) > floor), key=lambda row: place(key(row))
    )
