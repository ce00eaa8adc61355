"""What a rule may say of a memory target: `{memory: NAME, group_id: …, deduplication_id: …, delay: SECONDS}`."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.templates import Template, template_option

KIND: Final = "memory"

MAX_DELAY: Final = 900.0
"""Seconds; that of SQS."""

_OPTIONS: Final = ("group_id", "deduplication_id", "delay")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """Options of a target. `delay`: seconds that a message stays hidden after it was sent."""

    group_id: Template | None = None
    deduplication_id: Template | None = None
    delay: float = 0.0


DEFAULT_OPTIONS: Final = MemoryOptions()


def parse_target(value: object, options: Mapping[str, object], captures: AbstractSet[str]) -> Target:
    """Check one target of a rule. Raises `ConfigError` with a key relative to the target."""
    for key in options:
        if key not in _OPTIONS:
            raise ConfigError(key, "a memory target has no such option", f"known are {', '.join(_OPTIONS)}")
    parsed = MemoryOptions(
        group_id=template_option("group_id", options.get("group_id"), captures),
        deduplication_id=template_option("deduplication_id", options.get("deduplication_id"), captures),
        delay=_delay(options.get("delay", 0.0)),
    )
    return Target(kind=KIND, name=_name(value, captures), options=parsed)


def _name(value: object, captures: AbstractSet[str]) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(KIND, "not the name of a queue", "give a queue's name")
    try:
        Template.parse_name(value, captures)
    except ValueError as error:
        raise ConfigError(KIND, str(error)) from None
    return value


def _delay(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_DELAY:
        raise ConfigError("delay", f"{value!r} is not a delay", f"give 0 to {MAX_DELAY:.0f} seconds")
    return float(value)
