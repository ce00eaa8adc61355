"""What a rule may say of a Kinesis target: `{kinesis: NAME, partition_key: …, aggregate: …, enhanced_fan_out: […]}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from adapters.kinesis.naming import parse_reference
from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.templates import Template, template_option

KIND: Final = "kinesis"

RECORD_BYTES: Final = 1_048_576
"""Of a record's data and partition key together, unless the stream allows more."""
MAX_RECORD_BYTES: Final = 10 * RECORD_BYTES
"""What a stream can be set to allow (`MaxRecordSizeInKiB`), and one request (Kinesis API reference, PutRecords)."""

_OPTIONS: Final = ("partition_key", "explicit_hash_key", "aggregate", "max_record_bytes", "tail", "enhanced_fan_out")

CONSUMERS: Final = 50
"""Enhanced fan-out consumers of one stream: 20, and 50 with On-demand Advantage (API reference,
RegisterStreamConsumer)."""

HOSTNAME: Final = "{hostname}"
"""In the name of what feeds a tail: the name of the host, as each gateway needs a consumer of its own."""

_CONSUMER: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}")  # service model 2013-12-02, ConsumerName

TAIL_KEY: Final = "{partition_key}"

DEFAULT_PARTITION_KEY: Final = Template.parse("{key}", frozenset())
"""What is published to one topic stays in order, as legacy clients know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KinesisOptions:
    """Options of a target. `aggregate`: records in KPL's format, each with many messages of one partition key."""

    partition_key: Template = DEFAULT_PARTITION_KEY
    explicit_hash_key: Template | None = None
    aggregate: bool = False
    max_record_bytes: int = RECORD_BYTES


DEFAULT_OPTIONS: Final = KinesisOptions()

OWN_OPTIONS: Final = KinesisOptions()
"""Of a stream that clients declared, known by identity: it is theirs to delete."""


def parse_target(value: object, options: Mapping[str, object], captures: AbstractSet[str]) -> Target:
    """Check one target of a rule: `value` is what `kinesis` was set to, `options` what stands beside it.

    Raises `ConfigError` with a key relative to the target.
    """
    for key in options:
        if key not in _OPTIONS:
            raise ConfigError(key, "a kinesis target has no such option", f"known are {', '.join(_OPTIONS)}")
    parsed = KinesisOptions(
        partition_key=template_option("partition_key", options.get("partition_key"), captures) or DEFAULT_PARTITION_KEY,
        explicit_hash_key=template_option("explicit_hash_key", options.get("explicit_hash_key"), captures),
        aggregate=_switch("aggregate", options.get("aggregate", False)),
        max_record_bytes=_record_bytes(options.get("max_record_bytes", RECORD_BYTES)),
    )
    name = _name(value, captures)
    tail = _tail(options.get("tail"), name)
    pushed = _consumers(options.get("enhanced_fan_out"), tail=bool(tail))
    return Target(kind=KIND, name=name, options=parsed, tail=tail, pushed=pushed)


def notes(target: Target, fixed: AbstractSet[str]) -> tuple[str, ...]:
    """What an operator should know of a target. `fixed`: fields that are the same for each message it gets."""
    options = target.options if isinstance(target.options, KinesisOptions) else DEFAULT_OPTIONS
    found = []
    if options.partition_key.fields <= fixed:
        found.append(
            "every message has the same partition key, so all of them go to one shard, one after the other; "
            'a field such as "{client_id}" spreads them'
        )
    if options.explicit_hash_key is not None and options.explicit_hash_key.fields <= fixed:
        found.append("every message has the same explicit hash key, so all of them go to one shard")
    if target.transform is not None and target.transform.content_type is not None:
        found.append("a Kinesis record has no content type; content_type changes nothing here")
    return tuple(found)


def _name(value: object, captures: AbstractSet[str]) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(KIND, "not the name of a stream", "give a stream's name or ARN")
    try:
        template = Template.parse_name(value, captures)
        parse_reference(template.render_captures(dict.fromkeys(captures, "0")))
    except ValueError as error:
        raise ConfigError(KIND, str(error)) from None
    return value


def _tail(value: object, name: str) -> str:
    """The topic of records that do not say theirs."""
    if value is None:
        return ""
    if not isinstance(value, str) or not value or set(value.replace(TAIL_KEY, "")) & set("+#{}\0"):
        advice = f"a topic without wildcards, in which {TAIL_KEY} stands for the record's key"
        raise ConfigError("tail", f"{value!r} is not the topic of what is read", advice)
    if "{" in name:
        raise ConfigError("tail", "which stream to read depends on a client's name", "name one stream")
    return value


def _consumers(value: object, *, tail: bool) -> tuple[str, ...]:
    """Enhanced fan-out consumers, as the rule names them."""
    if value is None:
        return ()
    key = "enhanced_fan_out"
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ConfigError(key, "not a list of names", "name consumers, such as [billing]; each costs")
    for name in value:
        if not _CONSUMER.fullmatch(name.replace(HOSTNAME, "h") if tail else name):
            raise ConfigError(key, f"{name!r} cannot be registered", "A-Z a-z 0-9 _ . - and 128 characters at most")
    if len(value) > CONSUMERS or len(set(value)) < len(value):
        raise ConfigError(key, "too many names, or one twice", f"{CONSUMERS} different ones at most")
    if tail and len(value) > 1:
        raise ConfigError(key, "live subscribers are fed by one consumer", f"one name, with {HOSTNAME} in it")
    return tuple(value)


def _switch(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(key, f"{value!r} is neither true nor false", "true or false")
    return value


def _record_bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1024 <= value <= MAX_RECORD_BYTES:
        raise ConfigError(
            "max_record_bytes",
            f"{value!r} is no size of a record",
            f"1024 to {MAX_RECORD_BYTES}; a stream has to be set to take more than {RECORD_BYTES}",
        )
    return value
