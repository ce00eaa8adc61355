"""What a rule may say of a Firehose target: `{firehose: NAME, delimiter: …}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.templates import Template

KIND: Final = "firehose"

KEEPS_QUEUES: Final = False
"""A delivery stream hands records on; nothing can be consumed from it."""

# Service model 2015-08-04, DeliveryStreamName.
NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")

MAX_DELIMITER_BYTES: Final = 64

_OPTIONS: Final = ("delimiter",)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirehoseOptions:
    """Options of a target. `delimiter` ends each record, in UTF-8."""

    delimiter: str = ""


DEFAULT_OPTIONS: Final = FirehoseOptions()


def parse_target(value: object, options: Mapping[str, object], captures: AbstractSet[str]) -> Target:
    """Check one target of a rule: `value` is what `firehose` was set to, `options` what stands beside it.

    Raises `ConfigError` with a key relative to the target.
    """
    for key in options:
        if key not in _OPTIONS:
            raise ConfigError(key, "a firehose target has no such option", f"known are {', '.join(_OPTIONS)}")
    parsed = FirehoseOptions(delimiter=_delimiter(options.get("delimiter", "")))
    return Target(kind=KIND, name=_name(value, captures), options=parsed)


def notes(target: Target, fixed: AbstractSet[str]) -> tuple[str, ...]:  # noqa: ARG001 - as all adapters
    """What an operator should know of a target."""
    options = target.options if isinstance(target.options, FirehoseOptions) else DEFAULT_OPTIONS
    found = []
    if not options.delimiter:
        found.append(
            "Firehose writes records one behind the other, and nothing will stand between them; "
            'delimiter: "\\n" puts each on its own line'
        )
    if target.transform is not None and target.transform.content_type is not None:
        found.append("a Firehose record has no content type; content_type changes nothing here")
    return tuple(found)


def _name(value: object, captures: AbstractSet[str]) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(KIND, "not the name of a delivery stream", "give its name")
    if value.startswith("arn:"):
        problem = "an ARN; Firehose is called by name, and only in the gateway's own account and region"
        raise ConfigError(KIND, problem, "give the name, what follows deliverystream/")
    try:
        template = Template.parse_name(value, captures)
    except ValueError as error:
        raise ConfigError(KIND, str(error)) from None
    if not NAME.fullmatch(template.render_captures(dict.fromkeys(captures, "0"))):
        problem = f"{value!r} is not the name of a delivery stream"
        raise ConfigError(KIND, problem, "A-Z a-z 0-9 _ . - and 64 characters at most")
    return value


def _delimiter(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError("delimiter", f"{value!r} is not text", 'give a text such as "\\n", in double quotes')
    if len(value.encode()) > MAX_DELIMITER_BYTES:
        raise ConfigError("delimiter", "is too long", f"{MAX_DELIMITER_BYTES} bytes at most")
    return value
