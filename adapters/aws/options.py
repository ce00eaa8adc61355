"""What rules may say alike of queues and topics. Each function raises `ConfigError` with the option as its key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

from adapters.aws.names import is_fifo
from adapters.aws.wire import ATTRIBUTE_LIMIT, LEGACY_PAYLOAD_SIZE, PAYLOAD_SIZE
from gateway.core.errors import ConfigError
from gateway.core.templates import Template

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


def check_known(options: Iterable[str], known: Sequence[str], kind: str) -> None:
    """What stands beside the name of a target has to be one of its options."""
    for key in options:
        if key not in known:
            raise ConfigError(key, f"an {kind} target has no such option", f"known are {', '.join(known)}")


def check_deduplication(deduplication_id: Template | None, name: str, what: str) -> None:
    """`what` is such as `queue`. A name that ends in a capture may turn out to be that of a FIFO one."""
    if deduplication_id is not None and not is_fifo(name) and not name.endswith("}"):
        remedy = f"leave it out, or name a {what} that ends in .fifo"
        raise ConfigError("deduplication_id", f"only FIFO {what}s deduplicate", remedy)


def resource_name(kind: str, value: str, captures: AbstractSet[str], legal: Callable[[str], str], rules: str) -> str:
    """A name, ARN or URL that may have captures in it. `legal` gives the name in it as the service allows it, and
    raises `ValueError`; `rules` say what that is.
    """
    try:
        sample = Template.parse_name(value, captures).render_captures(dict.fromkeys(captures, "0"))
        name = legal(sample)
    except ValueError as error:
        raise ConfigError(kind, str(error)) from None
    if not sample.endswith(name):
        raise ConfigError(kind, f"{value!r} is not a name that {kind.upper()} allows", rules)
    return value
