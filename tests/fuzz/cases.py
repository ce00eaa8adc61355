"""A case: everything that one run of a target depends on, so that it can be cut down, written down and replayed."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar

Step: TypeAlias = tuple[str, bytes | int]
"""What happens, and with what: bytes that arrive, or a number that decides among possibilities."""

T = TypeVar("T")


class Violation(AssertionError):
    """Something that must never happen has happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Input of one target. `options` are fixed before the first step, such as limits."""

    target: str
    options: Mapping[str, int]
    steps: tuple[Step, ...]

    def with_steps(self, steps: tuple[Step, ...]) -> Case:
        return replace(self, steps=steps)

    def size(self) -> int:
        """Bytes of input, each step counted as one more."""
        return sum(1 + (len(value) if isinstance(value, bytes) else 0) for _, value in self.steps)

    def dumps(self) -> str:
        steps = [[kind, value.hex() if isinstance(value, bytes) else value] for kind, value in self.steps]
        return json.dumps({"target": self.target, "options": dict(self.options), "steps": steps}, indent=1)

    @classmethod
    def loads(cls, text: str) -> Case:
        """Raises `ValueError` for what `dumps` has not written."""
        try:
            read = json.loads(text)
            steps = tuple(
                (kind, bytes.fromhex(value) if isinstance(value, str) else value) for kind, value in read["steps"]
            )
            return cls(target=read["target"], options=read["options"], steps=steps)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a case: {error!r}") from error


class Target(Protocol):
    """One thing that is given bad input."""

    name: str

    def generate(self, rng: random.Random) -> Case:
        """A case; the same one for the same state of `rng`."""

    def run(self, case: Case) -> None:
        """Raises whatever is wrong, mostly `Violation`. Deterministic."""


def cut(rng: random.Random, data: bytes, pieces: int) -> list[bytes]:
    """The same bytes in at most so many pieces, none of them empty."""
    edges = sorted({0, len(data), *(rng.randint(0, len(data)) for _ in range(pieces - 1))})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def often(rng: random.Random, weights: Mapping[T, float]) -> T:
    """One of the keys, each as often as its weight says."""
    return rng.choices(list(weights), list(weights.values()))[0]
