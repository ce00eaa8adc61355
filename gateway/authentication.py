"""From the section `auth` of the settings to the parts that decide: files are read and patterns compiled.

`prepare` tells every mistake at once. What it gives can be taken up by a running gateway with `Access.use`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import structlog

from config.auth import AuthSettings, LdapSettings, RuleSettings, TokenSettings
from gateway.auth.chain import Chain, Way, Ways
from gateway.auth.jwks import FileKeys, KeySource, ServerKeys
from gateway.auth.mosquitto import read_acl
from gateway.auth.patterns import check_filter
from gateway.auth.permissions import UserPermissions
from gateway.auth.pool import CheckPool
from gateway.auth.rabbitmq import Definitions, TopicTriple, Triple, compiled, read_definitions
from gateway.auth.rules import (
    DECLARING,
    PUBLISHING,
    SUBSCRIBING,
    Everything,
    ExchangePlace,
    Place,
    Policy,
    PolicyAuthorizer,
    QueuePlace,
    Rule,
    TopicPlace,
)
from gateway.auth.throttle import Throttle, ThrottleLimits
from gateway.auth.tokens import ByToken, TokenOptions
from gateway.auth.users import Account, User, accounts, read_users
from gateway.auth.ways import ByCertificate, ByPassword
from gateway.core.auth import Action, Authenticator, Authorizer
from gateway.core.errors import ConfigError

log = structlog.get_logger("mqlift.auth")

_KEY: Final = "auth"

_ACTIONS: Final[Mapping[str, frozenset[Action]]] = {
    "publish": PUBLISHING,
    "subscribe": SUBSCRIBING,
    "declare": DECLARING,
}

_LDAP_PORTS: Final = {"ldap": 389, "ldaps": 636}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that the settings say, ready to be used."""

    ways: Ways
    throttle: Throttle
    policy: Policy
    pools: tuple[CheckPool, ...]

    @property
    def restricts(self) -> bool:
        """Whether anything may ever be denied. A token expires."""
        policy = self.policy
        return bool(policy.rules or policy.permissions or self.ways.proofs) or not policy.default


class Access:
    """Who may connect to a running gateway, and who may do what."""

    def __init__(self, prepared: Prepared) -> None:
        self._chain = Chain(prepared.ways, prepared.throttle)
        # Where nothing is ever denied, nobody is asked for every message.
        self._authorizer = PolicyAuthorizer(prepared.policy) if prepared.restricts else None
        self._pools = prepared.pools
        if prepared.ways.none:
            log.warning("nobody_may_connect", remedy="set auth.users, or auth.anonymous: true")

    @property
    def authenticator(self) -> Authenticator:
        return self._chain

    @property
    def authorizer(self) -> Authorizer | None:
        """None: everything is allowed to everybody who is in."""
        return self._authorizer

    def use(self, prepared: Prepared) -> None:
        """Decide by other settings from now on. Who is in stays in, and may do what the new ones say.

        Raises `ConfigError`, and changes nothing, for the first rules of a gateway that was started without any: its
        connections do not ask.
        """
        if self._authorizer is None and prepared.restricts:
            raise ConfigError(f"{_KEY}.rules", "the gateway was started without any", "restart it")
        if self._authorizer is not None:
            self._authorizer.use(prepared.policy)
        self._chain.use(prepared.ways, prepared.throttle)
        old, self._pools = self._pools, prepared.pools
        for pool in old:
            pool.retire()

    def close(self) -> None:
        """Check no more logins."""
        for pool in self._pools:
            pool.close()


def prepare(settings: AuthSettings, mistakes: list[ConfigError]) -> Prepared | None:
    """Read every file that the settings name. Adds to `mistakes`, and gives None when there is one."""
    reader = _Reader(settings, mistakes)
    found = len(mistakes)
    definitions = reader.definitions()
    users = reader.users(definitions)
    proofs = reader.proofs()
    policy = reader.policy(definitions)
    directory = reader.directory()
    if len(mistakes) > found:
        return None
    hashing = CheckPool("password", threads=settings.hashing.threads, waiting=settings.hashing.waiting)
    passwords: list[Way] = [ByPassword(users, hashing)] if users else []
    failures = settings.failures
    return Prepared(
        ways=Ways(
            proofs=proofs,
            secrets=[*passwords, *([directory[0]] if directory else [])],
            anonymous=settings.anonymous,
        ),
        throttle=Throttle(
            ThrottleLimits(per_address=failures.per_address, per_user=failures.per_user, window=failures.window)
        ),
        policy=policy,
        pools=(hashing, *([directory[1]] if directory else [])),
    )


class _Reader:
    """Makes the parts, and keeps going after a mistake, to find the others."""

    def __init__(self, settings: AuthSettings, mistakes: list[ConfigError]) -> None:
        self._settings = settings
        self._mistakes = mistakes

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """What goes wrong within is a mistake under a key."""
        try:
            yield
        except ConfigError as error:
            between = "." if error.key.isidentifier() else ": "  # or a file, or a user, that it is about
            where = f"{_KEY}.{key}{between}{error.key}" if error.key else f"{_KEY}.{key}"
            self._mistakes.append(ConfigError(where, error.problem, error.remedy))
        except ValueError as error:
            self._mistakes.append(ConfigError(f"{_KEY}.{key}", str(error)))

    def definitions(self) -> Definitions | None:
        path = self._settings.rabbitmq_definitions
        if path is not None:
            with self._told("rabbitmq_definitions"):
                return read_definitions(path, self._settings.vhost)
        return None

    def users(self, definitions: Definitions | None) -> dict[str, Account]:
        """Of all files. A name that is in two of them is that of the first."""
        found: dict[str, User] = {}
        for number, path in enumerate(self._settings.users):
            with self._told(f"users.{number}"):
                found = read_users(path) | found
        if definitions is not None:
            found = dict(definitions.users) | found
        with self._told("rabbitmq_definitions"):
            return accounts(found.values())
        return {}

    def proofs(self) -> list[Way]:
        ways: list[Way] = []
        if self._settings.certificates is not None:
            ways.append(ByCertificate(self._settings.certificates))
        if self._settings.tokens is not None:
            with self._told("tokens.jwks_file"):
                ways.append(_by_token(self._settings.tokens))
        return ways

    def directory(self) -> tuple[Way, CheckPool] | None:
        ldap = self._settings.ldap
        if ldap is not None:
            with self._told("ldap"):
                pool = CheckPool("directory", threads=ldap.threads, waiting=ldap.waiting)
                return _by_directory(ldap, pool), pool
        return None

    def policy(self, definitions: Definitions | None) -> Policy:
        settings = self._settings
        rules: list[Rule] = []
        for number, rule in enumerate(settings.rules):
            with self._told(f"rules.{number}"):
                rules.append(_rule(rule))
        if settings.mosquitto_acl is not None:
            with self._told("mosquitto_acl"):
                rules += read_acl(settings.mosquitto_acl)
        permissions = self._permissions(definitions)
        allowed = {"allow": True, "deny": False, "auto": not rules and not permissions}[settings.default]
        return Policy(rules=rules, permissions=permissions, default=allowed, vhost=settings.vhost)

    def _permissions(self, definitions: Definitions | None) -> dict[str, UserPermissions]:
        """Those of the definitions, and in their place those that are written here."""
        found: dict[str, UserPermissions] = {}
        if definitions is not None:
            with self._told("rabbitmq_definitions"):
                found |= definitions.permissions()
        with self._told("permissions"):
            found |= compiled(
                tuple(Triple(**each.model_dump()) for each in self._settings.permissions),
                tuple(TopicTriple(**each.model_dump()) for each in self._settings.topic_permissions),
            )
        return found


def _by_token(settings: TokenSettings) -> Way:
    """Raises `ConfigError` for a file that has no keys."""
    keys: KeySource = (
        FileKeys(settings.jwks_file)
        if settings.jwks_file is not None
        else ServerKeys(settings.jwks_url or "", settings.jwks_refresh)
    )
    prefix = f"{settings.audience}." if settings.scope_prefix is None else settings.scope_prefix
    return ByToken(
        TokenOptions(
            issuer=settings.issuer,
            audience=settings.audience,
            algorithms=settings.algorithms,
            leeway=settings.leeway,
            user_claim=settings.user_claim,
            groups_claim=settings.groups_claim,
            scopes_claim=settings.scopes_claim,
            scope_prefix=prefix,
        ),
        keys,
    )


def _by_directory(settings: LdapSettings, pool: CheckPool) -> Way:
    """Raises `ConfigError` when the library is not installed, or the file of authorities cannot be loaded."""
    try:
        from gateway.auth.directory import ByDirectory, DirectoryOptions, GroupSearch
    except ModuleNotFoundError as error:
        raise ConfigError("", f"{error.name} is not installed", "pip install 'mqlift[ldap]'") from None
    url = urlsplit(settings.url)
    groups = settings.groups
    options = DirectoryOptions(
        host=url.hostname or "",
        port=url.port or _LDAP_PORTS[url.scheme],
        tls=url.scheme == "ldaps",
        starttls=settings.starttls,
        user_dn=settings.user_dn,
        ca=settings.ca,
        timeout=settings.timeout,
        groups=None
        if groups is None
        else GroupSearch(base=groups.base, filter=groups.filter, attribute=groups.attribute),
    )
    try:
        return ByDirectory(options, pool)
    except OSError as error:
        problem = f"cannot load {settings.ca}: {error.strerror or error}"
        raise ConfigError("ca", problem, "a PEM file of certificates") from error


def _rule(settings: RuleSettings) -> Rule:
    names = settings.allow or settings.deny
    return Rule(
        allow=bool(settings.allow),
        actions=frozenset().union(*(_ACTIONS[name] for name in names)),
        place=_place(settings),
        users=None if settings.users is None else frozenset(settings.users),
        groups=None if settings.groups is None else frozenset(settings.groups),
    )


def _place(settings: RuleSettings) -> Place:
    """Raises `ValueError` for a topic that is no filter."""
    if settings.topic is not None:
        return TopicPlace(check_filter(settings.topic))
    if settings.queue is not None:
        return QueuePlace(settings.queue)
    if settings.exchange is not None:
        return ExchangePlace(settings.exchange, settings.key)
    return Everything()
