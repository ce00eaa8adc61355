"""What is done when somebody waits for it, and not before."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Later:
    """Something to wait for that begins when somebody does."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, None, None]:
        return self._begin().__await__()
