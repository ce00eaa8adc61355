"""RabbitMQ's permissions: configure, write and read, of users and of tokens; and those on routing keys.

Which action needs which permission on what is RabbitMQ's table ("Authentication, Authorisation, Access Control", under
"How Authorisation Works"): publishing writes to an exchange, whose default one is called `amq.default`; consuming reads
a queue; a binding reads its source and writes its destination; declaring and deleting configures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias
from urllib.parse import unquote

from gateway.auth.patterns import Expression, glob_matcher
from gateway.core.auth import Action, Identity
from gateway.core.message import DEFAULT_EXCHANGE

Permission: TypeAlias = Literal["configure", "write", "read"]

DEFAULT_EXCHANGE_NAME: Final = "amq.default"
"""What permissions call the exchange without a name."""

MAX_SCOPES: Final = 1_000
"""Of one token; what is over it grants nothing."""

_NEEDED: Final[Mapping[Action, Permission]] = {
    Action.PUBLISH: "write",
    Action.BIND_DESTINATION: "write",
    Action.SUBSCRIBE: "read",
    Action.BIND_SOURCE: "read",
    Action.DECLARE: "configure",
}
_WITH_KEY: Final = frozenset({Action.PUBLISH, Action.SUBSCRIBE, Action.BIND_SOURCE})
"""Where a routing key, or a pattern of some, is involved; unless it is about a queue."""


class Granted(Protocol):
    """What one identity may do."""

    def allows(self, action: Action, exchange: str, key: str) -> bool:
        """As `Authorizer.allows`."""


class Need(NamedTuple):
    """What an action needs: a permission on a queue or an exchange and, with `key`, on that routing key as well."""

    permission: Permission
    name: str
    key: str | None


def need(action: Action, exchange: str, key: str) -> Need | None:
    """None: nothing is needed. RabbitMQ asks when a queue is bound, not for each message that comes through it."""
    if action is Action.RECEIVE:
        return None
    permission = _NEEDED[action]
    if exchange == DEFAULT_EXCHANGE:
        # Of the publishes to queues RabbitMQ sees the exchange; all else without an exchange is about the queue.
        return Need(permission, DEFAULT_EXCHANGE_NAME if action is Action.PUBLISH else key, None)
    return Need(permission, exchange, key if action in _WITH_KEY else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPermission:
    """On the routing keys of one exchange; `{username}`, `{vhost}` and `{client_id}` are filled in."""

    exchange: str
    write: Expression
    read: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPermissions:
    """RabbitMQ's triple of one user, and its topic permissions. Without one for an exchange, every key is allowed."""

    configure: Expression
    write: Expression
    read: Expression
    topics: tuple[TopicPermission, ...] = ()

    def of(self, identity: Identity, vhost: str) -> Granted:
        """What they grant to one peer."""
        values = {"username": identity.user, "vhost": vhost, "client_id": identity.client_id}
        return _OfUser(self, [_filled(topic, values) for topic in self.topics])


def _filled(topic: TopicPermission, values: Mapping[str, str]) -> TopicPermission:
    try:
        return TopicPermission(
            exchange=topic.exchange, write=topic.write.filled(values), read=topic.read.filled(values)
        )
    except ValueError:  # no key is as long as these names
        return TopicPermission(exchange=topic.exchange, write=Expression(""), read=Expression(""))


class _OfUser:
    __slots__ = ("_expressions", "_topics")

    def __init__(self, permissions: UserPermissions, topics: Sequence[TopicPermission]) -> None:
        self._expressions: dict[Permission, Expression] = {
            "configure": permissions.configure,
            "write": permissions.write,
            "read": permissions.read,
        }
        self._topics: dict[tuple[Permission, str], Expression] = {
            **{("write", topic.exchange): topic.write for topic in topics},
            **{("read", topic.exchange): topic.read for topic in topics},
        }

    def allows(self, action: Action, exchange: str, key: str) -> bool:
        needed = need(action, exchange, key)
        if needed is None:
            return True
        if not self._expressions[needed.permission].matches(needed.name):
            return False
        topic = self._topics.get((needed.permission, needed.name))
        return needed.key is None or topic is None or topic.matches(needed.key)


class _Grant(NamedTuple):
    permission: str
    name: Callable[[str], bool]
    key: Callable[[str], bool]


class Scopes:
    """What the scopes of a token grant: `read:vhost/name`, `write:vhost/name/key`, `configure:…`, as in RabbitMQ's
    OAuth 2 plugin. `*` is any text, everything else is percent-encoded. What is none of these grants nothing.
    """

    __slots__ = ("_grants",)

    def __init__(self, scopes: Iterable[str], vhost: str) -> None:
        self._grants = [
            grant for scope in list(scopes)[:MAX_SCOPES] if (grant := _parse_scope(scope, vhost)) is not None
        ]

    def allows(self, action: Action, exchange: str, key: str) -> bool:
        needed = need(action, exchange, key)
        return needed is None or any(
            grant.permission == needed.permission
            and grant.name(needed.name)
            and (needed.key is None or grant.key(needed.key))
            for grant in self._grants
        )


def _parse_scope(scope: str, vhost: str) -> _Grant | None:
    permission, _, places = scope.partition(":")
    parts = places.split("/")
    if permission not in ("configure", "write", "read") or len(parts) not in (2, 3) or not _glob(parts[0])(vhost):
        return None
    return _Grant(permission, _glob(parts[1]), _glob(parts[2] if len(parts) > 2 else "*"))


def _glob(text: str) -> Callable[[str], bool]:
    return glob_matcher([unquote(part) for part in text.split("*")])
