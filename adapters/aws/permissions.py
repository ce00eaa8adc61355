"""What an identity must be allowed in AWS, in the terms of IAM. Each adapter says what it needs of what it uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from botocore.exceptions import BotoCoreError
from botocore.session import Session

from adapters.aws.names import DIGEST_LENGTH, FIFO_SUFFIX
from adapters.aws.payloads import LargePayloadSettings

ANY: Final = "*"
"""In a resource: any text. In a scope: what is not known."""


class Use(Enum):
    """What a gateway does with a resource."""

    SEND = auto()
    """Messages are sent there, and that is all."""
    HOME = auto()
    """A queue of clients lives there: it is sent to, consumed and counted."""
    TAIL = auto()
    """A stream is sent to, and read for the live subscribers of its topics."""
    FANOUT = auto()
    """A topic is sent to, and hands messages to queues."""
    INGRESS = auto()
    """A topic that messages are taken from, or the queue that they are taken from it through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Where resources live that are named without their account and region. `ANY` for what is not known."""

    region: str = ANY
    account: str = ANY
    partition: str = "aws"

    @classmethod
    def of(cls, region: str, account: str) -> Scope:
        """The partition is the region's, such as `aws-cn`."""
        try:
            partition: str = Session().get_partition_for_region(region) if region != ANY else "aws"
        except BotoCoreError:
            partition = "aws"  # a region newer than the installed botocore
        return cls(region=region, account=account, partition=partition)

    def arn(self, service: str, resource: str) -> str:
        """The ARN of what is named `resource` in this scope; it may hold `ANY`."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"


@dataclass(frozen=True, slots=True)
class Grant:
    """Actions, such as `sqs:SendMessage`, on one resource: an ARN that may end in `ANY`."""

    resource: str
    actions: frozenset[str]

    def covers(self, resource: str) -> bool:
        """Whether all that another resource stands for is a part of this one."""
        if self.resource.endswith(ANY):
            return resource.startswith(self.resource.removesuffix(ANY))
        return resource == self.resource


def name_pattern(name: str, limit: int) -> str:
    """What begins as a rule's name does, where that has captures: `names.legal_name` may change how it ends.

    `limit`: characters that a name may have; of the longest, all but a hash is as it was.
    """
    head, captured, _ = name.partition(ANY)
    return head[: limit - len(FIFO_SUFFIX) - DIGEST_LENGTH - 1] + ANY if captured else name


def payload_permissions(payloads: LargePayloadSettings | None, scope: Scope, *, read: bool) -> Iterator[Grant]:
    """For the bodies that are too large for a queue or a topic. `read`: they are delivered from there, too."""
    if payloads is None:
        return
    actions = {"s3:PutObject", "s3:AbortMultipartUpload"}
    if read:
        actions |= {"s3:GetObject"}
        yield from (Grant(_objects(bucket, scope), frozenset({"s3:GetObject"})) for bucket in payloads.also_read)
    if read and payloads.remove_after_ack:
        actions |= {"s3:DeleteObject"}
    yield Grant(_objects(payloads.bucket, scope), frozenset(actions))


def _objects(bucket: str, scope: Scope) -> str:
    return f"arn:{scope.partition}:s3:::{bucket}/{ANY}"


def merged(grants: Iterable[Grant]) -> Sequence[Grant]:
    """One grant for each resource, in the order of their names, without what another of them says already."""
    actions: dict[str, frozenset[str]] = {}
    for grant in grants:
        actions[grant.resource] = actions.get(grant.resource, frozenset()) | grant.actions
    whole = [Grant(resource, actions[resource]) for resource in sorted(actions)]
    remaining = (Grant(each.resource, each.actions - _said_elsewhere(each, whole)) for each in whole)
    return [grant for grant in remaining if grant.actions]


def _said_elsewhere(grant: Grant, grants: Iterable[Grant]) -> frozenset[str]:
    others = (other.actions for other in grants if other.resource != grant.resource and other.covers(grant.resource))
    return frozenset().union(*others)
