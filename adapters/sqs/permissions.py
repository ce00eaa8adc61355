"""Which permissions the queues need that a configuration names, and those that clients do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pydantic import BaseModel

from adapters.aws.permissions import ANY, Grant, Scope, Use, name_pattern, payload_permissions
from adapters.sqs.naming import NAME_LIMIT, QueueReference, parse_reference, queue_name
from adapters.sqs.settings import Settings

# Batches have no permission of their own: "sqs:SendMessage" stands for SendMessageBatch as well (SQS guide, "Amazon SQS
# API permissions: Actions and resource reference").
_SEND: Final = frozenset({"sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"})
_HOME: Final = _SEND | {
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
}
# A topic sends to it, not the gateway.
_INGRESS: Final = _HOME - {"sqs:SendMessage"}

_CREATE: Final = frozenset({"sqs:CreateQueue", "sqs:TagQueue"})
_CREATING: Final = {
    Use.SEND: _CREATE,
    Use.HOME: _CREATE | {"sqs:DeleteQueue"},
    Use.INGRESS: _CREATE | {"sqs:SetQueueAttributes"},
}
_USING: Final = {Use.SEND: _SEND, Use.HOME: _HOME, Use.INGRESS: _INGRESS}

_ARN = re.compile(r"arn:(aws[a-z-]*):.*:", re.DOTALL)


def home_permissions(prefix: str, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For the queues that clients name and no rule maps. All begin with `prefix`, whatever a client calls them."""
    yield Grant(scope.arn("sqs", prefix + ANY), _actions(Use.HOME, create=create))


def fanout_permissions(prefix: str, scope: Scope) -> Iterator[Grant]:
    """For the queues that a topic is to send to: those that clients name."""
    yield Grant(scope.arn("sqs", prefix + ANY), frozenset({"sqs:SetQueueAttributes"}))


def ingress_permissions(prefix: str, queue: str, scope: Scope, *, fifo: bool, create: bool) -> Iterator[Grant]:
    """For the queue that the messages of a topic come in through, by its legacy name."""
    name = queue_name(prefix + queue, fifo=fifo)
    yield Grant(scope.arn("sqs", name), _actions(Use.INGRESS, create=create))


def permissions(name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For a queue that a rule names: by name, ARN or URL, with `ANY` in place of what is captured.

    What is named by an ARN or a URL is somebody else's to create.
    """
    reference = parse_reference(name.replace(ANY, "0"))
    literal = name.rpartition("/" if reference.url else ":")[2]
    resource = _place(name, reference, scope).arn("sqs", name_pattern(literal, NAME_LIMIT))
    yield Grant(resource, _actions(use, create=create and reference.ours))


def section_permissions(section: BaseModel, scope: Scope) -> Iterator[Grant]:
    """For what the `sqs` section of the configuration says."""
    assert isinstance(section, Settings)
    yield from payload_permissions(section.large_payloads, scope, read=True)


def _actions(use: Use, *, create: bool) -> frozenset[str]:
    return _USING[use] | _CREATING[use] if create else _USING[use]


def _place(name: str, reference: QueueReference, scope: Scope) -> Scope:
    """What an ARN or a URL says of its place, and the rest from the scope."""
    arn = _ARN.match(name)
    return replace(
        scope,
        region=reference.region or scope.region,
        account=reference.account or scope.account,
        partition=arn[1] if arn else scope.partition,
    )
