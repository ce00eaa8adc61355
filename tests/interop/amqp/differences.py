"""Where mqlift answers otherwise than RabbitMQ, and why. `docs/compatibility.md` says what an application sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`instead` maps lines that RabbitMQ gives to those that mqlift gives, none of them for a line that is left out."""

    reason: str
    instead: Mapping[str, tuple[str, ...]]

    def applied(self, expected: list[str]) -> list[str]:
        """What mqlift has to give. `AssertionError` when RabbitMQ does not give a line that is replaced."""
        missing = self.instead.keys() - set(expected)
        if missing:
            raise AssertionError(f"not what RabbitMQ gives: {sorted(missing)}")
        return [line for each in expected for line in self.instead.get(each, (each,))]


DIFFERENCES: Mapping[str, Difference] = {}
"""By the scenario, as `str` gives it."""
