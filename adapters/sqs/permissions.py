"""Which permissions the queues need that a configuration names, and those that clients do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from adapters.aws.permissions import ANY, Grant, Scope, Use
from adapters.sqs.naming import DIGEST_LENGTH, FIFO_SUFFIX, NAME_LIMIT, QueueReference, parse_reference

# Batches have no permission of their own: "sqs:SendMessage" stands for SendMessageBatch as well (SQS guide, "Amazon SQS
# API permissions: Actions and resource reference").
_SEND: Final = frozenset({"sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"})
_HOME: Final = _SEND | {
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
    "sqs:PurgeQueue",
}
_CREATE: Final = frozenset({"sqs:CreateQueue", "sqs:TagQueue"})
_REMOVE: Final = frozenset({"sqs:DeleteQueue"})

# Of the longest names only this much is as it was: behind it is the hash of the rest (`naming.queue_name`).
_KEPT: Final = NAME_LIMIT - len(FIFO_SUFFIX) - DIGEST_LENGTH - 1
_ARN_PARTITION = re.compile(r"arn:(aws[a-z-]*):")


def home_permissions(prefix: str, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For the queues that clients name and no rule maps. All begin with `prefix`, whatever a client calls them."""
    yield Grant(scope.arn("sqs", prefix + ANY), _actions(Use.HOME, create=create))


def permissions(name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]:
    """For a queue that a rule names: by name, ARN or URL, with `ANY` in place of what is captured.

    What is named by an ARN or a URL is somebody else's to create.
    """
    head, captured, _ = name.partition(ANY)
    reference = parse_reference(name.replace(ANY, "0"))
    actions = _actions(use, create=create and reference.ours)
    yield Grant(
        _scope(name, reference, scope).arn("sqs", _resource(reference, head) if captured else reference.name), actions
    )


def _actions(use: Use, *, create: bool) -> frozenset[str]:
    if use is Use.SEND:
        return _SEND | _CREATE if create else _SEND
    return _HOME | _CREATE | _REMOVE if create else _HOME


def _resource(reference: QueueReference, head: str) -> str:
    """A name that begins as the rule says. Its end is open: what was captured may make it illegal, and so changed."""
    literal = head.rpartition("/")[2] if reference.url else head.rpartition(":")[2]
    return literal[:_KEPT] + ANY


def _scope(name: str, reference: QueueReference, scope: Scope) -> Scope:
    """The place that an ARN or a URL says, as far as it does."""
    partition = _ARN_PARTITION.match(name)
    return Scope(
        region=reference.region or scope.region,
        account=reference.account or scope.account,
        partition=partition[1] if partition else scope.partition,
    )
