"""Who may do what: rules, then the permissions of the user or its token, then the default."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.auth.patterns import NOBODY, Subject, Words, has_variables, is_for_somebody, name_matcher
from gateway.auth.permissions import Granted, Scopes, UserPermissions
from gateway.core.auth import Action, Identity
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE

MAX_DECISIONS: Final = 100_000
"""Remembered at once; all are forgotten when there is one more. Some 40 MB, when every name is long."""

MAX_REMEMBERED_KEY: Final = 256
"""Characters of a key that is remembered. An MQTT topic has up to 65,535 bytes; such ones are decided each time."""

MAX_PROFILES: Final = 2_000
"""Peers whose rules are kept ready; all are forgotten when there is one more."""

PUBLISHING: Final = frozenset({Action.PUBLISH, Action.BIND_DESTINATION})
SUBSCRIBING: Final = frozenset({Action.SUBSCRIBE, Action.RECEIVE, Action.BIND_SOURCE})
DECLARING: Final = frozenset({Action.DECLARE})

_OF_WHOLE_EXCHANGES: Final = frozenset({Action.DECLARE, Action.BIND_DESTINATION})
"""They name an exchange and no key."""

Test: TypeAlias = Callable[[Action, str, str], bool]
"""Whether an action on an exchange and a key is what a rule is about."""


@dataclass(frozen=True, slots=True)
class TopicPlace:
    """An MQTT filter over the exchange `amq.topic`, where STOMP's `/topic/…` lives as well."""

    filter: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.filter,)

    def test(self, subject: Subject, *, allow: bool) -> Test:
        words = Words.topic(self.filter, subject)
        return lambda action, exchange, key: (
            exchange == TOPIC_EXCHANGE
            and action not in _OF_WHOLE_EXCHANGES
            and _is_about(words, action, key, allow=allow)
        )


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Queues whose whole name matches; `*` is any text."""

    name: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name,)

    def test(self, subject: Subject, *, allow: bool) -> Test:  # noqa: ARG002 - a name has no wildcards to tell apart
        matches = name_matcher(self.name, subject)
        return lambda _action, exchange, key: exchange == DEFAULT_EXCHANGE and matches(key)


@dataclass(frozen=True, slots=True)
class ExchangePlace:
    """Exchanges whose whole name matches; with a key, only what is published or bound under it."""

    name: str
    key: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name,) if self.key is None else (self.name, self.key)

    def test(self, subject: Subject, *, allow: bool) -> Test:
        matches = name_matcher(self.name, subject)
        if self.key is None:
            return lambda _action, exchange, _key: exchange != DEFAULT_EXCHANGE and matches(exchange)
        words = Words.key(self.key, subject)
        return lambda action, exchange, key: (
            exchange != DEFAULT_EXCHANGE
            and action not in _OF_WHOLE_EXCHANGES
            and matches(exchange)
            and _is_about(words, action, key, allow=allow)
        )


@dataclass(frozen=True, slots=True)
class Everything:
    """Whatever there is."""

    texts: tuple[str, ...] = ()

    def test(self, subject: Subject, *, allow: bool) -> Test:  # noqa: ARG002 - for nobody in particular
        return lambda _action, _exchange, _key: True


Place: TypeAlias = TopicPlace | QueuePlace | ExchangePlace | Everything


def _is_about(words: Words, action: Action, key: str, *, allow: bool) -> bool:
    """A filter with wildcards is allowed as a whole or not at all.

    It is denied when all of it is. When only a part of it is, that part is held back message by message; and where
    nobody is asked about messages, the part denies the whole.
    """
    if action is Action.BIND_SOURCE:
        return words.covers(key) if allow else words.overlaps(key)
    return words.covers(key) if action is Action.SUBSCRIBE else words.matches(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Allows or denies actions at a place. Without users and groups it is for everybody; the anonymous user is `""`."""

    allow: bool
    actions: frozenset[Action]
    place: Place = field(default_factory=Everything)
    users: frozenset[str] | None = None
    groups: frozenset[str] | None = None

    def is_for(self, identity: Identity) -> bool:
        """Whether it says something about a peer."""
        if self.users is None and self.groups is None:
            return True
        named = self.users is not None and identity.user in self.users
        return named or (self.groups is not None and not self.groups.isdisjoint(identity.groups))

    @property
    def has_variables(self) -> bool:
        """Whether its place is another one for each peer."""
        return any(map(has_variables, self.place.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All that an operator has said."""

    rules: Sequence[Rule] = ()
    """The first that is about an action decides."""
    permissions: Mapping[str, UserPermissions] = field(default_factory=dict)
    """By user. They decide for good about those that have them, as in RabbitMQ."""
    default: bool = True
    """Whether what nobody has said anything about is allowed."""
    vhost: str = "/"
    """What tokens and permissions call this gateway."""


class _ReadyRule:
    """A rule with its test made once, where it is the same for everybody."""

    __slots__ = ("_shared", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._shared = None if rule.has_variables else rule.place.test(NOBODY, allow=rule.allow)

    def test_for(self, identity: Identity) -> Test | None:
        """What to ask for a peer; None when the rule is not for it, or names what the peer does not have."""
        if not self.rule.is_for(identity):
            return None
        if self._shared is not None:
            return self._shared
        subject = Subject(identity.user, identity.client_id)
        if not all(is_for_somebody(text, subject) for text in self.rule.place.texts):
            return None
        return self.rule.place.test(subject, allow=self.rule.allow)


class _Profile:
    """What is said about one peer."""

    __slots__ = ("_default", "_granted", "_tests")

    def __init__(self, policy: Policy, rules: Sequence[_ReadyRule], identity: Identity) -> None:
        self._tests: dict[Action, list[tuple[Test, bool]]] = {action: [] for action in Action}
        for ready in rules:
            test = ready.test_for(identity)
            if test is not None:
                for action in ready.rule.actions:
                    self._tests[action].append((test, ready.rule.allow))
        self._granted = _granted(policy, identity)
        self._default = policy.default

    def allows(self, action: Action, exchange: str, key: str) -> bool:
        for test, allow in self._tests[action]:
            if test(action, exchange, key):
                return allow
        return self._default if self._granted is None else self._granted.allows(action, exchange, key)


def _granted(policy: Policy, identity: Identity) -> Granted | None:
    if identity.scopes is not None:
        return Scopes(identity.scopes, policy.vhost)
    permissions = policy.permissions.get(identity.user)
    return None if permissions is None else permissions.of(identity, policy.vhost)


class PolicyAuthorizer:
    """Answers from what it has decided before, which is most of the time."""

    __slots__ = ("_decisions", "_now", "_policy", "_profiles", "_rules")

    def __init__(self, policy: Policy, now: Callable[[], float] = time.time) -> None:
        """`now`: seconds since 1970-01-01 UTC."""
        self._now = now
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Decide by another policy from now on."""
        self._policy = policy
        self._rules = [_ReadyRule(rule) for rule in policy.rules]
        self._decisions: dict[tuple[Identity, Action, str, str], bool] = {}
        self._profiles: dict[Identity, _Profile] = {}

    def allows(self, identity: Identity, action: Action, exchange: str, key: str) -> bool:
        """Nothing is allowed any more to a peer whose token has expired."""
        if identity.expires_at is not None and self._now() >= identity.expires_at:
            return False
        decided = self._decisions.get((identity, action, exchange, key))
        return self._decide(identity, action, exchange, key) if decided is None else decided

    def _decide(self, identity: Identity, action: Action, exchange: str, key: str) -> bool:
        if action is Action.RECEIVE and exchange == DEFAULT_EXCHANGE:
            return True  # what was sent to a queue is for whoever may consume it: that was asked before
        allowed = self._profile(identity).allows(action, exchange, key)
        if len(key) <= MAX_REMEMBERED_KEY:
            if len(self._decisions) >= MAX_DECISIONS:
                self._decisions.clear()
            self._decisions[identity, action, exchange, key] = allowed
        return allowed

    def _profile(self, identity: Identity) -> _Profile:
        profile = self._profiles.get(identity)
        if profile is None:
            if len(self._profiles) >= MAX_PROFILES:
                self._profiles.clear()
            profile = self._profiles[identity] = _Profile(self._policy, self._rules, identity)
        return profile
