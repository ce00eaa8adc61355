"""The section `auth`: who may connect, and who may do what. Files are read, and patterns compiled, later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from config.mistakes import mistake
from config.section import Seconds, Section, Text

ActionName: TypeAlias = Literal["publish", "subscribe", "declare"]
Algorithm: TypeAlias = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PLACES: Final = ("topic", "queue", "exchange")


class TokenSettings(Section):
    """JSON Web Tokens as passwords."""

    issuer: Text
    audience: Text
    jwks_file: Path | None = None
    """The keys that sign tokens. This, or their address."""
    jwks_url: Text | None = None
    jwks_refresh: Annotated[float, Field(ge=30, le=86_400, allow_inf_nan=False)] = 300.0
    """Keys of an address are fetched again after this long."""
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256")
    leeway: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 30.0
    """What clocks may differ."""
    user_claim: Text = "sub"
    groups_claim: str = ""
    """Of groups, such as `groups`. Empty: none."""
    scopes_claim: str = ""
    """Of permissions, such as `scope`. Empty: tokens say who somebody is, and nothing of what it may do."""
    scope_prefix: str | None = None
    """What the scopes of this gateway begin with. None: the audience and a dot, as in RabbitMQ."""

    @model_validator(mode="after")
    def _keys_are_somewhere(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise mistake("has not one place of keys", "set jwks_file or jwks_url")
        return self

    @field_validator("algorithms")
    @classmethod
    def _some_are_taken(cls, algorithms: tuple[Algorithm, ...]) -> tuple[Algorithm, ...]:
        if not algorithms:
            raise mistake("is empty", "one algorithm at least, such as RS256")
        return algorithms

    @field_validator("jwks_url")
    @classmethod
    def _keys_come_safely(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
            raise mistake("is no https address", "https://…: whoever changes the keys can be anybody")
        return url


class LdapGroupSettings(Section):
    """Where the directory has the groups of a user; `{dn}` and `{user}` are filled in."""

    base: Text
    filter: Text = "(member={dn})"
    attribute: Text = "cn"

    @field_validator("filter")
    @classmethod
    def _names_the_user(cls, template: str) -> str:
        _check_template(template, ("dn", "user"))
        return template


class LdapSettings(Section):
    """Passwords that a directory checks."""

    url: Text
    """`ldaps://host`, or `ldap://host` with `starttls`; a port may follow."""
    starttls: bool = False
    plaintext: bool = False
    """Passwords may cross the network as they are, for `ldap://` without `starttls`."""
    ca: Path | None = None
    """PEM file of who signs the directory's certificate. None: the system's authorities."""
    user_dn: Text
    """The user's distinguished name, with `{user}`."""
    timeout: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 5.0
    threads: Annotated[int, Field(ge=1, le=64)] = 4
    """Logins that the directory is asked about at once."""
    waiting: Annotated[int, Field(ge=0, le=100_000)] = 200
    """More that wait; then logins are refused as busy."""
    groups: LdapGroupSettings | None = None

    @model_validator(mode="after")
    def _passwords_are_protected(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("ldap", "ldaps") or not parts.hostname or parts.path.strip("/"):
            raise mistake(f"{self.url!r} is no directory", "ldaps://host or ldap://host", "url")
        if parts.scheme == "ldaps" and self.starttls:
            raise mistake("ldaps has TLS already", "leave starttls out, or write ldap://", "starttls")
        if parts.scheme == "ldap" and not self.starttls and not self.plaintext and parts.hostname not in _LOCAL:
            raise mistake(
                "passwords would cross the network as they are", "write ldaps://, or set starttls or plaintext", "url"
            )
        return self

    @field_validator("user_dn")
    @classmethod
    def _names_the_user(cls, template: str) -> str:
        _check_template(template, ("user",))
        return template


class RuleSettings(Section):
    """Allows or denies actions at a place: for users, for groups, or for everybody."""

    allow: tuple[ActionName, ...] = ()
    deny: tuple[ActionName, ...] = ()
    users: tuple[str, ...] | None = None
    """An empty name is the anonymous user."""
    groups: tuple[Text, ...] | None = None
    topic: Text | None = None
    queue: Text | None = None
    exchange: Text | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if bool(self.allow) == bool(self.deny):
            raise mistake("has not one of allow and deny", "such as allow: [publish, subscribe]")
        given = [name for name in _PLACES if getattr(self, name) is not None]
        if len(given) > 1:
            raise mistake(f"{' and '.join(given)} are both given", "write a rule for each")
        if self.key is not None and self.exchange is None:
            raise mistake("there is no exchange that it is a key of", "leave it out, or name an exchange", "key")
        return self


class PermissionSettings(Section):
    """RabbitMQ's permissions of a user: regular expressions of names. An empty one matches nothing."""

    user: Text
    configure: str = ""
    write: str = ""
    read: str = ""


class TopicPermissionSettings(Section):
    """RabbitMQ's topic permissions of a user: regular expressions of routing keys."""

    user: Text
    exchange: Text
    write: str = ""
    read: str = ""


class FailureSettings(Section):
    """Failed logins within a time, before further ones are refused unseen. 0: any number."""

    per_address: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    per_user: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    window: Seconds = 60.0


class HashingSettings(Section):
    """Where passwords are checked: each check takes a thread for milliseconds, and up to 20 MiB."""

    threads: Annotated[int, Field(ge=1, le=64)] = 2
    waiting: Annotated[int, Field(ge=0, le=100_000)] = 1_000
    """Logins that wait for a thread; then more are refused as busy."""


class AuthSettings(Section):
    """Who may connect, and who may do what."""

    anonymous: bool = False
    """Peers that give neither name nor password may connect. When there is no other way, any peer may."""
    users: tuple[Path, ...] = ()
    """Users files."""
    rabbitmq_definitions: Path | None = None
    """Users and permissions, as RabbitMQ exports them."""
    mosquitto_acl: Path | None = None
    """Rules, as Mosquitto's `acl_file` has them; after those of `rules`."""
    certificates: Literal["common_name", "dns", "email", "uri", "subject"] | None = None
    """The part of a client's certificate that is its user. None: certificates say nothing."""
    tokens: TokenSettings | None = None
    ldap: LdapSettings | None = None
    rules: tuple[RuleSettings, ...] = ()
    """The first that is about an action decides."""
    permissions: tuple[PermissionSettings, ...] = ()
    """They decide about their users what no rule does."""
    topic_permissions: tuple[TopicPermissionSettings, ...] = ()
    default: Literal["auto", "allow", "deny"] = "auto"
    """What nothing else decides. `auto`: denied when there are rules or permissions, allowed when there are none."""
    vhost: Text = "/"
    """The virtual host that definitions and tokens are about."""
    client_ids: Literal["per_user", "shared"] = "per_user"
    """Who may take over a client id and its session: the user that has it, or anybody."""
    failures: FailureSettings = FailureSettings()
    hashing: HashingSettings = HashingSettings()


def _check_template(template: str, names: tuple[str, ...]) -> None:
    """That it names the user, and nothing else in braces."""
    try:
        filled = template.format(**dict.fromkeys(names, "\0"))
    except (KeyError, IndexError, ValueError, AttributeError):
        filled = ""
    if "\0" not in filled:
        raise mistake(
            f"{template!r} cannot be filled in", f"a text with {' or '.join(f'{{{name}}}' for name in names)}"
        )
