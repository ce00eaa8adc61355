"""How much memory an object keeps alive by itself."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final

from pydantic import BaseModel

_SHARED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, Enum, BaseModel)
"""Code, constants and settings belong to everybody."""


def footprint(root: object, beyond: Callable[[object], bool] = lambda _: False) -> int:
    """Bytes of the object and all that it refers to. Nothing is counted that `beyond` says is somebody else's."""
    seen = {id(root)}
    waiting = [root]
    total = 0
    while waiting:
        each = waiting.pop()
        total += sys.getsizeof(each)
        for other in gc.get_referents(each):
            if id(other) not in seen:
                seen.add(id(other))
                if not isinstance(other, _SHARED) and not beyond(other):
                    waiting.append(other)
    return total
