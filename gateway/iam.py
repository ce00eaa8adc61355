"""The IAM policy that exactly one configuration needs: what its rules name, and the queues that clients may name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, Protocol, cast

from pydantic import BaseModel

from adapters.aws.permissions import ANY, Grant, Scope, Use, merged
from adapters.dynamodb.permissions import table_permissions
from adapters.sns.permissions import permissions as topic_permissions
from adapters.sqs.permissions import fanout_permissions, home_permissions, ingress_permissions
from gateway.assembly import Assembly, IngressPart, section
from gateway.core.backend import Target
from gateway.core.routes import QUEUE_KIND, QueueMatch, Routes, Rule
from gateway.core.templates import Template

VERSION: Final = "2012-10-17"
"""Of the policy language, not of a policy (IAM user guide, "Version")."""

MANAGED_POLICY_LIMIT: Final = 6_144
"""Characters of a managed policy, without white space (IAM user guide, "IAM and AWS STS quotas")."""

# What a service needs of a customer's key to encrypt and to decrypt with it (SQS guide, "Key management"; the same for
# SNS topics and Kinesis streams).
_KEY_ACTIONS: Final = frozenset({"kms:Decrypt", "kms:GenerateDataKey"})


class Permissions(Protocol):
    """`permissions` of an adapter: the name as a rule says it with `ANY` for captures, and what is done there."""

    def __call__(self, name: str, use: Use, scope: Scope, *, create: bool) -> Iterator[Grant]: ...


class PushPermissions(Protocol):
    """`push_permissions` of an adapter whose service brings records to `consumers`."""

    def __call__(self, name: str, consumers: Sequence[str], scope: Scope, *, create: bool) -> Iterator[Grant]: ...


class SectionPermissions(Protocol):
    """`section_permissions` of an adapter whose own section of the configuration needs something."""

    def __call__(self, section: BaseModel, scope: Scope) -> Iterator[Grant]: ...


def policy(assembly: Assembly, scope: Scope, *, create: bool, keys: Sequence[str] = ()) -> dict[str, object]:
    """The policy document. `create`: with the right to create and to delete queues; `keys`: ARNs of KMS keys."""
    grants = [*_grants(assembly, scope, create=create), *(Grant(key, _KEY_ACTIONS) for key in keys)]
    return {"Version": VERSION, "Statement": list(_statements(merged(grants)))}


def _grants(assembly: Assembly, scope: Scope, *, create: bool) -> Iterator[Grant]:
    prefix = assembly.settings.prefix
    if assembly.settings.state_table:
        yield from table_permissions(assembly.settings.state_table, scope, create=create)
    if create and any(each.target.fanout is not None for rule in assembly.routes.rules for each in rule.targets):
        yield from fanout_permissions(prefix, scope)
    if not _maps_every_queue(assembly.routes):
        yield from home_permissions(prefix, scope, create=create)
    for rule in assembly.routes.rules:
        yield from _rule_grants(rule, scope, create=create)
    for part in assembly.ingress:
        yield from _ingress_grants(part, prefix, scope, create=create)
    for kind in assembly.kinds:
        yield from _section_grants(kind, assembly, scope)


def _rule_grants(rule: Rule, scope: Scope, *, create: bool) -> Iterator[Grant]:
    captures = rule.match.captures
    for number, each in enumerate(rule.targets):
        kind = each.target.kind
        if kind == QUEUE_KIND:
            continue  # a queue of the gateway lives where another rule says, or where queues live by default
        # A queue lives in its first target; the others, and those of topics and exchanges, get copies.
        home = isinstance(rule.match, QueueMatch) and not number
        name = Template.parse_name(each.target.name, captures).preview(dict.fromkeys(captures, ANY))
        permissions = cast("Permissions | None", _offered(kind, "permissions"))
        if permissions is not None:
            yield from permissions(name, _use(each.target, home=home), scope, create=create)
        if each.target.pushed:
            push = cast("PushPermissions", _offered(kind, "push_permissions"))
            yield from push(name, each.target.pushed, scope, create=create)


def _use(target: Target, *, home: bool) -> Use:
    if home:
        return Use.HOME
    if target.tail:
        return Use.TAIL
    return Use.SEND if target.fanout is None else Use.FANOUT


def _ingress_grants(part: IngressPart, prefix: str, scope: Scope, *, create: bool) -> Iterator[Grant]:
    fifo = part.spec.arguments.get("x-fifo") is True
    yield from topic_permissions(part.topic.name, Use.INGRESS, scope, create=create)
    yield from ingress_permissions(prefix, part.queue, scope, fifo=fifo, create=create)


def _section_grants(kind: str, assembly: Assembly, scope: Scope) -> Iterator[Grant]:
    permissions = cast("SectionPermissions | None", _offered(kind, "section_permissions"))
    own = section(kind, assembly.settings)
    if permissions is not None and own is not None:
        yield from permissions(own, scope)


def _offered(kind: str, function: str) -> object:
    """What an adapter says of permissions; None for one that needs none, as it is not in AWS."""
    name = f"adapters.{kind}.permissions"
    return getattr(importlib.import_module(name), function, None) if importlib.util.find_spec(name) else None


def _maps_every_queue(routes: Routes) -> bool:
    """Whether no queue is left that could live where queues do by default."""
    return any(isinstance(rule.match, QueueMatch) and rule.match.queue.text == "*" for rule in routes.rules)


def _statements(grants: Iterable[Grant]) -> Iterator[Mapping[str, object]]:
    """One for all resources of a service that need the same: a policy has a limited size."""
    ordered = sorted(grants, key=lambda grant: (sorted(grant.actions), grant.resource))
    for number, (actions, group) in enumerate(groupby(ordered, key=lambda grant: sorted(grant.actions)), start=1):
        service = actions[0].partition(":")[0]
        yield {
            "Sid": f"{service.capitalize()}{number}",
            "Effect": "Allow",
            "Action": actions,
            "Resource": [grant.resource for grant in group],
        }
