"""What a rule may say of an SQS target: `{sqs: NAME, group_id: …, deduplication_id: …, attributes: […]}`."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from adapters.aws.names import is_fifo
from adapters.aws.options import attributes_option, check_deduplication, check_known, resource_name
from adapters.aws.payloads import LargePayloadSettings
from adapters.sqs.encoding import EXPOSED_LIMIT
from adapters.sqs.naming import parse_reference
from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.templates import Template, template_option

KIND: Final = "sqs"

_OPTIONS: Final = ("group_id", "deduplication_id", "attributes")


class Settings(BaseModel):
    """The `sqs` section of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    large_payloads: LargePayloadSettings | None = None
    """None: a message over the limit of SQS is refused, and pointers to S3 are delivered as they are."""


DEFAULT_SETTINGS: Final = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsOptions:
    """Options of a target. `attributes` are names of headers that are shown as native message attributes too."""

    group_id: Template | None = None
    deduplication_id: Template | None = None
    attributes: tuple[str, ...] = ()


DEFAULT_OPTIONS: Final = SqsOptions()


def parse_target(value: object, options: Mapping[str, object], captures: AbstractSet[str]) -> Target:
    """Check one target of a rule: `value` is what `sqs` was set to, `options` what stands beside it.

    Raises `ConfigError` with a key relative to the target.
    """
    check_known(options, _OPTIONS, KIND)
    name = _name(value, captures)
    parsed = SqsOptions(
        group_id=template_option("group_id", options.get("group_id"), captures),
        deduplication_id=template_option("deduplication_id", options.get("deduplication_id"), captures),
        attributes=attributes_option(options.get("attributes"), EXPOSED_LIMIT),
    )
    check_deduplication(parsed.deduplication_id, name, "queue")
    return Target(kind=KIND, name=name, options=DEFAULT_OPTIONS if parsed == DEFAULT_OPTIONS else parsed)


def notes(target: Target, fixed: AbstractSet[str]) -> tuple[str, ...]:  # noqa: ARG001 - as all adapters
    """What an operator should know of a target."""
    return () if is_fifo(target.name) else ("a standard queue, which keeps order as well as it can",)


def _name(value: object, captures: AbstractSet[str]) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(KIND, "not the name of a queue", "give a queue's name, ARN or URL")
    rules = "a name has A-Z a-z 0-9 - and _, 80 characters at most; that of a FIFO queue ends in .fifo"
    return resource_name(KIND, value, captures, lambda sample: parse_reference(sample).name, rules)
