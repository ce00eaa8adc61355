"""Users and permissions in RabbitMQ's definitions, as `rabbitmqctl export_definitions` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.auth.patterns import Expression
from gateway.auth.permissions import TopicPermission, UserPermissions
from gateway.auth.users import User, read_text
from gateway.core.errors import ConfigError

MAX_BYTES: Final = 64 * 1024 * 1024

_REMEDY: Final = "a JSON file from rabbitmqctl export_definitions"

_ALGORITHMS: Final[Mapping[str, str]] = {
    "rabbit_password_hashing_sha256": "$rabbitmq-sha256$",
    "rabbit_password_hashing_sha512": "$rabbitmq-sha512$",
}
_DEFAULT_ALGORITHM: Final = "rabbit_password_hashing_sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Triple:
    """What a user may configure, write and read: regular expressions, as they are written."""

    user: str
    configure: str = ""
    write: str = ""
    read: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicTriple:
    """On the routing keys of one exchange."""

    user: str
    exchange: str
    write: str = ""
    read: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definitions:
    """What is in a file for one virtual host. Users without a password are in `permissions` only."""

    users: Mapping[str, User]
    names: frozenset[str]
    triples: tuple[Triple, ...]
    topics: tuple[TopicTriple, ...]

    def all_triples(self) -> list[Triple]:
        """Of every user; one that has none in this virtual host may do nothing, as in RabbitMQ."""
        having = {triple.user for triple in self.triples}
        return [*self.triples, *(Triple(user=name) for name in sorted(self.names - having))]

    def permissions(self) -> dict[str, UserPermissions]:
        """By user. Raises `ConfigError` keyed by the user."""
        return compiled(self.all_triples(), self.topics)


def read_definitions(path: Path, vhost: str) -> Definitions:
    """Raises `ConfigError` keyed by the file, and nothing of a hash in it."""
    try:
        document = json.loads(read_text(path, MAX_BYTES, _REMEDY))
    except (ValueError, RecursionError):
        raise ConfigError(str(path), "is no JSON", _REMEDY) from None
    if not isinstance(document, dict):
        raise ConfigError(str(path), "is no JSON object", _REMEDY)
    reader = _Reader(path, document, vhost)
    users = {user.name: user for user in reader.users()}
    return Definitions(
        users=users,
        names=frozenset(entry.text("name") for entry in reader.entries("users")),
        triples=tuple(reader.triples()),
        topics=tuple(reader.topics()),
    )


def compiled(triples: Sequence[Triple], topics: Sequence[TopicTriple]) -> dict[str, UserPermissions]:
    """By user. A user has one triple; raises `ConfigError` for a second one, or for what is no regular expression."""
    found: dict[str, UserPermissions] = {}
    for triple in triples:
        if triple.user in found:
            raise ConfigError(f"user {triple.user!r}", "has permissions already", "write one of the two")
        found[triple.user] = UserPermissions(
            configure=_expression(triple.user, "configure", triple.configure),
            write=_expression(triple.user, "write", triple.write),
            read=_expression(triple.user, "read", triple.read),
            topics=tuple(_topic(topic) for topic in topics if topic.user == triple.user),
        )
    for topic in topics:
        if topic.user not in found:
            raise ConfigError(
                f"user {topic.user!r}", "has topic permissions only", "add permissions, which decide about exchanges"
            )
    return found


def _topic(topic: TopicTriple) -> TopicPermission:
    return TopicPermission(
        exchange=topic.exchange,
        write=_expression(topic.user, "write", topic.write),
        read=_expression(topic.user, "read", topic.read),
    )


def _expression(user: str, permission: str, text: str) -> Expression:
    try:
        return Expression(text)
    except ValueError as error:
        raise ConfigError(f"user {user!r}: {permission}", str(error), "a regular expression") from None


class _Entry:
    """One object of a list in the file, with typed access to its fields."""

    def __init__(self, key: str, fields: Mapping[str, object]) -> None:
        self.key = key
        self._fields = fields

    def text(self, name: str, default: str | None = None) -> str:
        value = self._fields.get(name, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self.key}.{name}", "is no text", _REMEDY)
        return value

    def tags(self) -> tuple[str, ...]:
        """A list since 3.9, words with commas before."""
        value = self._fields.get("tags", "")
        if isinstance(value, str):
            return tuple(filter(None, value.split(",")))
        if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
            return tuple(value)
        raise ConfigError(f"{self.key}.tags", "is no list of texts", _REMEDY)


class _Reader:
    """The lists of a file."""

    def __init__(self, path: Path, document: Mapping[str, object], vhost: str) -> None:
        self._path = path
        self._document = document
        self._vhost = vhost

    def entries(self, name: str) -> Iterator[_Entry]:
        items = self._document.get(name, [])
        if not isinstance(items, list):
            raise ConfigError(f"{self._path}: {name}", "is no list", _REMEDY)
        for number, fields in enumerate(items):
            key = f"{self._path}: {name}.{number}"
            if not isinstance(fields, dict):
                raise ConfigError(key, "is no object", _REMEDY)
            yield _Entry(key, fields)

    def users(self) -> Iterator[User]:
        for entry in self.entries("users"):
            stored = entry.text("password_hash", "")
            if not stored:
                continue  # it logs in by other means, such as a certificate
            algorithm = entry.text("hashing_algorithm", _DEFAULT_ALGORITHM)
            if algorithm not in _ALGORITHMS:
                remedy = f"set the password again where it is one of {', '.join(_ALGORITHMS)}"
                raise ConfigError(f"{entry.key}.hashing_algorithm", f"{algorithm!r} is not taken", remedy)
            yield User(name=entry.text("name"), stored=_ALGORITHMS[algorithm] + stored, groups=entry.tags())

    def triples(self) -> Iterator[Triple]:
        for entry in self._of_vhost("permissions"):
            yield Triple(
                user=entry.text("user"),
                configure=entry.text("configure"),
                write=entry.text("write"),
                read=entry.text("read"),
            )

    def topics(self) -> Iterator[TopicTriple]:
        for entry in self._of_vhost("topic_permissions"):
            yield TopicTriple(
                user=entry.text("user"),
                exchange=entry.text("exchange"),
                write=entry.text("write"),
                read=entry.text("read"),
            )

    def _of_vhost(self, name: str) -> Iterator[_Entry]:
        return (entry for entry in self.entries(name) if entry.text("vhost") == self._vhost)
