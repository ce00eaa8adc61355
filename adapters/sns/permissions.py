"""Which permissions the topics need that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel

from adapters.aws.permissions import ANY, Grant, Scope, Use, name_pattern, payload_permissions
from adapters.sns.naming import NAME_LIMIT, parse_reference
from adapters.sns.settings import Settings

# PublishBatch has no permission of its own (Service Authorization Reference, "Actions defined by Amazon SNS").
_LOOK_UP: Final = "sns:GetTopicAttributes"
_USING: Final = {
    Use.SEND: frozenset({_LOOK_UP, "sns:Publish"}),
    Use.FANOUT: frozenset({_LOOK_UP, "sns:Publish"}),
    Use.INGRESS: frozenset({_LOOK_UP}),
}
_CREATE: Final = frozenset({"sns:CreateTopic", "sns:TagResource"})
_SUBSCRIBE: Final = frozenset({"sns:Subscribe"})
_FAN_OUT: Final = _SUBSCRIBE | {"sns:Unsubscribe", "sns:GetSubscriptionAttributes"}


def permissions(name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For a topic by name or ARN, with `ANY` in place of what is captured. An ARN is somebody else's to create.

    A queue cannot live in a topic: `use` is never `HOME`.
    """
    reference = parse_reference(name.replace(ANY, "0"))
    actions = _USING[use]
    if create and reference.ours:
        actions |= _CREATE
    if create and use is Use.INGRESS:
        actions |= _SUBSCRIBE
    elif create and use is Use.FANOUT:
        actions |= _FAN_OUT
    place, colon, literal = name.rpartition(":")
    pattern = name_pattern(literal, NAME_LIMIT)
    yield Grant(place + colon + pattern if reference.arn else scope.arn("sns", pattern), actions)


def section_permissions(section: BaseModel, scope: Scope) -> Iterator[Grant]:
    """For what the `sns` section of the configuration says."""
    assert isinstance(section, Settings)
    yield from payload_permissions(section.large_payloads, scope, read=False)
