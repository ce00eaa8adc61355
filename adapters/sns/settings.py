"""What a configuration may say of SNS: `{sns: NAME, subject: …, attributes: […]}` in a rule, and the `sns` section."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from adapters.aws.names import is_fifo
from adapters.aws.options import attributes_option, check_deduplication, check_known, resource_name
from adapters.aws.payloads import LargePayloadSettings
from adapters.sns.encoding import EXPOSED_LIMIT
from adapters.sns.naming import parse_reference
from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.templates import Template, template_option

KIND: Final = "sns"

KEEPS_QUEUES: Final = False
"""A topic hands messages on and keeps none."""

USUAL_BYTES: Final = 262_144
LARGEST_BYTES: Final = 1_048_576
"""A message, and a batch of them, has 256 KiB at most; 1 MiB where the account has asked AWS for it."""

FANOUT_WAIT: Final = 960.0
"""A minute more than SNS may take until a new filter is in force everywhere."""

_OPTIONS: Final = ("group_id", "deduplication_id", "subject", "attributes", "fanout")


class Settings(BaseModel):
    """The `sns` section of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message_bytes: Annotated[int, Field(ge=1024, le=LARGEST_BYTES)] = USUAL_BYTES
    """Bytes of a message, and of a batch, that the account may publish."""
    large_payloads: LargePayloadSettings | None = None
    """None: a message over the limit of SNS is refused."""
    fanout_wait: Annotated[float, Field(ge=0.0)] = FANOUT_WAIT
    """Seconds until a subscription that was made for fan-out is relied on."""


DEFAULT_SETTINGS: Final = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnsOptions:
    """Options of a target. `attributes` are names of headers that are shown as native message attributes too."""

    group_id: Template | None = None
    deduplication_id: Template | None = None
    subject: Template | None = None
    attributes: tuple[str, ...] = ()


DEFAULT_OPTIONS: Final = SnsOptions()


def parse_target(value: object, options: Mapping[str, object], captures: AbstractSet[str]) -> Target:
    """Check one target of a rule: `value` is what `sns` was set to, `options` what stands beside it.

    Raises `ConfigError` with a key relative to the target.
    """
    check_known(options, _OPTIONS, KIND)
    name = _name(value, captures)
    parsed = SnsOptions(
        group_id=template_option("group_id", options.get("group_id"), captures),
        deduplication_id=template_option("deduplication_id", options.get("deduplication_id"), captures),
        subject=template_option("subject", options.get("subject"), captures),
        attributes=attributes_option(options.get("attributes"), EXPOSED_LIMIT),
    )
    check_deduplication(parsed.deduplication_id, name, "topic")
    fanout = _fanout(options.get("fanout", False), name)
    return Target(kind=KIND, name=name, options=DEFAULT_OPTIONS if parsed == DEFAULT_OPTIONS else parsed, fanout=fanout)


def _fanout(value: object, name: str) -> tuple[str, ...] | None:
    if not isinstance(value, bool):
        raise ConfigError("fanout", f"{value!r} is neither true nor false", "true or false")
    if value and is_fifo(name):
        problem = "a FIFO topic keeps an order that the queues' other messages have no part in"
        raise ConfigError("fanout", problem, "leave it out, and the gateway sends to each queue")
    return () if value else None


def _name(value: object, captures: AbstractSet[str]) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(KIND, "not the name of a topic", "give a topic's name or ARN")
    rules = "a name has A-Z a-z 0-9 - and _, 256 characters at most; that of a FIFO topic ends in .fifo"
    return resource_name(KIND, value, captures, lambda sample: parse_reference(sample).name, rules)
