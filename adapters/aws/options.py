"""What rules may say alike of queues and topics. Each function raises `ConfigError` with the option as its key."""

from __future__ import annotations

import re

from adapters.aws.wire import ATTRIBUTE_LIMIT, LEGACY_PAYLOAD_SIZE, PAYLOAD_SIZE
from gateway.core.errors import ConfigError

# Names of attributes: A-Z a-z 0-9 _ - . up to 256 characters, no period first, last or doubled, and no prefix `AWS.` or
# `Amazon.` (SQS API reference, SendMessage, MessageAttributes).
_ATTRIBUTE = re.compile(r"(?!(?:aws|amazon|mqlift)\.)(?=.{1,256}$)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.IGNORECASE)

_RESERVED = frozenset({PAYLOAD_SIZE, LEGACY_PAYLOAD_SIZE})
"""Whoever could set these could have the gateway read an object for it."""


def attributes_option(value: object, limit: int) -> tuple[str, ...]:
    """Names of headers that are shown as native attributes, `limit` at most."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError("attributes", "not a list of header names", "give a list such as [tenant, region]")
    for name in value:
        if name in _RESERVED:
            raise ConfigError("attributes", f"{name} is what tells that a body is in S3", "leave it out")
        if not _ATTRIBUTE.fullmatch(name):
            raise ConfigError(
                "attributes",
                f"{name!r} cannot be the name of an attribute",
                "use A-Z a-z 0-9 _ - and single periods inside, without the prefix aws., amazon. or mqlift.",
            )
    names = tuple(dict.fromkeys(value))
    if len(names) > limit:
        raise ConfigError(
            "attributes",
            f"{len(names)} headers are too many",
            f"a message has {ATTRIBUTE_LIMIT} attributes and mqlift needs {ATTRIBUTE_LIMIT - limit} of them, "
            f"so name {limit} at most",
        )
    return names
